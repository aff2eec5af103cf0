"""Processes by identity: the system gives a pid to another process later, so a pid alone is not enough.

In: pids. Out: identities (boot of the machine, pid namespace, pid, start time), and a kill that checks the identity.
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
    """Boot id of this machine and pid namespace: what a `ProcessId` of this process has as `place`."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}/{os.readlink('/proc/self/ns/pid')}"


def start_ticks(pid: int) -> int | None:
    """When the process started, in clock ticks after boot; None if there is no such process or it is a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()  # the name before it may contain anything
    return None if fields[0] in "ZX" else int(fields[19])


def this_process() -> ProcessId:
    """The identity of the calling process."""
    started = start_ticks(os.getpid())
    assert started is not None
    return ProcessId(this_place(), os.getpid(), started)


def alive(process: ProcessId) -> bool:
    """Whether the process exists, running or stopped. False for one of another machine, where nobody here can look."""
    return process.place == this_place() and start_ticks(process.pid) == process.started


def session_members(leader: ProcessId) -> list[ProcessId]:
    """The living processes of the session that `leader` began, `leader` included if it lives."""
    now = start_ticks(leader.pid)
    if leader.place != this_place() or now not in (None, leader.started):  # another process has its pid by now
        return []
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it may have ended since the list was made
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == leader.pid and fields[0] not in "ZX":
                found.append(ProcessId(leader.place, int(folder.name), int(fields[19])))
    return found


def kill_here(process: ProcessId) -> bool:
    """Send SIGKILL to the process, or to its group if it leads one. False if it is not here or has ended.

    SIGKILL also ends a process that SIGSTOP froze or that hangs in C code. Ray's own kill does not: the process itself
    must answer it.
    """
    if not alive(process):
        return False
    with contextlib.suppress(ProcessLookupError):  # it may have ended since the check
        if os.getpgid(process.pid) == process.pid:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            os.kill(process.pid, signal.SIGKILL)
        return True
    return False
