"""The refill loop makes a shard of a unit: it draws, screens, draws again, encodes, writes and commits.

In: a unit number, a job, a `Maker` (`gen.make.maker`), a store. Out: a small summary. On disk: one shard through
`shards.set.writer`, in which every draw has a row, every success its image, and some rejected draws a small picture.

The bytes of a shard depend on (job, Maker, unit) alone. Draws go to the Maker in batches, and rejected samples are
drawn again. Batch i is formed before batch i-1 has been screened: it knows the verdicts up to batch i-2, and those of
i-1 only if nothing else is left to do. So the Maker never waits for the screen, and every batch holds the same draws in
every run. The column ``batch`` of a row is the number of the Maker's call, which is enough to make any image again.

Two threads work: the caller's runs the Maker; the other one waits for pictures, screens, encodes and writes, in order.
While that one waits for somebody outside with deadlines of their own, such as a judge's server, the unit still beats.
"""

import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Generic, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from cluster.fan_out.work import Beat
from cluster.process.exit import Draining, WorkerBroken
from cluster.process.failure import error_line
from cluster.process.memory import free_memory, is_memory_error
from gen.make.maker import Made, Maker, Sample
from gen.make.screen import REASONS, ScreenSpec, screen
from gen.make.slots import Draw, Slots
from shards.disk.jpeg import encode_jpeg
from shards.disk.layout import SUCCESS, sample_key
from shards.disk.object_store import ObjectStore
from shards.disk.record import JSON, Record
from shards.disk.store import FolderStore
from shards.set.commit import settle
from shards.set.manifest import scan
from shards.set.rejected import rejected_picture
from shards.set.writer import ShardWriter

# What a Maker may raise because of one text or one image; it rejects that image. Everything else (a lost
# device, no memory, no disk) is the machine's fault and ends the attempt.
IMAGE_ERRORS = (ValueError, TypeError, LookupError, ArithmeticError, AssertionError)

# For the pixels of one batch to arrive. Far above any batch: a run's stall deadline ends a stuck worker sooner.
DEADLINE_S = 1800.0

LOOK_S = 1.0  # between two looks at the other thread

# A Maker whose first draws are all rejected is broken, not unlucky: stop before the whole unit is drawn for nothing. A
# unit with fewer draws is refused at its end, unless some of its samples are such that no draw can make them, or this
# run has made images elsewhere: then it was unlucky, would be at every try, and is published short.
HOPELESS_DRAWS = 100


MAX_ERROR = 300  # characters of an error that a row or a message keeps


class ShardSpec(BaseModel):
    """Size and encoding of shards."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    samples_per_shard: int = Field(default=1000, ge=1, le=10_000, description="images of a full shard")
    max_draws: int = Field(default=5, ge=1, le=100, description="tries at one sample before it is reported short")
    quality: int = Field(default=95, ge=1, le=100, description="JPEG quality")
    subsampling: Literal["444", "420"] = Field(default="444", description="JPEG chroma; 420 is smaller")


class UnitJob(BaseModel):
    """What the loop needs beside a Maker, as plain data that may travel to another machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    out: str = Field(description="folder or fsspec URL of the data set")
    single_writer: bool = False
    fingerprint: str = Field(description="of the run; 64 hex digits")
    screen: ScreenSpec = Field(default_factory=ScreenSpec)
    shards: ShardSpec = Field(default_factory=ShardSpec)
    extra: dict[str, str] = Field(default={}, description="facts for the records: versions, code hash, device")

    def on(self, device: str) -> "UnitJob":
        """The job as a worker does it whose images are computed on `device`, which its records name."""
        return self.model_copy(update={"extra": {**self.extra, "device": device}})


@dataclass(frozen=True)
class Developed:
    """One draw after the screen: its image if it is a success, else why not."""

    status: str
    jpeg: bytes | None
    error: str | None
    columns: Mapping[str, object]  # of its row; those that only the image tells
    small: bytes | None = None  # the picture of a rejected draw, if it may be kept
    is_final: bool = False  # whether any other draw of its sample would be rejected too


@dataclass(frozen=True)
class _Entry:
    """A row on its way to the writer, with its number in the shard."""

    number: int
    row: dict[str, object]
    image: Developed


