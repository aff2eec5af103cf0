"""Statistics of results: means with intervals, paired differences, a proportion, many comparisons at once; pure.

In: numbers, and which pictures were right. Out: an `Estimate`, a value with the ends of its two-sided 95 % interval. On
disk: nothing.

Intervals over seeds are Student's, because seeds are few. They say how far other seeds would move the mean, on the same
test pictures. `wilson_interval` says how far other pictures would move one accuracy. `difference_by_picture` says both
of a difference: how far other seeds on other pictures would move it. Each interval is that of one comparison; `holm`
corrects the p values of many, and decides which differences are shown.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from train.evaluate.student import NORMAL_QUANTILE, t_probability, t_quantile

FEWEST = 3  # observations whose interval helps anybody
LEVEL = 0.05  # how often all differences of a sweep are 0 and one of them is called shown, at most
LEAST_P = 1e-12

Bits = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Estimate:
    """A value with its interval; ``low`` and ``high`` are None for a single observation, or for few (`if_enough`)."""

    value: float
    low: float | None
    high: float | None
    n: int  # observations
    values: tuple[float, ...] = ()  # the observations themselves, of a mean
    p: float | None = None  # of a difference with an interval: how rare one as large is where there is none
    adjusted_p: float | None = None  # after Holm's correction for all comparisons of its sweep
    is_over_pictures: bool = False  # whether the interval holds for other test pictures too, not for other seeds alone

    @property
    def shown(self) -> bool:
        """Whether Holm's procedure rejects "no difference"; without a sweep, whether the interval excludes 0. False
        for an interval of width 0, as of equal observations on few images."""
        if self.adjusted_p is not None:
            return self.adjusted_p <= LEVEL
        if self.low is None or self.high is None or self.high - self.low < 1e-9:
            return False
        return self.low > 0 or self.high < 0


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean. Raises ValueError if there is no value, or if one is not finite."""
    if not values or not all(math.isfinite(value) for value in values):
        raise ValueError(f"mean: found {len(values)} values {list(values)[:3]}, expected at least one, all finite")
    return math.fsum(values) / len(values)


def sample_std(values: Sequence[float]) -> float | None:
    """The standard deviation, with n - 1 in the denominator; None for a single value."""
    centre = mean(values)
    if len(values) < 2:
        return None
    return math.sqrt(math.fsum((value - centre) ** 2 for value in values) / (len(values) - 1))


def mean_interval(values: Sequence[float]) -> Estimate:
    """The mean over independent observations (seeds), with Student's interval. Source: Student 1908."""
    centre, spread = mean(values), sample_std(values)
    if spread is None:
        return Estimate(centre, None, None, 1, tuple(values))
    half = t_quantile(len(values) - 1) * spread / math.sqrt(len(values))
    return Estimate(centre, centre - half, centre + half, len(values), tuple(values))


def if_enough(one: Estimate) -> Estimate:
    """Without its interval if there are fewer than `FEWEST` observations: that of two reaches 12.7 standard errors to
    each side, and tells less than the two do."""
    return one if one.n >= FEWEST else replace(one, low=None, high=None, p=None)


def paired_difference(treated: Mapping[int, float], control: Mapping[int, float]) -> Estimate | None:
    """Mean of treated - control over the seeds that both have, with its interval; None if they share no seed.

    A pair has the same initial weights and order, so the interval is usually narrower than that of two independent
    means. The p value is that of Student's test.
    """
    shared = sorted(treated.keys() & control.keys())
    if not shared:
        return None
    one = mean_interval([treated[seed] - control[seed] for seed in shared])
    if one.low is None or one.high is None:
        return one
    half = (one.high - one.low) / 2
    if half < 1e-9:
        return replace(one, p=1.0)
    return replace(one, p=_p(abs(one.value) / half * t_quantile(one.n - 1), one.n - 1))


def _p(t: float, degrees: int) -> float:
    return max(LEAST_P, 1 - t_probability(t, degrees))


