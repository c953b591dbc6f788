"""What a user sees while a run goes on, on stderr: what is being done, best so far, cost spent, time left."""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from searcher.cost import Cost
from searcher.forecast import Forecast
from searcher.goals import additive
from searcher.healing.patient import Check
from searcher.measurement import Measurement
from searcher.plan import PrunePlan
from searcher.search_loop import SearchLoop

LOG_EVERY = 10.0
"""Seconds between two lines where stderr is not a terminal."""


class Progress:
    """A progress bar on a terminal, a line every ten seconds elsewhere; use it in a `with` statement.

    Args:
        quiet: show nothing.
    """

    def __init__(self, quiet: bool = False) -> None:
        self._console = Console(stderr=True, quiet=quiet, highlight=False)
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            disable=quiet or not self._console.is_terminal,
            transient=True,
        )
        self._task = self._bar.add_task("", total=None, status="", visible=False)
        self._loop: SearchLoop | None = None
        self._best: tuple[int, float, PrunePlan] | None = None
        self._stage, self._done, self._total = "", 0, 0
        self._started = self._logged = time.monotonic()
        self._seen: set[PrunePlan] = set()
        self._spent = Cost()

    def __enter__(self) -> "Progress":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()

    def _print(self, line: str, style: str = "") -> None:
        self._console.print(line, style=style, soft_wrap=True, markup=False)  # a log is not folded at 80 columns

    def say(self, what: str) -> None:
        """A step that cannot be counted has begun."""
        self._print(what, style="dim")

    def warn(self, what: str) -> None:
        """Something is wrong that does not stop the run."""
        self._print(f"Warning: {what}", style="yellow")

    def opened(self, folder: Path, resolved: dict[str, Any], shared: Sequence[str]) -> None:
        """The run folder is open, this is what will be measured, and measurements are shared with these runs."""
        chosen = ", ".join(
            f"{name} {resolved[name]}" for name in ("dtype", "windows", "window_tokens", "report_windows")
        )
        self._print(f"Run folder {folder} ({chosen})")
        if shared:
            self._print(f"Measurements are shared with {', '.join(shared)}")

    def searching(self, loop: SearchLoop, expected: Forecast) -> None:
        """The search begins, and is expected to ask about so many plans."""
        space, known = loop.space, loop.recorder.known.plans("search")
        total = max(1, int(expected.cost.evaluations) - len(known)) if expected.complete else None
        cost = f"{expected}, cost {loop.ledger.tariff.total(expected.cost):,.0f}"
        resumed = f"; {len(known) - 1} known from before" if len(known) > 1 else ""
        self._print(f"Searching {len(space.units)} units for {space.size} to remove: {cost}{resumed}")
        self._spent = Cost()
        for line in loop.recorder.lines:
            self._spend(line)
        for plan in known:
            self._compare(loop, plan)
        self._begin("search", total, loop)

    def reporting(self, plans: Sequence[PrunePlan]) -> None:
        """The search is over; the dense model and the chosen plans are measured on the report split."""
        known = self._loop.recorder.known if self._loop else None
        missing = [plan for plan in plans if known is None or not known.complete("report", plan)]
        if missing:
            self._print(f"Measuring {len(missing)} plans on the report split")
            self._begin("report", len(missing), self._loop)

    def healing_begins(self, plans: Sequence[PrunePlan]) -> None:
        """The search is over; these plans are healed, each with a fit of its own, and measured again."""
        known = self._loop.recorder.known if self._loop else None
        missing = [plan for plan in plans if known is None or not known.complete("healed-search", plan)]
        if missing:
            self._print(f"Healing {len(missing)} plans, among them the dense model as a control")
            self._begin("heal", len(missing), self._loop)

    def healing(self, plan: PrunePlan, check: Check) -> None:
        """A fit has been checked; may come from several threads."""
        status = f"{plan}: step {check.step} of {check.steps}, held-out loss {check.held_out:.4g}"
        self._bar.update(self._task, status=status)
        if not self._console.is_terminal and time.monotonic() - self._logged >= LOG_EVERY:
            self._logged = time.monotonic()
            self._print(f"heal: {status}")

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[Callable[[float], None]]:
        """A part of an analysis begins; gives what is told of each share of it that is done."""
        self._begin(name, 100, None)
        shares = [0.0]

        def done(share: float) -> None:
            shares[0] += share
            self._done = round(100 * shares[0])
            self._bar.update(self._task, completed=self._done)
            if not self._console.is_terminal and time.monotonic() - self._logged >= LOG_EVERY:
                self._logged = time.monotonic()
                self._print(f"{name}: {shares[0]:.0%}")

        yield done

    def counted(self, lines: Iterable[Measurement], plans: int) -> Iterator[Measurement]:
        """Pass measurements through, counting plans as they come."""
        self._begin("measure", plans, None)
        for line in lines:
            self._seen.add(line.plan)
            self._advance(len(self._seen))
            yield line

    def _begin(self, stage: str, total: int | None, loop: SearchLoop | None) -> None:
        self._stage, self._done, self._total, self._loop = stage, 0, total or 0, loop
        self._started = self._logged = time.monotonic()
        self._seen.clear()
        self._bar.reset(self._task, total=total, description=stage, visible=True, status="")

    def measured(self, line: Measurement) -> None:
        """A measurement was kept."""
        loop = self._loop
        self._spend(line)
        if loop is None or line.split == "screen" or line.plan in self._seen:
            return
        if not loop.recorder.known.complete(line.split, line.plan):
            return
        self._seen.add(line.plan)
        if self._stage == "search":
            self._compare(loop, line.plan)
        self._advance(self._done + 1)

    def _compare(self, loop: SearchLoop, plan: PrunePlan) -> None:
        """Is this the best plan of the largest size so far, up to that asked for?"""
        size = plan.size(loop.space.granularity)
        if size > loop.space.size:
            return
        name, objective = next(iter(loop.goals.objectives.items()))
        score = additive(objective, loop.recorder.known.rows("search", plan, name))
        entry = (-size, score, plan)
        self._best = min(self._best or entry, entry)

    def _advance(self, done: int) -> None:
        self._done = done
        total = max(done, self._total) if self._total else None
        self._bar.update(self._task, completed=done, total=total, status=self._status())
        self._log()

    def _status(self) -> str:
        loop = self._loop
        if loop is None or self._stage != "search":
            return ""
        name, objective = next(iter(loop.goals.objectives.items()))
        best = "-"
        if self._best is not None:
            size, score, plan = self._best
            value = objective.finish(score if objective.lower_is_better else -score)
            best = f"of {-size}: {name} {value:.4g} ({plan})"
        return f"best {best}  cost {loop.ledger.tariff.total(self._spent):.0f}"

    def _spend(self, line: Measurement) -> None:
        if line.split in ("search", "screen"):
            self._spent += Cost(0, line.layer_forwards, line.heads)

    def _log(self) -> None:
        """The same as a line, where a bar cannot be drawn."""
        now = time.monotonic()
        if self._console.is_terminal or now - self._logged < LOG_EVERY:
            return
        self._logged = now
        left = (now - self._started) / self._done * max(0, self._total - self._done)
        of, to_go = (f" of about {self._total}", f"  about {left:.0f} s left") if self._total else ("", "")
        self._print(f"{self._stage}: {self._done}{of} plans  {self._status()}{to_go}")
