"""Stop requests: a signal sets a flag, the loop acts.

In: SIGINT, SIGTERM, SIGHUP, SIGUSR1 (SLURM's warning before the time limit). Out: a ``StopFlag`` that a run asks.
On disk: nothing. A second SIGINT or SIGTERM ends the process at once with 128 + its number. A SIGHUP that is ignored,
as `nohup` has it, stays ignored.
"""

import os
import signal
import threading
import time
from types import FrameType
from typing import Self

from cluster.process.exit import Draining

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
FORCING = (signal.SIGINT, signal.SIGTERM)


class StopFlag:
    """Whether a stop was requested. A context manager: in the main thread it takes the stop signals over; in another
    thread only ``request`` sets it.

    The signal handler only writes attributes, because it may interrupt anything. Loops poll ``requested`` between short
    waits.
    """

    def __init__(self) -> None:
        self.requested = False
        self.reason = ""
        self.since: float | None = None  # time.monotonic() of the first request
        self._signals = 0
        self._replaced: dict[int, object] = {}

    def request(self, reason: str) -> None:
        """Ask the run to stop, as a signal would; the first reason counts."""
        if not self.requested:
            self.reason, self.since = reason, time.monotonic()
            self.requested = True

    def go_on(self) -> None:
        """Raises Draining once a stop was requested."""
        if self.requested:
            raise Draining(f"stopped on request ({self.reason})")

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number in FORCING and self._signals:
            os._exit(128 + number)
        self._signals += 1
        self.request(signal.Signals(number).name)

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in STOP_SIGNALS:  # a job's SIGUSR1 is ignored until the program listens, and then it counts
                if number == signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
                    continue
                self._replaced[number] = signal.signal(number, self._handle)
        return self

    def arm(self) -> None:
        """Install the handlers again after ``ray.init``, which makes SIGTERM an exit with code 1."""
        if threading.current_thread() is threading.main_thread():
            for number in self._replaced:
                signal.signal(number, self._handle)

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._replaced.items():
            # None: C code had installed it, and Python cannot put that back
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # type: ignore[arg-type]
        self._replaced.clear()
