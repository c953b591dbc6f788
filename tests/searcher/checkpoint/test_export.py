"""A checkpoint of any family, plan, form and healing loads again and gives what was measured."""

import errno
import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from calibrations import calibration_of, heal
from families import FAMILIES, tiny_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

import searcher
from searcher.architecture.replacement_modules import FFN, LinearMap, LowRankMap, Scale, Shift, SwiGLU
from searcher.checkpoint import fresh
from searcher.checkpoint.card import Card
from searcher.checkpoint.target import check_target
from searcher.checkpoint.verify import verify
from searcher.commands.export import export
from searcher.commands.opened import Opened
from searcher.commands.progress import Progress
from searcher.contracts.form import Form
from searcher.contracts.granularity import granularity_of
from searcher.contracts.plan import Action, PrunePlan
from searcher.errors import UsageError
from searcher.healing.rescale import Rescale
from searcher.loading.model import LoadedModel
from searcher.replay.footprint import measure_amounts
from searcher.replay.pruned_model import pruned
from searcher.replay.repair import LowRank, Repair, ReplacementModule
from searcher.replay.self_check import open_replay, probe_of
from searcher.testing import tiny_tokenizer

BLOCKS = 6
IDS = torch.arange(3, 27)[None]
CARD = Card("tiny", "searcher export --plan 1")


def opened(family, plan, repair=None, dtype=torch.float32, through=None):
    """A tiny model with a plan, perhaps saved and loaded; None where the family does not support its units."""
    model = tiny_model(family, num_blocks=BLOCKS)
    if through is not None:  # then buffers keep their own precision
        model.save_pretrained(through)
        model = AutoModelForCausalLM.from_pretrained(through, dtype=dtype).eval().requires_grad_(False)
    loaded = LoadedModel(model, tiny_tokenizer(), "tiny", "fingerprint", torch.device("cpu"), dtype, through)
    plan = PrunePlan.parse(plan)
    with torch.inference_mode():
        try:
            replay = open_replay(model, granularity_of([plan]))
        except UsageError:
            return None
        amounts = measure_amounts(replay, probe_of(model).shape[1])
    return Opened(loaded, replay, plan, repair(model) if repair else Repair(), "mended" if repair else "", amounts)


@pytest.fixture
def in_process(monkeypatch):
    """Verified in this process, which is faster."""
    monkeypatch.setattr(fresh, "in_fresh_process", lambda _, f, r: asdict(verify(Path(f), Path(r))))


def write(one, target, form=None, **options):
    with Progress(quiet=True) as progress:
        return export(one, target, CARD, form, options.pop("force", False), options.pop("check", True), progress)


@pytest.mark.parametrize("plan", ["0,2", "3,5"])
@pytest.mark.parametrize("family", FAMILIES)
def test_whole_blocks_give_an_ordinary_checkpoint(family, plan, tmp_path, in_process):
    """Logits, generation with a cache, parameters and cache bytes are checked by `export` itself."""
    done = write(opened(family, plan), tmp_path / "out")
    assert done.form is Form.STOCK
    config = AutoConfig.from_pretrained(tmp_path / "out").get_text_config(decoder=True)
    assert config.num_hidden_layers == BLOCKS - 2
    dense = FAMILIES[family](BLOCKS)
    kept = [block for block in range(BLOCKS) if str(block) not in plan.split(",")]
    for name, value in vars(dense).items():
        if isinstance(value, list | tuple) and len(value) == BLOCKS:
            assert list(getattr(config, name)) == [value[block] for block in kept], name
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert sum(p.numel() for p in model.parameters()) == done.parameters[1] < done.parameters[0]


@pytest.mark.parametrize("form", [Form.ZEROED, Form.CUSTOM])
@pytest.mark.parametrize("family", FAMILIES)
def test_sublayers(family, form, tmp_path, in_process):
    one = opened(family, "0.attn,1.ffn,3,4.attn")
    if one is None:
        pytest.skip("its sublayers cannot be removed")
    done = write(one, tmp_path / "out", form)
    assert done.form is form
    if form is Form.CUSTOM:
        assert done.parameters[1] == one.amounts["parameters"].left(one.plan)
        with pytest.raises((ValueError, KeyError)):  # nothing takes it for an ordinary checkpoint
            AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    else:
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
        assert len(model.state_dict()) > 0


def shifted(module, size=0.02):
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += size * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    return module.requires_grad_(False)


def width(model):
    return model.config.get_text_config(decoder=True).hidden_size


