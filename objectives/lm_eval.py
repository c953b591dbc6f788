"""Any task of lm-evaluation-harness (Gao et al. 2024), run on the pruned model itself."""

import contextlib
import copy
import functools
import hashlib
import importlib.util
import inspect
import json
import logging
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from searcher.contracts.objective import Candidate, Objective, Split
from searcher.errors import UsageError, did_you_mean, first_line

SEED = 1234
"""Of few-shot examples and of answers that are sampled; the harness takes the same."""
BATCH_ROWS = 8

_ONE_AT_A_TIME = threading.Lock()
"""Held by what changes something that all threads share."""


@dataclass(frozen=True)
class Document:
    """A document of a task.

    Attributes:
        task: its name.
        index: the document's place in the task.
        digest: hash of its content.
    """

    task: str
    index: int
    digest: str


class LmEval(Objective):
    """A metric of a task of lm-evaluation-harness, the mean over documents; higher is better.

    Runs the pruned model itself, so nothing is shared between plans: for the report, or for judging a few plans. For
    multiple choice `accuracy` gives the same numbers from shared forward passes. Half of the task's documents are for
    the search, half for the report. The tokens that go through the model are charged, each plan as many as the dense
    model took. Needs `pip install 'pruneplan[lm-eval]'`.

    Args:
        task: name of a task or group, or path of a task's `.yaml` file. Documents of a group are pooled.
        metric: one that is a mean over documents where higher is better, such as `acc`, `acc_norm` or `exact_match`;
            of the task's first filter, or of the one named after a comma: `exact_match,flexible-extract`.
        items: how many documents are taken of each half, at most.
        num_fewshot: how many solved examples stand before each; as the task says by default.
        include_path: a folder with tasks of your own.
    """

    unit = "score"
    lower_is_better = False
    reads = "plan"

    def __init__(
        self,
        task: str,
        metric: str = "acc",
        items: Annotated[int, Field(ge=2)] = 100,
        num_fewshot: Annotated[int, Field(ge=0)] | None = None,
        include_path: str | None = None,
    ) -> None:
        self.task, self.items_taken, self.num_fewshot, self.include_path = task, items, num_fewshot, include_path
        self.metric, _, self.filter = metric.partition(",")
        self._tasks: dict[str, Any] = {}
        self._chosen: dict[Split, list[Document]] = {}

    def __getstate__(self) -> dict[str, Any]:
        # tasks keep what they are asked: each thread loads its own
        return self.__dict__ | {"_tasks": {}, "_chosen": {}}

    def depends_on(self) -> dict[str, str]:
        """The definition of each task with its few-shot examples, and the documents that are taken of it."""
        documents = {"search": self._documents("search"), "report": self._documents("report")}
        found: dict[str, str] = {}
        for name, task in self._tasks.items():
            own = {split: [one.digest for one in ones if one.task == name] for split, ones in documents.items()}
            examples = list(task.fewshot_docs() or ()) if task.get_config("num_fewshot") else []
            found |= {f"task {name}": _definition(task), f"the data of task {name}": _digest([own, examples])}
        return found

    def numbers(self, split: Split) -> int:
        """How many documents are taken."""
        return len(self._documents(split))

    def measure(self, candidate: Candidate) -> NDArray[np.float64]:
        """(documents,): the metric of each document, in the order of the tasks."""
        from lm_eval.evaluator import evaluate

        documents = self._documents(candidate.split)
        wanted: dict[str, list[int]] = {}
        for document in documents:
            wanted.setdefault(document.task, []).append(document.index)
        tasks = {name: self._tasks[name] for name in wanted}
        for task in tasks.values():
            task.set_fewshot_seed(SEED)
        with candidate.model() as model, _seeded() if any(map(_samples, tasks.values())) else contextlib.nullcontext():
            harness = _wrap(model, candidate.tokenizer)
            found = evaluate(harness, {"tasks": tasks}, samples=wanted, bootstrap_iters=0, log_samples=True)
        values = {
            (name, sample["doc_id"]): self._value(name, sample)
            for name in tasks
            for sample in found["samples"][name]
            if sample["filter"] == self._filter_of(tasks[name])
        }
        return np.array([values[document.task, document.index] for document in documents])

    def _documents(self, split: Split) -> list[Document]:
        if not self._tasks:
            self._tasks = self._load()
        if split not in self._chosen:
            self._chosen[split] = self._choose(split)
        return self._chosen[split]

    def _choose(self, split: Split) -> list[Document]:
        """Documents of the split, drawn by a hash of their content; fewer are a part of more."""
        documents: dict[tuple[str, str], Document] = {}
        for name, task in self._tasks.items():
            for index, content in enumerate(task.eval_docs):
                document = Document(name, index, _digest(content))
                documents.setdefault((document.digest, name), document)  # one that is there twice counts once
        halves = sorted({digest for digest, _ in documents})
        half = set(halves[1::2] if split == "report" else halves[::2])
        chosen = [documents[key] for key in sorted(documents) if key[0] in half][: self.items_taken]
        if not chosen:
            raise UsageError(f"Task '{self.task}' has no documents for the {split} split", "Choose a task with more")
        return sorted(chosen, key=lambda document: (document.task, document.index))

    def _load(self) -> dict[str, Any]:
        with _ONE_AT_A_TIME, _quietly():
            tasks = _load_tasks(self.task, self.include_path)
        for name, task in tasks.items():
            self._check(name, task)
            if self.num_fewshot is not None:
                task.set_config(key="num_fewshot", value=self.num_fewshot)
            elif task.get_config("num_fewshot") is None:
                task.set_config(key="num_fewshot", value=0)
        return tasks

    def _check(self, name: str, task: Any) -> None:
        """That the metric is one whose items can be averaged, and is better when higher."""
        from lm_eval.api.metrics import mean

        if getattr(task, "UNSAFE_CODE", False):
            raise UsageError(f"Task '{name}' runs code that the model writes", "Choose another; it could do anything")
        aggregations, directions = task.aggregation(), task.higher_is_better()
        good = [metric for metric in aggregations if aggregations[metric] is mean and directions.get(metric)]
        if self.metric not in good:
            known = f"task '{name}' has it, but it is no mean over documents where higher is better"
            raise UsageError(
                f"Metric '{self.metric}': {known if self.metric in aggregations else f'''task '{name}' has none'''}",
                f"{did_you_mean(self.metric, good)}It has: {', '.join(good) or 'no metric of that kind'}",
            )
        self._filter_of(task)

    def _filter_of(self, task: Any) -> str:
        names = [pipeline.name for pipeline in getattr(task, "_filters", [])] or ["none"]
        if self.filter and self.filter not in names:
            raise UsageError(f"Filter '{self.filter}' of metric '{self.metric}'", f"The task has: {', '.join(names)}")
        return self.filter or str(names[0])

    def _value(self, name: str, sample: dict[str, Any]) -> float:
        value = sample[self.metric]
        try:
            return float(value)
        except TypeError as error:
            raise UsageError(
                f"Metric '{self.metric}' of task '{name}' is no number for document {sample['doc_id']}: {value!r}",
                "Choose another metric",
            ) from error


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def _definition(task: Any) -> str:
    """A digest of a task's configuration, with the files that functions in it are from."""
    sources = [_source_file(value) for value in vars(task.config).values() if callable(value)]
    told = json.dumps([task.dump_config(), sources], sort_keys=True, default=str)
    return hashlib.sha256(re.sub(r" at 0x[0-9a-f]+", "", told).encode()).hexdigest()  # where an object lies is nothing


