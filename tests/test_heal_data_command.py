"""`--heal-data`: healing on another text than plans are judged on, as a user asks for it."""

import json
import random

import pytest

from searcher.runs.journal import RUN_FILE

HEAL = ("--heal", "bias", "--heal-windows", "12")


def document(done):
    assert done.code == 0, done.err
    return json.loads(done.out)


@pytest.fixture
def other(tmp_path):
    """A text of other words than those that plans are judged on."""
    rng = random.Random(1)
    words = ["".join(rng.choices("qrstuvwxyz", k=rng.randint(2, 8))) for _ in range(400)]
    rows = [{"text": " ".join(rng.choices(words, k=30))} for _ in range(60)]
    (tmp_path / "other.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return "other.jsonl"


def test_values_by_text_where_it_is_healed_on_one_and_judged_on_two(searcher_command, other):
    asked = ("heal", "--plan", "1-2", "--data", other, "--heal-data", other, *HEAL)
    found = document(searcher_command(*asked, "--format", "json"))
    assert (found["text"], found["heal_text"]) == ("text.jsonl + other.jsonl", other)
    assert [(one["text"], one["windows"]) for one in found["report_by_text"]] == [("text.jsonl", 16), (other, 16)]
    for kind in ("dense", "before"):  # perplexity is the exp of a mean, and both texts have as many windows
        values = [one[kind]["perplexity"]["value"] for one in found["report_by_text"]]
        assert (values[0] * values[1]) ** 0.5 == pytest.approx(found[kind]["perplexity"]["value"])
    healed = [one["healings"][0]["report"]["perplexity"]["value"] for one in found["report_by_text"]]
    assert (healed[0] * healed[1]) ** 0.5 == pytest.approx(found["healings"][0]["report"]["perplexity"]["value"])
    for one in found["report_by_text"]:
        of_dense = one["before"]["perplexity"]["value"] / one["dense"]["perplexity"]["value"]
        assert one["before_to_dense"]["perplexity"] == pytest.approx(of_dense)
    alone = document(searcher_command("heal", "--plan", "1-2", "--heal-data", other, *HEAL, "--format", "json"))
    assert "report_by_text" not in alone
    table = searcher_command(*asked)
    assert "By text, on its report windows" in table.out
    assert "of the heal split of other.jsonl" in " ".join(table.out.split())


def test_it_is_another_healing_and_another_run(searcher_command, other, tmp_path):
    arguments = ("run", "--strategy", "greedy", "--budget", "1", *HEAL, "--format", "json")
    plain = document(searcher_command(*arguments))
    found = document(searcher_command(*arguments, "--heal-data", other))
    assert found["run"] != plain["run"]
    assert found["dense"] == plain["dense"]  # it is judged on the same windows
    assert found["best"]["report"] != plain["best"]["report"]
    records = [json.loads((tmp_path / one["run"] / RUN_FILE).read_text()) for one in (plain, found)]
    assert not {"heal_data", "heal_text_fingerprint"} & records[0]["identity"].keys()
    assert records[1]["heal_text"] == other
    assert records[1]["config"]["heal_data"] == str(tmp_path / other)
    assert document(searcher_command(*arguments, "--heal-data", other)) == found
    table = searcher_command(*arguments[:-2], "--heal-data", other)
    assert "windows of other.jsonl" in " ".join(table.out.split())
    refused = searcher_command(*arguments, "--name", found["run"].split("/")[-1])
    assert refused.code == 2
    assert "heal_text_fingerprint" in refused.err
    evaluate = ("evaluate", "--plan", found["best"]["plan"], "--split", "search", *HEAL, "--format", "json")
    (by_hand,) = document(searcher_command(*evaluate, "--heal-data", other))["evaluations"]
    assert by_hand["values"] == pytest.approx(found["best"]["search"])
    compared = searcher_command("compare", plain["run"], found["run"], defaults=False)
    assert compared.code == 2
    assert "heal_text_fingerprint" in compared.err


def test_heal_and_export_go_on_from_the_run(searcher_command, other, tmp_path):
    searcher_command("run", "--strategy", "greedy", "--budget", "1", *HEAL, "--heal-data", other, "--name", "one")
    healed = document(searcher_command("heal", "runs/one", "--format", "json", defaults=False))
    assert healed["heal_text"] == other
    done = searcher_command("export", "runs/one", "-o", "out", "--no-check", defaults=False)
    assert done.code == 0, done.err
    assert "--heal bias" in (tmp_path / "out/README.md").read_text()
    (tmp_path / other).write_text((tmp_path / other).read_text() + "\n" + json.dumps({"text": "and something new"}))
    for command in (["heal", "runs/one"], ["export", "runs/one", "-o", "out2", "--no-check"]):
        refused = searcher_command(*command, defaults=False)
        assert refused.code == 2
        assert "a run that heals on another text: 'other.jsonl' has changed since" in " ".join(refused.err.split())


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["run", "--budget", "1", "--heal-data", "x.txt"], "--heal-data is for healing, but nothing is healed"),
        (["evaluate", "--plan", "1", "--heal-data", "x.txt"], "--heal-data is for healing, but nothing is healed"),
        (["export", "--plan", "1", "--heal-data", "x.txt", "-o", "out"], "nothing is healed"),
        (["heal", "--plan", "1", "--heal-data", "x.txt"], "'x.txt': there is no such file"),
        (["heal", "--plan", "1", "--heal-data", "empty.txt"], "'empty.txt' holds no text"),
        (["heal", "--plan", "1", "--heal-data", ""], "names no text"),
    ],
)
def test_mistakes_are_told_in_one_line(searcher_command, tmp_path, arguments, told):
    (tmp_path / "empty.txt").write_text("\n")
    done = searcher_command(*arguments)
    assert done.code == 2
    assert told in " ".join(done.err.split())
    assert "Traceback" not in done.err
