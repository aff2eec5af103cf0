"""What this machine has, and what it lacks for a run: a list of checks, each with advice.

In: the environment, the output folder. Out: `Check`s. On disk: nothing.
"""

import importlib.metadata
import os
import re
import resource
import shutil
import stat
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from cluster.process.environment import named_cluster

# Older versions have known security holes: read_webdataset unpickles (ray), weights_only can be bypassed and memory
# corrupted (torch), a JPEG can overflow a buffer (Pillow).
FLOORS = {"ray": (2, 60), "torch": (2, 10), "pillow": (13, 0), "safetensors": (0, 5)}
# Variables that switch safety checks of our libraries off; every run removes them.
UNSAFE_SWITCHES = (
    "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD",
    "HF_TRUST_REMOTE_CODE",
    "RAY_DATA_AUTOLOAD_CLOUDPICKLE_TENSOR_METADATA",
    "GOPEN_REWRITE",
)
UNSAFE_PATTERN = re.compile(r"RAY_DATA_\w*UNSAFE\w*")
NVIDIA_SMI_S = 20


@dataclass(frozen=True)
class Check:
    """One finding: what was looked at, whether it is good enough, what was found, and what to do about it."""

    name: str
    verdict: Literal["ok", "note", "bad"]
    found: str
    advice: str = ""


def clear_unsafe_switches(environ: MutableMapping[str, str]) -> list[str]:
    """Remove the variables that switch a library's safety checks off; returns their names."""
    names = [name for name in environ if name in UNSAFE_SWITCHES or UNSAFE_PATTERN.fullmatch(name)]
    for name in names:
        del environ[name]
    return names


def examine(environ: Mapping[str, str], folder: Path) -> Iterator[Check]:
    """All checks, cheap ones first. With a GPU it takes some seconds, because torch is imported."""
    version = ".".join(map(str, sys.version_info[:3]))
    yield Check("python", "ok" if sys.version_info >= (3, 11) else "bad", version, "needs 3.11 or newer")
    yield from _floors()
    yield _cores()
    yield _memory()
    yield _shared_memory()
    yield _disk(folder)
    yield _descriptors()
    yield from _gpus(environ)
    yield from _ray(environ)
    unsafe = [name for name in environ if name in UNSAFE_SWITCHES or UNSAFE_PATTERN.fullmatch(name)]
    yield Check(
        "safety switches",
        "bad" if unsafe else "ok",
        ", ".join(unsafe) or "none is off",
        "unset them; every run clears them" if unsafe else "",
    )


def _floors() -> Iterator[Check]:
    for package, floor in FLOORS.items():
        wanted = ".".join(map(str, floor))
        try:
            found = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            yield Check(package, "bad", "not installed", "run `make test` once: it sets up .venv")
            continue
        numbers = tuple(int(part) for part in re.findall(r"\d+", found)[:2])
        yield Check(package, "ok" if numbers >= floor else "bad", found, "" if numbers >= floor else f"needs {wanted}")


def _cores() -> Check:
    cores = len(os.sched_getaffinity(0))
    return Check("cores", "ok" if cores > 1 else "note", f"{cores} usable", "" if cores > 1 else "one worker at a time")


def _memory() -> Check:
    free = psutil.virtual_memory().available
    return Check(
        "memory", "ok" if free > 4e9 else "note", f"{free / 1e9:.1f} GB free", "" if free > 4e9 else "use one worker"
    )


def _shared_memory() -> Check:
    try:
        free = shutil.disk_usage("/dev/shm").free
    except OSError:
        return Check("/dev/shm", "note", "missing", "Ray falls back to /tmp; in a container give --shm-size=1g")
    enough = free > 200e6
    return Check(
        "/dev/shm", "ok" if enough else "note", f"{free / 1e9:.1f} GB free", "" if enough else "give --shm-size=1g"
    )


def _disk(folder: Path) -> Check:
    place = next(parent for parent in [folder.absolute(), *folder.absolute().parents] if parent.exists())
    if not place.is_dir():
        return Check(
            "disk", "bad", f"{place} is a file, nothing can be written below it", "give another folder as --out"
        )
    free = shutil.disk_usage(place).free
    return Check(
        "disk", "ok" if free > 2e9 else "bad", f"{free / 1e9:.1f} GB free at {place}", "" if free > 2e9 else "free some"
    )


def _descriptors() -> Check:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = soft == resource.RLIM_INFINITY or soft >= 1024
    return Check("open files", "ok" if enough else "note", f"at most {soft}", "" if enough else "ulimit -n 65536")


def _gpus(environ: Mapping[str, str]) -> Iterator[Check]:
    if shutil.which("nvidia-smi") is None:
        yield Check("GPUs", "note", "none (no nvidia-smi)", "the sandbox runs on cores; large models want a GPU")
        return
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=NVIDIA_SMI_S, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        yield Check("GPUs", "bad", f"nvidia-smi fails ({type(error).__name__})", "look at the driver: `nvidia-smi`")
        return
    yield Check("GPUs", "ok", "; ".join(line.strip() for line in answer.splitlines()) or "none listed")
    import torch

    visible = torch.cuda.device_count()
    yield Check(
        "torch CUDA",
        "ok" if visible else "bad",
        f"{visible} visible",
        "" if visible else "driver too old for this torch?",
    )
    missing = missing_build_tools(environ)
    yield Check(
        "torch.compile",
        "bad" if missing else "ok",
        f"no {' and no '.join(missing)}" if missing else "a C compiler and Python.h are here",
        "install gcc and the headers of this Python (python3-dev), or set sampler.compile=none" if missing else "",
    )


def missing_build_tools(environ: Mapping[str, str]) -> list[str]:
    """What this machine lacks to compile kernels for a GPU, in words; searched for in the places Triton uses."""
    missing = []
    named = environ.get("CC", "").split()
    if not any(shutil.which(name, path=environ.get("PATH")) for name in named[:1] or ("gcc", "clang")):
        missing.append(f"C compiler ({f'CC={named[0]}' if named else 'gcc or clang'})")
    scheme = sysconfig.get_default_scheme()
    paths = sysconfig.get_paths("posix_prefix" if scheme == "posix_local" else scheme)
    if not (Path(paths["include"]) / "Python.h").is_file():
        missing.append("Python.h")
    return missing


def _ray(environ: Mapping[str, str]) -> Iterator[Check]:
    address = named_cluster(environ)
    yield Check(
        "RAY_ADDRESS", "ok", "set: runs join that cluster" if address else "none named: runs start Ray on this machine"
    )
    token = Path(environ.get("RAY_AUTH_TOKEN_PATH", str(Path.home() / ".ray" / "auth_token")))
    if token.is_file():
        mode = stat.S_IMODE(token.stat().st_mode)
        private = not mode & 0o077
        yield Check("Ray token file", "ok" if private else "bad", oct(mode), "" if private else f"chmod 600 {token}")
    elif address and "RAY_AUTH_TOKEN" not in environ:
        yield Check(
            "Ray token",
            "note",
            "none",
            "a cluster without token runs code for anyone who reaches it; set RAY_AUTH_MODE=token",
        )
