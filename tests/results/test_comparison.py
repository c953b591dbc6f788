"""Runs side by side: gaps from the numbers in the journals, and runs that may not be compared."""

import io
import json
import math
import shutil

import numpy as np
import pytest
from finished import changed, finish
from rich.console import Console

import searcher
from results.compare_table import comparison_lines
from results.comparison import Comparison
from results.front import additive_epsilon, hypervolume, igd_plus
from results.intervals import Gap, gap
from results.joint_front import joint_front
from results.side_by_side import show_gap
from results.table import number
from searcher.contracts.plan import PrunePlan
from searcher.errors import UsageError


@pytest.fixture(scope="module")
def runs(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return {
        "greedy": finish(tiny, folder, "greedy", strategy="greedy", budget=3),
        "another": finish(tiny, folder, "another", strategy="influence", budget=3, keep="4"),
        "exhaustive": finish(tiny, folder, "exhaustive", strategy="exhaustive", budget="2-3"),
        "attention": finish(tiny, folder, "attention", strategy="greedy", budget=3, granularity="attention"),
        "ffn": finish(tiny, folder, "ffn", strategy="random", budget=2, granularity="ffn"),
    }


def test_gaps_are_those_of_the_journals(runs):
    greedy, reverse = runs["greedy"], runs["another"]
    (section,) = Comparison([reverse, greedy]).sections
    assert section.reference is greedy
    size = section.sizes[-1]
    reference, entry = size.entries
    assert (size.size, reference.run, entry.run) == (3, greedy, reverse)
    assert reference.same
    assert reference.search_gap.value == 0
    plans = [run.best.plan for run in (reverse, greedy)]
    for split, found in (("search", entry.search_gap), ("report", entry.report_gap)):
        rows = [r.measurements.rows(split, p, "perplexity") for r, p in zip((reverse, greedy), plans, strict=True)]
        assert found.value == pytest.approx(math.exp(np.mean(rows[0] - rows[1])) - 1)
        assert found.relative
    assert (entry.search_gap.low, entry.search_gap.high) == (None, None)
    assert entry.report_gap.low < entry.report_gap.value < entry.report_gap.high
    here, there = ({str(unit) for unit in plan.removed} for plan in plans)
    assert set(map(str, entry.kept)) == there - here
    assert set(map(str, entry.removed)) == here - there


def test_a_certificate_tells_the_optimum_and_whether_greedy_holds(runs):
    greedy, exhaustive = runs["greedy"], runs["exhaustive"]
    (section,) = Comparison([greedy, exhaustive]).sections
    for size in section.sizes[-2:]:
        assert size.optimum.plans == math.comb(6, size.size)
        losses = {
            plan: np.mean(exhaustive.measurements.rows("search", plan, "perplexity"))
            for plan in exhaustive.measurements.plans("search")
            if len(plan.removed) == size.size
        }
        assert size.optimum.plan == min(losses, key=losses.get)
        assert size.optimum.gap.value == size.entries[1].search_gap.value <= 0
        assert size.optimum.whole
        if size.optimum.gap.value == 0:
            assert size.verdict.startswith("greedy holds: no run found a better plan")
            assert size.best is None
        else:
            assert size.verdict.startswith("greedy is beaten on the search windows by exhaustive")
            assert size.best.run is exhaustive


def test_the_optimum_of_a_narrowed_space_is_not_called_that_of_all_plans(runs, tiny, tmp_path):
    narrow = finish(tiny, tmp_path, "narrow", strategy="exhaustive", budget=3, keep="0")
    (section,) = Comparison([runs["greedy"], narrow]).sections
    assert (section.sizes[-1].optimum.plans, section.sizes[-1].optimum.whole) == (math.comb(5, 3), False)
    assert "of all 10 plans that an exhaustive run had to choose from" in shown([runs["greedy"], narrow])
    (section,) = Comparison([runs["greedy"], narrow, runs["exhaustive"]]).sections
    assert section.sizes[-1].optimum.plans == math.comb(6, 3)


def test_windows_of_one_document_are_clustered_in_gaps_and_values(runs, tmp_path):
    greedy, reverse = runs["greedy"], runs["another"]
    windows = greedy.record["identity"]["report_windows"]
    documents = [number // 8 for number in range(windows)]

    def cluster(record):
        record["documents"] = {"search": [], "report": documents}

    clustered = [changed(run, tmp_path / run.folder.name, cluster) for run in (greedy, reverse)]
    (section,) = Comparison(clustered).sections
    entry = section.sizes[-1].entries[1]
    rows = [run.measurements.rows("report", run.best.plan, "perplexity") for run in (reverse, greedy)]
    expected = gap(greedy.objectives["perplexity"], *rows, documents)
    assert entry.report_gap == expected
    assert expected != gap(greedy.objectives["perplexity"], *rows)
    assert f"from {windows // 8} documents" in shown(clustered)
    assert clustered[0].best.report["perplexity"] != greedy.best.report["perplexity"]


@pytest.mark.parametrize(
    ("shift", "told"),
    [
        (-1.0, "and on the report windows, -6"),
        (0.0, "but on the report windows that may be chance"),
        (+1.0, "but on the report windows its plan is worse, +1"),
    ],
)
def test_the_verdict_says_what_the_report_split_shows(runs, tmp_path, shift, told):
    """The second run's plan is made better on the search windows, and by `shift` nats on the report windows."""
    exhaustive = runs["exhaustive"]
    other = next(
        p for p in exhaustive.measurements.plans("search") if len(p.removed) == 3 and p != runs["greedy"].best.plan
    )
    reference = runs["greedy"].measurements.rows("report", runs["greedy"].best.plan, "perplexity")
    noise = np.random.default_rng(0).normal(0, 0.01, len(reference))

    def choose(record):
        record["outcome"]["chosen"] = {"3": str(other)}
        record["outcome"]["front"] = [str(other)]
        record["outcome"]["notes"] = {}

    def better(line):
        if line["plan"] == str(other) and line["split"] == "search":
            line["values"]["perplexity"] = [0.5 for _ in line["rows"]]

    copy = tmp_path / "copy"
    start = 0
    lines = []
    for group in exhaustive.record["layout"]["report"]:
        values = reference[start : start + group["rows"]] + noise[start : start + group["rows"]] + shift
        start += group["rows"]
        lines.append(
            {"split": "report", "plan": str(other), "group": group["name"], "rows": list(range(group["rows"]))}
            | {"values": {"perplexity": values.tolist()}, "layer_forwards": 0, "heads": 0, "seconds": 0}
        )
    plain = tmp_path / "plain"
    shutil.copytree(exhaustive.folder, plain)
    kept = [
        text
        for text in (plain / "evaluations.jsonl").read_text().splitlines()
        if not (json.loads(text)["split"] == "report" and json.loads(text)["plan"] == str(other))
    ]
    (plain / "evaluations.jsonl").write_text("\n".join([*kept, *map(json.dumps, lines)]) + "\n")
    run = changed(searcher.load_run(plain), copy, choose, better)
    (section,) = Comparison([runs["greedy"], run]).sections
    assert told in section.sizes[-1].verdict


def test_sizes_are_compared_within_a_granularity_only(runs):
    found = Comparison([runs["greedy"], runs["another"], runs["attention"], runs["ffn"]])
    assert [str(section.granularity) for section in found.sections] == ["block"]
    front = joint_front(found.runs, "perplexity")
    assert front.axes == ("parameters", "perplexity")
    points = [point.values for point in front.points]
    chosen = [(run, e) for run in found.runs for e in run.chosen]
    amounts = {run.folder: run.record["sizes"]["parameters"] for run in found.runs}
    for run, e in chosen:
        left = amounts[run.folder]["whole"] - sum(
            amounts[run.folder][{"block": "block", "attn": "attention", "ffn": "ffn"}[unit.part]][unit.block]
            for unit in e.plan.removed
        )
        assert any(x <= left and y <= e.search["perplexity"] * (1 + 1e-9) for x, y in points)  # beaten, or on it
    assert all(0 <= share <= 1 for _, share in front.hypervolumes)
    assert joint_front(found.runs, "perplexity", "kv-cache").axes[0] == "kv-cache"


def test_hypervolumes_are_of_logarithms_where_values_differ_by_factors_and_end_where_the_dense_model_says(runs):
    pair = [runs["greedy"], runs["another"]]
    front = Comparison(pair).front("size")
    assert (front.axes, front.logarithmic) == (("size", "perplexity"), ("perplexity",))
    dense = runs["greedy"].dense.search["perplexity"]
    size, quality = front.bounds
    assert (size.worst, size.best, quality.best) == (0, 6, dense)
    assert quality.worst == pytest.approx(10 * dense)
    for (run, share), expected in zip(front.hypervolumes, pair, strict=True):
        assert run is expected
        points = {(-e.size / 6, math.log10(e.search["perplexity"] / dense)) for e in run.chosen}
        assert share == pytest.approx(area(points, (0, 1)))


@pytest.mark.parametrize("axes", [("size",), ("parameters",), ("kv-cache", "parameters")])
def test_no_other_run_changes_a_hypervolume_or_its_bounds(runs, axes):
    pair = [runs["greedy"], runs["another"]]
    alone = Comparison(pair).front(*axes)
    more = [runs["exhaustive"], *pair, *([] if "size" in axes else [runs["attention"], runs["ffn"]])]
    together = Comparison(more).front(*axes)
    assert together.bounds == alone.bounds
    shares = {run.folder: share for run, share in together.hypervolumes}
    assert [(run, shares[run.folder]) for run, _ in alone.hypervolumes] == list(alone.hypervolumes)
    assert all(share > 0 for _, share in alone.hypervolumes)


def test_a_plan_beyond_the_bound_adds_nothing_and_the_bound_is_printed(runs, tmp_path):
    best, dense = str(runs["greedy"].best.plan), runs["greedy"].dense.search["perplexity"]

    def worse(times):
        def change(line):
            if (line["plan"], line["split"]) == (best, "search"):
                line["values"]["perplexity"] = [math.log(times * dense) for _ in line["rows"]]

        return changed(runs["greedy"], tmp_path / f"{times}", line=change)

    def volumes(run):
        return Comparison([run, runs["another"]]).front("size").hypervolumes[0][1]

    assert volumes(worse(9.99)) > volumes(worse(10.01)) == volumes(worse(20)) > 0
    text = shown([runs["greedy"], runs["another"]])
    assert f"perplexity {number(10 * dense)}, 10 times the dense model's: a plan beyond adds nothing." in text


def area(points, worst):
    """What the points dominate, a column for each step in x."""
    xs = sorted({x for x, _ in points} | {worst[0]})
    heights = [worst[1] - min(y for x, y in points if x <= left) for left in xs[:-1]]
    return sum((right - left) * height for left, right, height in zip(xs, xs[1:], heights, strict=False))


def test_a_front_of_three_axes(runs):
    front = Comparison([runs["greedy"], runs["attention"]]).front("parameters", "kv-cache")
    assert front.axes == ("parameters", "kv-cache", "perplexity")
    values = [point.values for point in front.points]
    assert all(len(value) == 3 for value in values)
    for one in values:
        assert not any(other != one and all(a <= b for a, b in zip(other, one, strict=True)) for other in values)
    with pytest.raises(UsageError, match="cannot share an axis"):
        Comparison([runs["greedy"], runs["attention"]]).front("size")


def test_a_plan_that_breaks_the_model_is_beaten_by_any_other(runs, tmp_path):
    best = str(runs["greedy"].best.plan)

    def broken(line):
        if line["plan"] == best:
            line["values"]["perplexity"] = ["nan" for _ in line["rows"]]

    greedy = changed(runs["greedy"], tmp_path / "greedy", line=broken)
    size = Comparison([greedy, runs["another"]]).sections[0].sizes[-1]
    assert size.best.run is runs["another"]
    assert size.verdict == "greedy's plan breaks the model on the search windows, that of influence does not."
    size = Comparison([runs["another"], greedy], reference="another").sections[0].sizes[-1]
    assert size.best is None
    assert size.entries[1].search_gap.value == math.inf
    assert "greedy's plan breaks the model" in shown([runs["another"], greedy])
    document = Comparison([runs["another"], greedy], reference="another").document()
    assert document["sections"][0]["sizes"][-1]["entries"][1]["search_gap"] == "inf"


def test_indicators():
    assert hypervolume([(1, 2), (2, 1)], (3, 3)) == 3
    assert hypervolume([(1, 2), (math.nan, 0), (4, 4)], (3, 3)) == 2
    assert hypervolume([], (3, 3)) == 0
    assert additive_epsilon([(1.5, 2.0)], [(1, 2)]) == 0.5
    assert igd_plus([(1, 2), (2, 1)], [(1, 2)]) == 0


@pytest.mark.parametrize(
    ("field", "value"),
    [("text_fingerprint", "x"), ("model_fingerprint", "y"), ("dtype", "bfloat16"), ("report_windows", 9)],
)
def test_runs_that_measured_something_else_are_refused_by_the_field(runs, tmp_path, field, value):
    other = changed(runs["another"], tmp_path / "other", lambda record: record["identity"].update({field: value}))
    with pytest.raises(UsageError, match=f"cannot be compared: {field} is .* in the one, {value} in the other"):
        Comparison([runs["greedy"], other])


@pytest.fixture(scope="module")
def elsewhere(tiny, tmp_path_factory):
    """Greedy on more search windows, and on others."""
    folder = tmp_path_factory.mktemp("elsewhere")
    return {
        "more": finish(tiny, folder, "more", strategy="greedy", budget=3, windows=9),
        "other": finish(tiny, folder, "other", strategy="greedy", budget=3, data_seed=1),
    }


def test_runs_that_chose_on_other_windows_are_compared_on_the_report_windows_alone(runs, elsewhere):
    found = Comparison([runs["greedy"], runs["exhaustive"], elsewhere["more"], elsewhere["other"]], reference="greedy")
    size = found.sections[0].sizes[-1]
    reference, exhaustive, more, other = size.entries
    assert exhaustive.search_gap is not None
    for entry, run in ((more, elsewhere["more"]), (other, elsewhere["other"])):
        assert (entry.search_gap, entry.better) == (None, False)
        rows = [r.measurements.rows("report", r.best.plan, "perplexity") for r in (run, runs["greedy"])]
        assert entry.report_gap.value == pytest.approx(math.exp(np.mean(rows[0] - rows[1])) - 1)
        assert f"{entry.label}, which chose on other windows, " in size.verdict
    assert size.verdict.startswith("greedy")  # on the windows that it shares with exhaustive
    assert f"{more.label} chose on 9 search windows of 16 tokens, data seed 0, not on those of" in " ".join(found.notes)
    assert found.front() is None
    entries = found.document()["sections"][0]["sizes"][-1]["entries"]
    assert [entry["search_gap"] is None for entry in entries] == [False, False, True, True]
    assert "other windows" in shown(found.runs)
    assert reference.same


def test_of_runs_on_other_windows_only_nothing_is_said_about_the_search(runs, elsewhere):
    (section,) = Comparison([runs["greedy"], elsewhere["more"]]).sections
    assert not any("holds" in size.verdict or "search windows" in size.verdict for size in section.sizes)
    assert all(size.optimum is None and size.best is None for size in section.sizes)


def test_a_certificate_on_other_windows_is_none_for_the_reference(runs, elsewhere):
    (section,) = Comparison([elsewhere["more"], runs["exhaustive"]], reference="more").sections
    assert all(size.optimum is None for size in section.sizes)


@pytest.mark.parametrize(("shift", "told"), [(-1.0, "is better on"), (1.0, "is worse on"), (0.0, "may be chance")])
def test_the_verdict_on_other_windows_goes_by_the_interval(runs, elsewhere, tmp_path, shift, told):
    """The report losses of the other run's plan are those of the reference's plan, shifted, with a little noise."""
    greedy, best = runs["greedy"], elsewhere["more"].best.plan
    rows = greedy.measurements.rows("report", greedy.best.plan, "perplexity")
    noise = 0.01 * np.where(np.arange(len(rows)) % 2, 1.0, -1.0)

    def move(line):
        if (line["split"], line["plan"]) == ("report", str(best)):
            first = 0
            for group in elsewhere["more"].record["layout"]["report"]:
                if group["name"] == line["group"]:
                    break
                first += group["rows"]
            line["values"] = {"perplexity": [rows[first + row] + shift + noise[first + row] for row in line["rows"]]}

    moved = changed(elsewhere["more"], tmp_path / "moved", line=move)
    (section,) = Comparison([greedy, moved], reference="greedy").sections
    entry = section.sizes[-1].entries[1]
    if not entry.same:
        assert told in section.sizes[-1].verdict
    else:
        pytest.fail("the two chose the same plan: take another number of windows for the test")


def test_other_report_windows_are_noticed_though_all_fields_agree(runs, elsewhere, tmp_path):
    def scale(line):
        if (line["split"], line["plan"]) == ("report", "dense"):
            line["values"] = {"perplexity": [2 * number for number in line["values"]["perplexity"]]}

    with pytest.raises(UsageError, match="perplexity of the dense model in row"):
        Comparison([runs["greedy"], changed(elsewhere["more"], tmp_path / "scaled", line=scale)])


def test_a_report_shows_runs_on_other_search_windows_by_what_they_were_judged_on(runs, elsewhere, tmp_path):
    searcher.report([runs["greedy"], elsewhere["more"]], tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert "own search windows" in page
    assert "they can be compared on the report windows alone" in page


def test_other_inputs_of_an_objective_are_refused(runs, tiny, tmp_path):
    """Such as another file of questions under the same name."""
    greedy = runs["greedy"]
    other = changed(greedy, tmp_path / "other", lambda record: record["identity"].update(inputs_fingerprint="x"))
    with pytest.raises(UsageError, match=r"inputs_fingerprint is \w+… in the one, x in the other"):
        Comparison([greedy, other])
    both = finish(tiny, tmp_path, "both", strategy="random", budget=2, objective=("perplexity", "loss"))
    assert Comparison([greedy, both])  # more is measured on other inputs, but the same of what both have

    def longer(record):
        record["layout"]["report"][0]["rows"] += 1

    first = both.record["layout"]["report"][0]

    def one_more(line):
        if (line["split"], line["group"]) == ("report", first["name"]):
            line["rows"].append(first["rows"])
            line["values"] = {name: [*numbers, numbers[-1]] for name, numbers in line["values"].items()}

    with pytest.raises(UsageError, match="the number of items of objective perplexity is 4 on search and 32 on report"):
        Comparison([greedy, changed(both, tmp_path / "longer", longer, one_more)])


def test_what_else_is_different_is_said(runs, tiny, tmp_path):
    loss = finish(tiny, tmp_path, "loss", strategy="random", budget=2, objective=("loss", "perplexity"))
    notes = " ".join(Comparison([runs["another"], loss, runs["attention"]], "perplexity").notes)
    assert "random searched for loss, and chose its plans by that, not by perplexity." in notes
    assert "influence was bound by --keep 4." in notes
    assert "No run of granularity block is greedy: the others are compared with influence." in notes
    assert "greedy is the only run of granularity attention" in notes
    assert Comparison([runs["greedy"], runs["exhaustive"]]).notes == ()


def test_the_greedy_run_of_most_sizes_is_the_reference_and_what_it_lacks_is_said(runs, tiny, tmp_path):
    short = finish(tiny, tmp_path, "short", strategy="greedy", budget=2)
    found = Comparison([short, runs["another"], runs["greedy"]])
    (section,) = found.sections
    assert section.reference is runs["greedy"]
    found = Comparison([short, runs["greedy"]], reference="short")
    assert [size.size for size in found.sections[0].sizes] == [1, 2]
    assert found.notes == ("greedy block 2 has no plan of size 3: it is not compared there.",)
    assert "greedy has no plan of size 3" in shown([short, runs["another"]])  # and so no table


def test_another_model_file_or_strategy_does_not_matter(runs, tmp_path):
    def moved(record):
        record["identity"]["model"] = "elsewhere"
        record["hardware"]["name"] = "another"

    found = Comparison([runs["greedy"], changed(runs["another"], tmp_path / "other", moved)])
    assert found.sections
    assert "same processor" in found.notes[0]


def test_other_instructions_are_said_and_other_files_refused(runs, tmp_path):
    def read(record):
        record["environment"]["instructions"] = "of another processor"

    found = Comparison([runs["greedy"], changed(runs["another"], tmp_path / "one", read)])
    assert "Not all were measured on processors with the same vector instructions." in found.notes
    answered = changed(
        runs["greedy"],
        tmp_path / "two",
        lambda r: r["identity"].update(objective_reads={"perplexity": {"t.json": "x"}}),
    )
    with pytest.raises(UsageError, match=r"t.json of objective perplexity is None in the one, x in the other"):
        Comparison([runs["greedy"], answered])
    other = changed(runs["greedy"], tmp_path / "three", lambda r: r["identity"].update(extra_fingerprint="x"))
    with pytest.raises(UsageError, match="extra_fingerprint is None in the one, x in the other"):
        Comparison([runs["greedy"], other])

    def old(record):
        del record["environment"]

    assert Comparison([runs["another"], changed(other, tmp_path / "four", old)]).sections  # kept less


def test_objectives_must_be_the_same(runs, tiny, tmp_path):
    loss = finish(tiny, tmp_path, "loss", strategy="greedy", budget=2, objective="loss")
    with pytest.raises(UsageError, match="no objective in common"):
        Comparison([runs["greedy"], loss])
    both = finish(tiny, tmp_path, "both", strategy="greedy", budget=2, objective=("loss", "perplexity"))
    assert Comparison([runs["greedy"], both]).objective == "perplexity"
    other = finish(tiny, tmp_path, "other", strategy="random", budget=2, objective="perplexity=loss")
    with pytest.raises(UsageError, match="objective perplexity is perplexity in the one, loss in the other"):
        Comparison([runs["greedy"], other])
    with pytest.raises(UsageError, match="Not all of these runs have measured 'lss'"):
        Comparison([runs["greedy"], both], objective="lss")


def shown(compared, width=160):
    console = Console(width=width, record=True, highlight=False, file=io.StringIO())
    for item in comparison_lines(Comparison(compared), width):
        console.print(item, soft_wrap=isinstance(item, str))
    return console.export_text()


def test_a_narrow_terminal_breaks_neither_units_nor_intervals(runs):
    compared = [runs["greedy"], runs["another"], runs["exhaustive"]]
    (section,) = Comparison(compared).sections
    text = shown(compared, 80)
    assert all(len(line) <= 80 for line in text.splitlines() if line[:1] in "│┃┏└")
    for entry in (entry for size in section.sizes for entry in size.entries if not entry.same):
        for part in show_gap(entry.report_gap).replace(" (", "\n(").split("\n"):
            assert f"{part} │" in text


def test_runs_that_chose_the_same_plan_share_a_row_and_sizes_with_the_same_verdict_a_line(runs, tmp_path):
    copy = changed(runs["greedy"], tmp_path / "copy")
    text = shown([runs["greedy"], copy])
    front = Comparison([runs["greedy"], copy]).front()
    assert text.count("greedy, copy") == 3 + len(front.points)
    assert "Sizes 1 to 3: greedy holds: no run found a better plan for the search windows." in text


def test_the_command(runs, searcher_command):
    folders = [str(runs[name].folder) for name in ("greedy", "another", "exhaustive", "attention")]
    shown = searcher_command("compare", *folders, defaults=False)
    assert shown.code == 0, shown.err
    assert "Granularity block, against greedy" in shown.out
    assert "Size 3: " in shown.out
    assert "is the optimum of all 20 plans of this size (certified)" in shown.out
    document = json.loads(searcher_command("compare", *folders[:2], "--format", "json", defaults=False).out)
    (section,) = document["sections"]
    assert section["sizes"][-1]["entries"][1]["plan"] == str(runs["another"].best.plan)
    assert PrunePlan.parse(section["sizes"][-1]["entries"][0]["plan"]) == runs["greedy"].best.plan
    assert [run["label"] for run in document["runs"]] == ["greedy", "influence"]
    assert document["runs"][0]["charged"]["total"] == runs["greedy"].outcome["cost"]["charged"]["total"]
    assert document["front"]["axes"] == ["parameters", "perplexity"]
    alone = searcher_command("compare", folders[0], folders[0], defaults=False)
    assert alone.code == 2
    assert "nothing to compare in one run" in alone.err
    told = searcher_command("compare", *folders[:3], "--reference", f"{folders[1]}/", defaults=False)
    assert "Granularity block, against influence" in told.out
    wrong = searcher_command("compare", *folders[:2], "--reference", "gredy", defaults=False)
    assert (wrong.code, "Did you mean 'greedy'" in wrong.err) == (2, True)


def test_how_a_gap_is_shown():
    assert show_gap(Gap(-0.1339, -0.2, 0.05, relative=True)) == "-13.4% (-20.0% to +5.0%)"
    assert show_gap(Gap(0.02134)) == "+0.0213"
