"""`searcher export` as a user runs it."""

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_checkpoint import command
from transformers import AutoModelForCausalLM

import searcher

MODEL_OPTIONS = ("--dtype", "float32", "--device", "cpu")
GUIDE = (Path(__file__).parent.parent / "docs" / "checkpoints.md").read_text()


@pytest.fixture
def model(tiny):
    return ("--model", tiny / "model", "--data", tiny / "text.jsonl", "--window-tokens", 16, *MODEL_OPTIONS)


def document(done):
    assert done.code == 0, done.err
    return json.loads(done.out)


def test_a_run_is_exported_and_loads(searcher_command, tmp_path):
    found = document(
        searcher_command("run", "--budget", "1-2", "--strategy", "greedy", "--name", "one", "--format", "json")
    )
    done = searcher_command("export", "runs/one", "-o", "small", defaults=False)
    assert done.code == 0, done.err
    told = " ".join(done.out.split())
    assert f"Plan {found['best']['plan']} in small (form stock" in told
    assert "Weights in float32, as in the original" in told
    assert "a fresh process loaded it in float32: its logits differ" in told
    card = (tmp_path / "small/README.md").read_text()
    value = found["best"]["report"]["perplexity"]["value"]
    assert f"{value:.4g}"[:5] in card.replace(",", "")
    assert "searcher export runs/one -o small" in card
    assert "strategy `greedy`" in card
    loaded = AutoModelForCausalLM.from_pretrained("small")
    assert loaded.config.num_hidden_layers == 4
    again = searcher_command("export", "runs/one", "-o", "small", defaults=False)
    assert again.code == 2
    assert "small exists" in again.err
    other = document(
        searcher_command(
            "export", "runs/one", "-o", "small", "--force", "--size", 1, "--format", "json", defaults=False
        )
    )
    assert other["parameters"]["left"] > sum(p.numel() for p in loaded.parameters())


@pytest.mark.slow
def test_the_command_on_the_card_makes_the_same_again(searcher_command, model, tmp_path):
    first = searcher_command(
        "export", "--plan", "1.attn", "--form", "zeroed", "-o", "a folder", "--format", "json", *model, defaults=False
    )
    assert document(first)["form"] == "zeroed"
    told = re.search(r"```sh\nsearcher (.*)\n```", (tmp_path / "a folder/README.md").read_text())
    name, *arguments = shlex.split(told[1])
    weights = (tmp_path / "a folder/model.safetensors").read_bytes()
    again = document(searcher_command(name, *arguments, "--force", "--format", "json", defaults=False))
    assert again["form"] == "zeroed"
    assert again["folder"] == "a folder"
    assert (tmp_path / "a folder/model.safetensors").read_bytes() == weights


def test_modules_in_the_current_folder_hide_nothing(searcher_command, model, tmp_path):
    for name in ("statistics", "safetensors"):  # Python puts the current folder first for `python -m`
        (tmp_path / f"{name}.py").write_text("raise SystemExit('hidden')")
    assert searcher_command("export", "--plan", "1", "-o", "small", *model, defaults=False).code == 0


