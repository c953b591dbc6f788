"""`searcher heal`, and searches that heal, as a user runs them."""

import json
import re

import pytest

LORA = "lora:steps=4,lr=0.01,batch=2,rank=2"
TEXT_ALONE = f"{LORA},loss=text"
"""Which changes the dense model too, in a few steps."""
HEALINGS = (LORA, "bias", "rescale", "linear", "linear-folded", "layer:steps=4", "ffn:steps=4", "swiglu:steps=4")


def document(done):
    assert done.code == 0, done.err
    return json.loads(done.out)


def test_healings_side_by_side(searcher_command):
    asked = [text for recipe in HEALINGS for text in ("--heal", recipe)]
    arguments = ("heal", "--plan", "1-2,4", *asked, "--heal-windows", "20", "--format", "json")
    found = document(searcher_command(*arguments))
    assert [one["heal"] for one in found["healings"]] == ["lora:batch=2,lr=0.01,rank=2,steps=4", *HEALINGS[1:]]
    assert found["heal_windows"] == 20
    for one in found["healings"]:
        assert not one["failure"]
        of_dense = one["report"]["perplexity"]["value"] / one["control"]["perplexity"]["value"]
        assert one["to_control"]["perplexity"] == pytest.approx(of_dense)
        values = one["report"]["perplexity"]
        if one["dropped"] or one["held_out"]["after"] == one["held_out"]["before"]:
            assert values == pytest.approx(found["before"]["perplexity"], rel=1e-5)
        else:
            assert one["held_out"]["after"] < one["held_out"]["before"]
            assert values["value"] != pytest.approx(found["before"]["perplexity"]["value"], rel=1e-6)
        if not one["heal"].startswith("lora"):  # nothing is missing in the dense model
            assert one["control"]["perplexity"] == pytest.approx(found["dense"]["perplexity"])
    assert found["healings"][0]["trained_tokens"] == 4 * 2 * 16
    again = searcher_command(*arguments)
    assert document(again) == found  # to the last digit, and the seconds too: it was kept
    assert "held-out loss" not in again.err


def test_the_plan_of_a_run_is_healed(searcher_command, tmp_path):
    document(searcher_command("run", "--budget", "1-2", "--strategy", "greedy", "--name", "one", "--format", "json"))
    table = searcher_command("heal", "runs/one", "--heal", LORA, "--heal-windows", "12", defaults=False)
    assert table.code == 0, table.err
    assert "held-out loss" in table.out
    assert "12 windows of 16 tokens" in table.out
    assert "to that" in table.out
    assert len(re.findall(r"\d\.\d\dx", table.out)) == 2  # before and after, to the dense model treated the same
    first = searcher_command("heal", "runs/one", "--size", "1", "--heal", "bias", "--format", "json", defaults=False)
    chosen = json.loads((tmp_path / "runs/one/run.json").read_text())["outcome"]["chosen"]
    assert document(first)["plan"] == chosen["1"]
    assert (tmp_path / "runs/healed").is_dir()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--plan", "1", "--heal", "lore"), "Did you mean 'lora'"),
        (("--plan", "1", "--heal", "lora:stepz=3"), "Did you mean 'steps'"),
        (("--plan", "1", "--heal", "lora:steps=-3"), "steps"),
        (("--plan", "1", "--heal", "lora:steps"), "is not name=value"),
        (("--plan", "1", "--heal", "lora:steps=1,steps=2"), "twice"),
        (("--plan", "1", "--heal-windows", "100000"), "too short"),
        (("--plan", "99", "--heal", "bias"), "99"),
        ((), "a run folder or a plan"),
        (("nowhere", "--plan", "1"), "a run folder or a plan"),
        (("nowhere",), "nowhere"),
        (("--plan", "1", "--size", "1"), "--size"),
    ],
)
def test_mistakes_are_told_in_one_line(searcher_command, arguments, told):
    done = searcher_command("heal", *arguments)
    assert done.code == 2
    assert told in done.err
    assert "Traceback" not in done.err


