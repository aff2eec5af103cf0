"""What the benchmarks of a GPU share: ceilings, the facts of the machine, files that are replaced whole.

In: a device, samples. Out: figures and text. On disk: what `replace_files` is given. Needs nothing but torch.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import statistics
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import torch

Samples: TypeAlias = tuple[float, ...]


@dataclass(frozen=True)
class Verdict:
    target: str
    found: str
    met: bool | None  # None: nothing is judged (in miniature, or a figure that is only reported)

    @property
    def word(self) -> str:
        return {True: "yes", False: "**missed**", None: "not judged"}[self.met]


def synchronize(device: str) -> None:
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


def ceilings(device: str, dtype: torch.dtype, dry: bool, clock: Callable[[], float]) -> dict[str, Samples]:
    """TFLOP/s of a large matrix product of random numbers, TB/s of a large copy (read and written)."""
    import torch

    side, count, num_bytes = (128, 2, 2**20) if dry else (8192, 10, 2**32)
    rng = torch.Generator(device).manual_seed(0)
    a, b = (torch.randn(side, side, generator=rng, device=device, dtype=dtype) for _ in range(2))
    source = torch.ones(num_bytes // 2, device=device, dtype=torch.bfloat16)
    target = torch.empty_like(source)
    jobs: dict[str, tuple[float, Callable[[], Any]]] = {
        "matmul TFLOP/s": (2 * side**3, lambda: a @ b),
        "copy TB/s": (2 * num_bytes, lambda: target.copy_(source)),
    }
    found = {}
    for name, (amount, job) in jobs.items():
        samples = []
        for repeat in range(2 if dry else 6):
            synchronize(device)
            begun = clock()
            for _ in range(count):
                job()
            synchronize(device)
            if repeat:  # the first one warms up
                samples.append(count * amount / (clock() - begun) / 1e12)
        found[name] = tuple(samples)
    return found


def over(ours: Samples, theirs: Samples) -> Samples:
    """Repeat by repeat: both ran within the same seconds."""
    return tuple(a / b for a, b in zip(ours, theirs, strict=True))


def spread(samples: Samples, unit: str = "") -> str:
    """`1.522 (1.493 - 1.601)`: median, least, most."""
    middle = f"{statistics.median(samples):.4g}{unit}"
    return middle if len(samples) == 1 else f"{middle} ({min(samples):.4g} - {max(samples):.4g})"


def told(where: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    top = ", ".join(f"{name} {spread(tuple(one))}" for name, one in where["ceilings"].items())
    extras = f" Extras: {', '.join(where['extras'])}." if where.get("extras") else ""
    small = " In miniature: no figure says anything." * where["dry"]
    return (
        f"{where['date']}, {where['device']}, {where['cores']} CPU cores; {versions}. Ceilings: {top}.{extras}{small}"
    )


def facts(dry: bool, libraries: Sequence[str]) -> dict[str, Any]:
    """Of the machine, and nothing that names it; versions of those libraries that are installed."""
    import torch

    installed = {one.metadata["Name"].lower() for one in importlib.metadata.distributions() if one.metadata["Name"]}
    device = "CPU, tiny networks"
    if not dry:
        gigabytes = torch.cuda.get_device_properties(0).total_memory / 2**30
        device = f"{torch.cuda.get_device_name(0)}, {gigabytes:.0f} GiB, CUDA {torch.version.cuda}"
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "dry": dry,
        "device": device,
        "cores": len(os.sched_getaffinity(0)),
        "versions": {
            "Python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in libraries if name in installed},
        },
    }


def failure(error: Exception) -> str:
    traceback.print_exception(error)
    cause = (str(error).strip().splitlines() or [""])[0][:300]
    return f"FAILED, {type(error).__name__}: {cause}"


def kept(file: Path) -> list[tuple[str, dict[str, Any]]]:
    """The rows of a JSON file by name, samples and verdicts as they were; none if there is no file."""
    if not file.is_file():
        return []
    rows = json.loads(file.read_text(encoding="utf-8"))
    for row in rows.values():
        row["verdicts"] = [Verdict(**one) for one in row["verdicts"]]
        for line in row["lines"]:
            line["figures"] = {name: tuple(samples) for name, samples in line["figures"].items()}
    return list(rows.items())


def replace_files(folder: Path, texts: Mapping[str, str]) -> None:
    """Name -> text. Each file is replaced whole, so that a kill leaves what was there."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        partial_file = folder / f"{name}.part"
        partial_file.write_text(text, encoding="utf-8")
        partial_file.replace(folder / name)


@contextlib.contextmanager
def empty_compile_cache() -> Iterator[None]:
    """An empty place for compiled code, so that a first call is a first call; the caller's own is put back."""
    name = "TORCHINDUCTOR_CACHE_DIR"
    before = os.environ.get(name)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as empty:
        os.environ[name] = empty
        try:
            yield
        finally:
            del os.environ[name]
            if before is not None:
                os.environ[name] = before


@contextlib.contextmanager
def in_miniature() -> Iterator[None]:
    """One thread, and what asks to be compiled runs uncompiled: compiling would take minutes and say nothing."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        torch.set_num_threads(threads)
