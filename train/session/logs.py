"""The log of a training.

In: lines (a kind and numbers) from rank 0, samples that could not be read from every rank. Out: on stderr a plain line
every ten seconds. On disk, in the run's folder:

    log.jsonl               one JSON object a line, with the time
    replaced-<rank>.jsonl   the samples that a rank could not read, if any: a bounded number, then how many more
    pictures/               pictures that a Task draws when it measures
    tensorboard/            if the recipe asks for it

W&B gets the numbers of log.jsonl if the recipe asks for it and it is installed. Both call a number `<kind>/<number>`,
and where a kind has lines about several things (`NAMED`), `<kind>/<thing>/<number>`. These are about a step that may be
over. W&B drops what comes late, so it gets them, with the step, as its summary. A number that is not finite is written
as text. If the log cannot be written, the training goes on and says so; the number of lost lines is logged later.
"""

import dataclasses
import errno
import hashlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cluster.fan_out.progress import PLAIN_EVERY_S, duration
from shards.disk.jpeg import encode_jpeg
from shards.disk.replace import replace_file
from shards.disk.safe_text import for_screen, one_line
from train.session.run_folder import run_name

if TYPE_CHECKING:
    from shards.stream.stream import Replaced

LOG = "log.jsonl"
PICTURES = "pictures"
RATE_WINDOW_S = 60.0
MAX_REPLACED = 10_000  # lines of a rank, over all lives of the run
RUN_ID_DIGITS = 12
NAMED = {"test": "set", "leep": "of"}  # kind of line -> its field that says what the numbers are of
Heard: TypeAlias = Callable[[str, int, Mapping[str, Any]], None]  # kind, step, numbers of a line


class RunLog:
    """Owns the open log file and writers; a context manager."""

    def __init__(
        self,
        folder: Path,
        kind: Literal["tensorboard", "wandb", "none"],
        digest: str,
        say: Callable[[str], None] = lambda text: print(for_screen(text), file=sys.stderr, flush=True),
        clock: Callable[[], float] = time.time,
        heard: Heard = lambda kind, step, numbers: None,
        words: str = "",
    ) -> None:
        """`digest`: of the recipe; W&B tells trainings apart by it, by the run's name and by its folder's whole path.
        `heard` gets every line too. `words`: what each text for people begins with. Raises ValueError if W&B is asked
        for and not installed."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._say, self._clock, self._heard, self._words = folder, say, clock, heard, words
        self._fd = os.open(folder / LOG, os.O_CREAT | os.O_APPEND | os.O_WRONLY | os.O_CLOEXEC, 0o644)
        self._tensorboard = _tensorboard(folder) if kind == "tensorboard" else None
        self._wandb = _wandb(folder, digest) if kind == "wandb" else None
        self._lost = 0  # lines since the last that was written

    def line(self, kind: str, step: int, **numbers: Any) -> None:
        """One line of the log; scalars among it also go to the writers."""
        self._write({"time": round(self._clock(), 3), "kind": kind, "step": step, **numbers})
        tag = f"{kind}/{numbers[NAMED[kind]]}" if kind in NAMED else kind
        scalars = {f"{tag}/{name}": value for name, value in numbers.items() if isinstance(value, (int, float))}
        if self._tensorboard is not None:
            for name, value in scalars.items():
                self._tensorboard.add_scalar(name, value, step)
        if self._wandb is not None and kind in NAMED:
            self._wandb.summary.update({**scalars, f"{tag}/step": step})
        elif self._wandb is not None:
            self._wandb.log(scalars, step=step)
        self._heard(kind, step, numbers)

    def picture(self, name: str, step: int, image_HWC: NDArray[np.uint8]) -> None:
        """A file of its own, and for TensorBoard. One that cannot be written is said and borne."""
        place = self._folder / PICTURES / f"{name}-{step:08d}.jpg"
        try:
            place.parent.mkdir(exist_ok=True)
            replace_file(place, encode_jpeg(image_HWC))
        except OSError as error:
            self.say(f"{place}: was not written ({error.strerror}); training goes on")
        if self._tensorboard is not None:
            self._tensorboard.add_image(name, image_HWC, step, dataformats="HWC")

    def _write(self, row: Mapping[str, Any]) -> None:
        data = _json_line(row)
        if self._lost:  # the first of them may be there in part
            data = b"\n" + _json_line({"kind": "lost", "lines": self._lost}) + data
        try:
            if os.write(self._fd, data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            if not self._lost:
                self.say(f"{LOG}: a line was lost ({error.strerror}); training goes on")
            self._lost += 1
        else:
            self._lost = 0

    def say(self, text: str) -> None:
        """To the person at the terminal, one line."""
        self._say(one_line(f"{self._words}{text}"))

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


class ReplacedLog:
    """Names the samples that one rank could not read. A context manager; the file comes with the first of them."""

    def __init__(self, folder: Path, rank: int) -> None:
        self._path = folder / f"replaced-{rank}.jsonl"
        self._left: int | None = None  # lines that may still come; None: not looked yet
        self._more = 0

    def add(self, samples: Iterable["Replaced"]) -> None:
        """A line each, as long as there is room. One that cannot be written counts among the rest."""
        for sample in samples:
            if self._left is None:
                self._left = MAX_REPLACED - _num_lines(self._path)
            if self._left > 0 and self._append(dataclasses.asdict(sample)):
                self._left -= 1
            else:
                self._more += 1

    def _append(self, row: Mapping[str, Any]) -> bool:
        try:
            with self._path.open("ab", buffering=0) as file:
                data = _json_line(row)
                return file.write(data) == len(data)
        except OSError:
            return False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._more:
            self._append({"more": self._more})


def _num_lines(path: Path) -> int:
    try:
        with path.open("rb") as file:
            return sum(1 for _ in file)
    except OSError:  # not there yet, or it cannot be read: then it cannot be written either
        return 0


def _json_line(row: Mapping[str, Any]) -> bytes:
    return (json.dumps(_plain(row), ensure_ascii=True, allow_nan=False) + "\n").encode()


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


def _wandb(folder: Path, digest: str) -> Any:
    try:
        import wandb
    except ImportError:
        raise ValueError(
            "log: found wandb, which is not installed, expected it; `pip install wandb`, or set log: tensorboard"
        ) from None
    name = run_name(folder)
    key = hashlib.sha256(f"{folder.absolute()}\0{name}\0{digest}".encode()).hexdigest()
    run_id = f"{name.replace('/', '-')}-{key[:RUN_ID_DIGITS]}"
    return wandb.init(project="sixfold", name=name, dir=str(folder), resume="allow", id=run_id)


class Pace:
    """How fast a training goes, and when to say so. `clock` counts seconds."""

    def __init__(
        self, steps: int, step_images: int, first_step: int, first_wait_s: float, clock: Callable[[], float]
    ) -> None:
        """`first_wait_s`: waited for data up to `first_step`, in earlier lives."""
        self._steps, self._step_images, self._clock = steps, step_images, clock
        self._began = self._said = clock()
        self._first = first_step
        self._since: tuple[float, int, float] = (self._began, first_step, first_wait_s)

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
