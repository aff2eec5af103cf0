"""The ranks of one program over a Ray cluster: each is a process that an actor starts, watches and stops.

In: the arguments of a Python program, how many ranks and what each reserves, the folder they start in, a stop flag.
Out: how every rank ended. On disk: what the program writes, and a rank's output in `<logs>/rank-NNN.txt`, on its
machine.

The processes get the variables that `torchrun` would set (RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR,
MASTER_PORT), so the program knows nothing of Ray, and those that say which start of which SLURM job the caller is.
Python is the node's; modules come from the checkout that Ray sent to the workers. All ranks get their places at once,
on as few machines as possible; those of one machine have neighbouring numbers.

A rank prints one line on stdout when it ends, and everything else on stderr. It exits with `EXIT_FOLLOWED` if the
failure of another rank ended it. A stop request reaches every rank as SIGTERM, and so does the end of its actor, of the
driver or of the cluster.
"""

import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from cluster.code import difference
from cluster.fan_out.ray_health import RayHealth
from cluster.fan_out.ray_session import ClusterError, ray_session
from cluster.fan_out.work import FanOutSpec
from cluster.process.exit import EXIT_AGAIN, EXIT_COMPLETE, EXIT_FAILED, EXIT_FOLLOWED
from cluster.process.lives import SLURM_VARIABLES
from cluster.process.stop_flag import StopFlag
from cluster.ranks.host import Look, NodePlace, RankHost
from cluster.ranks.place import LOOPBACK
from cluster.waiting import waiting
from shards.disk.amounts import counted
from shards.disk.safe_text import one_line

# Deadlines, in seconds
START_S = 600.0  # until all ranks have a place
SAY_S = 2.0  # until missing room is worth a line
LOOK_S = 0.5  # between two questions to an actor
CALL_S = 60.0  # until an actor has answered
LOST_S = 120.0  # an actor that has not answered for so long is lost
END_S = 120.0  # for the ranks to save and end, after a stop request or when one has ended well
FOLLOW_S = 30.0  # for the other ranks to end when one has failed; they cannot save without it
KILL_S = 10.0  # for a rank to end after SIGKILL


@dataclass(frozen=True)
class RanksSpec:
    """How many ranks, and how many cores each reserves; each also reserves a GPU if the cluster has GPUs."""

    ranks: int
    cpus_per_rank: int = 1


@dataclass(frozen=True)
class RankEnd:
    """How a rank ended."""

    rank: int
    code: int | None  # its exit code; negative: a signal; None: its machine or its actor is lost
    said: str  # its last line
    killed: bool = False  # by this program, because it did not end in time

    @property
    def failed(self) -> bool:
        """Whether it neither completed nor stopped on request."""
        return self.killed or self.code not in (EXIT_COMPLETE, EXIT_AGAIN)

    @property
    def is_echo(self) -> bool:
        """Whether it ended only because another rank did."""
        return self.killed or self.code == EXIT_FOLLOWED

    def sentence(self) -> str:
        """How the rank ended, in one line for people."""
        if self.killed:
            return f"rank {self.rank}: did not end in time, and was killed"
        if self.code is None:
            return f"rank {self.rank}: its machine or actor is lost ({self.said}); run the same command again"
        if self.code == EXIT_FOLLOWED and self.said:
            return self.said
        if self.code < 0:
            name = signal.Signals(-self.code).name
            why = "out of memory, or killed by hand" if name == "SIGKILL" else self.said or "it printed nothing"
            return f"rank {self.rank}: was ended by {name} ({why})"
        return f"rank {self.rank}: {self.said or f'ended with {self.code} and printed nothing'}"


@dataclass(frozen=True)
class RanksEnd:
    """How all ranks ended, in the order of their ends; empty if a stop was requested before they started."""

    ends: tuple[RankEnd, ...]

    @property
    def cause(self) -> RankEnd | None:
        """The first rank that failed by itself, not because another one did; None if all ended well."""
        failed = [end for end in self.ends if end.failed]
        return next((end for end in failed if not end.is_echo), failed[0] if failed else None)

    @property
    def exit_code(self) -> int:
        """The code of the cause; EXIT_AGAIN if the ranks stopped on request."""
        if self.cause is not None:
            code = self.cause.code
            return EXIT_FAILED if self.cause.is_echo or code is None or code < 0 else code
        return EXIT_COMPLETE if self.ends and all(end.code == EXIT_COMPLETE for end in self.ends) else EXIT_AGAIN

    @property
    def said(self) -> str:
        """The last line of rank 0."""
        return next((end.said for end in self.ends if end.rank == 0), "")


def log_of(logs: Path, rank: int) -> Path:
    """The file of a rank's output in the folder `logs`."""
    return logs / f"rank-{rank:03d}.txt"


