"""The Ray driver: carries out the schedule's actions with actors, and tells the schedule what happened.

In: a ``Schedule``, a ``make_worker`` and a ``Session``. Out: the schedule, carried out to its end; all workers ended.
On disk: nothing.

Every wait has a deadline: each turn has one short ``ray.wait`` over all pending answers, and ``ray.get`` takes only
answers that are there. The driver asks every worker for its progress through the actor's second thread; if no answer
comes there is no progress, and the schedule's deadlines apply. Ray's own kill is a request, which a stopped process
cannot answer, so every kill is followed by SIGKILL on the worker's node. The schedule hears which nodes Ray drains.
"""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.code import difference
from cluster.fan_out.events import Event
from cluster.fan_out.ray_health import RayHealth
from cluster.fan_out.ray_session import Session
from cluster.fan_out.ray_worker import Hello, Look, RayWorker, WorkerAnswer
from cluster.fan_out.scheduler import Action, Drop, KillWorker, Schedule, StartWorker, Submit
from cluster.fan_out.work import FanOutSpec, MakeWorker, look_every_s
from cluster.process.failure import describe
from cluster.process.identity import ProcessId, kill_here, this_place
from cluster.process.stop_flag import StopFlag
from cluster.waiting import waiting
from shards.disk.amounts import counted
from shards.disk.safe_text import one_line

TURN_S = 0.1  # the longest wait of a turn, hence the reaction time to a signal
NODES_EVERY_S = 2.0
GET_DEADLINE_S = 10.0  # for answers that ray.wait has called ready
START_FAILED = (
    "Ray tried five times to start its process, and each ended before it had begun; see why in raylet.err, in the logs "
    "of Ray's session on node {node}"
)
Question = Literal["hello", "load", "run", "look"]


@dataclass
class _Handle:
    """What the driver knows of one worker."""

    actor: Any
    node: str
    process: ProcessId | None = None
    attempt: str = ""
    looked: float = 0.0
    asking: bool = False  # a look is pending
    refs: set[Any] = field(default_factory=set)


def run_on_ray(
    schedule: Schedule,
    make_worker: MakeWorker,
    spec: FanOutSpec,
    on_event: Callable[[Event], None],
    stop: StopFlag,
    session: Session,
) -> None:
    """Carry out the schedule until it is over, then end every worker. A failure of Ray ends the schedule, named."""
    driver = _Driver(schedule, make_worker, spec, session)
    start = contextlib.ExitStack()  # closed by the first worker that is ready
    try:
        start.enter_context(waiting(lambda: _starting(*schedule.starting())))
        while not schedule.over:
            driver.turn(stop)
            for event in schedule.take_events():
                if event.kind == "worker_ready":
                    start.close()
                on_event(event)
    except ray.exceptions.RayError as error:  # the cluster itself failed: name it, and let the run end incomplete
        schedule.fail(f"Ray failed ({describe(error)}); run the same command again", time.monotonic())
    finally:
        start.close()
        driver.end_all_workers()
    for event in schedule.take_events():
        on_event(event)


def _starting(placing: int, loading: int) -> str:
    if loading:
        return f"loading the model on {counted(loading, 'worker')}"
    return f"starting {counted(placing, 'worker')}" if placing else "looking for room for a worker"


