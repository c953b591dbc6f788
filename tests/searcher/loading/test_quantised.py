"""Quantised models: packed on load by torchao, or by the checkpoint; what they cannot do is said before it is tried."""

import copy
import json
import shutil

import pytest
import torch
from families import tiny_model
from loaded import perplexity, refused
from safetensors.torch import load_file
from tiny_checkpoint import OPTIONS
from torch import nn
from torchao.quantization import Int8WeightOnlyConfig
from transformers import AutoModelForCausalLM, LlamaConfig, TorchAoConfig

import searcher
from results.anatomy.analysis import read_analysis
from searcher.architecture.packed_weights import count_bytes, count_parameters, has_packed, packed_layers, parts_of
from searcher.contracts.plan import Granularity, PrunePlan, all_units
from searcher.evaluation.ray_weights import from_numpy, to_numpy
from searcher.loading import quantise_on_load, quantised
from searcher.loading.model import load_model
from searcher.loading.quantise_on_load import quantise
from searcher.replay.gate_gradients import measure_gate_gradients
from searcher.replay.head import FusedHead
from searcher.replay.relative_flops import measure_prices
from searcher.replay.self_check import open_replay
from searcher.testing import tiny_tokenizer

BITS = ("int8", "int4")
CPU = torch.device("cpu")


@pytest.fixture
def options(tiny):
    return {"model": str(tiny / "model"), "data": str(tiny / "text.jsonl"), "quiet": True, **OPTIONS}


@pytest.fixture
def packed_checkpoint(tiny, tmp_path):
    """A checkpoint that transformers has quantised with torchao."""
    folder = shutil.copytree(tiny / "model", tmp_path / "packed")
    how = TorchAoConfig(Int8WeightOnlyConfig())
    AutoModelForCausalLM.from_pretrained(tiny / "model", quantization_config=how, dtype=torch.float32).save_pretrained(
        folder
    )
    return folder


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def small(method, family="llama"):
    model = tiny_model(family)
    quantise(model, method, CPU, "small")
    return model


def plain_copy(model):
    """The same with plain weights, those that the packed ones stand for."""
    plain = copy.deepcopy(model)
    for layer in packed_layers(plain).values():
        layer.weight = nn.Parameter(layer.weight.dequantize(), requires_grad=False)
    assert not has_packed(plain)
    return plain


