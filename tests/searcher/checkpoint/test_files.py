"""What stands in a checkpoint beside its weights: precision, model card, history, generation config, processor."""

import json
import shutil
from collections import Counter

import pytest
import torch
from families import tiny_model
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from tiny_checkpoint import OPTIONS
from transformers import AutoModelForCausalLM, GenerationConfig

import searcher
from searcher.checkpoint.card import Card, Numbers, Terms, Value, write_card
from searcher.errors import UsageError
from searcher.testing import tiny_tokenizer

MEASURED = {name: OPTIONS[name] for name in ("window_tokens", "device")}


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """A bfloat16 checkpoint."""
    return saved(tmp_path_factory.mktemp("half") / "half", torch.bfloat16)


def saved(folder, dtype):
    tiny_model("llama", num_blocks=6).to(dtype).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def export(model, target, plan="1", **options):
    """Written without the check in a fresh process."""
    options = {"device": "cpu", "check": False, "quiet": True, "runs_dir": target.parent, **options}
    return searcher.export(None, target, plan=plan, model=str(model), **options)


def dtypes(folder):
    weights = Counter(tensor.dtype for tensor in load_file(folder / "model.safetensors").values())
    config = json.loads((folder / "config.json").read_text())
    return set(weights), config["dtype"]


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("heal", [None, "linear", "lora:steps=2"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_weights_come_out_in_the_precision_of_the_checkpoint(dtype, heal, native, tiny, tmp_path, monkeypatch):
    """Whatever this processor computes in, and healing was done in."""
    monkeypatch.setattr("searcher.loading.model._cpu_has_bf16", lambda: native)
    source = saved(tmp_path / "dense", dtype)
    more = {"heal": heal, "data": str(tiny / "text.jsonl"), "heal_windows": 12, **MEASURED} if heal else {}
    done = export(source, tmp_path / "out", **more)
    name = str(dtype).removeprefix("torch.")
    assert dtypes(tmp_path / "out") == ({dtype}, name)
    assert done.to_json()["dtype"] == name
    assert f"Its weights are {name}, as in the original." in (tmp_path / "out/README.md").read_text()
    if heal is None:  # bit for bit those of the checkpoint
        before, after = (load_file(folder / "model.safetensors") for folder in (source, tmp_path / "out"))
        assert torch.equal(before["model.layers.0.mlp.up_proj.weight"], after["model.layers.0.mlp.up_proj.weight"])
        assert torch.equal(before["model.layers.5.mlp.up_proj.weight"], after["model.layers.4.mlp.up_proj.weight"])


def test_weights_come_out_in_the_precision_that_is_asked_for(half, tmp_path):
    done = export(half, tmp_path / "out", dtype="float16")
    assert dtypes(tmp_path / "out") == ({torch.float16}, "float16")
    card = (tmp_path / "out/README.md").read_text()
    assert "Its weights are float16, as asked." in card
    assert "--dtype float16" in card
    assert done.precision == "as asked"


def test_a_run_is_exported_in_the_precision_of_the_checkpoint(half, tiny, tmp_path):
    run = searcher.run(
        model=str(half),
        data=str(tiny / "text.jsonl"),
        budget=1,
        strategy="random",
        runs_dir=str(tmp_path / "runs"),
        quiet=True,
        **OPTIONS,
    )
    searcher.export(run, tmp_path / "out", check=False, quiet=True)
    assert dtypes(tmp_path / "out")[0] == {torch.bfloat16}
    data = ModelCard.load(tmp_path / "out/README.md").data
    (result,) = data.eval_results
    assert (result.metric_type, result.dataset_name) == ("perplexity", "text.jsonl")
    assert result.metric_value == run.best.report["perplexity"].value
    assert data.metrics == ["perplexity"]


def test_weights_of_several_precisions_keep_theirs(half, tmp_path):
    source = tmp_path / "mixed"
    shutil.copytree(half, source)
    weights = load_file(source / "model.safetensors")
    norms = {name: tensor.float() + 1e-6 for name, tensor in weights.items() if "norm" in name}
    save_file(weights | norms, source / "model.safetensors", metadata={"format": "pt"})
    export(source, tmp_path / "out")
    written = load_file(tmp_path / "out/model.safetensors")
    assert torch.equal(written["model.norm.weight"], norms["model.norm.weight"])
    assert written["model.layers.0.mlp.up_proj.weight"].dtype == torch.bfloat16
    assert dtypes(tmp_path / "out")[1] == "bfloat16"
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto").dtype == torch.bfloat16


@pytest.mark.parametrize(
    "content",
    [
        {"stop_strings": ["###"]},
        {"num_beams": 4},
        {"cache_implementation": "static"},
        {"temperature": 0.5},
        {"eos_token_id": [2, 3]},
    ],
    ids=str,
)
def test_the_generation_config_is_kept_and_does_not_disturb_the_check(content, tiny, tmp_path, monkeypatch):
    from dataclasses import asdict
    from pathlib import Path

    from searcher.checkpoint import fresh
    from searcher.checkpoint.verify import verify

    monkeypatch.setattr(fresh, "in_fresh_process", lambda _, f, r: asdict(verify(Path(f), Path(r))))
    source = tmp_path / "dense"
    shutil.copytree(tiny / "model", source)
    own = json.dumps({"max_new_tokens": 3, "do_sample": False, **content, "note": "mine"})
    (source / "generation_config.json").write_text(own)
    done = export(source, tmp_path / "out", check=True)
    assert done.verified["generated"] == 16
    assert (tmp_path / "out/generation_config.json").read_text() == own
    assert GenerationConfig.from_pretrained(tmp_path / "out").max_new_tokens == 3


def test_files_of_processor_tokenizer_and_license_go_with_it(half, tmp_path):
    source = tmp_path / "dense"
    shutil.copytree(half, source)
    kept = ("preprocessor_config.json", "processor_config.json", "chat_template.jinja", "tokenizer.model", "LICENSE")
    for name in (*kept, "additional_chat_templates/tools.jinja", "optimizer.pt", "notes.txt"):
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text(name)
    export(source, tmp_path / "out")
    for name in (*kept, "additional_chat_templates/tools.jinja"):
        assert (tmp_path / "out" / name).read_text() == name
    assert not (tmp_path / "out/optimizer.pt").exists()
    assert not (tmp_path / "out/notes.txt").exists()
    export(source, tmp_path / "out", force=True)  # all of it is known to be ours


def test_a_list_as_long_as_there_are_blocks_is_kept(half, tmp_path):
    source = tmp_path / "dense"
    shutil.copytree(half, source)
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"eos_token_id": [2, 3, 4, 5, 6, 7]}))
    export(source, tmp_path / "out")
    assert json.loads((tmp_path / "out/config.json").read_text())["eos_token_id"] == [2, 3, 4, 5, 6, 7]


