"""Statistics of the dense model against the model's own forward, plain autograd and materialised removals."""

import copy
import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from families import VOCABULARY, tiny_model

from searcher.contracts.plan import Granularity, Part, PrunePlan, Unit, all_units
from searcher.contracts.statistics import STATISTICS, check_statistics, cost_of, shape_of
from searcher.errors import UsageError
from searcher.replay import dense_statistics
from searcher.replay.dense_statistics import measure_statistics
from searcher.replay.pruned_model import pruned
from searcher.replay.self_check import open_replay

IDS = torch.randint(VOCABULARY, (3, 24), generator=torch.Generator().manual_seed(1))
WEIGHT = (1.0, 0.75, 0.25, 0.0)


def streams(model):
    """The residual stream in front of each block, between its sublayers, and at the end: by hooks on a Llama."""
    entering, between, leaving = [], [], []
    for block in model.model.layers:
        block.register_forward_pre_hook(lambda _m, args, kwargs: entering.append(args[0]), with_kwargs=True)
        block.post_attention_layernorm.register_forward_pre_hook(lambda _m, args: between.append(args[0]))
    model.model.norm.register_forward_pre_hook(lambda _m, args: leaving.append(args[0]))
    with torch.inference_mode():
        model(input_ids=IDS, use_cache=False)
    return [*entering, *leaving], between


def interleaved(states, between):
    return [state for pair in zip(states, between, strict=False) for state in pair] + [states[-1]]


def opened(model, granularity, own_head=False):
    with torch.inference_mode():
        replay = open_replay(model, granularity)
    if own_head:
        replay.use_own_head()
    return replay


def measured(granularity, *names, family="llama"):
    return measure_statistics(opened(tiny_model(family), granularity), IDS, names, all_units(4, granularity))


def changes(pairs):
    return {
        "cosine": [torch.cosine_similarity(a, b, dim=-1).mean().item() for a, b in pairs],
        "relative-l1": [((b - a).abs().sum(-1) / a.abs().sum(-1)).mean().item() for a, b in pairs],
        "relative-l2": [((b - a).norm(dim=-1) / a.norm(dim=-1)).mean().item() for a, b in pairs],
    }


def cosines(states):
    return [[torch.cosine_similarity(a, b, dim=-1).mean().item() for b in states] for a in states]


def angles(states):
    last = [state[:, -1].double() for state in states]
    found = [[torch.cosine_similarity(a, b, dim=-1).clamp(-1, 1).arccos().mean().item() for b in last] for a in last]
    return np.array(found) / np.pi


def test_changes_by_blocks():
    states, _ = streams(tiny_model("llama"))
    expected = changes(list(pairwise(states)))
    found = measured(Granularity.BLOCK, *expected)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5)


@pytest.mark.parametrize("granularity", [Granularity.SUBLAYER, Granularity.ATTENTION, Granularity.FFN])
def test_changes_by_sublayers(granularity):
    pairs = list(pairwise(interleaved(*streams(tiny_model("llama")))))
    wanted = [i for i, unit in enumerate(all_units(4, Granularity.SUBLAYER)) if unit in all_units(4, granularity)]
    expected = changes([pairs[i] for i in wanted])
    found = measured(granularity, *expected)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-4)


def test_maps_of_blocks():
    states, _ = streams(tiny_model("llama"))
    found = measured(Granularity.BLOCK, "state-cosines", "state-angles", "cosine")
    np.testing.assert_allclose(found["state-cosines"], cosines(states), rtol=1e-5)
    np.testing.assert_allclose(np.diag(found["state-cosines"], 1), found["cosine"], rtol=1e-5)
    np.testing.assert_allclose(found["state-angles"], angles(states), atol=1e-6)


@pytest.mark.parametrize("granularity", [Granularity.SUBLAYER, Granularity.ATTENTION])
def test_maps_between_sublayers(granularity):
    states = interleaved(*streams(tiny_model("llama")))
    assert len(states) == 9
    found = measured(granularity, "state-cosines", "state-angles")
    np.testing.assert_allclose(found["state-cosines"], cosines(states), rtol=1e-4)
    np.testing.assert_allclose(found["state-angles"], angles(states), atol=1e-6)


def test_chunks_do_not_matter(monkeypatch):
    whole = measured(Granularity.BLOCK, "state-cosines", "logits")
    monkeypatch.setattr(dense_statistics, "CHUNK", 5 * 5 * 32)  # 5 of the 24 tokens for states, 8 for logits
    in_parts = measured(Granularity.BLOCK, "state-cosines", "logits")
    for name, values in whole.items():
        np.testing.assert_allclose(in_parts[name], values, rtol=1e-6)