def ids(rows=2, tokens=16):
    return torch.randint(0, 97, (rows, tokens), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("method", BITS)
class TestPacked:
    def test_its_weights_are_near_those_of_the_model_and_all_else_is_the_models(self, method):
        before, after = tiny_model("llama"), small(method)
        layers = packed_layers(after)
        assert {name.rpartition(".")[2] for name in layers} >= {"q_proj", "o_proj", "up_proj", "down_proj"}
        own = dict(before.named_parameters())
        for name, weight in after.named_parameters():
            if name.removesuffix(".weight") not in layers:
                assert torch.equal(weight, own[name])
                continue
            error = (weight.dequantize() - own[name]).abs()
            steps = own[name].abs().amax(dim=1, keepdim=True) / (127 if method == "int8" else 7)
            assert bool((error <= steps + 1e-6).all())
            assert error.max() > 0

    def test_it_is_replayed_as_the_plain_model_of_the_same_weights(self, method):
        model = small(method)
        with torch.inference_mode():
            packed, plain = (open_replay(one, Granularity.SUBLAYER) for one in (model, plain_copy(model)))
            assert isinstance(packed.head, FusedHead)
            assert measure_prices(packed, 16) == measure_prices(plain, 16)
            for plan in ("dense", "1", "0.attn,2.ffn"):
                found = [
                    replay.head.losses(hidden, ids())
                    for replay in (packed, plain)
                    for _, hidden in replay.states(ids(), [PrunePlan.parse(plan)])
                ]
                torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-5)

    def test_gradients_by_gates_are_those_of_the_plain_model_of_the_same_weights(self, method):
        model, units = small(method), all_units(4, Granularity.BLOCK)
        models = (model, plain_copy(model))
        with torch.inference_mode():
            packed, plain = (open_replay(one, Granularity.BLOCK) for one in models)
        found, wanted = (measure_gate_gradients(replay, ids(), units) for replay in (packed, plain))
        assert found == pytest.approx(wanted, rel=1e-4, abs=1e-5)

    def test_replays_of_other_threads_share_its_weights(self, method):
        with torch.inference_mode():
            replay = open_replay(small(method), Granularity.BLOCK)
            other = replay.sharing_weights()
            assert all(a is b for a, b in zip(replay.model.parameters(), other.model.parameters(), strict=True))
            ((_, one),), ((_, two),) = (r.states(ids(), [PrunePlan.parse("2")]) for r in (replay, other))
        assert torch.equal(one, two)

    def test_parameters_are_what_it_stands_for_and_bytes_what_it_takes(self, method):
        plain, packed = tiny_model("llama"), small(method)
        assert count_parameters([packed]) == count_parameters([plain])
        layers = packed_layers(packed)
        weights = sum(layer.weight.numel() for layer in layers.values())
        rows = sum(layer.out_features for layer in layers.values())
        groups = sum(layer.weight.numel() // 32 for layer in layers.values())  # (scale, zero point) of each
        kept = weights + (4 + 1) * (rows if method == "int8" else groups)
        saved = count_bytes([plain]) - count_bytes([packed])
        assert 4 * weights - kept <= saved <= 4 * weights - kept + (rows if method == "int8" else groups)

    def test_parts_of_its_weights_reach_another_process_bit_for_bit(self, method):
        for layer in packed_layers(small(method)).values():
            for part in parts_of(layer.weight):
                assert torch.equal(from_numpy(to_numpy(part)), part)


class TestSearched:
    @pytest.mark.parametrize("method", BITS)
    def test_from_the_command_line(self, searcher_command, method):
        plain = searcher_command("run", "--strategy", "greedy", "--budget", "2", "--name", "plain")
        done = searcher_command(
            "run", "--strategy", "greedy", "--budget", "2", "--quantize", method, "--name", "packed"
        )
        assert (plain.code, done.code) == (0, 0)
        assert f"model in float32, weights in {method}" in done.out
        assert f"Its weights are quantised: {method}" in done.err
        assert "weights in" not in plain.out
        runs = [searcher.load_run(f"runs/{name}") for name in ("plain", "packed")]
        here, there = (run.record["identity"] for run in runs)
        assert not {"quantize", "packed"} & here.keys()  # a run without it is what it was before
        assert there["quantize"] == method
        assert "torchao" in there["packed"]
        assert there["model_fingerprint"].startswith(f"{here['model_fingerprint']}+{method}")
        values = [run.dense.report["perplexity"].value for run in runs]
        assert values[0] != values[1] == pytest.approx(values[0], rel=0.5)
        refused_pair = searcher_command("compare", "runs/plain", "runs/packed", defaults=False)
        assert refused_pair.code == 2
        assert "quantize" in refused_pair.err

    @pytest.mark.slow
    def test_what_it_exports_are_the_plain_weights(self, options, tmp_path, tiny):
        run = searcher.run(strategy="greedy", budget=1, quantize="int8", runs_dir=str(tmp_path / "runs"), **options)
        done = searcher.export(run, tmp_path / "out", quiet=True)
        own, written = (load_file(folder / "model.safetensors") for folder in (tiny / "model", tmp_path / "out"))
        assert done.verified["logit_difference"] < 1e-4
        assert torch.equal(own["model.embed_tokens.weight"], written["model.embed_tokens.weight"])
        assert {t.dtype for t in written.values()} == {torch.float32}
        assert len(written) == len(own) - 9
        assert "weights of blocks in int8" in (tmp_path / "out" / "README.md").read_text()

    def test_what_was_fitted_to_quantised_weights_is_not_exported_beside_plain_ones(self, options, tmp_path):
        run = searcher.run(
            strategy="greedy", budget=1, quantize="int8", heal="bias", runs_dir=str(tmp_path / "r"), **options
        )
        message = refused(searcher.export, run, tmp_path / "out", quiet=True)
        assert "fitted its healing 'bias' to weights in int8" in message
        assert "Add --heal bias" in message
        done = searcher.export(run, tmp_path / "out", heal="bias", check=False, quiet=True)
        assert len(load_file(done.folder / "model.safetensors")) > 0

    def test_other_commands(self, options, tmp_path):
        model = searcher.best_model(plan="1", quantize="int8", model=options["model"], device="cpu", quiet=True)
        assert has_packed(model)
        assert len(model.model.layers) == 5
        for heal in ("bias", "rescale:fold=false", "linear", "ffn:steps=2"):
            assert searcher.heal(
                plan="1",
                heal=heal,
                quantize="int4",
                runs_dir=str(tmp_path),
                **{name: value for name, value in options.items() if name != "windows"},
            )
        found = searcher.analyze(
            parts=["influence"],
            quantize="int8",
            runs_dir=str(tmp_path),
            **{name: value for name, value in options.items() if name != "report_windows"},
        )
        analysis = read_analysis(found)
        assert "weights in int8" in analysis.setting
        assert not {"taylor", "magnitude"} & analysis.parts["influence"].arrays.keys()

    def test_a_checkpoint_that_is_quantised_is_searched_as_it_is(self, packed_checkpoint, options):
        own = options | {"model": str(packed_checkpoint), "dtype": "auto"}
        loaded, stock = load_model(own["model"]).model, AutoModelForCausalLM.from_pretrained(packed_checkpoint)
        assert torch.equal(loaded(ids()).logits, stock(ids()).logits)
        run = searcher.run(strategy="greedy", budget=1, runs_dir=str(packed_checkpoint / "runs"), **own)
        assert run.record["identity"]["packed"].startswith("torchao (Int8WeightOnlyConfig) by torchao ")
        assert run.record["identity"]["dtype"] == "float32"
        assert "quantised by torchao (Int8WeightOnlyConfig) already" in refused(
            load_model, str(packed_checkpoint), quantize="int8"
        )
        assert "--device" in refused(load_model, str(packed_checkpoint), device="cuda:9")


class TestRefused:
    def test_an_unknown_way(self, searcher_command):
        done = searcher_command("run", "--budget", "1", "--quantize", "int3")
        assert done.code == 2
        assert "int3" in done.err
        assert "'int8'" in done.err
        assert "Traceback" not in done.err

    def test_a_library_that_is_not_installed(self, options, monkeypatch):
        monkeypatch.setattr(quantise_on_load, "is_installed", lambda name: False)
        message = refused(perplexity, options | {"quantize": "int8"})
        assert "--quantize int8 needs torchao, which is not installed" in message
        assert 'pip install "pruneplan[quantize]"' in message

    @pytest.mark.parametrize("method", quantised.LIBRARIES)
    def test_a_checkpoint_whose_library_is_not_installed(self, tiny, tmp_path, method, monkeypatch):
        folder = shutil.copytree(tiny / "model", tmp_path / "model")
        edit_config(folder, quantization_config={"quant_method": method, "load_in_8bit": method == "bitsandbytes"})
        monkeypatch.setattr(quantised, "is_installed", lambda name: False)
        monkeypatch.setattr(quantised, "runs_here", lambda packing, device: True)
        if method == "fp8":  # which becomes plain weights then
            return
        message = refused(load_model, str(folder))
        assert f"is quantised by {method}" in message
        assert f"pip install {' '.join(quantised.LIBRARIES[method])}" in message

    def test_a_library_that_fails(self, packed_checkpoint, monkeypatch):
        def fail(*_args, **_options):
            raise RuntimeError("no kernel for this device")

        monkeypatch.setattr(nn.Linear, "forward", fail)
        message = refused(load_model, str(packed_checkpoint))
        assert "its library cannot load it on cpu: no kernel for this device" in message

    def test_groups_that_do_not_fit(self, tmp_path, options):
        config = LlamaConfig(
            vocab_size=97,
            hidden_size=48,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
        )
        AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
        tiny_tokenizer().save_pretrained(tmp_path)
        message = refused(load_model, str(tmp_path), quantize="int4", device="cpu")
        assert (
            "rows of 'model.layers.0.self_attn.q_proj' have 48 weights, which are no groups of 32 or 64 or 128"
            in message
        )
        assert "Use --quantize int8" in message
        assert load_model(str(tmp_path), quantize="int8", device="cpu").packed.startswith("int8 by torchao")

    def test_layers_of_another_kind(self):
        message = refused(quantise, tiny_model("gpt2"), "int8", CPU, "small")
        assert "the blocks of GPT2LMHeadModel hold no torch.nn.Linear of 32 rows and columns or more" in message

    @pytest.mark.parametrize(
        ("strategy", "said"),
        [
            ({"metric": "taylor"}, "The statistic taylor cannot be had of quantised weights"),
            ({"metric": "magnitude"}, "The statistic magnitude cannot be had of quantised weights"),
        ],
    )
    def test_statistics_of_weights(self, options, tmp_path, strategy, said):
        runs = tmp_path / "runs"
        arguments = {"strategy": "influence", "strategy_args": strategy, "budget": 1, "runs_dir": str(runs)}
        assert said in refused(searcher.run, quantize="int8", **arguments, **options)
        assert not runs.exists()

    @pytest.mark.parametrize("heal", ["lora:steps=1", "rescale", "linear-folded", "layer:steps=1"])
    def test_healings_that_change_weights(self, options, tmp_path, heal):
        more = {"quantize": "int4", "heal": heal, "runs_dir": str(tmp_path / "runs")}
        message = refused(searcher.run, strategy="greedy", budget=1, **more, **options)
        assert f"Healing by {heal} cannot be had of quantised weights" in message
        assert ("Use rescale:fold=false" if heal == "rescale" else "Use bias, linear") in message
        assert not (tmp_path / "runs").exists()

    def test_export_has_no_such_option(self, options, tmp_path):
        assert "no option 'quantize'" in refused(searcher.export, None, tmp_path / "out", plan="1", quantize="int8")


def test_run_json_without_the_option_reads_as_before(options, tmp_path):
    run = searcher.run(strategy="greedy", budget=1, runs_dir=str(tmp_path), **options)
    path = run.folder / "run.json"
    record = json.loads(path.read_text())
    del record["config"]["quantize"]  # as older versions have written it
    path.write_text(json.dumps(record))
    again = searcher.run(strategy="greedy", budget=1, runs_dir=str(tmp_path), **options)
    assert again.folder == run.folder
