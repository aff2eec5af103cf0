"""A simulated cluster: the real schedule in simulated time, for the benchmark of the fan-out and the property tests.

In: a ``World`` (how many workers, how fast, how often they die) and a seed. Out: a ``SimulatedRun`` (makespan beside
the ideal one, work lost, summary). On disk: nothing.
"""

import heapq
import itertools
import random
from collections import Counter
from dataclasses import dataclass, field

from cluster.fan_out.events import Event
from cluster.fan_out.scheduler import Action, Drop, KillWorker, Schedule, StartWorker, Submit
from cluster.fan_out.work import FanOutSpec, Summary


@dataclass(frozen=True, kw_only=True)
class World:
    """What is simulated. The defaults are the reference setting of the benchmark; times are in seconds."""

    num_units: int
    num_workers: int = 64
    unit_s: float = 167.0  # 1000 images at 6 images/s
    start_s: float = 120.0
    speed_spread: float = 0.05
    slow_workers: float = 0.05  # this share of the workers runs at half speed
    crawling: float = 0.0  # this share of the attempts takes 20 times as long
    num_kills: int = 0  # SIGKILLs of random workers at work, spread evenly in time
    num_node_losses: int = 0  # of random nodes; each comes back after start_s
    workers_per_node: int = 8
    poison: frozenset[int] = frozenset()  # units that kill their worker
    beat_s: float = 10.0
    seed: int = 0


@dataclass
class SimulatedRun:
    """How a simulated run ended: ``makespan_s / ideal_s`` is the figure of the benchmark."""

    makespan_s: float
    ideal_s: float
    lost_work_s: list[float]  # for each kill: how long its worker had worked on its unit
    started: Counter[int]  # attempts of each unit
    done: Counter[int]  # results of each unit
    most_in_flight: int
    summary: Summary
    events: list[Event]


@dataclass
class _Cluster:
    """The simulated workers, and the agenda of what happens to them."""

    world: World
    schedule: Schedule
    rng: random.Random
    nodes: list[str]
    agenda: list[tuple[float, int, str, int, str]] = field(default_factory=list)  # when, order, what, worker, attempt
    node_of: dict[int, str] = field(default_factory=dict)
    running: dict[int, tuple[int, str, float]] = field(default_factory=dict)  # worker: unit, attempt, since
    down: set[str] = field(default_factory=set)
    tickets: "itertools.count[int]" = field(default_factory=itertools.count)

    def plan(self, when: float, what: str, worker: int = -1, attempt: str = "") -> None:
        """Put something on the agenda; of two at the same time the one planned first happens first."""
        heapq.heappush(self.agenda, (when, next(self.tickets), what, worker, attempt))

    def slots(self) -> dict[str, int]:
        """How many workers each living node can hold."""
        return {name: self.world.workers_per_node for name in self.nodes if name not in self.down}


def simulate(world: World, spec: FanOutSpec) -> SimulatedRun:
    """Run the units ``0 … world.num_units - 1`` to the end; equal arguments give equal outcomes."""
    rng = random.Random(world.seed)
    num_nodes = -(-world.num_workers // world.workers_per_node)
    nodes = [f"node{number}" for number in range(num_nodes)]
    places = [
        max(0.2, rng.gauss(1.0, world.speed_spread)) * (0.5 if rng.random() < world.slow_workers else 1.0)
        for _ in range(world.num_workers)
    ]
    spec = spec.model_copy(update={"workers": world.num_workers})
    cluster = _Cluster(world, Schedule(range(world.num_units), spec, "sim", 0.0), rng, nodes)
    ideal_s = world.start_s + world.num_units * world.unit_s / sum(places)
    for index in range(world.num_kills):
        cluster.plan(ideal_s * (index + rng.random()) / world.num_kills, "kill")
    for index in range(world.num_node_losses):
        cluster.plan(ideal_s * (index + rng.random()) / world.num_node_losses, "node_loss")
    cluster.plan(1.0, "tick")
    started: Counter[int] = Counter()
    done: Counter[int] = Counter()
    lost: list[float] = []
    events: list[Event] = []
    most = 0
    now = 0.0
    actions: list[Action] = cluster.schedule.nodes(cluster.slots(), now)
    while True:
        for action in actions:
            match action:
                case StartWorker(number, node):
                    cluster.node_of[number] = node
                    cluster.plan(now + world.start_s, "ready", number)
                case Submit(number, unit, attempt):
                    started[unit] += 1
                    cluster.running[number] = (unit, attempt, now)
                    seconds = world.unit_s / places[number % len(places)]
                    seconds *= 20 if rng.random() < world.crawling else 1
                    if unit in world.poison:
                        cluster.plan(now + seconds / 2, "die", number, attempt)
                    else:
                        cluster.plan(now + seconds, "finish", number, attempt)
                case Drop(number, attempt):
                    cluster.plan(now + min(world.beat_s, world.unit_s / 4), "dropped", number, attempt)
                case KillWorker(number):
                    cluster.running.pop(number, None)
                    cluster.node_of.pop(number, None)
        events += cluster.schedule.take_events()
        most = max(most, len(cluster.running))
        if cluster.schedule.over:
            break
        now, _, what, number, attempt = heapq.heappop(cluster.agenda)
        actions = _happen(cluster, what, number, attempt, now, done, lost)
    summary = cluster.schedule.summary()
    return SimulatedRun(now, ideal_s, lost, started, done, most, summary, events)


def _happen(
    cluster: _Cluster, what: str, number: int, attempt: str, now: float, done: Counter[int], lost: list[float]
) -> list[Action]:
    """Carry out one entry of the agenda, unless it has become impossible; returns the schedule's actions."""
    schedule, world, rng = cluster.schedule, cluster.world, cluster.rng
    current = cluster.running.get(number)
    if what in ("finish", "dropped", "die") and (current is None or current[1] != attempt):
        return []  # its attempt is over
    match what:
        case "ready" if number in cluster.node_of:
            return schedule.placed(number, now) + schedule.ready(number, now)
        case "finish":
            unit, _, _ = cluster.running.pop(number)
            done[unit] += 1
            return schedule.finished(number, attempt, {}, 1, 0, now)
        case "dropped":
            cluster.running.pop(number)
            return schedule.dropped(number, attempt, now)
        case "die":
            return schedule.lost(number, "killed by its unit", now)
        case "kill" if cluster.running:
            victim = rng.choice(sorted(cluster.running))
            lost.append(now - cluster.running[victim][2])
            return schedule.lost(victim, "killed", now)
        case "node_loss":
            node = rng.choice(cluster.nodes)
            cluster.down.add(node)
            cluster.plan(now + world.start_s, "node_back", -1, node)
            return schedule.nodes(cluster.slots(), now)
        case "node_back":
            cluster.down.discard(attempt)
            return schedule.nodes(cluster.slots(), now)
        case "tick":
            cluster.plan(now + 1.0, "tick")
            return schedule.tick(now)
    return []
