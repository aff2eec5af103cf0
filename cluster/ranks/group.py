"""The ranks of one training: how they meet, and how one failure ends all of them.

In: a `RankPlace`. Out: `Ranks`, the open process group. On disk: nothing.

An error on one rank ends all ranks within seconds, and each names the cause. The rank that failed writes the cause to
the store at which the ranks met. A thread of each rank reads there twice a second, and ends its rank if that hangs in a
collective call. The store ends with rank 0, so rank 0 waits until the others have read the cause, or for `HEARD_S`. A
rank that hangs is noticed by the others after `deadline_s`.
"""

import contextlib
import os
import socket
import sys
import threading
import time
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Self

from cluster.process.exit import EXIT_FOLLOWED
from cluster.ranks.place import LOOPBACK, RankPlace
from shards.disk.safe_text import for_screen, one_line

if TYPE_CHECKING:
    import torch
    import torch.distributed as dist

LOOK_S = 0.5  # between two looks for a cause
HEARD_S = 10.0  # a failing rank 0 waits this long for the others to read why
PARTED_S = 60.0  # after a good end rank 0 waits this long for the others to leave
GRACE_S = 10.0  # from a known cause until a rank that hangs is ended
MEET_S = 300.0  # for all ranks to come together

_HERE, _CAUSE, _HEARD, _LEFT = "here", "cause", "heard", "left"
_GONE = "rank 0 is gone without a word"


class RankFailed(ValueError):
    """Another rank failed; the message says which one, and why."""


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

        `alone_too`: also for a single process, for wrappers that need a group. A second call changes nothing: several
        trainings one after the other share the group. Raises ValueError if a rank does not come, RankFailed if one
        failed before.
        """
        import torch.distributed as dist

        if self.group is not None or (self.world == 1 and not alone_too):
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
            told = f"sixfold: rank {self._place.rank} hangs after: {self._cause}"
            print(for_screen(told), file=sys.stderr, flush=True)
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
