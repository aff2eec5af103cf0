"""Random numbers that depend on a key and not on the process, for augmentation and mixing; pure.

In: a key such as (seed, purpose, pass, sample id). Out: random numbers, the same for the same key. On disk: nothing.

The generator is splitmix64 in Python's own integers: the same on every machine and in every version, and cheaper than a
generator of numpy if only a dozen numbers are needed (1.3 us for a key of four numbers, 0.4 us a number;
`numpy.random.Philox` takes 7 us to make).
"""

import math
from collections.abc import Sequence

_MASK = 0xFFFF_FFFF_FFFF_FFFF
_GOLDEN = 0x9E37_79B9_7F4A_7C15
_MAX_TRIES = 1000  # of a rejection sampler that accepts at least one in six: fails once in 10**79


class KeyedRandom:
    """A stream of random numbers; two streams with the same key give the same numbers. For one thread."""

    __slots__ = ("_state",)

    def __init__(self, *key: int) -> None:
        """`key`: any integers, each taken modulo 2**64."""
        self._state = hashed(*key)

    def bits(self) -> int:
        """64 random bits."""
        self._state = (self._state + _GOLDEN) & _MASK
        return _scramble(self._state)

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """A number in [low, high)."""
        return low + (high - low) * ((self.bits() >> 11) * 2.0**-53)

    def below(self, count: int) -> int:
        """0 .. count - 1, each equally likely within count / 2**64."""
        return (self.bits() * count) >> 64

    def normal(self) -> float:
        """Mean 0, standard deviation 1. Source: Box and Muller 1958."""
        radius = math.sqrt(-2.0 * math.log(1.0 - self.uniform()))
        return radius * math.cos(2.0 * math.pi * self.uniform())

    def shuffled(self, items: Sequence[int]) -> list[int]:
        """`items` in random order."""
        rest = list(items)
        for last in range(len(rest) - 1, 0, -1):
            other = self.below(last + 1)
            rest[last], rest[other] = rest[other], rest[last]
        return rest

    def beta(self, alpha: float) -> float:
        """From Beta(alpha, alpha), 0 < alpha <= 2. Source: Jöhnk 1964; in logarithms, so that a small alpha does not
        end in 0 / 0."""
        assert 0 < alpha <= 2
        for _ in range(_MAX_TRIES):
            x = math.log(1.0 - self.uniform()) / alpha
            y = math.log(1.0 - self.uniform()) / alpha
            if math.exp(x) + math.exp(y) <= 1.0:
                return 1.0 / (1.0 + math.exp(min(y - x, 700.0)))  # e**700 is the largest round power a float holds
        raise AssertionError("a rejection sampler rejected everything")


def hashed(*key: int) -> int:
    """64 bits of a sequence of integers, each taken modulo 2**64."""
    state = 0
    for number in key:
        state = _scramble(((state ^ number) + _GOLDEN) & _MASK)
    return state


def _scramble(state: int) -> int:
    """The output function of splitmix64. Source: Steele, Lea and Flood 2014, figure 15."""
    state = ((state ^ (state >> 30)) * 0xBF58_476D_1CE4_E5B9) & _MASK
    state = ((state ^ (state >> 27)) * 0x94D0_49BB_1331_11EB) & _MASK
    return state ^ (state >> 31)
