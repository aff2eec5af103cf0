"""The facts of a machine that a figure depends on, and nothing that names it.

In: the system and the folder the benchmarks write to. Out: a JSON object: date, cores, CPU model, memory, kind of file
system, load, versions of the libraries that are installed. No host, user or path is in it.
"""

import importlib.metadata
import os
import platform
import time
from pathlib import Path
from typing import Any

import psutil

LIBRARIES = ("torch", "diffusers", "transformers", "numpy", "pyarrow", "pillow", "simplejpeg", "webdataset")


def facts(scratch: Path) -> dict[str, Any]:
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "cores": len(os.sched_getaffinity(0)),
        "cpu": _cpu_model(),
        "memory_GiB": round(psutil.virtual_memory().total / 2**30),
        "file_system": _file_system(scratch),
        "load": os.getloadavg()[0],
        "versions": {
            "Python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in LIBRARIES if _is_installed(name)},
        },
    }


def _is_installed(library: str) -> bool:
    return next(importlib.metadata.distributions(name=library), None) is not None


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.machine()


def _file_system(folder: Path) -> str:
    """The kind, such as ext4: the mount with the longest path above `folder`."""
    place = folder.resolve()
    mounts = [one for one in psutil.disk_partitions(all=True) if place.is_relative_to(one.mountpoint)]
    return max(mounts, key=lambda one: len(one.mountpoint)).fstype if mounts else "unknown file system"
