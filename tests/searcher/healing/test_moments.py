"""Ridge regression from moments against least squares on the rows themselves."""

import numpy as np
import pytest
import torch

from searcher.healing.moments import Moments, weighted

WIDTH, TOKENS = 6, 40
ROWS = torch.randn(TOKENS, WIDTH, generator=torch.Generator().manual_seed(0)) * torch.logspace(-1, 1, WIDTH)
MISSING = torch.randn(TOKENS, WIDTH, generator=torch.Generator().manual_seed(1)).double()


def moments_of(rows, missing, batch=7):
    moments = Moments.zeros(rows.shape[1], rows.device)
    for part in zip(rows.split(batch), missing.split(batch), strict=True):
        moments.add(*part)
    return moments


def penalty_of(rows, ridge):
    return ridge * float(rows.double().square().sum()) / rows.shape[1]


def objective(rows, missing, ridge, change):
    rest = rows.double() @ change - missing
    return float(rest.square().sum() + penalty_of(rows, ridge) * change.square().sum())


@pytest.mark.parametrize("ridge", [1e-6, 1e-2, 3.0])
@pytest.mark.parametrize("tokens", [3, TOKENS])
def test_a_ridge_map_is_least_squares_with_rows_for_the_penalty(ridge, tokens):
    rows, missing = ROWS[:tokens], MISSING[:tokens]
    penalty = np.sqrt(penalty_of(rows, ridge)) * np.eye(WIDTH)
    stacked = np.vstack([rows.double().numpy(), penalty])
    expected = np.linalg.lstsq(stacked, np.vstack([missing.numpy(), 0 * penalty]), rcond=None)[0]
    found = moments_of(rows, missing).ridge_map(ridge)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("size", [1, 5, 8])
def test_errors_of_windows_left_out_are_those_of_maps_fitted_without_them(size):
    """Against a fit for each window, to the others, with the same penalty."""
    ridges, wanted = (1e-4, 1e-2, 1.0), ROWS + MISSING.float()
    moments = Moments.zeros(WIDTH, ROWS.device)
    moments.add(ROWS, MISSING, wanted)
    windows = list(zip(*(one.split(size) for one in weighted(ROWS, MISSING, wanted)), strict=True))
    without, errors = moments.left_out_errors(windows, ridges)
    assert without == pytest.approx(sum(float(missing.square().sum()) for _, missing in windows), rel=1e-12)
    for ridge, error in zip(ridges, errors.tolist(), strict=True):
        penalty = ridge * moments.gram.trace() / WIDTH * torch.eye(WIDTH)
        expected = 0.0
        for rows, missing in windows:
            others = torch.linalg.solve(moments.gram - rows.t() @ rows + penalty, moments.cross - rows.t() @ missing)
            expected += float((missing - rows @ others).square().sum())
        assert error == pytest.approx(expected, rel=1e-8)


def test_it_shrinks_to_the_identity():
    moments = moments_of(ROWS, MISSING)
    sizes = [float(moments.ridge_map(ridge).norm()) for ridge in (1e-3, 1.0, 1e3, 1e12)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < 1e-10


def test_the_penalty_is_relative():
    large = moments_of(1000 * ROWS, 1000 * MISSING).ridge_map(0.1)
    torch.testing.assert_close(large, moments_of(ROWS, MISSING).ridge_map(0.1), rtol=1e-6, atol=0)


def test_what_is_linear_is_found():
    wanted = torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(2)).double()
    found = moments_of(ROWS, ROWS.double() @ wanted).ridge_map(1e-12)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("rank", [1, 2, 5, WIDTH])
def test_a_low_rank_map_is_the_best_of_its_rank(rank):
    """Against the truncated singular value decomposition in the metric of the data, and against its neighbours."""
    ridge, moments = 0.05, moments_of(ROWS, MISSING)
    best = moments.ridge_map(ridge)
    values, vectors = np.linalg.eigh((moments.gram + penalty_of(ROWS, ridge) * torch.eye(WIDTH)).numpy())
    root = vectors * np.sqrt(values) @ vectors.T
    left, singular, right = np.linalg.svd(root @ best.numpy())
    truncated = (left[:, :rank] * singular[:rank]) @ right[:rank]
    down, up = moments.low_rank_map(ridge, rank)
    assert down.shape == (WIDTH, rank)
    assert up.shape == (rank, WIDTH)
    np.testing.assert_allclose((down @ up).numpy(), np.linalg.solve(root, truncated), rtol=1e-6, atol=1e-9)
    least = objective(ROWS, MISSING, ridge, down @ up)
    generator = torch.Generator().manual_seed(rank)
    for _ in range(20):
        near = [t + 0.01 * t.norm() * torch.randn(t.shape, generator=generator) for t in (down, up)]
        assert objective(ROWS, MISSING, ridge, near[0] @ near[1]) > least


def test_states_that_are_no_numbers_are_noticed():
    assert moments_of(ROWS, MISSING).finite
    for value in (torch.nan, torch.inf):
        rows, missing = ROWS.clone(), MISSING.clone()
        rows[3, 3] = value
        assert not moments_of(rows, MISSING).finite
        missing[3, 3] = value
        assert not moments_of(ROWS, missing).finite


def test_errors_are_divided_by_the_norm_of_what_is_wanted():
    wanted = ROWS + MISSING.float()
    moments, root = Moments.zeros(WIDTH, ROWS.device), wanted.double().norm(dim=1, keepdim=True).sqrt()
    moments.add(ROWS, MISSING, wanted)
    expected = moments_of(ROWS / root, MISSING / root, batch=TOKENS)
    torch.testing.assert_close(moments.gram, expected.gram)
    torch.testing.assert_close(moments.cross, expected.cross)
    moments.add(ROWS, MISSING, torch.zeros_like(wanted))
    assert moments.finite


def test_a_token_of_huge_norm_does_not_have_all_the_weight():
    """A first token like those of real models, in every window: the others must not pay for it."""
    generator = torch.Generator().manual_seed(0)
    rows, wanted = torch.randn(2, 256, WIDTH, generator=generator)
    wanted = rows + 0.1 * wanted
    wanted[::64] = 1000 * torch.eye(WIDTH)[0]
    moments = Moments.zeros(WIDTH, rows.device)
    moments.add(rows, wanted.double() - rows.double(), wanted)
    plain = moments_of(rows, wanted.double() - rows.double(), batch=256)
    others = torch.arange(256) % 64 != 0
    errors = [(rows + rows @ m.ridge_map(0.1).float() - wanted)[others].square().sum() for m in (moments, plain)]
    assert errors[0] < 0.01 * errors[1]
