"""Exceptions as one short text for people and logs, and whether their process may be used again.

In: an exception. Out: its type, its message and the last places it passed through, bounded, on one line.
"""

import re
import sys
import traceback

from cluster.process.exit import WorkerBroken
from cluster.process.memory import is_memory_error

MAX_TEXT = 1500
ANSI = re.compile(r"\x1b\[[0-9;]*m")


def describe(error: BaseException) -> str:
    """``"ValueError: found 3, expected 4 (plan.py:12 < unit.py:88)"``, innermost place first."""
    frames = traceback.extract_tb(error.__traceback__)
    places = " < ".join(f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno}" for frame in reversed(frames[-4:]))
    text = one_line(f"{type(error).__name__}: {error}")
    return f"{text} ({places})" if places else text


def one_line(text: str) -> str:
    text = " ".join(ANSI.sub("", text).split())
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}…"


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