@pytest.mark.parametrize(
    ("family", "dtype"),
    [("llama", torch.float32), ("qwen3", torch.float32), ("gemma3_text", torch.float32), ("qwen3", torch.bfloat16)],
)
def test_factors_in_weights_are_stock(family, dtype, tmp_path, in_process):
    """As transformers loads it: the logits of the healed plan in the model that it is from."""
    plan, wanted = "1,3", []

    def repair(model):
        calibration = calibration_of(family, model=model)
        found = heal(calibration, plan, Rescale())
        replay = calibration.replay
        with pruned(replay.model, replay.architecture, replay.outputs, PrunePlan.parse(plan), found) as healed:
            wanted.append(healed(input_ids=IDS, use_cache=False).logits)
        return found

    done = write(opened(family, plan, repair, dtype, tmp_path / "model"), tmp_path / "out")
    assert done.form is Form.STOCK
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    assert loaded.dtype is dtype
    torch.testing.assert_close(loaded(input_ids=IDS, use_cache=False).logits, wanted[0], rtol=0, atol=0)


STAND_INS = {
    "shift": lambda model: Shift(width(model)),
    "scale": lambda model: Scale(),
    "linear": lambda model: LinearMap(width(model)),
    "low rank": lambda model: LowRankMap(width(model), 3),
    "ffn": lambda model: FFN(width(model), 16),
    "swiglu": lambda model: SwiGLU(width(model), 16),
}


@pytest.mark.parametrize("kind", STAND_INS)
@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "gpt_neox", "qwen3_moe"])
def test_modules_that_healing_put_in(family, kind, tmp_path, in_process):
    def repair(model):
        return Repair(
            after={
                (block, Action.GONE): ReplacementModule(shifted(STAND_INS[kind](model), 0.01 * block))
                for block in (1, 5)
            }
        )

    done = write(opened(family, "0-1,3,5", repair), tmp_path / "out")
    assert done.form is Form.CUSTOM
    loaded = searcher.load(tmp_path / "out")
    assert sum(p.numel() for p in loaded.parameters()) == done.parameters[1]
    assert not loaded.training


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "smollm3"])
def test_weights_that_healing_changed_and_a_block_it_put_in(family, tmp_path, in_process):
    import copy

    from searcher.architecture.blocks import find_architecture

    def repair(model):
        blocks = find_architecture(model).blocks
        generator = torch.Generator().manual_seed(0)
        path = next(n for n, m in model.named_modules() if m is blocks[4])
        matrices = [n for n, p in blocks[4].named_parameters() if p.ndim == 2][:2]
        shapes = {f"{path}.{n}": blocks[4].get_parameter(n).shape for n in matrices}
        added = {
            name: LowRank(
                0.1 * torch.randn(shape[0], 2, generator=generator), torch.randn(2, shape[1], generator=generator)
            )
            for name, shape in shapes.items()
        }
        return Repair(added, {}, {(2, Action.GONE): ReplacementModule(shifted(copy.deepcopy(blocks[1])), like=1)})

    one = opened(family, "1-2", repair)
    done = write(one, tmp_path / "out")
    assert done.form is Form.STOCK
    assert done.parameters[1] == one.amounts["parameters"].whole - one.amounts["parameters"].block[2]


def test_half_precision_is_kept(tmp_path, in_process):
    one = opened("llama", "1", dtype=torch.bfloat16, through=tmp_path / "dense")
    write(one, tmp_path / "out")
    assert searcher.load(tmp_path / "out").dtype == torch.bfloat16
    assert searcher.load(tmp_path / "out", dtype="float32").dtype == torch.float32


def test_the_model_is_left_as_it_was(tmp_path, in_process):
    one = opened(
        "llama", "0.attn,2", lambda model: Repair(after={(2, Action.GONE): ReplacementModule(Shift(width(model)))})
    )
    model = one.loaded.model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    names, config = list(model.named_modules()), model.config.to_dict()
    for form in (None, Form.CUSTOM):
        write(one, tmp_path / f"{form}", form)
    assert list(model.named_modules()) == names
    assert model.config.to_dict() == config
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_what_is_in_the_folder(tmp_path, in_process):
    write(opened("llama", "1,3"), tmp_path / "out")
    notes = json.loads((tmp_path / "out/searcher.json").read_text())
    assert (notes["plan"], notes["form"], notes["original"]) == ("1,3", "stock", "tiny")
    card = (tmp_path / "out/README.md").read_text()
    assert f"{CARD.command} -o {tmp_path / 'out'}\n" in card
    assert "Not measured" in card
    assert AutoTokenizer.from_pretrained(tmp_path / "out")("abc")["input_ids"] == tiny_tokenizer()("abc")["input_ids"]
    assert (tmp_path / "out/generation_config.json").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(("form", "plan"), [(Form.STOCK, "1.attn"), (Form.ZEROED, "1")])
