"""Sizes of plans that will be healed count what healing puts in, and are those of the checkpoint that is exported."""

import itertools

import pytest
from finished import finish

import searcher
from searcher.contracts.plan import PrunePlan

SIZES = ["parameters", "weights-bytes", "kv-cache", "flops"]


@pytest.mark.parametrize(
    "heal",
    ["layer:steps=2", "ffn:steps=2", "swiglu:steps=2,inner=3", "linear", "linear:rank=2", "bias", "linear-folded"],
)
def test_sizes_are_those_of_the_healed_checkpoint(tiny, tmp_path, heal):
    options = {"strategy": "contiguous", "budget": 2, "heal": heal, "heal_windows": 24, "heal_top": 1}
    run = finish(tiny, tmp_path, "run", objective=["perplexity", *SIZES], **options)
    exported = searcher.export(run, tmp_path / "small", check=False, quiet=True)
    healed = run.best.healed or run.best
    assert healed.report["parameters"].value == exported.parameters[1]
    assert healed.report["weights-bytes"].value == 4 * exported.parameters[1]  # float32
    assert healed.report["kv-cache"].value == exported.cache[1]
    added = exported.parameters[1] - run.amounts["parameters"].left(run.best.plan)
    assert (added > 0) is (heal != "linear-folded")
    assert {name: run.best.search[name] for name in SIZES} == {name: healed.report[name].value for name in SIZES}
    flops = healed.report["flops"].value - run.amounts["flops"].left(run.best.plan)
    of_block = run.amounts["flops"].block[0]
    expected = {"layer": of_block, "bias": 0, "linear-folded": 0}
    name = heal.partition(":")[0]
    assert flops == (expected[name] if name in expected else pytest.approx(2 * added, rel=0.2))  # norms and biases


def test_a_bound_on_a_size_counts_what_healing_puts_in(tiny, tmp_path):
    """A gap of two blocks gets one back and keeps to it; of two single blocks both come back."""
    options = {"strategy": "exhaustive", "budget": 2, "heal": "layer:steps=1", "heal_windows": 24, "heal_top": 15}
    bound = {"at_most": {"parameters": "86%"}}
    run = finish(tiny, tmp_path, "bound", **options, **bound)
    one, other = sorted(unit.block for unit in run.best.plan.removed)
    assert other == one + 1
    assert run.outcome["missed"] == []
    values = {
        pair: run.evaluation(PrunePlan.parse(f"{pair[0]},{pair[1]}")).search["parameters"]
        for pair in itertools.combinations(range(6), 2)
    }
    whole = run.amounts["parameters"].whole
    assert {pair: value < whole for pair, value in values.items()} == {pair: pair[1] == pair[0] + 1 for pair in values}
