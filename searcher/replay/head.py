"""From the last block's hidden states to logits and losses: final norm, output head and loss, fused.

Full float32 logits are never kept: the vocabulary is cut into slices small enough for the cache, and the
log-sum-exp is put together from them.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from searcher.architecture.blocks import Architecture, forwards_replaced
from searcher.architecture.devices import computes_on_cpu, device_of, synchronize
from searcher.architecture.packed_weights import is_packed
from searcher.architecture.replacement_modules import like
from searcher.architecture.streamed_modules import weights_of
from searcher.replay.block_inputs import Outputs, first

SLICE = 4096
"""Vocabulary entries per slice; 2,048 to 8,192 are about equally fast on a CPU."""

POSITIONS = 512
"""How many positions have the head's rows for tokens of their own gathered at a time."""

Losses = Callable[[Tensor, Tensor], Tensor]
"""`losses(hidden, ids)`: (rows, tokens, hidden size) and int64 (rows, tokens) to float32 (rows, tokens - 1)."""


def log_sum_exp(logits: Tensor) -> Tensor:
    """log of the sum of exp over the last dimension; (N, S) to (N,). Overwrites the logits.

    Terms below e^-80 of the largest are lifted to that, which float32 cannot see in the sum: smaller ones would be
    denormal numbers, with which processors compute many times slower.
    """
    largest = logits.amax(dim=-1).clamp_(min=torch.finfo(logits.dtype).min)  # a slice may hold nothing but -inf
    terms = logits.sub_(largest[:, None]).clamp_(min=-80).exp_()
    return terms.sum(dim=-1).log_().add_(largest)


def _loss_among(logits: Tensor, targets: Tensor, vocabulary: Tensor) -> Tensor:
    """(N, vocabulary) logits and int64 (N,) tokens to losses (N,)."""
    return nn.functional.cross_entropy(logits, torch.searchsorted(vocabulary, targets), reduction="none")


class OwnHead:
    """The slow, exact way: the model's own forward, with blocks that only hand over the given hidden states."""

    def __init__(self, model: nn.Module, architecture: Architecture, outputs: Outputs) -> None:
        self._model, self._architecture, self._outputs = model, architecture, outputs

    def choose_way(self, hidden: Tensor) -> None:
        """There is only one."""

    def logits(self, hidden: Tensor, ids: Tensor) -> Iterator[Tensor]:
        """One row at a time: (tokens, vocabulary)."""
        for row in range(len(ids)):
            yield self._logits(hidden[row : row + 1], ids[row : row + 1])[0]

    def losses(self, hidden: Tensor, ids: Tensor) -> Tensor:
        """float32 (rows, tokens - 1): loss of each next token."""
        ids = ids.to(hidden.device)  # where the model leaves its logits
        rows = zip(ids, self.logits(hidden, ids), strict=True)
        return torch.stack([nn.functional.cross_entropy(z[:-1].float(), y[1:], reduction="none") for y, z in rows])

    @property
    def vocabulary(self) -> int:
        """How many tokens there are."""
        return int(self._model.config.get_text_config(decoder=True).vocab_size)  # type: ignore[union-attr, operator]

    def losses_among(self, hidden: Tensor, ids: Tensor, vocabulary: Tensor) -> Tensor:
        """float32 (rows, tokens - 1): losses with a softmax over a part of the vocabulary; no cheaper than `losses`."""
        ids = ids.to(hidden.device)
        rows = zip(ids, self.logits(hidden, ids), strict=True)
        return torch.stack([_loss_among(logits[:-1, vocabulary].float(), y[1:], vocabulary) for y, logits in rows])

    def _logits(self, hidden: Tensor, ids: Tensor) -> Tensor:
        def replacement(index: int) -> Callable[..., Any]:
            return lambda *_args, **_kwargs: like(self._outputs.blocks[index], hidden)

        with forwards_replaced({b: replacement(i) for i, b in enumerate(self._architecture.blocks)}):
            logits: Tensor = self._model(input_ids=ids, use_cache=False).logits
        return logits