def test_forms_that_do_not_fit(form, plan, tmp_path, in_process):
    if form is Form.STOCK:
        with pytest.raises(UsageError, match=r"1\.attn, for which ordinary checkpoints have no form.*--form zeroed"):
            write(opened("llama", plan), tmp_path / "out", form)
    else:  # no sublayer is removed: an ordinary checkpoint is all that is needed
        assert write(opened("llama", plan), tmp_path / "out", form).form is Form.STOCK
    shift = opened("llama", "1", lambda model: Repair(after={(1, Action.GONE): ReplacementModule(Shift(width(model)))}))
    with pytest.raises(UsageError, match=r"puts a module after block 1.*--form custom"):
        write(shift, tmp_path / "other", form)


def test_a_folder_that_exists(tmp_path, in_process):
    target = tmp_path / "out"
    write(opened("llama", "1"), target)
    kept = (target / "model.safetensors").read_bytes()
    with pytest.raises(UsageError, match=r"exists.*--force"):
        write(opened("llama", "2"), target)
    assert (target / "model.safetensors").read_bytes() == kept
    write(opened("llama", "2"), target, force=True)
    assert (target / "model.safetensors").read_bytes() != kept
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("all of it")
    with pytest.raises(UsageError, match="will not be replaced: it is no checkpoint of searcher export"):
        write(opened("llama", "2"), tmp_path / "mine", force=True)
    assert (tmp_path / "mine/thesis.txt").read_text() == "all of it"


def test_license_and_notices_go_with_it(tmp_path, in_process, monkeypatch):
    source = tmp_path / "dense"
    one = opened("llama", "1", through=source)
    (source / "README.md").write_text("---\nlicense: mit\n---\nThe original.")
    (source / "LICENSE.txt").write_text("terms")
    (source / "Notice").write_text("by them")
    monkeypatch.chdir(tmp_path.parent)  # the folder counts, not what the model is called
    write(one, tmp_path / "out")
    assert "license: mit" in (tmp_path / "out/README.md").read_text()
    assert "The original." not in (tmp_path / "out/README.md").read_text()
    assert (tmp_path / "out/LICENSE.txt").read_text() == "terms"
    assert (tmp_path / "out/Notice").read_text() == "by them"


def test_a_card_claims_no_check_that_was_not_made(tmp_path, in_process):
    write(opened("llama", "1"), tmp_path / "out", check=False)
    assert "It was not loaded again" in (tmp_path / "out/README.md").read_text()
    write(opened("llama", "1"), tmp_path / "out", force=True)
    assert "a fresh process loaded it in float32: its logits differ" in (tmp_path / "out/README.md").read_text()


