"""The driver without Ray: the same schedule, with one worker in this thread.

In: a ``Schedule`` and a ``make_worker``. Out: the schedule, carried out to its end. On disk: nothing.
A deadline cannot interrupt a call in the same thread, so a worker that does not beat within ``stall_deadline_s`` (that
is not loaded within ``start_deadline_s``) ends with its process (`cluster.fan_out.watch`). Everything else is as on a
cluster.
"""

import os
import sys
import time
from collections import deque
from collections.abc import Callable

from cluster.fan_out.events import Event
from cluster.fan_out.scheduler import Action, Drop, KillWorker, Schedule, StartWorker, Submit
from cluster.fan_out.watch import Watch
from cluster.fan_out.work import FanOutSpec, MakeWorker, Worker
from cluster.process.environment import set_allocator
from cluster.process.exit import Draining, NotAgain
from cluster.process.failure import describe, is_broken
from cluster.process.stop_flag import StopFlag
from cluster.waiting import waiting

HERE = "this process"


def run_here(
    schedule: Schedule,
    make_worker: MakeWorker,
    spec: FanOutSpec,
    threads: int,
    on_event: Callable[[Event], None],
    stop: StopFlag,
    when_slow: str,
) -> None:
    """Carry out the schedule's actions until it is over. `when_slow`: what a person can do where work is slower than
    the stall deadline allows."""
    set_threads(threads)
    set_allocator(os.environ)
    with Watch() as watch:
        _carry_out(schedule, make_worker, spec, on_event, stop, when_slow, watch)


def _carry_out(
    schedule: Schedule,
    make_worker: MakeWorker,
    spec: FanOutSpec,
    on_event: Callable[[Event], None],
    stop: StopFlag,
    when_slow: str,
    watch: Watch,
) -> None:
    limit_s, start_s = spec.stall_deadline_s, spec.start_deadline_s
    stalled = f"no progress for {limit_s:g} s (stall_deadline_s); if the machine is that slow, {when_slow}"
    not_loaded = f"the model was not loaded within {start_s:g} s (start_deadline_s)"
    worker: Worker | None = None
    todo: deque[Action] = deque(schedule.nodes({HERE: 1}, time.monotonic()))

    def check_stop() -> None:
        if stop.requested:
            todo.extend(schedule.drain(stop.reason, time.monotonic()))

    def lives() -> None:
        watch.expect(stalled, limit_s)

    while True:
        lives()  # a claim and a line of the log go to the same storage, and may hang like a unit
        check_stop()
        for event in schedule.take_events():
            on_event(event)
        if schedule.over:
            return
        assert todo, "a schedule that is not over always has something for its only worker"
        match todo.popleft():
            case StartWorker(number, _):
                todo.extend(schedule.placed(number, time.monotonic()))
                watch.expect(not_loaded, start_s)
                try:
                    with waiting("loading the model"):
                        worker = make_worker()
                except Exception as error:  # the schedule gets the cause; it tries again, then ends the run
                    todo.extend(schedule.refused(number, describe(error), time.monotonic()))
                else:
                    todo.extend(schedule.ready(number, time.monotonic()))
            case KillWorker():
                worker = None
            case Drop():
                continue  # its attempt has ended; a running attempt is asked to stop inside its beat
            case Submit(number, unit, attempt):
                assert worker is not None
                beat = _Beat(schedule, number, attempt, on_event, check_stop, todo, lives)
                try:
                    result = worker(unit, attempt, beat)
                except Draining:
                    todo.extend(schedule.dropped(number, attempt, time.monotonic()))
                except Exception as error:  # becomes a failure of this unit, with its cause
                    again = not isinstance(error, NotAgain)
                    told = describe(error) if again else str(error)
                    todo.extend(schedule.raised(number, attempt, told, time.monotonic(), is_broken(error), again))
                else:
                    todo.extend(schedule.finished(number, attempt, result, beat.done, beat.rejected, time.monotonic()))


class _Beat:
    """Called by the worker: tells the schedule how far the unit is, shows events, raises Draining to stop the unit."""

    def __init__(
        self,
        schedule: Schedule,
        number: int,
        attempt: str,
        on_event: Callable[[Event], None],
        check_stop: Callable[[], None],
        todo: deque[Action],
        lives: Callable[[], None],
    ) -> None:
        self._schedule, self._number, self._attempt = schedule, number, attempt
        self._on_event, self._check_stop, self._todo, self._lives = on_event, check_stop, todo, lives
        self._beats = 0
        self.done = self.rejected = 0

    def __call__(self, done: int, rejected: int, under_way: float = 0.0) -> None:
        self._lives()
        self._beats += 1
        self.done, self.rejected = done, rejected
        now = time.monotonic()
        heard = self._schedule.heard(self._number, self._attempt, self._beats, done, rejected, now, under_way)
        self._todo.extend(heard)
        self._check_stop()
        self._todo.extend(self._schedule.tick(now))
        for event in self._schedule.take_events():
            self._on_event(event)
        asked = Drop(self._number, self._attempt)
        if asked in self._todo or self._schedule.over:
            if asked in self._todo:
                self._todo.remove(asked)
            raise Draining("the run is asked to stop")


def set_threads(num_threads: int) -> None:
    """Fix the number of threads of numerical libraries, also of a loaded torch: bytes made on a CPU depend on it."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(num_threads)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(num_threads)