@dataclass
class _Seconds:
    """Time spent, by stage; the two threads overlap, so the sum may exceed the wall time."""

    model: float = 0.0
    arrive: float = 0.0  # waiting for pixels that a device is still making
    encode: float = 0.0
    write: float = 0.0


class UnitWorker(Generic[Sample]):
    """Makes units of one run with one Maker; used by one thread at a time."""

    def __init__(
        self,
        job: UnitJob,
        maker: Maker[Sample],
        store: FolderStore | ObjectStore,
        clock: Callable[[], float] = time.time,
        is_waiting: Callable[[], bool] = lambda: False,
        stopping: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        """`is_waiting`: whether the Maker waits for somebody outside, within a deadline of theirs. `stopping`: inside
        it the Maker waits for nobody outside, because nobody wants the unit any more."""
        self.job = job
        self.maker = maker
        self.store = store
        self.clock = clock
        self.is_waiting = is_waiting
        self.stopping = stopping
        self.is_memory_full = False  # as the last attempt found it

    def __call__(self, unit: int, attempt: str, beat: Beat) -> dict[str, JSON]:
        """Make and publish shard ``unit``. Raises Draining from ``beat``, leaving nothing but collectable files."""
        done = settle(self.store, unit)
        if done is not None:  # another attempt was quicker, or an earlier life got as far as its claim
            self._check_owner(done)
            return _summary(done, _Seconds(), 0)
        if self.is_memory_full:  # by now nobody holds the error, whose frames hold tensors
            free_memory()
            self.is_memory_full = False
        work = _UnitWork(self, unit, attempt)
        return work.run(beat)

    def num_draws(self, sample: Sample) -> int:
        """Draws that are made of a prepared sample before it is short; the first one always, so that it has a row."""
        there, most = self.maker.num_draws(sample), self.job.shards.max_draws
        return most if there is None else max(1, min(there, most))

    def develop(self, made: Made, place: int) -> Developed:
        """Screen and encode one image. An error that this raises rejects this image only."""
        try:
            picture = made.picture(place)
            image_HWC, source_type = picture.image_HWC, self.maker.source_type
            if picture.status != SUCCESS:
                small = rejected_picture(picture.status, image_HWC, source_type)
                return Developed(picture.status, None, picture.error, picture.columns, small, picture.is_final)
            assert image_HWC is not None, "a success has an image"
            status = screen(image_HWC, self.job.screen, picture.before_HWC)
            if status != SUCCESS:
                return Developed(status, None, REASONS[status], {}, rejected_picture(status, image_HWC, source_type))
            height, width = image_HWC.shape[:2]
            jpeg = picture.jpeg or self.encode(image_HWC)
            return Developed(SUCCESS, jpeg, None, {**picture.columns, "width": width, "height": height})
        except (OSError, MemoryError):
            raise  # the machine's, not the image's
        except Exception as error:  # becomes the row of this draw
            return _failed(error_line(error, MAX_ERROR))

    def encode(self, image_HWC: np.ndarray) -> bytes:
        """The JPEG of an image, as the job's `shards` and the Maker want it."""
        shards = self.job.shards
        return encode_jpeg(image_HWC, shards.quality, shards.subsampling, self.maker.source_type)

    def _check_owner(self, record: Record) -> None:
        if record.fingerprint != self.job.fingerprint:
            raise ValueError(
                f"{self.store.url}: shard {record.shard} was made by another recipe (fingerprint "
                f"{record.fingerprint[:12]}, expected {self.job.fingerprint[:12]}); use another output folder"
            )


class _UnitWork(Generic[Sample]):
    """One attempt at one unit: the state that the two threads pass along."""

    def __init__(self, worker: UnitWorker[Sample], unit: int, attempt: str) -> None:
        self.worker = worker
        self.maker = worker.maker
        self.unit = unit
        self.attempt = attempt
        self.samples = self.maker.samples(unit)
        self.maker.prepare(self.samples)
        self.slots = Slots([worker.num_draws(sample) for sample in self.samples])
        self.seconds = _Seconds()
        self.num_calls = 0
        self._held: dict[int, _Entry] = {}  # final rows that wait for lower slots
        self._next_slot = 0
        self._rejected: Counter[str] = Counter()
        self._last_error = ""

    def run(self, beat: Beat) -> dict[str, JSON]:
        worker, started = self.worker, self.worker.clock()
        with (
            ShardWriter(worker.store, self.unit, self.attempt, worker.job.fingerprint) as writer,
            ThreadPoolExecutor(1, "develop") as developing,
        ):
            try:
                self._fill_slots(writer, developing, beat)
            except BaseException as error:
                with worker.stopping() if isinstance(error, Draining) else nullcontext():
                    developing.shutdown(wait=True, cancel_futures=True)
                raise
            assert self._next_slot == len(self.samples), "every slot ends as a success or short"
            if not self.slots.num_filled and not self.slots.num_final and not self._has_made_images():
                self._refuse_hopeless(0)
            extra: dict[str, JSON] = {**worker.job.extra, "batches": self.num_calls}
            record = writer.commit(started, worker.clock(), extra, slots=len(self.samples), allow_empty=True)
        return _summary(record, self.seconds, self.num_calls)

    def _fill_slots(self, writer: ShardWriter, developing: ThreadPoolExecutor, beat: Beat) -> None:
        """The loop of the module's docstring: at most one batch is being developed while the next one is drawn."""
        size = self.maker.call_size
        under_way: deque[tuple[list[_Call], Future[list[list[Developed]]]]] = deque()
        writing: deque[Future[None]] = deque()
        while under_way or not self.slots.exhausted:
            while under_way and (len(under_way) > 1 or self.slots.exhausted):
                made = sum(len(call.draws) for calls, _ in under_way for call in calls)
                calls, future = under_way.popleft()
                rows = self._settle(calls, self._developed(future, partial(self._tell, beat, made, 0, 0.0)))
                writing.append(developing.submit(self._write, writer, rows))
                self._refuse_hopeless(HOPELESS_DRAWS)
            while writing and writing[0].done():
                writing.popleft().result(timeout=0)
            draws = self.slots.take(size)
            made = sum(len(call.draws) for calls, _ in under_way for call in calls)
            alive = partial(self._tell, beat, made, len(draws))
            if draws:
                calls = self._draw(draws, alive)
                under_way.append((calls, developing.submit(self._develop, calls)))
            alive(1.0)
        for future_write in writing:
            future_write.result(timeout=2 * DEADLINE_S)

    def _developed(self, future: "Future[list[list[Developed]]]", tell: Callable[[], None]) -> list[list[Developed]]:
        """What the other thread makes of a batch. The unit beats while it waits for somebody outside; no limit then."""
        left_s = 2 * DEADLINE_S
        while not wait([future], timeout=min(LOOK_S, left_s)).done:
            if self.worker.is_waiting():
                tell()
            else:
                left_s -= LOOK_S
                if left_s <= 0:
                    raise TimeoutError(f"found no pixels of a batch within {2 * DEADLINE_S:g} s, expected them")
        return future.result(timeout=0)

    def _tell(self, beat: Beat, num_made: int, num_next: int, share: float) -> None:
        """A beat: `num_made` draws wait for the screen, of `num_next` ones this share is made."""
        beat(self.slots.num_filled, self.slots.num_rejected, num_made + share * num_next)

    def _refuse_hopeless(self, num_draws: int) -> None:
        """Raises ValueError if there is no success after ``num_draws`` rejections that another draw could have changed.

        Those that no draw can change are about their samples, and tell nothing about the Maker.
        """
        if self.slots.num_filled == 0 and self.slots.num_rejected - self.slots.num_final >= num_draws:
            seen = ", ".join(f"{status} {num}" for status, num in sorted(self._rejected.items()))
            raise ValueError(
                f"unit {self.unit}: found no image among {self.slots.num_rejected} draws ({seen}; the last one: "
                f"{self._last_error}), so nothing was published; {self.maker.advice_on_failure}"
            )

    def _has_made_images(self) -> bool:
        return any(record.successes for record in scan(self.worker.store).records.values())

    def _draw(self, draws: list[Draw], alive: Callable[[float], None]) -> "list[_Call]":
        """One call of the Maker; if one of its images makes it raise, each image gets a call of its own."""
        try:
            return [self._call(draws, alive)]
        except IMAGE_ERRORS as error:
            if len(draws) == 1:
                return [_Call(self.num_calls - 1, draws, None, error_line(error, MAX_ERROR))]
        calls = []
        for draw in draws:
            try:
                calls.append(self._call([draw], alive))
            except IMAGE_ERRORS as error:
                calls.append(_Call(self.num_calls - 1, [draw], None, error_line(error, MAX_ERROR)))
        return calls

    def _call(self, draws: list[Draw], alive: Callable[[float], None]) -> "_Call":
        number = self.num_calls
        self.num_calls += 1
        begun = time.perf_counter()
        try:
            made = self.maker.make([(self.samples[draw.slot], draw.draw) for draw in draws], alive)
        except RuntimeError as error:
            self._name_device_fault(error)
            raise
        self.seconds.model += time.perf_counter() - begun
        return _Call(number, draws, made, None)

    def _develop(self, calls: "list[_Call]") -> list[list[Developed]]:
        """In the other thread: wait for the pixels, screen, encode."""
        developed = []
        for call in calls:
            if call.made is None:
                developed.append([_failed(call.error)])
                continue
            begun = time.perf_counter()
            try:
                call.made.wait(DEADLINE_S)
            except RuntimeError as error:
                self._name_device_fault(error)
                raise
            arrived = time.perf_counter()
            developed.append([self.worker.develop(call.made, place) for place in range(len(call.draws))])
            self.seconds.arrive += arrived - begun
            self.seconds.encode += time.perf_counter() - arrived
        return developed

    def _name_device_fault(self, error: RuntimeError) -> None:
        """Raises what a lost device or a full memory means; any other error is left to the caller."""
        if is_memory_error(error):
            self.worker.is_memory_full = True
            error.__traceback__ = None  # its frames hold the tensors of the failed call
            raise RuntimeError(
                f"found no memory for a call ({error_line(error, MAX_ERROR)}), {self.maker.advice_on_memory}"
            ) from None
        torch = sys.modules.get("torch")
        if torch is not None and isinstance(error, torch.AcceleratorError):
            raise WorkerBroken(
                f"the device failed ({error_line(error, MAX_ERROR)}); check it with `nvidia-smi -q`"
            ) from error

    def _settle(self, calls: "list[_Call]", developed: list[list[Developed]]) -> list[_Entry]:
        """The row of each draw; rejected slots are queued again."""
        rows = []
        for call, images in zip(calls, developed, strict=True):
            finals = [image.is_final for image in images]
            numbers = self.slots.settle(call.draws, [image.status for image in images], finals)
            for draw, image, number in zip(call.draws, images, numbers, strict=True):
                if image.status != SUCCESS:
                    self._rejected[image.status] += 1
                    self._last_error = image.error or ""
                rows.append(_Entry(number, self._row(draw, call.number, number, image), image))
        return rows

    def _row(self, draw: Draw, batch: int, number: int, image: Developed) -> dict[str, object]:
        """A row of the shard's table; null where a rejected draw has nothing to say."""
        return {
            **self.maker.row(self.samples[draw.slot], draw.draw),
            **image.columns,
            "key": sample_key(self.unit, number),
            "status": image.status,
            "error_message": image.error,
            "draw": draw.draw,
            "batch": batch,
        }

    def _write(self, writer: ShardWriter, rows: list[_Entry]) -> None:
        """In the other thread: rejected draws at once, the slots' final rows in slot order."""
        begun = time.perf_counter()
        for one in rows:
            if one.number >= len(self.samples):
                writer.add(one.row, None, one.image.small)
            else:
                self._held[one.number] = one
        while self._next_slot in self._held:
            one = self._held.pop(self._next_slot)
            writer.add(one.row, one.image.jpeg, one.image.small)
            self._next_slot += 1
        self.seconds.write += time.perf_counter() - begun


@dataclass(frozen=True)
class _Call:
    """One call of the Maker that was tried: its number, its draws, and its images or why there are none."""

    number: int
    draws: list[Draw]
    made: Made | None
    error: str | None


def _failed(error: str | None) -> Developed:
    return Developed("error", None, error, {})


def _summary(record: Record, seconds: _Seconds, num_calls: int) -> dict[str, JSON]:
    rejected = Counter(record.status_dict)
    del rejected[SUCCESS]
    return {
        "images": record.successes,
        "short": record.short,
        "rejected": dict(sorted(rejected.items())),
        "batches": num_calls,
        "seconds": {
            "model": round(seconds.model + seconds.arrive, 3),
            "encode": round(seconds.encode, 3),
            "write": round(seconds.write, 3),
        },
    }