@pytest.mark.parametrize("own_head", [False, True])
@pytest.mark.parametrize("granularity", [Granularity.BLOCK, Granularity.SUBLAYER])
def test_logits_against_the_pruned_model(granularity, own_head):
    model, units = tiny_model("gemma2"), all_units(4, granularity)
    replay = opened(model, granularity, own_head)
    found = measure_statistics(replay, IDS, ["logits"], units)["logits"]
    with torch.inference_mode():
        dense = model(input_ids=IDS, use_cache=False).logits
        for unit, distance in zip(units, found, strict=True):
            with pruned(model, replay.architecture, replay.outputs, PrunePlan.of([unit])) as smaller:
                logits = smaller(input_ids=IDS, use_cache=False).logits
            assert distance == pytest.approx((logits - dense).norm(dim=-1).mean().item(), rel=1e-4)


def by_autograd(model, unit):
    """The sum of |w dL/dw| over the parameters of a unit, from one backward through the whole model."""
    model = copy.deepcopy(model).requires_grad_(True)
    model(input_ids=IDS, labels=IDS, use_cache=False).loss.backward()
    return sum((p * p.grad).abs().sum().item() for p in parameters(model, unit) if p.grad is not None)


def parameters(model, unit):
    block = (model.transformer.h if hasattr(model, "transformer") else model.model.layers)[unit.block]
    names = {Part.BLOCK: (), Part.ATTENTION: ("self_attn", "attn"), Part.FFN: ("mlp",)}[unit.part]
    (module,) = [getattr(block, name) for name in names if hasattr(block, name)] or [block]
    return list(module.parameters())


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "mixtral"])
@pytest.mark.parametrize("granularity", [Granularity.BLOCK, Granularity.SUBLAYER])
def test_taylor_against_plain_autograd(family, granularity):
    model, units = tiny_model(family), all_units(4, granularity)
    found = measure_statistics(opened(model, granularity), IDS, ["taylor"], units)["taylor"]
    np.testing.assert_allclose(found, [by_autograd(model, unit) for unit in units], rtol=1e-3)


def test_taylor_through_the_models_own_head_and_of_some_units():
    model, units = tiny_model("gpt2"), [Unit(1, Part.FFN), Unit(3, Part.ATTENTION)]
    replay = opened(model, Granularity.SUBLAYER, own_head=True)
    with torch.inference_mode():  # where the caller is does not matter
        found = measure_statistics(replay, IDS, ["taylor"], units)["taylor"]
    np.testing.assert_allclose(found, [by_autograd(model, unit) for unit in units], rtol=1e-3)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("granularity", [Granularity.BLOCK, Granularity.FFN])
def test_magnitude_is_a_sum_and_runs_nothing(family, granularity):
    model, units = tiny_model(family), all_units(4, granularity)
    replay = opened(model, granularity)
    model.forward = None
    found = measure_statistics(replay, IDS, ["magnitude"], units)["magnitude"]
    expected = [sum(p.abs().double().sum().item() for p in parameters(model, unit)) for unit in units]
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("granularity", list(Granularity))
def test_the_model_stays_as_it_was_and_shapes_are_as_announced(granularity):
    model, units = tiny_model("llama"), all_units(4, granularity)
    model.lm_head.weight.requires_grad_(True)
    replay = opened(model, granularity)
    before = copy.deepcopy(model.state_dict())
    found = measure_statistics(replay, IDS, list(STATISTICS), units)
    assert {name: values.shape for name, values in found.items()} == {n: shape_of(n, units, 4, 3) for n in STATISTICS}
    assert {values.dtype for values in found.values()} == {np.dtype(np.float64)}
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["lm_head.weight"]
    assert all(p.grad is None for p in model.parameters())


def run_by(monkeypatch, granularity, names):
    """How many layer-forwards are run for these statistics of one window, weighted by `WEIGHT`, and how many heads."""
    replay, spent = opened(tiny_model("llama"), granularity), []
    run_block, logits = replay.run_block, replay.head.logits
    monkeypatch.setattr(replay, "run_block", lambda *args: (spent.append(WEIGHT[args[2]]), run_block(*args))[1])
    monkeypatch.setattr(replay.head, "logits", lambda *args: (spent.append(1000.0), logits(*args))[1])
    measure_statistics(replay, IDS[:1], names, all_units(4, granularity))
    return sum(spent) % 1000, sum(spent) // 1000


