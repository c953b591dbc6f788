"""Every gap is followed by a linear map, fitted in closed form."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from searcher.architecture.replacement_modules import LinearMap, LowRankMap
from searcher.contracts.plan import PrunePlan
from searcher.healing.calibration import CalibrationSet
from searcher.healing.contract import Healing, Scope
from searcher.healing.gaps import GapEnd, GapFits, choose
from searcher.healing.moments import RIDGES, Moments
from searcher.replay.repair import Repair

KEPT = 1 << 30
"""Bytes that are kept while one plan is healed."""


@dataclass(frozen=True)
class Linear(Healing):
    """Follow every gap with a linear map that takes its hidden states to the dense model's, in closed form.

    When to use it: in a search, for scores nearer to what a trained healing will give; the map costs one product with
    a square matrix of the hidden size in each gap, and needs a checkpoint of our own.

    Source: ReplaceMe (Shopkhoev et al. 2025, arXiv:2505.02819); the low rank as in Siddiqui et al. 2024,
    arXiv:2407.16286. With h the states entering the map and y those of the dense model:
    min |h W - y|² + ridge * tr(hᵀh) / d * |W - I|². Here, as not in the paper, each token's terms are divided by |y|.

    Args:
        ridge: the penalty; None chooses it for each gap by the error on the held-out windows, where no map at all is
            one of the choices.
        rank: of W - I at most; None for any.
    """

    ridge: Annotated[float, Field(gt=0)] | None = None
    rank: Annotated[int, Field(ge=1)] | None = None

    scope: ClassVar[Scope] = "gap"
    streams: ClassVar[bool] = True

    def heal(self, calibration: CalibrationSet, plan: PrunePlan) -> Repair:
        """See :class:`Healing`."""
        return self.gaps(calibration, KEPT).repair(plan)

    def gaps(self, calibration: CalibrationSet, limit: int) -> GapFits:
        """See :class:`Healing`."""
        texts = {"fit": calibration.fit, "held-out": calibration.held_out}
        dtype = calibration.replay.model.dtype
        return GapFits(calibration, lambda gap: self._fit(gap, dtype), texts, limit)

    def _fit(self, gap: GapEnd, dtype: torch.dtype) -> nn.Module | None:
        """Of the maps to choose from the one that errs least on the held-out windows; None if none does better."""
        moments: Moments | None = None
        for batch in gap.batches("fit"):
            given, wanted = batch.rows
            moments = moments or Moments.zeros(given.shape[-1], gap.place)
            moments.add(given, wanted.double() - given.double(), wanted)
        if moments is None or not moments.finite:
            return None  # what leaves here is no number, and no map can change that
        maps = list(self._maps(moments, dtype))
        rows = (batch.rows for batch in gap.batches("held-out"))
        best = choose(([given, *(one(given) for one in maps)], wanted) for given, wanted in rows)
        return maps[best - 1] if best else None

    def _maps(self, moments: Moments, dtype: torch.dtype) -> Iterator[nn.Module]:
        for ridge in RIDGES if self.ridge is None else (self.ridge,):
            if self.rank is None or self.rank >= len(moments.gram):
                yield _linear_map(moments.ridge_map(ridge), dtype)
            else:
                yield _low_rank_map(*moments.low_rank_map(ridge, self.rank), dtype)


def _linear_map(change: Tensor, dtype: torch.dtype) -> LinearMap:
    with torch.inference_mode(False):  # parameters like any other, whoever uses them
        module = LinearMap(len(change)).requires_grad_(False).to(change.device, torch.float64)
        module.weight.add_(change)
        return module.to(dtype)


def _low_rank_map(down: Tensor, up: Tensor, dtype: torch.dtype) -> LowRankMap:
    with torch.inference_mode(False):
        module = LowRankMap(*down.shape).requires_grad_(False).to(down.device, torch.float64)
        module.down.copy_(down)
        module.up.copy_(up)
        return module.to(dtype)
