"""How far a benchmark is, told where stderr is no terminal."""

import io
import re
import threading

from rich.console import Console

from benchmarks import steps
from benchmarks.steps import Steps, part_of


def test_a_log_has_a_line_with_the_share_done_and_the_time_left(monkeypatch):
    monkeypatch.setattr(steps, "LOG_EVERY", 0.01)
    log, told = io.StringIO(), threading.Event()
    monkeypatch.setattr(log, "flush", told.set)
    with Steps("speed", Console(file=log, width=100)) as progress:
        assert progress.line() == "speed: loading"
        progress.expect(8)
        progress.at("greedy 8")
        for _ in range(4):
            progress.done()
        assert re.fullmatch(r"speed: greedy 8: 50%, about \d:\d\d:\d\d left", progress.line())
        told.clear()
        assert told.wait(10)
    assert "speed: greedy 8: 50%" in log.getvalue()
    assert not [thread for thread in threading.enumerate() if thread is progress._log], "the log goes on"


def test_the_first_step_that_is_done_gives_an_estimate():
    now = [0.0]
    progress = Steps("speed", Console(file=io.StringIO()))
    progress._bar.get_time = lambda: now[0]
    progress.expect(10)
    assert progress.line() == "speed: loading: 0%"
    for done, left in ((2, "0:04:00"), (3, "0:02:30")):
        now[0] += 30.0 * done
        progress.done(done)
        assert progress.line().endswith(f"about {left} left")


def test_parts_that_show_their_own_progress():
    assert part_of(0, 4, 0.0) == "Part 1 of 4"
    assert part_of(1, 4, 60.0) == "Part 2 of 4, about 0:03:00 left"
