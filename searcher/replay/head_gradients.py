"""Losses at the output head and their gradients by the hidden states, with logits in slices of the vocabulary.

The gradient of the next-token loss by a state is, for logits linear in it, E_q[w] - w_y: the mean of the head's rows
under the model's distribution q, minus the row of the token y that came. That of the divergence KL(p || q) from a dense
model is E_q[w] - E_p[w], of which the second part is the dense model's and computed once. So both cost what the loss
costs, and a product more, whatever the size of the vocabulary; full logits of a batch never exist.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from searcher.replay.head import FusedHead, OwnHead, log_sum_exp

PADDING = -100
"""A label that stands for no token: no loss counts what is predicted there."""


@dataclass(frozen=True)
class HeadLoss:
    """What is minimised at the head: text · NLL + kl · T² · KL(p_T || q_T), a mean over the tokens that count.

    Attributes:
        text: weight of the next-token loss.
        kl: weight of the divergence from the dense model, both softened by the temperature. T² keeps gradients of one
            size at all temperatures (Hinton et al. 2015, arXiv:1503.02531, section 2).
        temperature: T, above 0.
    """

    text: float = 1.0
    kl: float = 0.0
    temperature: float = 1.0


@dataclass(frozen=True, eq=False)
class SoftTargets:
    """What the dense model's next-token distributions are remembered by.

    Attributes:
        hidden: (rows, tokens, hidden size) after the last block; what stands below is made of it.
        log_sums: float32 (rows, tokens - 1), log-sum-exps of its logits over the temperature; empty if not needed.
        mean_rows: float32 (rows, tokens - 1, hidden size), the head's rows weighted by probability; None where logits
            are not linear in the states.
        negative_entropy: float32 (rows, tokens - 1), sum of p log p; zeros where there are no mean rows.
    """

    hidden: Tensor
    log_sums: Tensor
    mean_rows: Tensor | None
    negative_entropy: Tensor

    def select(self, rows: Sequence[int]) -> "SoftTargets":
        """Those of some of the rows."""
        index = list(rows)
        mean_rows = None if self.mean_rows is None else self.mean_rows[index]
        return SoftTargets(self.hidden[index], self.log_sums[index], mean_rows, self.negative_entropy[index])


@torch.no_grad()
def soft_targets(head: FusedHead | OwnHead, hidden: Tensor, temperature: float) -> SoftTargets:
    """Remember the dense model.

    Args:
        head: of the model.
        hidden: (rows, tokens, hidden size) of the dense model after its last block.
        temperature: see :class:`HeadLoss`.
    """
    shape = (len(hidden), hidden.shape[1] - 1)
    nothing = torch.zeros(shape, device=hidden.device)
    if isinstance(head, OwnHead):
        return SoftTargets(hidden, nothing, None, nothing)
    states = head.scored_states(hidden)
    if not head.linear:
        return SoftTargets(hidden, _log_sums(head, states, (temperature,))[0].view(shape), None, nothing)
    log_sums, mean_rows = _mean_rows(head, states, (temperature,))[0]
    entropy = head.mean_logits(states, mean_rows) / temperature - log_sums
    return SoftTargets(hidden, log_sums.view(shape), mean_rows.view(*shape, -1), entropy.view(shape))


def head_gradient(
    head: FusedHead | OwnHead, hidden: Tensor, labels: Tensor, loss: HeadLoss, dense: SoftTargets | None = None
) -> tuple[float, Tensor]:
    """The loss and its gradient by the hidden states.

    Args:
        head: from hidden states to logits.
        hidden: (rows, tokens, hidden size), after the last block.
        labels: int64 (rows, tokens); what is predicted at a place of `PADDING` does not count.
        loss: what is minimised.
        dense: the dense model on the same tokens, where `loss.kl` is not 0.

    Returns:
        The loss, and (rows, tokens, hidden size) in the dtype of the states.
    """
    labels = labels.to(hidden.device)
    leaf = hidden.detach().requires_grad_()
    if isinstance(head, OwnHead):
        return _row_by_row(head, leaf, labels, loss, dense)
    with torch.enable_grad():
        states = head.scored_states(leaf)
    targets = labels[:, 1:].flatten().to(states.device)
    counted = (targets != PADDING).float()
    weights = counted / counted.sum().clamp(min=1)
    way = _by_mean_rows if head.linear else _in_two_passes
    with torch.no_grad():
        losses, gradient = way(head, states.detach(), targets.clamp(min=0), loss, dense)
        total = float((losses.double() * weights).sum())
        gradient = (gradient * weights[:, None]).to(states.dtype)
    return total, torch.autograd.grad(states, leaf, gradient)[0]


def _by_mean_rows(
    head: FusedHead, states: Tensor, targets: Tensor, loss: HeadLoss, dense: SoftTargets | None
) -> tuple[Tensor, Tensor]:
    """Losses (N,) and gradients (N, hidden size) by the head's input, for logits linear in it; float32 both."""
    wanted = _temperatures(loss)
    found = dict(zip(wanted, _mean_rows(head, states, wanted), strict=True))
    losses, gradient = (states.new_zeros(shape, dtype=torch.float32) for shape in (states.shape[:1], states.shape))
    if loss.text:
        log_sums, mean_rows = found[1.0]
        losses += loss.text * (log_sums - head.logits_at(states, targets[:, None])[:, 0])
        gradient += loss.text * (mean_rows - head.rows(targets))
    if loss.kl:
        assert dense is not None, "a divergence is from something"
        assert dense.mean_rows is not None, "logits are linear"
        temperature, (log_sums, mean_rows) = loss.temperature, found[loss.temperature]
        dense_rows = dense.mean_rows.flatten(0, 1)
        cross_entropy = log_sums - head.mean_logits(states, dense_rows) / temperature
        losses += loss.kl * temperature**2 * (cross_entropy + dense.negative_entropy.flatten())
        gradient += loss.kl * temperature * (mean_rows - dense_rows)
    return losses, gradient * head.slope