def _source_file(function: Any) -> str | None:
    try:
        file = inspect.getsourcefile(function)
        return None if file is None else Path(file).read_text(encoding="utf-8")
    except (TypeError, OSError):  # it is of no file
        return None


def _samples(task: Any) -> bool:
    """Whether the task has answers drawn by chance."""
    return bool((task.get_config("generation_kwargs") or {}).get("do_sample"))


@contextlib.contextmanager
def _seeded() -> Iterator[None]:
    """Draws are the same every time, and leave no trace; one thread at a time, since all draw from one source."""
    with _ONE_AT_A_TIME, torch.random.fork_rng():
        torch.manual_seed(SEED)
        yield


def _load_tasks(task: str, include_path: str | None) -> dict[str, Any]:
    """Tasks by name: the one of this name, those of a group, or the one of a file."""
    if importlib.util.find_spec("lm_eval") is None:
        raise UsageError(
            "Objective 'lm-eval' needs lm-evaluation-harness, which is not installed",
            "Install it with: pip install 'pruneplan[lm-eval]'",
        )
    if include_path is not None and not Path(include_path).is_dir():
        raise UsageError(f"include_path '{include_path}' of objective 'lm-eval' is no folder", "Check the path")
    from_file = Path(task).suffix in (".yaml", ".yml")
    if from_file and not Path(task).expanduser().is_file():
        raise UsageError(f"Task '{task}' of objective 'lm-eval': there is no such file", "Check the path")
    manager = _manager(include_path, not from_file)
    if not from_file and task not in manager.all_tasks:
        raise UsageError(
            f"lm-evaluation-harness knows no task '{task}'",
            f"{did_you_mean(task, manager.all_tasks)}`lm-eval ls tasks` lists them; a .yaml file will do too",
        )
    try:
        loaded: dict[str, Any] = manager.load(task)["tasks"]
    except Exception as error:  # tasks are code of their own, and read files or the hub
        raise UsageError(
            f"Task '{task}' of lm-evaluation-harness cannot be loaded: {type(error).__name__}: {first_line(error)}",
            "Check the task, the paths in it, and the connection if its data is on the hub",
        ) from error
    if not loaded:
        raise UsageError(f"Task '{task}' of lm-evaluation-harness is empty", "A file must name its task: `task: name`")
    return loaded


