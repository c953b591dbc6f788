"""A shortlist healed in rounds of successive halving, by a healing of which every result is known."""

import json
from collections import Counter
from pathlib import Path

import pytest
import stepped

from searcher.contracts.plan import PrunePlan

FILE = Path(stepped.__file__)
RUN = ("run", "--strategy", "exhaustive", "--budget", "1", "--heal-windows", "12", "--format", "json")
OWN = ("--objective", f"{FILE}:Length", "--heal", f"{FILE}:Stepped:steps=8")


def document(done):
    assert done.code == 0, done.err
    return json.loads(done.out)


def outcome_of(found):
    return json.loads((Path(found["run"]) / "run.json").read_text())["outcome"]


def healed_so_far():
    """Plan and steps of each healing that was begun, and how often."""
    return Counter(tuple(line.split()) for line in Path(stepped.LOG).read_text().splitlines())


def lines_of(found):
    """The journal without what depends on which thread did what."""
    lines = [json.loads(text) for text in (Path(found["run"]) / "evaluations.jsonl").read_text().splitlines()]
    left_out = {"seconds", "layer_forwards", "heads"}
    kept = [{name: value for name, value in line.items() if name not in left_out} for line in lines]
    return sorted(kept, key=lambda line: (line["split"], line["plan"], line["group"]))


def test_each_round_heals_longer_and_the_better_half_goes_on(searcher_command):
    done = searcher_command(*RUN, *OWN, "--heal-top", "6", "--heal-rounds", "3")
    found, outcome = document(done), outcome_of(document(done))
    assert [one["steps"] for one in outcome["rounds"]] == [2, 4, 8]
    assert [one["healed"]["1"] for one in outcome["rounds"]] == [
        ["0", "1", "5", "2", "3", "4"],
        ["5", "0", "1"],
        ["0", "5"],
    ]
    assert [one["dropped"].get("1", []) for one in outcome["rounds"]] == [["2", "3", "4"], ["1"], []]
    assert outcome["shortlists"] == {"1": ["0", "5"]}
    assert outcome["left_out"] == 0
    assert found["best"]["plan"] == "0"
    assert found["best"]["healed"]["search"] == pytest.approx(dict.fromkeys(found["best"]["search"], 2.0))
    (control,) = found["dense"]["healed"]["search"].values()
    assert control == pytest.approx(stepped.CONTROL)
    # the control is healed in the last round alone; what follows on the report split may need the first ones again
    assert Counter(steps for _, steps in healed_so_far()) == {"2": 6, "4": 3, "8": 3}
    assert set(healed_so_far().values()) == {1}
    assert found["rounds"] == outcome["rounds"]
    assert "Round 1 of 3, 2 steps each: healing 6 plans" in done.err
    assert "Round 3 of 3, 8 steps each: healing 3 plans, among them the dense model as a control" in done.err
    table = searcher_command(*RUN[:-2], *OWN, "--heal-top", "6", "--heal-rounds", "3")
    told = " ".join(table.out.split())
    assert "Chosen among 2 plans healed by" in told
    assert "Round 1 of 3: 6 plans healed by 2 steps each" in told
    assert "Dropped after it, of size 1: 2; 3; 4." in told
    assert "Round 2 of 3: 3 plans healed by 4 steps each" in told
    assert "shorter healing of the best plans before, at most" in told


