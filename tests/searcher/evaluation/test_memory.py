"""The limit on memory holds, however many plans there are in a batch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

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
