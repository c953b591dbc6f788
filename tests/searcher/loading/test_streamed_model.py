"""A model whose weights come from the disk while it runs: the same bits, whatever the family, and little in memory."""

import pytest
import torch
from families import FAMILIES, VOCABULARY, tiny_model
from streaming import resident_from, streamed_from

from searcher.architecture.streamed_modules import present, weights_of
from searcher.contracts.plan import Granularity, PrunePlan, Unit
from searcher.errors import UsageError
from searcher.loading.model import load_model
from searcher.loading.weight_store import AT_WORK
from searcher.replay.self_check import open_replay

IDS = torch.randint(VOCABULARY, (2, 24), generator=torch.Generator().manual_seed(3))


HALF = ("llama", "gemma2", "mixtral", "gpt_oss", "deepseek_v3")  # that keep something in float32, fuse, or scale


@pytest.mark.parametrize(
    ("family", "dtype"), [*((f, torch.float32) for f in FAMILIES), *((f, torch.bfloat16) for f in HALF)], ids=str
)
def test_the_bits_of_the_model_in_memory(family, dtype, tmp_path, monkeypatch):
    tiny_model(family).save_pretrained(tmp_path)
    found = streamed_from(tmp_path, monkeypatch, dtype)
    assert not found.info["missing_keys"]
    assert not found.info["unexpected_keys"]
    with torch.inference_mode():
        here, there = (
            model(input_ids=IDS, use_cache=False).logits for model in (resident_from(tmp_path, dtype), found.model)
        )
    assert torch.equal(here, there)


@pytest.mark.parametrize("family", ["llama", "gemma2", "mixtral", "gpt2"])
def test_replays_of_several_plans_read_each_block_once(family, tmp_path, monkeypatch):
    tiny_model(family).save_pretrained(tmp_path)
    found = streamed_from(tmp_path, monkeypatch)
    plans = [PrunePlan.of([Unit(block)]) for block in range(4)]
    with torch.inference_mode():
        replay, resident = (open_replay(model, Granularity.BLOCK) for model in (found.model, resident_from(tmp_path)))
        copy = replay.sharing_weights()
        before = found.store.bytes_read
        here = dict(copy.states(IDS, plans))
        blocks = sum(map(found.store.stored_bytes, found.store.parts[:4]))
        assert found.store.bytes_read - before <= blocks + max(map(found.store.stored_bytes, found.store.parts))
        for index, state in resident.states(IDS, plans):
            assert torch.equal(here[index], state)
            assert torch.equal(copy.head.losses(here[index], IDS), resident.head.losses(state, IDS))


def test_weights_are_there_while_they_are_used_and_no_longer(tmp_path, monkeypatch):
    tiny_model("llama", num_blocks=6).save_pretrained(tmp_path)
    found, resident = streamed_from(tmp_path, monkeypatch), resident_from(tmp_path)
    block, own = found.model.model.layers[2], dict(resident.model.layers[2].named_parameters())
    with torch.inference_mode():
        found.model(input_ids=IDS, use_cache=False)
    assert all(parameter.is_meta for parameter in found.model.model.layers.parameters())
    assert len(found.store._held) <= AT_WORK
    with present(block):
        assert all(torch.equal(weight, own[name]) for name, weight in block.named_parameters())
    assert all(parameter.is_meta for parameter in block.parameters())
    assert all(torch.equal(weight, own[name]) for name, weight in weights_of(block).items())
    assert found.store.held_bytes == sum(map(found.store.bytes, found.store._held))


def test_what_stays_is_read_once(tmp_path, monkeypatch):
    tiny_model("llama").save_pretrained(tmp_path)
    found = streamed_from(tmp_path, monkeypatch)
    found.store.keep(found.store.parts)
    with torch.inference_mode():
        for _ in range(3):
            found.model(input_ids=IDS, use_cache=False)
    assert found.store.bytes_read == sum(map(found.store.stored_bytes, found.store.parts))


def test_pickled_weights_are_refused(tmp_path):
    model = tiny_model("llama")
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(UsageError, match=r"cannot be streamed: pytorch_model\.bin can only be read whole"):
        load_model(str(tmp_path), weights="streamed", dtype="float32", device="cpu")
