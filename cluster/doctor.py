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
from cluster.process.reach import why_no_head
from cluster.process.stop_flag import StopFlag

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
HEAD_S = 3.0  # for the head of a cluster to answer


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
    yield _check("python", sys.version_info >= (3, 11), version, "needs 3.11 or newer")
    yield from _floors()
    cores = len(os.sched_getaffinity(0))
    yield _check("cores", cores > 1, f"{cores} usable", "one worker at a time", "note")
    free = psutil.virtual_memory().available
    yield _check("memory", free > 4e9, f"{free / 1e9:.1f} GB free", "use one worker", "note")
    yield _shared_memory()
    yield _disk(folder)
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = soft == resource.RLIM_INFINITY or soft >= 1024
    yield _check("open files", enough, f"at most {soft}", "ulimit -n 65536", "note")
    yield from _gpus(environ)
    yield from _ray(environ)
    unsafe = [name for name in environ if name in UNSAFE_SWITCHES or UNSAFE_PATTERN.fullmatch(name)]
    said = ", ".join(unsafe) or "none is off"
    yield _check("safety switches", not unsafe, said, "unset them; every run clears them")


def _check(name: str, is_good: bool, found: str, advice: str, otherwise: Literal["note", "bad"] = "bad") -> Check:
    return Check(name, "ok", found) if is_good else Check(name, otherwise, found, advice)


def _floors() -> Iterator[Check]:
    for package, floor in FLOORS.items():
        try:
            found = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            yield Check(package, "bad", "not installed", "run `make test` once: it sets up .venv")
            continue
        numbers = tuple(int(part) for part in re.findall(r"\d+", found)[:2])
        yield _check(package, numbers >= floor, found, f"needs {'.'.join(map(str, floor))}")


def _shared_memory() -> Check:
    try:
        free = shutil.disk_usage("/dev/shm").free
    except OSError:
        return Check("/dev/shm", "note", "missing", "Ray falls back to /tmp; in a container give --shm-size=1g")
    return _check("/dev/shm", free > 200e6, f"{free / 1e9:.1f} GB free", "give --shm-size=1g", "note")


def _disk(folder: Path) -> Check:
    place = next(parent for parent in [folder.absolute(), *folder.absolute().parents] if parent.exists())
    if not place.is_dir():
        said = f"{place} is a file, nothing can be written below it"
        return Check("disk", "bad", said, "give another folder as --out")
    free = shutil.disk_usage(place).free
    return _check("disk", free > 2e9, f"{free / 1e9:.1f} GB free at {place}", "free some")


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
    yield _check("torch CUDA", bool(visible), f"{visible} visible", "driver too old for this torch?")
    missing = missing_build_tools(environ)
    said = f"no {' and no '.join(missing)}" if missing else "a C compiler and Python.h are here"
    advice = "install gcc and the headers of this Python (python3-dev), or set sampler.compile=none"
    yield _check("torch.compile", not missing, said, advice)


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
    if not address:
        yield Check("RAY_ADDRESS", "ok", "none named: runs start Ray on this machine")
    elif address == "auto":
        yield Check("RAY_ADDRESS", "note", "auto: not asked", "a run joins the cluster that this machine is a node of")
    else:
        wrong = why_no_head(address, HEAD_S, environ, StopFlag())
        found = wrong or "its head answers: runs join that cluster"
        yield _check("RAY_ADDRESS", not wrong, found, "start the cluster, or correct or unset RAY_ADDRESS")
    token = Path(environ.get("RAY_AUTH_TOKEN_PATH", str(Path.home() / ".ray" / "auth_token")))
    if token.is_file():
        mode = stat.S_IMODE(token.stat().st_mode)
        yield _check("Ray token file", not mode & 0o077, oct(mode), f"chmod 600 {token}")
    elif address and "RAY_AUTH_TOKEN" not in environ:
        yield Check(
            "Ray token",
            "note",
            "none",
            "a cluster without token runs code for anyone who reaches it; set RAY_AUTH_MODE=token",
        )
