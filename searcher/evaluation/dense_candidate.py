"""The dense model as objectives see it to prepare themselves: replayed only for what has not been kept."""

from collections.abc import Callable

from torch import Tensor

from searcher.contracts.objective import Divergence, Reference
from searcher.contracts.plan import PrunePlan
from searcher.evaluation.candidate import Batch, Heads, ReplayedCandidate
from searcher.replay.dense_cache import DenseCache, Tensors
from searcher.replay.head import FusedHead
from searcher.replay.replay import Replay
from searcher.replay.token_divergence import pack, unpack


class DenseCandidate(ReplayedCandidate):
    """See :class:`searcher.contracts.objective.Candidate`; `heads` counts what is asked for, whether it is run or not.

    Args:
        replay: the model.
        batch: on what it is replayed.
        run: replays it.
        cache: keeps what is computed; None keeps nothing.
        count: told of tokens that go through the model itself.

    Attributes:
        asked: whether anything of it was asked for.
        saved: of `heads`, what was not run.
    """

    def __init__(
        self,
        replay: Replay,
        batch: Batch,
        run: Callable[[], Heads | None],
        cache: DenseCache | None,
        count: Callable[[int, int], None],
    ) -> None:
        super().__init__(replay, PrunePlan(), batch, None, count=count)
        self.asked, self.saved = False, 0.0
        self._run, self._cache = run, cache
        self._known: dict[str, Tensors] = {}

    def losses(self) -> Tensor:
        """See :class:`searcher.contracts.objective.Candidate`."""
        rows = float(self.scored.float().mean()) * len(self.ids)
        return self._find("losses", rows, lambda: {"losses": self._replayed().losses(self._position)})["losses"]

    def likely(self, count: int) -> Tensor:
        """See :class:`searcher.contracts.objective.Candidate`."""
        return self._find(f"likely {count}", len(self.ids), lambda: {"likely": self._likeliest(count)})["likely"]

    def reference(self, kind: Divergence) -> Reference:
        """See :class:`searcher.contracts.objective.Candidate`."""
        if isinstance(self._replay.head, FusedHead):
            self._replay.head.use_slices()  # as the divergence will, whether this is computed or not
        return unpack(kind, self._find(f"reference {kind}", 2 * len(self.ids), lambda: pack(self._refer(kind))))

    def _find(self, what: str, heads: float, compute: Callable[[], Tensors]) -> Tensors:
        if what not in self._known:
            self.asked = True
            self.heads += heads
            self._known[what] = self._compute(what, heads, compute)
        return self._known[what]

    def _compute(self, what: str, heads: float, compute: Callable[[], Tensors]) -> Tensors:
        if self._cache is None:
            return compute()
        found, kept = self._cache.get(what, [self.ids, self.scored], compute)
        if kept:
            self.saved += heads
        return {name: tensor.to(self.ids.device) for name, tensor in found.items()}

    def _replayed(self) -> Heads:
        self.asked = True
        if self._heads is None:
            self._heads = self._run()
        return super()._replayed()
