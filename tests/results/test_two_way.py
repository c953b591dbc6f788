"""Gaps between procedures: the choice of search windows is chance, and so are the documents of the report."""

import io

import numpy as np
import pytest
from finished import finish
from rich.console import Console
from scipy import stats

from objectives.loss import Loss, Perplexity
from results.compare_table import comparison_lines
from results.comparison import Comparison
from results.intervals import gap
from results.two_way import half_width, procedure_gap

RNG = np.random.default_rng(0)


def test_plans_that_do_not_depend_on_the_search_windows_have_the_interval_of_the_documents():
    one, other = RNG.normal(3, 0.1, (2, 24))
    documents = [number // 3 for number in range(24)]
    found = procedure_gap(Perplexity(), np.tile(one, (4, 1)), np.tile(other, (4, 1)), documents)
    expected = gap(Perplexity(), one, other, documents)
    assert (found.value, found.low, found.high) == pytest.approx((expected.value, expected.low, expected.high))
    assert found.relative


def test_windows_that_all_agree_leave_student_t_over_the_choices():
    shifts = np.array([0.1, 0.3, -0.2, 0.4])
    found = procedure_gap(Loss(), np.full((4, 10), 3.0) + shifts[:, None], np.full((4, 10), 3.0))
    low, high = stats.t.interval(0.95, 3, shifts.mean(), stats.sem(shifts))
    assert (found.value, found.low, found.high) == pytest.approx((shifts.mean(), low, high))


def test_two_choices_tell_no_interval_and_neither_does_a_broken_plan():
    rows = RNG.normal(3, 0.1, (2, 4, 12))
    assert procedure_gap(Loss(), rows[0][:2], rows[1][:2]).low is None
    rows[0][1, 3] = np.inf
    found = procedure_gap(Loss(), *rows)
    assert (found.value, found.low) == (np.inf, None)


@pytest.mark.parametrize("choices", [3, 6])
@pytest.mark.parametrize(("of_choices", "of_documents"), [(0.05, 0.05), (0.0, 0.05), (0.05, 0.0), (0.1, 0.02)], ids=str)
def test_it_covers(choices, of_choices, of_documents):
    """Windows of 12 documents of unequal length; noise of every window, and of a plan in a document."""
    rng, covered, draws = np.random.default_rng(choices), 0, 500
    for _ in range(draws):
        documents = np.sort(rng.integers(0, 12, 32))
        rows = rng.normal(0, of_choices, (choices, 1)) + rng.normal(0, of_documents, 12)[documents]
        rows = rows + rng.normal(0, 0.05, (choices, 12))[:, documents] + rng.normal(0, 0.1, (choices, 32))
        covered += abs(rows.mean()) <= half_width(rows, documents.tolist())
    assert 0.92 < covered / draws <= 0.995


@pytest.fixture(scope="module")
def runs(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return [
        finish(tiny, folder, f"{name}-{seed}", strategy=strategy, budget=2, data_seed=seed, windows=windows)
        for name, strategy, windows in (("greedy", "greedy", 4), ("more", "greedy", 8), ("influence", "influence", 4))
        for seed in range(3 if name != "influence" else 2)
    ]


def test_runs_are_grouped_by_what_was_chosen_not_drawn(runs):
    found = Comparison(runs, reference="greedy-0")
    kinds = {(one.method, one.size): one for one in found.methods}
    assert {name for name, _ in kinds} == {"greedy of 8 windows", "influence of 4 windows"}
    more = kinds["greedy of 8 windows", 2]
    assert (more.reference, more.data_seeds) == ("greedy of 4 windows", (0, 1, 2))
    rows = [[run.measurements.rows("report", run.best.plan, "perplexity") for run in runs[i : i + 3]] for i in (3, 0)]
    documents = runs[0].documents("report", "perplexity")
    assert more.gap == procedure_gap(runs[0].objectives["perplexity"], *map(np.array, rows), documents)
    assert more.gap.low <= more.gap.value <= more.gap.high
    assert kinds["influence of 4 windows", 2].gap.low is None  # two data seeds
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(*comparison_lines(found, 160))
    assert "By method, over choices of search windows" in console.export_text()
    document = found.document()["methods"]
    assert [entry["data_seeds"] for entry in document if entry["method"] == "greedy of 8 windows"] == [[0, 1, 2]] * 2


def test_one_data_seed_is_no_method(runs):
    assert Comparison([runs[0], runs[3]]).methods == ()
