"""What objectives see of a plan: the model replayed under it on one batch of token sequences."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from searcher.contracts.amounts import Amounts
from searcher.contracts.objective import Divergence, Reference, Split
from searcher.contracts.plan import PrunePlan
from searcher.replay.dense_cache import DenseCache
from searcher.replay.footprint import measure_added
from searcher.replay.plan_batching import BatchSizes, in_sizes
from searcher.replay.pruned_model import counted, pruned
from searcher.replay.repair import Repair
from searcher.replay.replay import Replay
from searcher.replay.token_divergence import refer


@dataclass(frozen=True, eq=False)
class Facts:
    """What objectives may know of the model besides its config.

    Attributes:
        tokenizer: the model's, from transformers.
        amounts: see :func:`searcher.replay.footprint.measure_amounts`.
        dense: keeps what is computed on the dense model, if it is kept.
    """

    tokenizer: Any
    amounts: Mapping[str, Amounts]
    dense: DenseCache | None = None


@dataclass(frozen=True, eq=False)
class Batch:
    """Some rows of a group, as the objectives see them; see :class:`searcher.contracts.objective.Candidate`."""

    split: Split
    name: str
    rows: tuple[int, ...]
    ids: Tensor
    scored: Tensor
    extra: Mapping[str, Tensor]
    facts: Facts


class Heads:
    """The losses of plans that were replayed together, computed for all of them when first asked for.

    Args:
        replay: the model.
        ids: int64 (rows, tokens), the same for each plan.
        scored: bool (rows, tokens - 1), which losses count.
        hidden: of each plan, (rows, tokens, hidden size) after the last block.
        sizes: how many of them the head takes at a time.
    """

    def __init__(
        self, replay: Replay, ids: Tensor, scored: Tensor, hidden: Sequence[Tensor], sizes: BatchSizes
    ) -> None:
        self.hidden = [state.to(replay.exit) for state in hidden]
        self._replay, self._ids, self._sizes = replay, ids, sizes
        self._scored = None if bool(scored.all()) else scored
        self._losses: list[Tensor] = []

    @property
    def rows(self) -> float:
        """How many rows go through the head for each plan, a row of which a part is scored counting as that part."""
        return len(self._ids) * (1.0 if self._scored is None else float(self._scored.float().mean()))

    def losses(self, position: int) -> Tensor:
        """float32 (rows, tokens - 1): losses of the next tokens under the plan at this position, 0 where not scored."""
        if not self._losses:
            if self._scored is not None:
                self._losses = [self._scored_losses(hidden, self._scored) for hidden in self.hidden]
                return self._losses[position]
            for part in in_sizes(self.hidden, self._sizes):
                losses = self._replay.head.losses(torch.cat([*part]), self._ids.repeat(len(part), 1))
                self._losses += losses.chunk(len(part))
        return self._losses[position]

    def _scored_losses(self, hidden: Tensor, scored: Tensor) -> Tensor:
        """The head runs for the tokens that are scored alone: they are handed to it as one row."""
        states, targets = hidden[:, :-1][scored], self._ids[:, 1:][scored]
        row = torch.cat([states, states[-1:]])[None]  # nothing is predicted from the last state of a row
        ids = torch.cat([targets[:1], targets])[None]
        losses = torch.zeros(scored.shape, device=hidden.device)
        losses[scored] = self._replay.head.losses(row, ids)[0]
        return losses


class ReplayedCandidate:
    """See :class:`searcher.contracts.objective.Candidate`, the protocol that objectives are written against.

    Args:
        replay: the model.
        plan: what is removed.
        batch: on what it was replayed.
        heads: the losses of the plans it was replayed with; None if nothing was replayed.
        position: its place among these.
        repair: gives what healing has changed.
        count: told of the tokens that go through the blocks and through the head of the model itself.
        healed: gives the modules that the plan has once it is healed, be it later.
    """

    def __init__(
        self,
        replay: Replay,
        plan: PrunePlan,
        batch: Batch,
        heads: Heads | None,
        position: int = 0,
        repair: Callable[[], Repair] = Repair,
        count: Callable[[int, int], None] = lambda tokens, read_out: None,
        healed: Callable[[], Repair] = Repair,
    ) -> None:
        self.plan, self.batch, self.rows, self.config = plan, batch.name, batch.rows, replay.model.config
        self.split, self.ids, self.scored, self.extra = batch.split, batch.ids, batch.scored, batch.extra
        self.tokenizer, self.amounts = batch.facts.tokenizer, batch.facts.amounts
        self.heads = 0.0
        self._replay, self._heads, self._position, self._repair = replay, heads, position, repair
        self._counted, self._count, self._healed = False, count, healed

    def hidden(self) -> Tensor:
        """(rows, tokens, hidden size): hidden states after the last block, before the final norm."""
        return self._replayed().hidden[self._position]

    def losses(self) -> Tensor:
        """float32 (rows, tokens - 1): negative log-likelihood of each next token in nats, 0 where not scored."""
        if not self._counted:
            self._counted = True
            self.heads += self._replayed().rows
        return self._replayed().losses(self._position)

    def losses_among(self, vocabulary: Tensor) -> Tensor:
        """float32 (rows, tokens - 1): losses of the next tokens where only this vocabulary can come next."""
        self.heads += len(self.ids) * len(vocabulary) / self._replay.head.vocabulary
        return self._replay.head.losses_among(self.hidden(), self.ids, vocabulary)

    def logits(self) -> Iterator[Tensor]:
        """One row at a time: (tokens, vocabulary)."""
        self.heads += len(self.ids)
        return self._replay.head.logits(self.hidden(), self.ids)

    def likely(self, count: int) -> Tensor:
        """int64 (rows, tokens, count): the likeliest next tokens, or all if there are not so many."""
        self.heads += len(self.ids)
        return self._likeliest(count)

    def _likeliest(self, count: int) -> Tensor:
        rows = self._replay.head.logits(self.hidden(), self.ids)
        return torch.stack([logits.topk(min(count, logits.shape[-1]), dim=-1).indices for logits in rows])

    def reference(self, kind: Divergence) -> Reference:
        """What `divergence` needs to know of the dense model, which this must be."""
        self.heads += 2 * len(self.ids)
        return self._refer(kind)

    def _refer(self, kind: Divergence) -> Reference:
        return refer(kind, self._replay.head, self.hidden(), self.ids)

    def divergence(self, reference: Reference) -> Tensor:
        """float32 (rows, tokens - 1): how far the next-token distributions are from the dense model's, in nats."""
        self.heads += reference.more_heads * len(self.ids)
        return reference.select(self.rows).divergence(self._replay.head, self.hidden(), self.ids, self.losses)

    @contextmanager
    def model(self) -> Iterator[Any]:
        """The transformers model itself, pruned and healed for as long as a `with` statement lasts."""
        replay = self._replay
        with (
            pruned(replay.model, replay.architecture, replay.outputs, self.plan, self._repair()) as model,
            counted(model, replay.architecture, self._count),
        ):
            yield model

    @property
    def own_heads(self) -> Heads | None:
        """The states that it was replayed to, and those of others with it; None if nothing was replayed."""
        return self._heads

    def left(self, amount: str) -> float:
        """What the plan leaves of an amount, with what healing puts in."""
        stands = self._healed().of(self.plan, self._replay.num_blocks).after.values()
        return self.amounts[amount].left(self.plan) + measure_added(self.amounts, stands)[amount]

    def broken(self) -> bool:
        """Whether the model under this plan computes anything that is not finite, as far as it was run."""
        if self._heads is None:
            return False
        return not (self.hidden().isfinite().all() and (not self._counted or self.losses().isfinite().all()))

    def _replayed(self) -> Heads:
        if self._heads is None:
            raise RuntimeError("an objective that reads only the plan has no hidden states")
        return self._heads
