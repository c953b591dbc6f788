"""Gates: the quadratic model, its relaxation, the race of what it proposes, and runs from the command line."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from searcher.contracts import registry
from searcher.contracts.games import additive_game, make_space, noisy_game, play
from searcher.contracts.plan import Granularity, Part, PrunePlan
from searcher.contracts.scoreboard import removal_matrix
from searcher.errors import UsageError
from strategies import quadratic
from strategies.gates import CURVATURES, Gates, quadratics
from strategies.quadratic import Quadratic
from strategies.relaxed import annealed


def given_gradients(gradients, size, **options):
    """A space of as many blocks as there are columns, of which these gradients are known."""
    space = make_space(gradients.shape[1], size, num_windows=len(gradients), **options)
    return dataclasses.replace(space, statistics={"gate-gradients": np.asarray(gradients)})


def drawn(seed, units, windows=40):
    """Gradients of units that depend on one another: each window is a mix of a few directions."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(windows, 4)) @ rng.normal(size=(4, units)) - rng.uniform(0, 2, units)


def game_of(model, space):
    return lambda plan: float(model.predict(removal_matrix([plan], space))[0])


@pytest.mark.parametrize("seed", range(3))
def test_an_additive_game_is_solved_by_the_first_plan(seed):
    """Thirty blocks, too many plans to look at all of them; the slopes say all there is to know."""
    game = additive_game(seed)
    costs = np.array([game(PrunePlan.parse(str(block))) for block in range(30)])
    space = given_gradients(np.tile(-costs, (4, 1)), 8)
    played = play(Gates(plans=6, samples=4), space, game)
    best = PrunePlan.of(space.units[i] for i in costs.argsort()[:8])
    assert played.plans[0] == played.outcome.plans[0] == best
    assert len(played.plans) <= 6


@pytest.mark.parametrize("enumerable", [quadratic.ENUMERABLE, 0])
@pytest.mark.parametrize("which", range(len(CURVATURES)))
def test_the_optimum_of_a_quadratic_game_is_found(which, enumerable, monkeypatch):
    """Of every model in turn, by looking at all plans, and by relaxation and tabu search."""
    monkeypatch.setattr(quadratic, "ENUMERABLE", enumerable)
    for seed in range(2):
        space = given_gradients(drawn(seed, 12), 5)
        game = game_of(quadratics(space.statistics["gate-gradients"])[which], space)
        played = play(Gates(plans=16), space, game)
        best = min(space.plans(5), key=game)
        assert game(played.outcome.plans[0]) == pytest.approx(game(best), abs=1e-9)
        assert len(played.plans) <= 16 < space.count(5) / 40


def test_the_model_is_the_expansion_that_it_says_it_is():
    gradients = drawn(0, 6, windows=20_000)
    fisher, removed = gradients.T @ gradients / len(gradients), np.array([1.0, 0, 1, 1, 0, 0])
    for model, curvature in zip(quadratics(gradients), CURVATURES, strict=True):
        expected = -gradients.mean(axis=0) @ removed + curvature / 2 * removed @ fisher @ removed
        assert model.predict(removed[None])[0] == pytest.approx(expected, rel=0.02)
        np.testing.assert_allclose(model.pair, model.pair.T)
        assert not model.pair.diagonal().any()


def test_few_windows_say_little_of_pairs():
    """Of independent units the pairs are drawn to nothing, and of a single window none is left at all."""
    rng = np.random.default_rng(0)
    independent, alone = quadratics(rng.normal(size=(8, 30)))[0], quadratics(rng.normal(size=(1, 30)))[0]
    raw = rng.normal(size=(8, 30))
    assert np.abs(independent.pair).mean() < 0.3 * np.abs((raw.T @ raw / 8)[~np.eye(30, dtype=bool)]).mean()
    assert not alone.pair.any()
    same = quadratics(np.tile(rng.normal(size=30), (8, 1)))[0]  # the windows agree
    assert np.abs(same.pair).min(where=~np.eye(30, dtype=bool), initial=np.inf) > 0


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.integers(0, 10_000), st.integers(2, 20), st.data())
def test_relaxed_gates_are_probabilities_of_the_given_sum(seed, units, data):
    size = data.draw(st.integers(1, units))
    models = quadratics(drawn(seed, units, windows=3))
    noise = np.random.default_rng(seed).logistic(size=(5, units))
    chances, costs = annealed(models, size, noise, data.draw(st.integers(1, 30)), data.draw(st.floats(0.01, 5)))
    assert chances.shape == costs.shape == (len(models), 5, units)
    assert chances.min() >= 0
    assert chances.max() <= 1
    np.testing.assert_allclose(chances.sum(axis=-1), size, atol=1e-6)


def test_the_relaxation_ends_near_plans_and_finds_most_optima():
    found = []
    for seed in range(10):
        space = given_gradients(drawn(seed, 12), 5)
        model = quadratics(space.statistics["gate-gradients"])[0]
        noise = np.random.default_rng(seed).logistic(size=(16, 12))
        chances, costs = annealed([model], 5, noise, 40, 0.5)
        assert np.median(np.minimum(chances, 1 - chances)) < 0.01
        rounded = np.zeros_like(costs[0])
        np.put_along_axis(rounded, costs[0].argsort(axis=1)[:, :5], 1.0, axis=1)
        best = model.predict(removal_matrix(tuple(space.plans(5)), space)).min()
        found.append(model.predict(rounded).min() <= best + 1e-9)
    assert np.mean(found) >= 0.8


