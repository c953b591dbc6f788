"""A run as an Optuna study, while it goes on and afterwards."""

import json
import math
import os
from types import SimpleNamespace

import optuna
import pytest
from optuna.trial import TrialState
from sqlalchemy.exc import OperationalError
from tiny_checkpoint import OPTIONS

import searcher
from searcher.commands.optuna_mirror import open_database
from searcher.commands.optuna_trials import REMOVED_UNITS
from searcher.contracts.plan import PrunePlan
from searcher.errors import UsageError
from searcher.runs.config import RunConfig
from searcher.runs.notation import without_password
from searcher.runs.options import make_config

THREE = ["perplexity", "kl", "kv-cache"]
BREAKS = '''
import numpy as np
from objectives.loss import Loss

class Breaks(Loss):
    """The loss, without end where block 2 is gone."""
    def measure(self, candidate):
        lost = any(unit.block == 2 for unit in candidate.plan.removed)
        return np.full(len(candidate.rows), np.inf) if lost else super().measure(candidate)
'''


@pytest.fixture
def folder(tiny, tmp_path):
    """Runs the tiny checkpoint; `url` is of a database that is not there yet."""

    def run(**options):
        given = {"model": str(tiny / "model"), "data": str(tiny / "text.jsonl"), "runs_dir": str(tmp_path), **OPTIONS}
        return searcher.run(quiet=True, **(given | {"strategy": "greedy", "budget": 2, "name": "run"} | options))

    return SimpleNamespace(run=run, url=f"sqlite:///{tmp_path}/study.db", path=tmp_path)


def study(url, name="run"):
    return optuna.load_study(storage=url, study_name=name)


def dominated(point, points, signs):
    """By the definition, with each coordinate turned so that lower is better."""
    ours = [s * x for s, x in zip(signs, point, strict=True)]
    others = ([s * x for s, x in zip(signs, other, strict=True)] for other in points)
    return any(all(a <= b for a, b in zip(other, ours, strict=True)) and other != ours for other in others)


def brute_front(run):
    """The plans on the front, from the measurements alone."""
    plans = [plan for plan in run.measurements.plans("search") if plan.removed]
    labels = run.config.goals
    signs = [1 if run.objectives[label].lower_is_better else -1 for label in labels]
    points = [[run.evaluation(plan).search[label] for label in labels] for plan in plans]
    if not any(run.objectives[label].says_size for label in labels):
        signs.append(-1)
        points = [[*point, plan.size(run.config.granularity)] for plan, point in zip(plans, points, strict=True)]
    return {str(p) for p, point in zip(plans, points, strict=True) if not dominated(point, points, signs)}


@pytest.mark.parametrize(
    "options",
    [
        {"objective": THREE, "strategy": "optuna", "budget": "1-4", "granularity": "sublayer", "max_evaluations": 40},
        {"objective": ["perplexity", "js"], "strategy": "random", "budget": "1-3", "max_evaluations": 25},
        {"objective": ["perplexity"], "strategy": "greedy", "budget": "1-4"},
    ],
    ids=["three", "no size", "one"],
)
def test_the_best_trials_are_the_front(folder, options):
    run = folder.run(optuna=folder.url, **options)
    found = study(folder.url)
    best = [trial.user_attrs["plan"] for trial in found.best_trials]
    assert set(best) == {str(e.plan) for e in run.front()} == brute_front(run)
    assert len(best) == len(set(best))


def test_a_trial_holds_the_plan_and_its_values(folder):
    run = folder.run(objective=["perplexity", "accuracy=loss"], keep="0", optuna=folder.url)
    found = study(folder.url)
    assert found.metric_names == ["perplexity", "accuracy", REMOVED_UNITS]
    assert [d.name for d in found.directions] == ["MINIMIZE", "MINIMIZE", "MAXIMIZE"]
    assert len(found.trials) == 5 + 4
    for trial in found.trials:
        evaluation = run.evaluation(PrunePlan.parse(trial.user_attrs["plan"]))
        assert trial.state is TrialState.COMPLETE
        assert trial.values == [*evaluation.search.values(), evaluation.size]
        removed = [name for name, state in trial.params.items() if state == "removed"]
        assert removed == [f"block {unit}" for unit in evaluation.plan.removed]
        assert trial.params.keys() == {"size", *(f"block {b}" for b in range(1, 6))}
        assert trial.params["size"] == trial.user_attrs["size"] == evaluation.size
    assert found.user_attrs["model"] == run.record["model"]
    assert found.user_attrs["configuration"]["strategy"] == "greedy"
    assert found.user_attrs["dense"] == run.dense.search
    assert found.user_attrs["chosen"] == run.outcome["chosen"]
    assert found.user_attrs["front"] == run.outcome["front"]
    judged = {plan: values["perplexity"] for plan, values in found.user_attrs["report"].items()}
    assert judged == {str(e.plan): e.report["perplexity"].value for e in (run.dense, *run.chosen, *run.front())}


