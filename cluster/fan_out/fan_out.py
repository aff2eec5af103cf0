"""The one call that spreads units of work over workers.

In: unit numbers, a callable that builds a worker, a ``FanOutSpec``. Out: events as they happen, then a ``Summary``.
On disk: nothing of its own. Workers publish their results themselves, exclusively, because a unit may run twice.

With ``spec.in_process`` one worker runs in this process, without Ray. Otherwise workers are Ray actors, on the cluster
that ``RAY_ADDRESS`` names or on one started for this run. ``cluster.fan_out.scheduler`` decides in both cases.
"""

import os
import secrets
import sys
import time
from collections.abc import Callable, Iterable, Mapping

from cluster.fan_out.attempt import life_id
from cluster.fan_out.events import Event
from cluster.fan_out.scheduler import WHEN_SLOW, Schedule
from cluster.fan_out.work import Beat, FanOutSpec, MakeWorker, Quarantined, Summary, Worker
from cluster.process.environment import named_cluster
from cluster.process.exit import Draining, WorkerBroken
from cluster.process.stop_flag import StopFlag
from cluster.waiting import waiting

__all__ = [
    "Beat",
    "Draining",
    "FanOutSpec",
    "MakeWorker",
    "Quarantined",
    "Summary",
    "Worker",
    "WorkerBroken",
    "fan_out",
    "stays_here",
]


def stays_here(spec: FanOutSpec, environ: Mapping[str, str]) -> bool:
    """Whether `fan_out` would run all workers on this machine: in this process, or on a Ray started for this run."""
    if spec.in_process:
        return True
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():  # inside another session, whose nodes may be anywhere
        return False
    return not named_cluster(environ)


def fan_out(
    units: Iterable[int],
    make_worker: MakeWorker,
    spec: FanOutSpec,
    on_event: Callable[[Event], None],
    stop: StopFlag,
    threads: int = 1,
    when_slow: str = WHEN_SLOW,
    life: str = "",
) -> Summary:
    """Run every unit at least once, and return how the run ended.

    ``units`` is read lazily, a few ahead of the workers. ``make_worker`` runs once in each worker process; give a
    ``functools.partial`` of an importable function with plain data and absolute paths. ``on_event`` is called in this
    thread. ``threads`` becomes OMP_NUM_THREADS of each worker before it imports numerical libraries. ``when_slow`` says
    what a person can do about a worker that is killed because it is slow. ``life``: what the ids of attempts begin
    with, another one for each call; "": a new one. Raises cluster.fan_out.ray_session.ClusterError if there is no
    cluster to run on, Draining if a stop is requested while it waits for one; every later fault is in the Summary.
    """
    life = life or life_id(os.environ, time.time(), secrets.token_bytes(5))
    backend = "in process" if spec.in_process else "ray"
    on_event(Event(kind="run_started", at_s=0.0, data={"life": life, "backend": backend}))
    if spec.in_process:
        from cluster.fan_out.in_process import run_here

        spec = spec.model_copy(update={"straggler_factor": 0.0, "workers": 1})  # there is no second worker
        schedule = Schedule(units, spec, life, time.monotonic(), when_slow)
        run_here(schedule, make_worker, spec, threads, on_event, stop, when_slow)
    else:
        with waiting("loading Ray"):
            from cluster.fan_out.ray_driver import run_on_ray
            from cluster.fan_out.ray_session import ray_session

        with ray_session(spec, threads, stop) as session:
            stop.arm()
            schedule = Schedule(units, spec, life, time.monotonic(), when_slow)
            run_on_ray(schedule, make_worker, spec, on_event, stop, session)
    summary = schedule.summary()
    on_event(Event(kind="run_ended", at_s=summary.seconds, message=summary.error or "", data=summary.as_json()))
    return summary