def test_what_cannot_heal_a_plan_says_so_and_the_rest_goes_on(searcher_command):
    asked = ["--heal", "layer:steps=2", "--heal", "lora:steps=4,lr=1e30", "--heal", "bias"]
    done = searcher_command("heal", "--plan", "1.attn,3", *asked, "--heal-windows", "10")
    assert done.code == 0, done.err
    told = " ".join(done.out.split())
    assert "layer:steps=2 has not healed the plan: Healing 'layer' fills gaps of whole blocks" in told
    assert "diverged at step" in told
    assert "Lower its learning rate" in told


@pytest.mark.parametrize("recipe", ["bias", "rescale:fold=false", "linear"])
def test_a_search_scores_every_plan_healed(searcher_command, recipe):
    arguments = ("run", "--strategy", "greedy", "--budget", "2", "--heal-windows", "12", "--format", "json")
    plain = document(searcher_command("run", "--strategy", "exhaustive", "--budget", "2", "--format", "json"))
    found = document(searcher_command(*arguments, "--heal", recipe))
    assert found["config"]["heal"] == recipe
    assert found["run"] != plain["run"]
    assert found["dense"]["search"] == plain["dense"]["search"]  # nothing is missing there
    plan = found["best"]["plan"]
    evaluate = ("evaluate", "--plan", plan, "--heal-windows", "12", "--format", "json", "--heal", recipe)
    (by_hand,) = document(searcher_command(*evaluate, "--split", "search"))["evaluations"]
    assert by_hand["values"] == pytest.approx(found["best"]["search"])
    more = document(searcher_command(*arguments, "--heal", recipe))
    assert more == found
    alone = plain["cost"]["charged"]["total"] / 15 * 11
    charged = found["cost"]["charged"]["total"]
    assert charged > alone / 4 if recipe.startswith("rescale") else charged > 2 * alone / 2  # one window, or all


def test_a_shortlist_is_healed_and_ranked_anew(searcher_command, tmp_path):
    arguments = ("run", "--strategy", "exhaustive", "--budget", "2", "--heal-windows", "12", "--format", "json")
    found = document(searcher_command(*arguments, "--heal", TEXT_ALONE, "--heal-top", "3"))
    outcome = json.loads(next(tmp_path.glob("runs/*/run.json")).read_text())["outcome"]
    (shortlist,) = outcome["shortlists"].values()
    assert len(shortlist) == 3
    assert found["best"]["plan"] == shortlist[0]
    evaluate = ("evaluate", "--heal-windows", "12", "--format", "json", "--heal", TEXT_ALONE, "--split", "search")
    asked = [text for plan in shortlist for text in ("--plan", plan)]
    healed = [one["values"]["perplexity"] for one in document(searcher_command(*evaluate, *asked))["evaluations"]]
    assert healed == sorted(healed)
    assert found["best"]["healed"]["search"]["perplexity"] == pytest.approx(healed[0])
    assert found["dense"]["healed"]["report"]["perplexity"]["value"] != found["dense"]["report"]["perplexity"]["value"]
    assert found["cost"]["healing"]["layer_forwards"] > 0
    again = searcher_command(*arguments, "--heal", TEXT_ALONE, "--heal-top", "3")
    assert document(again) == found
    assert "Healing 4 plans" not in again.err  # all is known
    name = found["run"].split("/")[-1]
    refused = searcher_command(*arguments, "--heal", TEXT_ALONE, "--heal-top", "2", "--name", name)
    assert refused.code == 2
    assert "heal_top" in refused.err
    table = searcher_command(*arguments[:-2], "--heal", TEXT_ALONE, "--heal-top", "3")
    assert "healed report perplexity" in " ".join(table.out.split())


def outcome_of(found):
    with open(f"{found['run']}/run.json") as file:
        return json.load(file)["outcome"]