def test_a_plan_that_breaks_the_model_is_a_failed_trial(folder):
    (folder.path / "breaks.py").write_text(BREAKS)
    run = folder.run(objective=["perplexity", f"breaks={folder.path}/breaks.py:Breaks"], optuna=folder.url)
    trials = {trial.user_attrs["plan"]: trial for trial in study(folder.url).trials}
    assert set(trials) == {str(plan) for plan in run.measurements.plans("search") if plan.removed}
    broken = {plan for plan in trials if any(unit.block == 2 for unit in PrunePlan.parse(plan).removed)}
    assert "2" in broken
    assert {plan for plan, trial in trials.items() if trial.state is TrialState.FAIL} == broken
    assert trials["2"].user_attrs["reason"] == "The plan breaks the model: breaks is inf"
    assert math.isfinite(trials["2"].user_attrs["search perplexity"])


def test_a_bound_is_a_constraint(folder):
    run = folder.run(
        objective=["perplexity", "kl"],
        at_most={"kv-cache": "70%"},
        granularity="sublayer",
        strategy="random",
        max_evaluations=40,
        optuna=folder.url,
    )
    found = study(folder.url)
    limit = 0.7 * run.dense.search["kv-cache"]
    for trial in found.trials:
        excess = max(trial.system_attrs["constraints"])
        assert (excess > 0) is (trial.user_attrs["search kv-cache"] > limit * (1 + 1e-9))
    assert {t.user_attrs["plan"] for t in found.best_trials} == {str(e.plan) for e in run.front()}


def test_a_finished_run_is_mirrored_to_the_same_study(folder, searcher_command):
    run = folder.run(objective=THREE, optuna=folder.url)
    later = f"sqlite:///{folder.path}/later.db"
    for _ in range(2):  # the second adds nothing
        done = searcher_command("convert", run.folder, "--optuna", later, defaults=False)
        assert (done.code, done.out) == (0, f"Study 'run' in {later} has {6 + 5} plans\n"), done.err
    one, other = (
        {trial.user_attrs["plan"]: (trial.values, trial.params) for trial in study(url).trials}
        for url in (folder.url, later)
    )
    assert one == other
    assert list(one) == list(other)  # trials come in the order of the search
    assert len(study(later).trials) == len(other)
    assert study(later).user_attrs == study(folder.url).user_attrs
    trial = next(t for t in study(later).trials if t.user_attrs["plan"] == str(run.best.plan))
    assert trial.user_attrs["report perplexity"] == run.best.report["perplexity"].value


def test_a_resumed_run_adds_what_is_missing(folder):
    folder.run(max_evaluations=8, optuna=folder.url)
    before = study(folder.url).trials
    folder.run(max_evaluations=20, optuna=folder.url)
    after = study(folder.url).trials
    assert [t.user_attrs["plan"] for t in after[: len(before)]] == [t.user_attrs["plan"] for t in before]
    assert len({t.user_attrs["plan"] for t in after}) == len(after) == 6 + 5


def test_an_interrupted_run_is_completed(folder, monkeypatch):
    monkeypatch.setattr(
        "searcher.search.loop.SearchLoop._measure_outcome", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        folder.run(optuna=folder.url)
    assert len(study(folder.url).trials) <= 6 + 5
    monkeypatch.undo()
    folder.run(optuna=folder.url)
    plans = [trial.user_attrs["plan"] for trial in study(folder.url).trials]
    assert len(set(plans)) == len(plans) == 6 + 5


def test_a_study_of_another_run_is_refused(folder, searcher_command):
    folder.run(optuna=folder.url)
    other = folder.run(runs_dir=str(folder.path / "others"), budget=1)
    done = searcher_command("convert", other.folder, "--optuna", folder.url, defaults=False)
    assert done.code == 2
    assert f"The study 'run' in {folder.url} is not of this run" in done.err
    assert len(study(folder.url).trials) == 6 + 5
    optuna.create_study(storage=folder.url, study_name="mine").add_trial(optuna.trial.create_trial(value=1.0))
    with pytest.raises(UsageError, match=r"'mine' .* is not of this run"):
        folder.run(name="mine", optuna=folder.url)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("sqlite:////missing/folder/study.db", "cannot be reached"),
        ("postgresql://me:secret@127.0.0.1:9/studies", "postgresql://me:***@127.0.0.1:9/studies"),
        ("nosuch://me:secret@host/studies", "nosuch://me:***@host/studies is no database"),
        ("mssql+pyodbc://me:secret@host/studies", "mssql+pyodbc://me:***@host/studies is not installed"),
        ("postgresql://me:secret@host:port/studies", "is no database"),
        ("study.db", "not the URL of a database"),
    ],
)
def test_a_database_that_cannot_be_reached_is_refused_before_the_search(folder, monkeypatch, url, message):
    if url.startswith("postgresql"):
        pytest.importorskip("psycopg")
    monkeypatch.setattr("searcher.commands.run.prepare", lambda *_: pytest.fail("the model was loaded"))
    with pytest.raises(UsageError) as error:
        folder.run(optuna=url)
    assert message in str(error.value)
    assert "secret" not in str(error.value)


