"""Tiny models opened for the parts of an anatomy, and losses that are made up."""

import numpy as np
import torch
from families import BLOCKS_ONLY, VOCABULARY, tiny_model

from searcher.anatomy.losses import Losses, open_losses
from searcher.contracts.cost import Prices
from searcher.contracts.plan import Granularity
from searcher.replay.self_check import open_replay
from searcher.runs.layout import GroupLayout
from searcher.runs.measurement import Measurement, Measurements

IDS = torch.randint(VOCABULARY, (7, 48), generator=torch.Generator().manual_seed(2))  # longer than any sliding window
PRICES = Prices((1.0, 0.75, 0.25, 0.0), head=2.0)


def replayed(family, model=None, granularity=None, num_blocks=4):
    plain = family in BLOCKS_ONLY or family == "opt"
    model = tiny_model(family, num_blocks=num_blocks) if model is None else model
    with torch.inference_mode():
        return open_replay(model, granularity or (Granularity.BLOCK if plain else Granularity.SUBLAYER))


def measured(replay, plans, ids=IDS, cores=1):
    losses = open_losses(replay, ids, PRICES, cores=cores)
    for _ in losses.measure(plans):
        pass
    return losses


def made_up(num_blocks, scores):
    """Losses of a model that does not exist, by plan."""
    windows = len(next(iter(scores.values())))
    known = Measurements({"search": (GroupLayout("windows:0", windows, ("loss",)),)})
    for plan, rows in scores.items():
        known.add(Measurement("search", plan, "windows:0", tuple(range(windows)), {"loss": tuple(np.asarray(rows))}))
    return Losses(None, known, num_blocks, PRICES)


class Shares(list):
    """Notes what it is told."""

    def __call__(self, share):
        self.append(share)

    def complete(self):
        return len(self) > 1 and abs(sum(self) - 1) < 1e-9
