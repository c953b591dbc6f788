"""The fused head: every way gives the same losses."""

import pytest
import torch
from families import VOCABULARY, tiny_model

from searcher.contracts.plan import Action, Granularity
from searcher.replay import head as head_module
from searcher.replay.head import FusedHead
from searcher.replay.self_check import open_replay

IDS = torch.randint(VOCABULARY, (3, 20), generator=torch.Generator().manual_seed(6))


@pytest.fixture(params=["llama", "phi"])  # phi's head has a bias
def state(request):
    with torch.inference_mode():
        replay = open_replay(tiny_model(request.param), Granularity.BLOCK)
        assert isinstance(replay.head, FusedHead)
        return replay.head, replay.run_block(replay.embed(IDS), 0, Action.KEEP)


@pytest.mark.parametrize("size", [7, 64, 97, 4096])
def test_slices_of_any_size_give_the_losses_of_full_logits(state, size, monkeypatch):
    head, hidden = state
    monkeypatch.setattr(head_module, "SLICE", size)
    with torch.inference_mode():
        logits = torch.stack(list(head.logits(hidden, IDS)))[:, :-1].double()
        expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), IDS[:, 1:].flatten(), reduction="none")
        found = head.losses(hidden, IDS)
    torch.testing.assert_close(found.double().flatten(), expected, atol=1e-5, rtol=1e-5)


def test_torchs_own_fused_loss_is_the_same(state):
    head, hidden = state
    with torch.inference_mode():
        torch.testing.assert_close(head.losses_by_torch(hidden, IDS), head.losses_in_slices(hidden, IDS))


def test_on_a_cpu_there_is_nothing_to_choose(state):
    head, hidden = state
    with torch.inference_mode():
        head.choose_way(hidden)
        assert torch.equal(head.losses(hidden, IDS), head.losses_in_slices(hidden, IDS))
