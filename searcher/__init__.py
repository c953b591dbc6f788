"""searcher: search for prune plans of large language models.

    import searcher
    run = searcher.run(strategy="shapley", budget=8)
    run.best, run.front()

Nothing heavy is imported until a function is called.
"""

from searcher.api.analyzing import analyze
from searcher.api.pruning import best_model, export, heal, load
from searcher.api.searching import evaluate, load_run, run
from searcher.api.showing import compare, report
from searcher.contracts.plan import Budget, Granularity, PrunePlan, Unit
from searcher.errors import UsageError

__all__ = [
    "Budget",
    "Granularity",
    "PrunePlan",
    "Unit",
    "UsageError",
    "analyze",
    "best_model",
    "compare",
    "evaluate",
    "export",
    "heal",
    "load",
    "load_run",
    "report",
    "run",
]
