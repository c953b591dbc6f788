"""Every benchmark on a model so small that it takes a second: it runs, and what must hold of its figures does."""

import importlib
import json
import math
import shutil

import numpy as np
import pytest
import typer
from tiny_checkpoint import write_text
from typer.testing import CliRunner

from benchmarks.choices import CRITERIA, choices
from benchmarks.setting import RESULTS, Setting, resolved
from benchmarks.tables import README
from benchmarks.unseen import METHODS
from searcher.contracts.plan import Granularity, PrunePlan
from searcher.errors import UsageError

OF_SPEED = ("evaluator", "racing", "roofline", "head", "distilling", "divergence", "scaling", "ray")
ALL = (*OF_SPEED, "choices", "unseen", "strategies", "healing", "healed_search", "gpu")


def call(name, *arguments):
    """What `python -m benchmarks.NAME` prints, in this process."""
    app = typer.Typer()
    app.command()(importlib.import_module(f"benchmarks.{name}").cli)
    done = CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_a_big_checkpoint_is_of_the_size_asked_for_and_loads(tiny, tmp_path, monkeypatch):
    from transformers import AutoModelForCausalLM

    from benchmarks import big_checkpoint as big

    def parameters(config):
        return sum(math.prod(one.shape) for shard in big.shards_of(config, 10**9) for one in shard)

    for asked in (1e9, 3e9, 7e9, 7e10):
        assert parameters(big.shape_of(asked, 49152)) == pytest.approx(asked, rel=0.02)
    config = big.shape_of(1.3e7, 97)
    embedded = shutil.copytree(tiny / "model", tmp_path / "embedded")  # other tests share the original
    (embedded / "chat_template.jinja").write_text("{{ messages }}")
    monkeypatch.setattr(big, "find_embedded", lambda: None)
    monkeypatch.setattr(big, "convert_gguf", lambda _: (embedded, ""))
    for seed, name in enumerate(("one", "two")):
        (tmp_path / name).mkdir()
        big.write_checkpoint(tmp_path / name, config, 10**7, seed)
    one, two = (AutoModelForCausalLM.from_pretrained(tmp_path / name, dtype="auto") for name in ("one", "two"))
    assert one.num_parameters() == parameters(config)
    assert str(one.dtype) == "torch.bfloat16"
    weight, other = (model.model.layers[1].mlp.up_proj.weight.float() for model in (one, two))
    assert float(weight.std()) == pytest.approx(big.DEVIATION, rel=0.05)
    assert not (weight == other).all()


@pytest.fixture
def benchmark(tiny, tmp_path, monkeypatch):
    """Runs a benchmark quickly on the tiny model: `output, figures = benchmark("head")`, figures by name of the file."""
    monkeypatch.chdir(tmp_path)
    before = {path: path.read_bytes() for path in RESULTS.iterdir()}

    def run(name, *options):
        kept = () if name == "healing" else ("--out", tmp_path / "out")
        output = call(name, "--quick", "--model", tiny / "model", "--data", tiny / "text.jsonl", *kept, *options)
        assert {path: path.read_bytes() for path in RESULTS.iterdir()} == before, "the project's figures were touched"
        return output, {path.stem: json.loads(path.read_text()) for path in (tmp_path / "out").glob("*.json")}

    return run


def numbers(figures, *columns):
    """The values of some columns of every row, which are all numbers."""
    values = [row[column] for row in figures["rows"] for column in columns]
    assert all(math.isfinite(value) for value in values)
    return values


def test_evaluator_measures_every_batch_as_the_usual_loop_does(benchmark):
    output, written = benchmark("evaluator", "--dtype", "float32")
    figures = written["evaluator-cpu-float32"]
    batches = [(row["batch"], row["units"]) for row in figures["rows"]]
    on_both = ("leave one out", "16 Shapley chains", "evolutionary generation of 32", "1-swap neighbourhood")
    assert sorted(batches) == sorted(
        [("greedy 2", "block"), ("all pairs", "block"), *((b, u) for b in on_both for u in ("block", "sublayer"))]
    )
    assert figures["rows"][0]["same plan"] == "True"
    assert max(numbers(figures, "loss differs by")) < 1e-5
    assert min(numbers(figures, "plans", "usual s", "ours s", "faster", "of floor")) > 0
    assert "The usual loop against searcher: model, float32, 2 windows of 32 tokens" in output


def test_a_part_of_the_evaluator_is_a_file_of_its_own(benchmark):
    _, written = benchmark("evaluator", "--dtype", "bfloat16", "--only", "swap", "--granularity", "block")
    (row,) = written["evaluator-cpu-bfloat16-block-swap"]["rows"]
    assert row["batch"] == "1-swap neighbourhood"
    with pytest.raises(UsageError, match="No batch has 'swop' in its name"):
        benchmark("evaluator", "--only", "swop")


