"""Every gap is followed by one number that hidden states are multiplied by, which weights can take."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from scipy.optimize import minimize_scalar
from torch import Tensor, nn

from searcher.architecture.blocks import path_of
from searcher.architecture.packed_weights import refuse_packed
from searcher.architecture.replacement_modules import Scale
from searcher.contracts.plan import Action, PrunePlan
from searcher.errors import UsageError
from searcher.healing.bias import rest_of_loss
from searcher.healing.calibration import CalibrationSet
from searcher.healing.contract import Healing, Scope
from searcher.healing.exits import TRIALS, Exit, NoExitError, find_exits
from searcher.healing.gaps import Batch, GapEnd, GapFits
from searcher.replay.batching import in_groups
from searcher.replay.repair import Repair

KEPT = 1 << 28
"""Bytes that are kept while one plan is healed."""
PROBED = 16
"""Tokens that blocks are tried with."""
CHECKED = 4
"""Held-out windows on which folded weights and modules are compared."""
WIDEST = 0.5
"""How far a search goes from where it begins, in logarithms of the factor."""
FINEST = 0.02
"""How near it comes to the best."""
SEARCHED = 10
"""Times that a search runs the rest of the model, about."""
ALIKE = 1e-3
"""Nats by which the mean losses of folded weights and modules may differ; or 4 units in the last place of the dtype."""


@dataclass(frozen=True)
class Rescale(Healing):
    """Multiply hidden states after every gap by one number, so that they are as large as the dense model's.

    Every block adds to the states, so that without some of them they are too small for what follows: norms hide that
    from later blocks, but what these add counts for more than it should. A plan that is healed alone has no module put
    in: what later blocks add is divided by the number instead, in the weights of their output projections or of the
    norms behind these, and the final norm takes the common factor out. Nothing is added, nothing runs longer, and plans
    of whole blocks are saved in the stock format.

    When to use it: in a search, of which it is a small part of the cost; or where nothing may be added or trained.

    Source: Prune&Comp (arXiv:2507.18212), which multiplies the embedding and all output projections before the gap,
    where we divide those after it. All hidden states then differ by one factor, which every norm takes out, but for the
    small number that it adds to a variance; so the outputs are the same. The embedding, which may be tied to the head
    or scaled by the model, stays as it is.

    Args:
        choose: with h the states after the gap, multiplied already at those before it, and y the dense model's:
            `ratio`, as in the paper: the mean over channels of mean |y| / mean |h|, means over tokens; `norm`: the sum
            over tokens of the length of y over that of h; `search`: what gives the least loss on the held-out windows
            if nothing more is removed, at most 1.6 times more or less than `norm`; it runs the rest of the model some
            ten times for each gap.
        windows: of the heal split, from which the number is taken; one is enough for one number.
        tokens: of each window, from its beginning; with 24 a search of eight windows costs less than 2% more.
        first: whether the first token of a window counts, whose states are hundreds of times as large as others.
        fold: false leaves the modules: for weights that are quantised, or cannot take the factor.
    """

    choose: Literal["norm", "ratio", "search"] = "norm"
    windows: Annotated[int, Field(ge=1)] = 1
    tokens: Annotated[int, Field(ge=2)] = 24
    first: bool = False
    fold: bool = True

    scope: ClassVar[Scope] = "gap"
    streams: ClassVar[bool] = True

    def check(self, calibration: CalibrationSet) -> None:
        """See :class:`Healing`: whether the factor could be folded into every block but the first."""
        if self.fold:
            _find_all_exits(calibration, 1, "")

    def heal(self, calibration: CalibrationSet, plan: PrunePlan) -> Repair:
        """See :class:`Healing`.

        Raises:
            UsageError: the factors cannot be folded into the weights.
        """
        repair = self.gaps(calibration, KEPT).repair(plan)
        if not (self.fold and repair):
            return repair
        folded = _folded(calibration, plan, repair)
        few = replace(calibration, held_out=calibration.some_held_out(CHECKED), documents=())
        given, wanted = few.loss(plan, folded), few.loss(plan, repair)
        allowed = max(ALIKE, 4 * torch.finfo(calibration.replay.model.dtype).eps)
        if math.isfinite(wanted) and not abs(given - wanted) <= allowed:
            raise _refusal(f"plan {plan}", f"folded into weights its loss is {given:.4f}, by modules {wanted:.4f}")
        return folded

    def gaps(self, calibration: CalibrationSet, limit: int) -> GapFits:
        """See :class:`Healing`."""
        texts = {"fit": self._read(calibration)}
        if self.choose == "search":
            texts |= {"held-out": calibration.held_out}
        return GapFits(calibration, lambda gap: self._fit(calibration, gap), texts, limit)

    def rows(self, calibration: CalibrationSet) -> float:
        """See :class:`Healing`; a search runs some ten times the held-out windows at each gap."""
        searched = SEARCHED * len(calibration.held_out) if self.choose == "search" else 0
        return self._read(calibration).numel() / calibration.fit.shape[1] + searched

    def _read(self, calibration: CalibrationSet) -> Tensor:
        """int64 (windows, tokens): what the numbers are taken from, far apart in the text."""
        fit, count = calibration.fit, min(self.windows, len(calibration.fit))
        return fit[:: len(fit) // count][:count, : self.tokens]

    def _fit(self, calibration: CalibrationSet, gap: GapEnd) -> nn.Module | None:
        """The factor as a module; None after the last block, where it changes nothing, and if it is no sound number."""
        if gap.block == calibration.replay.num_blocks - 1:
            return None
        factor = self._measure(gap)
        if self.choose == "search" and 0 < factor < math.inf:
            factor = _search(factor, lambda one: _loss(calibration, gap, _scale(one, calibration, gap)))
        if not 0 < factor < math.inf:
            return None
        return _scale(factor, calibration, gap)

    def _measure(self, gap: GapEnd) -> float:
        """How much larger the dense model's states are."""
        given, wanted = (sum(sizes) for sizes in zip(*map(self._sizes, gap.batches("fit")), strict=True))
        assert isinstance(given, Tensor), "there is at least one window"
        return float((wanted / given).mean())

    def _sizes(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """float64 sums over the tokens of a batch, of the pruned model and of the dense one: (hidden size,) or ()."""
        real = batch.real.clone()
        real[:, 0] &= self.first
        states = (batch.given[real].double(), batch.wanted[real].double())
        one, other = (s.abs() if self.choose == "ratio" else s.norm(dim=-1) for s in states)
        return one.sum(dim=0), other.sum(dim=0)


def _scale(factor: float, calibration: CalibrationSet, gap: GapEnd) -> Scale:
    with torch.inference_mode(False):  # a parameter like any other, whoever uses it
        module = Scale().requires_grad_(False)
        module.factor.fill_(factor)
        return module.to(gap.place, calibration.replay.model.dtype)


def _search(start: float, loss: Callable[[float], float]) -> float:
    """The factor of least loss around this one."""
    middle = math.log(start)
    found = minimize_scalar(
        lambda log: loss(math.exp(log)),
        bounds=(middle - WIDEST, middle + WIDEST),
        method="bounded",
        options={"xatol": FINEST},
    )
    return math.exp(found.x)


def _loss(calibration: CalibrationSet, gap: GapEnd, module: nn.Module) -> float:
    """The loss of the held-out windows if the dense model goes on from states that went through a module."""
    pairs = zip(gap.batches("held-out"), in_groups(calibration.held_out), strict=True)
    return sum(rest_of_loss(calibration, module(batch.given), gap.block, ids) for batch, ids in pairs)


def _folded(calibration: CalibrationSet, plan: PrunePlan, repair: Repair) -> Repair:
    """The same without modules: weights of what later blocks add, divided by all factors before them."""
    replay = calibration.replay
    factors = {block: float(one.module.factor) for (block, _), one in repair.after.items()}  # type: ignore[arg-type]
    exits = _find_all_exits(calibration, min(factors) + 1, f"plan {plan}")
    weights: dict[str, Tensor] = {}
    factor = 1.0
    for block, action in enumerate(plan.actions(replay.num_blocks)):
        prefix = path_of(replay.model, replay.architecture.blocks[block])
        for removal, found in exits.get(block, {}).items():
            if not removal & action:
                weights |= {f"{prefix}.{name}": weight for name, weight in found.divided(factor).items()}
        factor *= factors.get(block, 1.0)
    return Repair(weights=weights)


def _find_all_exits(calibration: CalibrationSet, start: int, plan: str) -> dict[int, dict[Action, Exit]]:
    """The exits of all blocks from this one on.

    Raises:
        UsageError: a block has none, or the output head is not indifferent to a factor.
    """
    replay = calibration.replay
    refuse_packed(
        replay.model,
        "Healing by rescale",
        "it divides weights of later blocks, and packed ones are not divided",
        "Use rescale:fold=false, which leaves a module at each gap",
    )
    ids = calibration.held_out[:1, :PROBED].clamp(min=0)
    hidden = replay.embed(ids)
    share = ids.shape[1] / calibration.held_out.shape[1]
    try:
        _check_head(calibration, hidden, ids)
        exits = {block: find_exits(replay, block, hidden.shape) for block in range(start, replay.num_blocks)}
    except NoExitError as error:
        raise _refusal(plan or "any plan of this model", str(error)) from error
    calibration.meter.count(TRIALS * share * len(exits), 2 * share)
    return exits


def _check_head(calibration: CalibrationSet, hidden: Tensor, ids: Tensor) -> None:
    """Refuse a model whose output depends on the size of the last hidden states."""
    head, place = calibration.replay.head, calibration.replay.exit
    probe = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(0)).to(place, hidden.dtype)
    one, other = head.losses(probe, ids), head.losses(2 * probe, ids)
    if not torch.allclose(one, other, rtol=1e-2, atol=1e-2):
        raise NoExitError("what follows the last block is not indifferent to the size of the hidden states")


def _refusal(what: str, reason: str) -> UsageError:
    return UsageError(
        f"Healing 'rescale' cannot heal {what}: {reason}",
        "Use rescale:fold=false, which leaves a module at each gap, or linear",
    )