def difference_by_picture(treated: Mapping[int, Bits], control: Mapping[int, Bits], views: int = 1) -> Estimate | None:
    """Mean of treated - control over the seeds that both have and over N pictures, with an interval for other seeds AND
    other pictures. Seed -> N bits, one a picture, right or wrong; all runs saw the same pictures in the same order.
    None if they share no seed. Raises ValueError for bits of different lengths, and for a part of a view.

    With `views`, the pictures show N / views things, all once before any of them again; then the interval is for other
    things, and "picture" below is a thing with the mean of its views.

    The half width is sqrt(max(t^2 A, z^2 C) + z^2 B): A is the variance of the mean over seeds, B what pictures add to
    it, C what seed and picture together do (unbiased, from the two-way table of crossed random factors), t Student's
    quantile for the seeds, z the normal one. So pictures alone give the normal interval, and seeds alone Student's. The
    p value is that of the t at which the half width is the mean itself. Nothing is drawn: the percentiles of a two-way
    bootstrap, widened to this width, which it lacks for few seeds, moved p values near 0.05 by a fifth from one seed of
    its draws to the next.
    """
    shared = sorted(treated.keys() & control.keys())
    sizes = {len(bits) for seed in shared for bits in (treated[seed], control[seed])}
    if len(sizes) > 1:
        raise ValueError(f"difference by picture: found {sorted(sizes)} pictures, expected as many in all runs")
    if any(size % views for size in sizes):
        raise ValueError(f"difference by picture: found {sorted(sizes)} pictures, expected a multiple of {views} views")
    if len(shared) < FEWEST or sizes <= {0, views}:
        means = ({seed: float(bits.mean()) for seed, bits in one.items()} for one in (treated, control))
        return paired_difference(*means)
    apart_SN = np.array([treated[seed].astype(np.float64) - control[seed] for seed in shared])
    table_SN = apart_SN.reshape(len(shared), views, -1).mean(axis=1)
    num_seeds = len(shared)
    by_seed = table_SN.mean(axis=1)
    centre = float(by_seed.mean())
    seeds, pictures, rest = _variances(table_SN)
    values = tuple(by_seed.tolist())

    def half(t: float) -> float:
        """Of the interval in which Student's quantile is `t`."""
        tail = (1 - t_probability(t, num_seeds - 1)) / 2
        z = -NormalDist().inv_cdf(max(tail, LEAST_P / 2))
        return math.sqrt(max(t * t * seeds, z * z * rest) + z * z * pictures)

    usual = half(t_quantile(num_seeds - 1))
    if usual < 1e-12:
        return Estimate(centre, centre, centre, num_seeds, values, 1.0, is_over_pictures=True)
    below, above = 0.0, 1e6
    for _ in range(100):
        middle = (below + above) / 2
        below, above = (middle, above) if half(middle) < abs(centre) else (below, middle)
    p = _p(below, num_seeds - 1)
    return Estimate(centre, centre - usual, centre + usual, num_seeds, values, p, is_over_pictures=True)


def _variances(table_SN: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    """Of the mean of a two-way table: over seeds alone, what pictures add, what seed and picture together do.

    Source: the expected mean squares of two crossed random factors with one observation a cell (Searle, Casella and
    McCulloch 1992, section 4.7).
    """
    num_seeds, num_pictures = table_SN.shape
    rows, columns = table_SN.mean(axis=1), table_SN.mean(axis=0)
    centre, cells = rows.mean(), table_SN.size
    of_rows = num_pictures * float(((rows - centre) ** 2).sum())
    of_columns = num_seeds * float(((columns - centre) ** 2).sum())
    rest = float(np.square(table_SN).sum()) - cells * float(centre) ** 2 - of_rows - of_columns
    residual = max(0.0, rest) / ((num_seeds - 1) * (num_pictures - 1))
    of_pictures = max(0.0, of_columns / (num_pictures - 1) - residual)
    return of_rows / (num_seeds - 1) / cells, of_pictures / cells, residual / cells


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p values, in the order given: at most `LEVEL` where the procedure rejects. Source: Holm 1979.

    The smallest is compared with LEVEL / m, the next one with LEVEL / (m - 1), and so on, until one is too large. The
    chance that any true "no difference" is rejected is at most LEVEL, however the comparisons depend on each other.
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def effective_pictures(right_N: Bits, views: int) -> float:
    """How many independent pictures would tell the share of right ones as well as N pictures of N / views things, which
    the set shows all once before any of them again: N / views .. N."""
    share, things = float(right_N.mean()), len(right_N) // views
    if views == 1 or things < 2 or share in (0.0, 1.0):
        return float(things)
    variance = float(right_N.reshape(views, things).mean(axis=0).var(ddof=1)) / things
    return min(float(len(right_N)), max(float(things), share * (1 - share) / max(variance, 1e-12)))


def wilson_interval(right: float, n: int, effective: float | None = None) -> Estimate:
    """A proportion of ``n`` samples, with an interval inside 0..1; `effective`: as many independent samples tell as
    much, None: all of them are. Source: Wilson 1927."""
    if not 0 <= right <= n or n == 0:
        raise ValueError(f"proportion: found {right} of {n}, expected 0 <= right <= n and n > 0")
    share, square, size = right / n, NORMAL_QUANTILE**2, n if effective is None else effective
    centre = (share + square / (2 * size)) / (1 + square / size)
    half = NORMAL_QUANTILE / (1 + square / size) * math.sqrt(share * (1 - share) / size + square / (4 * size * size))
    low = 0.0 if right == 0 else max(0.0, centre - half)  # exactly 0 and 1 at the ends, whatever the rounding
    high = 1.0 if right == n else min(1.0, centre + half)
    return Estimate(share, low, high, n)
