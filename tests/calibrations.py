"""Tiny models with windows to heal them on, for tests of healings that fit in closed form."""

import copy
from contextlib import contextmanager

import torch
from families import BLOCKS_ONLY, VOCABULARY, tiny_model

from searcher.contracts.cost import Prices
from searcher.contracts.plan import Granularity, PrunePlan
from searcher.healing.calibration import CalibrationSet
from searcher.replay.replay import repaired
from searcher.replay.self_check import open_replay

TOKENS = 24  # longer than any sliding window
PRICES = Prices((1.0, 0.6, 0.4, 0.0), head=2.0)


def calibration_of(family, dtype=torch.float32, num_blocks=4, model=None, granularity=None, **options):
    """16 windows to fit on, and 5 held out."""
    model = tiny_model(family, num_blocks=num_blocks).to(dtype) if model is None else model
    plain = family in BLOCKS_ONLY or family == "opt"
    with torch.inference_mode():
        replay = open_replay(model, granularity or (Granularity.BLOCK if plain else Granularity.SUBLAYER))
    return CalibrationSet(replay, *windows(16, 5), PRICES, **options)


def windows(*counts, seed=3):
    ids = torch.randint(3, VOCABULARY, (sum(counts), TOKENS), generator=torch.Generator().manual_seed(seed))
    return ids.split(counts)


def padded(ids, filler):
    """The same windows with 8 tokens more."""
    return torch.cat([ids, torch.full((len(ids), 8), filler)], dim=1)


@torch.inference_mode()
def heal(calibration, plan, healing):
    return healing.heal(calibration, PrunePlan.parse(plan))


@torch.inference_mode()
def final_states(calibration, plan, repair, ids):
    """After the last block, before the final norm."""
    with repaired(calibration.replay, repair):
        ((_, hidden),) = calibration.replay.states(ids, [PrunePlan.parse(plan)])
    return hidden


@torch.inference_mode()
def states_after(model, blocks, ids):
    """Hidden states after each of these modules in the model's own forward."""
    seen = {}

    def note(module, _args, output):
        seen[module] = (output[0] if isinstance(output, tuple) else output).clone()  # some blocks change it in place

    handles = [block.register_forward_hook(note) for block in blocks]
    try:
        model(input_ids=ids, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return [seen[block] for block in blocks]


def same_bits(one, other):
    """Whether two repairs are the same."""
    if list(one.after) != list(other.after) or list(one.weights) != list(other.weights):
        return False
    replacements = zip(one.after.values(), other.after.values(), strict=True)
    states = [(a.module.state_dict(), b.module.state_dict()) for a, b in replacements]
    return all(
        torch.equal(a[name], b[name])
        for a, b in [*states, (one.weights, other.weights)]
        for name in a.keys() | b.keys()
    )


@contextmanager
def left_as_it_was(calibration):
    """Checks that the model ends with the modules, attributes and weights that it begins with."""
    model, modules = calibration.replay.model, list(calibration.replay.model.modules())
    before = copy.deepcopy(model)
    yield
    assert all(now is then for now, then in zip(model.modules(), modules, strict=True))
    for module, old in zip(model.modules(), before.modules(), strict=True):
        assert module.__dict__.keys() == old.__dict__.keys()
        assert not module._forward_hooks
    for parameter, old in zip(model.parameters(), before.parameters(), strict=True):
        assert torch.equal(parameter, old)
        assert not parameter.requires_grad
    assert not calibration.replay.after
