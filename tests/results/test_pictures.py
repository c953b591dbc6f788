"""Pictures show the numbers of the runs, and nothing else."""

import math
import subprocess
import sys
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from finished import changed, finish

from results.labels import run_labels
from results.pictures import (
    convergence,
    make_pictures,
    pareto_front,
    quality_against_size,
    removed_units,
    shapley_picture,
)
from results.pictures.collection import describe, to_svg
from results.pictures.convergence import best_so_far
from results.pictures.shapley import shapley_values
from results.pictures.strips import shown_evaluations
from results.report import render_report
from searcher.contracts.amounts import Amounts
from searcher.contracts.plan import Action, PrunePlan
from searcher.errors import UsageError
from searcher.runs.journal import read_evaluations


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def greedy(tiny, folder):
    return finish(tiny, folder, "greedy", strategy="greedy", budget=4)


@pytest.fixture(scope="module")
def shapley(tiny, folder):
    return finish(tiny, folder, "shapley", strategy="shapley", budget=3)


@pytest.fixture(scope="module")
def mixed(tiny, folder):
    objectives = ["loss", "kv-cache", "mine.py:Right"]
    (folder / "mine.py").write_text(RIGHT)
    objectives[2] = f"right={folder / 'mine.py'}:Right"
    return finish(tiny, folder, "mixed", strategy="greedy", budget=3, granularity="sublayer", objective=objectives)


RIGHT = '''
from searcher.contracts.objective import Objective

class Right(Objective):
    """How probable the right token is."""
    unit = "share"
    lower_is_better = False
    def measure(self, candidate):
        return candidate.losses().double().neg().exp().mean(dim=1).cpu().numpy()
'''


def bars(ax):
    """Of each run: sizes, values, low and high ends as drawn."""
    for container in ax.containers:
        line, _, (segments,) = container
        ends = [segment[:, 1] if len(segment) else (np.nan, np.nan) for segment in segments.get_segments()]
        low, high = np.array(ends).T
        yield np.rint(line.get_xdata()).astype(int).tolist(), line.get_ydata(), low, high


def test_quality_is_that_of_the_chosen_plans_on_the_report_split(greedy, shapley):
    figure = quality_against_size([greedy, shapley])
    (ax,) = figure.axes
    for run, (sizes, values, low, high) in zip([greedy, shapley], bars(ax), strict=True):
        reports = [evaluation.report["perplexity"] for evaluation in run.chosen]
        assert sizes == [evaluation.size for evaluation in run.chosen]
        np.testing.assert_allclose(values, [report.value for report in reports])
        np.testing.assert_allclose(low, [report.low for report in reports])
        np.testing.assert_allclose(high, [report.high for report in reports])
    assert ax.lines[0].get_ydata() == [greedy.dense.report["perplexity"].value] * 2
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["greedy", "shapley", "dense model"]
    told = describe(figure)
    assert "32 report windows of 16 tokens" in told
    assert "95% Student t interval" in told
    assert greedy.record["model"] in told
    assert greedy.record["text"] in told


def test_sizes_of_different_units_do_not_share_an_axis(greedy, mixed):
    labels = [ax.get_xlabel() for ax in quality_against_size([mixed, changed_loss(greedy, mixed)], "loss").axes]
    assert labels == ["sublayers removed", "blocks removed"]


def test_every_panel_has_ticks_of_its_own(greedy, tmp_path):
    """Also where one granularity breaks the model and another hardly harms it."""

    def other_units(record):
        record["config"]["granularity"] = "sublayer"
        record["outcome"]["chosen"] = {"2": record["outcome"]["chosen"]["1"]}
        record["outcome"]["size"] = 2

    def far_worse(line):
        if line["plan"] != "dense":
            line["values"]["perplexity"] = [20.0] * len(line["rows"])

    worse = changed(greedy, tmp_path / "worse", other_units, far_worse)
    figure = quality_against_size([greedy, worse])
    to_svg(figure)
    for ax in figure.axes:
        low, high = ax.get_ylim()
        assert sum(low <= tick <= high for tick in ax.get_yticks()) >= 2
    assert [ax.get_yscale() for ax in figure.axes] == ["linear", "log"]