def test_a_file_that_is_no_database_is_refused(folder):
    (folder.path / "study.db").write_text("no database" * 100)
    with pytest.raises(UsageError, match="file is not a database"):
        open_database(folder.url)


@pytest.mark.parametrize("write", ["add_trial", "set_user_attr"])
def test_a_database_that_goes_away_does_not_lose_the_run(folder, monkeypatch, write, searcher_command):
    expected = folder.run(name="without")
    original, calls = getattr(optuna.Study, write), []

    def fails(self, *arguments):
        calls.append(arguments)
        if len(calls) <= 3 if write == "add_trial" else arguments[0] != "report":
            return original(self, *arguments)
        cause = OperationalError("INSERT", {}, Exception("server closed the connection"))
        raise optuna.exceptions.StorageInternalError from cause

    url = folder.url
    monkeypatch.setattr(optuna.Study, write, fails)
    monkeypatch.setattr("searcher.commands.optuna_mirror.without_password", lambda _: "URL")
    options = {"strategy": "greedy", "budget": 2, "name": "run", "runs_dir": folder.path, "optuna": url}
    done = searcher_command("run", *(text for n, v in options.items() for text in (f"--{n.replace('_', '-')}", v)))
    assert done.code == 0, done.err
    assert done.err.count("Warning: The database URL has gone (server closed the connection)") == 1
    assert json.loads((folder.path / "run" / "run.json").read_text())["outcome"]["chosen"] == expected.outcome["chosen"]
    monkeypatch.undo()
    done = searcher_command("convert", folder.path / "run", "--optuna", url, defaults=False)
    assert done.code == 0, done.err
    assert len(study(url).trials) == 6 + 5
    assert "report" in study(url).user_attrs


def test_no_password_is_kept(folder, monkeypatch):
    monkeypatch.setattr(
        "searcher.commands.optuna_mirror.open_database", lambda url, real=open_database: real(folder.url)
    )
    run = folder.run(optuna="postgresql://me:s3cr:t@host/studies")
    texts = [path.read_text() for path in run.folder.iterdir() if path.is_file()]
    assert "postgresql://me:***@host/studies" in run.record["config"]["optuna"]
    assert not any("s3cr" in text for text in texts)
    assert make_config(RunConfig, run.record["config"]).optuna == "postgresql://me:***@host/studies"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sqlite:///study.db", "sqlite:///study.db"),
        ("postgresql://me@host/db", "postgresql://me@host/db"),
        ("postgresql+psycopg://me:p@ss:w/rd@host:1/db", "postgresql+psycopg://me:***@host:1/db"),
        ("postgresql://host/db?user=me&password=secret&x=1", "postgresql://host/db?user=me&password=***&x=1"),
    ],
)
def test_passwords_are_starred_out(url, shown):
    assert without_password(url) == shown


@pytest.mark.skipif("SEARCHER_POSTGRESQL" not in os.environ, reason="no PostgreSQL: set SEARCHER_POSTGRESQL to its URL")
def test_postgresql(folder):
    url = os.environ["SEARCHER_POSTGRESQL"]
    name = f"run-{os.getpid()}"
    run = folder.run(objective=THREE, optuna=url, name=name)
    storage = open_database(url)
    try:
        found = optuna.load_study(storage=storage, study_name=name)
        assert {t.user_attrs["plan"] for t in found.best_trials} == {str(e.plan) for e in run.front()}
    finally:
        optuna.delete_study(storage=storage, study_name=name)