class _Driver:
    def __init__(self, schedule: Schedule, make_worker: MakeWorker, spec: FanOutSpec, session: Session) -> None:
        self._schedule = schedule
        self._make_worker = make_worker
        self._spec = spec
        self._gpus: float | None = None if spec.gpus_per_worker == "auto" else spec.gpus_per_worker
        self._versions, self._ours = session.versions, session.ours
        self._place = this_place()
        self._health = RayHealth()
        self._handles: dict[int, _Handle] = {}
        self._pending: dict[Any, tuple[Question, int]] = {}
        self._cores: dict[str, int] = {}  # node: a worker's share of it
        self._nodes_at = float("-inf")
        self._drained: frozenset[str] = frozenset()
        self._actor_class: Any = ray.remote(RayWorker)

    def turn(self, stop: StopFlag) -> None:
        """Wait up to TURN_S for answers, tell the schedule, carry out its actions."""
        if stop.requested:
            self._do(self._schedule.drain(stop.reason, time.monotonic()))
        if time.monotonic() - self._nodes_at >= NODES_EVERY_S:
            self._nodes_at = time.monotonic()
            self._look_at_ray()
        for ref in self._answers():
            asked = self._pending.pop(ref, None)
            if asked is None:  # all answers of a dead worker fail at once; the first one has been dealt with
                continue
            question, number = asked
            if number in self._handles:
                self._handles[number].refs.discard(ref)
                self._hear(ref, question, number)
        self._look_around()
        self._do(self._schedule.tick(time.monotonic()))

    def _look_at_ray(self) -> None:
        if broken := self._health.broken():
            self._do(self._schedule.fail(broken, time.monotonic()))
            return
        slots = self._slots()
        if self._ours and slots and not any(slots.values()):  # nobody adds a machine to it
            asked = f"{counted(self._spec.cpus_per_worker, 'core')} and {self._gpus or 0:g} GPUs"
            advice = "lower cluster.cpus_per_worker or cluster.gpus_per_worker, or set RAY_ADDRESS to a cluster"
            self._do(
                self._schedule.fail(f"this machine has no room for a worker of {asked}; {advice}", time.monotonic())
            )
            return
        self._do(self._schedule.nodes(slots, time.monotonic(), self._leaving()))
        # Ray does not say whose process it was; whoever has waited longest gets another one
        waiting = [number for number, handle in self._handles.items() if handle.process is None]
        for number, cause in zip(waiting, self._health.died_at_start(), strict=False):
            self._do(self._schedule.refused(number, cause, time.monotonic()))

    def _answers(self) -> list[Any]:
        if not self._pending:
            time.sleep(TURN_S)
            return []
        ready, _ = ray.wait(list(self._pending), num_returns=1, timeout=TURN_S)
        if ready:  # take all answers that are there in one turn
            ready, _ = ray.wait(list(self._pending), num_returns=len(self._pending), timeout=0)
        return ready

    def _leaving(self) -> frozenset[str]:
        """The nodes that Ray drains: their machines are to go. What was known before if its head does not answer: the
        look at its health says so."""
        worker: Any = ray._private.worker.global_worker  # no public call says it
        with contextlib.suppress(ray.exceptions.RayError):
            self._drained = frozenset(worker.gcs_client.get_draining_nodes(timeout=NODES_EVERY_S))
        return self._drained

    def _slots(self) -> dict[str, int]:
        """How many workers each live node can hold."""
        alive = [node for node in ray.nodes() if node["Alive"]]
        # not while there is only a head without cores: it tells nothing of the machines that come
        if self._gpus is None and any(node["Resources"].get("CPU", 0) >= self._spec.cpus_per_worker for node in alive):
            self._gpus = 1.0 if any(node["Resources"].get("GPU", 0) >= 1 for node in alive) else 0.0
        slots: dict[str, int] = {}
        for node in alive:
            room = int(node["Resources"].get("CPU", 0) // self._spec.cpus_per_worker)
            if self._gpus:
                room = min(room, int(node["Resources"].get("GPU", 0) / self._gpus + 1e-9))
            slots[node["NodeID"]] = room
            workers = room if self._spec.workers == "auto" else min(room, self._spec.workers)
            self._cores[node["NodeID"]] = int(node["Resources"].get("CPU", 0)) // max(1, workers)
        return slots

    # ------------------------------------------------------------------ actions of the schedule

    def _do(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case StartWorker(number, node):
                    self._start(number, node)
                case KillWorker(number, _):
                    self._kill(number)
                case Submit(number, unit, attempt):
                    handle = self._handles[number]
                    handle.attempt, handle.looked = attempt, time.monotonic()
                    self._ask("run", number, handle.actor.run.remote(unit, attempt))
                case Drop(number, attempt):
                    self._handles[number].actor.drop.remote(attempt)

    def _start(self, number: int, node: str) -> None:
        actor = self._actor_class.options(
            num_cpus=self._spec.cpus_per_worker,
            num_gpus=self._gpus or 0,
            max_restarts=0,
            max_task_retries=0,
            max_concurrency=2,  # one thread works, one answers look and drop
            scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
        ).remote(self._cores[node])
        self._handles[number] = _Handle(actor, node)
        self._ask("hello", number, actor.hello.remote())

    def _kill(self, number: int) -> None:
        handle = self._handles.pop(number)
        for ref in handle.refs:
            self._pending.pop(ref, None)
        ray.kill(handle.actor, no_restart=True)
        if handle.process is None:
            return
        if handle.process.place == self._place:
            kill_here(handle.process)
        else:
            # on its own node, with no resources, so that a full node can do it too
            ref = (
                ray.remote(kill_here)
                .options(
                    num_cpus=0,
                    max_retries=0,
                    scheduling_strategy=NodeAffinitySchedulingStrategy(handle.node, soft=False),
                )
                .remote(handle.process)
            )
            del ref  # nobody waits for it: if the node is gone, so are its workers

    def end_all_workers(self) -> None:
        """Kill every worker that is left."""
        for number in list(self._handles):
            self._kill(number)

    # ------------------------------------------------------------------ answers of the workers

    def _ask(self, question: Question, number: int, ref: Any) -> None:
        self._pending[ref] = (question, number)
        self._handles[number].refs.add(ref)

    def _look_around(self) -> None:
        now, every_s = time.monotonic(), look_every_s(len(self._handles))
        for number, handle in self._handles.items():
            if handle.process is not None and not handle.asking and now - handle.looked >= every_s:
                handle.looked, handle.asking = now, True
                self._ask("look", number, handle.actor.look.remote())

    def _hear(self, ref: Any, question: Question, number: int) -> None:
        handle = self._handles[number]
        try:
            answer = ray.get(ref, timeout=GET_DEADLINE_S)
        except ray.exceptions.GetTimeoutError:
            self._ask(question, number, ref)  # ready, but not here yet: ask again, until a deadline ends it
            return
        except ray.exceptions.RayError as error:
            self._do(self._death(number, handle, error))
            return
        now = time.monotonic()
        if isinstance(answer, Hello):
            handle.process = answer.process
            wrong = difference(self._versions, answer.versions)
            if wrong:
                self._do(
                    self._schedule.fail(
                        f"worker on node {handle.node} runs other software: {wrong}; "
                        "install the same versions and use one checkout",
                        now,
                    )
                )
                return
            self._do(self._schedule.placed(number, now))
            self._ask("load", number, handle.actor.load.remote(self._make_worker))
        elif isinstance(answer, Look):
            handle.asking = False
            if answer.attempt is not None:
                told = (answer.beats, answer.done, answer.rejected, now, answer.under_way)
                self._do(self._schedule.heard(number, answer.attempt, *told))
        elif isinstance(answer, WorkerAnswer) and question == "load":
            if answer.kind == "fine":
                self._do(self._schedule.ready(number, now))
            else:
                self._do(self._schedule.refused(number, answer.cause, now))
        elif isinstance(answer, WorkerAnswer):
            self._do(self._outcome(number, handle.attempt, answer, now))

    def _outcome(self, number: int, attempt: str, answer: WorkerAnswer, now: float) -> list[Action]:
        match answer.kind:
            case "fine":
                return self._schedule.finished(number, attempt, answer.result, answer.done, answer.rejected, now)
            case "dropped":
                return self._schedule.dropped(number, attempt, now)
            case "raised" | "broken" | "not again":
                broken, again = answer.kind == "broken", answer.kind != "not again"
                return self._schedule.raised(number, attempt, answer.cause, now, broken, again)

    def _death(self, number: int, handle: _Handle, error: ray.exceptions.RayError) -> list[Action]:
        """What to tell the schedule when Ray reports that an actor or its answer is lost."""
        now = time.monotonic()
        if isinstance(error, ray.exceptions.RayTaskError):
            # the actor lives but could not read the question: make_worker's module cannot be imported there
            return self._schedule.refused(number, one_line(str(error.cause or error)), now)
        if isinstance(error, ray.exceptions.ActorUnschedulableError) and "worker startup" in str(error):
            return self._schedule.refused(number, START_FAILED.format(node=handle.node), now, for_good=True)
        node_lost = getattr(error, "preempted", False) or "node has died" in str(error).lower()
        if not node_lost:
            node_lost = not any(node["NodeID"] == handle.node and node["Alive"] for node in ray.nodes())
        return self._schedule.lost(number, death_cause(error, handle.process), now, node_lost)


def death_cause(error: BaseException, process: ProcessId | None) -> str:
    """Why a worker died, in one line; Ray's own text is a paragraph of all possible causes."""
    text = one_line(str(error))
    who = f"its process (pid {process.pid})" if process else "its process"
    if isinstance(error, ray.exceptions.OutOfMemoryError) or "low on memory" in text:
        return f"{who} was killed because the node ran out of memory; use smaller batches or fewer workers"
    if "connection error code 2" in text:
        return f"{who} died without an error: killed (SIGKILL, out of memory) or crashed (SIGSEGV, abort)"
    return f"{who} died: {text}"