def changed_loss(run, beside):
    """A copy of a run of perplexity that measures `loss`, which has the same numbers a window."""
    folder = beside.folder.parent / "as-loss"
    if folder.exists():
        return type(run)(folder)

    def rename(record):
        record["config"]["objective"] = ["loss"]
        for groups in record["layout"].values():
            for group in groups:
                group["objectives"] = ["loss"]

    return changed(run, folder, rename, lambda line: line.update(values={"loss": line["values"].pop("perplexity")}))


def test_a_plan_that_breaks_the_model_is_left_out_and_told(greedy, tmp_path):
    broken = str(greedy.chosen[1].plan)

    def break_it(line):
        if line["plan"] == broken:
            line["values"]["perplexity"] = ["inf"] * len(line["rows"])

    run = changed(greedy, tmp_path / "broken", line=break_it)
    figure = quality_against_size([run])
    ((_, values, low, _),) = bars(figure.axes[0])
    assert np.isnan(values).tolist() == [False, True, False, False]
    assert np.isfinite(low).sum() == 3
    assert "Not drawn: 1 of 4 plans, which break the model" in describe(figure)
    assert "Not drawn, of" in describe(pareto_front([run], "size", "perplexity"))
    for drawn in make_pictures([run]).values():
        ET.fromstring(to_svg(drawn))


def test_an_overflowing_interval_end_is_not_drawn(greedy, tmp_path):
    def overflow(line):
        if line["split"] == "report":
            line["values"]["perplexity"] = [1300.0 * (row % 2) for row in line["rows"]]

    run = changed(greedy, tmp_path / "wide", line=overflow)
    assert run.best.report["perplexity"].high == math.inf
    to_svg(quality_against_size([run]))


@pytest.mark.parametrize(
    ("x", "y"), [("size", "loss"), ("kv-cache", "loss"), ("parameters", "right"), ("right", "loss")]
)
def test_the_front_is_that_of_all_measured_plans(mixed, x, y):
    def number(name, plan):
        if name == "size":
            return -plan.size(mixed.config.granularity)
        if name == "parameters":
            return Amounts.from_json(mixed.record["sizes"][name]).left(plan)
        sign = 1 if mixed.objectives[name].lower_is_better else -1
        return sign * mixed.objectives[name].value(mixed.measurements.rows("search", plan, name))

    signs = np.array([-1 if name in ("size", "right") else 1 for name in (x, y)])
    plans = {line.plan for line in read_evaluations(mixed.folder) if line.split == "search"} - {PrunePlan()}
    points = {(number(x, plan), number(y, plan)) for plan in plans}
    best = {p for p in points if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in points)}
    (ax,) = pareto_front([mixed], x, y).axes
    front, dense = ax.lines
    drawn = front.get_xydata() * signs
    np.testing.assert_allclose(sorted(map(tuple, drawn)), sorted(best))
    assert np.all(np.diff(front.get_xdata()) >= 0)
    assert front.get_drawstyle() == ("steps-pre" if signs[0] < 0 else "steps-post")
    # the corners of the steps are where the front's plans are no longer good enough, never beyond what was found
    corners = front.get_path().vertices * signs
    assert all(any(q[0] <= cx + 1e-12 and q[1] <= cy + 1e-12 for q in best) for cx, cy in corners)
    (measured,) = ax.collections
    np.testing.assert_allclose(
        sorted(map(tuple, measured.get_offsets() * signs)),
        sorted(map(tuple, np.array([(number(x, p), number(y, p)) for p in plans]))),
    )
    np.testing.assert_allclose(dense.get_xydata()[0] * signs, (number(x, PrunePlan()), number(y, PrunePlan())))


