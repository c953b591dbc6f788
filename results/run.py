"""A finished run for its users: what its folder tells, and a picture of it."""

from typing import TYPE_CHECKING, Any

from results.by_text import by_text
from results.finished_run import Estimate, Evaluation, FinishedRun, Values

if TYPE_CHECKING:  # loaded when there is something to draw
    from matplotlib.figure import Figure

__all__ = ["Estimate", "Evaluation", "Run", "Values"]


class Run(FinishedRun):
    """A finished run: `Run("runs/NAME")`."""

    def document(self) -> dict[str, Any]:
        """The JSON document of `--format json`; with several texts, the values of the best plan on each."""
        texts = [one.to_json() for one in by_text(self)]
        return super().document() | ({"report_by_text": texts} if texts else {})

    def plot(self, objective: str | None = None) -> "Figure":
        """A picture of quality against size: the chosen plans on the report split, with 95% intervals.

        Args:
            objective: label; the first by default.
        """
        from results.pictures.quality import quality_against_size

        return quality_against_size([self], objective)
