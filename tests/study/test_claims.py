"""What is claimed of plans whose losses are known."""

import csv
import json
from dataclasses import asdict, fields, replace

import numpy as np
import pytest
from scipy import stats

from searcher.errors import UsageError
from study.claims import LEVEL, besides, pooled
from study.facts import Transferred, disagreement, misuses, turned
from study.read import Tables
from study.records import ROWS, SEARCHES, SETTING, WINDOWS, Found

WINDOW_COUNT = 60
RNG = np.random.default_rng(0)
TEXTS = RNG.normal(4.0, 0.5, WINDOW_COUNT)
"""Losses of greedy's plan."""
GAPS = {
    2: RNG.normal(-0.2, 0.1, WINDOW_COUNT),
    3: RNG.normal(+0.2, 0.1, WINDOW_COUNT),
    4: RNG.normal(-0.002, 0.1, WINDOW_COUNT),
    5: np.zeros(WINDOW_COUNT),
    6: np.zeros(WINDOW_COUNT),
}
"""By size, how far the other plan's losses are from greedy's."""
VERDICTS = {2: "beaten", 3: "worse", 4: "open", 5: "holds", 6: "swapped"}


def found(size, seed, method, plan, value, windows=8):
    return Found("prose", "block", size, seed, method, windows, plan, "perplexity", value, 1.0, 1.0, 1.0, 1.0, "run")


def write(path, names, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def tables(tmp_path):
    searches, rows = [], {}
    for size, gap in GAPS.items():
        for seed in (0, 1):
            theirs = f"{size}-{seed}-greedy"
            ours = {5: theirs, 6: f"6-{1 - seed}-greedy"}.get(size, f"{size}-{seed}-other")
            searches += [found(size, seed, "greedy", theirs, 50.0), found(size, seed, "portfolio", ours, 49.0)]
            for plan, losses in ((theirs, TEXTS), (ours, TEXTS + gap)):
                rows["prose", "loss", plan] = losses
                rows["prose", "kl", plan] = losses - 3
                rows["choices", "accuracy", plan] = (losses < losses.mean()).astype(float)
    write(tmp_path / SEARCHES, [field.name for field in fields(Found)], [asdict(one) for one in searches])
    values = [
        {"text": t, "measure": m, "plan": p, "values": " ".join(map(repr, v.tolist()))} for (t, m, p), v in rows.items()
    ]
    write(tmp_path / ROWS, ["text", "measure", "plan", "values"], values)
    documents = [{"text": "prose", "window": i, "document": i // 2} for i in range(WINDOW_COUNT)]
    write(tmp_path / WINDOWS, ["text", "window", "document"], documents)
    (tmp_path / SETTING).write_text(json.dumps({"dtype": "float32"}))
    return Tables(tmp_path)


def test_verdicts(tables):
    assert {one.size: one.verdict for one in pooled(tables)} == VERDICTS


def test_gaps_and_intervals_are_between_documents(tables):
    (one,) = [one for one in pooled(tables) if one.size == 2]
    means = GAPS[2].reshape(-1, 2).mean(axis=1)  # documents of two windows each
    half = stats.t.ppf(0.975, len(means) - 1) * means.std(ddof=1) / np.sqrt(len(means))
    assert one.report_gap.value == pytest.approx(np.expm1(means.mean()))
    assert one.report_gap.low == pytest.approx(np.expm1(means.mean() - half))
    assert one.report_gap.high == pytest.approx(np.expm1(means.mean() + half))
    assert one.p == pytest.approx(stats.ttest_1samp(means, 0).pvalue)
    assert one.better == 2


def test_what_is_certain_stands_when_all_are_tested(tables):
    """Benjamini and Yekutieli by hand: the k-th smallest of m must be below level * k / m / (1 + 1/2 + … + 1/m)."""
    claims = sorted(pooled(tables), key=lambda one: one.p)
    m = len(claims)
    bounds = [LEVEL * (k + 1) / m / sum(1 / i for i in range(1, m + 1)) for k in range(m)]
    last = max((k for k in range(m) if claims[k].p <= bounds[k]), default=-1)
    assert [one.certain for one in claims] == [k <= last for k in range(m)]


def test_search_gaps_are_only_of_the_same_windows(tables):
    assert all(one.search_gap == pytest.approx(49 / 50 - 1) for one in besides(tables))
    other = Tables(tables.folder)
    searches = [asdict(one) for one in other.searches]
    write(
        tables.folder / SEARCHES,
        list(searches[0]),
        [one | {"windows": one["windows"] + (one["method"] != "greedy")} for one in searches],
    )
    assert all(np.isnan(one.search_gap) for one in besides(Tables(tables.folder)))


def test_plans_that_are_better_where_they_were_chosen_only(tables):
    assert {one.other.size for one in turned(besides(tables))} == {3}


def test_misuses_are_of_one_strategy_and_the_dearest_last():
    chosen = [
        Transferred(replace(found(8, 0, method, method, 50.0), text=text), perplexities, 0.5, None)
        for text, method, perplexities in (
            ("prose", "greedy", (10.0, 30.0, 20.0)),
            ("manual", "greedy", (20.0, 40.0, 60.0)),
            ("choices", "greedy", (90.0, 60.0, 80.0)),
            ("prose", "portfolio", (9.0, 20.0, 20.0)),
        )
    ]
    told = {(one.method, one.chosen, one.used): one.gap for one in misuses(chosen)}
    assert told == {
        ("greedy", "prose", "manual"): pytest.approx(30 / 40 - 1),
        ("greedy", "choices", "manual"): pytest.approx(60 / 40 - 1),
        ("greedy", "manual", "prose"): pytest.approx(20 / 10 - 1),
        ("greedy", "choices", "prose"): pytest.approx(90 / 10 - 1),
    }
    assert list(told.values()) == sorted(told.values())


def test_agreement_of_loss_and_accuracy(tables):
    plans = list(dict.fromkeys(one.plan for one in tables.searches))
    pairs = [(tables.mean("prose", "loss", p), tables.mean("choices", "accuracy", p)) for p in plans]
    assert disagreement(tables) == pytest.approx(stats.spearmanr(pairs).statistic)


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"searches\.csv"):
        _ = Tables(tmp_path).searches


def test_a_plan_that_was_not_measured_is_named(tables):
    with pytest.raises(UsageError, match="plan 3-5 on code"):
        tables.values("code", "loss", "3-5")
