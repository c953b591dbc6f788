"""Plans of whole blocks are copied from the files of the model, which is not loaded, and no tensor changes a bit."""

import errno
import json
import os
import subprocess
import sys

import pytest
import torch
from families import FAMILIES, tiny_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_gguf import write_tiny_gguf
from transformers import AutoModelForCausalLM, Gemma3Config, Gemma3ForConditionalGeneration

import searcher
from searcher.architecture.blocks import find_architecture
from searcher.checkpoint import copying
from searcher.errors import UsageError
from searcher.testing import tiny_tokenizer

BLOCKS, PLAN, KEPT = 6, "1,4", [0, 2, 3, 5]


def saved(folder, family="llama", dtype=torch.bfloat16, shard="60KB"):
    tiny_model(family, num_blocks=BLOCKS).to(dtype).save_pretrained(folder, max_shard_size=shard)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def sharded(tmp_path):
    """A bfloat16 Llama in several files."""
    return saved(tmp_path / "dense")


@pytest.fixture
def unloaded(monkeypatch):
    """Whatever loads a model fails, and no model is small enough to be loaded for the check."""

    def load(*_, **__):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("searcher.commands.opened.load", load)
    monkeypatch.setattr("searcher.commands.copying.IN_MEMORY", 0)


def export(model, target, **options):
    options = {"plan": PLAN, "device": "cpu", "quiet": True, "runs_dir": target.parent, **options}
    return searcher.export(None, target, model=str(model), **options)


