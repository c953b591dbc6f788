"""Screening: a cheap loss ranks plans, and nothing but full measurements decides."""

import json
import math

import numpy as np
import pytest
import torch
from families import VOCABULARY, tiny_model

from searcher.contracts.plan import Action, Granularity
from searcher.replay.self_check import open_replay
from searcher.testing import ObjectiveContract

IDS = torch.randint(VOCABULARY, (3, 20), generator=torch.Generator().manual_seed(4))


class TestScreening(ObjectiveContract):
    name = "objectives.screening:Screening"


@pytest.mark.parametrize("family", ["llama", "gemma2", "cohere", "phi"])
@pytest.mark.parametrize("own_head", [False, True])
def test_losses_among_a_vocabulary_are_those_of_a_smaller_softmax(family, own_head):
    with torch.inference_mode():
        replay = open_replay(tiny_model(family), Granularity.BLOCK)
        if own_head:
            replay.use_own_head()
        hidden = replay.run_block(replay.embed(IDS), 0, Action.KEEP)
        vocabulary = torch.unique(torch.cat([IDS.flatten(), torch.arange(5)]))
        found = replay.head.losses_among(hidden, IDS, vocabulary)
        logits = torch.stack(list(replay.head.logits(hidden, IDS)))[:, :-1].float()
        chosen = logits.gather(-1, IDS[:, 1:, None])[..., 0]
        torch.testing.assert_close(found, logits[..., vocabulary].logsumexp(-1) - chosen, atol=1e-5, rtol=1e-5)
        assert (found <= replay.head.losses(hidden, IDS) + 1e-5).all()
        everything = torch.arange(VOCABULARY)
        torch.testing.assert_close(
            replay.head.losses_among(hidden, IDS, everything), replay.head.losses(hidden, IDS), atol=1e-5, rtol=1e-5
        )


def run(command, *arguments):
    done = command("run", "--format", "json", "--strategy", "greedy", "--budget", "3", *arguments)
    assert done.code == 0, done.err
    return json.loads(done.out)


def lines(document, split):
    with open(f"{document['run']}/evaluations.jsonl") as file:
        return [line for line in map(json.loads, file) if line["split"] == split]


def test_only_the_share_is_measured_and_scores_are_exact(searcher_command):
    exact = run(searcher_command, "--name", "exact")
    screened = run(searcher_command, "--name", "screened", "--screening", "0.5", "--runs-dir", "other")
    assert exact["cost"]["charged"]["evaluations"] == 6 + 5 + 4
    with open(f"{screened['run']}/run.json") as file:
        charges = json.load(file)["outcome"]["charges"]
    assert charges["plans"]["evaluations"] == 3 + 3 + 2
    assert screened["cost"]["charged"]["evaluations"] == sum(part["evaluations"] for part in charges.values()) > 8
    # a small model's few tokens matter almost all: less than a head for a plan that is screened
    assert 8 * 4 < screened["cost"]["charged"]["heads"] < (15 + 8) * 4
    assert {line["plan"] for line in lines(screened, "screen")} >= {str(unit) for unit in range(6)}
    values = {(line["plan"], line["group"]): line["values"] for line in lines(exact, "search")}
    for line in lines(screened, "search"):
        assert values.get((line["plan"], line["group"]), line["values"]) == line["values"]
    best = screened["best"]
    rows = [
        v for line in lines(screened, "search") if line["plan"] == best["plan"] for v in line["values"]["perplexity"]
    ]
    assert best["search"]["perplexity"] == pytest.approx(math.exp(np.mean(rows)))
    again = run(searcher_command, "--name", "screened", "--screening", "0.5", "--runs-dir", "other")
    assert again["best"] == best
    assert again["cost"] == screened["cost"]


def test_a_strategy_that_needs_every_plan_refuses(searcher_command):
    done = searcher_command("run", "--strategy", "shapley", "--budget", "2", "--screening", "0.5")
    assert done.code == 2
    assert "Strategy 'shapley' does not race" in done.err


def test_limits_count_the_screening_too(searcher_command):
    free = run(searcher_command, "--name", "free", "--screening", "0.5")
    limit = free["cost"]["charged"]["total"] * 0.6
    limited = run(searcher_command, "--name", "limited", "--screening", "0.5", "--max-cost", limit)
    assert limited["cost"]["charged"]["total"] <= limit
    assert limited["best"]["size"] == 3
