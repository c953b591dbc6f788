"""The contiguous map against cosines of the states that the model's own forward gives."""

import json

import numpy as np
import torch
from anatomies import IDS, Shares, replayed
from families import tiny_model

from searcher.anatomy.contiguous import cost, measure_contiguous


@torch.inference_mode()
def states_of(model):
    seen = []
    for block in model.model.layers:
        block.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    model.model.norm.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    model(input_ids=IDS, use_cache=False)
    return seen


def test_equals_cosines_of_states():
    states, shares = states_of(tiny_model("llama")), Shares()
    found = measure_contiguous(replayed("llama"), IDS, shares)
    assert found.cosines.shape == (4, 4)
    for length in range(1, 5):
        for first in range(4):
            if first + length > 4:
                assert np.isnan(found.cosines[length - 1, first])
                continue
            expected = torch.cosine_similarity(states[first], states[first + length], dim=-1).mean().item()
            np.testing.assert_allclose(found.cosines[length - 1, first], expected, rtol=1e-5)
    assert shares.complete()
    assert cost(4, len(IDS)).layer_forwards == 28


def test_the_runs_that_are_most_alike():
    found = measure_contiguous(replayed("llama"), IDS)
    for length in range(1, 5):
        row = found.cosines[length - 1, : 5 - length]
        assert found.most_alike(length) == int(row.argmax())
    assert [run["length"] for run in json.loads(json.dumps(found.facts()))["most_alike"]] == [1, 2, 3, 4]
    assert np.array_equal(found.cosines, measure_contiguous(replayed("llama"), IDS).cosines, equal_nan=True)
