"""Checkpoints that are no ordinary ones: each is one clear line, in every command, or loads as what it is."""

import json
import shutil

import pytest
import torch
import transformers
from families import tiny_model
from loaded import perplexity, refused
from safetensors.torch import load_file, save_file
from tiny_checkpoint import OPTIONS

import searcher
from searcher.loading import model_source, quantised
from searcher.loading.model import load_model
from searcher.loading.special_checkpoints import DEQUANTISED, PACKED_FILES
from searcher.testing import tiny_tokenizer

KNOWN = transformers.quantizers.auto.AUTO_QUANTIZER_MAPPING.keys() - DEQUANTISED.keys()
QUANTISED = {method: {"quant_method": method} for method in sorted(KNOWN) if "bitsandbytes" not in method} | {
    "bitsandbytes, 4 bits": {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "bitsandbytes, 8 bits": {"quant_method": "bitsandbytes", "load_in_8bit": True},
    "gptq": {"quant_method": "gptq", "bits": 4, "group_size": 128},
    "awq": {"quant_method": "awq", "bits": 4, "group_size": 128},
    "compressed-tensors": {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {}},
    "hqq": {"quant_method": "hqq", "quant_config": {"weight_quant_params": {"nbits": 4}}},
    "torchao": {"quant_method": "torchao", "quant_type": {"default": {"_type": "Int8WeightOnlyConfig"}}},
    "a method that transformers does not know": {"quant_method": "zzz"},
    "no method": {"bits": 4},
}
MARKERS = {
    **{name: {"quantization_config": how} for name, how in QUANTISED.items()},
    "within the text's config": {"text_config": {"quantization_config": {"quant_method": "gptq"}}},
    "compression_config": {"compression_config": {"config_groups": {}}},
    "MLX": {"quantization": {"group_size": 64, "bits": 4}},
}


@pytest.fixture(autouse=True)
def without_libraries(monkeypatch):
    """What runs packed weights is installed on no machine here; with it they are searched: see test_quantised.py."""
    monkeypatch.setattr(quantised, "is_installed", lambda package: False)


@pytest.fixture
def checkpoint(tiny, tmp_path):
    return shutil.copytree(tiny / "model", tmp_path / "model")


@pytest.fixture
def options(checkpoint, tiny):
    return {"model": str(checkpoint), "data": str(tiny / "text.jsonl"), "quiet": True, **OPTIONS}


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_weights(folder, edit):
    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("marker", MARKERS)
def test_a_quantised_checkpoint_is_refused_before_its_weights_are_read(checkpoint, marker):
    edit_config(checkpoint, **MARKERS[marker])
    (checkpoint / "model.safetensors").write_bytes(b"not read")
    for call in (load_model, searcher.load):
        message = refused(call, str(checkpoint))
        assert "is quantised by" in message
        assert "Pass the checkpoint that it was made from" in message


@pytest.mark.parametrize("file", PACKED_FILES)
def test_a_file_that_tells_of_packed_weights_is_refused_too(checkpoint, file):
    (checkpoint / file).write_text("{}")
    assert f"is quantised by {PACKED_FILES[file]}" in refused(load_model, str(checkpoint))


COMMANDS = {
    "run": ["run", "--budget", "1"],
    "evaluate": ["evaluate", "--plan", "1"],
    "export": ["export", "--plan", "1", "-o", "out"],
    "export of a sublayer": ["export", "--plan", "1.attn", "-o", "out"],
    "heal": ["heal", "--plan", "1", "--heal", "bias"],
    "analyze": ["analyze", "--part", "influence"],
}
SPECIAL = {
    "bitsandbytes": lambda f: edit_config(f, quantization_config=QUANTISED["bitsandbytes, 4 bits"]),
    "gptq": lambda f: edit_config(f, quantization_config=QUANTISED["gptq"]),
    "adapter": lambda f: (f / "adapter_config.json").write_text("{}"),
    "fewer blocks": lambda f: edit_config(f, num_hidden_layers=4),
    "pad token": lambda f: edit_config(f, pad_token_id=97),
    "encoder-decoder": lambda f: edit_config(f, is_encoder_decoder=True),
    "cut short": lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-9]),
    "NaN": lambda f: edit_weights(
        f, lambda w: w["model.layers.3.mlp.up_proj.weight"].view(-1)[5:6].fill_(float("nan"))
    ),
}
SAID = {
    "bitsandbytes": "is quantised by bitsandbytes (4 bits)",
    "gptq": "is quantised by gptq (4 bits)",
    "adapter": "has an adapter of peft (adapter_config.json) beside its weights",
    "fewer blocks": "has 4 blocks by its config.json, but holds weights of more: 'model.layers.4.input_layernorm.weight' and 17 others",
    "pad token": "its pad_token_id is 97, but its vocabulary has 97 tokens",
    "encoder-decoder": "is an encoder-decoder (llama)",
    "cut short": "model.safetensors is cut short: it holds",
    "NaN": "has a weight that holds NaN: 'model.layers.3.mlp.up_proj.weight'",
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("special", SPECIAL)
def test_every_command_says_in_one_line_what_it_is(searcher_command, checkpoint, tmp_path, tiny, command, special):
    SPECIAL[special](checkpoint)
    name, *arguments = COMMANDS[command]
    more = ["--model", checkpoint, "--data", tiny / "text.jsonl", "--device", "cpu", "--dtype", "float32"]
    done = searcher_command(name, *arguments, *more, defaults=False)
    assert done.code == 2
    error, hint = done.err.splitlines()[-2:]
    assert error.startswith("Error: Model '")
    assert SAID[special] in error
    assert hint.startswith("  ")
    assert "Traceback" not in done.err
    assert not (tmp_path / "out").exists()


class TestAdapter:
    @pytest.fixture
    def adapted(self, checkpoint):
        from peft import LoraConfig, get_peft_model

        options = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
        get_peft_model(tiny_model("llama", num_blocks=6), options).save_pretrained(checkpoint)
        return checkpoint

    def test_beside_a_model_it_is_refused_and_without_it_the_model_is_what_it_was(self, adapted, options):
        message = refused(perplexity, options)
        assert "Move adapter_config.json away" in message
        (adapted / "adapter_config.json").rename(adapted / "away")
        assert perplexity(options) == pytest.approx(155.4, abs=0.1)

    def test_alone_it_is_told_how_to_merge_it(self, adapted):
        for file in ("config.json", "model.safetensors"):
            (adapted / file).unlink()
        message = refused(load_model, str(adapted))
        assert "is an adapter of peft, without the model that it is for" in message
        assert "merge_and_unload" in message

    @pytest.mark.parametrize(("lacks", "said"), [((), "has an adapter of peft"), (("config.json",), "is an adapter")])
    def test_on_the_hub_too(self, adapted, monkeypatch, lacks, said):
        for file in lacks:
            (adapted / file).unlink()

        def cached(spec, file, *, revision, _raise_exceptions_for_missing_entries=True):
            if (adapted / file).is_file():
                return str(adapted / file)
            if _raise_exceptions_for_missing_entries:
                raise OSError(f"{spec} has no {file}")
            return None

        monkeypatch.setattr(model_source, "cached_file", cached)
        assert f"Model 'someone/adapted' {said}" in refused(load_model, "someone/adapted")
        (adapted / "adapter_config.json").unlink()
        if lacks:
            assert "neither a local folder nor can it be had" in refused(load_model, "someone/adapted")


class TestDequantised:
    """Of what transformers can turn into ordinary weights while it loads them."""

    def pack_fp8(self, folder):
        """Returns the weights that it stands for."""
        plain = {}

        def pack(weights):
            for name in list(weights):
                if "proj" in name:
                    scale = weights[name].abs().max().reshape(1, 1).float() / 448
                    weights[name] = (weights[name] / scale).to(torch.float8_e4m3fn)
                    weights[f"{name}_scale_inv"] = scale
                    plain[name] = weights[name].float() * scale

        edit_weights(folder, pack)
        how = {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"}
        edit_config(folder, quantization_config=how)
        return plain

    def test_fp8_becomes_ordinary_weights_and_says_so(self, checkpoint, options):
        plain = self.pack_fp8(checkpoint)
        loaded = load_model(str(checkpoint), dtype="float32", device="cpu")
        weights = loaded.model.state_dict()
        assert len(plain) == 6 * 7
        for name, weight in plain.items():
            torch.testing.assert_close(weights[name], weight, rtol=1e-2, atol=0)  # scaled in bfloat16
        assert loaded.warnings == ("Its packed weights were dequantised",)
        for dtype in (torch.bfloat16, torch.float16):
            model = load_model(str(checkpoint), dtype=str(dtype).removeprefix("torch."), device="cpu").model
            assert {weight.dtype for weight in model.parameters()} == {dtype}
        assert len({weight.dtype for weight in searcher.load(checkpoint).parameters()}) == 1
        assert perplexity(options) == pytest.approx(155.4, rel=0.05)

    def test_what_is_exported_of_it_in_a_plain_dtype_is_an_ordinary_checkpoint(self, checkpoint, options, tmp_path):
        self.pack_fp8(checkpoint)
        config = {name: options[name] for name in ("model", "device")}
        done = searcher.export(None, tmp_path / "out", plan="1", dtype="bfloat16", quiet=True, **config)
        assert done.verified["logit_difference"] < 1e-4
        assert "quantization_config" not in json.loads((tmp_path / "out" / "config.json").read_text())
        assert {t.dtype for t in load_file(tmp_path / "out" / "model.safetensors").values()} <= {
            torch.float32,
            torch.bfloat16,
        }

    def test_it_is_exported_as_it_is(self, checkpoint, options, tmp_path):
        plain = self.pack_fp8(checkpoint)
        done = searcher.export(None, tmp_path / "out", plan="1", model=options["model"], device="cpu", quiet=True)
        before, after = (load_file(place / "model.safetensors") for place in (checkpoint, tmp_path / "out"))
        for part in ("mlp.up_proj.weight", "mlp.up_proj.weight_scale_inv", "input_layernorm.weight"):
            one, other = before[f"model.layers.5.{part}"], after[f"model.layers.4.{part}"]
            assert one.dtype == other.dtype
            assert torch.equal(one.float(), other.float())
        assert after["model.layers.4.mlp.up_proj.weight"].dtype == torch.float8_e4m3fn
        assert done.dtype == "float8_e4m3fn, float32"
        weights = load_model(str(tmp_path / "out"), dtype="float32", device="cpu").model.state_dict()
        name = "model.layers.{}.mlp.up_proj.weight"
        torch.testing.assert_close(weights[name.format(4)], plain[name.format(5)], rtol=1e-2, atol=0)

    def test_mxfp4_experts_become_ordinary_weights(self, tmp_path):
        model = tiny_model("gpt_oss")
        model.save_pretrained(tmp_path)
        tiny_tokenizer().save_pretrained(tmp_path)

        def pack(weights):
            for name in [name for name in weights if name.endswith(("gate_up_proj", "down_proj"))]:
                experts, rows, columns = weights.pop(name).shape
                weights[f"{name}_blocks"] = torch.full((experts, columns, rows // 32, 16), 0x22, dtype=torch.uint8)
                weights[f"{name}_scales"] = torch.full((experts, columns, rows // 32), 127, dtype=torch.uint8)

        edit_weights(tmp_path, pack)
        edit_config(tmp_path, quantization_config={"quant_method": "mxfp4"})
        loaded = load_model(str(tmp_path), dtype="float32", device="cpu")
        experts = [weight for name, weight in loaded.model.named_parameters() if name.endswith("gate_up_proj")]
        assert len(experts) == 4
        assert all(bool((weight == 1).all()) for weight in experts)  # code 2 of FP4 is 1, scaled by 2**(127 - 127)


class TestWeightsThatDoNotFit:
    def test_blocks_beyond_the_config_are_refused(self, checkpoint):
        edit_config(checkpoint, num_hidden_layers=4)
        assert "has 4 blocks by its config.json" in refused(load_model, str(checkpoint))
        assert "has 4 blocks by its config.json" in refused(searcher.load, checkpoint)

    @pytest.mark.parametrize(
        "key",
        [
            "model.layers.1.self_attn.q_proj.bias",
            "model.layers.1.mlp.extra.weight",
            "model.layers.1.self_attn.q_proj.weight_scale",
            "layers.1.self_attn.q_proj.bias",
            "model.embed_tokens.weight_scale",
            "lm_head.bias",
        ],
    )
    def test_weights_within_parts_of_the_model_are_refused(self, checkpoint, key):
        edit_weights(checkpoint, lambda weights: weights.update({key: torch.ones(32)}))
        assert f"has no place for '{key}' in a LlamaForCausalLM" in refused(load_model, str(checkpoint))

    @pytest.mark.parametrize(
        ("key", "part"),
        [
            ("model.vision_tower.patch.weight", "model.vision_tower"),
            ("vision_tower.patch.weight", "model.vision_tower"),
            ("v_head.summary.weight", "model.v_head"),
            ("mtp.layers.0.weight", "model.mtp"),
        ],
    )
    def test_parts_that_the_model_lacks_are_told_by_name(self, checkpoint, options, key, part, capsys):
        edit_weights(checkpoint, lambda weights: weights.update({key: torch.ones(32), f"{key}2": torch.ones(32)}))
        loaded = load_model(str(checkpoint), device="cpu")
        assert loaded.warnings == (f"Weights of '{part}' are left out: LlamaForCausalLM has no such part",)
        searcher.evaluate(["dense"], **options | {"quiet": False})
        assert f"Warning: Weights of '{part}'" in capsys.readouterr().err
        with pytest.warns(UserWarning, match=f"Weights of '{part}' are left out"):
            searcher.load(checkpoint)

    @pytest.mark.parametrize("declared", [0, 1])
    def test_a_block_that_only_looks_further_ahead_is_left_out(self, checkpoint, declared):
        edit_weights(checkpoint, lambda weights: weights.update({"model.layers.6.eh_proj.weight": torch.ones(32)}))
        edit_config(checkpoint, num_nextn_predict_layers=declared)
        if declared:
            (warning,) = load_model(str(checkpoint)).warnings
            assert "'model.layers.6' are left out" in warning
        else:
            assert "has 6 blocks by its config.json" in refused(load_model, str(checkpoint))

    @pytest.mark.parametrize(
        ("family", "key"),
        [
            ("llama", "model.layers.0.self_attn.rotary_emb.inv_freq"),
            ("gpt2", "transformer.h.0.attn.bias"),
            ("gpt2", "h.0.attn.bias"),
            ("gpt2", "h.0.attn.masked_bias"),
            ("gpt_neox", "gpt_neox.layers.0.attention.bias"),
            ("gpt_neox", "gpt_neox.layers.0.attention.masked_bias"),
        ],
    )
    def test_masks_and_rotations_of_old_checkpoints_are_no_weights(self, tmp_path, family, key):
        tiny_model(family).save_pretrained(tmp_path)
        tiny_tokenizer().save_pretrained(tmp_path)
        edit_weights(tmp_path, lambda weights: weights.update({key: torch.ones(4)}))
        assert load_model(str(tmp_path)).warnings == ()

    def test_a_head_that_is_tied_may_be_saved(self, tmp_path):
        config = transformers.LlamaConfig(**tiny_model("llama").config.to_dict() | {"tie_word_embeddings": True})
        transformers.LlamaForCausalLM(config).save_pretrained(tmp_path)
        tiny_tokenizer().save_pretrained(tmp_path)
        edit_weights(tmp_path, lambda w: w.update({"lm_head.weight": w["model.embed_tokens.weight"].clone()}))
        assert load_model(str(tmp_path)).warnings == ()

    def test_the_first_weight_of_another_shape_is_named(self, checkpoint):
        edit_config(checkpoint, vocab_size=90)
        assert "'lm_head.weight' is (97, 32), not (90, 32)" in refused(load_model, str(checkpoint))


class TestDamaged:
    @pytest.mark.parametrize("kept", [0, 4, 8, 100, 0.5, -1])
    def test_weights_cut_short(self, checkpoint, kept):
        path = checkpoint / "model.safetensors"
        whole = path.read_bytes()
        path.write_bytes(whole[: int(kept * len(whole)) if kept == 0.5 else kept])
        for call in (load_model, searcher.load):
            assert "model.safetensors is cut short: it holds" in refused(call, str(checkpoint))

    def test_a_pointer_of_git_lfs(self, checkpoint):
        (checkpoint / "model.safetensors").write_text(
            "version https://git-lfs.github.com/spec/v1\noid sha256:a\nsize 9\n"
        )
        assert "is a pointer of Git LFS" in refused(load_model, str(checkpoint))

    @pytest.mark.parametrize("content", [b"", b"no pickle" * 99, b"<html>not found</html>"])
    def test_pickles_that_are_none(self, checkpoint, content):
        (checkpoint / "model.safetensors").unlink()
        (checkpoint / "pytorch_model.bin").write_bytes(content)
        assert "pytorch_model.bin of" in refused(load_model, str(checkpoint))

    @pytest.mark.parametrize("kept", [0.2, 0.9])
    def test_pickles_cut_short(self, checkpoint, kept):
        weights = load_file(checkpoint / "model.safetensors")
        (checkpoint / "model.safetensors").unlink()
        torch.save(weights, checkpoint / "pytorch_model.bin")
        assert load_model(str(checkpoint)).num_blocks == 6
        whole = (checkpoint / "pytorch_model.bin").read_bytes()
        (checkpoint / "pytorch_model.bin").write_bytes(whole[: int(kept * len(whole))])
        assert "is no file of torch.save, or the beginning of one" in refused(load_model, str(checkpoint))

    def test_files_that_an_index_names_and_that_are_missing(self, checkpoint):
        (checkpoint / "model.safetensors").unlink()
        index = {
            "metadata": {},
            "weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"},
        }
        (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
        message = refused(load_model, str(checkpoint))
        assert "names 2 files, of which 2 are missing, such as model-00001-of-00002.safetensors" in message

    @pytest.mark.parametrize("changes", [{"hidden_size": "abc"}, {"num_attention_heads": 0}, {"rope_parameters": 7}])
    def test_fields_that_cannot_be(self, checkpoint, changes):
        edit_config(checkpoint, **changes)
        refused(load_model, str(checkpoint))

    @pytest.mark.parametrize("content", ["", "[]", "5", "[" * 100_000, "\udcff"])
    def test_a_config_that_is_none(self, checkpoint, content):
        (checkpoint / "config.json").write_text(content, errors="surrogateescape")
        assert "config.json cannot be read" in refused(load_model, str(checkpoint))


class TestNotFinite:
    @pytest.mark.parametrize(
        ("value", "dtype", "said", "hint"),
        [
            (float("nan"), "float32", "NaN", "damaged"),
            (float("nan"), "float16", "NaN", "damaged"),
            (float("inf"), "float32", "infinity", "damaged"),
            (1e6, "float16", "infinity", "--dtype bfloat16 or --dtype float32"),
        ],
    )
    def test_the_first_bad_weight_is_named(self, checkpoint, value, dtype, said, hint):
        name = "model.layers.3.mlp.up_proj.weight"
        edit_weights(checkpoint, lambda weights: weights[name].view(-1)[7:8].fill_(value))
        message = refused(load_model, str(checkpoint), dtype=dtype)
        assert f"holds {said}: '{name}'" in message
        assert hint in message
        assert "family" not in message

    def test_what_overflows_in_float16_is_told_where_and_how_to_go_on(self, checkpoint, options):
        def enlarge(weights):
            for name in weights:
                if name.startswith("model.layers.2.mlp"):
                    weights[name] *= 3000

        edit_weights(checkpoint, enlarge)
        message = refused(perplexity, options | {"dtype": "float16"})
        assert "overflows in float16: its weights are finite, but what comes out of block 2 is not" in message
        assert "Try --dtype bfloat16 or --dtype float32" in message
        for dtype in ("bfloat16", "float32"):
            assert perplexity(options | {"dtype": dtype}) > 1

    def test_logits_that_overflow_are_those_of_the_head(self, checkpoint, options):
        edit_weights(checkpoint, lambda weights: weights["lm_head.weight"].mul_(60_000))
        assert "comes out of its output head is not" in refused(perplexity, options | {"dtype": "float16"})


def test_tokens_that_the_model_does_not_embed_are_named(checkpoint, options):
    path = checkpoint / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["model"]["vocab"]["a"] = 120
    path.write_text(json.dumps(tokenizer))
    for call in (perplexity, lambda o: searcher.run(budget=1, **o), lambda o: searcher.run(budget=1, heal="bias", **o)):
        message = refused(call, options)
        assert "holds token 120 ('a'), but the model embeds 97 tokens" in message
        assert "resize_token_embeddings" in message


def test_special_tokens_beyond_the_vocabulary_are_told(checkpoint):
    edit_config(checkpoint, bos_token_id=97, eos_token_id=[1, 98])
    said = [warning.split(" (")[0] for warning in load_model(str(checkpoint)).warnings]
    assert said == [
        "its bos_token_id is 97, but its vocabulary has 97 tokens",
        "its eos_token_id is 98, but its vocabulary has 97 tokens",
    ]
