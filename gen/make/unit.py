"""A unit becomes a shard: draw, screen, draw again, encode, write, commit.

In: a unit number, and from the job: the plan, the prompts, a loaded model, the store. Out: a small summary.
On disk: one shard through `shards.set.writer`, in which every draw has a row and every success its image.

The bytes of a shard are a function of (job, unit). Draws go to the model in batches, and what is rejected is
drawn again with its own new seed. Batch i is formed before batch i-1 has been screened: it knows the
verdicts up to batch i-2, and those of i-1 only if nothing else is left to do. So the model never waits for the
screen, and the composition of every batch is still the same in every run. Row column ``batch`` is the number of
the model call, which together with the seeds is enough to make any image again.

Two threads: the caller's runs the model, the other one screens, encodes and writes, in order.
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from cluster.fan_out.work import Beat
from cluster.process.exit import WorkerBroken
from cluster.process.failure import error_line
from cluster.process.memory import free_memory, is_memory_error
from gen.make.plan import Plan, Sample, sample_seed, sample_uid
from gen.make.screen import ScreenSpec, screen
from gen.make.slots import Draw, Slots
from gen.prompts.prompts import Prompt, PromptTable
from gen.sampler.sampler import Model, Request, Sampled, Sampler
from gen.sampler.spec import SamplerSpec, sampler_digest, sampler_json
from shards.disk.jpeg import encode_jpeg
from shards.disk.layout import SUCCESS, sample_key
from shards.disk.record import JSON, Record
from shards.disk.store import FolderStore, ObjectStore, open_store
from shards.set.commit import settle
from shards.set.writer import ShardWriter

# What the model may raise because of one text or one image; it rejects that image. Everything else (a lost
# device, no memory, no disk) is the machine's fault and ends the attempt.
IMAGE_ERRORS = (ValueError, TypeError, LookupError, ArithmeticError, AssertionError)

# For the pixels of one batch to arrive. Far above any batch: a run's stall deadline ends a stuck worker sooner.
DEADLINE_S = 1800.0

# A model whose first draws are all rejected is broken, not unlucky: stop before the whole unit is drawn for nothing.
HOPELESS_DRAWS = 100

REASONS = {
    "nan": "NaN or Inf in the float image",
    "wrong_size": "not the size, channel count or type that was asked for",
    "flagged": "the model's safety checker objects",
    "black": "dark and without structure",
    "blank": "one colour",
    "flat": "a tail of constant rows",
}


class ShardSpec(BaseModel):
    """Size and encoding of shards."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    samples_per_shard: int = Field(default=1000, ge=1, le=10_000, description="images of a full shard")
    max_draws: int = Field(default=5, ge=1, le=100, description="tries at one sample before it is reported short")
    quality: int = Field(default=95, ge=1, le=100, description="JPEG quality")
    subsampling: Literal["444", "420"] = Field(default="444", description="JPEG chroma; 420 is smaller")


