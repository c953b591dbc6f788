"""How far the next-token distributions of a plan are from the dense model's, exactly, at the price of few heads.

KL(p || q) is the log-sum-exp of q's logits minus their mean under p, minus the same for p's own logits. Where logits
are linear in the normed states, their mean under p is the product of those states with the mean of the head's rows
under p, which is the dense model's and computed once. The log-sum-exp comes with the losses. So Kullback-Leibler
divergence needs no output head besides the losses'.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from searcher.contracts.objective import Divergence, Reference
from searcher.replay import head as heads
from searcher.replay.head import FusedHead, OwnHead, log_sum_exp

TOP = 16
"""How many of the dense model's likeliest tokens have their logits rounded as the model rounds them.

Log-sum-exps see logits rounded to bfloat16, their mean as a product in float32 would not: at KL 0.13 on SmolLM2-135M
the mean of a window was off by up to 0.008 nats, with these by 0.0004 (`benchmarks/divergence.py`)."""

FAR = 30.0
"""Difference of log-probabilities, in nats, past which the Jensen-Shannon divergence has long reached its bound."""


def refer(kind: Divergence, head: FusedHead | OwnHead, hidden: Tensor, ids: Tensor) -> Reference:
    """What the dense model is remembered by, in the cheapest exact way for this kind and head.

    Args:
        kind: `kl` or `js`.
        head: of the model.
        hidden: (rows, tokens, hidden size) of the dense model after its last block.
        ids: int64 (rows, tokens).
    """
    if isinstance(head, OwnHead):
        return RowByRow(hidden, kind)
    head.use_slices()
    if kind == "kl" and head.linear:
        return _linear(head, hidden, ids)
    return Sliced(hidden, _log_sums(head, head.scored_states(hidden), ids, head.losses(hidden, ids)), kind)


def pack(reference: Reference) -> dict[str, Tensor]:
    """The tensors of a reference, to be kept."""
    return {name: value for name, value in vars(reference).items() if isinstance(value, Tensor)}


def unpack(kind: Divergence, tensors: dict[str, Tensor]) -> Reference:
    """The inverse of :func:`pack`."""
    if "mean_weights" in tensors:
        return Linear(**tensors)
    if "log_sums" in tensors:
        return Sliced(**tensors, kind=kind)
    return RowByRow(**tensors, kind=kind)


@dataclass(frozen=True, eq=False)
class Linear:
    """Kullback-Leibler divergence from a dense model with logits linear in the states.

    Attributes:
        mean_weights: float32 (rows, tokens - 1, hidden size), the head's rows weighted by probability, but for `top`.
        top: int64 (rows, tokens - 1, K), the likeliest tokens.
        probabilities: float32, theirs.
        negative_entropy: float32 (rows, tokens - 1), found as `divergence` finds the other half, errors included.
    """

    mean_weights: Tensor
    top: Tensor
    probabilities: Tensor
    negative_entropy: Tensor
    more_heads = 0

    def select(self, rows: Sequence[int]) -> Reference:
        """See :class:`Reference`."""
        index = list(rows)
        return Linear(
            self.mean_weights[index], self.top[index], self.probabilities[index], self.negative_entropy[index]
        )

    def divergence(
        self, head: FusedHead | OwnHead, hidden: Tensor, ids: Tensor, losses: Callable[[], Tensor]
    ) -> Tensor:
        """See :class:`Reference`."""
        assert isinstance(head, FusedHead)
        states = head.scored_states(hidden)
        return self.cross_entropy(head, states, _log_sums(head, states, ids, losses())) + self.negative_entropy

    def cross_entropy(self, head: FusedHead, states: Tensor, log_sums: Tensor) -> Tensor:
        """float32 (rows, tokens - 1): of states (N, hidden size) to the dense model, but for a constant of each token.

        The constant, from the bias of the head, is that of `negative_entropy`.
        """
        likely = (self.probabilities.flatten(0, 1) * head.logits_at(states, self.top.flatten(0, 1))).sum(dim=-1)
        rest = head.mean_logits(states, self.mean_weights.flatten(0, 1))
        return log_sums - (likely + rest).view_as(log_sums)


def _linear(head: FusedHead, hidden: Tensor, ids: Tensor) -> Linear:
    """See :func:`refer`."""
    states = head.scored_states(hidden)
    log_sums = _log_sums(head, states, ids, head.losses(hidden, ids))
    mean_weights = torch.zeros(states.shape, device=states.device)
    likeliest, tokens = list[Tensor](), list[Tensor]()
    for start, logits in head.slices(states):
        logits -= log_sums.flatten()[:, None]
        largest = logits.topk(min(TOP, logits.shape[1]), dim=-1)
        likeliest.append(largest.values)
        tokens.append(largest.indices + start)
        mean_weights.addmm_(logits.exp_(), head.rows(slice(start, start + heads.SLICE)))
    found = torch.cat(likeliest, dim=1).topk(min(TOP, head.vocabulary), dim=-1)
    top, probabilities = torch.cat(tokens, dim=1).gather(1, found.indices), found.values.exp()
    for k in range(top.shape[1]):
        mean_weights -= probabilities[:, k, None] * head.rows(top[:, k])
    rows = (len(ids), ids.shape[1] - 1, -1)
    parts = mean_weights.view(rows), top.view(rows), probabilities.view(rows)
    unfinished = Linear(*parts, torch.zeros_like(log_sums))
    return replace(unfinished, negative_entropy=-unfinished.cross_entropy(head, states, log_sums))


@dataclass(frozen=True, eq=False)
class Sliced:
    """Any divergence, with both models' logits in slices of the vocabulary.

    Attributes:
        hidden: (rows, tokens, hidden size) of the dense model after its last block.
        log_sums: float32 (rows, tokens - 1), log-sum-exps of the dense model's logits.
        kind: `kl` or `js`.
    """

    hidden: Tensor
    log_sums: Tensor
    kind: Divergence
    more_heads = 2

    def select(self, rows: Sequence[int]) -> Reference:
        """See :class:`Reference`."""
        index = list(rows)
        return replace(self, hidden=self.hidden[index], log_sums=self.log_sums[index])

    def divergence(
        self, head: FusedHead | OwnHead, hidden: Tensor, ids: Tensor, losses: Callable[[], Tensor]
    ) -> Tensor:
        """See :class:`Reference`."""
        assert isinstance(head, FusedHead)
        dense, states = head.scored_states(self.hidden), head.scored_states(hidden)
        log_sums = _log_sums(head, states, ids, losses())
        pairs = zip(head.slices(dense), head.slices(states), strict=True)
        logits = ((p, q) for (_, p), (_, q) in pairs)
        return _summed(self.kind, logits, self.log_sums.flatten(), log_sums.flatten()).view_as(log_sums)


@dataclass(frozen=True, eq=False)
class RowByRow:
    """The same for a head that is only known as a part of the model's own forward.

    Attributes:
        hidden: (rows, tokens, hidden size) of the dense model after its last block.
        kind: `kl` or `js`.
    """

    hidden: Tensor
    kind: Divergence
    more_heads = 2

    def select(self, rows: Sequence[int]) -> Reference:
        """See :class:`Reference`."""
        return replace(self, hidden=self.hidden[list(rows)])

    def divergence(
        self, head: FusedHead | OwnHead, hidden: Tensor, ids: Tensor, losses: Callable[[], Tensor]
    ) -> Tensor:
        """See :class:`Reference`."""
        pairs = zip(head.logits(self.hidden, ids), head.logits(hidden, ids), strict=True)
        return torch.stack([self._row(p[:-1], q[:-1]) for p, q in pairs])

    def _row(self, dense: Tensor, logits: Tensor) -> Tensor:
        """(tokens - 1, vocabulary) logits of both to (tokens - 1,)."""
        parts = [torch.split(z, heads.SLICE, dim=-1) for z in (dense, logits)]
        sums = [torch.stack([log_sum_exp(_wide(z)) for z in part]).logsumexp(dim=0) for part in parts]
        return _summed(self.kind, ((_wide(p), _wide(q)) for p, q in zip(*parts, strict=True)), *sums)


def _log_sums(head: FusedHead, states: Tensor, ids: Tensor, losses: Tensor) -> Tensor:
    """float32 (rows, tokens - 1): log-sum-exps of all logits, from the losses."""
    return losses + head.logits_at(states, ids[:, 1:].reshape(-1, 1)).view_as(losses)


def _summed(kind: Divergence, logits: Iterable[tuple[Tensor, Tensor]], dense_sums: Tensor, sums: Tensor) -> Tensor:
    """float32 (N,) from slices of both models' float32 logits, which are overwritten, and their log-sum-exps (N,)."""
    total, terms = torch.zeros_like(sums), {"kl": _kullback_leibler, "js": _jensen_shannon}[kind]
    smallest = torch.finfo(torch.float32).min / 4  # a token that no model ever gives has the logit -inf
    for p, q in logits:
        log_p = p.clamp_(min=smallest).sub_(dense_sums[:, None])
        total += terms(log_p, q.clamp_(min=smallest).sub_(sums[:, None])).sum(dim=-1)
    return total


def _kullback_leibler(log_p: Tensor, log_q: Tensor) -> Tensor:
    return log_p.exp() * (log_p - log_q)


def _jensen_shannon(log_p: Tensor, log_q: Tensor) -> Tensor:
    """With m the mean of p and q, log(p / m) is log 2 - log(1 + q / p): no cancellation where p and q are close.

    Overwrites both.
    """
    apart = torch.sub(log_q, log_p).clamp_(-FAR, FAR)
    p_to_mean = apart.exp().log1p_().neg_().add_(math.log(2))
    q_to_mean = apart.add_(p_to_mean)
    return log_q.exp_().mul_(q_to_mean).addcmul_(log_p.exp_(), p_to_mean).mul_(0.5)


def _wide(logits: Tensor) -> Tensor:
    """float32, and a copy that may be overwritten."""
    return logits.to(torch.float32, copy=True)