def test_pruning_twice_keeps_the_first_plan(half, tmp_path):
    """Blocks 0 to 5; without 1 they are 0, 2, 3, 4, 5: then 1 and 3 of them are 2 and 4 of the first."""
    export(half, tmp_path / "once", plan="1,3.attn")
    export(tmp_path / "once", tmp_path / "twice", plan="1,3")
    notes = json.loads((tmp_path / "twice/searcher.json").read_text())
    assert [(s["model"], s["plan"], s["of_original"]) for s in notes["history"]] == [
        ("half", "1,3.attn", "1,3.attn"),
        ("once", "1,3", "2,4"),
    ]
    assert notes["origin"] == [0, 3, 5]
    card = (tmp_path / "twice/README.md").read_text()
    assert "It was pruned 2 times" in card
    assert "| half | 1,3.attn | 1,3.attn | nothing |" in card
    assert "| once | 1,3 | 2,4 | nothing |" in card
    model = searcher.load(tmp_path / "twice")
    direct = searcher.best_model(plan="1,2,4,3.attn", model=str(half), dtype="bfloat16", quiet=True)
    ids = torch.arange(3, 20)[None]
    with torch.inference_mode():
        assert torch.equal(model(ids).logits, direct(ids).logits)
    for form in ("stock", "zeroed"):
        with pytest.raises(UsageError, match=f"form {form} has none.*--form custom"):
            export(tmp_path / "once", tmp_path / "other", plan="1", form=form)


def test_what_healing_put_in_has_no_number_in_the_original(half, tiny, tmp_path):
    healed = {"heal": "linear", "data": str(tiny / "text.jsonl"), "heal_windows": 12, "dtype": "float32", **MEASURED}
    export(half, tmp_path / "once", plan="2", **healed)
    export(tmp_path / "once", tmp_path / "twice", plan="2")
    notes = json.loads((tmp_path / "twice/searcher.json").read_text())
    assert [(s["plan"], s["of_original"]) for s in notes["history"]] == [("2", "2"), ("2", None)]
    assert notes["origin"] == [0, 1, 3, 4, 5]


FACTS = {
    "plan": "1",
    "form": "stock",
    "dense_parameters": 10,
    "parameters": 8,
    "dense_cache": None,
    "cache": None,
    "dtype": "float32",
    "precision": "as in the original",
    "own_code": False,
    "steps": [],
    "verified": "",
}


def test_the_card_carries_the_metadata_of_the_hub(tmp_path):
    values = [Value("perplexity", "perplexity", 12.5, "a/text"), Value("qa", "acc", float("nan"), "arc_easy")]
    terms = Terms("org/model", "other", "own-license", "LICENSE")
    card = Card("org/model", "searcher export", numbers=Numbers(values=values), terms=terms, datasets=["a/text"])
    write_card(tmp_path, "small", card, FACTS)
    read = ModelCard.load(tmp_path / "README.md")
    data = read.data
    assert (data.base_model, data.license, data.license_name, data.license_link) == (
        "org/model",
        "other",
        "own-license",
        "LICENSE",
    )
    assert (data.datasets, data.metrics, data.library_name) == (["a/text"], ["perplexity"], "transformers")
    assert data.pipeline_tag == "text-generation"
    assert [(r.metric_type, r.metric_value) for r in data.eval_results] == [("perplexity", 12.5)]
    assert "http" not in read.text
    assert "pip install" not in read.text
    write_card(tmp_path, 'a "name"', card, FACTS | {"form": "custom"})
    read = ModelCard.load(tmp_path / "README.md")
    assert read.data.library_name == "searcher"
    assert "http" not in read.text
    assert "pip install" not in read.text


def test_terms_of_a_checkpoint_are_handed_on(half, tmp_path):
    source = tmp_path / "dense"
    shutil.copytree(half, source)
    said = "license: other\nlicense_name: own\nlicense_link: LICENSE\nbase_model: org/base\n"
    (source / "README.md").write_text(f"---\n{said}---\nThe original.")
    export(source, tmp_path / "once")
    export(tmp_path / "once", tmp_path / "twice")
    data = ModelCard.load(tmp_path / "twice/README.md").data
    assert (data.base_model, data.license, data.license_name) == ("org/base", "other", "own")
    (source / "README.md").write_text("---\nlicense: [\n---\nNot YAML.")
    export(source, tmp_path / "other")
    assert ModelCard.load(tmp_path / "other/README.md").data.license is None
