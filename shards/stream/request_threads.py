"""Threads that wait for a store: each task is a request, its result a future.

In: tasks. Out: futures. On disk: nothing.
"""

import contextlib
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")

_IDLE_S = 60.0  # the longest wait of a thread without work; a task wakes it earlier


class RequestThreads:
    """Up to `most` daemon threads, started with the first tasks, that take tasks in order; unlike an executor's, a
    stuck one does not hold up the exit."""

    def __init__(self, most: int) -> None:
        self._tasks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._most = most
        self._lock = threading.Lock()
        self._number = 0

    def submit(self, task: Callable[[], T]) -> "Future[T]":
        """Do the task in one of the threads, after all earlier tasks."""
        future: Future[T] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(task())
            except BaseException as error:  # handed to whoever waits
                future.set_exception(error)

        self._tasks.put(run)
        with self._lock:
            if self._number < self._most:
                self._number += 1
                threading.Thread(target=self._run, daemon=True, name="fetch").start()
        return future

    def close(self) -> None:
        """End the threads, after the tasks that were submitted."""
        for _ in range(self._number):
            self._tasks.put(None)

    def _run(self) -> None:
        while True:
            with contextlib.suppress(queue.Empty):
                task = self._tasks.get(timeout=_IDLE_S)
                if task is None:
                    return
                task()
