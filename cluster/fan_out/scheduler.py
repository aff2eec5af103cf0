"""All decisions of a fan-out, as a state machine: events go in, actions come out.

In: units (lazily), nodes with room, and what happened to workers and attempts, each with the time in seconds. Out:
actions (start, submit, drop, kill) and events for the log. On disk: nothing. Uses neither Ray nor a clock, so the Ray
driver, the in-process driver, the property tests and the simulated cluster all run the same decisions.

Long because it is one state machine, whose rules are:
* A worker has one attempt at a time. A unit is taken from the iterator only when a worker could start it.
* An attempt fails if it raises, if its process dies, or if it gives no beat within ``stall_deadline_s``. Its unit is
  tried again, on another worker if there is one. After ``attempts`` failures the unit is quarantined.
* A lost node does not count as a failure, up to MAX_NODE_LOSSES times a unit.
* On a node that is to go (Ray drains it) no unit is begun: its free workers end, the others when they are free.
* A worker that fails at two different units in a row, or says that it is broken, is replaced.
* A node is avoided for AVOID_S if two workers in a row cannot start there, or six processes die. The run ends, with the
  cause, if no worker lives and all nodes are avoided, if MAX_BAD_STARTS workers a slot could not start and none between
  them could, if no node has room for ``start_deadline_s``, or if
  ``give_up_after`` units are quarantined without a success between them. What it waits for is said after PATIENCE_S.
* A unit whose attempt raises `NotAgain` is quarantined at once. The run ends if the first HOPELESS_UNITS end so.
* A unit that takes longer than ``straggler_factor`` medians is started a second time. The first attempt to finish wins,
  the other one is dropped. Such a unit may fail once more than ``attempts``. When nothing else is left to hand out, an
  idle worker gets the oldest unit that takes longer than TAIL_FACTOR medians.
* After a stop request no unit is started. Attempts may finish within half of ``drain_s``; then they are told to stop
  at their next beat; at 80 % of ``drain_s`` they are abandoned. The rest is for closing down.
"""

import heapq
import statistics
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from cluster.fan_out.attempt import attempt_id
from cluster.fan_out.events import Event, Kind
from cluster.fan_out.work import FanOutSpec, Quarantined, Summary
from shards.disk.record import JSON

AVOID_S = 300.0
MAX_NODE_FAULTS = 6
MAX_BAD_STARTS = 3
REFUSED, DIED = 3, 1  # faults: a worker that cannot start says more about a node than a process that was killed
PATIENCE_S = 60.0  # until a process that has not begun, or missing room, is worth a line
MAX_NODE_LOSSES = 100
MIN_DURATIONS = 5  # units that must be done before their median is used
MAX_CAUSE = 2000
HOPELESS_UNITS = 3  # that every try would fail, before any success: the others would fail too
TAIL_FACTOR = 1.5
TELL_S = 1.0  # between two events of one worker that differ in nothing but how far its next images are


@dataclass(frozen=True)
class StartWorker:
    """Start a worker process on the node."""

    worker: int
    node: str


@dataclass(frozen=True)
class KillWorker:
    """End the worker's process at once, whatever it does."""

    worker: int
    reason: str


@dataclass(frozen=True)
class Submit:
    """Give the unit to an idle worker."""

    worker: int
    unit: int
    attempt: str


@dataclass(frozen=True)
class Drop:
    """Ask the attempt to stop at its next beat."""

    worker: int
    attempt: str


State: TypeAlias = Literal["placing", "loading", "idle", "busy"]
WHEN_SLOW = "raise cluster.stall_deadline_s"
Action: TypeAlias = StartWorker | KillWorker | Submit | Drop


@dataclass
class _Try:
    unit: int
    attempt: str
    started: float
    done: int = 0
    rejected: int = 0
    under_way: float = 0.0
    dropped: bool = False


@dataclass
class _Worker:
    node: str
    state: State
    since: float  # of the state; for busy: of the last sign of progress
    beats: int = 0
    told: float = 0.0  # when its progress was last an event
    running: _Try | None = None
    failed_units: set[int] = field(default_factory=set)  # since its last success
    waits: bool = False  # for its process, and that was said


@dataclass
class _Unit:
    failures: int = 0
    node_losses: int = 0
    last_worker: int | None = None
    cause: str = ""
    workers: set[int] = field(default_factory=set)  # those that run it now
    rerun: bool = False


@dataclass
class _Node:
    slots: int
    workers: int = 0
    faults: int = 0
    avoided_until: float = 0.0


