"""Distances between two sets of pictures, and how varied one set is, from the features of a network.

In: float32 or float64 rows, one a picture. Out: numbers, or one number a picture, whose mean is the metric. On disk:
nothing; `train.evaluate.features` takes the features, `train.evaluate.measure_sets` draws the sets and the intervals.

Pairs of rows are compared in blocks, so memory grows with the number of rows and not with its square. Products are
taken in float32. Where a comparison of two distances is closer than float32 can tell, it is done again in float64: the
neighbour metrics are those of exact arithmetic.

Shapes: N, M rows (pictures), D features, K neighbours.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Doubles = NDArray[np.float64]

BLOCK = 1024  # rows that are compared with all others at once: 200 MB for 50,000 of them
CLOSE = 2e-5  # of the squared lengths: what float32 may be wrong by in a squared distance


# Frechet distance


@dataclass(frozen=True, eq=False)
class Gaussian:
    """Mean and covariance of a set's features; `covariance` divides by n - 1."""

    n: int
    mean: Doubles
    covariance: Doubles


def gaussian(rows_ND: Floats) -> Gaussian:
    """The Gaussian of a set's features, in float64. Raises ValueError for fewer than two rows."""
    if len(rows_ND) < 2:
        raise ValueError(f"features: found {len(rows_ND)} rows, expected at least 2 for a covariance")
    mean_D = rows_ND.mean(0, dtype=np.float64)
    sum_DD = np.zeros((rows_ND.shape[1],) * 2)
    for start in range(0, len(rows_ND), BLOCK):
        centred = rows_ND[start : start + BLOCK].astype(np.float64) - mean_D
        sum_DD += centred.T @ centred
    return Gaussian(len(rows_ND), mean_D, sum_DD / (len(rows_ND) - 1))


def frechet_distance(one: Gaussian, other: Gaussian) -> float:
    """Squared Frechet distance of two Gaussians: FID on Inception's features, FD-DINOv2 on DINOv2's. 0 = alike.

    Raises ValueError if a set has no more pictures than features: then its covariance is not of full rank, and the
    distance is mostly error.
    Source: Heusel et al. 2017, equation 6; Stein et al. 2023 for other networks.
    """
    width = len(one.mean)
    if min(one.n, other.n) <= width:
        raise ValueError(
            f"frechet distance: found {min(one.n, other.n):,} pictures for {width:,} features, expected more pictures "
            "than features; give more pictures, or take the kernel distance"
        )
    # tr sqrt(AB) is the sum of the singular values of sqrt(A) sqrt(B), which is the same for both orders of the sets
    both = np.linalg.svd(_root(one.covariance) @ _root(other.covariance), compute_uv=False).sum()
    apart = float(np.square(one.mean - other.mean).sum())
    return apart + float(np.trace(one.covariance) + np.trace(other.covariance) - 2 * both)


def _root(covariance_DD: Doubles) -> Doubles:
    """The symmetric square root."""
    values, vectors = np.linalg.eigh(covariance_DD)
    root: Doubles = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    return root


# kernel distances


def mean_discrepancy(one_ND: Floats, other_MD: Floats, kernel: Callable[[Doubles, Doubles, Doubles], Doubles]) -> float:
    """Unbiased squared maximum mean discrepancy; it may be below 0 for sets that are alike.

    `kernel` gets dot products and the squared lengths of both sides.
    Source: Gretton et al. 2012, lemma 6.
    """
    n, m = len(one_ND), len(other_MD)
    if min(n, m) < 2:
        raise ValueError(f"kernel distance: found {min(n, m)} rows in a set, expected at least 2")
    own, others = (_kernel_sum(rows, rows, kernel, apart=True) for rows in (one_ND, other_MD))
    both = _kernel_sum(one_ND, other_MD, kernel, apart=False)
    return own / (n * (n - 1)) + others / (m * (m - 1)) - 2 * both / (n * m)


