"""What all measurements of the study have in common: the tier, the run folder, the texts, and how a search is begun."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import searcher
from results.run import Run
from study.texts import Texts
from study.tiers import Space, Tier

WINDOW_TOKENS = 128
SEARCH_ITEMS = 60
"""Multiple-choice items that a search looks at, which cost as much as a dozen windows."""


@dataclass(frozen=True)
class Setting:
    """Where and on what the study measures.

    Attributes:
        tier: how much.
        folder: of its runs, which share what they measure, while each is charged in full.
        texts: what is read.
        options: of every measurement, where they differ from the usual ones, such as the model.
    """

    tier: Tier
    folder: Path
    texts: Texts
    options: dict[str, Any] = field(default_factory=dict)

    def measured_on(self, text: str, items: int = 1000) -> dict[str, Any]:
        """Options that say what is measured: on prose, manual or code, or on so many items of choices at most."""
        choices = {"accuracy": {"file": self.texts.choices, "items": items}}
        objectives = {"objective": ["accuracy"], "objective_args": choices} if text == "choices" else {}
        return {
            "data": self.texts.prose if text == "choices" else getattr(self.texts, text),
            "window_tokens": WINDOW_TOKENS,
            "report_windows": self.tier.report_windows,
            "objective": ["perplexity"],
            **objectives,
            **self.options,
        }

    def run(
        self, strategy: str, space: Space, size: int, seed: int, text: str = "prose", name: str = "", **more: Any
    ) -> Run:
        """Search, resume that search, or read it again if it is finished.

        Args:
            strategy: how to search.
            space: the units.
            size: how many are removed.
            seed: which search windows are taken.
            text: what is searched on.
            name: how the name of the run begins; by default like the strategy.
            more: options that differ from those of the study.
        """
        common = {
            **self.measured_on(text, SEARCH_ITEMS),
            "windows": space.windows,
            "data_seed": seed,
            "granularity": space.granularity,
            "budget": size,
            "runs_dir": str(self.folder),
            "name": f"{name or strategy}-{text}-{space.granularity}-{size}-seed-{seed}",
        }
        return searcher.run(strategy=strategy, quiet=True, **(common | more))