def test_one_round_is_what_it_was_without_any(searcher_command):
    plain = document(searcher_command(*RUN, *OWN, "--heal-top", "6", "--runs-dir", "plain"))
    one = document(searcher_command(*RUN, *OWN, "--heal-top", "6", "--heal-rounds", "1", "--runs-dir", "one"))
    assert Path(one["run"]).name == Path(plain["run"]).name  # the same identity
    assert one["cost"]["charged"] == plain["cost"]["charged"]
    assert all(one[name] == plain[name] for name in ("dense", "best", "front"))
    assert lines_of(one) == lines_of(plain)
    assert not {"rounds", "heal_rounds"} & (outcome_of(one).keys() | outcome_of(one)["charges"].keys())
    assert outcome_of(one)["shortlists"] == {"1": ["4", "0", "5", "3", "1", "2"]}
    three = document(searcher_command(*RUN, *OWN, "--heal-top", "6", "--heal-rounds", "3", "--runs-dir", "one"))
    of_last = {line["plan"]: line["values"] for line in lines_of(one) if line["split"] == "healed-search"}
    shared = [line for line in lines_of(three) if line["split"] == "healed-search"]
    assert {line["run"] for line in shared} == {Path(one["run"]).name}  # healed in full it is the same number
    assert {line["plan"]: line["values"] for line in shared}.items() <= of_last.items()


def test_rounds_of_other_lengths_are_never_taken_for_one_another(searcher_command):
    """The first of two rounds has half of the steps, the first of three a quarter."""
    document(searcher_command(*RUN, *OWN, "--heal-top", "6", "--heal-rounds", "3", "--name", "three"))
    two = document(searcher_command(*RUN, *OWN, "--heal-top", "6", "--heal-rounds", "2", "--name", "two"))
    assert outcome_of(two)["rounds"][0]["healed"]["1"] == ["5", "0", "1", "2", "3", "4"]
    runs = {line["plan"]: line.get("run") for line in lines_of(two) if line["split"] == "healed-search-1/2"}
    assert runs == {"0": "three", "1": "three", "5": "three", "2": None, "3": None, "4": None}
    refused = searcher_command(*RUN, *OWN, "--heal-top", "6", "--heal-rounds", "3", "--name", "two")
    assert refused.code == 2
    assert "heal_rounds" in refused.err


def test_what_has_several_groups_is_healed_once(searcher_command):
    """There are 20 plans, more than repairs are kept for, and the number of parameters is a group of its own."""
    arguments = ("run", "--strategy", "exhaustive", "--budget", "3", "--heal-windows", "12", "--format", "json")
    more = ("--objective", "parameters", "--heal-top", "20", "--heal-rounds", "2")
    outcome = outcome_of(document(searcher_command(*arguments, *OWN, *more)))
    assert [len(one["healed"]["3"]) for one in outcome["rounds"]] == [20, 10]
    scores = [stepped.score(PrunePlan.parse(plan), 4) for plan in outcome["rounds"][0]["healed"]["3"]]
    assert scores == sorted(scores)
    assert set(healed_so_far().values()) == {1}


@pytest.mark.parametrize(
    ("limit", "kind"),
    [("--max-cost", "total"), pytest.param("--max-evaluations", "evaluations", marks=pytest.mark.slow)],
)
def test_limits_count_all_rounds_and_leave_fewer_plans(searcher_command, limit, kind):
    arguments = (*RUN, *OWN, "--heal-top", "6", "--heal-rounds", "3")
    free = outcome_of(document(searcher_command(*arguments, "--runs-dir", "free")))
    charges, rounds = free["charges"], free["rounds"]
    assert charges["rounds"][kind] == pytest.approx(sum(one["charged"][kind] for one in rounds[:-1]))
    assert charges["shortlist"][kind] == pytest.approx(rounds[-1]["charged"][kind])
    assert free["cost"]["healing"]["layer_forwards"] > sum(one["run"]["layer_forwards"] for one in rounds[:-1]) > 0
    parts = sum(charges[part][kind] for part in ("plans", "rounds", "shortlist"))
    assert free["cost"]["charged"][kind] == pytest.approx(parts)
    most = charges["plans"][kind] + 0.7 * (charges["rounds"][kind] + charges["shortlist"][kind])
    limited = (*arguments, limit, most, "--runs-dir", "limited", "--name", "limited")
    outcome = outcome_of(document(searcher_command(*limited)))
    assert outcome["cost"]["charged"][kind] <= most
    begun = len(outcome["rounds"][0]["healed"]["1"])
    assert 1 < begun < 6
    assert outcome["left_out"] == 6 - begun
    assert [len(one["healed"]["1"]) for one in outcome["rounds"]] == halved(begun, 3)
    table = searcher_command(*(one for one in limited if one not in ("--format", "json")))
    assert "of the best plans were not healed: the limit left no room" in " ".join(table.out.split())


