"""A checkpoint that does not fit one of two simulated accelerators is spread over both, and searched there."""

from types import SimpleNamespace

import pytest
import torch
from families import tiny_model
from simulated_devices import FIRST, KIND, SECOND, set_up
from tiny_checkpoint import save_tiny_checkpoint

from searcher.commands.preparation import _with_workers
from searcher.contracts.plan import Granularity
from searcher.errors import UsageError
from searcher.loading import spread
from searcher.loading.dtypes import weight_bytes
from searcher.loading.model import load_model
from searcher.replay.self_check import open_replay
from searcher.runs.config import RunConfig


@pytest.fixture
def two_small_devices(monkeypatch):
    """Lets torch see two devices; returns what says how much is free on each."""
    set_up()
    monkeypatch.setattr("torch.accelerator.is_available", lambda: True)
    monkeypatch.setattr("torch.accelerator.current_accelerator", lambda: torch.device(KIND))
    monkeypatch.setattr("torch.accelerator.device_count", lambda: 2)
    return lambda free: monkeypatch.setattr(spread, "bytes_free", lambda device: free)


def test_the_bytes_of_weights_are_those_in_memory(tmp_path):
    save_tiny_checkpoint(tmp_path)
    model = load_model(str(tmp_path), dtype="float32").model
    numbers = sum(parameter.numel() for parameter in model.parameters())
    assert weight_bytes(tmp_path, None) == weight_bytes(tmp_path, torch.float32) == 4 * numbers
    assert weight_bytes(tmp_path, torch.bfloat16) == 2 * numbers


@pytest.mark.parametrize(
    ("weights", "free", "found"),
    [(800, 1000, {}), (801, 1000, {"device_map": "balanced", "max_memory": {0: 800, 1: 800}})],
)
def test_a_model_is_spread_only_where_it_does_not_fit(two_small_devices, weights, free, found):
    two_small_devices(free)
    assert spread.device_map(weights, FIRST, "m") == found


def test_what_does_not_fit_all_together_is_refused(two_small_devices):
    two_small_devices(1 << 30)
    with pytest.raises(UsageError, match=r"'m' does not fit the accelerators together: .* 2.0 GiB, and 1.6 are free"):
        spread.device_map(2 << 30, FIRST, "m")
    model = tiny_model("llama")
    model.hf_device_map = {"a": 0, "b": "disk"}
    with pytest.raises(UsageError, match="blocks are left over"):
        spread.settle(model, "m")


def test_a_checkpoint_is_loaded_onto_both(two_small_devices, tmp_path, monkeypatch):
    save_tiny_checkpoint(tmp_path, num_blocks=4)
    places = {f"model.layers.{block}": FIRST if block < 2 else SECOND for block in range(4)}
    places |= {"model.embed_tokens": FIRST, "model.rotary_emb": FIRST, "model.norm": SECOND, "lm_head": SECOND}
    asked = []
    monkeypatch.setattr(
        "searcher.loading.model.device_map",
        lambda weights, first, name: asked.append(weights) or {"device_map": places},
    )
    loaded = load_model(str(tmp_path), dtype="float32")  # the map itself is made by accelerate for real devices alone
    assert asked == [weight_bytes(tmp_path, torch.float32)]
    assert loaded.device == FIRST
    with torch.inference_mode():
        replay = open_replay(loaded.model, Granularity.BLOCK)
    assert set(replay.places) == {FIRST, SECOND}


def test_a_refusal_is_not_lost_while_loading(two_small_devices, tmp_path):
    save_tiny_checkpoint(tmp_path, num_blocks=2)
    two_small_devices(1000)
    with pytest.raises(UsageError, match="does not fit the accelerators together"):
        load_model(str(tmp_path), dtype="float32")


def test_workers_are_for_models_that_fit_one_device():
    local = SimpleNamespace(evaluator=SimpleNamespace(replay=SimpleNamespace(devices=(FIRST, SECOND), streamed=False)))
    said = []
    given = ({}, None, said.append)
    assert _with_workers(local, 2, RunConfig(budget="1"), *given) is local  # workers that nobody has asked for
    assert said == [f"The model is spread over {FIRST}, {SECOND}"]
    with pytest.raises(UsageError, match=f"spread over {FIRST}, {SECOND}, and workers are for models that fit one"):
        _with_workers(local, 2, RunConfig(budget="1", workers=2), *given)
