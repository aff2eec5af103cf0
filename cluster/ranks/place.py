"""The place of a process among the ranks of one training: which of how many, where rank 0 is, which GPU it uses.

In: the environment, as a plain start, `torchrun` (and whatever sets the same names, such as Ray Train) or `srun` leaves
it. Out: a `RankPlace`; the device of a place. On disk: nothing.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from shards.disk.safe_text import quoted

Launcher = Literal["plain", "torchrun", "srun"]

LOOPBACK = "127.0.0.1"
PORTS = range(20_000, 32_000)  # below those that Linux gives out by itself
MAX_HOSTS = 100_000

_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_RESTART = "TORCHELASTIC_RESTART_COUNT"
_SLURM = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")
_OF_A_RANK = re.compile(
    r"(LOCAL_|GROUP_|ROLE_)?(RANK|WORLD_SIZE)|MASTER_(ADDR|PORT)|TORCHELASTIC_\w+"
    r"|SLURM_(STEP_\w+|STEPID|PROCID|LOCALID|NODEID|TASK_PID|NTASKS|NPROCS)"
)


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
