"""What went wrong, as one short line: an exception, or the last words of a program.

In: an exception, or a program's output. Out: bounded text on one line; whether the process may be used again.
"""

import os
import sys
import traceback
from typing import BinaryIO

from cluster.process.exit import WorkerBroken
from cluster.process.memory import is_memory_error
from shards.disk.safe_text import LONGEST_LINE, one_line

TEXT_BYTES = 65_536  # of a program's output that are read at a time


def describe(error: BaseException) -> str:
    """``"ValueError: found 3, expected 4 (plan.py:12 < unit.py:88)"``: the last four places, the innermost first."""
    frames = traceback.extract_tb(error.__traceback__)
    places = " < ".join(f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno}" for frame in reversed(frames[-4:]))
    text = error_line(error)
    return f"{text} ({places})" if places else text


def error_line(error: BaseException, limit: int = LONGEST_LINE) -> str:
    """``"ValueError: found 3, expected 4"``, at most ``limit`` characters on one line."""
    return one_line(f"{type(error).__name__}: {error}", limit)


def last_line(file: BinaryIO) -> str:
    """The last line of a program's output that is not blank, as `shown_line` shows it; "" if there is none."""
    file.seek(max(0, file.seek(0, os.SEEK_END) - TEXT_BYTES))
    lines = [shown_line(line) for line in file.read().split(b"\n")]
    return next((line for line in reversed(lines) if line), "")


def shown_line(line: bytes) -> str:
    """A line of a program's output as text that a terminal may show."""
    return one_line(line.decode("utf-8", "replace"))


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