@pytest.mark.parametrize("cheap", ["bias", pytest.param("linear", marks=pytest.mark.slow)])
def test_every_plan_is_scored_with_one_healing_and_the_best_are_healed_by_another_alone(searcher_command, cheap):
    budget = ("--strategy", "exhaustive", "--budget", "2", "--heal-windows", "12", "--format", "json")
    lora = "lora:steps=4,lr=0.01,batch=2,rank=2"
    more = ("--heal", cheap, "--heal-final", lora, "--heal-top", "4", "--heal-rounds", "2")
    done = searcher_command("run", *budget, *more)
    found, outcome = document(done), outcome_of(document(done))
    (shortlist,) = outcome["shortlists"].values()
    assert [len(one["healed"]["2"]) for one in outcome["rounds"]] == [4, 2]
    asked = [text for plan in shortlist for text in ("--plan", plan)]

    def values(heal):
        evaluate = ("evaluate", "--heal-windows", "12", "--format", "json", "--split", "search", "--heal", heal)
        return [one["values"]["perplexity"] for one in document(searcher_command(*evaluate, *asked))["evaluations"]]

    assert found["best"]["plan"] == shortlist[0]
    assert found["best"]["search"]["perplexity"] == pytest.approx(values(cheap)[0])
    by_itself = values(lora)
    assert found["best"]["healed"]["search"]["perplexity"] == pytest.approx(by_itself[0])
    assert by_itself == sorted(by_itself)
    table = searcher_command("run", *budget[:-2], *more)
    assert f"searched for after healing by {cheap}" in " ".join(table.out.split())


def halved(count, rounds):
    """How many plans there are in each round; a single one is healed in the last alone."""
    counts = [count]
    for _ in range(rounds - 1):
        counts.append((counts[-1] + 1) // 2)
    return [count for count in counts[:-1] if count > 1] + counts[-1:]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--heal-rounds", "2"), "nothing is healed"),
        (("--heal", "bias", "--heal-rounds", "2"), "bias is part of every score"),
        (("--heal", "linear-folded", "--heal-rounds", "2"), "cannot be shortened"),
        (("--heal", f"{FILE}:Unsteady", "--heal-rounds", "2"), "it has no steps"),
        (("--heal", "lora:steps=3", "--heal-rounds", "3"), "Raise steps to 4 or more, or lower --heal-rounds to 2"),
        (("--heal", "layer:steps=1", "--heal-rounds", "2"), "leave --heal-rounds out"),
        (
            ("--heal", "lora", "--heal-top", "4", "--heal-rounds", "4"),
            "--heal-top to 5 or more, or lower --heal-rounds to 3",
        ),
        (("--heal", "lora", "--heal-top", "1", "--heal-rounds", "2"), "leave --heal-rounds out"),
        (("--heal-final", "lora"), "nothing is healed"),
        (("--heal", "lora", "--heal-final", "layer"), "heals the best plans already"),
        (("--heal", "bias", "--heal-final", "linear"), "is not fitted to a whole plan"),
        (("--heal", "bias", "--heal-final", "lora:stepz=3"), "Did you mean 'steps'"),
        (("--heal", "lora", "--heal-rounds", "0"), "heal-rounds"),
        (("--heal", "lora", "--heal-top", "99", "--heal-rounds", "8"), "heal-rounds"),
    ],
)
def test_rounds_that_cannot_be_are_refused_before_anything_is_loaded(searcher_command, arguments, told):
    done = searcher_command("run", "--budget", "1", *arguments)
    assert done.code == 2
    assert told in " ".join(done.err.split())
    assert "Traceback" not in done.err
    assert "Loading" not in done.err
