"""How a row is timed, and what a row says.

In: sides (functions that do the same work in another way). Out: samples of CPU and wall time, taken in turn
(A B A B ...) so that a busy machine slows every side, and a `Result` with all of them. On disk: nothing that stays;
each call of a side gets an empty folder, whose removal is not timed.

CPU time is user and system time of this process, all its threads, and of finished children.
"""

import resource
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

REPEATS = 5

Side: TypeAlias = Callable[[Path], int]  # does the work in an empty folder; how many items it did
Samples: TypeAlias = tuple[float, ...]


@dataclass(frozen=True)
class Timed:
    """One side's repeats, per item, in milliseconds."""

    cpu_ms: Samples
    wall_ms: Samples


@dataclass(frozen=True)
class Line:
    """One line of a row's table: column -> samples of all repeats."""

    what: str
    figures: Mapping[str, Samples]


@dataclass(frozen=True)
class Verdict:
    target: str
    found: str
    met: bool | None  # None: in miniature, nothing is judged


@dataclass(frozen=True)
class Result:
    """One row: what was done, what was to be expected, and every sample of it."""

    title: str
    method: str
    anchor: str  # the limit, or what is known from elsewhere
    predicted: str
    lines: Sequence[Line]  # ours first
    ratio_of: str | None = None  # the column whose ratio to the first line is printed
    verdicts: Sequence[Verdict] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Size:
    """How much of everything: the real run, or the miniature of the tests."""

    quick: bool
    scratch: Path | None = None  # where the folders are made; None: the system's place
    repeats: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "repeats", 1 if self.quick else REPEATS)

    def judge(self, target: str, found: str, met: bool) -> Verdict:
        return Verdict(target, found, None if self.quick else met)


def alternate(sides: Mapping[str, Side], size: Size) -> dict[str, Timed]:
    """Every side once unmeasured, to load what it loads, then all sides in turn, `size.repeats` times."""
    cpu: dict[str, list[float]] = {name: [] for name in sides}
    wall: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(size.repeats + 1):
        for name, side in sides.items():
            with tempfile.TemporaryDirectory(dir=size.scratch) as folder:
                cpu_begun, begun = cpu_seconds(), time.perf_counter()
                items = side(Path(folder))
                ended, cpu_ended = time.perf_counter(), cpu_seconds()
            if repeat:
                cpu[name].append((cpu_ended - cpu_begun) / items * 1e3)
                wall[name].append((ended - begun) / items * 1e3)
    return {name: Timed(tuple(cpu[name]), tuple(wall[name])) for name in sides}


def cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def ratios(samples: Samples, reference: Samples) -> Samples:
    """Repeat by repeat: both were measured within the same seconds."""
    return tuple(a / b for a, b in zip(samples, reference, strict=True))
