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
from searcher.healing.gaps import Batch, GapEnd, GapFits
from searcher.healing.moments import RIDGES, Moments, weighted
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
        ridge: the penalty; None chooses it for each gap by the errors on the held-out windows, each by a map that is
            fitted to all other windows. A gap at which that errs more than no map is left as it is.
        rank: of W - I at most; None for any.
    """

    ridge: Annotated[float, Field(gt=0)] | None = None
    rank: Annotated[int, Field(ge=1)] | None = None

    scope: ClassVar[Scope] = "gap"
    streams: ClassVar[bool] = True
    fits_held_out: ClassVar[bool] = True
    version: ClassVar[int] = 2  # 1 fitted to most windows, and chose by the others

    def heal(self, calibration: CalibrationSet, plan: PrunePlan) -> Repair:
        """See :class:`Healing`."""
        return self.gaps(calibration, KEPT).repair(plan)

    def gaps(self, calibration: CalibrationSet, limit: int) -> GapFits:
        """See :class:`Healing`."""
        texts = {"fit": calibration.fit, "held-out": calibration.held_out}
        dtype = calibration.replay.model.dtype
        return GapFits(calibration, lambda gap: self._fit(gap, dtype), texts, limit)

    def _fit(self, gap: GapEnd, dtype: torch.dtype) -> nn.Module | None:
        """The map of the penalty that errs least on windows left out; None if to correct nothing errs less."""
        moments: Moments | None = None
        held_out: list[tuple[Tensor, Tensor]] = []
        for text in ("fit", "held-out"):
            for batch in gap.batches(text):
                moments = moments or Moments.zeros(batch.given.shape[-1], gap.place)
                given, wanted = batch.rows
                moments.add(given, wanted.double() - given.double(), wanted)
                held_out += _windows(batch) if text == "held-out" else []
        if moments is None or not moments.finite:
            return None  # what leaves here is no number, and no map can change that
        ridges = RIDGES if self.ridge is None else (self.ridge,)
        missing = ((given, wanted.double() - given.double(), wanted) for given, wanted in held_out)
        without, errors = moments.left_out_errors((weighted(*window) for window in missing), ridges)
        best = int(errors.nan_to_num(nan=torch.inf).argmin())
        return self._map(moments, ridges[best], dtype) if errors[best] < without else None

    def _map(self, moments: Moments, ridge: float, dtype: torch.dtype) -> nn.Module:
        if self.rank is None or self.rank >= len(moments.gram):
            return _linear_map(moments.ridge_map(ridge), dtype)
        return _low_rank_map(*moments.low_rank_map(ridge, self.rank), dtype)


def _windows(batch: Batch) -> Iterator[tuple[Tensor, Tensor]]:
    """(tokens, hidden size) of the pruned model and of the dense one, window by window, without padding."""
    for given, wanted, real in zip(batch.given, batch.wanted, batch.real, strict=True):
        yield given[real], wanted[real]


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
