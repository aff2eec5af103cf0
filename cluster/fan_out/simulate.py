"""A simulated cluster: the real schedule in simulated time, for plans, the benchmark of the fan-out and property tests.

In: a ``World`` (how many workers, how fast, how often they die, what storage and driver can take) and a seed. Out: a
``SimulatedRun`` (makespan beside the ideal one, where the time went, work lost, summary). On disk: nothing.

A worker reads its model, loads it, and then, again and again, makes a unit, writes it, and waits until the driver has
heard of it. Workers share the storage. The driver hears of one thing after the other. Nodes and processes vanish at
random, and an allocation ends at its time limit; the next life goes on with the units that are missing. Beats are not
simulated, so no worker is killed because it is silent.
"""

import heapq
import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from cluster.fan_out.events import Event
from cluster.fan_out.scheduler import Action, Drop, KillWorker, Schedule, StartWorker, Submit
from cluster.fan_out.simulated_storage import SimulatedStorage
from cluster.fan_out.work import FanOutSpec, Summary, look_every_s
from cluster.fan_out.world import SimulatedRun, Spent, World

CRAWL = 20  # a crawling attempt takes so many times as long
NEVER_S = 1e12


def simulate(
    world: World,
    spec: FanOutSpec,
    keep_events: bool = True,
    on_done: Callable[[int, int], None] | None = None,
) -> SimulatedRun:
    """Run the units ``0 … world.num_units - 1`` to the end; equal arguments give equal outcomes.

    ``keep_events=False``: without the list of events, which takes a gigabyte for a million units. ``on_done``: told
    now and then how many units are done, of how many.
    """
    spec = spec.model_copy(update={"workers": "auto", "stall_deadline_s": NEVER_S})
    cluster = _Cluster(world, spec, random.Random(world.seed), keep_events, on_done)
    now, queued_s = 0.0, 0.0
    summaries: list[Summary] = []
    while True:
        now = cluster.live(now)
        summaries.append(cluster.schedule.summary())
        if not summaries[-1].drained:
            break
        if not summaries[-1].done:
            cause = f"no unit was done within an allocation of {world.life_s:g} s; make smaller units"
            summaries[-1] = replace(summaries[-1], error=cause)
            break
        now += world.queue_s
        queued_s += world.queue_s
    return SimulatedRun(
        makespan_s=now,
        ideal_s=cluster.ideal_s,
        lost_work_s=cluster.lost_work_s,
        spent=cluster.spent,
        num_lives=len(summaries),
        queued_s=queued_s,
        bytes_moved=cluster.storage.bytes_moved,
        most_transfers=cluster.storage.most_at_once,
        driver_load=cluster.driver_load(now - queued_s),
        most_in_flight=cluster.most_in_flight,
        summary=_total(summaries, now),
        events=cluster.events,
    )


def _total(lives: list[Summary], seconds: float) -> Summary:
    """The summary of all lives: counts are added up, the end is that of the last one."""
    return replace(
        lives[-1],
        done=sum(one.done for one in lives),
        retried=sum(one.retried for one in lives),
        rerun=sum(one.rerun for one in lives),
        workers_started=sum(one.workers_started for one in lives),
        workers_lost=sum(one.workers_lost for one in lives),
        images=sum(one.images for one in lives),
        seconds=seconds,
        start_s=lives[0].start_s,
        drained=False,
    )


@dataclass
class _Running:
    """The attempt of one worker; ``made`` and ``stored``: when, NEVER_S before."""

    unit: int
    attempt: str
    since: float
    made: float = NEVER_S
    stored: float = NEVER_S


@dataclass
class _Worker:
    place: int
    since: float
    start_s: float
    is_ready: bool = False
    running: _Running | None = None