@pytest.mark.parametrize("granularity", list(Granularity))
@pytest.mark.parametrize(
    "names", [[], ["magnitude"], ["cosine"], ["cosine", "relative-l1"], ["state-angles", "cosine"], ["logits"]]
)
def test_what_is_run_is_what_is_charged(monkeypatch, granularity, names):
    cost = cost_of(names, all_units(4, granularity), 4, WEIGHT)
    assert run_by(monkeypatch, granularity, names) == pytest.approx(cost)


def test_cost():
    blocks, sublayers = all_units(4, Granularity.BLOCK), all_units(4, Granularity.SUBLAYER)
    assert cost_of([], sublayers, 4, WEIGHT) == (0, 0)
    assert cost_of(["magnitude"], sublayers, 4, WEIGHT) == (0, 0)
    assert cost_of(["cosine"], blocks, 4, WEIGHT) == (4, 0)
    assert cost_of(["cosine", "relative-l2", "state-cosines"], blocks, 4, WEIGHT) == (4, 0)
    assert cost_of(["cosine"], sublayers, 4, WEIGHT) == (4 + 4 * 0.25, 0)
    assert cost_of(["cosine"], [Unit(0, Part.FFN), Unit(2, Part.FFN)], 4, WEIGHT) == (4 + 2 * 0.25, 0)
    assert cost_of(["state-angles"], [Unit(0, Part.FFN), Unit(2, Part.FFN)], 4, WEIGHT) == (4 + 4 * 0.25, 0)
    assert cost_of(["logits"], blocks, 4, WEIGHT) == (4 + 3 + 2 + 1, 5)
    assert cost_of(["logits"], sublayers, 4, WEIGHT) == (4 + 2 * (3 + 2 + 1) + 4 * (0.75 + 0.25), 9)
    assert cost_of(["taylor"], blocks, 4, WEIGHT) == (16, 2)
    assert cost_of(["taylor", "cosine"], blocks, 4, WEIGHT) == (20, 2)
    assert (
        cost_of(["gate-gradients"], blocks, 4, WEIGHT) == cost_of(["gate-gradients"], sublayers, 4, WEIGHT) == (12, 2)
    )
    assert cost_of(["gate-gradients", "cosine"], blocks[2:], 4, WEIGHT) == (4 + 4 + 2 * 2, 2)


def test_an_unknown_one_is_refused():
    with pytest.raises(UsageError, match=r"unknown statistic 'cosin'. Did you mean 'cosine'"):
        check_statistics(["cosin"])


MINE = '''
from searcher.contracts.plan import PrunePlan
from searcher.contracts.strategy import Ask, Outcome, Strategy

class Nearest(Strategy):
    """Remove what changes the direction of the states least."""
    statistics = ("cosine", "logits")
    def search(self, space):
        order = space.statistics["cosine"].argsort(kind="stable")[::-1]
        plan = PrunePlan.of(space.units[i] for i in order[: space.size])
        yield Ask((plan,))
        return Outcome((plan,), {"cosines": space.statistics["cosine"].tolist()})
'''


def test_a_strategy_gets_what_it_declares_and_is_charged_for_it(searcher_command, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(MINE)
    command = ["run", "--strategy", "mine.py:Nearest", "--budget", "2", "--format", "json"]
    done = searcher_command(*command)
    assert done.code == 0, done.err
    document = json.loads(done.out)
    record = json.loads((tmp_path / document["run"] / "run.json").read_text())
    cosines = record["outcome"]["notes"]["cosines"]
    best = sorted(sorted(range(6), key=lambda i: -cosines[i])[:2])
    assert [int(block) for block in document["best"]["plan"].replace("-", ",").split(",")] == best
    charged = document["cost"]["charged"]
    assert charged["layer_forwards"] == 4 * (6 + 5 + 4 + 3 + 2 + 1 + 4)  # windows x (dense pass, single removals, plan)
    assert charged["heads"] == 4 * (7 + 1)

    monkeypatch.setattr("searcher.commands.run.find_statistics", None)  # a run that is resumed has them
    again = json.loads(searcher_command(*command).out)
    assert again["cost"]["charged"] == charged
    assert json.loads((tmp_path / document["run"] / "run.json").read_text())["statistics"] == record["statistics"]