def run_ranks(
    arguments: Sequence[str],
    spec: RanksSpec,
    start_in: Path,
    logs: Path,
    stop: StopFlag,
    say: Callable[[str], None],
) -> RanksEnd:
    """Run `python <arguments>` as every rank, in the folder `start_in`, until all have ended.

    `say` is called with each line that rank 0 prints on stderr. Raises ClusterError if the cluster has no room, runs
    other versions, or cannot start a rank.
    """
    size = FanOutSpec(workers=spec.ranks, cpus_per_worker=spec.cpus_per_rank)
    with ray_session(size, spec.cpus_per_rank, stop, "start the ranks with torchrun or srun instead") as session:
        stop.arm()
        health = RayHealth()
        with _room(spec, session.ours, stop, health, say) as hosts:
            try:
                with waiting(f"starting the processes of {counted(spec.ranks, 'rank')}"):
                    places = _places(hosts, stop, health)
                if stop.requested:
                    return RanksEnd(())
                handles = _start(hosts, places, session.versions, arguments, start_in, logs)
            except ray.exceptions.RayError as error:
                raise ClusterError(f"cannot start the ranks ({one_line(str(error), 300)})") from None
            nodes = len({handle.node for handle in handles})
            say(f"{counted(spec.ranks, 'rank')} on {counted(nodes, 'machine')}; each writes to {logs}")
            return _watch(handles, stop, say)


@contextlib.contextmanager
def _room(
    spec: RanksSpec, ours: bool, stop: StopFlag, health: RayHealth, say: Callable[[str], None]
) -> Iterator[list[Any]]:
    """One actor for each rank, holding its cores and GPU: all of them, or none if a stop is requested meanwhile."""
    begun = time.monotonic()

    def wait_for(is_there: Callable[[], bool], asked: str) -> None:
        silent = True
        while not is_there() and not stop.requested:
            if wrong := health.broken():
                raise ClusterError(wrong)
            waited = time.monotonic() - begun
            if waited > START_S:
                raise ClusterError(
                    f"found no room for {asked} within {START_S:g} s, {_size()}; ask for fewer, or add machines"
                )
            if waited > SAY_S and silent:
                silent = False
                say(f"found no room yet for {asked}, {_size()}; waiting for it, at most {START_S:g} s")

    asked = f"{counted(spec.ranks, 'rank')} of {counted(spec.cpus_per_rank, 'core')}"
    wait_for(lambda: _has_room(spec.cpus_per_rank), asked)  # a head without cores does not tell whether GPUs come
    gpus = int(any(node["Resources"].get("GPU", 0) >= 1 for node in ray.nodes()))
    found = int(ray.cluster_resources().get("GPU", 0))
    if ours and gpus * spec.ranks > found:
        raise ClusterError(
            f"found {counted(found, 'GPU')} on this machine for {spec.ranks} ranks, expected one each; ask for fewer "
            "ranks, or set RAY_ADDRESS to a cluster"
        )
    bundle = {"CPU": float(spec.cpus_per_rank), **({"GPU": float(gpus)} if gpus else {})}
    group = placement_group([bundle] * spec.ranks, strategy="PACK")
    hosts: list[Any] = []
    try:
        wait_for(lambda: bool(group.wait(LOOK_S)), f"{asked} and {counted(gpus, 'GPU')}")
        for number in range(0 if stop.requested else spec.ranks):
            place = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=number)
            options = {"num_cpus": spec.cpus_per_rank, "num_gpus": gpus, "scheduling_strategy": place}
            hosts.append(ray.remote(RankHost).options(**options).remote())
        yield hosts
    finally:
        for host in hosts:
            ray.kill(host)
        remove_placement_group(group)


def _has_room(cores: int) -> bool:
    """Whether a machine has so many cores; waits a moment if none has."""
    if any(node["Alive"] and node["Resources"].get("CPU", 0) >= cores for node in ray.nodes()):
        return True
    time.sleep(LOOK_S)
    return False


def _size() -> str:
    """What the cluster has."""
    has, free = ray.cluster_resources(), ray.available_resources()
    machines = counted(sum(node["Alive"] for node in ray.nodes()), "machine")
    cores, gpus = (f"{counted(int(has.get(key, 0)), noun)}" for key, noun in (("CPU", "core"), ("GPU", "GPU")))
    return f"the cluster has {cores} and {gpus} on {machines}, {free.get('CPU', 0):g} and {free.get('GPU', 0):g} free"


@dataclass
class _Handle:
    """What the driver knows of one rank."""

    rank: int
    node: str
    actor: Any
    asked: Any = None  # the answer that the driver waits for
    since: float = 0.0


def _places(hosts: Sequence[Any], stop: StopFlag, health: RayHealth) -> list[NodePlace]:
    """Where the actors run, once all of them do; a part of it if a stop is requested meanwhile."""
    asked = [host.place.remote() for host in hosts]
    deadline = time.monotonic() + START_S
    while True:
        ready, waiting = ray.wait(asked, num_returns=max(1, len(asked)), timeout=LOOK_S) if asked else ([], [])
        places: list[NodePlace] = ray.get(ready, timeout=CALL_S)
        if not waiting or stop.requested:
            return places
        for wrong in (health.broken(), *health.died_at_start()):
            if wrong:
                raise ClusterError(f"cannot start the ranks: {wrong}")
        if time.monotonic() > deadline:
            raise ClusterError(
                f"found {len(ready)} of {counted(len(asked), 'actor')} after {START_S:g} s, expected all; "
                "`ray status` and raylet.err of their nodes say more"
            )


