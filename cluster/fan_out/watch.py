"""Ends this process when its only worker gives no sign of life: a call that hangs in the same thread has no other end.

In: what is awaited, and for how long. Out: the end of the process with exit code 1, and one line that says why, and
where it hung. On disk: nothing. What shows others that the process works ends with it, so they take its units over.
"""

import os
import sys
import threading
from pathlib import Path
from typing import Self

from cluster.process.exit import EXIT_FAILED
from shards.disk.safe_text import for_screen, one_line

LOOK_S = 1.0
MAX_LINE = 1000  # characters


class Watch:
    """A context manager; inside, the thread that enters it must call `expect` again within the time it gave."""

    def __init__(self, look_s: float = LOOK_S) -> None:
        self._look_s = look_s
        self._awaited: tuple[str, float] | None = None  # always replaced as a whole, because the other thread reads it
        self._over = threading.Event()
        self._watched = threading.get_ident()
        self._thread = threading.Thread(target=self._watch, name="watch of the worker", daemon=True)

    def expect(self, otherwise: str, within_s: float) -> None:
        """The thread is alive now; unless it says so again `within_s` seconds from now the process ends, and
        `otherwise` is what it says."""
        self._awaited = otherwise, within_s

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._thread.join(timeout=5.0)

    def _watch(self) -> None:
        seen, waited_s = self._awaited, 0.0
        while not self._over.wait(self._look_s):
            if self._awaited is not seen:
                seen, waited_s = self._awaited, 0.0
                continue
            waited_s += self._look_s  # of looks: while the whole process is stopped, no time passes
            if seen is not None and waited_s > seen[1]:
                self._end(seen[0])

    def _end(self, why: str) -> None:
        frame = sys._current_frames().get(self._watched)
        where = f", in {Path(frame.f_code.co_filename).name}:{frame.f_lineno} {frame.f_code.co_name}" if frame else ""
        line = f"sixfold: {why}{where}; this process ends, and the same command goes on"
        os.write(2, f"{for_screen(one_line(line, MAX_LINE))}\n".encode())  # the stream may be held by what hangs
        os._exit(EXIT_FAILED)
