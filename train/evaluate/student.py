"""Student's distribution: how far an interval reaches whose standard error comes from few observations; pure.

In: degrees of freedom. Out: probabilities and quantiles. On disk: nothing.
"""

import math

CONFIDENCE = 0.95
NORMAL_QUANTILE = 1.959963984540054  # of (1 + CONFIDENCE) / 2


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
