"""Pictures hold what the arrays say."""

import json

import numpy as np
import pytest
from analyses import write_analysis

from results.anatomy.analysis import read_analysis
from results.anatomy.pairs import strongest
from results.anatomy.section import half_widths
from results.anatomy.sections import draw, make_sections
from searcher.anatomy.parts import PARTS

BLOCKS = 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("analysis")


@pytest.fixture(scope="module")
def made(folder):
    return {name: arrays for name, (arrays, _) in write_analysis(folder, blocks=BLOCKS).items()}


@pytest.fixture(scope="module")
def sections(made, folder):
    return make_sections(read_analysis(folder))


def cells(figure):
    """The matrices of a figure."""
    return [np.ma.filled(image.get_array(), np.nan) for ax in figure.axes for image in ax.images if image.get_gid()]


def marks(figure, gid):
    """Cells (row, column) with a sign, as a list."""
    lines = [line for ax in figure.axes for line in ax.lines if line.get_gid() == gid]
    return [(int(y), int(x)) for line in lines for x, y in line.get_xydata()]


def test_there_is_a_picture_of_every_part(folder, made):
    figures = draw(read_analysis(folder))
    assert tuple(figures) == PARTS
    for figure in figures.values():
        figure.draw_without_rendering()
        assert "5 search windows of 32 tokens" in " ".join(figure.get_supxlabel().split())


def test_heat_maps_are_the_arrays(sections, made):
    np.testing.assert_array_equal(cells(sections["contiguous"].figure)[0], made["contiguous"]["cosines"])
    np.testing.assert_array_equal(cells(sections["interactions"].figure)[0], made["interactions"]["matrix"])
    np.testing.assert_array_equal(cells(sections["shapley"].figure)[0], made["shapley"]["pairs"])
    heads = cells(sections["heads"].figure)
    assert len(heads) == BLOCKS
    np.testing.assert_allclose(np.stack(heads), made["heads"]["cosines"], atol=1e-12)


def test_the_replacement_map_is_the_increase(sections, made):
    losses = made["replacement"]["losses"]
    increase = (losses - losses[0, 0]).mean(-1)
    (shown,) = cells(sections["replacement"].figure)
    assert np.isnan(np.diagonal(shown)).all()
    assert np.isnan(shown[0, -1])
    off = ~np.isnan(shown)
    assert off.sum() == BLOCKS * BLOCKS - BLOCKS - 1
    np.testing.assert_allclose(shown[off], np.maximum(increase[off], shown[off].min()))
    np.fill_diagonal(increase, np.inf)
    best = np.nanargmin(increase, axis=1)
    assert marks(sections["replacement"].figure, "best") == list(enumerate(best))
    table = sections["replacement"].tables[0]
    assert {(int(place), int(block)) for place, block, *_ in table.rows} == set(enumerate(best))
    place, block = map(int, table.rows[0][:2])
    assert increase[place, block] == np.nanmin(increase)
    assert table.rows[0][2].startswith(f"{increase[place, block]:.3f} [")
    assert table.rows[0][3] == f"{np.exp(losses[place, block].mean()):.3f}"


def test_a_stand_in_that_breaks_the_model_is_the_worst_of_all(tmp_path):
    arrays = write_analysis(tmp_path, ["replacement"])["replacement"][0]
    arrays["losses"][2, 3] = np.inf
    arrays["losses"][4, 5] = arrays["losses"][0, 0] - 1  # better than the block itself
    np.savez(tmp_path / "replacement.npz", **arrays)
    figure = draw(read_analysis(tmp_path))["replacement"]
    figure.draw_without_rendering()
    (shown,) = cells(figure)
    assert shown[2, 3] == np.nanmax(shown)
    assert shown[4, 5] == np.nanmin(shown)
    assert (4, 5) in marks(figure, "best")