def test_racing_chooses_a_plan_no_better_than_exact_greedy(benchmark):
    _, written = benchmark("racing", "--dtype", "float32")
    (row,) = written["racing-cpu-float32"]["rows"]
    assert [len(PrunePlan.parse(row[search]).removed) for search in ("exact greedy", "raced")] == [2, 2]
    assert row["raced / exact"] == pytest.approx(row["raced perplexity"] / row["exact perplexity"])
    assert row["of"] == 6 + 5
    assert 0 < row["evaluations"] <= row["of"]
    assert min(numbers(written["racing-cpu-float32"], "usual s", "exact s", "raced s")) > 0


def test_roofline_says_what_share_of_the_matrix_products_is_reached(benchmark):
    _, written = benchmark("roofline", "--dtype", "float32")
    rows = written["roofline-cpu-float32"]["rows"]
    assert [row["part"] for row in rows] == ["blocks", "head and loss", "greedy 1, all of it"]
    for row in rows:
        assert row["share"] == pytest.approx(row["GFLOP/s"] / row["matrix products alone"])
        assert row["share"] > 0


def test_head_compares_every_way_and_leaves_the_slices_as_they_were(benchmark):
    from searcher.replay import head

    before = head.SLICE
    _, written = benchmark("head", "--dtype", "float32")
    rows = written["head-cpu-float32"]["rows"]
    assert [row["way"] for row in rows][:4] == [
        "matrix product alone",
        "full float32 logits",
        "linear_cross_entropy",
        "slices of 1024",
    ]
    assert min(numbers(written["head-cpu-float32"], "us per token", "to the product")) > 0
    assert before == head.SLICE


def test_divergence_is_exact_and_timed_in_every_way(benchmark):
    _, written = benchmark("divergence", "--dtype", "float32")
    exactness = written["divergence-errors-cpu-float32"]
    assert [row["plan"] for row in exactness["rows"]] == ["dense", "3", "2,4", "1"]
    assert exactness["rows"][0]["KL"] == 0
    assert max(numbers(exactness, "largest window error")) < 1e-4
    ways = written["divergence-cpu-float32"]
    assert ways["rows"][0] == ways["rows"][0] | {"way": "losses alone", "to the losses": 1.0}
    assert min(numbers(ways, "us per token")) > 0


def test_scaling_has_the_seconds_of_every_size(benchmark):
    _, written = benchmark("scaling", "--dtype", "float32")
    rows = written["scaling-cpu-float32"]["rows"]
    sizes = {}
    for row in rows:
        sizes.setdefault(row["series"], []).append(row["n"])
    assert sizes == {
        "blocks, leave one out (n plans of n blocks)": [3, 6, 12],
        "blocks, 32 pairs": [3, 6, 12],
        "windows": [2, 4, 8],
        "plans (pairs of 3 blocks)": [1, 3],
    }
    assert min(numbers(written["scaling-cpu-float32"], "seconds")) > 0


def test_choices_are_made_by_every_criterion_for_all_kinds_of_units(benchmark):
    _, written = benchmark("choices", "--dtype", "float32")
    rows = written["choices-cpu-float32"]["rows"]
    assert [row["units"] for row in rows[:: len(CRITERIA) * 2]] == ["block", "ffn", "sublayer"]
    assert {(row["chosen by"], row["windows"]) for row in rows} == {(name, n) for name in CRITERIA for n in (4, 8)}
    assert all(0 <= row["wrong"] <= 1 for row in rows)
    assert all((row["regret, nats"] > 0) == (row["wrong"] > 0) for row in rows)


def test_more_windows_choose_better_and_a_criterion_without_noise_never_errs():
    """Losses with noise of a window, and a divergence that ranks plans as they are."""
    rng, worth = np.random.default_rng(0), np.linspace(0, 0.3, 6)
    noise = rng.normal(0, 0.3, (6, 64))
    values = {i: np.stack([3 + worth[i] + noise[i] - noise[i].mean(), np.full(64, worth[i])]) for i in range(6)}
    wrong = {(row["chosen by"], row["windows"]): row["wrong"] for row in choices(values, (4, 16, 32), 200)}
    assert wrong["loss", 4] > wrong["loss", 16] > wrong["loss", 32] > 0
    # what is judged is the loss of the rest, which is noisy too
    assert wrong["KL", 4] == wrong["KL", 32] < wrong["loss", 4]
    exact = {i: np.stack([np.full(64, 3 + w), np.full(64, w)]) for i, w in enumerate(worth)}
    assert all(row["wrong"] == row["regret, nats"] == 0 for row in choices(exact, (4, 32), 20))


