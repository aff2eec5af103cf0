"""Environments of the programs that we are measured beside: each of its own, because their pins exclude each other.

In: the name of a lock, `docs/bench/peers-NAME.lock` (versions and hashes). Out: the Python of its environment. On disk:
`.peers/NAME/`, made by uv when it is missing or older than its lock; git does not see it.

A lock is made from the few names that matter, as in

    uv pip compile --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate NAMES.in

with, for autofaiss: `autofaiss==2.18.0 numpy<2 faiss-cpu<1.12 pyarrow<22`. It accepts a pyarrow that needs NumPy 2, and
calls FAISS by names that 1.12 no longer has.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from shards.disk.home import home

FOLDER = ".peers"
DEADLINE_S = 900  # hnswlib is compiled


def python_of(name: str) -> Path:
    """The interpreter of the environment, made first if it must be. Raises ValueError in one line if it cannot be."""
    lock, place = home() / "docs" / "bench" / f"peers-{name}.lock", home() / FOLDER / name
    ready = place / f".ready-{lock.stat().st_mtime_ns}"
    python = place / "bin" / "python"
    if ready.exists():
        return python
    uv = home() / ".venv" / "uv"
    program = str(uv) if uv.exists() else shutil.which("uv")
    if program is None:
        raise ValueError("uv: found none, expected .venv/uv (make lint puts it there), or uv on the path")
    shutil.rmtree(place, ignore_errors=True)
    clean = {key: value for key, value in os.environ.items() if key not in ("VIRTUAL_ENV", "PYTHONPATH")}
    for command in (
        [program, "venv", "--quiet", "--python", sys.executable, str(place)],
        [program, "pip", "sync", "--quiet", "--require-hashes", "--python", str(python), str(lock)],
    ):
        done = subprocess.run(command, env=clean, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
        if done.returncode:
            raise ValueError(f"{name}: its environment cannot be made ({done.stderr.strip()[-300:]})")
    ready.touch()
    return python