class UnitJob(BaseModel):
    """All a worker needs to make any unit of a run, as plain data that may travel to another machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    out: str = Field(description="folder or fsspec URL of the data set")
    single_writer: bool = False
    fingerprint: str = Field(description="of the run; 64 hex digits")
    prompts: str = Field(default="_meta/prompts.parquet", description="name of the prompt table inside the data set")
    num_per_class: dict[int, int] = Field(description="class id -> images of one fold")
    seed: int
    sampler: SamplerSpec
    model_digest: str = Field(description="what `sampler_digest` said where the run was planned")
    screen: ScreenSpec = Field(default_factory=ScreenSpec)
    shards: ShardSpec = Field(default_factory=ShardSpec)
    extra: dict[str, str] = Field(default={}, description="facts for the records: versions, code hash")


def make_unit_worker(job: Mapping[str, object]) -> "UnitWorker":
    """A worker from plain data (`UnitJob.model_dump(mode="json")`); loads the model. Raises ValueError in one line."""
    checked = UnitJob.model_validate(job)
    store = open_store(checked.out, checked.single_writer)
    prompts = PromptTable.load(store.read_bytes(checked.prompts))
    found = sampler_digest(checked.sampler)
    if found != checked.model_digest:
        raise ValueError(
            f"model {checked.sampler.model}: found other weights here (digest {found[:12]}) than the run was planned "
            f"with ({checked.model_digest[:12]}); copy the same model folder to every node"
        )
    model = Sampler.load(checked.sampler)
    return UnitWorker(checked, model, prompts, store)


@dataclass(frozen=True)
class Developed:
    """One draw after the screen: its image if it is a success, else why not."""

    status: str
    jpeg: bytes | None
    error: str | None


@dataclass
class _Seconds:
    """Time spent, by stage; the two threads overlap, so the sum may exceed the wall time."""

    model: float = 0.0
    arrive: float = 0.0  # waiting for pixels that a GPU is still making
    encode: float = 0.0
    write: float = 0.0


class UnitWorker:
    """Makes units of one run with one loaded model; used by one thread at a time."""

    def __init__(
        self,
        job: UnitJob,
        model: Model,
        prompts: PromptTable,
        store: FolderStore | ObjectStore,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.job = job
        self.model = model
        self.prompts = prompts
        self.store = store
        self.clock = clock
        self.plan = Plan(
            job.num_per_class,
            prompts.num_per_class(),
            job.seed,
            job.shards.samples_per_shard,
            job.shards.max_draws,
        )
        self._sampler_json = sampler_json(job.sampler)
        self._revision = job.sampler.revision or f"sha256:{job.model_digest}"
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

    def request(self, sample: Sample, prompts: Mapping[tuple[int, int], Prompt], draw: int) -> Request:
        prompt = prompts[sample.class_id, sample.prompt_id]
        seed = sample_seed(self.job.seed, sample.class_id, sample.prompt_id, sample.replicate, draw)
        return Request(prompt.text, prompt.negative, seed)

    def row(
        self, sample: Sample, prompt: Prompt, draw: int, key: str, batch: int, made: Developed
    ) -> dict[str, object]:
        """A row of the shard's table; null where a rejected draw has nothing to say."""
        identity = (self.job.seed, sample.class_id, sample.prompt_id, sample.replicate, draw)
        spec, stored = self.job.sampler, made.status == SUCCESS
        return {
            "key": key,
            "uid": sample_uid(*identity),
            "status": made.status,
            "error_message": made.error,
            "domain": "synthetic",
            "class_id": sample.class_id,
            "class_name": prompt.class_name,
            "caption": prompt.text,
            "prompt_id": sample.prompt_id,
            "prompt_kind": prompt.kind,
            "prompt_form": prompt.form,
            "meaning": prompt.meaning,
            "context": prompt.context,
            "style": prompt.words.get("style"),
            "negative": prompt.negative or spec.negative or None,
            "replicate": sample.replicate,
            "draw": draw,
            "seed": sample_seed(*identity),
            "batch": batch,
            "model": spec.model,
            "revision": self._revision,
            "licence": spec.licence,
            "sampler": self._sampler_json,
            "width": spec.stored_px if stored else None,
            "height": spec.stored_px if stored else None,
            "original_width": spec.size_px if stored else None,
            "original_height": spec.size_px if stored else None,
        }

    def develop(self, sampled: Sampled, place: int) -> Developed:
        """Screen and encode one image. An error that this raises rejects this image only."""
        spec = self.job.sampler
        try:
            image = sampled.image_NHWC[place]
            status = screen(
                image, bool(sampled.finite_N[place]), bool(sampled.flagged_N[place]), self.job.screen, spec.stored_px
            )
            if status != SUCCESS:
                return Developed(status, None, REASONS[status])
            return Developed(SUCCESS, self.encode(image), None)
        except (OSError, MemoryError):
            raise  # the machine's, not the image's
        except Exception as error:  # becomes the row of this draw
            return Developed("error", None, error_line(error, 300))

    def encode(self, image_HWC: np.ndarray) -> bytes:
        return encode_jpeg(image_HWC, self.job.shards.quality, self.job.shards.subsampling)

    def prepare(self, samples: Sequence[Sample]) -> dict[tuple[int, int], Prompt]:
        """The prompts of a unit; the model learns their texts in slot order, which fixes how they are encoded."""
        places = dict.fromkeys((sample.class_id, sample.prompt_id) for sample in samples)
        prompts = {place: self.prompts.prompt(*place) for place in places}
        self.model.prepare([one.text for one in prompts.values()], [one.negative for one in prompts.values()])
        return prompts

    def _check_owner(self, record: Record) -> None:
        if record.fingerprint != self.job.fingerprint:
            raise ValueError(
                f"{self.store.url}: shard {record.shard} was made by another recipe (fingerprint "
                f"{record.fingerprint[:12]}, expected {self.job.fingerprint[:12]}); use another output folder"
            )


