"""Statistics of results: means with intervals, paired differences, a proportion; pure.

In: numbers. Out: an `Estimate`, a value with the ends of its two-sided 95 % interval. On disk: nothing.

Intervals over seeds are Student's, because seeds are few. They say how far other seeds would move the mean, on the same
test images. `wilson_interval` says how far other images would move one accuracy. No interval is corrected for the
number of comparisons.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

CONFIDENCE = 0.95
FEWEST = 3  # observations whose interval helps anybody
NORMAL_QUANTILE = 1.959963984540054  # of (1 + CONFIDENCE) / 2


@dataclass(frozen=True)
class Estimate:
    """A value with its interval; ``low`` and ``high`` are None for a single observation, or for few (`if_enough`)."""

    value: float
    low: float | None
    high: float | None
    n: int  # observations
    values: tuple[float, ...] = ()  # the observations themselves, of a mean

    @property
    def shown(self) -> bool:
        """Whether the interval excludes 0. False for an interval of width 0, as of equal observations on few images."""
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


def t_probability(t: float, degrees: int) -> float:
    """P(|T| <= t) of Student's distribution with whole degrees of freedom, t >= 0.

    Source: Abramowitz and Stegun 1964, 26.7.3 (odd) and 26.7.4 (even): finite sums, exact up to rounding.
    """
    theta = math.atan(t / math.sqrt(degrees))
    cosine = math.cos(theta)
    term, total = (cosine, 0.0) if degrees % 2 else (1.0, 0.0)
    for k in range(degrees // 2):
        total += term
        term *= cosine**2 * ((2 * k + 2) / (2 * k + 3) if degrees % 2 else (2 * k + 1) / (2 * k + 2))
    if degrees % 2:
        return 2 / math.pi * (theta + math.sin(theta) * total)
    return math.sin(theta) * total


def t_quantile(degrees: int) -> float:
    """The t with P(|T| <= t) = CONFIDENCE: 12.706 for 1 degree of freedom, 2.776 for 4, towards 1.960 for many."""
    if degrees < 1:
        raise ValueError(f"t quantile: found {degrees} degrees of freedom, expected at least 1")
    low, high = 0.0, 16.0
    while high - low > 1e-13 * high:
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if t_probability(middle, degrees) < CONFIDENCE else (low, middle)
    return high


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
    return one if one.n >= FEWEST else replace(one, low=None, high=None)


def paired_difference(treated: Mapping[int, float], control: Mapping[int, float]) -> Estimate | None:
    """Mean of treated - control over the seeds that both have, with its interval; None if they share no seed.

    A pair has the same initial weights and order, so the interval is usually narrower than that of two independent
    means.
    """
    shared = sorted(treated.keys() & control.keys())
    return mean_interval([treated[seed] - control[seed] for seed in shared]) if shared else None


def wilson_interval(right: int, n: int) -> Estimate:
    """A proportion of ``n`` independent samples, with an interval inside 0..1. Source: Wilson 1927."""
    if not 0 <= right <= n or n == 0:
        raise ValueError(f"proportion: found {right} of {n}, expected 0 <= right <= n and n > 0")
    share, square = right / n, NORMAL_QUANTILE**2
    centre = (share + square / (2 * n)) / (1 + square / n)
    half = NORMAL_QUANTILE / (1 + square / n) * math.sqrt(share * (1 - share) / n + square / (4 * n * n))
    low = 0.0 if right == 0 else max(0.0, centre - half)  # exactly 0 and 1 at the ends, whatever the rounding
    high = 1.0 if right == n else min(1.0, centre + half)
    return Estimate(share, low, high, n)
