"""A comparison of finished runs for its users: what was found, as a table and as JSON."""

from typing import Any

from results.compare_table import comparison_lines
from results.compared_runs import ComparedRuns
from results.comparison_json import comparison_document
from results.table import make_console, show


class Comparison(ComparedRuns):
    """Finished runs of the same model and text, side by side; see :class:`ComparedRuns`."""

    def document(self) -> dict[str, Any]:
        """Plain JSON values."""
        return comparison_document(self)

    def table(self) -> None:
        """Print it on stdout."""
        show(*comparison_lines(self, make_console().width))
