"""Exceptions as one short text for people and logs, and whether their process may be used again.

In: an exception. Out: its type, its message and the last places it passed through, bounded, on one line.
"""

import sys
import traceback

from cluster.process.exit import WorkerBroken
from cluster.process.memory import is_memory_error
from shards.disk.safe_text import LONGEST_LINE, one_line


def describe(error: BaseException) -> str:
    """``"ValueError: found 3, expected 4 (plan.py:12 < unit.py:88)"``, innermost place first."""
    frames = traceback.extract_tb(error.__traceback__)
    places = " < ".join(f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno}" for frame in reversed(frames[-4:]))
    text = error_line(error)
    return f"{text} ({places})" if places else text


def error_line(error: BaseException, limit: int = LONGEST_LINE) -> str:
    """``"ValueError: found 3, expected 4"``, at most ``limit`` characters on one line."""
    return one_line(f"{type(error).__name__}: {error}", limit)


def is_broken(error: BaseException) -> bool:
    """Whether the process must not be used again: after a CUDA fault every later call fails too.

    Running out of memory is not such a fault: the next, smaller call works.
    """
    if isinstance(error, WorkerBroken):
        return True
    torch = sys.modules.get("torch")
    if torch is None or is_memory_error(error):
        return False
    return isinstance(error, torch.AcceleratorError) or "CUDA error" in str(error)