@functools.cache
def _manager(include_path: str | None, with_defaults: bool) -> Any:
    """What knows the tasks by name; reading all of the harness's takes seconds."""
    from lm_eval.tasks import TaskManager

    _silence()
    return TaskManager(include_path=include_path, include_defaults=with_defaults)


def _silence() -> None:
    """No bars and no warnings of the harness for the rest of the process: there would be some for every plan."""
    import lm_eval.api.model
    import lm_eval.api.task
    import lm_eval.models.huggingface

    def no_bar(*args: Any, **kwargs: Any) -> Any:
        return bar(*args, **kwargs | {"disable": True})

    bar = lm_eval.api.task.tqdm
    for module in (lm_eval.api.model, lm_eval.api.task, lm_eval.models.huggingface):
        module.tqdm = no_bar
    logging.getLogger("lm_eval").setLevel(logging.ERROR)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """No bars and warnings of `datasets` while it reads a task's documents."""
    import datasets

    log, bars = datasets.utils.logging, not datasets.are_progress_bars_disabled()
    verbosity = log.get_verbosity()
    log.set_verbosity_error()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        log.set_verbosity(verbosity)
        if bars:
            datasets.enable_progress_bars()


def _wrap(model: Any, tokenizer: Any) -> Any:
    """The model as the harness wants it; it gets a tokenizer of its own, since it gives it a padding token."""
    from lm_eval.models.huggingface import HFLM

    if tokenizer.bos_token_id is None and tokenizer.eos_token_id is None:
        raise UsageError(
            "lm-evaluation-harness needs a tokenizer with a token that a text begins or ends with",
            "Set the tokenizer's bos_token, or measure `accuracy`",
        )
    return HFLM(pretrained=model, backend="causal", tokenizer=copy.deepcopy(tokenizer), batch_size=BATCH_ROWS)