def weights(folder):
    """All tensors of a checkpoint by name, read as the format says."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= load_file(path)
    return found


def bits(tensors):
    return {name: (one.dtype, one.shape, one.contiguous().view(torch.uint8).tolist()) for name, one in tensors.items()}


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma3_text", "gpt2", "mixtral", "deepseek_v3"])
def test_a_copy_is_what_transformers_makes_of_the_original_without_these_blocks(family, tmp_path, unloaded):
    source = saved(tmp_path / "dense", family)
    done = export(source, tmp_path / "out")
    assert (done.form, done.dtype) == ("stock", "bfloat16")
    assert done.verified == {
        "tensors": len(weights(tmp_path / "out")),
        "tensor_bytes": done.verified["tensor_bytes"],
        "built": True,
        "replayed": 24,
    }
    before, after = (AutoModelForCausalLM.from_pretrained(place, dtype="auto") for place in (source, tmp_path / "out"))
    assert after.dtype == torch.bfloat16
    for place, block in enumerate(KEPT):
        one, other = (find_architecture(model).blocks[n] for model, n in ((before, block), (after, place)))
        assert bits(one.state_dict()) == bits(other.state_dict())
    rest = {"blocks": torch.nn.ModuleList()}
    for model in (before, after):
        blocks = find_architecture(model).blocks
        blocks._modules = rest["blocks"]._modules
    assert bits(before.state_dict()) == bits(after.state_dict())
    assert done.parameters[1] < done.parameters[0]
    assert done.cache[1] == pytest.approx(done.cache[0] * len(KEPT) / BLOCKS)


def test_a_language_model_beside_a_vision_tower_of_as_many_layers(tmp_path, unloaded):
    """Its blocks have another prefix in the files than among the modules, and the tower stays as it is."""
    text = FAMILIES["gemma3_text"](BLOCKS).to_dict()
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "image_size": 28, "patch_size": 14}
    tokens = {"mm_tokens_per_image": 4, "image_token_index": 5, "boi_token_index": 6, "eoi_token_index": 7}
    config = Gemma3Config(text_config=text, vision_config={**sizes, "num_hidden_layers": BLOCKS}, **tokens)
    Gemma3ForConditionalGeneration(config).to(torch.bfloat16).save_pretrained(tmp_path / "dense")
    tiny_tokenizer().save_pretrained(tmp_path / "dense")
    export(tmp_path / "dense", tmp_path / "out")
    before, after = weights(tmp_path / "dense"), weights(tmp_path / "out")
    for place, number in enumerate(KEPT):
        one, other = (f"language_model.model.layers.{n}.mlp.up_proj.weight" for n in (number, place))
        assert torch.equal(before[one], after[other])
    rest = {name for name in before if not name.startswith("language_model.model.layers.")}
    assert any("vision_tower" in name and ".layers.5." in name for name in rest)
    assert bits({name: after[name] for name in rest}) == bits({name: before[name] for name in rest})
    model = Gemma3ForConditionalGeneration.from_pretrained(tmp_path / "out")
    assert len(model.model.language_model.layers) == len(KEPT)
    assert model.config.text_config.layer_types == [text["layer_types"][number] for number in KEPT]


def test_the_check_of_a_small_model_runs_it_too(sharded, tmp_path, monkeypatch):
    from dataclasses import asdict
    from pathlib import Path

    from searcher.checkpoint import fresh
    from searcher.checkpoint.verify import verify

    monkeypatch.setattr(fresh, "in_fresh_process", lambda _, f, r: asdict(verify(Path(f), Path(r))))
    done = export(sharded, tmp_path / "out")
    assert done.verified["logit_difference"] < 1e-4
    card = (tmp_path / "out/README.md").read_text()
    assert "It was copied: its 39 tensors are those of the original, bit for bit" in card
    assert "a fresh process loaded it in float32" in card


def test_index_config_and_other_files(sharded, tmp_path, unloaded):
    config = json.loads((sharded / "config.json").read_text())
    (sharded / "config.json").write_text(json.dumps(config | {"note": "mine", "rope_scaling": None}))
    (sharded / "generation_config.json").write_text('{"max_new_tokens": 3}')
    (sharded / "chat_template.jinja").write_text("{{ messages }}")
    (sharded / "thesis.txt").write_text("all of it")
    done = export(sharded, tmp_path / "out")
    written = json.loads((tmp_path / "out/config.json").read_text())
    assert written == config | {"note": "mine", "rope_scaling": None, "num_hidden_layers": len(KEPT)}
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
    held = {path.name: list(load_file(path)) for path in (tmp_path / "out").glob("*.safetensors")}
    assert index["weight_map"] == {name: file for file, names in held.items() for name in names}
    assert index["metadata"]["total_size"] == sum(one.nbytes for one in weights(tmp_path / "out").values())
    assert index["metadata"]["total_parameters"] == done.parameters[1]
    for name in ("generation_config.json", "chat_template.jinja", "tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (sharded / name).read_bytes()
    assert not (tmp_path / "out/thesis.txt").exists()
    export(sharded, tmp_path / "out", force=True)  # all of it is known to be ours


def test_the_history_and_the_card_are_those_of_every_export(sharded, tmp_path, unloaded):
    export(sharded, tmp_path / "once", plan="1")
    export(tmp_path / "once", tmp_path / "twice", plan="3")
    notes = json.loads((tmp_path / "twice/searcher.json").read_text())
    assert [(s["model"], s["plan"], s["of_original"]) for s in notes["history"]] == [
        ("dense", "1", "1"),
        ("once", "3", "4"),
    ]
    assert notes["origin"] == KEPT
    card = (tmp_path / "twice/README.md").read_text()
    assert "It was pruned 2 times" in card
    assert "Its weights are bfloat16, as in the original." in card
    assert "its hidden states and losses are those of the original without these blocks, bit for bit." in card
    assert f"searcher export --plan 3 --model {tmp_path / 'once'} " in card
    assert f" -o {tmp_path / 'twice'}\n" in card


@pytest.mark.parametrize("dtype", [None, "auto", "bfloat16"])
def test_bfloat16_stays_bfloat16_on_a_processor_without_it(dtype, sharded, tmp_path, unloaded, monkeypatch):
    monkeypatch.setattr("searcher.loading.model._cpu_has_bf16", lambda: False)
    done = export(sharded, tmp_path / "out", **({"dtype": dtype} if dtype else {}))
    assert done.dtype == "bfloat16"
    assert {one.dtype for one in weights(tmp_path / "out").values()} == {torch.bfloat16}
    assert done.precision == ("as asked" if dtype == "bfloat16" else "as in the original")


@pytest.mark.parametrize(("form", "dtype"), [("zeroed", None), ("custom", "auto")])
def test_other_forms_keep_the_dtype_too(form, dtype, sharded, tmp_path, monkeypatch):
    monkeypatch.setattr("searcher.loading.model._cpu_has_bf16", lambda: False)
    more = {"dtype": dtype} if dtype else {}
    assert export(sharded, tmp_path / "out", plan="1.attn", form=form, check=False, **more).dtype == "bfloat16"
    assert {one.dtype for one in weights(tmp_path / "out").values()} == {torch.bfloat16}


def test_a_dtype_of_ones_own_and_pickled_weights_are_written_as_before_and_it_is_said(sharded, tmp_path, capsys):
    export(sharded, tmp_path / "out", dtype="float16", check=False, quiet=False)
    assert "The model is loaded to write it: its weights are turned into float16" in capsys.readouterr().err
    assert {one.dtype for one in weights(tmp_path / "out").values()} == {torch.float16}
    torch.save(weights(sharded), sharded / "pytorch_model.bin")
    for path in (*sharded.glob("*.safetensors"), sharded / "model.safetensors.index.json"):
        path.unlink()
    export(sharded, tmp_path / "other", check=False, quiet=False)
    assert "The model is loaded to write it: its weights are not in safetensors" in capsys.readouterr().err
    assert {one.dtype for one in weights(tmp_path / "other").values()} == {torch.bfloat16}


def test_a_gguf_file_goes_the_same_way(tmp_path, unloaded, monkeypatch):
    monkeypatch.setenv("SEARCHER_CACHE", str(tmp_path / "cache"))
    write_tiny_gguf(tmp_path / "tiny.gguf", num_blocks=4)
    done = export(tmp_path / "tiny.gguf", tmp_path / "out", plan="1")
    assert (done.dtype, done.precision) == ("float32", "to which the GGUF file was dequantised")
    (cached,) = (tmp_path / "cache/models").iterdir()
    assert bits(block(weights(tmp_path / "out"), 1)) == bits(block(weights(cached), 2))


def block(tensors, number):
    start = f"model.layers.{number}."
    return {name[len(start) :]: one for name, one in tensors.items() if name.startswith(start)}


def quantise(folder, **config):
    """Give the matrices of a checkpoint the tensors that GPTQ would: packed weights, zero points, scales, groups."""
    tensors = {}
    for number, (name, one) in enumerate(weights(folder).items()):
        module = name.removesuffix(".weight")
        if not name.endswith("_proj.weight"):
            tensors[name] = one
            continue
        tensors |= {
            f"{module}.qweight": torch.full((one.shape[1] // 8, one.shape[0]), number, dtype=torch.int32),
            f"{module}.qzeros": torch.full((1, one.shape[0] // 8), number, dtype=torch.int32),
            f"{module}.scales": one[:, :1].T.to(torch.float16).contiguous(),
            f"{module}.g_idx": torch.zeros(one.shape[1], dtype=torch.int32),
        }
    for path in (*folder.glob("*.safetensors"), folder / "model.safetensors.index.json"):
        path.unlink()
    listed = {
        "format": "pt",
        "model.layers.3.mlp.up_proj": "x",
        "names": json.dumps(["model.layers.4.a", "model.layers.5.a"]),
    }
    save_file(tensors, folder / "model.safetensors", metadata=listed)
    path = folder / "config.json"
    how = {"quant_method": "gptq", "bits": 4, "group_size": 128, **config}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": how}))


def test_what_belongs_to_quantised_weights_goes_along(sharded, tmp_path, unloaded):
    quantise(
        sharded,
        modules_to_not_convert=["lm_head", "model.layers.1.mlp", "model.layers.5.mlp.down_proj"],
        dynamic={"-:model\\.layers\\.2\\.mlp.*": {}, "+:.*\\.layers\\.4\\..*": {"bits": 8}},
        ignore=["vision_tower.layers.1.attn", "re:.*\\.layers\\.\\d+\\.norm"],
    )
    (sharded / "quantize_config.json").write_text('{"modules": ["model.layers.3"]}')
    done = export(sharded, tmp_path / "out")
    before, after = weights(sharded), weights(tmp_path / "out")
    for place, number in enumerate(KEPT):
        assert bits(block(after, place)) == bits(block(before, number))
    how = json.loads((tmp_path / "out/config.json").read_text())["quantization_config"]
    assert how["modules_to_not_convert"] == ["lm_head", "model.layers.3.mlp.down_proj"]
    assert how["dynamic"] == {"-:model\\.layers\\.1\\.mlp.*": {}}
    assert how["ignore"] == ["vision_tower.layers.1.attn", "re:.*\\.layers\\.\\d+\\.norm"]
    assert json.loads((tmp_path / "out/quantize_config.json").read_text()) == {"modules": ["model.layers.2"]}
    with safe_open(tmp_path / "out/model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt", "model.layers.2.mlp.up_proj": "x", "names": '["model.layers.3.a"]'}
    assert done.precision == "as in the original, which gptq has quantised"
    assert "int32" in done.dtype


def test_an_expression_for_several_blocks_is_no_matter_of_copying(sharded, tmp_path):
    quantise(sharded, ignore=["re:model\\.layers\\.(1|2)\\.mlp"])
    with pytest.raises(UsageError, match="is quantised by gptq"):
        export(sharded, tmp_path / "out", check=False)
    assert [path.name for path in tmp_path.iterdir()] == ["dense"]


def cut(folder):
    path = folder / "model-00002-of-00003.safetensors"
    path.write_bytes(path.read_bytes()[:-9])


def name_strangers(folder):
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["model.layers.9.mlp.up_proj.weight"] = "model-00001-of-00003.safetensors"
    path.write_text(json.dumps(index))


FAULTS = {
    "missing shard": (
        lambda f: (f / "model-00002-of-00003.safetensors").unlink(),
        "3 files, of which 1 are missing, such as model-00002",
    ),
    "truncated shard": (cut, "model-00002-of-00003.safetensors is cut short: it holds"),
    "a header cut short": (
        lambda f: (f / "model-00002-of-00003.safetensors").write_bytes(b"version https://git-lfs"),
        "is a pointer of Git LFS",
    ),
    "strangers": (
        name_strangers,
        "names 'model.layers.9.mlp.up_proj.weight', but model-00001-of-00003.safetensors does not hold it",
    ),
    "an index that is none": (
        lambda f: (f / "model.safetensors.index.json").write_text("[]"),
        "index.json cannot be read",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_damage_is_told_in_one_line_before_anything_is_written(fault, sharded, tmp_path, unloaded, searcher_command):
    damage, told = FAULTS[fault]
    assert len(list(sharded.glob("*.safetensors"))) == 3
    damage(sharded)
    done = searcher_command("export", "--plan", PLAN, "-o", "out", "--model", sharded, defaults=False)
    assert done.code == 2
    error, hint = done.err.splitlines()[-2:]
    assert error.startswith("Error: Model 'dense'")
    assert told in error
    assert hint.startswith("  ")
    assert [path.name for path in tmp_path.iterdir()] == ["dense"]


def test_a_disk_that_fills_leaves_nothing_and_what_was_there(sharded, tmp_path, unloaded, monkeypatch):
    export(sharded, tmp_path / "out", plan="2")
    before = bits(weights(tmp_path / "out"))
    with pytest.raises(UsageError, match="exists"):
        export(sharded, tmp_path / "out")
    own = copying.write_tensors

    def full(path, *rest):
        yield next(own(path, *rest))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(copying, "write_tensors", full)
    for target in ("out", "new"):
        with pytest.raises(UsageError, match=r"The disk of .* is full"):
            export(sharded, tmp_path / target, force=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dense", "out"]
    assert bits(weights(tmp_path / "out")) == before


def flip(folder):
    path = next(path for path in sorted(folder.glob("*.safetensors")) if "00002" in path.name)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def deepen(folder):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_hidden_layers": 5}))


def lose(folder):
    (folder / "model.safetensors.index.json").unlink()


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (flip, "the tensor '.*' differs"),
        (deepen, "its config says otherwise of num_hidden"),
        (lose, "only in one of them"),
    ],
)
def test_a_copy_that_is_none_is_not_left(harm, told, sharded, tmp_path, unloaded, monkeypatch):
    own = copying.copy_checkpoint

    def copy(source, folder, done):
        own(source, folder, done)
        harm(folder)

    monkeypatch.setattr("searcher.commands.copying.copy_checkpoint", copy)
    with pytest.raises(UsageError, match=told):
        export(sharded, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["dense"]


@pytest.mark.slow
def test_a_model_on_the_hub(sharded, tmp_path):
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub/models--someone--tiny"
    for folder in ("refs", "snapshots"):
        (repository / folder).mkdir(parents=True)
    (repository / "refs/main").write_text(commit)
    before = bits(block(weights(sharded), 5))
    sharded.rename(repository / "snapshots" / commit)
    command = [
        sys.executable,
        "-m",
        "searcher",
        "export",
        "--plan",
        PLAN,
        "--model",
        "someone/tiny",
        "-o",
        "out",
        "--no-check",
    ]
    offline = {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        command, env={**os.environ, **offline}, capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "is loaded to write it" not in done.stderr
    assert bits(block(weights(tmp_path / "out"), 3)) == before


@pytest.mark.slow
def test_memory_does_not_grow_with_the_model(tmp_path):
    """A checkpoint of 2 GB, of which float32 copies would take 8."""
    from benchmarks.big_checkpoint import main

    main(tmp_path / "big", parameters=1e9, shard_bytes=5e8)
    code = (
        "import resource, searcher;"
        f"done = searcher.export(None, r'{tmp_path / 'out'}', plan='3,5', model=r'{tmp_path / 'big'}', quiet=True);"
        "print(done.dtype, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    dtype, peak = done.stdout.split()
    assert dtype == "bfloat16"
    assert int(peak) < 1 << 20  # kibibytes