def _start(
    hosts: Sequence[Any],
    places: Sequence[NodePlace],
    versions: Mapping[str, str],
    arguments: Sequence[str],
    start_in: Path,
    logs: Path,
) -> list[_Handle]:
    for place in places:
        if wrong := difference(versions, place.versions):
            raise ClusterError(
                f"node {place.address} runs other software: {wrong}; install the same versions and use one checkout"
            )
    ordered = sorted(range(len(hosts)), key=lambda number: (places[number].node, number))
    job = {name: os.environ[name] for name in SLURM_VARIABLES if name in os.environ}  # of this program, not of Ray's
    ranked = environments([(places[n].node, places[n].address, places[n].port) for n in ordered])
    told = [{**one, **job} for one in ranked]
    handles = [_Handle(rank, places[n].node, hosts[n]) for rank, n in enumerate(ordered)]
    begun = [
        handle.actor.start.remote(list(arguments), environment, str(start_in), str(log_of(logs, handle.rank)))
        for handle, environment in zip(handles, told, strict=True)
    ]
    for handle, wrong in zip(handles, ray.get(begun, timeout=CALL_S), strict=True):
        if wrong:
            raise ClusterError(
                f"rank {handle.rank}: cannot start ({wrong}); every machine must see the folder you start from"
            )
    return handles


def environments(places: Sequence[tuple[str, str, int]]) -> list[dict[str, str]]:
    """The variables of each rank; `places` are (node, address, free port), with ranks of one node side by side."""
    sizes = Counter(node for node, _, _ in places)
    seen: Counter[str] = Counter()
    address = LOOPBACK if len(sizes) == 1 else places[0][1]
    told = []
    for rank, (node, _, _) in enumerate(places):
        told.append(
            {
                "RANK": str(rank),
                "WORLD_SIZE": str(len(places)),
                "LOCAL_RANK": str(seen[node]),
                "LOCAL_WORLD_SIZE": str(sizes[node]),
                "MASTER_ADDR": address,
                "MASTER_PORT": str(places[0][2]),
            }
        )
        seen[node] += 1
    return told


def _watch(handles: Sequence[_Handle], stop: StopFlag, say: Callable[[str], None]) -> RanksEnd:
    """Wait until all ranks have ended; kill those that do not end in time after the first one."""
    ends: list[RankEnd] = []
    left = list(handles)
    told = False
    kill_at = float("inf")
    killed_at: float | None = None
    while left:
        now = time.monotonic()
        if stop.requested and not told:
            told = True
            kill_at = min(kill_at, now + END_S)
            _send(left, signal.SIGTERM)
        if now > kill_at and killed_at is None:
            killed_at = now
            _send(left, signal.SIGKILL)
        for handle in left:
            if handle.asked is None:
                handle.asked, handle.since = handle.actor.look.remote(), now
        ray.wait([handle.asked for handle in left], num_returns=len(left), timeout=LOOK_S)
        for handle in list(left):
            end = _hear(handle, told, killed_at, say)
            if end is not None:
                left.remove(handle)
                ends.append(end)
                kill_at = min(kill_at, time.monotonic() + (FOLLOW_S if end.failed else END_S))
        time.sleep(max(0.0, now + LOOK_S - time.monotonic()) if left else 0.0)
    return RanksEnd(tuple(ends))


def _hear(handle: _Handle, told: bool, killed_at: float | None, say: Callable[[str], None]) -> RankEnd | None:
    """How the rank ended; None if it has not. `told`: it was asked to stop."""
    patience_s = LOST_S if killed_at is None else KILL_S
    try:
        ready, _ = ray.wait([handle.asked], timeout=0)
        if not ready:
            if time.monotonic() - max(handle.since, killed_at or 0.0) < patience_s:
                return None
            return RankEnd(handle.rank, None, f"no answer from its machine for {patience_s:g} s")
        look: Look = ray.get(handle.asked, timeout=CALL_S)
    except ray.exceptions.RayError as error:
        return RankEnd(handle.rank, None, one_line(str(error), 200))
    handle.asked = None
    for line in look.lines:
        say(line)
    if look.code is None:
        return None
    if killed_at is not None and look.code == -signal.SIGKILL:
        return RankEnd(handle.rank, look.code, look.said, killed=True)
    if told and look.code == -signal.SIGTERM:  # it was stopped before it had installed its signal handler
        return RankEnd(handle.rank, EXIT_AGAIN, look.said)
    return RankEnd(handle.rank, look.code, look.said)


def _send(handles: Sequence[_Handle], number: signal.Signals) -> None:
    ray.wait([handle.actor.send.remote(int(number)) for handle in handles], num_returns=len(handles), timeout=LOOK_S)