def test_a_full_disk_leaves_nothing(tmp_path, in_process, monkeypatch):
    write(opened("llama", "1"), tmp_path / "out")
    kept = (tmp_path / "out/model.safetensors").read_bytes()

    def full(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    one = opened("llama", "2")
    monkeypatch.setattr(type(one.loaded.tokenizer), "save_pretrained", full)  # when the weights are there already
    for target in ("out", "new"):
        with pytest.raises(UsageError, match=r"The disk of .* is full"):
            write(one, tmp_path / target, force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out/model.safetensors").read_bytes() == kept
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(UsageError, match="GB free"):
        write(one, tmp_path / "new")


def test_a_checkpoint_that_is_not_what_was_measured_is_not_left(tmp_path, monkeypatch):
    def damaged(_, folder, reference):
        from safetensors.torch import load_file, save_file

        weights = load_file(Path(folder) / "model.safetensors")
        weights["model.layers.0.mlp.down_proj.weight"] += 0.1
        save_file(weights, Path(folder) / "model.safetensors", metadata={"format": "pt"})
        return asdict(verify(Path(folder), Path(reference)))

    monkeypatch.setattr(fresh, "in_fresh_process", damaged)
    with pytest.raises(UsageError, match="is not what was measured: its logits differ"):
        write(opened("llama", "2"), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_what_a_killed_export_left_is_swept_away(tmp_path, in_process):
    left = tmp_path / ".searcher-partial-out-999999999"
    left.mkdir()
    other = tmp_path / ".searcher-partial-another-999999999"
    other.mkdir()
    write(opened("llama", "2"), tmp_path / "out")
    assert not left.exists()
    assert other.exists()


def test_folders_that_hold_no_checkpoint(tmp_path):
    with pytest.raises(UsageError, match=r"no config\.json"):
        searcher.load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UsageError, match="cannot be loaded"):
        searcher.load(tmp_path)


def test_what_was_left_of_another_checkpoint_is_left_alone(tmp_path, in_process):
    other = tmp_path / ".searcher-partial-out-2-999999999-old"
    other.mkdir()
    (other / "config.json").write_text("{}")
    write(opened("llama", "1"), tmp_path / "out")
    assert (other / "config.json").exists()
    own = tmp_path / ".searcher-partial-new-999999999-old"  # a killed export was about to replace it
    (tmp_path / "out").rename(own)
    with pytest.raises(UsageError, match="exists"):
        write(opened("llama", "1"), tmp_path / "new")
    assert (tmp_path / "new/model.safetensors").exists()


def beside(name, content="all of it"):
    """Puts a file of the user's into a checkpoint."""

    def put(target):
        (target / name).parent.mkdir(exist_ok=True)
        (target / name).write_text(content)

    return put


def linked(target):
    target.rename(target.with_name("real"))
    target.symlink_to(target.with_name("real"))


def weights_linked(target):
    (target / "model.safetensors").rename(target.with_name("weights"))
    (target / "model.safetensors").symlink_to(target.with_name("weights"))


def a_file(target):
    shutil.rmtree(target)
    target.write_text("all of it")


THEIRS = {
    "a document": (beside("thesis.docx"), "it holds thesis.docx"),
    "a hidden file": (beside(".env"), r"it holds \.env"),
    "a hidden folder": (beside(".git/HEAD"), r"it holds \.git"),
    "a cache": (beside("__pycache__/own.txt"), "it holds __pycache__"),
    "a training": (beside("checkpoint-500/optimizer.pt"), "it holds checkpoint-500"),
    "other weights": (beside("pytorch_model.bin"), "it holds pytorch_model.bin"),
    "an empty folder": (lambda target: (target / "new").mkdir(), "it holds new"),
    "a checkpoint of another program": (
        lambda target: (target / "searcher.json").unlink(),
        "it is no checkpoint of searcher export",
    ),
    "a link to a folder": (linked, "it is a link"),
    "a link in it": (weights_linked, "it holds model.safetensors"),
    "a file": (a_file, "it is no folder"),
    "a device": (lambda target: (shutil.rmtree(target), target.symlink_to("/dev/full")), "it is a link"),
}


@pytest.mark.parametrize("kind", THEIRS)
def test_force_replaces_nothing_that_we_did_not_write(kind, tmp_path, in_process, exported):
    target = tmp_path / "out"
    shutil.copytree(exported, target)
    change, told = THEIRS[kind]
    change(target)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError, match=f"will not be replaced: {told}"):
        check_target(target, force=True)
    assert sorted(tmp_path.rglob("*")) == before
    assert not (tmp_path / "thesis.docx").exists()


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A checkpoint as `searcher export` writes it."""
    target = tmp_path_factory.mktemp("exported") / "out"
    write(opened("llama", "1"), target, check=False)
    return target


@pytest.mark.parametrize("spelling", ["itself", "relative", "through a link", "roundabout"])
def test_the_model_that_is_pruned_is_never_replaced(spelling, exported, tmp_path, monkeypatch):
    source = tmp_path / "model"
    shutil.copytree(exported, source)
    (tmp_path / "link").symlink_to(source)
    monkeypatch.chdir(tmp_path)
    spelled = {
        "itself": source,
        "relative": Path("model"),
        "through a link": Path("link"),
        "roundabout": "link/../model",
    }
    with pytest.raises(UsageError, match="is the model that is pruned and will not be replaced"):
        check_target(Path(spelled[spelling]), force=True, source="./model/")


@pytest.mark.parametrize("place", ["file/out", "/proc/out", "/dev/null/out"])
def test_a_place_that_cannot_be_written(place, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"cannot be written \("):
        check_target(tmp_path / place, force=False)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_ctrl_c_between_the_renames_puts_the_old_checkpoint_back(tmp_path, in_process, monkeypatch):
    target = tmp_path / "out"
    write(opened("llama", "1"), target)
    kept, real = (target / "model.safetensors").read_bytes(), Path.rename

    def interrupted(path, to):
        if Path(to) == target and not path.name.endswith("-old"):
            raise KeyboardInterrupt
        return real(path, to)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(opened("llama", "2"), target, force=True)
    assert (target / "model.safetensors").read_bytes() == kept
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
