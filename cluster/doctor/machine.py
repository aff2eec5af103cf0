"""What this machine has for a run: cores, memory, open files, GPUs and what compiles for them.

In: the environment. Out: `Check`s. On disk: nothing.
"""

import os
import resource
import shutil
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil

from cluster.doctor.check import Check, check
from cluster.process.ask import ask

NVIDIA_SMI_S = 20.0


def machine(environ: Mapping[str, str]) -> Iterator[Check]:
    """Cheap ones first. With a GPU it takes some seconds, because torch is imported."""
    cores = len(os.sched_getaffinity(0))
    yield check("cores", cores > 1, f"{cores} usable", "one worker at a time", "note")
    free = psutil.virtual_memory().available
    yield check("memory", free > 4e9, f"{free / 1e9:.1f} GB free", "use one worker", "note")
    yield _shared_memory()
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = soft == resource.RLIM_INFINITY or soft >= 1024
    yield check("open files", enough, f"at most {soft}", "ulimit -n 65536", "note")
    yield from _gpus(environ)


def _shared_memory() -> Check:
    try:
        free = shutil.disk_usage("/dev/shm").free
    except OSError:
        return Check("/dev/shm", "note", "missing", "Ray falls back to /tmp; in a container give --shm-size=1g")
    return check("/dev/shm", free > 200e6, f"{free / 1e9:.1f} GB free", "give --shm-size=1g", "note")


def _gpus(environ: Mapping[str, str]) -> Iterator[Check]:
    if shutil.which("nvidia-smi") is None:
        yield Check("GPUs", "note", "none (no nvidia-smi)", "the sandbox runs on cores; large models want a GPU")
        return
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    answer = ask(query, NVIDIA_SMI_S, {**environ, "PATH": os.environ.get("PATH", os.defpath)})
    if answer.trouble:
        yield Check("GPUs", "bad", f"nvidia-smi fails: {answer.trouble}", "look at the driver: `nvidia-smi`")
        return
    yield Check("GPUs", "ok", "; ".join(line.strip() for line in answer.said.splitlines()) or "none listed")
    import torch

    visible = torch.cuda.device_count()
    yield check("torch CUDA", bool(visible), f"{visible} visible", "driver too old for this torch?")
    missing = missing_build_tools(environ)
    said = f"no {' and no '.join(missing)}" if missing else "a C compiler and Python.h are here"
    advice = "install gcc and the headers of this Python (python3-dev), or set sampler.compile=none"
    yield check("torch.compile", not missing, said, advice)


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