def test_far_worse_plans_leave_room_for_the_front(greedy, tmp_path):
    bad = str(
        next(p for p in greedy.measurements.plans("search") if p.removed and p not in {e.plan for e in greedy.chosen})
    )

    def spoil(line):
        if line["plan"] == bad:
            line["values"]["perplexity"] = [50.0] * len(line["rows"])

    figure = pareto_front([changed(greedy, tmp_path / "bad", line=spoil)], "size", "perplexity")
    plans = len(greedy.measurements.plans("search")) - 1
    assert f"Not drawn, of {plans} plans: 1 so bad that they lie far above, 0 that break" in describe(figure)
    assert len(figure.axes[0].collections[0].get_offsets()) == plans - 1


def test_axes_that_runs_do_not_share_are_refused(greedy, mixed):
    with pytest.raises(UsageError, match="Sizes of granularity block and sublayer cannot share an axis"):
        pareto_front([changed_loss(greedy, mixed), mixed], "size", "loss")
    with pytest.raises(UsageError, match=r"'kvcache' is nothing .* Did you mean 'kv-cache'"):
        pareto_front([mixed], "kvcache", "loss")
    with pytest.raises(UsageError, match="nothing that all of these runs"):
        pareto_front([mixed, greedy], "parameters", "right")


def test_blocks_and_sublayers_on_one_front_by_what_is_left(greedy, mixed):
    figure = pareto_front([changed_loss(greedy, mixed), mixed], "kv-cache", "parameters")
    assert len(figure.axes[0].collections) == 2


def test_runs_without_amounts_still_have_a_front_by_size(greedy, tmp_path):
    old = changed(greedy, tmp_path / "old", record=lambda record: record.pop("sizes"))
    assert make_pictures([old])["front"].get_suptitle() == "Pareto fronts: perplexity against size"
    with pytest.raises(UsageError, match="'parameters' is nothing"):
        make_pictures([old], axes=("parameters", "perplexity"))


def test_runs_on_other_search_windows_are_shown_by_what_they_were_judged_on(greedy, tmp_path):
    other = changed(greedy, tmp_path / "other", record=lambda record: record["identity"].update(windows=64))
    assert "front" in make_pictures([greedy, greedy])
    pictures = make_pictures([greedy, other])
    assert set(pictures) == {"quality", "units"}
    assert "that the run chose on the run's own search windows" in describe(pictures["units"])
    page = render_report([greedy, other], pictures)
    assert "own search windows and judged on" in " ".join(page.split())


def test_strips_show_what_is_removed(mixed):
    (ax,) = removed_units([mixed]).axes
    cells = {collection.get_gid(): collection.get_paths() for collection in ax.collections}
    top = min(ax.get_ylim())
    assert ax.yaxis_inverted()
    for row, evaluation in enumerate(mixed.chosen):
        for part, upper in ((Action.NO_ATTENTION, True), (Action.NO_FFN, False)):
            gone = [block for block in range(6) if evaluation.plan.action(block) & part]
            drawn, kept = (cells[f"{row}:{part.name}:{removed}"] for removed in (True, False))
            assert [round(path.vertices[:, 0].mean()) for path in drawn] == gone
            assert len(kept) == 6 - len(gone)
            for path in (*drawn, *kept):  # the row's own half of the strip
                assert top < row - 0.5 < path.vertices[:, 1].min() < path.vertices[:, 1].max() < row + 0.5
                assert bool(path.vertices[:, 1].mean() < row) is upper
    assert [label.get_text() for label in ax.get_yticklabels()] == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("most", "sizes"), [(9, [1, 2, 3, 4]), (4, [1, 2, 3, 4]), (3, [2, 4]), (2, [2, 4]), (1, [4]), (0, [4])]
)
def test_sizes_are_left_out_evenly_and_the_largest_never(greedy, most, sizes):
    assert [evaluation.size for evaluation in shown_evaluations(greedy, most)] == sizes


