"""What the driver of a fan-out pays for a unit, for a look at a worker, for a turn, for the start of a worker.

In: a Ray session of this process. Out: a `DriverCost`, CPU seconds of this process, all threads. On disk: nothing.
"""

import functools
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from cluster.fan_out.events import Event
from cluster.fan_out.fan_out import fan_out
from cluster.fan_out.scheduler import Action, Schedule, StartWorker, Submit
from cluster.fan_out.work import FanOutSpec
from cluster.process.stop_flag import StopFlag
from docs.bench.sleepers import idler

MANY = 16_384  # workers whose turn is timed
DEADLINE_S = 60.0


@dataclass(frozen=True)
class DriverCost:
    """CPU seconds."""

    unit_s: float
    look_s: float
    turn_s: float  # for each worker
    start_s: float
    wall_unit_s: float  # of two workers whose units are empty
    grown_bytes: int  # of the driver, over the last four fifths of the empty units
    num_units: int


def measure(num_units: int, repeats: int) -> list[DriverCost]:
    """Call it inside a Ray session with room for two workers."""
    return [_measure_once(num_units) for _ in range(repeats)]


def _measure_once(num_units: int) -> DriverCost:
    marks: dict[str, float] = {}
    sizes: list[int] = []
    done = num_ready = 0

    def on_event(event: Event) -> None:
        nonlocal done, num_ready
        num_ready += event.kind == "worker_ready"
        if event.kind != "unit_done":
            return
        done += 1
        if done in (num_units // 5, num_units):
            sizes.append(psutil.Process(os.getpid()).memory_info().rss)
        if num_ready == 2 and "begun" not in marks:  # not before both are there: what starting costs is another figure
            marks.update(begun=time.process_time(), wall=time.perf_counter(), first=float(done))
        if done == num_units:
            marks.update(ended=time.process_time(), wall_ended=time.perf_counter())

    spec = FanOutSpec(workers=2, gpus_per_worker=0, start_deadline_s=300, stall_deadline_s=300, straggler_factor=0)
    with tempfile.TemporaryDirectory() as folder:
        make = functools.partial(idler, Path(folder), 2)
        summary = fan_out(range(num_units), make, spec, on_event, StopFlag())
    assert summary.done == num_units, summary
    counted = num_units - marks["first"]
    return DriverCost(
        unit_s=(marks["ended"] - marks["begun"]) / counted,
        look_s=_look_s(),
        turn_s=_wait_s() + _tick_s(),
        start_s=_start_s(),
        wall_unit_s=(marks["wall_ended"] - marks["wall"]) / counted,
        grown_bytes=sizes[-1] - sizes[0],
        num_units=num_units,
    )


def _start_s(num: int = 8) -> float:
    """To start a worker and to hear its first word."""
    import ray

    from cluster.fan_out.ray_worker import RayWorker

    begun = time.process_time()
    actors = [ray.remote(RayWorker).options(num_cpus=0, max_concurrency=2).remote(1) for _ in range(num)]
    asked = [actor.hello.remote() for actor in actors]
    ready, _ = ray.wait(asked, num_returns=num, timeout=5 * DEADLINE_S)
    for one in ready:
        ray.get(one, timeout=DEADLINE_S)
    seconds = (time.process_time() - begun) / num
    for actor in actors:
        ray.kill(actor)
    return seconds


def _look_s(num: int = 2000) -> float:
    """To ask a worker and to take its answer, when many answers come in a turn."""
    import ray

    from cluster.fan_out.ray_worker import RayWorker

    actor = ray.remote(RayWorker).options(num_cpus=0, max_concurrency=2).remote(1)
    ray.get(actor.hello.remote(), timeout=DEADLINE_S)
    begun = time.process_time()
    asked = [actor.look.remote() for _ in range(num)]
    ready, _ = ray.wait(asked, num_returns=num, timeout=DEADLINE_S)
    for one in ready:
        ray.get(one, timeout=DEADLINE_S)
    seconds = (time.process_time() - begun) / num
    ray.kill(actor)
    return seconds


def _wait_s(num: int = 5000, times: int = 20) -> float:
    """To wait for answers that are not there yet, for each; a turn waits twice if there are any."""
    import ray

    @ray.remote(num_cpus=0)
    class Slow:
        def sleep(self) -> None:
            time.sleep(DEADLINE_S)

    actor = Slow.remote()  # type: ignore[attr-defined]
    asked = [actor.sleep.remote() for _ in range(num)]
    ray.wait(asked, num_returns=1, timeout=1.0)
    begun = time.process_time()
    for _ in range(times):
        ray.wait(asked, num_returns=1, timeout=0)
    seconds = 2 * (time.process_time() - begun) / times / num
    ray.kill(actor)
    return seconds


def _tick_s(times: int = 10) -> float:
    """Of the schedule, for each of MANY workers."""
    schedule = Schedule(range(2 * MANY), FanOutSpec(), "bench", 0.0)
    todo: list[Action] = schedule.nodes({f"node{number}": 8 for number in range(MANY // 8)}, 0.0)
    working = 0
    while todo:
        match todo.pop():
            case StartWorker(worker, _):
                todo += schedule.placed(worker, 0.0) + schedule.ready(worker, 0.0)
            case Submit():
                working += 1
    assert working == MANY, working
    begun = time.process_time()
    for number in range(times):
        schedule.tick(1.0 + number)
    return (time.process_time() - begun) / times / MANY
