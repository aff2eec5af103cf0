"""Workers for the fan-out's tests: importable in worker processes, small, and bad in known ways.

Each writes ``<folder>/<unit>.txt`` the way a shard is published: a temporary of its own, then an exclusive link. The
contents are a function of the unit alone; ``<folder>/log/`` holds one file per attempt, named with its process.
"""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from cluster.fan_out.work import Beat, Worker
from cluster.process.exit import WorkerBroken
from shards.disk.record import JSON

SEEN = ("OMP_NUM_THREADS", "PYTORCH_ALLOC_CONF", "TORCHINDUCTOR_COMPILE_THREADS", "CUDA_VISIBLE_DEVICES")


def printed_seed() -> int:
    """A fresh seed; pytest shows it when the test fails. Put a failing one in the test as a constant."""
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    return seed


def contents(unit: int) -> bytes:
    return hashlib.sha256(f"unit {unit}".encode()).hexdigest().encode() * 40


def publish(folder: Path, unit: int, attempt: str) -> bool:
    """True if this attempt's file became the unit's."""
    temp = folder / f"{unit}.{attempt}.tmp"
    temp.write_bytes(contents(unit))
    try:
        os.link(temp, folder / f"{unit}.txt")
    except FileExistsError:
        return False
    finally:
        temp.unlink()
    return True


def note(folder: Path, unit: int, attempt: str) -> None:
    (folder / "log").mkdir(parents=True, exist_ok=True)
    (folder / "log" / f"{unit}.{attempt}.{os.getpid()}").touch()


def attempts_of(folder: Path, unit: int) -> list[str]:
    return sorted(path.name.split(".")[1] for path in (folder / "log").glob(f"{unit}.*"))


def first_time(folder: Path, name: str) -> bool:
    """True once per folder and name, over all processes."""
    try:
        (folder / name).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def writer(folder: Path, seconds: float = 0.0, beats: int = 10) -> Worker:
    """The good worker: beats, then a file."""

    def work(unit: int, attempt: str, beat: Beat) -> Mapping[str, JSON]:
        note(folder, unit, attempt)
        for step in range(beats):
            time.sleep(seconds / beats)
            beat(step + 1, 0)
        return {
            "published": publish(folder, unit, attempt),
            "environ": {name: os.environ.get(name, "not set") for name in SEEN},
        }

    return work


def talker(num_bytes: int) -> Worker:
    """Returns more than a result should hold."""

    def work(unit: int, attempt: str, beat: Beat) -> Mapping[str, JSON]:
        beat(1, 0)
        return {"text": "x" * num_bytes}

    return work


def in_company(folder: Path) -> Worker:
    """The good worker; its first unit ends when a second process has begun one, or after two minutes."""
    good = writer(folder, 0.1)

    def work(unit: int, attempt: str, beat: Beat) -> Mapping[str, JSON]:
        note(folder, unit, attempt)
        deadline = time.monotonic() + 120
        while len({path.suffix for path in (folder / "log").iterdir()}) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
            beat(0, 0)
        return good(unit, attempt, beat)

    return work


def misbehaving(folder: Path, kinds: Mapping[int, str], seconds: float = 0.1) -> Worker:
    """Good but for the units in ``kinds``, where it does what is said there."""
    good = writer(folder, seconds)

    def work(unit: int, attempt: str, beat: Beat) -> Mapping[str, JSON]:
        if unit not in kinds:
            return good(unit, attempt, beat)
        note(folder, unit, attempt)
        beat(0, 0)
        first = first_time(folder, f"first.{unit}")
        match kinds[unit]:
            case "raises":
                raise ValueError(f"image 7 of unit {unit}:\nfound NaN")
            case "broken once" if first:
                raise WorkerBroken("device lost")
            case "loses its device once" if first:
                raise RuntimeError("CUDA error: an illegal memory access was encountered")
            case "fills its device once" if first:
                raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
            case "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            case "stops once" if first:
                os.kill(os.getpid(), signal.SIGSTOP)
            case "loops once" if first:
                while True:
                    pass
            case "hangs":
                time.sleep(300)
            case "crawls once" if first:
                for _ in range(6000):
                    time.sleep(0.1)
                    beat(0, 0)
        return good(unit, attempt, beat)

    return work


def with_children(folder: Path) -> Worker:
    """Leaves a child process behind in its first attempt, and dies."""
    good = writer(folder)

    def work(unit: int, attempt: str, beat: Beat) -> Mapping[str, JSON]:
        if first_time(folder, "child"):
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
            (folder / "child.pid").write_text(str(child.pid))
            os.kill(os.getpid(), signal.SIGKILL)
        return good(unit, attempt, beat)

    return work


def failing_constructor(cause: str) -> Worker:
    raise FileNotFoundError(cause)


def slow_constructor_once(folder: Path, build_s: float, kinds: Mapping[int, str], seconds: float) -> Worker:
    """Misbehaving; the first one built takes its time."""
    if first_time(folder, "slow"):
        time.sleep(build_s)
    return misbehaving(folder, kinds, seconds)


def partly_failing(folder: Path) -> Worker:
    """B9: bad images become rows of the result, the unit goes through."""

    def work(unit: int, attempt: str, beat: Beat) -> Mapping[str, JSON]:
        rows: list[JSON] = []
        for image in range(100):
            try:
                if image == unit:
                    raise ValueError(f"image {image} is black")
            except ValueError as error:
                rows.append({"image": image, "status": str(error)})
            beat(image + 1 - len(rows), len(rows))
        publish(folder, unit, attempt)
        return {"failures": rows}

    return work
