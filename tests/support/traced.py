"""How much memory a piece of work takes."""

import tracemalloc
from collections.abc import Callable


def peak_bytes(work: Callable[[int], object], tries: int = 3) -> int:
    """The least of the peaks of a few tries: threads that other tests left behind are traced too and only add.

    `work` gets the number of the try.
    """
    peaks = []
    for turn in range(tries):
        tracemalloc.start()
        try:
            work(turn)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    return min(peaks)
