"""The ranks of one training: which rank this process is, how the ranks meet, and how one failure ends all of them.

In: the environment that a plain start, `torchrun` (or a tool that sets the same names, such as Ray Train) or `srun`
leaves. Out: a `RankPlace`; from it `Ranks`, the open process group. On disk: nothing.

An error on one rank ends all ranks within seconds, and each names the cause. The rank that failed writes the cause to
the store at which the ranks met. A thread of each rank reads there twice a second, and ends its rank if that hangs in a
collective call. The store ends with rank 0, so rank 0 waits until the others have read the cause, or for `HEARD_S`. A
rank that hangs is noticed by the others after `deadline_s`.
"""

import contextlib
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from cluster.process.exit import EXIT_FOLLOWED
from shards.disk.safe_text import one_line, quoted

if TYPE_CHECKING:
    import torch
    import torch.distributed as dist

Launcher = Literal["plain", "torchrun", "srun"]

LOOPBACK = "127.0.0.1"
LOOK_S = 0.5  # between two looks for a cause
HEARD_S = 10.0  # a failing rank 0 waits this long for the others to read why
PARTED_S = 60.0  # after a good end rank 0 waits this long for the others to leave
GRACE_S = 10.0  # from a known cause until a rank that hangs is ended
MEET_S = 300.0  # for all ranks to come together
MAX_HOSTS = 100_000
PORTS = range(20_000, 32_000)  # below those that Linux gives out by itself

_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_RESTART = "TORCHELASTIC_RESTART_COUNT"
_SLURM = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")
_OF_A_RANK = re.compile(
    r"(LOCAL_|GROUP_|ROLE_)?(RANK|WORLD_SIZE)|MASTER_(ADDR|PORT)|TORCHELASTIC_\w+"
    r"|SLURM_(STEP_\w+|STEPID|PROCID|LOCALID|NODEID|TASK_PID|NTASKS|NPROCS)"
)
_HERE, _CAUSE, _HEARD, _LEFT = "here", "cause", "heard", "left"
_GONE = "rank 0 is gone without a word"


class RankFailed(ValueError):
    """Another rank failed; the message says which one, and why."""


@dataclass(frozen=True)
class RankPlace:
    """Which of `world` processes this one is, and where they meet."""

    launcher: Launcher
    rank: int
    world: int
    local_rank: int  # among those of this machine: the number of its GPU
    host: str  # where rank 0 is found
    port: int
    one_machine: bool
    store_is_there: bool = False  # torchrun's agent runs the store
    restart: int = 0  # torchrun's count of restarts: its store still holds what earlier lives wrote

    @property
    def leads(self) -> bool:
        """Whether this process runs the store, which ends with it."""
        return self.rank == 0 and not self.store_is_there

    @property
    def meeting_host(self) -> str:
        """The address of the store."""
        return LOOPBACK if self.one_machine and not self.store_is_there else self.host


def find_place(environment: Mapping[str, str]) -> RankPlace:
    """This process's place by the environment. Raises ValueError if it is incomplete or contradicts itself."""
    torchrun = [name for name in _TORCHRUN if name in environment]
    in_step = "SLURM_STEP_ID" in environment and environment.get("SLURM_NTASKS", "1") != "1"
    if {"RANK", "WORLD_SIZE", "LOCAL_RANK"} & set(torchrun):
        missing = [name for name in _TORCHRUN if name not in environment]
        if missing:
            raise ValueError(
                f"environment: found {', '.join(torchrun)} without {', '.join(missing)}, expected all of them or none; "
                "start with torchrun, with srun, or as a plain process"
            )
        place = _of_torchrun(environment)
        if in_step and "TORCHELASTIC_RUN_ID" not in environment:
            other = (_number(environment, "SLURM_PROCID"), _number(environment, "SLURM_NTASKS"))
            if other != (place.rank, place.world):
                raise ValueError(
                    f"environment: found rank {place.rank} of {place.world} by RANK and WORLD_SIZE, but {other[0]} of "
                    f"{other[1]} by SLURM_PROCID and SLURM_NTASKS, expected one answer; unset one of the pairs"
                )
        return place
    if in_step:
        return _of_srun(environment)
    return RankPlace("plain", 0, 1, 0, LOOPBACK, 0, one_machine=True)


