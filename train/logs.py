"""What a training says while it runs.

In: lines (a kind and numbers) from rank 0. Out: on stderr a plain line every ten seconds. On disk: `log.jsonl`, one
JSON object a line with the time, and `tensorboard/` if the recipe asks for it; W&B gets the same numbers when it is
asked and installed. A number that is not finite is written as text.
"""

import json
import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from cluster.progress import PLAIN_EVERY_S, duration

LOG = "log.jsonl"
RATE_WINDOW_S = 60.0


class RunLog:
    """Owns the open log file and writers; a context manager."""

    def __init__(
        self,
        folder: Path,
        kind: Literal["tensorboard", "wandb", "none"],
        say: Callable[[str], None] = lambda text: print(text, file=sys.stderr, flush=True),
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Raises ValueError if W&B is asked for and not installed."""
        folder.mkdir(parents=True, exist_ok=True)
        self._say, self._clock = say, clock
        self._fd = os.open(folder / LOG, os.O_CREAT | os.O_APPEND | os.O_WRONLY | os.O_CLOEXEC, 0o644)
        self._tensorboard = _tensorboard(folder) if kind == "tensorboard" else None
        self._wandb = _wandb(folder) if kind == "wandb" else None

    def line(self, kind: str, step: int, **numbers: Any) -> None:
        """One line of the log; scalars among it also go to the writers."""
        row = {"time": round(self._clock(), 3), "kind": kind, "step": step, **numbers}
        data = json.dumps(_plain(row), ensure_ascii=True, allow_nan=False) + "\n"
        os.write(self._fd, data.encode())
        scalars = {f"{kind}/{name}": value for name, value in numbers.items() if isinstance(value, (int, float))}
        if self._tensorboard is not None:
            for name, value in scalars.items():
                self._tensorboard.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(scalars, step=step)

    def say(self, text: str) -> None:
        """To the person at the terminal, one line."""
        self._say("".join(char if char.isprintable() else " " for char in text))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)
        if self._tensorboard is not None:
            self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish()


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _tensorboard(folder: Path) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder / "tensorboard"))


def _wandb(folder: Path) -> Any:
    try:
        import wandb
    except ImportError:
        raise ValueError(
            "log: found wandb, which is not installed, expected it; `pip install wandb`, or set log: tensorboard"
        ) from None
    return wandb.init(project="sixfold", name=folder.name, dir=str(folder), resume="allow", id=folder.name)


class Pace:
    """How fast a training goes, and when to say so. `clock` counts seconds."""

    def __init__(self, steps: int, step_images: int, first_step: int, clock: Callable[[], float]) -> None:
        self._steps, self._step_images, self._clock = steps, step_images, clock
        self._began = self._said = clock()
        self._first = first_step
        self._since: tuple[float, int, float] = (self._began, first_step, 0.0)

    def line(self, step: int, loss: float, wait_s: float) -> str | None:
        """After `step` steps, if ten seconds have gone since the last line:
        `"step 120/600 · loss 1.234 · 512 images/s · 3 % waiting for data · 2m10s left"`."""
        now = self._clock()
        if now - self._said < PLAIN_EVERY_S:
            return None
        self._said = now
        began, first, waited = self._since
        seconds = max(now - began, 1e-9)
        rate = (step - first) * self._step_images / seconds
        left = duration((self._steps - step) * self._step_images / rate) if rate > 0 else "?"
        share = min(1.0, (wait_s - waited) / seconds)
        if seconds > RATE_WINDOW_S:
            self._since = (now, step, wait_s)
        return (
            f"step {step}/{self._steps} · loss {loss:.3f} · {rate:,.0f} images/s · {share:.0%} waiting for data · "
            f"{left} left"
        )
