"""How far a benchmark is, and how long it will take."""

import threading
from datetime import timedelta
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LOG_EVERY = 10.0
"""Seconds between two lines where stderr is not a terminal."""
SPEED_OVER = 600.0
"""Seconds over which speed is taken, which the estimate is made from; steps may take minutes."""


class Steps:
    """On a terminal a bar, elsewhere a line every ten seconds, on stderr; use it in a `with` statement.

    Args:
        name: of the benchmark.
        console: where it is shown.
    """

    def __init__(self, name: str, console: Console | None = None) -> None:
        self._name, self._ended = name, threading.Event()
        self._console = console or Console(stderr=True, soft_wrap=True, highlight=False)
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TaskProgressColumn())
        clocks = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
        self._bar = Progress(
            *columns,
            *clocks,
            console=self._console,
            disable=not self._console.is_terminal,
            transient=True,
            refresh_per_second=1,  # drawing takes time from what is measured
            speed_estimate_period=SPEED_OVER,
        )
        self._task = self._bar.add_task(f"{name}: loading", total=None)
        self._log = threading.Thread(target=self._tell, daemon=True)

    def __enter__(self) -> "Steps":
        self._bar.start()
        if not self._console.is_terminal:
            self._log.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._log.is_alive():
            self._log.join()
        self._bar.stop()

    def expect(self, work: float) -> None:
        """All that will be done takes so long, in any unit."""
        self._bar.reset(self._task, total=work)
        self.done(0)  # speed is counted from here on

    def at(self, what: str) -> None:
        """This has begun."""
        self._bar.update(self._task, description=f"{self._name}: {what}")

    def done(self, work: float = 1.0) -> None:
        """So much more has been done; may be called from any thread."""
        self._bar.advance(self._task, work)

    def line(self) -> str:
        """How far it is."""
        task = self._bar.tasks[0]
        if task.total is None:
            return task.description
        left = task.time_remaining
        to_go = "" if left is None else f", about {timedelta(seconds=round(left))} left"
        return f"{task.description}: {task.percentage:.0f}%{to_go}"

    def _tell(self) -> None:
        while not self._ended.wait(LOG_EVERY):
            self._console.print(self.line(), markup=False)


def part_of(done: int, parts: int, seconds: float) -> str:
    """For benchmarks whose parts show their own progress: which begins now, and what the ones before let expect."""
    left = f", about {timedelta(seconds=round(seconds / done * (parts - done)))} left" if done else ""
    return f"Part {done + 1} of {parts}{left}"