@pytest.mark.slow
def test_a_model_with_code_of_its_own(searcher_command, tiny, tmp_path, capsys):
    folder = tmp_path / "own"
    shutil.copytree(tiny / "model", folder)
    (folder / "configuration_own.py").write_text(
        "from transformers import LlamaConfig\nclass OwnConfig(LlamaConfig):\n    model_type = 'own'\n"
    )
    (folder / "modeling_own.py").write_text(
        "from transformers import LlamaForCausalLM\nfrom .configuration_own import OwnConfig\n"
        "class OwnForCausalLM(LlamaForCausalLM):\n    config_class = OwnConfig\n"
    )
    config = json.loads((folder / "config.json").read_text())
    kinds = {"AutoConfig": "configuration_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}
    config |= {"model_type": "own", "architectures": ["OwnForCausalLM"], "auto_map": kinds}
    (folder / "config.json").write_text(json.dumps(config))
    options = ("--model", folder, "--trust-remote-code", *MODEL_OPTIONS)
    for plan, form in (("1", "stock"), ("1.attn", "zeroed")):
        done = searcher_command(
            "export", "--plan", plan, "--form", form, "-o", form, "--format", "json", *options, defaults=False
        )
        assert document(done)["verified"]["same_text"]
        card = (tmp_path / form / "README.md").read_text()
        assert "--trust-remote-code" in card
        exec(re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)[0], {})
        assert len(capsys.readouterr().out) > 0
    refused = searcher_command("export", "--plan", "1.attn", "-o", "custom", "--no-check", *options, defaults=False)
    assert refused.code == 2
    assert "has no form custom Use --form zeroed" in " ".join(refused.err.split())
    assert not (tmp_path / "custom").exists()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("-o", "there"), "there exists"),
        (("-o", "there", "--force"), "there will not be replaced: it is no checkpoint of searcher export"),
        (("-o", "model", "--force"), "model is the model that is pruned"),
        (("-o", "/proc/small"), "/proc/small cannot be written"),
        (("-o", "small", "--dtype", "int8"), "dtype 'int8' is not known"),
        (("-o", "small", "--form", "stock"), "for which ordinary checkpoints have no form"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_healed(
    options, told, searcher_command, tiny, model, tmp_path, monkeypatch
):
    (tmp_path / "there").mkdir()
    (tmp_path / "model").symlink_to(tiny / "model")
    monkeypatch.setattr("searcher.commands.opened._heal", lambda *_: pytest.fail("it healed first"))
    done = searcher_command("export", "--plan", "1.attn", "--heal", "lora", *model, *options, defaults=False)
    assert done.code == 2
    assert told in done.err


def test_the_command_on_the_card_has_all_options_that_matter(searcher_command, model, tmp_path):
    given = ("--plan", "1.ffn", "--form", "custom", "--no-check", "--runs-dir", "my runs", "--heal", "linear")
    more = ("--heal-windows", "12", "-o", "it's small", "--format", "json")
    assert document(searcher_command("export", *given, *more, *model, defaults=False))["dtype"] == "float32"
    told = re.search(r"```sh\nsearcher (.*)\n```", (tmp_path / "it's small/README.md").read_text())
    arguments = shlex.split(told[1])
    for option in (*given, *model, "--heal-windows", "12", "it's small"):
        assert str(option) in arguments
    weights = (tmp_path / "it's small/model.safetensors").read_bytes()
    again = searcher_command(*arguments, "--force", defaults=False)
    assert again.code == 0, again.err
    assert (tmp_path / "it's small/model.safetensors").read_bytes() == weights


def test_a_healed_run_is_exported_healed(searcher_command, tmp_path):
    arguments = ("--budget", "2", "--strategy", "greedy", "--name", "one", "--heal-windows", "12")
    found = document(searcher_command("run", *arguments, "--heal", "linear", "--format", "json"))
    done = document(searcher_command("export", "runs/one", "-o", "small", "--format", "json", defaults=False))
    assert done["form"] == "custom"
    loaded = searcher.load("small")
    again = searcher.best_model("runs/one", quiet=True)
    ids = torch.arange(3, 20)[None]
    with torch.inference_mode():
        torch.testing.assert_close(loaded(ids).logits, again(ids).logits)
    card = (tmp_path / "small/README.md").read_text()
    assert "healed afterwards by `linear`" in card
    assert re.search(
        r"fitted on \d+ windows of \d+ tokens of .*\. On \d+ windows held out by which its penalty was chosen, and fitted to as well, the loss went from",
        card,
    )
    assert found["best"]["plan"] == done["plan"]


TRAINED = [pytest.param(recipe, marks=pytest.mark.slow) for recipe in ("lora:steps=3,rank=2", "layer:steps=3")]


@pytest.mark.parametrize("recipe", ["linear-folded", *TRAINED])
def test_a_healed_plan_is_an_ordinary_checkpoint(recipe, searcher_command, model):
    arguments = ("--plan", "1-2", "--heal", recipe, "--heal-windows", 12, "-o", "small", "--format", "json")
    assert document(searcher_command("export", *arguments, *model, defaults=False))["form"] == "stock"
    AutoModelForCausalLM.from_pretrained("small")


def test_the_cache_of_a_custom_checkpoint_is_as_small_as_promised(searcher_command, model):
    arguments = ("--plan", "0.attn,2.attn,3", "-o", "small", "--format", "json")
    done = document(searcher_command("export", *arguments, *model, defaults=False))
    loaded = searcher.load("small")
    with torch.inference_mode():
        cache = loaded(torch.arange(3, 33)[None], use_cache=True).past_key_values
    used = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers) / 30
    assert used == done["kv_cache"]["left"] + 2 * 8  # float32; two layers that only count
    assert done["kv_cache"]["left"] == done["kv_cache"]["dense"] / 2
    weights = Path("small/model.safetensors").stat().st_size
    assert weights == pytest.approx(4 * done["parameters"]["left"], rel=0.2)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--plan", "99", "-o", "small"), "99"),
        (("-o", "small"), "a run folder or a plan"),
        (("nowhere", "-o", "small"), "nowhere"),
        (("--plan", "1", "-o", "small", "--heal", "lore"), "Did you mean 'lora'"),
        (("--plan", "1.attn", "-o", "small", "--form", "stock"), "--form zeroed"),
        (("--plan", "1.attn", "-o", "small", "--heal", "layer"), "fills gaps of whole blocks"),
        (("--plan", "1", "-o", "text.txt/small"), "cannot be written"),
    ],
)
def test_mistakes_are_told_in_one_line(arguments, told, searcher_command, model, tmp_path):
    (tmp_path / "text.txt").write_text("a file")
    done = searcher_command("export", *arguments, *model, defaults=False)
    assert done.code == 2
    assert told in done.err
    assert "Traceback" not in done.err
    assert [path.name for path in tmp_path.iterdir() if path.name != "runs"] == ["text.txt"]


