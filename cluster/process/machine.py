"""What this machine gives to this process: cores and memory.

In: what the operating system says, the limits of a container included. Out: numbers. On disk: nothing.
"""

import contextlib
import os
from pathlib import Path

import psutil

CGROUP = Path("/sys/fs/cgroup")
MEMORY_LIMITS = ("memory.max", "memory/memory.limit_in_bytes")  # of version 2, of version 1


def usable_cores() -> int:
    """How many cores this process may use: the least of its affinity, the physical cores and its cgroup's CPU quota."""
    cores = len(os.sched_getaffinity(0))
    cores = min(cores, psutil.cpu_count(logical=False) or cores)
    with contextlib.suppress(OSError, ValueError):  # no cgroup v2, or "max": no quota
        quota, period = (CGROUP / "cpu.max").read_text().split()
        cores = min(cores, int(quota) // int(period))
    return max(1, cores)


def memory_bytes() -> int:
    """The memory that all processes here share: the machine's, or what the container may use of it."""
    total = int(psutil.virtual_memory().total)
    for name in MEMORY_LIMITS:
        with contextlib.suppress(OSError, ValueError):  # no such limit, or "max"
            total = min(total, int((CGROUP / name).read_text()))
    return total