@pytest.mark.slow  # starts Ray
def test_workers_give_the_bits_of_one_process(benchmark):
    _, written = benchmark("ray", "--dtype", "float32")
    rows = written["ray-cpu-float32"]["rows"]
    assert [row["workers"] for row in rows[:2]] == [0, 1]
    assert {row["same bits"] for row in rows} == {"True"}
    assert min(numbers(written["ray-cpu-float32"], "seconds", "PSS GiB")) > 0


def test_strategies_are_compared_at_no_more_than_the_allowance(benchmark):
    output, written = benchmark("strategies", "--dtype", "float32")
    tables = written["strategies-quick"]["tables"]
    assert [(table["granularity"], table["budget"]) for table in tables] == [("block", 2), ("sublayer", 2)]
    for table in tables:
        assert table["rows"]["greedy"]["cost"] == 1
        assert table["rows"]["evolutionary"]["cost"] <= 1.5 + 1e-9
        assert f"`{table['rows']['evolutionary']['plan']}`" in output


@pytest.mark.slow  # four searches
def test_unseen_judges_every_method_at_the_same_cost_and_goes_on_where_it_was(benchmark, tmp_path):
    benchmark("unseen", "--dtype", "float32", "--seeds", 1)
    kept = json.loads((tmp_path / "runs/unseen/unseen-kept.json").read_text())["cells"]
    assert list(kept) == ["2 blocks/0"]
    _, written = benchmark("unseen", "--dtype", "float32", "--seeds", 2)
    after = json.loads((tmp_path / "runs/unseen/unseen-kept.json").read_text())["cells"]
    assert list(after) == ["2 blocks/0", "2 blocks/1"]
    assert after["2 blocks/0"] == kept["2 blocks/0"]  # not run again
    assert [row["method"] for row in written["unseen"]["rows"]] == list(METHODS)
    for cell in after.values():
        for method in METHODS:
            found = cell["methods"][method]
            assert found["cost"] <= cell["limit"] * (1 + 1e-9) == pytest.approx(kept["2 blocks/0"]["limit"])
            assert len(found["losses"]) == 32
            assert PrunePlan.parse(found["plan"]).size(Granularity.BLOCK) == 2
    losses = [after[f"2 blocks/{seed}"]["methods"]["portfolio"]["losses"] for seed in range(2)]
    shown = ", ".join(f"{math.exp(np.mean(of)):.1f}" for of in losses)
    row = next(r for r in written["unseen"]["rows"] if r["method"] == "portfolio")
    assert row["report perplexity by seed"] == shown
    ours = [after[f"2 blocks/{seed}"]["methods"]["bayesian"]["losses"] for seed in range(2)]
    assert row["to bayesian"] == f"{math.exp(np.mean(losses) - np.mean(ours)) - 1:+.1%}"