@pytest.mark.slow  # a checkpoint of many megabytes
@pytest.mark.usefixtures("children_heed_ctrl_c")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_export_leaves_nothing(sent, tiny, tmp_path):
    arguments = ["export", "--plan", "1", "-o", str(tmp_path / "small"), *command(tiny)[:4], *MODEL_OPTIONS]
    process = subprocess.Popen([sys.executable, "-m", "searcher", *arguments], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if "Loading it again" in line:
            break
    process.send_signal(sent)
    assert process.wait(timeout=60) == (130 if sent == signal.SIGINT else -signal.SIGKILL)
    assert not (tmp_path / "small").exists()
    if sent == signal.SIGINT:
        assert not list(tmp_path.iterdir())
    done = subprocess.run([sys.executable, "-m", "searcher", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["small"]


@pytest.mark.slow
def test_the_guide_loads_what_it_says(searcher_command, model, capsys):
    assert searcher_command("export", "--plan", "1-2", "-o", "smol-22", *model, defaults=False).code == 0
    assert searcher_command("export", "--plan", "1.attn", "-o", "smol-custom", *model, defaults=False).code == 0
    blocks = re.findall(r"```python\n(.*?)```", GUIDE, flags=re.DOTALL)
    exec(blocks[0], {})
    assert len(capsys.readouterr().out) > 0
    names = {}
    exec(blocks[1], names)
    assert names["model"].generate(torch.arange(3, 8)[None], max_new_tokens=4).shape == (1, 9)
    exec(blocks[2], names)
    assert names["model"].model.config.num_hidden_layers == 6
