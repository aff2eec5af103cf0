"""Stop requests: a signal sets a flag, the loop acts.

In: SIGINT, SIGTERM, SIGHUP, SIGUSR1 (SLURM's warning before the time limit). Out: a ``StopFlag`` that a run asks.
On disk: nothing. A second SIGINT or SIGTERM ends the process at once with 128 + its number.
"""

import os
import signal
import threading
import time
from types import FrameType
from typing import Self

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
FORCING = (signal.SIGINT, signal.SIGTERM)


class StopFlag:
    """Use as a context manager in the main thread; elsewhere it works, set by ``request`` only.

    The handler only writes three attributes: no lock, no print, no allocation to speak of, because it may
    interrupt anything. Waiting code polls ``requested`` (every wait in this package is short).
    """

    def __init__(self) -> None:
        self.requested = False
        self.reason = ""
        self.since: float | None = None  # time.monotonic() of the first request
        self._signals = 0
        self._replaced: dict[int, object] = {}

    def request(self, reason: str) -> None:
        """Ask for a drain, as a signal would."""
        if not self.requested:
            self.reason, self.since = reason, time.monotonic()
            self.requested = True

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number in FORCING and self._signals:
            os._exit(128 + number)
        self._signals += 1
        self.request(signal.Signals(number).name)

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in STOP_SIGNALS:
                self._replaced[number] = signal.signal(number, self._handle)
        return self

    def arm(self) -> None:
        """Take the signals back from a library that took them: ``ray.init`` makes SIGTERM an exit with code 1."""
        if threading.current_thread() is threading.main_thread():
            for number in self._replaced:
                signal.signal(number, self._handle)

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._replaced.items():
            # None: installed by C code; there is no way to put it back but the default
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # type: ignore[arg-type]
        self._replaced.clear()