def kernel_inception_distance(one_ND: Floats, other_MD: Floats, subsets: int, size: int, seed: int) -> Doubles:
    """KID of `subsets` random subsets of `size` rows of each set; the metric is their mean, and 0 for sets alike.

    The kernel is (x y / D + 1) ** 3. Raises ValueError for subsets that are larger than a set.
    Source: Binkowski et al. 2018, section 4.
    """
    if size > min(len(one_ND), len(other_MD)):
        raise ValueError(
            f"kernel distance: found subsets of {size:,} rows, expected at most {min(len(one_ND), len(other_MD)):,}, "
            "as many as the smaller set has"
        )
    width = one_ND.shape[1]
    random = np.random.RandomState(seed)  # as torch-fidelity draws, so that figures can be compared
    found = []
    for _ in range(subsets):
        one = one_ND[random.choice(len(one_ND), size, replace=False)]
        other = other_MD[random.choice(len(other_MD), size, replace=False)]
        found.append(mean_discrepancy(one, other, functools.partial(_cubic, width)))
    return np.array(found)


CMMD_SIGMA, CMMD_SCALE = 10.0, 1000.0


def clip_mean_discrepancy(one_ND: Floats, other_MD: Floats) -> float:
    """CMMD of unit vectors of CLIP, times 1,000; the unbiased form, which is 0 on average for sets alike.

    Source: Jayasumana et al. 2024, section 4; the published code's form is biased by about 2 / N times 1,000.
    """
    return CMMD_SCALE * mean_discrepancy(one_ND, other_MD, _gaussian_kernel)


def _cubic(width: int, dots: Doubles, one: Doubles, other: Doubles) -> Doubles:
    near = dots / width + 1
    return near * near * near  # a power is ten times as slow


def _gaussian_kernel(dots: Doubles, one: Doubles, other: Doubles) -> Doubles:
    return np.exp(-(one + other - 2 * dots) / (2 * CMMD_SIGMA**2))


def _kernel_sum(
    one_ND: Floats, other_MD: Floats, kernel: Callable[[Doubles, Doubles, Doubles], Doubles], apart: bool
) -> float:
    """Over all pairs; `apart`: both are one set, a row is not paired with itself, and the kernel is symmetric."""
    total = 0.0
    lengths_M = np.square(other_MD, dtype=np.float64).sum(1)
    for start in range(0, len(one_ND), BLOCK):
        block = one_ND[start : start + BLOCK]
        lengths_B = np.square(block, dtype=np.float64).sum(1)
        for begin in range(start if apart else 0, len(other_MD), BLOCK):
            is_own = apart and begin == start
            right = block if is_own else other_MD[begin : begin + BLOCK]  # the same array: half of its product
            dots = (block @ right.T).astype(np.float64, copy=False)
            values = kernel(dots, lengths_B[:, None], lengths_M[begin : begin + BLOCK])
            if is_own:
                total += float(values.sum() - np.trace(values))
            else:
                total += float(values.sum()) * (2 if apart else 1)
    return total


# metrics of nearest neighbours


@dataclass(frozen=True, eq=False)
class Neighbourhoods:
    """Of each picture of two sets. The means are precision, density (over the made set), recall and coverage (over the
    real one)."""

    precise: NDArray[np.bool_]  # (made,): lies in the neighbourhood of a real picture
    density: Doubles  # (made,): in how many of them, over K
    recalled: NDArray[np.bool_]  # (real,): lies in the neighbourhood of a made picture
    covered: NDArray[np.bool_]  # (real,): a made picture lies in its neighbourhood


def neighbourhoods(real_ND: Floats, made_MD: Floats, k: int) -> Neighbourhoods:
    """The neighbourhood of a picture reaches to its k-th nearest one of its own set.

    Raises ValueError if a set has k pictures or fewer.
    Source: Kynkaanniemi et al. 2019 (precision, recall); Naeem et al. 2020 (density, coverage).
    """
    if min(len(real_ND), len(made_MD)) <= k:
        raise ValueError(
            f"neighbours: found {min(len(real_ND), len(made_MD))} pictures in a set, expected more than k = {k}"
        )
    centre = real_ND.mean(0, dtype=np.float64)  # distances stay, and float32 has less to round
    real, made = _Rows.of(real_ND, centre), _Rows.of(made_MD, centre)
    real_reach, made_reach = (_kth_distance(rows, k) for rows in (real, made))
    within = np.zeros(len(made.rows), np.int64)
    recalled, covered = (np.zeros(len(real.rows), bool) for _ in range(2))
    for start, squares in _squares(real, made):
        stop = start + len(squares)
        inside = _less(squares, real_reach[start:stop, None], real, made, start)
        within += inside.sum(0)
        # the nearest made picture lies inside exactly if any does
        covered[start:stop] = inside.any(1)
        recalled[start:stop] = _less(squares, made_reach[None, :], real, made, start).any(1)
    return Neighbourhoods(within > 0, within / k, recalled, covered)


