"""All benchmarks of speed, one after the other, then the tables of `benchmarks/README.md`: python -m benchmarks."""

import subprocess
import sys
from datetime import timedelta

from rich.console import Console

from benchmarks.setting import RESULTS
from benchmarks.tables import README, write_tables

SUITE: dict[tuple[str, ...], float] = {
    ("evaluator",): 9,
    ("evaluator", "--dtype", "float32", "--only", "greedy"): 7,
    ("racing",): 10,
    ("roofline",): 1,
    ("roofline", "--dtype", "float32"): 2,
    ("head",): 0.5,
    ("head", "--dtype", "float32"): 1,
    ("distilling",): 2,
    ("divergence",): 1,
    ("scaling",): 1,
    ("ray",): 2,
}
"""What is run, and the minutes that it takes on 2 cores with AMX."""


def main(given: list[str]) -> int:
    """Run them, each in a process of its own, with these options besides; returns how many failed."""
    console, failed = Console(stderr=True, soft_wrap=True, highlight=False), 0
    left = sum(SUITE.values())
    for (name, *options), minutes in SUITE.items():
        command = [f"benchmarks.{name}", *options, *given]
        console.print(f"{' '.join(command)}: about {minutes:g} minutes; all that is left: {timedelta(minutes=left)}")
        failed += subprocess.run([sys.executable, "-m", *command]).returncode != 0
        left -= minutes
    write_tables(RESULTS, README)
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