def _temperatures(loss: HeadLoss) -> list[float]:
    """At which distributions are needed, ascending."""
    return sorted({*([1.0] if loss.text else []), *([loss.temperature] if loss.kl else [])})


def _log_sums(head: FusedHead, states: Tensor, temperatures: Sequence[float]) -> list[Tensor]:
    """For each temperature the log-sum-exp of the logits (N,)."""
    slices = [[log_sum_exp(logits / t) for t in temperatures] for _, logits in head.slices(states)]
    return [torch.stack(sums).logsumexp(dim=0) for sums in zip(*slices, strict=True)]


def _mean_rows(head: FusedHead, states: Tensor, temperatures: Sequence[float]) -> list[tuple[Tensor, Tensor]]:
    """For each temperature the log-sum-exp of the logits (N,) and the mean of the head's rows (N, hidden size).

    In one pass over the vocabulary: sums of exponentials are put on a new scale whenever a larger logit comes.
    """
    sums = [_Sums.of(states) for _ in temperatures]
    for start, logits in head.slices(states):
        for one, temperature in zip(sums, temperatures, strict=True):
            one.add(head, logits / temperature, start)
    return [(one.largest + one.total.log(), one.rows / one.total[:, None]) for one in sums]


@dataclass
class _Sums:
    """Sums over the vocabulary so far, on the scale of the largest logit: of exponentials, and of these times rows."""

    largest: Tensor
    total: Tensor
    rows: Tensor

    @classmethod
    def of(cls, states: Tensor) -> "_Sums":
        count = states.new_zeros(len(states), dtype=torch.float32)
        return cls(count - torch.inf, count.clone(), torch.zeros(states.shape, device=states.device))

    def add(self, head: FusedHead, logits: Tensor, start: int) -> None:
        """A slice of float32 logits (N, S), which is overwritten."""
        largest = torch.maximum(self.largest, logits.amax(dim=-1)).clamp_(min=torch.finfo(torch.float32).min)
        scale = (self.largest - largest).exp_()
        terms = logits.sub_(largest[:, None]).clamp_(min=-80).exp_()  # denormal numbers are slow
        self.total.mul_(scale).add_(terms.sum(dim=-1))
        self.rows.mul_(scale[:, None]).add_(head.times_rows(terms, start))
        self.largest = largest


def _in_two_passes(
    head: FusedHead, states: Tensor, targets: Tensor, loss: HeadLoss, dense: SoftTargets | None
) -> tuple[Tensor, Tensor]:
    """The same for logits that are capped: the derivative of the cap depends on the state, so it comes token by token.

    The first pass over the vocabulary finds the log-sum-exps, the second the gradients, both models' logits at a time.
    """
    temperature, wanted = loss.temperature, _temperatures(loss)
    sums = dict(zip(wanted, _log_sums(head, states, wanted), strict=True))
    losses, gradient = (states.new_zeros(shape, dtype=torch.float32) for shape in (states.shape[:1], states.shape))
    if loss.text:
        losses += loss.text * (sums[1.0] - head.logits_at(states, targets[:, None])[:, 0])
    theirs = head.slices(head.scored_states(dense.hidden)) if loss.kl and dense is not None else None
    for start, logits in head.slices(states):
        by_logits = torch.zeros_like(logits)
        if loss.text:
            by_logits += loss.text * (logits - sums[1.0][:, None]).exp_()
            inside = ((targets >= start) & (targets < start + logits.shape[1])).nonzero()[:, 0]
            by_logits[inside, targets[inside] - start] -= loss.text
        if theirs is not None and dense is not None:
            log_q = logits / temperature - sums[temperature][:, None]
            log_p = next(theirs)[1] / temperature - dense.log_sums.flatten()[:, None]
            p = log_p.exp()
            losses += loss.kl * temperature**2 * (p * (log_p - log_q)).sum(dim=-1)
            by_logits += loss.kl * temperature * (log_q.exp_() - p)
        gradient += head.times_rows(by_logits * head.cap_slope(logits), start)
    return losses, gradient * head.slope


def _row_by_row(
    head: OwnHead, leaf: Tensor, labels: Tensor, loss: HeadLoss, dense: SoftTargets | None
) -> tuple[float, Tensor]:
    """The same through the model's own forward, with the logits of one row at a time."""
    counted = (labels[:, 1:] != PADDING).sum().clamp(min=1)
    gradient, total = torch.zeros_like(leaf), 0.0
    ids = labels.clamp(min=0)
    for row in range(len(labels)):
        real = labels[row, 1:] != PADDING
        with torch.enable_grad():
            logits = next(head.logits(leaf[row : row + 1], ids[row : row + 1]))[:-1].float()
            summed = loss.text * F.cross_entropy(logits[real], labels[row, 1:][real], reduction="sum")
            if loss.kl:
                assert dense is not None, "a divergence is from something"
                with torch.no_grad():
                    wanted = next(head.logits(dense.hidden[row : row + 1], ids[row : row + 1]))[:-1].float()
                summed = summed + loss.kl * _divergence(wanted[real], logits[real], loss.temperature)
            mean = summed / counted
        gradient += torch.autograd.grad(mean, leaf)[0]
        total += mean.item()
    return total, gradient


def _divergence(dense: Tensor, logits: Tensor, temperature: float) -> Tensor:
    """T² KL of (tokens, vocabulary) logits, summed over tokens."""
    log_p, log_q = (F.log_softmax(z / temperature, dim=-1) for z in (dense, logits))
    return F.kl_div(log_q, log_p, reduction="sum", log_target=True) * temperature**2