def test_the_strongest_pairs_are_marked_and_listed(sections, made):
    figure, (redundant, complementary) = sections["interactions"].figure, sections["interactions"].tables
    assert marks(figure, "redundant")[0] == (1, 2)
    assert marks(figure, "complementary")[0] == (0, 3)
    per_window = made["interactions"]["per_window"]
    for table, (i, j) in ((redundant, (1, 2)), (complementary, (0, 3))):
        (half,) = half_widths(per_window[i, j][None], [0, 0, 1, 2, 3])
        mean = per_window[i, j].mean()
        assert table.rows[0] == (str(i), str(j), "yes", f"{mean:.3f} [{mean - half:.3f}, {mean + half:.3f}]")
    assert sections["shapley"].tables[0].rows[0] == ("1", "2", "0.6000")
    assert sections["shapley"].tables[1].rows[0] == ("0", "3", "-0.9000")


def test_the_strongest_pairs():
    matrix = np.array([[np.nan, 0.2, -0.2], [0.2, np.nan, 0.3], [-0.2, 0.3, np.nan]])
    assert strongest(matrix, 5) == ([(1, 2), (0, 1)], [(0, 2)])
    assert strongest(matrix, 1) == ([(1, 2)], [(0, 2)])
    assert strongest(np.full((3, 3), np.nan), 5) == ([], [])


@pytest.mark.parametrize(("half", "redundant", "complementary", "first"), [(0.7, 0, 1, "no"), (0.5, 1, 1, "yes")])
def test_only_pairs_whose_interval_leaves_out_zero_are_certain(tmp_path, half, redundant, complementary, first):
    arrays = write_analysis(tmp_path, ["interactions"])["interactions"][0]
    arrays["half_widths"][:] = half
    np.savez(tmp_path / "interactions.npz", **arrays)
    section = make_sections(read_analysis(tmp_path))["interactions"]
    assert f"{redundant} are certainly redundant and {complementary} certainly complementary" in section.says
    assert section.tables[0].rows[0][2] == first


def test_intervals_are_taken_between_documents(tmp_path):
    rows = np.array([[1.0, 1.0, 1.2, 1.2, 0.9, 0.9]])
    (apart,), (together,) = half_widths(rows, range(6)), half_widths(rows, [0, 0, 1, 1, 2, 2])
    (means,) = half_widths(rows[:, ::2], range(3))
    assert together == pytest.approx(means)
    assert together > apart
    assert np.isnan(half_widths(rows, [0] * 6))
    write_analysis(tmp_path, ["influence"])
    assert "5 windows, the spread being that between the 4 documents" in draw_text(tmp_path)
    write_analysis(tmp_path, ["influence"], documents=[3] * 5)
    assert "intervals left out, for all windows are of one document" in draw_text(tmp_path)
    write_analysis(tmp_path, ["influence"], documents=[-1, -1, 0, 1, 2])
    assert "5 windows, each of a document of its own" in draw_text(tmp_path)


def draw_text(folder):
    return " ".join(draw(read_analysis(folder))["influence"].get_supxlabel().split())


def test_influence_draws_losses_and_ranks(sections, made):
    arrays = made["influence"]
    figure = sections["influence"].figure
    (points,) = [bars.lines[0] for bars in figure.axes[0].containers]
    np.testing.assert_allclose(points.get_ydata(), arrays["leave_one_out"])
    (ranks,) = cells(figure)
    assert ranks.shape == (3, BLOCKS)
    for row, name in zip(ranks, ("leave_one_out", "cosine", "taylor"), strict=True):
        assert list(np.argsort(row)) == list(np.argsort(-arrays[name]))
        assert set(row) == set(range(1, BLOCKS + 1))
    correlations, units = sections["influence"].tables
    assert [(row[0], row[2]) for row in correlations.rows] == [("cosine", "0.500 [0.123, 0.789]"), ("taylor", "-")]
    assert [row[0] for row in units.rows] == [str(unit) for unit in np.argsort(arrays["leave_one_out"])]


def test_a_unit_that_breaks_the_model_matters_most(tmp_path):
    arrays = write_analysis(tmp_path, ["influence"])["influence"][0]
    arrays["removed"][3] = np.inf
    arrays["leave_one_out"][3] = np.inf
    np.savez(tmp_path / "influence.npz", **arrays)
    section = make_sections(read_analysis(tmp_path))["influence"]
    assert cells(section.figure)[0][0, 3] == 1
    assert "Not drawn above: 1 whose removal breaks" in " ".join(section.figure.get_supxlabel().split())
    assert section.tables[1].rows[-1][:2] == ("3", "inf")


