"""What the rows of a GPU share: its ceilings, a limit of time, rates of sides in turn. Leaves nothing on disk."""

from __future__ import annotations

import contextlib
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docs.bench.measure import Samples, Side, Verdict

if TYPE_CHECKING:
    import torch

IMAGES, SHARE = "images/s", "% of the matmul ceiling"
MATMUL, COPY = "matmul TFLOP/s", "copy TB/s"


class OutOfTime(BaseException):
    """The time of a row is over. No `Exception`, so that no library keeps it to itself."""


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raises OutOfTime in the main thread when the time is over, and every second until it is heard."""

    def over(*_: object) -> None:
        raise OutOfTime

    heard = signal.signal(signal.SIGALRM, over)
    timer = signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3), 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, heard)


@dataclass(frozen=True)
class Bench:
    """What all rows share. `dry`: tiny networks on the CPU, and no speed is judged."""

    dry: bool
    device: torch.device
    deadline: float  # of `clock`, in seconds
    matmul_tflops: float
    clock: Callable[[], float]

    def now(self) -> float:
        """The clock, once the device has done all it was asked to do."""
        synchronize(self.device)
        return self.clock()

    def judge(self, target: str, found: str, met: bool) -> Verdict:
        return Verdict(target, found, None if self.dry else met)

    def share(self, images_per_s: Samples, tflop: float) -> Samples:
        """Per cent of the ceiling; `tflop` is the arithmetic of one image."""
        return tuple(100 * one * tflop / self.matmul_tflops for one in images_per_s)

    def rates(self, sides: Mapping[str, Side], budget_s: float) -> dict[str, Samples]:
        """Images per second of every side, in turns. Call it warm: the first turn counts.

        Five rounds, or fewer where a further one would outlast the budget; one at least.
        """
        rates: dict[str, list[float]] = {name: [] for name in sides}
        begun = self.now()
        for done in range(1 if self.dry else 5):
            passed = self.now() - begun
            if done and passed / done * (done + 1) > min(budget_s, self.deadline - begun):
                break
            for name, side in sides.items():
                with tempfile.TemporaryDirectory() as folder:
                    started = self.now()
                    images = side(Path(folder))
                    rates[name].append(images / (self.now() - started))
        return {name: tuple(samples) for name, samples in rates.items()}


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize()


def ceilings(device: torch.device, dry: bool, clock: Callable[[], float]) -> dict[str, Samples]:
    """TFLOP/s of a large bf16 product of random numbers, TB/s of a large copy (read and written)."""
    import torch

    side, count, num_bytes = (128, 2, 2**20) if dry else (8192, 10, 2**32)
    rng = torch.Generator(device).manual_seed(0)
    a, b = (torch.randn(side, side, generator=rng, device=device, dtype=torch.bfloat16) for _ in range(2))
    source = torch.ones(num_bytes // 2, device=device, dtype=torch.bfloat16)
    target = torch.empty_like(source)
    jobs: dict[str, tuple[float, Callable[[], Any]]] = {
        MATMUL: (2 * side**3, lambda: a @ b),
        COPY: (2 * num_bytes, lambda: target.copy_(source)),
    }
    found = {}
    for name, (amount, job) in jobs.items():
        samples = []
        for repeat in range(6):
            synchronize(device)
            begun = clock()
            for _ in range(count):
                job()
            synchronize(device)
            if repeat:  # the first one warms up
                samples.append(count * amount / (clock() - begun) / 1e12)
        found[name] = tuple(samples)
    return found
