"""The limit on memory holds, however many plans there are in a batch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from searcher.errors import UsageError
from searcher.evaluation.memory import RESERVE, Footprint, Room, find_room, find_room_on_all

MEASURE = """
import json, sys
from pathlib import Path
import numpy as np, psutil, torch
from transformers import LlamaConfig, LlamaForCausalLM
from objectives.loss import Loss
from searcher.replay.relative_flops import measure_prices
from searcher.evaluation.open_executor import open_executor
from searcher.runs.measurement import Measurements
from searcher.loading.free_memory import RESERVE
from searcher.contracts.plan import Granularity, PrunePlan, all_units
from searcher.replay.self_check import open_replay
from searcher.testing import tiny_tokenizer

blocks, plans, room = 12, int(sys.argv[1]), int(sys.argv[2])
config = LlamaConfig(vocab_size=97, hidden_size=256, intermediate_size=256, num_hidden_layers=blocks,
                     num_attention_heads=4, num_key_value_heads=4)
torch.manual_seed(0)
model = LlamaForCausalLM(config).eval().requires_grad_(False)
units, rng = all_units(blocks, Granularity.SUBLAYER), np.random.default_rng(0)
batch = {}
while len(batch) < plans:
    batch[PrunePlan.of(units[i] for i in rng.choice(len(units), 6, replace=False))] = None
ids = torch.randint(97, (8, 64))
limit = psutil.Process().memory_info().rss + RESERVE + room
with torch.inference_mode():
    replay = open_replay(model, Granularity.SUBLAYER)
    prices = measure_prices(replay, 64)
    executor = open_executor(replay, {"loss": Loss()}, {"search": ids}, tiny_tokenizer(), prices, limit)
known = Measurements(executor.layout)
for line in executor.measure("search", list(batch), known):
    known.add(line)
# Of this process alone: `ru_maxrss` starts with the size of the process that started this one.
peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
state = 512 * 256 * 4
print(json.dumps({"limit": limit, "peak": peak, "kept": executor._kept.bytes, "unlimited": plans * blocks * state}))
"""


def peak_of(plans, room):
    done = subprocess.run([sys.executable, "-c", MEASURE, str(plans), str(room)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")
@pytest.mark.parametrize("plans", [50, pytest.param(5000, marks=pytest.mark.slow)])
def test_the_peak_stays_under_the_limit(plans):
    room = (100 if plans == 50 else 200) << 20
    found = peak_of(plans, room)
    assert found["unlimited"] > 2 * room  # without a limit it would not
    assert found["kept"] > room // 4
    assert found["peak"] <= found["limit"], found


class TestRoom:
    """What fits where so much is free; one evaluator needs 30 bytes, and 40 more for the states of a path."""

    FOOTPRINT = Footprint(state=1, working=11, num_blocks=40)

    @pytest.fixture(autouse=True)
    def _nothing_taken(self, monkeypatch):
        monkeypatch.setattr("searcher.evaluation.memory.bytes_taken", lambda device: 0)

    @pytest.mark.parametrize(
        ("room", "cores", "found"),
        [(200, 2, Room(2, 60)), (80, 2, Room(1, 10)), (65, 4, Room(2, 0)), (31, 4, Room(1, 0)), (65, 0, Room(1, 0))],
    )
    def test_on_one_device(self, room, cores, found):
        assert find_room(self.FOOTPRINT, RESERVE + room, torch.device("cpu"), cores) == found

    def test_on_several_each_holds_the_paths_of_its_own_blocks_and_the_fullest_decides(self):
        places = (torch.device("cuda:0"),) * 10 + (torch.device("cuda:1"),) * 30
        one, other = 30 + 10, 30 + 30
        found = find_room_on_all(self.FOOTPRINT, RESERVE + 130, places, 2)
        assert found == Room(2, min(130 - 2 * one, 130 - 2 * other))
        with pytest.raises(UsageError, match="is not enough on cuda:0"):
            find_room_on_all(self.FOOTPRINT, RESERVE + 20, places, 2)