def test_the_relaxation_of_a_model_without_differences_is_even():
    flat = Quadratic(0.0, np.ones(6), np.zeros((6, 6)))
    chances, _ = annealed([flat], 3, np.zeros((1, 6)), 10, 0.5)
    np.testing.assert_allclose(chances, 0.5)


def test_notes_tell_slopes_gates_and_how_the_models_ranked():
    gradients = drawn(1, 10)
    space = dataclasses.replace(given_gradients(gradients, 4), sizes=(2, 4))
    models = quadratics(gradients)
    played = play(Gates(plans=20), space, game_of(models[1], space))
    notes = played.outcome.notes
    assert list(notes["slopes"].values()) == pytest.approx((-gradients.mean(axis=0)).tolist())
    assert [race["size"] for race in notes["races"]] == [4, 2]
    for race in notes["races"]:
        measured = [plan for plan in set(played.plans) if space.size_of(plan) == race["size"]]
        assert race["plans"] == len(measured) <= 20
        assert race["rank_correlation"]["4"] == pytest.approx(1.0)
        predicted = [model.predict(removal_matrix(measured, space)) for model in models]
        expected = spearmanr(predicted[0], predicted[1]).statistic
        assert race["rank_correlation"]["1"] == pytest.approx(expected)
        gates = notes["gates"][str(race["size"])]["1"]
        assert sum(gates.values()) == pytest.approx(10 - race["size"], abs=1e-6)
    (line,) = notes["summary"]
    assert "of size 4: " in line
    assert "1.00 with curvature times 4" in line


def test_a_limit_leaves_the_best_prediction_of_each_size():
    space = dataclasses.replace(given_gradients(drawn(2, 8), 3), sizes=(1, 2, 3))
    whole = play(Gates(plans=10), space, additive_game())
    first = {space.size_of(plan): plan for plan in reversed(whole.plans)}
    for most in (0, 1, 2, 7):
        played = play(Gates(plans=10), space, additive_game(), max_evaluations=most)
        assert played.evaluations(space) <= most
        stands = {space.size_of(plan): plan for plan in reversed(played.outcome.plans)}
        assert stands.keys() == {1, 2, 3}
        for size in (3, 2, 1)[most:]:
            assert stands[size] == first[size]


def test_limits_on_a_mix_hold_for_what_is_rounded():
    space = make_space(5, 4, granularity=Granularity.SUBLAYER, statistics=Gates().statistics)
    space = dataclasses.replace(space, most={Part.ATTENTION: 1})
    for plan in play(Gates(), space, additive_game()).plans:
        assert sum(unit.part is Part.ATTENTION for unit in plan.units(Granularity.SUBLAYER)) <= 1


def test_a_race_takes_less_and_ends_alike():
    gradients = np.random.default_rng(0).normal(-0.5, 0.3, size=(32, 10))
    game = noisy_game(additive_game(1), 1, 32, noise=0.1)
    plain = play(Gates(plans=30), given_gradients(gradients, 3), game)
    space = given_gradients(gradients, 3, racing=0.05)
    raced = play(Gates(plans=30), space, game)
    assert raced.outcome.plans[0] == plain.outcome.plans[0]
    assert raced.evaluations(space) < 0.8 * plain.evaluations(space)


@pytest.mark.parametrize(
    ("option", "value"),
    [("steps", 0), ("samples", 0), ("plans", 0), ("temperature", 0), ("temperature", "inf"), ("step", 3)],
)
def test_options_are_checked(option, value):
    with pytest.raises(UsageError, match=option):
        registry.make("strategy", "gates", {option: value})


def run(command, name, *arguments):
    done = command("run", "--strategy", "gates", "--budget", "2-3", "--name", name, "--format", "json", *arguments)
    assert done.code == 0, done.err
    return json.loads(done.out)


def test_a_run_is_resumed_and_repeated_with_the_same_end(searcher_command, tmp_path, monkeypatch):
    """After half of it was lost, without measuring gradients again; and another run finds them in the cache."""
    monkeypatch.setenv("SEARCHER_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SEARCHER_CACHE_LIMIT", raising=False)
    mixed = ("--granularity", "sublayer", "--max-evaluations", "30")
    first = run(searcher_command, "first", *mixed)
    folder = Path(first["run"])
    record = json.loads((folder / "run.json").read_text())
    gradients = np.array(record["statistics"]["gate-gradients"])
    assert gradients.shape == (4, 12)  # windows, sublayers
    assert record["outcome"]["charges"]["statistics"]["layer_forwards"] == pytest.approx(4 * 3 * 6)
    assert record["outcome"]["charges"]["statistics"]["heads"] == pytest.approx(4 * 2)
    assert first["cost"]["charged"]["evaluations"] <= 30
    assert [race["size"] for race in record["outcome"]["notes"]["races"]] == [3, 2]

    lines = (folder / "evaluations.jsonl").read_text().splitlines(keepends=True)
    (folder / "evaluations.jsonl").write_text("".join(lines[: len(lines) // 2]))
    (folder / "run.json").write_text(json.dumps({k: v for k, v in record.items() if k != "outcome"}))
    monkeypatch.setattr("searcher.replay.dense_statistics.measure_statistics", None)  # not needed any more
    again = run(searcher_command, "first", *mixed)
    resumed = json.loads((folder / "run.json").read_text())
    other = run(searcher_command, "second", *mixed)
    assert resumed["outcome"]["notes"] == record["outcome"]["notes"]
    for document in (again, other):
        assert document["best"] == first["best"]
        assert document["cost"]["charged"] == first["cost"]["charged"]
