"""What a user sees while a run goes on, on stderr: what is being done, best so far, cost spent, time left."""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from searcher.commands.tracking import Plans, Scale, Search, Shares, Task
from searcher.contracts.forecast import Forecast
from searcher.contracts.objective import Split
from searcher.contracts.plan import DENSE, PrunePlan
from searcher.healing.calibration import Check
from searcher.healing.contract import Healing
from searcher.runs.measurement import Measurement
from searcher.search.best import BestPlans
from searcher.search.halving import Round, steps_of
from searcher.search.loop import SearchLoop

LOG_EVERY = 10.0
"""Seconds between two lines where stderr is not a terminal."""


class Progress:
    """A progress bar on a terminal, a line every ten seconds elsewhere; use it in a `with` statement.

    Both tell the share of the work that is done, and by that the time left.

    Args:
        quiet: show nothing.
    """

    def __init__(self, quiet: bool = False) -> None:
        self._console = Console(stderr=True, quiet=quiet, highlight=False)
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[share]}"),
            TextColumn("{task.fields[status]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=self._console,
            disable=quiet or not self._console.is_terminal,
            transient=True,
        )
        self._shown = self._bar.add_task("", total=None, visible=False, share="", status="", left="")
        self._loop: SearchLoop | None = None
        self._best: BestPlans | None = None
        self._stage, self._status = "", ""
        self._task: Task = Shares()
        self._before = 0.0
        self._started = self._logged = time.monotonic()

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
            f"{name} {resolved[name]}"
            for name in ("dtype", "quantize", "windows", "window_tokens", "report_windows")
            if name in resolved
        )
        self._print(f"Run folder {folder} ({chosen})")
        if shared:
            self._print(f"Measurements are shared with {', '.join(shared)}")

    def searching(self, loop: SearchLoop, expected: Forecast) -> None:
        """The search begins, and is expected to be charged so much."""
        space, known = loop.space, loop.recorder.known.plans("search")
        cost = f"{expected}, cost {loop.ledger.tariff.total(expected.cost):,.0f}"
        resumed = f"; {len(known) - 1} known from before" if len(known) > 1 else ""
        self._print(f"Searching {len(space.units)} units for {space.size} to remove: {cost}{resumed}")
        self._loop, self._best = loop, BestPlans(loop)
        for plan in known:
            self._best.offer(plan)
        self._begin("search", Search(loop, expected))

    def reporting(self, plans: Sequence[PrunePlan]) -> None:
        """The search is over; the dense model and the chosen plans are measured on the report split."""
        if missing := self._ahead("report", plans):
            self._print(f"Measuring {missing.plans} plans on the report split")
            self._begin("report", missing)

    def healing_begins(self, healing: Healing, rounds: Sequence[Round], one: Round, plans: Sequence[PrunePlan]) -> None:
        """The search is over; in this round these plans are healed, each with a fit of its own, and measured again.

        Args:
            healing: of the run.
            rounds: all of them.
            one: which begins.
            plans: to heal.
        """
        if missing := self._ahead(one.split, plans):
            steps = steps_of(healing, one.share)
            length = f"{one.share:g} of the work" if steps is None else f"{steps} step{'s' * (steps > 1)}"
            told = f"ealing {missing.plans} plan{'s' * (missing.plans > 1)}"
            several = f"Round {rounds.index(one) + 1} of {len(rounds)}, {length} each: h{told}"
            control = ", among them the dense model as a control" if DENSE in plans else ""
            self._print(f"{several if len(rounds) > 1 else f'H{told}'}{control}")
            self._begin("heal", missing)

    def _ahead(self, split: Split, plans: Sequence[PrunePlan]) -> Plans | None:
        """What of these plans is left to measure, if there is anything."""
        assert self._loop is not None, "a search comes first"
        recorder, tariff = self._loop.recorder, self._loop.ledger.tariff
        scale = Scale(tariff.num_blocks, tariff.prices, tariff.window_tokens)
        ahead = Plans.ahead(scale, recorder.executor.groups, split, plans, recorder.known)
        return ahead if ahead.plans else None

    def healing(self, plan: PrunePlan, check: Check) -> None:
        """A fit has been checked; may come from several threads."""
        if not self._stage:
            self._begin("heal", Shares())
        self._status = f"{plan}: step {check.step} of {check.steps}, held-out loss {check.held_out:.4g}"
        self._task.fitted(plan, check.step / max(1, check.steps))
        self._show()

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[Callable[[float], None]]:
        """A part of an analysis begins; gives what is told of each share of it that is done."""
        shares = Shares()
        self._begin(name, shares)

        def done(share: float) -> None:
            shares.done += share
            self._show()

        yield done

    def counted(self, lines: Iterable[Measurement], ahead: Plans) -> Iterator[Measurement]:
        """Pass measurements through, counting what they took of the work ahead."""
        self._begin("measure", ahead)
        plans = ahead.plans
        for line in lines:
            ahead.finished(line)
            self._status = f"{plans - ahead.plans} of {plans} plans"
            self._show()
            yield line

    def measured(self, line: Measurement) -> None:
        """A measurement was kept."""
        if self._loop is None:  # of the dense model, before the search
            return
        self._task.finished(line)
        if self._stage == "search" and line.split == "search" and self._best is not None:
            self._best.offer(line.plan)
            self._status = str(self._best)
        elif isinstance(self._task, Plans):
            self._status = f"{self._task.plans} plans to go"
        self._show()

    def _begin(self, stage: str, task: Task) -> None:
        self._stage, self._task, self._status, self._before = stage, task, "", task.done
        self._started = self._logged = time.monotonic()
        self._bar.reset(
            self._shown, total=task.total, completed=0, description=stage, visible=True, share="", status="", left=""
        )

    def _show(self) -> None:
        """Draw the bar, or now and then print a line where none can be drawn."""
        done, total = self._task.done, self._task.total
        share = f"{min(1.0, done / total):.0%}" if total else ""
        left = self._left(done, total)
        amount = self._task.amount
        if self._console.is_terminal:
            status = "  ".join(filter(None, (amount, self._status)))
            self._bar.update(self._shown, completed=done, total=total, share=share, status=status, left=left)
        elif time.monotonic() - self._logged >= LOG_EVERY:
            self._logged = time.monotonic()
            if self._best:
                self._best.told()
            self._print(f"{self._stage}: {'  '.join(filter(None, (share, amount, self._status, left)))}")

    def _left(self, done: float, total: float | None) -> str:
        """The time that is left if the work goes on as fast as since this task was begun."""
        if total is None or done <= self._before:
            return ""
        seconds = (time.monotonic() - self._started) * (total - done) / (done - self._before)
        return "about 1 s left" if seconds < 1 else f"about {_told(seconds)} left"


def _told(seconds: float) -> str:
    """In words of at most two units: 45 s, 12 min, 3 h 20 min."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
