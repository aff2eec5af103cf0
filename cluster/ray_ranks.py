"""The ranks of one program over a Ray cluster: each a process of its own that an actor starts, watches and stops.

In: a command, how many ranks and what each reserves, a stop flag. Out: the exit code of every rank. On disk: what the
program writes; its output in `<logs>/rank-NNN.txt` on the machine of the rank.

The processes get what `torchrun` would set (RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT),
so the program knows nothing of Ray. Ranks of one machine have neighbouring numbers. A stop request goes to every rank
as SIGTERM; so does the end of its actor, hence of the driver or of the cluster.
"""

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from pydantic import BaseModel, ConfigDict, Field

from cluster.failure import one_line
from cluster.ray_session import ClusterError, ray_session
from cluster.signals import StopFlag
from cluster.work import EXIT_FAILED, FanOutSpec

LOOK_S = 0.5
CALL_S = 30.0  # for an actor to answer
END_S = 120.0  # for the other ranks to save and end when one has ended or a stop is asked for
_PR_SET_PDEATHSIG = 1


class RanksSpec(BaseModel):
    """How many ranks, and what each has for itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ranks: int = Field(ge=1, description="processes of one training")
    cpus_per_rank: int = Field(1, ge=1, description="cores each reserves")
    gpus_per_rank: int = Field(0, ge=0, le=1, description="GPUs each reserves")
    start_deadline_s: float = Field(600.0, gt=0, description="all ranks must have a place within this time")


def run_ranks(command: Sequence[str], spec: RanksSpec, logs: Path, stop: StopFlag) -> list[int]:
    """Run `command` as every rank until all have ended; exit codes by rank, negative for a signal.

    Raises ClusterError if the cluster has no room, or if it loses a rank.
    """
    size = FanOutSpec(workers=spec.ranks, cpus_per_worker=spec.cpus_per_rank, gpus_per_worker=float(spec.gpus_per_rank))
    with ray_session(size, spec.cpus_per_rank):
        stop.arm()
        make = ray.remote(RankHost).options(num_cpus=spec.cpus_per_rank, num_gpus=spec.gpus_per_rank)
        hosts: list[Any] = [make.remote() for _ in range(spec.ranks)]
        try:
            try:
                places = ray.get([host.place.remote() for host in hosts], timeout=spec.start_deadline_s)
            except ray.exceptions.GetTimeoutError:
                raise ClusterError(
                    f"found no room for {spec.ranks} ranks of {spec.cpus_per_rank} cores and {spec.gpus_per_rank} GPUs "
                    f"within {spec.start_deadline_s:g} s; ask for fewer, or add machines"
                ) from None
            ordered = sorted(range(spec.ranks), key=lambda number: (places[number][0], number))
            hosts, places = [hosts[n] for n in ordered], [places[n] for n in ordered]
            for host, environment in zip(hosts, environments(places), strict=True):
                log = str(logs / f"rank-{int(environment['RANK']):03d}.txt")
                ray.get(host.start.remote(list(command), environment, log), timeout=CALL_S)
            return _watch(hosts, stop)
        except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError) as error:
            raise ClusterError(
                f"the cluster lost a rank ({one_line(str(error))[:200]}); the same command goes on"
            ) from None
        finally:
            for host in hosts:
                ray.kill(host)


def environments(places: Sequence[tuple[str, str, int]]) -> list[dict[str, str]]:
    """What each rank is told; `places` are (node, address, free port), ranks of one node next to each other."""
    sizes = Counter(node for node, _, _ in places)
    seen: Counter[str] = Counter()
    address = "127.0.0.1" if len(sizes) == 1 else places[0][1]
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


def _watch(hosts: Sequence[Any], stop: StopFlag) -> list[int]:
    """Until all ranks have ended; those that do not follow the first one in time are killed."""
    ending: float | None = None
    told = False
    while True:
        codes: list[int | None] = ray.get([host.look.remote() for host in hosts], timeout=CALL_S)
        if all(code is not None for code in codes):
            return [EXIT_FAILED if code is None else code for code in codes]
        now = time.monotonic()
        if ending is None and (stop.requested or any(code is not None for code in codes)):
            ending = now
        if stop.requested and not told:
            told = True
            ray.get([host.send.remote(int(signal.SIGTERM)) for host in hosts], timeout=CALL_S)
        if ending is not None and now - ending > END_S:
            ray.get([host.send.remote(int(signal.SIGKILL)) for host in hosts], timeout=CALL_S)
        time.sleep(LOOK_S)


class RankHost:
    """The actor: holds one rank's cores and GPU, and its process."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None

    def place(self) -> tuple[str, str, int]:
        """(node, its address, a port that is free here now)."""
        with socket.create_server(("", 0)) as server:
            port = int(server.getsockname()[1])
        return ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address(), port

    def start(self, command: Sequence[str], environment: Mapping[str, str], log: str) -> None:
        Path(log).parent.mkdir(parents=True, exist_ok=True)
        with open(log, "wb") as output:
            self._child = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
                preexec_fn=_end_with_parent,
            )

    def look(self) -> int | None:
        """The exit code, None while it runs."""
        assert self._child is not None, "look comes after start"
        return self._child.poll()

    def send(self, number: int) -> None:
        assert self._child is not None, "send comes after start"
        with contextlib.suppress(ProcessLookupError):
            self._child.send_signal(number)


def _end_with_parent() -> None:
    """In the child: ask the kernel for SIGTERM when the actor dies, so that a rank saves and ends with its cluster."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
