"""A custom checkpoint that is loaded, changed and saved stays what it is; and searcher measures and prunes it again."""

import copy
import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_checkpoint import OPTIONS
from transformers import AutoModelForCausalLM, AutoTokenizer

import searcher
from searcher.errors import UsageError

IDS = torch.arange(3, 20)[None]


@pytest.fixture(scope="module")
def custom(tiny, tmp_path_factory):
    """A checkpoint that lacks a block and two sublayers, with a matrix in the place of the block."""
    folder = tmp_path_factory.mktemp("custom") / "custom"
    options = {name: OPTIONS[name] for name in ("window_tokens", "dtype", "device")}
    searcher.export(
        None,
        folder,
        plan="1.attn,2,4.ffn",
        heal="linear",
        model=str(tiny / "model"),
        data=str(tiny / "text.jsonl"),
        heal_windows=12,
        runs_dir=folder.parent,
        quiet=True,
        check=False,
        **options,
    )
    return folder


def logits(model):
    with torch.inference_mode():
        return model(IDS).logits


def changed(model):
    """The model, tuned."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.01)
    return model


def adapted(model):
    """The same by an adapter that is merged."""
    wrapped = get_peft_model(model, LoraConfig(r=2, target_modules=["v_proj", "up_proj"], init_lora_weights=False))
    return wrapped.merge_and_unload()


WAYS = {
    "as it is": lambda model: model,
    "tuned": changed,
    "adapted": adapted,
    "copied": copy.deepcopy,
    "pickled": lambda model: pickle.loads(pickle.dumps(model)),
    "in half precision": lambda model: model.to(torch.bfloat16),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_custom_model_saves_itself_as_what_it_is(way, custom, tmp_path):
    model = WAYS[way](searcher.load(custom))
    model.save_pretrained(tmp_path / "again")
    again = searcher.load(tmp_path / "again")
    assert again.dtype == model.dtype
    weights = model.state_dict()
    assert again.state_dict().keys() == weights.keys()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in again.state_dict().items())
    if model.dtype == torch.float32:  # else `to` has rounded what loading keeps exact, the frequencies of positions
        torch.testing.assert_close(logits(again), logits(model), rtol=0, atol=0)
    assert (tmp_path / "again/searcher.json").read_text() == (custom / "searcher.json").read_text()
    with pytest.raises(ValueError, match="searcher_custom"):  # nothing takes it for an ordinary one
        AutoModelForCausalLM.from_pretrained(tmp_path / "again")


def test_it_is_pushed_as_what_it_is(custom, monkeypatch):
    """As the hub's client sees it: the files that are there when it uploads."""
    pushed = {}

    def upload(folder):
        pushed.update({name: (folder / name).read_text() for name in ("config.json", "searcher.json")})

    model = searcher.load(custom)
    monkeypatch.setattr(type(model), "_upload_modified_files", lambda self, f, *a, **k: upload(Path(f)))
    monkeypatch.setattr("transformers.utils.hub.hf_api", lambda *_a, **_k: Api())
    monkeypatch.setattr("transformers.utils.hub.create_and_tag_model_card", lambda *_a, **_k: Api())
    model.push_to_hub("somebody/something")
    assert json.loads(pushed["config.json"])["model_type"] == "searcher_custom"
    assert json.loads(pushed["searcher.json"])["plan"] == "1.attn,2,4.ffn"


class Api:
    """A hub that takes everything."""

    def create_repo(self, name, **_):
        return type("Repository", (), {"repo_id": name})

    def save(self, _):
        """A model card."""


def test_a_model_in_memory_saves_itself_as_what_it_is(tiny, tmp_path):
    model = searcher.best_model(plan="0.attn,3", model=str(tiny / "model"), dtype="float32", quiet=True)
    model.save_pretrained(tmp_path / "saved")
    torch.testing.assert_close(logits(searcher.load(tmp_path / "saved")), logits(model), rtol=0, atol=0)


def options(custom, tiny, **more):
    return {**OPTIONS, "model": str(custom), "data": str(tiny / "text.jsonl"), "quiet": True, **more}


def test_evaluate_measures_a_custom_checkpoint(custom, tiny):
    """Its perplexity is that of the model that searcher.load gives."""
    found = searcher.evaluate(["dense", "0"], **options(custom, tiny))["evaluations"]
    pruned = searcher.best_model(plan="0", model=str(custom), device="cpu", quiet=True)
    assert logits(pruned).shape == logits(searcher.load(custom)).shape
    assert found[0]["values"]["perplexity"] != found[1]["values"]["perplexity"]
    healed = searcher.evaluate(["1.attn,2,4.ffn"], **options(tiny / "model", tiny, heal="linear", heal_windows=12))[
        "evaluations"
    ]
    assert found[0]["values"]["perplexity"] == pytest.approx(healed[0]["values"]["perplexity"], rel=1e-5)


def test_a_search_on_a_custom_checkpoint(custom, tiny, tmp_path):
    run = searcher.run(strategy="greedy", budget=1, runs_dir=str(tmp_path), **options(custom, tiny))
    assert run.best.size == 1
    with pytest.raises(UsageError, match=r"granularity 'sublayer': block 1 has no attention"):
        searcher.run(budget=1, granularity="sublayer", runs_dir=str(tmp_path), **options(custom, tiny))


@pytest.mark.parametrize("damage", ["no notes", "not JSON", "other blocks", "other model"])
def test_damaged_notes_are_told_in_one_line(damage, custom, tiny, tmp_path):
    folder = tmp_path / "damaged"
    shutil.copytree(custom, folder)
    notes = json.loads((folder / "searcher.json").read_text())
    if damage == "no notes":
        (folder / "searcher.json").unlink()
    elif damage == "not JSON":
        (folder / "searcher.json").write_text("{")
    else:
        changes = {"silent": {"17": {"mlp": None}}} if damage == "other blocks" else {"model_type": "nothing"}
        (folder / "searcher.json").write_text(json.dumps(notes | changes))
    for used in (searcher.load, lambda f: searcher.evaluate(["dense"], **options(f, tiny))):
        with pytest.raises(UsageError, match=r"searcher\.json"):
            used(folder)


def test_lm_eval_takes_it(custom):
    from lm_eval.models.huggingface import HFLM

    tokenizer = AutoTokenizer.from_pretrained(custom)
    model = HFLM(pretrained=searcher.load(custom), tokenizer=tokenizer, batch_size=1, prefix_token_id=2)
    request = type("Instance", (), {"args": ("ab", "cd")})
    ((found, _),) = model.loglikelihood([request], disable_tqdm=True)
    ids = torch.tensor([tokenizer("abcd")["input_ids"]])
    with torch.inference_mode():
        scores = searcher.load(custom)(ids).logits.log_softmax(-1)
    expected = sum(scores[0, i - 1, ids[0, i]] for i in (-2, -1))
    assert found == pytest.approx(float(expected), rel=1e-4)
