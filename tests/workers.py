"""Workers for the fan-out's tests: importable in worker processes, small, and bad in known ways."""

import time
from collections.abc import Mapping

from cluster.work import JSON, Beat, Worker


def sleeper(seconds: float) -> Worker:
    """Sleeps; beats ten times."""

    def work(unit: int, attempt: str, beat: Beat) -> Mapping[str, JSON]:
        for step in range(10):
            time.sleep(seconds / 10)
            beat(step + 1, 0)
        return {"unit": unit}

    return work
