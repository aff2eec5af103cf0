"""Threads that decode pictures into the slots of batches, the first batch first.

In: how many slots a batch has, and a function that fills one. Out: a `Job` to wait for, with a deadline; it raises the
error of a slot. On disk: nothing.

Decoders release the interpreter's lock, so threads of one process share the work and no picture is copied. The threads
start with the first job, so an unused object survives a fork; a used one refuses to work in the child.
"""

import os
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import TypeAlias

Fill: TypeAlias = Callable[[int], None]

_SLOTS_AT_ONCE = 8  # a hand-over costs 20 us, a picture about 1 ms
_CLOSE_S = 1.0
_LOOK_S = 1.0  # between two looks at `is_stopped` of a caller that waits
_IDLE_S = 5.0  # between two looks of an idle thread whether it is still needed


class Job:
    """The slots of one batch."""

    def __init__(self, count: int, fill: Fill) -> None:
        self.count = count
        self._fill = fill
        self._lock = threading.Lock()
        self._finished = threading.Event()
        self._filled = 0
        self._error: Exception | None = None
        if count == 0:
            self._finished.set()

    @property
    def filled(self) -> int:
        """How many slots are filled."""
        return self._filled

    def work(self, first: int, is_wanted: Callable[[], bool]) -> None:
        """Fill slots `first` .. `first` + `_SLOTS_AT_ONCE`; stop early if the job has failed or is not wanted."""
        for slot in range(first, min(first + _SLOTS_AT_ONCE, self.count)):
            if self._error is not None or not is_wanted():
                return
            try:
                self._fill(slot)
            except Exception as error:  # raised in the thread that waits for the batch
                with self._lock:
                    self._error = self._error or error
                self._finished.set()
                return
            with self._lock:
                self._filled += 1
                if self._filled == self.count:
                    self._finished.set()

    def wait(self, timeout_s: float) -> bool:
        """Whether all slots are filled within `timeout_s`. Raises the error of a slot."""
        finished = self._finished.wait(timeout_s)
        if self._error is not None:
            raise self._error
        return finished


class DecodeThreads:
    """`num_threads` threads that do jobs. With 0, the thread that waits for a job does it."""

    def __init__(self, num_threads: int) -> None:
        self._num_threads = num_threads
        self._tasks: SimpleQueue[tuple[Job, int] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._closed = False
        self._pid = 0

    def start(self, count: int, fill: Fill) -> Job:
        """Begin to fill `count` slots, after all earlier jobs. Raises ValueError in a forked child."""
        job = Job(count, fill)
        if self._num_threads:
            self._start_threads()
            for first in range(0, count, _SLOTS_AT_ONCE):
                self._tasks.put((job, first))
        return job

    def finish(self, job: Job, timeout_s: float, is_stopped: Callable[[], bool] = lambda: False) -> bool:
        """Wait for `job`; without threads, do it here. False after `timeout_s`, or if `is_stopped()` is true before the
        end; it is asked about once a second. Raises the error of a slot."""
        if not self._num_threads and not job.wait(0):
            for first in range(0, job.count, _SLOTS_AT_ONCE):
                job.work(first, self._is_open)
        ends = time.monotonic() + timeout_s
        while not job.wait(max(0.0, min(_LOOK_S, ends - time.monotonic()))):
            if time.monotonic() >= ends or is_stopped():
                return False
        return True

    def close(self) -> None:
        """End the threads; each finishes its current slot. A thread that hangs is left behind after a second: it is a
        daemon, so the process can end."""
        self._closed = True
        for _ in self._threads:
            self._tasks.put(None)
        ends = time.monotonic() + _CLOSE_S
        for thread in self._threads:
            if self._pid == os.getpid():
                thread.join(max(0.0, ends - time.monotonic()))
        self._threads = []

    def _start_threads(self) -> None:
        if self._threads and self._pid != os.getpid():
            raise ValueError("found a stream that was used before this process was forked; make a new one in the child")
        if not self._threads:
            self._pid = os.getpid()
            for number in range(self._num_threads):
                thread = threading.Thread(target=self._work, name=f"decode-{number}", daemon=True)
                self._threads.append(thread)
                thread.start()

    def _is_open(self) -> bool:
        return not self._closed

    def _work(self) -> None:
        while not self._closed:
            try:
                task = self._tasks.get(timeout=_IDLE_S)
            except Empty:
                continue
            if task is None:
                return
            job, first = task
            job.work(first, self._is_open)
