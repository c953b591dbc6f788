"""Ray itself: started on this machine or joined elsewhere, kept quiet, and left as it was found.

Ray is imported when it is needed; beside this module only `ray_executor` and `ray_weights` know it.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from searcher.errors import UsageError, first_line

ROOT = Path(__file__).resolve().parents[2]
"""Where our own packages are."""
STORE_RESERVE = 512 << 20
"""Bytes of the object store beside the weights."""
ANSWERS_WITHIN = 10
"""Seconds in which a cluster must answer."""


def import_ray() -> Any:
    """Ray, without its reports of usage.

    Raises:
        UsageError: it is not installed.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_worker_niceness", "0")  # by default 15: any other process would go first
    try:
        import ray
    except ImportError as error:
        raise UsageError("Workers need Ray, which is not installed", 'pip install "pruneplan[ray]"') from error
    return ray


def check_address(address: str) -> None:
    """See whether a cluster answers. In a process of its own: where none does, Ray ends the process that asks.

    Raises:
        UsageError: the address is none, or no cluster of this version of Ray answers.
    """
    if address != "auto" and not re.fullmatch(r"[^\s/:]+:\d+", address):
        raise UsageError(f"Ray address '{address}' is not HOST:PORT", "Write it as 10.0.0.1:6379, or auto")
    if address == "auto":
        return  # without a cluster on this machine, `join` is refused at once
    ask = [sys.executable, "-P", "-m", "ray.scripts.scripts", "health-check", "--address", address]
    try:
        answer = subprocess.run(ask, capture_output=True, text=True, timeout=ANSWERS_WITHIN)
    except subprocess.TimeoutExpired as error:
        raise _unreachable(address, f"within {ANSWERS_WITHIN} s") from error
    if answer.returncode:
        raise _unreachable(address, (answer.stderr.strip().splitlines() or [f"exit code {answer.returncode}"])[-1])


def _unreachable(address: str, reason: str) -> UsageError:
    hint = "Start one with `ray start --head`, of the same version as here, or leave --ray-address out"
    return UsageError(f"No Ray cluster answers at '{address}' ({reason})", hint)


def start(cpus: int, gpus: int, weights: int) -> Callable[[], None]:
    """Start Ray on this machine, with room for so many bytes of weights; returns what ends it.

    A Ray that this process already uses, as in a notebook, is used and left running.

    Raises:
        UsageError: it does not start.
    """
    store = int(1.1 * weights) + STORE_RESERVE
    options = {"num_cpus": cpus, "num_gpus": gpus, "object_store_memory": store, "include_dashboard": False}
    try:
        return _init(address="local", **options)
    except (ConnectionError, TimeoutError, ValueError, RuntimeError) as error:
        raise UsageError(f"Ray does not start: {first_line(error)}", "Leave --workers out to do without it") from error


def join(address: str) -> Callable[[], None]:
    """Join a running cluster; returns what leaves it.

    Raises:
        UsageError: there is none.
    """
    try:
        return _init(address=address)
    except (ConnectionError, TimeoutError, ValueError, RuntimeError) as error:
        raise _unreachable(address, first_line(error)) from error


def _init(**options: Any) -> Callable[[], None]:
    ray = import_ray()
    if ray.is_initialized():
        return lambda: None
    before = signal.getsignal(signal.SIGTERM)
    _keep_off_stdout()
    with contextlib.chdir(ROOT):  # else workers look for modules in the user's folder first, Python's own too
        ray.init(logging_level="ERROR", log_to_driver=True, **options)

    def leave() -> None:
        ray.shutdown()
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)  # Ray takes it for itself

    return leave


def _keep_off_stdout() -> None:
    """What plug-ins print in workers goes to stderr, and what Ray says itself nowhere; it has no option for either.

    It would print on stdout, which belongs to the result, and tell there of every worker that died.
    """
    from ray._private import worker

    def forward(data: dict[str, Any], *_args: Any, **_kwargs: Any) -> None:
        if str(data.get("pid")).isdigit() and not data.get("is_err"):
            sys.stderr.write("".join(f"{line}\n" for line in data.get("lines", ())))

    if hasattr(worker, "print_to_stdstream"):
        worker.print_to_stdstream = forward


def cores_of_each(nodes: Sequence[int], workers: int) -> int:
    """The most cores that each of so many workers can have, on nodes with these numbers of cores; 0 if not even one.

    A worker does not span nodes.
    """
    fitting = (each for each in range(max(nodes, default=0), 0, -1) if sum(n // each for n in nodes) >= workers)
    return next(fitting, 0)


def devices_of_nodes(kind: str) -> list[int]:
    """How many `CPU` or `GPU` each node of the cluster has."""
    ray = import_ray()
    return [int(node["Resources"].get(kind, 0)) for node in ray.nodes() if node["Alive"]]