@pytest.mark.slow  # trains
def test_healing_has_a_row_for_every_healing_and_goes_on_where_it_was(benchmark, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.healing.PLANS", {"greedy": "1-2", "mixed": "1.attn,3.ffn"})
    other = write_text(tmp_path / "other.jsonl", documents=90)
    kept = ("--kept", tmp_path / "kept.json", "--other", other, "--dtype", "float32")
    output, _ = benchmark("healing", "--plans", "greedy", *kept)
    again, _ = benchmark("healing", "--plans", "greedy,mixed", *kept)
    healings = ("none", "`bias`", "`linear`", "`linear-folded`", "`layer:steps=2`", "`lora:loss=kl,steps=2`")
    assert all(f"\n| {healing} | " in output or f"\n| {healing} (dropped) | " in output for healing in healings)
    assert again.startswith(output.rstrip())
    assert "Not healed so: `linear-folded`" in again  # a sublayer cannot be folded
    cells = json.loads((tmp_path / "kept.json").read_text())
    own, compared = (
        np.array(cells["plans"]["greedy"][name]["rows"]["perplexity"])
        for name in ("lora:loss=kl,steps=2", "lora:loss=text,steps=2")
    )
    places = next(iter(cells["texts"].values()))
    row = next(line for line in output.splitlines() if line.startswith("| `lora:loss=kl,steps=2`"))
    assert f"{math.exp(own[places].mean() - compared[places].mean()) - 1:+.1%}" in row
    assert f"| {math.exp(own[places].mean()):.2f} (" in row


@pytest.mark.slow  # trains
def test_a_healed_search_is_compared_with_greedy_alone(benchmark, tmp_path):
    other = write_text(tmp_path / "other.jsonl", documents=90)
    options = ("--then", "lora:steps=2,loss=kl", "--kept", tmp_path / "kept.json", "--seeds", 2, "--other", other)
    output, figures = benchmark("healed_search", *options, "--dtype", "float32")
    rows = figures["healed-search"]["rows"]
    assert [(row["seed"], row["text"]) for row in rows] == [
        (seed, name) for seed in (0, 1) for name in ("text.jsonl", "other.jsonl")
    ]
    cells = json.loads((tmp_path / "kept.json").read_text())
    places = np.array(cells["alone/0"]["texts"]) == 0
    own, alone = (np.array(cells[f"{name}/0"]["after"])[places] for name in ("rescale", "alone"))
    assert rows[0]["healed"].startswith(f"{math.exp(own.mean() - alone.mean()) - 1:+.1%}")
    assert len(output.splitlines()) == 6


def test_slices_have_no_tensor_of_the_whole_vocabulary(benchmark):
    _, figures = benchmark("distilling", "--dtype", "float32")
    rows = {row["way"]: row for row in figures["distilling-cpu-float32"]["rows"]}
    assert len(rows) == 6
    assert min(numbers(figures["distilling-cpu-float32"], "us per token", "largest tensor, MiB")) > 0


def test_gpu_is_refused_where_there_is_none(benchmark, monkeypatch):
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    with pytest.raises(UsageError, match="no CUDA device"):
        benchmark("gpu")


def test_a_shape_is_measured_by_the_usual_loop_and_ours(tmp_path):
    size = ("--dtype", "float32", "--windows", 8, "--window-tokens", 64)
    output = call("gpu", "--shape", "tiny", "--device", "cpu", "--quick", *size, "--out", tmp_path)
    figures = json.loads((tmp_path / "shape-tiny-cpu-float32.json").read_text())
    usual, ours, floor = figures["rows"]
    assert (usual["way"], ours["way"], floor["way"]) == ("usual loop", "searcher", "floor of searcher")
    assert min(numbers(figures, "plans", "seconds a plan", "faster")) > 0
    assert usual["faster"] == 1
    assert ours["loss differs by"] < 1e-5
    assert "random tiny, float32, 2 windows of 16 tokens" in output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--shape", "8b"), "Shape '8b' is not known"),
        (("--shape", "tiny", "--model", "x"), "random weights"),
        (("--shape", "13b", "--dtype", "float32"), "Weights of shape 13b take 48.5 GiB"),
    ],
)
def test_shapes_that_cannot_be(options, message, monkeypatch):
    monkeypatch.setattr("benchmarks.shapes.bytes_free", lambda device: 40 << 30)
    with pytest.raises(UsageError, match=message):
        call("gpu", "--device", "cpu", *options)


@pytest.mark.parametrize("name", ALL)
def test_help_says_what_is_measured_and_how_long_it_takes(name):
    output = " ".join(call(name, "--help").replace("│", " ").split())
    assert "Takes " in output
    assert "minute" in output or "hour" in output
    assert "--model" in output
    assert "--quick" in output
    assert f"`python -m benchmarks.{name}`" in README.read_text()


def test_a_wrong_model_is_one_line(tmp_path):
    with pytest.raises(UsageError, match="is not a folder"):
        call("head", "--model", tmp_path / "nothing")


def test_only_figures_of_the_default_model_text_and_size_are_those_of_the_project(tmp_path):
    defaults = Setting(windows=32)
    assert resolved(defaults, defaults).out == RESULTS
    assert resolved(Setting(windows=32, dtype="float32", device="cpu"), defaults).out == RESULTS
    others = (Setting(), Setting(windows=32, model="other"), Setting(windows=32, data="other"))
    assert [resolved(other, defaults).out for other in (*others, Setting(windows=32, quick=True))] == [None] * 4
    assert resolved(Setting(windows=32, quick=True, out=tmp_path), defaults).out == tmp_path


@pytest.mark.slow  # two searches in processes of their own
def test_streaming_compares_both_ways(tiny, tmp_path):
    text = ("--windows", "4", "--window-tokens", "16", "--budget", "2")
    call("streaming", "--model", tiny / "model", *text, "--memory", "2GiB", "--out", tmp_path)
    figures = json.loads((tmp_path / "streaming-model.json").read_text())
    assert [row["weights"] for row in figures["rows"]] == ["resident", "streamed"]
    assert figures["same_bits"] is True
    assert min(numbers(figures, "seconds", "CPU seconds", "peak MiB", "time to resident")) > 0
