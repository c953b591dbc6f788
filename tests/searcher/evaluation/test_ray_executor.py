"""Ray workers: the same numbers as in one process, whatever happens to them."""

import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from itertools import combinations, count

import psutil
import pytest
import torch
from executors import executor_on, measure_all
from families import VOCABULARY, tiny_model
from tiny_checkpoint import command
from transformers import AutoModelForCausalLM

from objectives.loss import Perplexity
from searcher.contracts.plan import Granularity, PrunePlan, all_units
from searcher.errors import UsageError
from searcher.evaluation.ray_executor import RayExecutor, check_workers
from searcher.evaluation.ray_session import cores_of_each
from searcher.evaluation.ray_weights import Shipment, from_numpy, put, to_numpy
from searcher.evaluation.ray_worker import Objectives, Worker
from searcher.loading.environment import environment
from searcher.runs.measurement import Measurements

ray = pytest.importorskip("ray")

IDS = torch.randint(VOCABULARY, (40, 32), generator=torch.Generator().manual_seed(1))
UNITS = all_units(4, Granularity.SUBLAYER)
PLANS = [PrunePlan.of(units) for size in (0, 1, 2) for units in combinations(UNITS, size)] + [PrunePlan.parse("1,3")]
SLOW_OBJECTIVE = """
import time
from objectives.loss import Perplexity

class Slow(Perplexity):
    '''Takes its time, and fails on one plan if told to.'''

    def __init__(self, fails: bool = False, seconds: float = 0.02):
        self.fails, self.seconds = fails, seconds

    def measure(self, candidate):
        time.sleep(self.seconds)
        if str(candidate.plan) == "dense":
            print("printed by a worker")
        if self.fails and str(candidate.plan) == "1,3":
            raise ArithmeticError("lost count")
        return super().measure(candidate)
"""


def opened(name="perplexity", model=None):
    """An executor of this process; what the actors measure under this name is made by them."""
    return executor_on(IDS, {name: Perplexity()}, model or tiny_model("llama").to(torch.bfloat16))


def measured(executor, during=lambda known: None):
    known = Measurements(executor.layout)
    lines = count(1)

    def heard(line):
        assert not set(line.rows) - set(known.missing("search", line.plan, line.group, line.rows)), "measured twice"
        during(next(lines))

    measure_all(executor, PLANS, known=known, heard=heard)
    (name,) = executor.layout["search"][0].objectives
    return {plan: known.rows("search", plan, name).tolist() for plan in PLANS}


@pytest.fixture(scope="module")
def slow_objective(tmp_path_factory):
    path = tmp_path_factory.mktemp("objectives") / "slow.py"
    path.write_text(SLOW_OBJECTIVE)
    return f"{path}:Slow"


@pytest.fixture(scope="module")
def workers(slow_objective):
    """Two actors; the objective comes from a file, which cannot be pickled."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)  # as many cores as there are to share
    executor = RayExecutor(opened(slow_objective), Objectives({slow_objective: (slow_objective, {})}), 2, None, 2 << 30)
    executor._start()
    yield executor
    executor.close()
    torch.set_num_threads(before)
    assert not ray.is_initialized()


@pytest.fixture(scope="module")
def expected():
    return measured(opened())


def test_two_workers_give_the_same_bits(workers, expected):
    assert measured(workers) == expected
    pids = ray.get([worker.process.remote() for worker in workers.workers])
    assert len(set(pids)) == 2
    assert os.getpid() not in pids


def test_a_worker_that_is_killed_is_replaced_and_nothing_is_lost(workers, expected):
    before = ray.get([worker.process.remote() for worker in workers.workers])

    def kill(lines):
        if lines == 10:
            os.kill(before[0], signal.SIGKILL)

    assert measured(workers, kill) == expected
    after = ray.get([worker.process.remote() for worker in workers.workers])
    assert before[0] not in after
    assert before[1] in after


def test_the_actors_read_the_weights_in_shared_memory(workers):
    pids = ray.get([worker.process.remote() for worker in workers.workers])
    for pid in pids:
        assert any("/dev/shm" in m.path or "plasma" in m.path for m in psutil.Process(pid).memory_maps())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int64])
def test_tensors_survive_the_way(dtype):
    tensor = torch.arange(12).view(3, 4).t().to(dtype)
    back = from_numpy(to_numpy(tensor))
    assert back.dtype == dtype
    assert torch.equal(back, tensor)
    parameter = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16), requires_grad=False)
    assert isinstance(from_numpy(to_numpy(parameter)), torch.nn.Parameter)


def test_a_tensor_lies_as_it_did():
    for tensor in (torch.arange(12.0).view(3, 4).t(), torch.arange(24.0).view(2, 3, 4)[:, :2], torch.tensor(3.0)):
        back = from_numpy(to_numpy(tensor))
        assert torch.equal(back, tensor)
        assert back.stride() == (tensor.stride() if tensor.shape != (2, 2, 4) else (8, 4, 1))  # gaps are left out
        assert back.data_ptr() % 64 == 0


OWN_CODE = """
from transformers import LlamaConfig, LlamaForCausalLM