def without_ranks(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without the variables of a rank, for a process that a rank starts and that is no rank itself."""
    return {name: value for name, value in environment.items() if not _OF_A_RANK.fullmatch(name)}


def _of_torchrun(environment: Mapping[str, str]) -> RankPlace:
    rank, world, local_rank, port = (
        _number(environment, name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")
    )
    local_world = _number(environment, "LOCAL_WORLD_SIZE") if "LOCAL_WORLD_SIZE" in environment else None
    _check(rank, world, local_rank, local_world, "RANK, WORLD_SIZE and LOCAL_RANK")
    host = environment["MASTER_ADDR"]
    return RankPlace(
        "torchrun",
        rank,
        world,
        local_rank,
        host,
        port,
        one_machine=local_world == world or host in (LOOPBACK, "localhost"),
        store_is_there=environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
        restart=_number(environment, _RESTART) if _RESTART in environment else 0,
    )


def _of_srun(environment: Mapping[str, str]) -> RankPlace:
    missing = [name for name in _SLURM if name not in environment]
    if missing:
        raise ValueError(
            f"environment: found a step of SLURM without {', '.join(missing)}, expected all of {', '.join(_SLURM)}; "
            "start with srun"
        )
    rank, world, local_rank = (_number(environment, name) for name in _SLURM)
    _check(rank, world, local_rank, None, "SLURM_PROCID, SLURM_NTASKS and SLURM_LOCALID")
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_NODELIST", "")
    hosts = host_names(nodes) if nodes else []
    one_machine = len(hosts) == 1
    if not hosts and "MASTER_ADDR" not in environment:
        raise ValueError("environment: found no SLURM_NODELIST, expected the machines of the step; start with srun")
    if "MASTER_PORT" in environment:
        port = _number(environment, "MASTER_PORT")
    else:
        job, step = (_number(environment, name) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
        port = PORTS[(job * 131 + step) % len(PORTS)]  # all ranks come to the same one
    host = environment.get("MASTER_ADDR") or (LOOPBACK if one_machine else hosts[0])
    return RankPlace("srun", rank, world, local_rank, host, port, one_machine)


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name, "")
    if not (text.isascii() and text.isdecimal() and len(text) <= 18):
        raise ValueError(
            f"environment: found {name}={quoted(text, 40)}, expected a number; start with torchrun or srun"
        )
    return int(text)


def _check(rank: int, world: int, local_rank: int, local_world: int | None, names: str) -> None:
    if not 0 <= rank < world or not 0 <= local_rank < (local_world or world):
        raise ValueError(
            f"environment: found rank {rank} of {world}, {local_rank} on its machine, expected each below its total; "
            f"see {names}"
        )


def host_names(nodelist: str) -> list[str]:
    """The machines of SLURM's short form, in its order: `node[001-003,7],gpu1` is node001, node002, node003, node7,
    gpu1.

    Raises ValueError for text that is not of that form.
    """
    names: list[str] = []
    for item in re.findall(r"(?:\[[^\]]*\]|[^,\[])+", nodelist):
        made = [""]
        for plain, ranges in re.findall(r"([^\[\]]+)|\[([0-9,-]+)\]", item):
            ends = [plain] if plain else [end for part in ranges.split(",") for end in _range(part, nodelist)]
            made = [start + end for start in made for end in ends]
            if len(made) + len(names) > MAX_HOSTS:
                raise ValueError(f"SLURM_NODELIST: found more than {MAX_HOSTS} machines, expected at most that many")
        names += made
    if not names or any(not re.fullmatch(r"[A-Za-z0-9_.-]+", name) for name in names) or _rebuilt_badly(nodelist):
        raise ValueError(f"SLURM_NODELIST: found {quoted(nodelist, 80)}, expected names such as node[001-004,7]")
    return names


def _range(part: str, nodelist: str) -> list[str]:
    first, dash, last = part.partition("-")
    if not first.isdecimal() or (dash and not last.isdecimal()) or (dash and int(last) < int(first)):
        raise ValueError(f"SLURM_NODELIST: found {quoted(nodelist, 80)}, expected names such as node[001-004,7]")
    if dash and int(last) - int(first) >= MAX_HOSTS:
        raise ValueError(f"SLURM_NODELIST: found more than {MAX_HOSTS} machines, expected at most that many")
    return [f"{number:0{len(first)}d}" for number in range(int(first), int(last or first) + 1)]


def _rebuilt_badly(nodelist: str) -> bool:
    """Whether brackets do not pair up, or there is something empty or unknown between the commas."""
    bare = re.sub(r"\[[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*\]", "0", nodelist)
    return any(not re.fullmatch(r"[A-Za-z0-9_.-]+", part) for part in bare.split(","))


class Ranks:
    """The processes of one training, from their meeting to their end. A context manager.

    Inside it an error on one rank ends all ranks, with its cause, also before `open`. One process alone never waits.
    """

    def __init__(self, place: RankPlace, meet_s: float = MEET_S) -> None:
        """`meet_s`: how long to wait for the other ranks, in seconds."""
        self.place = place
        self.rank, self.world = place.rank, place.world
        self.group: dist.ProcessGroup | None = None  # for small tensors on the CPU whatever the device is
        self._meet_s = meet_s
        self._on_cpu = True
        self._store: dist.Store | None = None
        self._watch: _Watch | None = None

    def __enter__(self) -> Self:
        if self.world > 1:
            self._store = _open_store(self.place, self._meet_s, self.place.leads)
            self._watch = _Watch(self.place)
        return self

    def open(self, device: "torch.device", deadline_s: float, alone_too: bool = False) -> None:
        """Wait for every rank, then open the process group; a collective call may take `deadline_s`.

        `alone_too`: also for a single process, for wrappers that need a group. Raises ValueError if a rank does not
        come, RankFailed if one failed before.
        """
        import torch.distributed as dist

        if self.world == 1 and not alone_too:
            return
        limit = timedelta(seconds=deadline_s)
        self._on_cpu = device.type == "cpu"
        if self.world > 1:
            self._wait_until_all_are_here()
            if self.place.one_machine and self._on_cpu:
                os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        store = dist.PrefixStore("group", self._store or dist.HashStore())
        backend = "gloo" if self._on_cpu else "nccl"
        dist.init_process_group(backend, store=store, rank=self.rank, world_size=self.world, timeout=limit)
        self.group = dist.group.WORLD if self._on_cpu else dist.new_group(backend="gloo", timeout=limit)

    def _wait_until_all_are_here(self) -> None:
        """The group's own wait would neither name who is missing nor end when a rank fails on its way."""
        assert self._store is not None
        assert self._watch is not None
        self._store.set(f"{_HERE}/{self.rank}", "")
        here = self._store.add(_HERE, 1)
        deadline = time.monotonic() + self._meet_s
        while here < self.world:
            self._watch.raise_if_failed()
            if time.monotonic() > deadline:
                missing = [str(rank) for rank in range(self.world) if not self._has(_HERE, rank)]
                raise ValueError(
                    f"rank {self.rank}: found {here} of {self.world} ranks after {self._meet_s:g} s, expected all; see "
                    f"what rank {', '.join(missing[:5])} said"
                )
            time.sleep(0.05)
            here = self._store.add(_HERE, 0)

    def agree(self, *flags: bool) -> tuple[bool, ...]:
        """Each flag is true on all ranks if it is true on one of them. Raises RankFailed if another rank failed."""
        import torch
        import torch.distributed as dist

        if self.world == 1:
            return flags
        assert self._watch is not None
        self._watch.raise_if_failed()
        tensor = torch.tensor(flags, dtype=torch.int32)
        dist.all_reduce(tensor, dist.ReduceOp.MAX, group=self.group)
        return tuple(bool(value) for value in tensor.tolist())

    def wait_for_all(self) -> None:
        """Return when every rank has called this. Raises RankFailed if another rank failed."""
        self.agree(False)

    def add_up(self, numbers: "torch.Tensor") -> "torch.Tensor":
        """The sum of a CPU tensor over all ranks."""
        import torch.distributed as dist

        total = numbers.clone()
        if self.world > 1:
            dist.all_reduce(total, group=self.group)
        return total

    def rows(self, own: "torch.Tensor") -> "torch.Tensor":
        """The CPU tensors of all ranks, which must have one size, stacked in the order of ranks."""
        import torch
        import torch.distributed as dist

        if self.world == 1:
            return own[None].clone()
        rows = [torch.empty_like(own) for _ in range(self.world)]
        dist.all_gather(rows, own.contiguous(), group=self.group)
        return torch.stack(rows)

    def texts(self, own: str) -> list[str]:
        """The texts of all ranks, in their order."""
        import torch

        data = own.encode()
        sizes = self.rows(torch.tensor(len(data))).tolist()
        padded = torch.frombuffer(bytearray(data.ljust(max(sizes, default=0) + 1)), dtype=torch.uint8)
        return [bytes(row[:size].tolist()).decode() for row, size in zip(self.rows(padded), sizes, strict=True)]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._watch is not None and error is not None:
                self._watch.tell(error)
        finally:
            if self._watch is not None:
                self._watch.close()
                self._part(failed=error is not None)
            is_open, self.group = self.group is not None, None  # whoever holds a group keeps its connections open
            if is_open and (error is None or self._on_cpu):  # NCCL's could wait for ranks that are gone
                _close_group(keep=error is None)

    def _part(self, failed: bool) -> None:
        """The rank that runs the store waits until each other rank has read the cause, or has left after a good end."""
        assert self._store is not None
        with contextlib.suppress(RuntimeError):  # the store went with rank 0: there is nobody left to tell
            if not failed:
                self._store.set(f"{_LEFT}/{self.rank}", "")
            waiting = list(range(1, self.world)) if self.place.leads else []
            deadline = time.monotonic() + (HEARD_S if failed else PARTED_S)
            while waiting and time.monotonic() < deadline:
                time.sleep(0.02)
                waiting = [rank for rank in waiting if not self._has(_HEARD, rank) and not self._has(_LEFT, rank)]

    def _has(self, what: str, rank: int) -> bool:
        """Whether that rank has said so in the store."""
        assert self._store is not None
        return self._store.check([f"{what}/{rank}"])


# Closed groups, kept to the end of the process. Gloo's destructor joins threads that may wait for the interpreter's
# lock (to let go of a tensor), and whoever drops the last reference, such as DDP's reducer, holds that lock: both would
# wait for ever. Seen in both of two long runs, in the fourth of twenty trainings stopped at random steps on two ranks.
_CLOSED: list[object] = []


def _close_group(keep: bool) -> None:
    """Close the process group. DeepSpeed's own groups must go first. After an error no group is kept: the connections
    must end, because the other ranks notice that."""
    import torch.distributed as dist
    from torch.distributed import distributed_c10d

    if keep:
        _CLOSED.extend(distributed_c10d._world.pg_map)
    deepspeed = sys.modules.get("deepspeed")
    if deepspeed is None or deepspeed.comm.comm.cdb is None:
        dist.destroy_process_group()
        return
    deepspeed.comm.destroy_process_group()
    deepspeed.comm.comm.cdb = None


def _open_store(place: RankPlace, limit_s: float, leads: bool) -> "dist.Store":
    """A connection to the store of all ranks. `leads`: start the store too, on the loopback device if it is for one
    machine."""
    import torch.distributed as dist

    limit = timedelta(seconds=limit_s)
    host = place.meeting_host
    try:
        if leads and place.one_machine:
            listener = socket.create_server((LOOPBACK, place.port))
            store = dist.TCPStore(host, place.port, place.world, True, limit, False, master_listen_fd=listener.detach())
        else:
            store = dist.TCPStore(host, place.port, place.world, leads, limit, False)
    except (OSError, RuntimeError) as error:  # torch's own network errors are RuntimeErrors
        raise ValueError(
            f"rank {place.rank}: found nobody at {host}:{place.port} ({one_line(str(error), 120)}), expected rank 0 "
            "there; start all ranks, or set MASTER_PORT to a free port"
        ) from None
    return dist.PrefixStore(f"sixfold/{place.restart}", store)


class _Watch:
    """A thread that reads why another rank failed and writes why this one did, on a connection of its own.

    Every wait for the thread has a deadline, because a store whose process is stopped neither answers nor refuses.
    """

    def __init__(self, place: RankPlace) -> None:
        self._place = place
        self._store = _open_store(place, HEARD_S, leads=False)
        self._own = ""  # the cause that this rank has to write
        self._cause = ""  # the cause of the end of all ranks: the first that was written
        self._wake = threading.Event()
        self._known = threading.Event()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ranks", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._cause:
            self._wake.wait(timeout=LOOK_S)
            if self._done.is_set():
                return
            try:
                self._cause = self._look()
            except RuntimeError:
                if self._done.is_set():
                    return
                self._cause = _GONE
        self._known.set()
        if not self._done.wait(timeout=GRACE_S):
            print(f"sixfold: rank {self._place.rank} hangs after: {self._cause}", file=sys.stderr, flush=True)
            os._exit(EXIT_FOLLOWED)

    def _look(self) -> str:
        """The cause, or "" if there is none yet; rank 0 is told that this rank has read it."""
        if self._own:
            cause = self._store.compare_set(_CAUSE, "", self._own)
        elif self._store.check([_CAUSE]):
            cause = self._store.get(_CAUSE)
        else:
            return ""
        self._store.set(f"{_HEARD}/{self._place.rank}", "")
        return str(cause.decode("utf-8", "replace"))

    def raise_if_failed(self) -> None:
        if self._known.is_set():
            raise RankFailed(self._cause)

    def tell(self, error: BaseException) -> None:
        """Write the cause for the other ranks. Raises RankFailed if another one failed first.

        A collective call fails on all other ranks when one is gone, so what they see is not the cause.
        """
        if isinstance(error, RankFailed):
            return
        is_echo = _is_echo(error)
        if is_echo:
            self._known.wait(timeout=2 * LOOK_S + 1.0)
        said = one_line(str(error)) or type(error).__name__
        lost = f"another rank ended without a word, or did not come in time ({said[:120]}); see its own output"
        own = one_line(f"rank {self._place.rank}: {lost if is_echo else said}")
        if not self._known.is_set():
            self._own = own
            self._wake.set()
            self._known.wait(timeout=HEARD_S)
        cause = self._cause or own
        if is_echo or cause not in (own, _GONE):
            raise RankFailed(cause) from error

    def close(self) -> None:
        self._done.set()
        self._wake.set()
        self._thread.join(timeout=LOOK_S)


def _is_echo(error: BaseException) -> bool:
    """Whether a collective call or the store raises this when another rank is gone."""
    import torch.distributed as dist

    words = ("gloo", "nccl", "connection closed", "connection reset", "broken pipe", "timed out waiting")
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)
    )


def device_of(place: RankPlace, environment: Mapping[str, str]) -> Any:
    """The GPU of this rank, or the CPU if there is none; makes the GPU torch's current one.

    A process that sees one GPU only (`srun --gpus-per-task=1`, Ray) uses that one.
    """
    import torch

    if not torch.cuda.is_available():
        return torch.device("cpu")
    number = gpu_number(place, torch.cuda.device_count(), environment.get("CUDA_VISIBLE_DEVICES"))
    device = torch.device("cuda", number)
    torch.cuda.set_device(device)
    torch.backends.cudnn.benchmark = True  # all batches have one shape
    return device


def gpu_number(place: RankPlace, num_gpus: int, visible: str | None) -> int:
    """Which of the GPUs this rank uses. Raises ValueError if this machine has fewer GPUs than ranks."""
    if num_gpus == 1 and visible is not None:
        return 0
    if place.local_rank >= num_gpus:
        raise ValueError(
            f"rank {place.rank}: found {num_gpus} GPUs for local rank {place.local_rank}, expected one each; start "
            f"fewer processes on this machine"
        )
    return place.local_rank
