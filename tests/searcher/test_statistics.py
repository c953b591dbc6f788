"""Statistics of units against hidden states taken from the model's own forward."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from families import VOCABULARY, tiny_model

from searcher.errors import UsageError
from searcher.plan import Granularity, all_units
from searcher.selfcheck import open_replay
from searcher.statistics import NAMES, check_statistics, layer_forwards_of, measure_statistics

IDS = torch.randint(VOCABULARY, (3, 24), generator=torch.Generator().manual_seed(1))


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


def measured(granularity):
    with torch.inference_mode():
        replay = open_replay(tiny_model("llama"), granularity)
    return measure_statistics(replay, IDS, NAMES, all_units(4, granularity))


def expected(pairs):
    return {
        "cosine": [torch.cosine_similarity(a, b, dim=-1).mean().item() for a, b in pairs],
        "relative-l1": [((b - a).abs().sum(-1) / a.abs().sum(-1)).mean().item() for a, b in pairs],
        "relative-l2": [((b - a).norm(dim=-1) / a.norm(dim=-1)).mean().item() for a, b in pairs],
    }


def test_of_blocks():
    states, _ = streams(tiny_model("llama"))
    found = measured(Granularity.BLOCK)
    for name, values in expected(list(pairwise(states))).items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5)
    cosines = [[torch.cosine_similarity(a, b, dim=-1).mean().item() for b in states] for a in states]
    np.testing.assert_allclose(found["block-cosines"], cosines, rtol=1e-5)
    np.testing.assert_allclose(np.diag(found["block-cosines"], 1), found["cosine"], rtol=1e-5)


def test_of_sublayers():
    states, between = streams(tiny_model("llama"))
    pairs = [pair for i in range(4) for pair in ((states[i], between[i]), (between[i], states[i + 1]))]
    found = measured(Granularity.SUBLAYER)
    for name, values in expected(pairs).items():
        np.testing.assert_allclose(found[name], values, rtol=1e-4)


def test_cost():
    weight = (1.0, 0.75, 0.25, 0.0)
    assert layer_forwards_of([], all_units(4, Granularity.BLOCK), 4, weight) == 0
    assert layer_forwards_of(["cosine"], all_units(4, Granularity.BLOCK), 4, weight) == 4
    assert layer_forwards_of(["cosine"], all_units(4, Granularity.SUBLAYER), 4, weight) == 4 + 8 * 0.25
    assert layer_forwards_of(["block-cosines"], all_units(4, Granularity.SUBLAYER), 4, weight) == 4


def test_an_unknown_one_is_refused():
    with pytest.raises(UsageError, match=r"unknown statistic 'cosin'. Did you mean 'cosine'"):
        check_statistics(["cosin"])


def test_a_strategy_gets_what_it_declares_and_is_charged_for_it(searcher_command, tmp_path):
    import json

    (tmp_path / "mine.py").write_text(
        '''
from searcher.plan import PrunePlan
from searcher.strategy import Ask, Outcome, Strategy

class Nearest(Strategy):
    """Remove what changes the direction of the states least."""
    statistics = ("cosine",)
    def search(self, space):
        order = space.statistics["cosine"].argsort(kind="stable")[::-1]
        plan = PrunePlan.of(space.units[i] for i in order[: space.size])
        yield Ask((plan,))
        return Outcome((plan,), {"cosines": space.statistics["cosine"].tolist()})
'''
    )
    done = searcher_command("run", "--strategy", "mine.py:Nearest", "--budget", "2", "--format", "json")
    assert done.code == 0, done.err
    document = json.loads(done.out)
    cosines = json.loads((tmp_path / document["run"] / "run.json").read_text())["outcome"]["notes"]["cosines"]
    best = sorted(sorted(range(6), key=lambda i: -cosines[i])[:2])
    assert [int(block) for block in document["best"]["plan"].replace("-", ",").split(",")] == best
    assert document["cost"]["charged"]["layer_forwards"] == 4 * (6 + 4)  # windows x (dense pass + plan)