class OwnConfig(LlamaConfig):
    model_type = "own_llama"

class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
"""


@pytest.mark.slow
def test_a_model_with_code_of_its_own_can_be_sent(workers, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    tiny_model("llama").save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "own.py").write_text(OWN_CODE)
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    config |= {
        "model_type": "own_llama",
        "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"},
    }
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", trust_remote_code=True, dtype=torch.bfloat16)
    assert type(model).__module__.startswith("transformers_modules.")
    model.eval().requires_grad_(False)
    executor = one_more(workers, "perplexity", {}, model)
    assert measured(executor) == measured(opened(model=model))
    ray.kill(executor.workers[0])


def one_more(workers, name, options, model=None):
    """An executor with an actor of its own in the Ray that is there already."""
    executor = RayExecutor(opened(name, model), Objectives({name: (name, options)}), 1, None, 2 << 30)
    executor._hire(put(executor._local), 1, 0, False)
    return executor


@pytest.mark.parametrize(
    ("options", "message"),
    [({"fails": True}, "Slow' failed on plan 1,3: ArithmeticError: lost count"), ({"wrong": 1}, "Unknown option 'wr")],
)
def test_what_an_objective_raises_reaches_the_user(workers, slow_objective, options, message):
    failing = one_more(workers, slow_objective, options)
    with pytest.raises(UsageError, match=message):
        measured(failing)
    ray.kill(failing.workers[0])


def test_a_stop_that_comes_before_the_work_is_not_forgotten(workers, expected):
    ray.get([worker.stop.remote(workers._ask + 1) for worker in workers.workers])
    assert list(workers.measure("search", PLANS, Measurements(workers.layout))) == []
    assert measured(workers) == expected  # the next ask is another


def test_nothing_of_ray_on_stdout_and_no_other_priority(workers, capfd):
    pid = ray.get(workers.workers[0].process.remote())
    assert psutil.Process(pid).nice() == psutil.Process().nice()
    measured(workers, lambda lines: os.kill(pid, signal.SIGKILL) if lines == 5 else None)
    time.sleep(1.5)  # a message about it would take its time
    out, err = capfd.readouterr()
    assert out == ""
    assert set(err.splitlines()) == {"printed by a worker"}


def test_a_worker_on_a_machine_of_another_kind_is_refused(monkeypatch):
    monkeypatch.setattr("sys.path", list(sys.path))
    replay = opened().evaluator.replay
    there = environment(replay.model.device) | {"instructions": "avx2 of_the_driver"}
    shipment = Shipment(replay, {}, None, None, None, 32, "cpu", there, ".", "highest")
    refused = Worker().open(shipment, Objectives({}), 1, 0)
    assert "A worker would measure other numbers than this machine: the processor had of_the_driver" in str(refused)


def test_cores_are_shared_out_node_by_node():
    assert cores_of_each([8], 2) == 4
    assert cores_of_each([2, 2], 1) == 2  # a worker does not span nodes
    assert cores_of_each([2, 2], 3) == 1
    assert cores_of_each([8, 4], 2) == 4
    assert cores_of_each([2, 2], 5) == 0
    assert cores_of_each([], 1) == 0


def test_an_address_where_something_else_answers_is_refused(monkeypatch):
    monkeypatch.setattr("searcher.evaluation.ray_session.ANSWERS_WITHIN", 3)
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(UsageError, match="No Ray cluster answers at"):
            check_workers(None, f"127.0.0.1:{server.server_port}", 2, "cores")
        server.shutdown()


def test_what_cannot_be_is_refused_before_a_model_is_loaded(monkeypatch):
    check_workers(None, None, 2, "cores")
    check_workers(2, None, 2, "cores")
    with pytest.raises(UsageError, match="3 workers are more than the 2 cores"):
        check_workers(3, None, 2, "cores")
    with pytest.raises(UsageError, match="'nowhere' is not HOST:PORT"):
        check_workers(None, "nowhere", 2, "cores")
    monkeypatch.setattr("searcher.evaluation.ray_session.ANSWERS_WITHIN", 3)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(UsageError, match="No Ray cluster answers at"):
        check_workers(None, f"127.0.0.1:{port}", 2, "cores")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match="not installed"):
        check_workers(1, None, 2, "cores")


@pytest.mark.slow  # starts Ray of its own
@pytest.mark.usefixtures("children_heed_ctrl_c")
def test_ctrl_c_ends_a_search_with_workers_and_leaves_no_process(tiny, tmp_path, slow_objective):
    arguments = [*command(tiny), "--strategy", "greedy", "--budget", "4", "--workers", "1", "--name", "it"]
    arguments += ["--objective", slow_objective, "--objective-arg", "seconds=1"]
    with (tmp_path / "log").open("w") as log:
        run = subprocess.Popen([sys.executable, "-m", "searcher", "run", *arguments], cwd=tmp_path, stderr=log)
    journal, deadline = tmp_path / "runs" / "it" / "evaluations.jsonl", time.monotonic() + 120
    while len(journal.read_text().splitlines() if journal.exists() else ()) < 4 and time.monotonic() < deadline:
        assert run.poll() is None, (tmp_path / "log").read_text()
        time.sleep(0.1)
    started = psutil.Process(run.pid).children(recursive=True)
    assert any("raylet" in process.name() for process in started)
    run.send_signal(signal.SIGINT)
    assert run.wait(60) == 130, (tmp_path / "log").read_text()
    assert "Traceback" not in (tmp_path / "log").read_text()
    _, alive = psutil.wait_procs(started, timeout=20)
    assert not alive


def test_no_workers_cannot_join_a_cluster(searcher_command):
    done = searcher_command("run", "--budget", "2", "--workers", "0", "--ray-address", "auto")
    assert done.code == 2
    assert "0 workers cannot join a Ray cluster" in done.err


@pytest.mark.slow  # starts Ray of its own
def test_modules_of_the_users_hide_nothing_from_workers(tiny, tmp_path):
    """Ray would let them look in the current folder first; what plug-ins read there is still found."""
    for name in ("statistics", "random", "torch"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('hidden')")
    (tmp_path / "own.py").write_text(
        "from pathlib import Path\nfrom objectives.loss import Loss\n\nclass Own(Loss):\n    '''Reads a file.'''\n"
        "    def measure(self, candidate):\n        Path('kept.txt').read_text()\n        return super().measure(candidate)\n"
    )
    (tmp_path / "kept.txt").write_text("here")
    asked = ["evaluate", "--plan", "1", "--plan", "2", "--workers", "2", "--objective", "own.py:Own"]
    ask = [sys.executable, "-P", "-m", "searcher", *asked, *command(tiny)]
    env = os.environ | {"OMP_NUM_THREADS": "2"}
    done = subprocess.run(ask, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