@dataclass
class _Cluster:
    """The simulated workers, and the agenda of what happens to them."""

    world: World
    spec: FanOutSpec
    rng: random.Random
    keep_events: bool
    on_done: Callable[[int, int], None] | None
    schedule: Schedule = field(init=False)
    spent: Spent = field(default_factory=Spent)
    lost_work_s: list[float] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    most_in_flight: int = 0
    ideal_s: float = 0.0

    def __post_init__(self) -> None:
        world, rng = self.world, self.rng
        self.nodes = [f"node{number}" for number in range(-(-world.num_workers // world.workers_per_node))]
        # a place is a GPU, or a core: it keeps its speed, whichever process runs there
        self._speeds = [
            max(0.2, rng.gauss(1.0, world.speed_spread)) * (0.5 if rng.random() < world.slow_workers else 1.0)
            for _ in range(world.num_workers)
        ]
        if world.speeds:
            self._speeds = [world.speeds[place % len(world.speeds)] for place in range(world.num_workers)]
        self.ideal_s = world.start_s + world.num_units * world.unit_s / sum(self._speeds)
        self.storage = SimulatedStorage(world.storage_bytes_per_s, world.link_bytes_per_s)
        self._is_done = bytearray(world.num_units)
        self._num_done = self._num_starts = 0
        looks_load = world.num_workers / look_every_s(world.num_workers) * world.driver_look_s
        left = max(0.05, 1.0 - looks_load)  # of the driver's time
        self._looks_load = looks_load
        self._hear_s = world.driver_unit_s / left
        busy_turn_s = world.num_workers * (world.driver_turn_s + world.driver_look_s)
        self._turn_s = min(busy_turn_s, world.num_workers * world.driver_turn_s / left)
        self._num_lives = itertools.count()
        self._tickets = itertools.count()
        self._agenda: list[tuple[float, int, str, int, str]] = []  # when, order, what, worker, attempt or node
        self._forget_life()

    def _forget_life(self) -> None:
        """All processes are gone."""
        self._agenda.clear()
        self._workers: dict[int, _Worker] = {}
        self._at_place: dict[int, int] = {}  # place: worker
        per_node = self.world.workers_per_node
        self._free = {
            name: list(range(number * per_node, min((number + 1) * per_node, self.world.num_workers)))[::-1]
            for number, name in enumerate(self.nodes)
        }
        self._slots = {name: len(places) for name, places in self._free.items()}
        self._num_running = 0
        self._down: set[str] = set()
        self._driver_free_at = 0.0

    def driver_load(self, lived_s: float) -> float:
        """The share of the driver's time that the run asked for."""
        world = self.world
        told_s = self._num_done * world.driver_unit_s + self._num_starts * world.driver_start_s
        return told_s / max(lived_s, 1e-9) + self._looks_load

    def live(self, began: float) -> float:
        """One life, from its start to its end, which is returned."""
        world = self.world
        self._forget_life()
        self.schedule = Schedule(self._missing(), self.spec, f"sim{next(self._num_lives)}", began)
        for what, number in (("kill", world.num_kills), ("node_loss", world.num_node_losses)):
            for index in range(number if not began else 0):
                at_work_s = (self.ideal_s - world.start_s) * (index + self.rng.random()) / number
                self._plan(world.start_s + at_work_s, what)
        self._plan_failure(began)
        self._plan_preemption(began)
        if world.life_s:
            self._plan(began + max(0.0, world.life_s - self.spec.drain_s), "limit")
        self._plan(began + world.tick_s, "tick")
        now = began
        actions = self.schedule.nodes(self._up(), now)
        while True:
            for action in actions:
                self._carry_out(action, now)
            told = self.schedule.take_events()
            if self.keep_events:
                self.events += told
            if self.schedule.over:
                self._end_life(now)
                return now
            now, _, what, number, name = heapq.heappop(self._agenda)
            actions = self._happen(what, number, name, now)

    def _missing(self) -> Iterator[int]:
        return (unit for unit in range(self.world.num_units) if not self._is_done[unit])

    def _plan(self, when: float, what: str, worker: int = -1, name: str = "") -> None:
        """Put something on the agenda; of two at the same time the one planned first happens first."""
        heapq.heappush(self._agenda, (when, next(self._tickets), what, worker, name))

    def _plan_failure(self, now: float) -> None:
        if self.world.mtbf_s:
            self._plan(now + self.rng.expovariate(self.world.num_workers / self.world.mtbf_s), "failure")

    def _plan_preemption(self, now: float) -> None:
        if self.world.preempt_s:
            self._plan(now + self.rng.expovariate(len(self.nodes) / self.world.preempt_s), "preemption")

    def _up(self) -> dict[str, int]:
        """How many workers each living node can hold."""
        return {name: num for name, num in self._slots.items() if name not in self._down}

    # ------------------------------------------------------------------ actions of the schedule

    def _carry_out(self, action: Action, now: float) -> None:
        world = self.world
        match action:
            case StartWorker(number, node):
                place = self._free[node].pop()
                starts_s = world.starts_s or (world.start_s,)
                self._workers[number] = _Worker(place, now, starts_s[self._num_starts % len(starts_s)])
                self._at_place[place] = number
                self._num_starts += 1
                self._driver_free_at = max(now, self._driver_free_at) + world.driver_start_s
                self._plan(self._driver_free_at, "placed", number)
            case Submit(number, unit, attempt):
                worker = self._workers[number]
                worker.running = _Running(unit, attempt, now)
                self._num_running += 1
                self.most_in_flight = max(self.most_in_flight, self._num_running)
                seconds = world.unit_s / self._speeds[worker.place]
                seconds *= CRAWL if self.rng.random() < world.crawling else 1
                if unit in world.poison:
                    self._plan(now + seconds / 2, "die", number, attempt)
                else:
                    self._plan(now + seconds, "made", number, attempt)
            case Drop(number, attempt):
                self._plan(now + min(world.beat_s, world.unit_s / 4), "dropped", number, attempt)
            case KillWorker(number):
                self._end_process(number, now)

    def _end_process(self, number: int, now: float) -> None:
        worker = self._workers.pop(number)
        del self._at_place[worker.place]
        self._free[self.nodes[worker.place // self.world.workers_per_node]].append(worker.place)
        self._give_up_transfer(number, now)
        if not worker.is_ready:
            self.spent.starting_s += now - worker.since
        if worker.running is not None:
            self._num_running -= 1
            self._waste(worker.running, now)

    def _waste(self, running: _Running, now: float) -> None:
        """The attempt ended without a result: nobody needed it any more, or its work is lost."""
        if self._is_done[running.unit]:
            self.spent.doubled_s += now - running.since
        else:
            self.spent.lost_s += now - running.since
            self.lost_work_s.append(now - running.since)

    def _end_life(self, now: float) -> None:
        for number in list(self._workers):
            self._end_process(number, now)

    # ------------------------------------------------------------------ what happens to the workers

    def _happen(self, what: str, number: int, name: str, now: float) -> list[Action]:
        """Carry out one entry of the agenda, unless it has become impossible; returns the schedule's actions."""
        match what:
            case "tick":
                self._plan(now + self.world.tick_s, "tick")
                return self.schedule.tick(now)
            case "transfer":
                return self._end_transfers(name, now)
            case "placed" | "ready":
                return self._start(what, number, now)
            case "kill" | "failure" | "node_loss" | "preemption" | "node_back":
                return self._disturb(what, name, now)
            case "limit":
                return self.schedule.drain("the allocation ends", now)
        worker = self._workers.get(number)
        if worker is None or worker.running is None or worker.running.attempt != name:
            return []  # its attempt is over
        match what:
            case "made":
                worker.running.made = now
                if self.world.unit_bytes and self.storage.has_limit:
                    self._begin_transfer(number, self.world.unit_bytes, now)
                    return []
                return self._stored(number, worker.running, now)
            case "heard":
                return self._finish(number, worker, worker.running, now)
            case "dropped":
                self._give_up_transfer(number, now)
                self._waste(worker.running, now)
                worker.running = None
                self._num_running -= 1
                return self.schedule.dropped(number, name, now)
            case "die":
                return self.schedule.lost(number, "killed by its unit", now)
        raise AssertionError(f"{what} is not in the agenda's words")

    def _start(self, what: str, number: int, now: float) -> list[Action]:
        worker = self._workers.get(number)
        if worker is None:
            return []
        if what == "ready":
            worker.is_ready = True
            self.spent.starting_s += now - worker.since
            return self.schedule.ready(number, now)
        if self.world.model_bytes and self.storage.has_limit:
            self._begin_transfer(number, self.world.model_bytes, now)
        else:
            self._plan(now + worker.start_s, "ready", number)
        return self.schedule.placed(number, now)

    def _stored(self, number: int, running: _Running, now: float) -> list[Action]:
        """The unit is in place; the driver hears of it after what it has to do before."""
        running.stored = now
        wait = (self.rng.random() + self.rng.random()) * self._turn_s  # the rest of this turn, a part of the next
        self._driver_free_at = max(now, self._driver_free_at) + self._hear_s
        heard = self._driver_free_at + wait
        if heard <= now:
            return self._finish(number, self._workers[number], running, now)
        self._plan(heard, "heard", number, running.attempt)
        return []

    def _finish(self, number: int, worker: _Worker, running: _Running, now: float) -> list[Action]:
        worker.running = None
        self._num_running -= 1
        if self._is_done[running.unit]:
            self.spent.doubled_s += now - running.since
        else:
            self._is_done[running.unit] = 1
            self._num_done += 1
            self.spent.making_s += running.made - running.since
            self.spent.storing_s += running.stored - running.made
            self.spent.hearing_s += now - running.stored
            if self.on_done is not None and (self._num_done % 1000 == 0 or self._num_done == self.world.num_units):
                self.on_done(self._num_done, self.world.num_units)
        return self.schedule.finished(number, running.attempt, {}, 1, 0, now)

    def _disturb(self, what: str, name: str, now: float) -> list[Action]:
        match what:
            case "kill":
                busy = sorted(number for number, worker in self._workers.items() if worker.running is not None)
                return self.schedule.lost(self.rng.choice(busy), "killed", now) if busy else []
            case "failure":
                self._plan_failure(now)
                victim = self._at_place.get(self.rng.randrange(self.world.num_workers))
                return [] if victim is None else self.schedule.lost(victim, "killed", now)
            case "node_back":
                self._down.discard(name)
                return self.schedule.nodes(self._up(), now)
        node = self.rng.choice(self.nodes)
        if what == "preemption":
            self._plan_preemption(now)
        if node in self._down and what == "preemption":
            return []
        self._down.add(node)
        away_s = self.world.away_s if what == "preemption" else self.world.start_s
        self._plan(now + away_s, "node_back", -1, node)
        return self.schedule.nodes(self._up(), now)

    # ------------------------------------------------------------------ what goes through the storage

    def _begin_transfer(self, number: int, num_bytes: float, now: float) -> None:
        self.storage.begin(number, num_bytes, now)
        self._plan_transfer()

    def _give_up_transfer(self, number: int, now: float) -> None:
        self.storage.give_up(number, now)
        self._plan_transfer()

    def _plan_transfer(self) -> None:
        """The end that was planned before counts no more, because a transfer that begins or ends moves all others."""
        self._awaited = str(next(self._tickets))
        if (when := self.storage.next_end()) is not None:
            self._plan(when, "transfer", -1, self._awaited)

    def _end_transfers(self, name: str, now: float) -> list[Action]:
        if name != self._awaited:
            return []
        actions: list[Action] = []
        for number in self.storage.take_ended(now):
            worker = self._workers[number]
            if worker.running is None:
                self._plan(now + worker.start_s, "ready", number)
            else:
                actions += self._stored(number, worker.running, now)
        self._plan_transfer()
        return actions
