"""Real fan-outs with workers that sleep, and the simulated ones with the same figures.

In: cases (units, speeds, kills, time limits). Out: makespans of both. On disk: a folder with the workers' places,
removed again.

A sleeping worker needs no core, so other programs on the machine change little; what they do change, the time that a
worker takes to start, is measured in each run and given to the simulation.
"""

import contextlib
import functools
import random
import signal
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from cluster.fan_out.events import Event
from cluster.fan_out.fan_out import fan_out
from cluster.fan_out.simulate import simulate
from cluster.fan_out.work import FanOutSpec
from cluster.fan_out.world import World
from cluster.process.stop_flag import StopFlag
from docs.bench.driver_cost import DriverCost
from docs.bench.sleepers import processes, sleeper

SEEDS = 20  # simulated worlds a real run
MAX_LIVES = 20


@dataclass(frozen=True)
class Case:
    """One kind of run."""

    what: str
    num_units: int
    unit_s: float
    speeds: tuple[float, ...] = (1.0, 1.0)
    num_kills: int = 0
    life_s: float = 0.0

    @property
    def bare_s(self) -> float:
        """How long the units take in bare loops, one a worker, that share them in the best way."""
        return min(
            max(first / self.speeds[0], (self.num_units - first) / self.speeds[1]) * self.unit_s
            for first in range(self.num_units + 1)
        )


CASES = (
    Case("60 units of 1 s", 60, 1.0),
    Case("14 units of 5 s", 14, 5.0),
    Case("120 units of 0.5 s", 120, 0.5),
    Case("one worker at half speed", 60, 1.0, speeds=(1.0, 0.5)),
    Case("6 kills", 60, 1.0, num_kills=6),
    Case("an allocation of 40 s, again and again", 90, 1.0, life_s=40.0),
)
QUICK = (Case("6 units of 0.2 s", 6, 0.2),)


@dataclass(frozen=True)
class Compared:
    """One real run beside its simulated twins."""

    real_s: float
    simulated_s: float  # the median world
    start_s: float  # a worker's, on average
    work_s: float  # the real run, from its first unit to its last
    most_units_lost: int  # by a kill
    kills: int

    @property
    def error(self) -> float:
        """How far the simulation is from the truth: 0.03 is 3 % too long."""
        return self.simulated_s / self.real_s - 1


def compare(case: Case, cost: DriverCost, scratch: Path | None, seed: int) -> Compared:
    """Run the case once on Ray, in whose session this is called, and simulate it."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        events, seconds = _run(case, Path(folder), seed)
    starts: dict[tuple[int, int], float] = {}
    took: dict[tuple[int, int], float] = {}
    units: dict[int, list[float]] = {}
    for life, event in events:
        if event.kind == "worker_started" and event.worker is not None:
            starts[life, event.worker] = event.at_s
        elif event.kind == "worker_ready" and event.worker is not None:
            took[life, event.worker] = event.at_s - starts[life, event.worker]
        elif event.kind in ("unit_started", "unit_done"):
            units.setdefault(life, []).append(event.at_s)
    start_s = statistics.mean(took.values())
    dead = [(life, event.worker) for life, event in events if event.kind == "worker_lost"]
    world = World(
        num_units=case.num_units,
        num_workers=2,
        workers_per_node=2,
        speeds=case.speeds,
        unit_s=case.unit_s,
        start_s=start_s,
        starts_s=tuple(took[one] for one in sorted(took)),
        num_kills=len(dead),
        life_s=case.life_s,
        beat_s=0.1,
        tick_s=0.1,
        driver_unit_s=cost.unit_s,
        driver_look_s=cost.look_s,
        driver_turn_s=cost.turn_s,
    )
    spec = _spec(case)
    made = []
    for number in range(SEEDS):
        run = simulate(World(**{**vars(world), "seed": number}), spec)
        assert run.summary.done == case.num_units, f"{case.what}: {run.summary}"
        made.append(run.makespan_s)
    failed = [(life, event.worker) for life, event in events if event.kind == "unit_failed"]
    return Compared(
        real_s=seconds,
        simulated_s=statistics.median(made),
        start_s=start_s,
        work_s=sum(max(times) - min(times) for times in units.values()),
        most_units_lost=max((failed.count(one) for one in dead), default=0),
        kills=len(dead),
    )


def _spec(case: Case) -> FanOutSpec:
    return FanOutSpec(
        workers=2, gpus_per_worker=0, start_deadline_s=300, stall_deadline_s=300, drain_s=4.0, attempts=10
    )


def _run(case: Case, folder: Path, seed: int) -> tuple[list[tuple[int, Event]], float]:
    """All events, each with the number of its life, and the seconds of all lives."""
    spec, left, seconds = _spec(case), list(range(case.num_units)), 0.0
    events: list[tuple[int, Event]] = []
    for life in range(MAX_LIVES):
        done: set[int] = set()

        def watch(event: Event, life: int = life, done: set[int] = done) -> None:
            events.append((life, event))
            if event.kind == "unit_done" and event.unit is not None:
                done.add(event.unit)

        place = folder / str(life)
        place.mkdir()
        make = functools.partial(sleeper, place, case.unit_s, case.speeds)
        stop = StopFlag()
        with _limit(case, spec, stop), _kills(case, place, seed):
            summary = fan_out(left, make, spec, watch, stop)
        seconds += summary.seconds
        left = [unit for unit in left if unit not in done]
        if not left:
            return events, seconds
        assert summary.drained, f"{case.what}: {summary}"
    raise RuntimeError(f"{case.what}: found {len(left)} units left after {MAX_LIVES} lives")


@contextlib.contextmanager
def _limit(case: Case, spec: FanOutSpec, stop: StopFlag) -> Iterator[None]:
    """Within, a stop is requested before the time limit, as SLURM does it."""
    if not case.life_s:
        yield
        return
    timer = threading.Timer(case.life_s - spec.drain_s, stop.request, ["the allocation ends"])
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextlib.contextmanager
def _kills(case: Case, folder: Path, seed: int) -> Iterator[None]:
    """Within, random workers are killed, spread over the time that the units take in bare loops."""
    rng, is_over = random.Random(seed), threading.Event()
    times = [case.bare_s * (number + rng.random()) / case.num_kills for number in range(case.num_kills)]

    def kill() -> None:
        deadline = time.monotonic() + 300
        while not processes(folder) and time.monotonic() < deadline and not is_over.wait(0.1):
            pass
        begun = time.monotonic()
        for when in times:
            if is_over.wait(max(0.0, begun + when - time.monotonic())):
                return
            if living := processes(folder):
                with contextlib.suppress(psutil.NoSuchProcess):
                    rng.choice(living).send_signal(signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join(timeout=30)
