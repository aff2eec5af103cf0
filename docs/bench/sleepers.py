"""Workers that sleep instead of making images, for real fan-outs whose time is known; importable in worker processes.

In: a folder, seconds a unit, a speed for each place. Out: workers. On disk: `N.pid` for each place, the process that
has it; a process that starts takes the place of one that is dead.
"""

import os
import secrets
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from cluster.fan_out.work import Beat, Worker
from shards.disk.record import JSON

BEAT_S = 0.1
COMPANY_S = 120.0


def sleeper(folder: Path, unit_s: float, speeds: Sequence[float]) -> Worker:
    """A worker whose units take `unit_s` over the speed of the place that this process has taken."""
    seconds = unit_s / speeds[_take_place(folder, len(speeds))]

    def work(unit: int, attempt: str, beat: Beat) -> Mapping[str, JSON]:
        end, beats = time.monotonic() + seconds, 0
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(BEAT_S, left))
            beats += 1
            beat(beats, 0)
        return {}

    return work


def idler(folder: Path, num_places: int) -> Worker:
    """A worker whose units are empty; it begins when all places are taken, or after two minutes."""
    _take_place(folder, num_places)
    deadline = time.monotonic() + COMPANY_S
    while len(processes(folder)) < num_places and time.monotonic() < deadline:
        time.sleep(BEAT_S)
    return lambda unit, attempt, beat: {}


def processes(folder: Path) -> list[psutil.Process]:
    """The processes that have a place and live."""
    found = []
    for path in sorted(folder.glob("*.pid")):
        text = path.read_text()
        if text and psutil.pid_exists(int(text)) and psutil.Process(int(text)).status() != psutil.STATUS_ZOMBIE:
            found.append(psutil.Process(int(text)))
    return found


def _take_place(folder: Path, num_places: int) -> int:
    """The first place that no living process has. Raises RuntimeError if there is none."""
    for place in range(num_places):
        path = folder / f"{place}.pid"
        if path.exists() and str(path.stat().st_size) != "0":
            if any(str(one.pid) == path.read_text() for one in processes(folder)):
                continue
            path.rename(folder / f"{place}.{secrets.token_hex(4)}.dead")
        try:
            with path.open("x") as file:
                file.write(str(os.getpid()))
        except FileExistsError:
            continue
        return place
    raise RuntimeError(f"{folder}: found no free place among {num_places}, expected one for each worker")