@dataclass(frozen=True, eq=False)
class _Rows:
    rows: Floats  # less the centre; float32 of float32
    squares: Floats  # lengths, squared

    @staticmethod
    def of(rows_ND: Floats, centre_D: Doubles) -> "_Rows":
        rows = (rows_ND - centre_D).astype(rows_ND.dtype)
        return _Rows(rows, np.einsum("nd,nd->n", rows, rows, dtype=np.float64).astype(rows.dtype))


def _squares(one: _Rows, other: _Rows) -> Iterator[tuple[int, Floats]]:
    """Squared distances of a block of rows to all rows of the other set, with the block's first row."""
    for start in range(0, len(one.rows), BLOCK):
        stop = start + BLOCK
        found = one.rows[start:stop] @ other.rows.T
        found *= -2
        found += one.squares[start:stop, None]
        found += other.squares
        yield start, found


def _kth_distance(of: _Rows, k: int) -> Doubles:
    """Squared distance of each row to the k-th nearest other one, in float64."""
    reach = np.zeros(len(of.rows))
    spare = min(k + 8, len(of.rows))  # a few more than needed: float32 may swap the order of the last ones
    longest = of.squares.max()
    for start, squares in _squares(of, of):
        near = np.argpartition(squares, spare - 1, axis=1)[:, :spare]
        block = of.rows[start : start + len(squares)].astype(np.float64)
        exact = np.square(block[:, None] - of.rows[near]).sum(2)
        found = np.sort(exact, axis=1)[:, k]  # the first is the row itself
        lengths = of.squares[start : start + len(squares)]
        edge = np.take_along_axis(squares, near, 1).max(1)
        for row in np.flatnonzero(edge - CLOSE * (lengths + longest) <= found):  # another one may be nearer
            maybe = np.flatnonzero(squares[row] - CLOSE * (lengths[row] + of.squares) <= found[row])
            found[row] = np.partition(np.square(block[row] - of.rows[maybe]).sum(1), k)[k]
        reach[start : start + len(squares)] = found
    return reach


def _less(squares: Floats, reach: Doubles, one: _Rows, other: _Rows, start: int) -> NDArray[np.bool_]:
    """Whether distances are below `reach`, all squared; what float32 cannot tell is computed again."""
    apart = squares - reach.astype(squares.dtype)
    less = apart < 0
    if squares.dtype == np.float64:
        return less
    np.abs(apart, out=apart)
    apart -= CLOSE * other.squares
    rows, columns = np.nonzero(apart <= CLOSE * one.squares[start : start + len(squares), None])
    reach = np.broadcast_to(reach, squares.shape)
    for begin in range(0, len(rows), BLOCK):
        row, column = rows[begin : begin + BLOCK], columns[begin : begin + BLOCK]
        exact = np.square(one.rows[start + row].astype(np.float64) - other.rows[column]).sum(1)
        less[row, column] = exact < reach[row, column]
    return less


# variety of one set


def vendi_score(rows_ND: Floats) -> float:
    """Effective number of different pictures among N unit vectors, 1..N: the exponential of the entropy of the
    eigenvalues of the similarity matrix over N. Source: Friedman and Dieng 2023, definition 3.1."""
    n, width = rows_ND.shape
    wide = rows_ND.astype(np.float64)
    # both products have the same eigenvalues but for zeros, and the smaller one is faster
    values = np.linalg.eigvalsh((wide @ wide.T if n <= width else wide.T @ wide) / n)
    values = values[values > 1e-12]
    return float(np.exp(-(values * np.log(values)).sum()))
