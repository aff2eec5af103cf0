"""Processes by identity: a pid alone may name another process tomorrow.

In: pids. Out: identities (host's boot, pid namespace, pid, start time), and a kill that never hits a stranger.
On disk: reads /proc only (Linux).
"""

import contextlib
import os
import signal
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ProcessId:
    """One process on one boot of one machine."""

    place: str  # boot id and pid namespace: equal means that os.kill reaches it
    pid: int
    started: int  # clock ticks after boot; with the pid, unique


def this_place() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}/{os.readlink('/proc/self/ns/pid')}"


def start_ticks(pid: int) -> int | None:
    """When the process started, or None if there is none (or only a zombie is left)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()  # the name before it may contain anything
    return None if fields[0] in "ZX" else int(fields[19])


def this_process() -> ProcessId:
    started = start_ticks(os.getpid())
    assert started is not None
    return ProcessId(this_place(), os.getpid(), started)


def alive(process: ProcessId) -> bool:
    """Whether it runs (or is stopped). Only meaningful at its own place."""
    return process.place == this_place() and start_ticks(process.pid) == process.started


def session_members(leader: ProcessId) -> list[ProcessId]:
    """What runs here in the session that `leader` began, itself included; also when it is gone itself."""
    now = start_ticks(leader.pid)
    if leader.place != this_place() or now not in (None, leader.started):  # another one has its number by now
        return []
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it may end between the list and the look
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == leader.pid and fields[0] not in "ZX":
                found.append(ProcessId(leader.place, int(folder.name), int(fields[19])))
    return found


def kill_here(process: ProcessId) -> bool:
    """SIGKILL the process, and its group if it leads one. False if it is not here or gone already.

    SIGKILL also ends a process that SIGSTOP froze or that hangs in C code, where Ray's own kill (a request that
    the process itself must answer) does nothing.
    """
    if not alive(process):
        return False
    with contextlib.suppress(ProcessLookupError):  # it may end between the look and the kill
        if os.getpgid(process.pid) == process.pid:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            os.kill(process.pid, signal.SIGKILL)
        return True
    return False
