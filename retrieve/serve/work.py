"""A bounded number of threads with a bounded queue, for the event loop of a server.

In: functions. Out: what they return. On disk: nothing. Work that comes when the queue is full is refused, and who waits
longer than the deadline is told so; work that has begun goes on to its own end, and counts until then.
"""

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")


class Busy(Exception):
    """The queue is full; one line."""


class Workers:
    """Used by one event loop."""

    def __init__(self, num_threads: int, most_waiting: int, deadline_s: float, name: str) -> None:
        self.deadline_s = deadline_s
        self.num_open = 0  # pieces of work that wait or run
        self._most = num_threads + most_waiting
        self._threads = ThreadPoolExecutor(num_threads, thread_name_prefix=name)

    async def run(self, work: Callable[[], Result]) -> Result:
        """Raises Busy, TimeoutError, and what the work raises."""
        if self.num_open >= self._most:
            raise Busy(f"found {self.num_open} requests at work, expected fewer; ask again in a moment")
        loop = asyncio.get_running_loop()
        future = self._threads.submit(work)
        self.num_open += 1

        def over(_: object) -> None:
            with contextlib.suppress(RuntimeError):  # the loop was closed
                loop.call_soon_threadsafe(self._close_one)

        future.add_done_callback(over)
        return await asyncio.wait_for(asyncio.wrap_future(future), self.deadline_s)

    def close(self) -> None:
        """What waits is dropped; what has begun ends by itself."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _close_one(self) -> None:
        self.num_open -= 1