@pytest.mark.parametrize(("limit", "kind"), [("--max-evaluations", "evaluations"), ("--max-cost", "total")])
def test_limits_count_the_healing_of_a_shortlist(searcher_command, limit, kind):
    arguments = ("run", "--strategy", "exhaustive", "--budget", "2", "--heal-windows", "12", "--format", "json")
    healing = ("--heal", f"{LORA},patience=0", "--heal-top", "4")
    free = document(searcher_command(*arguments, *healing, "--name", "free", "--runs-dir", "free"))
    charges, healed = outcome_of(free)["charges"], free["cost"]["healing"]
    assert charges["shortlist"]["evaluations"] > 5  # four plans and the control, each with a fit
    assert free["cost"]["charged"][kind] == pytest.approx(charges["plans"][kind] + charges["shortlist"][kind])
    assert healed["layer_forwards"] > 0
    most = charges["plans"][kind] + 0.7 * charges["shortlist"][kind]
    limited = document(searcher_command(*arguments, *healing, limit, most, "--name", "some", "--runs-dir", "some"))
    outcome = outcome_of(limited)
    assert limited["cost"]["charged"][kind] <= most
    (shortlist,) = outcome["shortlists"].values()
    assert 1 <= len(shortlist) < 4
    assert outcome["left_out"] == 4 - len(shortlist)
    table = searcher_command(*arguments[:-2], *healing, limit, most, "--name", "some", "--runs-dir", "some")
    assert "of the best plans were not healed: the limit left no room" in " ".join(table.out.split())
    refused = searcher_command(*arguments, *healing, limit, 2, "--name", "none")
    assert refused.code == 2
    assert "healing the control and a plan" in refused.err


def test_a_healing_that_does_not_tell_what_it_runs_is_outside_of_limits_and_said_to_be(searcher_command, tmp_path):
    (tmp_path / "own.py").write_text(
        "from searcher.healing.contract import Healing\nfrom searcher.replay.repair import Repair\n\n\n"
        'class Idle(Healing):\n    """Nothing."""\n\n    def heal(self, calibration, plan):\n        return Repair()\n'
    )
    arguments = ("run", "--strategy", "greedy", "--budget", "2", "--heal-windows", "12", "--heal", "own.py:Idle")
    done = searcher_command(*arguments, "--max-evaluations", "8")
    assert done.code == 0, done.err
    assert "which no limit counts" in " ".join(done.out.split())


def test_a_timeout_leaves_the_control_and_the_best_plan_healed(searcher_command):
    arguments = ("run", "--strategy", "exhaustive", "--budget", "2", "--heal-windows", "12", "--format", "json")
    found = document(searcher_command(*arguments, "--heal", LORA, "--heal-top", "3", "--timeout", "0.001s"))
    (shortlist,) = outcome_of(found)["shortlists"].values()
    assert len(shortlist) == 1
    assert "healed" in found["best"]


def test_all_healings_are_listed(searcher_command):
    listed = searcher_command("list", "healings", defaults=False).out
    assert all(name in listed for name in ("lora", "bias", "linear", "linear-folded", "layer", "ffn", "swiglu"))
    assert "steps" in searcher_command("list", "healings", "--verbose", defaults=False).out


def test_compare_says_what_was_chosen_after_healing(searcher_command):
    arguments = ("run", "--budget", "2", "--heal-windows", "12", "--heal", LORA, "--heal-top", "2")
    for strategy in ("greedy", "exhaustive"):
        assert searcher_command(*arguments, "--strategy", strategy, "--name", strategy).code == 0
    done = searcher_command("compare", "runs/greedy", "runs/exhaustive", defaults=False)
    assert done.code == 0, done.err
    assert "greedy chose among its best plans by what lora" in " ".join(done.out.split())
    searcher_command("run", "--budget", "2", "--strategy", "greedy", "--name", "plain")
    refused = searcher_command("compare", "runs/greedy", "runs/plain", defaults=False)
    assert refused.code == 2
    assert "heal is lora" in refused.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "--budget", "1", "--heal-windows", "10"),
        ("run", "--budget", "1", "--heal-top", "2"),
        ("evaluate", "--plan", "1", "--heal-windows", "10"),
    ],
)
def test_options_of_healing_without_any_are_refused(searcher_command, arguments):
    done = searcher_command(*arguments)
    assert done.code == 2
    assert "nothing is healed" in done.err


def test_heal_takes_no_workers(searcher_command):
    assert searcher_command("heal", "--plan", "1", "--workers", "2").code == 2


def test_a_run_made_by_another_version_of_a_healing_is_not_gone_on_with(searcher_command, monkeypatch):
    same = ("run", "--budget", "1", "--strategy", "greedy", "--heal", "bias", "--heal-windows", "12", "--name", "one")
    assert searcher_command(*same).code == 0
    monkeypatch.setattr("searcher.healing.bias.Bias.version", 3)
    done = searcher_command(*same)
    assert done.code == 2
    assert "version of the healing" in done.err
