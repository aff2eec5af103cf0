"""Metrics of sets: closed forms, laws, and what others compute of the same features."""

import contextlib
import io

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from prdc import compute_prdc
from torchmetrics.image.fid import _compute_fid
from torchmetrics.image.kid import poly_mmd

from train.evaluate import set_metrics
from train.evaluate.set_metrics import (
    Gaussian,
    clip_mean_discrepancy,
    frechet_distance,
    gaussian,
    kernel_inception_distance,
    neighbourhoods,
    vendi_score,
)

SEEDS = st.integers(0, 2**32 - 1)


def two_sets(seed: int, n: int, m: int, width: int, shift: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    mix = random.normal(size=(width, width))
    return random.normal(size=(n, width)) @ mix, random.normal(size=(m, width)) @ mix * 1.1 + shift


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_the_frechet_distance_of_gaussians_is_its_closed_form() -> None:
    one = Gaussian(100, np.zeros(3), np.diag([1.0, 4.0, 9.0]))
    other = Gaussian(100, np.array([1.0, 2.0, 2.0]), np.diag([4.0, 4.0, 1.0]))
    # |m1 - m2|^2 + sum (s1 - s2)^2 of independent features
    assert frechet_distance(one, other) == pytest.approx(9 + 1 + 0 + 4, abs=1e-9)
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-9)


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS)
@example(seed=88)  # a covariance of condition 8e8
def test_the_frechet_distance_is_that_of_torchmetrics(seed: int) -> None:
    sets = two_sets(seed, 90, 70, 24)
    one, other = (gaussian(rows) for rows in sets)
    theirs = [torch.from_numpy(part) for rows in sets for part in (rows.mean(0), np.cov(rows.T))]
    assert frechet_distance(one, other) == pytest.approx(float(_compute_fid(*theirs)), rel=1e-6)
    assert frechet_distance(one, other) == pytest.approx(frechet_distance(other, one), rel=1e-9)


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS)
def test_the_kernel_distance_is_that_of_torchmetrics(seed: int) -> None:
    one, other = two_sets(seed, 80, 60, 16)
    found = kernel_inception_distance(one, other, subsets=5, size=40, seed=seed)
    random = np.random.RandomState(seed)
    theirs = []
    for _ in range(5):  # drawn as torch-fidelity draws
        both = [rows[random.choice(len(rows), 40, replace=False)] for rows in (one, other)]
        theirs.append(float(poly_mmd(*map(torch.from_numpy, both))))
    assert found == pytest.approx(theirs, rel=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, k=st.integers(1, 6), shift=st.sampled_from([0.0, 1.0, 30.0]))
def test_precision_recall_density_and_coverage_are_those_of_prdc(
    dtype: type[np.floating], seed: int, k: int, shift: float
) -> None:
    real, made = (rows.astype(dtype) for rows in two_sets(seed, 130, 90, 8, shift))
    found = neighbourhoods(real, made, k)
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = compute_prdc(real.astype(np.float64), made.astype(np.float64), k)
    ours = {
        "precision": found.precise.mean(),
        "density": found.density.mean(),
        "recall": found.recalled.mean(),
        "coverage": found.covered.mean(),
    }
    assert ours == pytest.approx(theirs, abs=1e-6)


@settings(max_examples=100, deadline=None)
@given(seed=SEEDS)
@example(seed=11546)  # a third neighbour that float32 takes for a twelfth
def test_features_that_float32_cannot_tell_apart_are_compared_in_float64(seed: int) -> None:
    random = np.random.default_rng(seed)
    # far from the centre in one feature, so that a distance in float32 is lost in the lengths
    real = np.concatenate([random.normal(size=(60, 4)), 3e3 * random.choice([-1.0, 1.0], size=(60, 1))], axis=1)
    made = np.concatenate([random.normal(size=(50, 4)), 3e3 * random.choice([-1.0, 1.0], size=(50, 1))], axis=1)
    real, made = real.astype(np.float32), made.astype(np.float32)
    found, exact = neighbourhoods(real, made, 3), neighbourhoods(real.astype(np.float64), made.astype(np.float64), 3)
    for name in ("precise", "density", "recalled", "covered"):
        assert (getattr(found, name) == getattr(exact, name)).all()


def test_the_size_of_blocks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    real, made = two_sets(3, 70, 50, 6)
    whole = neighbourhoods(real, made, 3), clip_mean_discrepancy(unit(real), unit(made)), gaussian(real)
    monkeypatch.setattr(set_metrics, "BLOCK", 7)
    parts = neighbourhoods(real, made, 3), clip_mean_discrepancy(unit(real), unit(made)), gaussian(real)
    for name in ("precise", "density", "recalled", "covered"):
        assert (getattr(whole[0], name) == getattr(parts[0], name)).all()
    assert whole[1] == pytest.approx(parts[1], rel=1e-9)
    assert whole[2].covariance == pytest.approx(parts[2].covariance, rel=1e-9)


def test_clips_distance_of_one_population_is_zero_on_average_and_not_above() -> None:
    seeds = range(40)
    sets = [two_sets(seed, 60, 60, 32) for seed in seeds]
    halves = [clip_mean_discrepancy(unit(rows[:30]), unit(rows[30:])) for rows, _ in sets]
    others = [clip_mean_discrepancy(unit(one), unit(other + 1)) for one, other in sets]
    error = np.std(halves) / np.sqrt(len(halves))
    print("seeds", seeds)
    assert abs(np.mean(halves)) < 4 * error
    assert np.mean(others) > 10 * error


def test_clips_distance_is_the_mean_of_the_kernel_over_pairs() -> None:
    one, other = (unit(rows) for rows in two_sets(5, 9, 7, 4))

    def k(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.exp(-np.square(a - b).sum() / (2 * 10**2)))

    own = np.mean([k(a, b) for i, a in enumerate(one) for j, b in enumerate(one) if i != j])
    others = np.mean([k(a, b) for i, a in enumerate(other) for j, b in enumerate(other) if i != j])
    both = np.mean([k(a, b) for a in one for b in other])
    assert clip_mean_discrepancy(one, other) == pytest.approx(1000 * (own + others - 2 * both), rel=1e-9)


def test_the_vendi_score_counts_what_is_different() -> None:
    assert vendi_score(np.eye(5)) == pytest.approx(5)
    assert vendi_score(np.tile(np.eye(5)[:1], (7, 1))) == pytest.approx(1)
    assert vendi_score(np.repeat(np.eye(3), 4, axis=0)) == pytest.approx(3)  # more pictures than features
    rows = unit(np.random.default_rng(1).normal(size=(12, 12)))
    wide = np.concatenate([rows, np.zeros((12, 3))], axis=1)
    assert vendi_score(rows) == pytest.approx(vendi_score(wide))


def test_sets_that_are_too_small_for_a_metric_are_refused() -> None:
    real, made = two_sets(1, 40, 12, 16)
    with pytest.raises(ValueError, match="frechet distance: found 12 pictures for 16 features, expected more pictures"):
        frechet_distance(gaussian(real), gaussian(made))
    with pytest.raises(ValueError, match="found 12 pictures in a set, expected more than k = 12"):
        neighbourhoods(real, made, 12)
    with pytest.raises(ValueError, match="found subsets of 13 rows, expected at most 12"):
        kernel_inception_distance(real, made, 2, 13, 0)
    with pytest.raises(ValueError, match="found 1 rows, expected at least 2"):
        gaussian(real[:1])