def test_a_stand_in_is_set_against_removal(sections, made):
    losses, removed = made["replacement"]["losses"], made["influence"]["leave_one_out"]
    rises = (losses - losses[0, 0]).mean(-1)
    np.fill_diagonal(rises, np.nan)
    better = int((np.nanmin(rises, axis=1) < removed).sum())
    assert 0 < better < BLOCKS
    section = sections["replacement"]
    assert f"In {better} of {BLOCKS} places the best replacement does better" in section.says
    for place, *_, without in section.tables[0].rows:
        assert without == f"{removed[int(place)]:.3f}"
    copy, place = made["replacement"]["as_copy"], made["replacement"]["as_place"]
    assert f"Block {np.argmin(copy)} comes closest to standing for any other" in section.says
    assert f"block {np.argmin(place)} to being replaced by any" in section.says


def test_updates_are_drawn_by_kind_and_block(sections, made):
    for ax, name in zip(sections["updates"].figure.axes, ("mean", "mean_absolute", "sigma"), strict=True):
        for first, kind in enumerate(("attention", "FFN")):
            (line,) = [line for line in ax.lines if line.get_gid() == kind]
            assert list(line.get_xdata()) == list(range(BLOCKS))
            np.testing.assert_array_equal(line.get_ydata(), made["updates"][name][first::2])


def test_heads_and_runs_are_listed(sections, made):
    cosines = made["heads"]["cosines"]
    listed = {int(block): (pairs, names) for block, pairs, names in sections["heads"].tables[0].rows}
    assert sorted(listed) == list(range(BLOCKS - 1))
    one, other = np.triu_indices(4, 1)
    for block, (pairs, names) in listed.items():
        alike = {(i, j): cosines[block, i, j] for i, j in zip(one, other, strict=True) if cosines[block, i, j] > 0.9}
        assert pairs == f"{len(alike)} of 6"
        named = [f"{i} and {j} ({alike[i, j]:.3f})" for i, j in sorted(alike, key=lambda pair: -alike[pair])]
        assert names == (", ".join(named) or "-")
    assert any(names != "-" for _, names in listed.values())
    assert sections["heads"].tables[1].rows == ((str(BLOCKS - 1), "it has no attention module"),)
    runs = made["contiguous"]["cosines"]
    first = int(np.nanargmax(runs[2]))
    assert sections["contiguous"].tables[0].rows[2] == ("3", f"{first}-{first + 2}", f"{runs[2, first]:.4f}")
    assert marks(sections["contiguous"].figure, "best")[2] == (2, first)


def test_sublayers_are_named(tmp_path):
    write_analysis(tmp_path, granularity="sublayer", blocks=12)
    figures = draw(read_analysis(tmp_path))
    for name in ("influence", "interactions", "shapley"):
        labels = [label.get_text() for ax in figures[name].axes[:2] for label in ax.get_xticklabels()]
        assert "0.attn" in labels
        assert len(labels) < 40


def test_models_of_one_block_without_heads(tmp_path):
    write_analysis(tmp_path, ["updates", "contiguous", "heads"], blocks=1)
    np.savez(tmp_path / "heads.npz", cosines=np.full((1, 0, 0), np.nan))
    for figure in draw(read_analysis(tmp_path)).values():
        figure.draw_without_rendering()


def test_an_estimate_says_how_far_to_trust_it(tmp_path):
    facts = write_analysis(tmp_path, ["shapley"])["shapley"][1]
    agreement = {"value": 0.61, "low": 0.4, "high": 0.75, "count": 15}
    (tmp_path / "shapley.json").write_text(json.dumps(facts | {"exact": False, "agreement": agreement, "broken": 2}))
    says = make_sections(read_analysis(tmp_path))["shapley"].says
    assert "0.610 [0.400, 0.750]" in says
    assert "2 plans gave no finite loss" in says
    assert "noise" not in says
    noise = {"value": 0.03, "low": -0.06, "high": 0.12, "count": 15}
    (tmp_path / "shapley.json").write_text(json.dumps(facts | {"exact": False, "agreement": noise}))
    section = make_sections(read_analysis(tmp_path))["shapley"]
    assert "0.030 [-0.060, 0.120]: most of what is seen is noise" in section.says
    assert "noise" in section.figure.get_suptitle()