class FusedHead:
    """Final norm, a linear head in slices of the vocabulary, the config's scaling and capping, and the loss.

    Args:
        tail: the modules between the last block and the head, in order.
        head: the output head.
        config: the model's text config, read for `logit_scale`, `logits_scaling` and `final_logit_softcapping`.
    """

    def __init__(self, tail: tuple[nn.Module, ...], head: nn.Linear, config: Any) -> None:
        self._tail, self._head = tail, head
        self._scale: float | None = getattr(config, "logit_scale", None)
        self._divisor: float | None = getattr(config, "logits_scaling", None)
        self._cap: float | None = getattr(config, "final_logit_softcapping", None)
        self._way: Losses | None = None

    def logits(self, hidden: Tensor, ids: Tensor) -> Iterator[Tensor]:
        """One row at a time: (tokens, vocabulary)."""
        for row in range(len(ids)):
            yield self._transformed(self._head(self._normed(hidden[row : row + 1])))[0]

    def choose_way(self, hidden: Tensor) -> None:
        """On an accelerator, take torch's own fused head and loss if it is faster than slices on states like these.

        On a CPU slices always are: 1.8 times on 2 cores with AMX in bfloat16, 1.4 times in float32; see
        `benchmarks/head.py`.
        """
        plain = self._scale is None and self._divisor is None and self._cap is None
        if computes_on_cpu(hidden.device) or not plain or not hasattr(nn.functional, "linear_cross_entropy"):
            return
        hidden = hidden.to(device_of(self._head, hidden.device))
        ids = torch.zeros(hidden.shape[:2], dtype=torch.int64, device=hidden.device)
        with contextlib.suppress(NotImplementedError):  # not every kind of accelerator has it
            seconds = {way: _seconds(way, hidden, ids) for way in (self.losses_in_slices, self.losses_by_torch)}
            self._way = min(seconds, key=seconds.__getitem__)

    def losses(self, hidden: Tensor, ids: Tensor) -> Tensor:
        """float32 (rows, tokens - 1): loss of each next token."""
        return (self._way or self.losses_in_slices)(hidden, ids)

    def losses_by_torch(self, hidden: Tensor, ids: Tensor) -> Tensor:
        """The same by `torch.nn.functional.linear_cross_entropy`; not for logits that are scaled or capped."""
        states = self.scored_states(hidden)
        losses = nn.functional.linear_cross_entropy(
            states,
            self._weight,
            ids[:, 1:].flatten().to(states.device),
            linear_bias=self._head.bias,
            reduction="none",
        )
        return losses.float().view(len(ids), -1)

    def losses_in_slices(self, hidden: Tensor, ids: Tensor) -> Tensor:
        """The same with a slice of the vocabulary at a time, so that logits stay in the cache."""
        states = self.scored_states(hidden)
        targets = ids[:, 1:].flatten().to(states.device)
        target_logits = torch.empty(len(states), device=states.device)
        log_sums = []
        for start, logits in self.slices(states):
            inside = ((targets >= start) & (targets < start + SLICE)).nonzero()[:, 0]
            target_logits[inside] = logits[inside, targets[inside] - start]
            log_sums.append(log_sum_exp(logits))
        losses = torch.stack(log_sums).logsumexp(dim=0) - target_logits
        return losses.view(len(ids), -1)

    @property
    def vocabulary(self) -> int:
        """How many tokens there are."""
        return self._head.out_features

    @property
    def _weight(self) -> Tensor:
        """(vocabulary, hidden size), wherever it is."""
        return weights_of(self._head)["weight"]

    def losses_among(self, hidden: Tensor, ids: Tensor, vocabulary: Tensor) -> Tensor:
        """float32 (rows, tokens - 1): losses with a softmax over a part of the vocabulary (ascending, with all ids)."""
        bias: Tensor | None = self._head.bias
        weight = self._weight[vocabulary]
        logits = nn.functional.linear(self._normed(hidden)[:, :-1], weight, None if bias is None else bias[vocabulary])
        targets, vocabulary = ids[:, 1:].flatten().to(logits.device), vocabulary.to(logits.device)
        return _loss_among(self._transformed(logits).float().flatten(0, 1), targets, vocabulary).view(len(ids), -1)

    @property
    def linear(self) -> bool:
        """Whether logits are linear in the normed states, and so their mean under any distribution is too."""
        return self._cap is None

    def use_slices(self) -> None:
        """Keep to slices: torch rounds losses to the model's dtype."""
        self._way = None

    def scored_states(self, hidden: Tensor) -> Tensor:
        """What the head sees of the tokens that have a next one: (rows, tokens, hidden size) to (N, hidden size)."""
        return self._normed(hidden)[:, :-1].flatten(0, 1)

    def slices(self, states: Tensor) -> Iterator[tuple[int, Tensor]]:
        """A slice of the vocabulary at a time: where it begins and its float32 logits (N, up to `SLICE`).

        They may be overwritten, and are by the next slice.
        """
        buffers = self._buffers(states)
        for start in range(0, self._head.out_features, SLICE):
            yield start, self._slice(states, start, *buffers)

    def rows(self, tokens: Tensor | slice) -> Tensor:
        """float32 (tokens, hidden size): the head's rows for these tokens."""
        return self._weight[tokens].float()

    def times_rows(self, values: Tensor, start: int) -> Tensor:
        """float32 (N, S) times the head's rows from `start` on, in the model's dtype: float32 (N, hidden size)."""
        weight = self._weight[start : start + values.shape[1]]
        return torch.mm(values.to(weight.dtype), weight).float()

    @property
    def slope(self) -> float:
        """What logits are multiplied with before they are capped, if they are."""
        return (1.0 if self._scale is None else self._scale) / (1.0 if self._divisor is None else self._divisor)

    def cap_slope(self, logits: Tensor) -> Tensor:
        """The derivative of the cap where it gave these float32 logits."""
        return torch.ones_like(logits) if self._cap is None else 1 - (logits / self._cap).square()

    def logits_at(self, states: Tensor, tokens: Tensor) -> Tensor:
        """float32 logits of some tokens at each position, rounded as `slices` does; int64 (N, K) to (N, K)."""
        bias: Tensor | None = self._head.bias
        found = torch.empty(tokens.shape, dtype=states.dtype, device=states.device)
        for at in (slice(start, start + POSITIONS) for start in range(0, len(states), POSITIONS)):
            rows, state = self._weight[tokens[at]], states[at, :, None]  # (n, K, d), (n, d, 1)
            product = torch.bmm(rows, state) if bias is None else torch.baddbmm(bias[tokens[at], None], rows, state)
            found[at] = product[..., 0]
        return self._transformed(found).float()

    def mean_logits(self, states: Tensor, mean_weights: Tensor) -> Tensor:
        """Mean logits, but for the bias, under weighted means of the head's rows; float32 (N, hidden size) to (N,)."""
        return self._transformed((states.float() * mean_weights).sum(dim=-1))

    def _buffers(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Room for the logits of a slice in the model's dtype and in float32, the same if that is its dtype."""
        own = states.new_empty((len(states), min(SLICE, self._head.out_features)))
        return own, own if own.dtype == torch.float32 else torch.empty_like(own, dtype=torch.float32)

    def _slice(self, states: Tensor, start: int, own: Tensor, wide: Tensor) -> Tensor:
        """float32 logits of the vocabulary from `start` on, in the given buffers."""
        weight = self._weight[start : start + SLICE]
        own, wide = own[:, : len(weight)], wide[:, : len(weight)]
        bias: Tensor | None = self._head.bias
        if bias is None:
            torch.mm(states, weight.t(), out=own)
        else:  # rounded as the model's own head does it
            own = nn.functional.linear(states, weight, bias[start : start + SLICE])
        logits = self._transformed(own)
        return logits if logits is wide else wide.copy_(logits)

    def _normed(self, hidden: Tensor) -> Tensor:
        """After the modules before the head, on the head's device: its weight is read by slices, past any hooks."""
        for module in self._tail:
            hidden = first(module(hidden.to(device_of(module, hidden.device))))
        return hidden.to(device_of(self._head, hidden.device))

    def _transformed(self, logits: Tensor) -> Tensor:
        if self._scale is not None:
            logits = logits * self._scale
        if self._divisor is not None:
            logits = logits / self._divisor
        if self._cap is not None:
            logits = torch.tanh(logits / self._cap) * self._cap
        return logits


def _seconds(way: Losses, hidden: Tensor, ids: Tensor) -> float:
    """Of the second of two calls."""
    started = 0.0
    for _ in range(2):
        started = time.perf_counter()
        way(hidden, ids)
        synchronize(hidden.device)
    return time.perf_counter() - started


def find_fused_head(model: Any, architecture: Architecture, ids: Tensor) -> FusedHead | None:
    """The fused head, if what follows the last block is a chain of modules that ends in a linear head.

    Whether scaling and capping are right is for the self-check to find out.
    """
    head = model.get_output_embeddings()
    if type(head) is not nn.Linear or is_packed(head.weight):  # a quantised or otherwise special head
        return None
    calls: list[tuple[nn.Module, Tensor, Tensor]] = []

    def note(module: nn.Module, args: Any, output: Any) -> None:
        if args and isinstance(args[0], Tensor) and isinstance(first(output), Tensor):
            calls.append((module, args[0], first(output)))

    inner = {module for block in architecture.blocks for module in block.modules()} - set(architecture.blocks)
    handles = [m.register_forward_hook(note) for m in model.modules() if m not in inner and m is not model]
    try:
        model(input_ids=ids, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    tail = _chain(calls, architecture.blocks[-1], head)
    return None if tail is None else FusedHead(tail, head, model.config.get_text_config(decoder=True))


def _chain(
    calls: list[tuple[nn.Module, Tensor, Tensor]], last_block: nn.Module, head: nn.Module
) -> tuple[nn.Module, ...] | None:
    position = next((i for i, (module, _, _) in enumerate(calls) if module is last_block), None)
    if position is None:
        return None
    state, tail = calls[position][2], list[nn.Module]()
    for module, received, returned in calls[position + 1 :]:
        if received.device == state.device and received.shape == state.shape and torch.equal(received, state):
            if module is head:
                return tuple(tail)
            tail.append(module)
            state = returned
    return None