def test_convergence_ends_at_the_chosen_plan_and_the_whole_cost(greedy, shapley):
    for run in (greedy, shapley):
        progress = best_so_far(run, "perplexity")
        assert progress.plans[-1] == run.best.plan
        assert progress.value[-1] == run.best.search["perplexity"]
        assert list(progress.value) == sorted(progress.value, reverse=True)
        assert list(progress.cost) == sorted(progress.cost)
        assert 0 < progress.cost[0] <= progress.cost[-1] <= progress.total == run.outcome["cost"]["charged"]["total"]
    blocks_of_4, blocks_of_3 = convergence([greedy, shapley]).axes
    drawn = next(line for line in blocks_of_4.lines if line.get_gid() == "best")
    assert drawn.get_ydata()[-1] == greedy.best.search["perplexity"]
    assert drawn.get_xdata()[-1] == pytest.approx(greedy.outcome["cost"]["charged"]["total"])
    assert blocks_of_3.get_title("left") == "3 blocks removed"


def test_convergence_follows_the_objectives_direction(mixed):
    values = best_so_far(mixed, "right").value
    assert list(values) == sorted(values)


def test_shapley_values_are_those_of_the_notes(shapley):
    figure = shapley_picture([shapley])
    notes = shapley.outcome["notes"]["units"]
    (ax,) = figure.axes
    assert len(ax.containers) == len(notes) == 6
    for container in ax.containers:
        line, _, (bar,) = container
        note = notes[str(round(line.get_xdata()[0]))]
        assert line.get_ydata()[0] == note["value"]
        low, high = bar.get_segments()[0][:, 1]
        assert (high - low) / 4 == pytest.approx(note["standard_error"])
    filled = {round(c[0].get_xdata()[0]) for c in ax.containers if c[0].get_markerfacecolor() != "white"}
    assert filled == {unit.block for unit in shapley.best.plan.removed}
    assert "2 standard errors" in describe(figure)


def test_runs_without_shapley_values_have_no_such_picture(greedy, shapley):
    assert shapley_picture([greedy]) is None
    assert "shapley" not in make_pictures([greedy])
    assert len(shapley_picture([greedy, shapley]).axes) == 1


def test_unknown_and_infinite_values_are_told_not_drawn(shapley, tmp_path):
    def spoil(record):
        units = record["outcome"]["notes"]["units"]
        first, second, third, *_ = units
        units[first]["value"], units[second]["value"], units[third]["standard_error"] = "unknown", "inf", None

    run = changed(shapley, tmp_path / "odd", record=spoil)
    assert len(shapley_values(run)) == 5
    figure = shapley_picture([run])
    assert len(figure.axes[0].containers) == 4
    assert "Not drawn: 1 units whose removal broke the model" in describe(figure)


def test_notes_of_other_strategies_are_no_shapley_values(greedy, tmp_path):
    weights = {"0": 0.5, "1": 0.25}  # as those of `interactions`
    run = changed(greedy, tmp_path / "surrogate", record=lambda r: r["outcome"]["notes"].update(units=weights))
    assert shapley_values(run) == ()


def test_names_are_drawn_as_they_are(greedy, tmp_path):
    name = r"_a $\frac{1}$ <b> & b"
    run = changed(greedy, tmp_path / "hostile", record=lambda record: record.update(model=name, text="$x^$"))
    for figure in make_pictures([run]).values():
        ET.fromstring(to_svg(figure))
        assert f"{name} in float32 on $x^$" in describe(figure)


def test_pictures_are_the_same_bytes_every_time(greedy):
    assert to_svg(quality_against_size([greedy])) == to_svg(quality_against_size([greedy]))


def test_labels_are_as_short_as_they_can_be(greedy, shapley, mixed, tmp_path):
    assert run_labels([greedy, shapley]) == ("greedy", "shapley")
    assert run_labels([greedy, mixed]) == ("greedy block", "greedy sublayer")
    other = changed(greedy, tmp_path / "other")
    assert run_labels([greedy, other]) == ("greedy", "other")
    assert len(set(run_labels([greedy, greedy]))) == 2


def test_pyplot_and_its_global_state_are_not_touched():
    code = "import sys, results.pictures; assert 'matplotlib.pyplot' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_run_plots_itself(mixed):
    assert mixed.plot("right").get_suptitle() == "What removing units costs: right"


def test_no_run_is_refused():
    with pytest.raises(UsageError, match="no run to show"):
        make_pictures([])
