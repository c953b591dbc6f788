"""A model and text, ready to measure plans."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from searcher.contracts.amounts import Amounts
from searcher.contracts.cost import Prices
from searcher.contracts.objective import Objective, Split
from searcher.contracts.tariff import Tariff
from searcher.evaluation.ray_executor import AnyExecutor
from searcher.healing.healer import Treatment
from searcher.loading.model import LoadedModel
from searcher.loading.text import Texts
from searcher.replay.dense_cache import DenseCache
from searcher.replay.replay import Replay
from searcher.runs.layout import GroupKind, group_kind
from searcher.runs.measurement import Measurement


@dataclass(frozen=True, eq=False, kw_only=True)
class Prepared:
    """A model and text, ready to measure plans.

    Attributes:
        model: the loaded model.
        text: the texts with their splits.
        objectives: by name, in the order of the run.
        screening: what plans are screened by, if they are.
        replay: runs the model's blocks.
        windows: int64 (windows, tokens) of each split.
        executor: measures plans.
        prices: relative FLOPs of the model's parts.
        resolved: the measurement fields of the configuration with every default filled in.
        documents: of each split, the number of the document that each window was cut from.
        texts: of each split, the number of the text that each window is of; empty where all are of one.
        amounts: what the parts of the model take, by name; see :func:`searcher.replay.footprint.measure_amounts`.
        treatment: how plans are healed, if they are.
        final: how a shortlist is healed, if not as every plan is.
        dense: keeps what is computed on the dense model.
    """

    model: LoadedModel
    text: Texts
    objectives: dict[str, Objective]
    screening: dict[str, Objective]
    replay: Replay
    windows: dict[Split, torch.Tensor]
    executor: AnyExecutor
    prices: Prices
    resolved: dict[str, Any]
    documents: dict[Split, tuple[int, ...]]
    texts: dict[Split, tuple[int, ...]]
    amounts: Mapping[str, Amounts]
    treatment: Treatment | None
    final: Treatment | None
    dense: DenseCache

    def tariff(self, dense: Iterable[Measurement]) -> Tariff:
        """What asks cost, given the dense model's measurements for the search (they show how many heads are taken)."""
        dense = list(dense)
        tokens, windows = self.resolved["window_tokens"], self.resolved["windows"]
        sizes = [
            (group.layout.kind is GroupKind.WINDOWS, group.ids.numel() / tokens)
            for group in self.executor.groups["search"]
        ]
        lines = [(group_kind(line.group) is GroupKind.WINDOWS, line) for line in dense if line.split == "search"]
        return Tariff(
            num_blocks=self.model.num_blocks,
            prices=self.prices,
            windows=windows,
            window_tokens=tokens,
            rows_per_window=sum(size for windowed, size in sizes if windowed) / windows,
            own_rows=sum(size for windowed, size in sizes if not windowed) + self._heal_rows,
            heads_per_window=sum(line.heads for windowed, line in lines if windowed) / windows,
            own_heads=sum(line.heads for windowed, line in lines if not windowed),
            screening_heads=sum(m.heads for m in dense if m.split == "screen") / windows,
            apart_per_window=sum(line.apart.layer_forwards for windowed, line in lines if windowed) / windows,
            own_apart=sum(line.apart.layer_forwards for windowed, line in lines if not windowed),
        )

    @property
    def of_shortlist(self) -> Treatment | None:
        """How the best plans are healed and ranked anew, if they are."""
        whole = self.treatment is not None and self.treatment.scope == "plan"
        return self.treatment if whole else self.final

    @property
    def _heal_rows(self) -> float:
        """Windows of the heal split that every plan is replayed on beside those it is measured on."""
        return self.treatment.rows if self.treatment else 0.0