class Schedule:
    """The state of a fan-out. Tell it what happens, carry out the actions that each call returns, collect
    ``take_events``, and stop when it is ``over``. All times are seconds of one clock."""

    def __init__(
        self, units: Iterable[int], spec: FanOutSpec, life: str, now: float, when_slow: str = WHEN_SLOW
    ) -> None:
        """`when_slow`: what a person can do where work is slower than the stall deadline allows."""
        self._spec = spec
        self._when_slow = when_slow
        self._source: Iterator[int] = iter(units)
        self._fresh: deque[int] = deque()
        self._source_ended = False
        self._retries: deque[int] = deque()
        self._reruns: deque[int] = deque()
        self._units: dict[int, _Unit] = {}  # started and not settled
        self._workers: dict[int, _Worker] = {}
        self._nodes: dict[str, _Node] = {}
        # three sums over all workers or nodes, kept so that an event costs the same for 16,000 workers as for one
        self._idle: set[int] = set()
        self._num_busy = 0
        self._room = 0  # slots
        self._leaving: set[str] = set()  # nodes that are to go soon
        self._life = life
        self._num_attempts = 0
        self._num_workers = 0
        self._started = now
        self._first_unit: float | None = None  # when it was begun
        self._no_room_since = now
        self._no_room_said = False
        self._num_living = 0
        self._draining_since: float | None = None
        self._asked_to_drop = False
        self._last_start_fault = ""
        self._bad_starts = 0  # since a worker was ready
        self._durations: deque[float] = deque(maxlen=101)
        self._median: float | None = None
        self._bad_in_a_row = 0  # quarantined units since the last success
        self._hopeless = 0  # of them, those that were given up at their first failure
        self._actions: list[Action] = []
        self._events: list[Event] = []
        self.over = False
        self._error: str | None = None
        self._ended = now
        self._done = self._retried = self._rerun = self._lost = self._images = self._rejected = 0
        self._quarantined: list[Quarantined] = []

    # ------------------------------------------------------------------ what happened

    def nodes(self, slots: Mapping[str, int], now: float, leaving: Collection[str] = ()) -> list[Action]:
        """The living nodes are these, and each has room for so many workers in all. `leaving`: those of them that are
        to go soon."""
        self._num_living = len(slots)
        for name, room in slots.items():
            if name in leaving and name not in self._leaving:
                self._tell("warning", now, f"node {name} is to go: no unit is begun there any more", node=name)
            self._nodes.setdefault(name, _Node(0)).slots = 0 if name in leaving else room
        self._leaving = slots.keys() & set(leaving)
        for name, node in self._nodes.items():
            if name not in slots:
                node.slots = 0
        self._room = sum(node.slots for node in self._nodes.values())
        for number, worker in list(self._workers.items()):
            if worker.node not in slots:
                self._lose(number, f"node {worker.node} is gone", now, node_lost=True)
        return self._settle(now)

    def placed(self, worker: int, now: float) -> list[Action]:
        """The worker's process runs; its constructor begins."""
        if worker in self._workers:
            self._enter(worker, "loading", now)
        return self._settle(now)

    def ready(self, worker: int, now: float) -> list[Action]:
        """The worker has loaded its model and can take a unit."""
        if worker in self._workers:
            found = self._workers[worker]
            self._enter(worker, "idle", now)
            self._nodes[found.node].faults = self._bad_starts = 0
            self._tell("worker_ready", now, worker=worker, node=found.node)
        return self._settle(now)

    def refused(self, worker: int, cause: str, now: float, for_good: bool = False) -> list[Action]:
        """The worker's constructor raised, or its process ended before it had begun; ``for_good``: it will not start
        on this node, however often it is tried."""
        if worker in self._workers:
            found = self._remove(worker)
            self._actions.append(KillWorker(worker, "it could not start"))
            self._tell("worker_refused", now, cause, worker=worker, node=found.node)
            self._blame_node(found.node, cause, MAX_NODE_FAULTS if for_good else REFUSED, now)
        return self._settle(now)

    def lost(self, worker: int, cause: str, now: float, node_lost: bool = False) -> list[Action]:
        """The worker's process has ended, or its node is gone (``node_lost``)."""
        if worker in self._workers:
            self._lose(worker, cause, now, node_lost)
        return self._settle(now)

    def heard(
        self, worker: int, attempt: str, beats: int, done: int, rejected: int, now: float, under_way: float = 0.0
    ) -> list[Action]:
        """The worker reports on its attempt: ``beats`` so far, images ``done`` and ``rejected`` so far, and how much of
        the next ones is made (``under_way``, in images)."""
        found = self._workers.get(worker)
        if found and found.running and found.running.attempt == attempt and beats > found.beats:
            tried = found.running
            is_news = (tried.done, tried.rejected) != (done, rejected) or now - found.told >= TELL_S
            found.beats, found.since = beats, now
            tried.done, tried.rejected, tried.under_way = done, rejected, under_way
            if is_news:
                found.told = now
                self._tell("unit_progress", now, worker=worker, tried=tried)
        return self._settle(now)

    def finished(
        self, worker: int, attempt: str, result: Mapping[str, JSON], done: int, rejected: int, now: float
    ) -> list[Action]:
        """The attempt made its unit; ``result`` goes into the event, ``done`` and ``rejected`` count its images."""
        tried = self._free(worker, attempt, now)
        if tried:
            tried.done, tried.rejected, tried.under_way = done, rejected, 0.0
            self._workers[worker].failed_units.clear()
            if tried.unit in self._units:
                self._succeed(worker, tried, result, now)
        return self._settle(now)

    def raised(
        self, worker: int, attempt: str, cause: str, now: float, broken: bool = False, again: bool = True
    ) -> list[Action]:
        """The attempt raised; ``broken``: the worker's process must not be used again; not ``again``: every other try
        would fail too."""
        tried = self._free(worker, attempt, now)
        if tried:
            found = self._workers[worker]
            if again:  # else the unit is to blame, whoever has it
                found.failed_units.add(tried.unit)
            if broken or len(found.failed_units) >= 2:
                self._kill(worker, "it said that it is broken" if broken else "two units in a row failed on it", now)
            self._fail_unit(worker, tried, cause, now, counts=True, again=again)
        return self._settle(now)

    def dropped(self, worker: int, attempt: str, now: float) -> list[Action]:
        """The attempt stopped because it was asked to."""
        tried = self._free(worker, attempt, now)
        if tried:
            self._tell("unit_dropped", now, worker=worker, tried=tried)
            if tried.unit in self._units and self._draining_since is None and not tried.dropped:
                # it stopped without being asked: a failure like any other
                self._fail_unit(worker, tried, "the worker raised Draining without being asked", now, counts=True)
        return self._settle(now)

    def drain(self, reason: str, now: float) -> list[Action]:
        """A person or the system asked the run to stop."""
        if self._draining_since is None:
            self._draining_since = now
            self._tell("draining", now, reason)
        return self._settle(now)

    def fail(self, cause: str, now: float) -> list[Action]:
        """The run cannot go on; ``cause`` becomes the summary's error."""
        self._give_up(cause, now)
        return self._settle(now)

    def tick(self, now: float) -> list[Action]:
        """Time passed: look at deadlines, stragglers and the steps of a drain."""
        for number, worker in list(self._workers.items()):
            waited = now - worker.since
            if worker.state == "placing" and waited > PATIENCE_S and not worker.waits:
                worker.waits = True
                said = (
                    f"no process of it has begun for {PATIENCE_S:g} s; `ray status` and raylet.err of its node say more"
                )
                self._tell("warning", now, f"worker {number}: {said}", worker=number, node=worker.node)
            if worker.state in ("placing", "loading") and waited > self._spec.start_deadline_s:
                doing = "no process" if worker.state == "placing" else "its model was not loaded"
                cause = f"{doing} within {self._spec.start_deadline_s:g} s (start_deadline_s)"
                self._kill(number, cause, now)
                self._blame_node(worker.node, cause, REFUSED, now)
            elif worker.state == "busy" and waited > self._spec.stall_deadline_s:
                assert worker.running is not None
                cause = f"no progress for {waited:.0f} s (stall_deadline_s is {self._spec.stall_deadline_s:g})"
                cause += f"; if the machine is that slow, {self._when_slow}"
                self._kill(number, cause, now)
                self._fail_unit(number, worker.running, cause, now, counts=True)
        self._find_stragglers(now)
        if self._draining_since is not None:
            elapsed = now - self._draining_since
            if elapsed >= self._spec.drain_s * 0.5 and not self._asked_to_drop:
                self._asked_to_drop = True
                for number, worker in self._workers.items():
                    if worker.running:
                        self._ask_to_drop(number, worker.running)
            if elapsed >= self._spec.drain_s * 0.8 and not self.over:
                self._end(now)
        return self._settle(now)

    # ------------------------------------------------------------------ what is known

    def take_events(self) -> list[Event]:
        """The events since the last call."""
        events, self._events = self._events, []
        return events

    def starting(self) -> tuple[int, int]:
        """How many workers wait for their process, and how many load their model; another thread may ask."""
        states = [worker.state for worker in list(self._workers.values())]
        return states.count("placing"), states.count("loading")

    @property
    def num_workers(self) -> int:
        """Workers that live or are being started."""
        return len(self._workers)

    def summary(self) -> Summary:
        """What was done and lost, and why the run ended; final once the schedule is over."""
        return Summary(
            done=self._done,
            quarantined=tuple(self._quarantined),
            retried=self._retried,
            rerun=self._rerun,
            workers_started=self._num_workers,
            workers_lost=self._lost,
            images=self._images,
            rejected=self._rejected,
            seconds=self._ended - self._started,
            start_s=(self._ended if self._first_unit is None else self._first_unit) - self._started,
            drained=self._draining_since is not None and self._work_left(),
            error=self._error,
        )

    # ------------------------------------------------------------------ decisions

    def _settle(self, now: float) -> list[Action]:
        """Do whatever the new state allows, and return all actions since the last call."""
        if not self.over:
            if self._draining_since is None:
                self._pull(max(1, self._limit()))
                self._leave_nodes(now)
                self._hand_out(now)
                self._start_workers(now)
                self._end_if_no_worker_can_start(now)
            is_drained = self._draining_since is not None and not self._num_busy
            if not self.over and (is_drained or not self._work_left()):
                self._end(now)
        actions, self._actions = self._actions, []
        return actions

    def _limit(self) -> int:
        return self._room if self._spec.workers == "auto" else min(self._room, self._spec.workers)

    def _pull(self, wanted: int) -> None:
        """Take units from the iterator, at most as many as there could be workers: never all of them."""
        while not self._source_ended and len(self._fresh) < wanted:
            try:
                self._fresh.append(next(self._source))
            except StopIteration:
                self._source_ended = True

    def _work_left(self) -> bool:
        if not self._fresh:
            self._pull(1)
        return bool(self._fresh or self._units)

    def _leave_nodes(self, now: float) -> None:
        """End the workers without a unit on nodes that are to go."""
        for number, worker in list(self._workers.items()) if self._leaving else ():
            if worker.node in self._leaving and worker.running is None:
                self._remove(number)
                self._actions.append(KillWorker(number, "its node is to go"))
                self._tell("worker_killed", now, "its node is to go", worker=number, node=worker.node)

    def _hand_out(self, now: float) -> None:
        if not (self._fresh or self._retries or self._reruns):
            return
        for number in sorted(self._idle):
            unit = self._next_unit(number)
            if unit is not None:
                self._submit(number, unit, now)

    def _next_unit(self, worker: int) -> int | None:
        """In this order: a retry that failed on another worker, a straggler's second run, a new unit, any retry."""
        for queue in (self._retries, self._reruns):
            for unit in queue:
                state = self._units[unit]
                if worker != state.last_worker and worker not in state.workers:
                    queue.remove(unit)
                    return unit
        if self._fresh:
            return self._fresh.popleft()
        return self._retries.popleft() if self._retries else None

    def _submit(self, number: int, unit: int, now: float) -> None:
        self._num_attempts += 1
        tried = _Try(unit, attempt_id(self._life, self._num_attempts), now)
        if self._first_unit is None:
            self._first_unit = now
        worker = self._workers[number]
        self._enter(number, "busy", now)
        worker.beats, worker.running = 0, tried
        state = self._units.setdefault(unit, _Unit())
        state.workers.add(number)
        state.last_worker = number
        self._actions.append(Submit(number, unit, tried.attempt))
        self._tell("unit_started", now, worker=number, tried=tried)
        self._pull(max(1, self._limit()))

    def _start_workers(self, now: float) -> None:
        going = sum(self._nodes[name].workers for name in self._leaving)  # all busy: the others were ended
        useful = len(self._fresh) + len(self._retries) + len(self._reruns) + self._num_busy - going
        missing = min(self._limit(), useful) - (len(self._workers) - going)
        if missing <= 0:
            return
        open_nodes = [
            (node.workers, name)
            for name, node in self._nodes.items()
            if node.slots > node.workers and now >= node.avoided_until
        ]
        heapq.heapify(open_nodes)
        while missing > 0 and open_nodes:
            taken, name = open_nodes[0]  # the node with the fewest workers first
            number = self._num_workers
            self._num_workers += 1
            self._workers[number] = _Worker(name, "placing", now)
            self._nodes[name].workers += 1
            self._actions.append(StartWorker(number, name))
            self._tell("worker_started", now, worker=number, node=name)
            if taken + 1 < self._nodes[name].slots:
                heapq.heapreplace(open_nodes, (taken + 1, name))
            else:
                heapq.heappop(open_nodes)
            missing -= 1

    def _end_if_no_worker_can_start(self, now: float) -> None:
        """End the run if there is work, but no worker and no node that could start one."""
        if self._room or self._workers:
            self._no_room_since, self._no_room_said = now, False
        if self._workers or not self._work_left():
            return
        if self._room and all(now < node.avoided_until for node in self._nodes.values() if node.slots):
            cause = f"no worker could be started on any node; the last cause: {self._last_start_fault}"
            self._give_up(f"{cause}; mend that, then run the same command again", now)
        waited = now - self._no_room_since
        if self._room or waited <= min(PATIENCE_S, self._spec.start_deadline_s):
            return
        found, advice = "the cluster has no living node", "start Ray on one, or correct RAY_ADDRESS"
        if self._num_living:
            found = f"no node has room for a worker of {self._spec.cpus_per_worker} cores and "
            found += f"{self._spec.gpus_per_worker} GPUs"
            advice = "add nodes or ask for less (cluster.cpus_per_worker, cluster.gpus_per_worker)"
        if waited > self._spec.start_deadline_s:
            self._give_up(f"{found} since {self._spec.start_deadline_s:g} s; {advice}", now)
        elif not self._no_room_said:
            self._no_room_said = True
            self._tell("warning", now, f"{found}; this run waits {self._spec.start_deadline_s:g} s for one; {advice}")

    def _find_stragglers(self, now: float) -> None:
        if not self._spec.straggler_factor or self._median is None or self._draining_since is not None:
            return
        is_tail = not self._fresh and not self._retries
        spare = len(self._idle) - len(self._reruns) if is_tail else 0
        limit = self._spec.straggler_factor * self._median
        least = min(limit, TAIL_FACTOR * self._median) if spare > 0 else limit
        late = sorted(
            (tried.started, number, tried)
            for number, worker in self._workers.items()
            if (tried := worker.running) is not None and not tried.dropped and now - tried.started > least
        )
        for started, number, tried in late:  # the oldest first
            if now - started <= limit and spare <= 0:
                return
            state = self._units.get(tried.unit)
            if state and not state.rerun and state.workers == {number}:
                spare -= 1
                state.rerun = True
                self._rerun += 1
                self._reruns.append(tried.unit)
                self._tell(
                    "unit_rerun", now, f"runs for {now - started:.1f} s, the median is {self._median:.1f} s",
                    worker=number, tried=tried,
                )  # fmt: skip

    def _succeed(self, worker: int, tried: _Try, result: Mapping[str, JSON], now: float) -> None:
        state = self._units.pop(tried.unit)
        self._forget_queued(tried.unit)
        for other in sorted(state.workers):
            loser = self._workers[other].running
            if loser and loser.unit == tried.unit:
                self._ask_to_drop(other, loser)
        self._durations.append(now - tried.started)
        if len(self._durations) >= MIN_DURATIONS:
            self._median = statistics.median(self._durations)
        self._done += 1
        self._images += tried.done
        self._rejected += tried.rejected
        self._bad_in_a_row = 0
        self._tell("unit_done", now, worker=worker, tried=tried, data=result)

    def _fail_unit(self, worker: int, tried: _Try, cause: str, now: float, counts: bool, again: bool = True) -> None:
        """One attempt at the unit is over without a result."""
        state = self._units.get(tried.unit)
        if state is None or tried.dropped:  # another attempt has won already
            return
        state.workers.discard(worker)
        state.cause = cause[:MAX_CAUSE]
        if counts:
            state.failures += 1
        else:
            state.node_losses += 1
        self._tell("unit_failed", now, state.cause, worker=worker, tried=tried)
        if state.workers:  # its other attempt decides
            return
        self._forget_queued(tried.unit)
        state.rerun = False
        self._hopeless += not again
        if not again or state.failures >= self._spec.attempts or state.node_losses >= MAX_NODE_LOSSES:
            self._quarantine(tried.unit, state, now)
        else:
            self._retries.append(tried.unit)
            self._retried += 1

    def _quarantine(self, unit: int, state: _Unit, now: float) -> None:
        del self._units[unit]
        self._quarantined.append(Quarantined(unit, state.failures, state.cause))
        self._events.append(
            Event(
                kind="unit_quarantined", at_s=now - self._started, unit=unit,
                message=f"unit {unit} failed {state.failures} times and is left out: {state.cause}",
            )
        )  # fmt: skip
        self._bad_in_a_row += 1
        if not self._done and self._hopeless >= HOPELESS_UNITS:
            said = f"the first {self._hopeless} units failed, and would fail again"
            self._give_up(f"{said}; the last cause: {state.cause}", now)
        if self._bad_in_a_row >= self._spec.give_up_after:
            self._give_up(
                f"{self._bad_in_a_row} units in a row failed {self._spec.attempts} times each; "
                f"the last cause: {state.cause}",
                now,
            )

    def _lose(self, number: int, cause: str, now: float, node_lost: bool) -> None:
        worker = self._remove(number)
        self._lost += 1
        self._actions.append(KillWorker(number, cause))  # a process that still runs must not go on writing
        self._tell("worker_lost", now, cause, worker=number, node=worker.node)
        if worker.running:
            self._fail_unit(number, worker.running, cause, now, counts=not node_lost)
        elif not node_lost:
            self._blame_node(worker.node, cause, DIED, now)

    def _kill(self, number: int, reason: str, now: float) -> None:
        """Remove a live worker; the caller deals with its attempt."""
        worker = self._remove(number)
        self._lost += 1
        self._actions.append(KillWorker(number, reason))
        self._tell("worker_killed", now, reason, worker=number, node=worker.node)

    def _blame_node(self, name: str, cause: str, faults: int, now: float) -> None:
        node = self._nodes[name]
        node.faults += faults
        self._last_start_fault = f"{cause} (node {name})"
        self._bad_starts += faults >= REFUSED
        if self._bad_starts >= MAX_BAD_STARTS * max(1, self._limit()):
            cause_of_all = f"{self._bad_starts} workers could not start, and none could; the last cause"
            self._give_up(f"{cause_of_all}: {self._last_start_fault}; mend that, then run the same command again", now)
        if node.faults >= MAX_NODE_FAULTS:
            node.avoided_until = now + AVOID_S
            self._tell("node_avoided", now, f"for {AVOID_S:g} s: {cause}", node=name)

    def _free(self, number: int, attempt: str, now: float) -> _Try | None:
        """Make the worker idle and return its attempt; None if it was not running this attempt."""
        worker = self._workers.get(number)
        if worker is None or worker.running is None or worker.running.attempt != attempt:
            return None
        tried, worker.running = worker.running, None
        self._enter(number, "idle", now)
        if tried.unit in self._units:
            self._units[tried.unit].workers.discard(number)
        return tried

    def _enter(self, number: int, state: State, now: float) -> None:
        """The worker is in this state from now on."""
        worker = self._workers[number]
        self._uncount(number, worker)
        worker.state, worker.since = state, now
        if state == "idle":
            self._idle.add(number)
        self._num_busy += state == "busy"

    def _remove(self, number: int) -> _Worker:
        worker = self._workers.pop(number)
        self._uncount(number, worker)
        self._nodes[worker.node].workers -= 1
        return worker

    def _uncount(self, number: int, worker: _Worker) -> None:
        self._idle.discard(number)
        self._num_busy -= worker.state == "busy"

    def _ask_to_drop(self, worker: int, tried: _Try) -> None:
        if not tried.dropped:
            tried.dropped = True
            self._actions.append(Drop(worker, tried.attempt))

    def _forget_queued(self, unit: int) -> None:
        for queue in (self._retries, self._reruns):
            if unit in queue:
                queue.remove(unit)

    def _give_up(self, cause: str, now: float) -> None:
        if not self.over:
            self._error = cause[:MAX_CAUSE]
            self._end(now)

    def _end(self, now: float) -> None:
        self.over = True
        self._ended = now

    def _tell(
        self,
        kind: Kind,
        now: float,
        message: str = "",
        *,
        worker: int | None = None,
        node: str | None = None,
        tried: _Try | None = None,
        data: Mapping[str, JSON] | None = None,
    ) -> None:
        self._events.append(
            Event(
                kind=kind,
                at_s=now - self._started,
                message=message,
                worker=worker,
                node=node,
                unit=tried.unit if tried else None,
                attempt=tried.attempt if tried else None,
                done=tried.done if tried else 0,
                rejected=tried.rejected if tried else 0,
                under_way=tried.under_way if tried else 0.0,
                data=data or {},
            )
        )
