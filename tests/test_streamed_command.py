"""Searches with weights from the disk, as a user runs them: the same results, and clear words where it cannot be."""

import json
import shutil

import pytest
from families import tiny_model

from searcher.testing import tiny_tokenizer

SHARD = 30_000  # bytes: several shards


@pytest.fixture
def sharded(tiny, tmp_path):
    """The tiny model's text beside a checkpoint in shards."""
    folder = tmp_path / "sharded"
    tiny_model("llama", num_blocks=6).save_pretrained(folder, max_shard_size=SHARD)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def run(searcher_command, model, weights, name, *more):
    # a model given twice: the last one counts
    given = ("--model", str(model), "--weights", weights, "--name", name, "--format", "json")
    return searcher_command("run", "--strategy", "greedy", "--budget", "3", *given, *more)


def outcome(done):
    assert done.code == 0, done.err
    found = json.loads(done.out)
    return {key: found[key] for key in ("dense", "best", "front")}


def values(folder):
    lines = [json.loads(line) for line in (folder / "evaluations.jsonl").read_text().splitlines()]
    return {(line["split"], line["plan"], line["group"], *line["rows"]): line["values"] for line in lines}


@pytest.mark.parametrize(
    "healing", [(), *(("--heal", name) for name in ("bias", "rescale", "linear", "linear-folded"))]
)
def test_the_results_of_the_resident_way(healing, searcher_command, sharded, tmp_path):
    here = run(searcher_command, sharded, "streamed", "streamed", *healing)
    assert outcome(here) == outcome(run(searcher_command, sharded, "resident", "resident", *healing))
    assert "Weights are streamed" in here.err
    assert values(tmp_path / "runs/streamed") == values(tmp_path / "runs/resident")


def test_what_was_begun_one_way_goes_on_the_other(searcher_command, sharded, tmp_path):
    run(searcher_command, sharded, "streamed", "one", "--max-evaluations", "8")
    before = values(tmp_path / "runs/one")
    done = outcome(run(searcher_command, sharded, "resident", "one"))
    assert done == outcome(run(searcher_command, sharded, "resident", "two"))
    assert before.items() <= values(tmp_path / "runs/one").items()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--heal", "lora:steps=4"), "'lora:steps=4' needs all weights in memory"),
        (("--strategy", "gates"), "Statistic 'gate-gradients' takes gradients"),
        (("--strategy", "influence", "--strategy-arg", "metric=taylor"), "Statistic 'taylor' takes gradients"),
        (("--workers", "1"), "Workers need the whole model each"),
        (("--quantize", "int8"), "--quantize int8 packs weights in memory"),
    ],
)
def test_what_cannot_be_done_with_it_is_said_before_the_search(options, told, searcher_command, sharded, tmp_path):
    done = run(searcher_command, sharded, "streamed", "refused", *options)
    assert done.code == 2, done.err
    assert told in done.err
    assert not (tmp_path / "runs/refused").exists()


def damaged(folder, how):
    first = sorted(folder.glob("*.safetensors"))[1]
    if how == "missing":
        first.unlink()
    elif how == "truncated":
        first.write_bytes(first.read_bytes()[:-1000])
    else:
        index = folder / "model.safetensors.index.json"
        content = json.loads(index.read_text())
        names = [name for name, file in content["weight_map"].items() if file == first.name]
        others = [file for file in content["weight_map"].values() if file != first.name]
        content["weight_map"] |= dict.fromkeys(names, others[0])
        index.write_text(json.dumps(content))


@pytest.mark.parametrize("how", ["missing", "truncated", "wrong index"])
def test_a_damaged_checkpoint_is_told_in_one_line(how, searcher_command, sharded):
    damaged(sharded, how)
    done = run(searcher_command, sharded, "streamed", "one")
    assert done.code == 2, done.err
    assert "Traceback" not in done.err
    assert "Error: " in done.err


def test_a_weight_that_is_no_number_is_told_by_name(searcher_command, sharded, tmp_path):
    model = tiny_model("llama", num_blocks=6)
    model.model.layers[3].mlp.up_proj.weight[2, 5] = float("nan")
    shutil.rmtree(sharded)
    model.save_pretrained(sharded)
    tiny_tokenizer().save_pretrained(sharded)
    done = run(searcher_command, sharded, "streamed", "one")
    assert done.code == 2
    assert "holds NaN: 'model.layers.3.mlp.up_proj.weight'" in done.err
