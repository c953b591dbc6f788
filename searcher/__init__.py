"""searcher: search for prune plans of large language models.

    import searcher
    run = searcher.run(strategy="shapley", budget=8)
    run.best, run.front()

Nothing heavy is imported until a function is called.
"""

import logging

from searcher.api.analyzing import analyze
from searcher.api.pruning import best_model, export, heal, load
from searcher.api.searching import evaluate, load_run, run
from searcher.api.showing import compare, report
from searcher.contracts.plan import Budget, Granularity, PrunePlan, Unit
from searcher.errors import UsageError

# transformers imports these where they are installed, and they tell in every process of files that are for other
# hardware, of deprecations that are their own to mend, or at every product in which dtype it is made
logging.getLogger("torchao").addFilter(lambda record: "Failed to load" not in str(record.msg))
logging.getLogger("torch.utils._pytree").addFilter(lambda record: "Enum subclass" not in str(record.msg))
logging.getLogger("bitsandbytes.autograd._functions").addFilter(lambda record: "will be cast" not in str(record.msg))

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