class _UnitWork:
    """One attempt at one unit: the state that the two threads pass along."""

    def __init__(self, worker: UnitWorker, unit: int, attempt: str) -> None:
        self.worker = worker
        self.unit = unit
        self.attempt = attempt
        self.samples = worker.plan.unit(unit).samples
        self.prompts = worker.prepare(self.samples)
        self.slots = Slots(len(self.samples), worker.job.shards.max_draws)
        self.seconds = _Seconds()
        self.num_calls = 0
        self._held: dict[int, tuple[dict[str, object], bytes | None]] = {}  # final rows that wait for lower slots
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
            except BaseException:
                developing.shutdown(wait=True, cancel_futures=True)
                raise
            assert self._next_slot == len(self.samples), "every slot ends as a success or short"
            self._refuse_hopeless(0)
            extra: dict[str, JSON] = {**worker.job.extra, "batches": self.num_calls}
            record = writer.commit(started, worker.clock(), extra, slots=len(self.samples))
        return _summary(record, self.seconds, self.num_calls)

    def _fill_slots(self, writer: ShardWriter, developing: ThreadPoolExecutor, beat: Beat) -> None:
        """The loop of the module's docstring: at most one batch is being developed while the next one is drawn."""
        size = self.worker.job.sampler.call_size
        under_way: deque[tuple[list[_Call], Future[list[list[Developed]]]]] = deque()
        writing: deque[Future[None]] = deque()
        while under_way or not self.slots.exhausted:
            while under_way and (len(under_way) > 1 or self.slots.exhausted):
                calls, future = under_way.popleft()
                rows = self._settle(calls, future.result(timeout=2 * DEADLINE_S))
                writing.append(developing.submit(self._write, writer, rows))
                self._refuse_hopeless(HOPELESS_DRAWS)
            while writing and writing[0].done():
                writing.popleft().result(timeout=0)
            draws = self.slots.take(size)
            if draws:
                calls = self._draw(draws)
                under_way.append((calls, developing.submit(self._develop, calls)))
            beat(self.slots.num_filled, self.slots.num_rejected)
        for future_write in writing:
            future_write.result(timeout=2 * DEADLINE_S)

    def _refuse_hopeless(self, num_draws: int) -> None:
        """Raises ValueError if there is no success after ``num_draws`` rejections."""
        if self.slots.num_filled == 0 and self.slots.num_rejected >= num_draws:
            seen = ", ".join(f"{status} {num}" for status, num in sorted(self._rejected.items()))
            raise ValueError(
                f"unit {self.unit}: found no image among {self.slots.num_rejected} draws ({seen}; the last one: "
                f"{self._last_error}), so nothing was published; check model, dtype and size with a small recipe"
            )

    def _draw(self, draws: list[Draw]) -> "list[_Call]":
        """One model call; if one of its images makes the model raise, each image gets a call of its own."""
        try:
            return [self._call(draws)]
        except IMAGE_ERRORS as error:
            if len(draws) == 1:
                return [_Call(self.num_calls - 1, draws, None, error_line(error, 300))]
        calls = []
        for draw in draws:
            try:
                calls.append(self._call([draw]))
            except IMAGE_ERRORS as error:
                calls.append(_Call(self.num_calls - 1, [draw], None, error_line(error, 300)))
        return calls

    def _call(self, draws: list[Draw]) -> "_Call":
        number = self.num_calls
        self.num_calls += 1
        begun = time.perf_counter()
        requests = [self.worker.request(self.samples[draw.slot], self.prompts, draw.draw) for draw in draws]
        try:
            sampled = self.worker.model.sample(requests)
        except RuntimeError as error:
            self._name_device_fault(error)
            raise
        self.seconds.model += time.perf_counter() - begun
        return _Call(number, draws, sampled, None)

    def _develop(self, calls: "list[_Call]") -> list[list[Developed]]:
        """In the other thread: wait for the pixels, screen, encode."""
        developed = []
        for call in calls:
            if call.sampled is None:
                developed.append([Developed("error", None, call.error)])
                continue
            begun = time.perf_counter()
            try:
                call.sampled.wait(DEADLINE_S)
            except RuntimeError as error:
                self._name_device_fault(error)
                raise
            arrived = time.perf_counter()
            developed.append([self.worker.develop(call.sampled, place) for place in range(len(call.draws))])
            self.seconds.arrive += arrived - begun
            self.seconds.encode += time.perf_counter() - arrived
        return developed

    def _name_device_fault(self, error: RuntimeError) -> None:
        """Raises what a lost device or a full memory means; any other error is left to the caller."""
        import torch

        if is_memory_error(error):
            self.worker.is_memory_full = True
            spec = self.worker.job.sampler
            error.__traceback__ = None  # its frames hold the tensors of the failed call
            raise RuntimeError(
                f"found no memory for a call ({error_line(error, 300)}), expected room for sampler.batch = "
                f"{spec.call_size} and sampler.vae_batch = {spec.vae_batch}; lower one of them in a new output"
            ) from None
        if isinstance(error, torch.AcceleratorError):
            raise WorkerBroken(
                f"the device failed ({error_line(error, 300)}); check it with `nvidia-smi -q`"
            ) from error

    def _settle(
        self, calls: "list[_Call]", developed: list[list[Developed]]
    ) -> list[tuple[int, dict[str, object], bytes | None]]:
        """Row number, row and image of each draw; rejected slots are queued again."""
        rows = []
        for call, images in zip(calls, developed, strict=True):
            numbers = self.slots.settle(call.draws, [image.status for image in images])
            for image in images:
                if image.status != SUCCESS:
                    self._rejected[image.status] += 1
                    self._last_error = image.error or ""
            for draw, image, number in zip(call.draws, images, numbers, strict=True):
                sample = self.samples[draw.slot]
                prompt = self.prompts[sample.class_id, sample.prompt_id]
                key = sample_key(self.unit, number)
                row = self.worker.row(sample, prompt, draw.draw, key, call.number, image)
                rows.append((number, row, image.jpeg))
        return rows

    def _write(self, writer: ShardWriter, rows: list[tuple[int, dict[str, object], bytes | None]]) -> None:
        """In the other thread: rejected draws at once, the slots' final rows in slot order."""
        begun = time.perf_counter()
        for number, row, jpeg in rows:
            if number >= len(self.samples):
                writer.add(row, None)
            else:
                self._held[number] = (row, jpeg)
        while self._next_slot in self._held:
            row, jpeg = self._held.pop(self._next_slot)
            writer.add(row, jpeg)
            self._next_slot += 1
        self.seconds.write += time.perf_counter() - begun


@dataclass(frozen=True)
class _Call:
    """One model call that has been made: its number, its draws, and its images or why there are none."""

    number: int
    draws: list[Draw]
    sampled: Sampled | None
    error: str | None


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
