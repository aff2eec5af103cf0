"""Shards to batches: the pictures of a step, decoded by threads into buffers that are used again and again.

In: `StreamSpec` (from the recipe), the groups of a step, a seed, this rank's number; data sets by folder or URL. Out:
`Batch` after `Batch`, for ever: uint8 pictures [N, H, W, 3], labels, sample ids, the plan of mixup and cutmix; a state
of a few numbers and hashes that any later run goes on from at once.
On disk: what `index.py` and `fetch.py` keep in their caches.

The N pictures of a rank are its groups one after the other, each group domain by domain, exactly `quota` of each. Order
and pixels are functions of (seed, step) and (seed, pass, sample id): threads, ranks and resuming change neither. A
sample that cannot be read keeps its slot: another one of its domain takes it, counted and named in `Batch.replaced`;
above a rate the stream stops. A store that does not answer replaces nothing: it is asked until `deadline_s`.
"""

import contextlib
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from types import TracebackType
from typing import Any, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from shards.stream.augment import planted_shift
from shards.stream.decode_threads import DecodeThreads, Job
from shards.stream.fetch import Fetcher, FetchError
from shards.stream.index import load_index
from shards.stream.index_arrays import Index, Int64, UInt64
from shards.stream.keyed_random import KeyedRandom
from shards.stream.mix import MixPlan, plan_mix
from shards.stream.order import Domain, SampleOrder, Take
from shards.stream.pixels import Pixels, UnreadablePicture, new_buffer, train_pixels
from shards.stream.spec import DomainSpec, StreamSpec

Agree: TypeAlias = Callable[[Sequence[int]], Sequence[int]]

_PIXELS = 0x706978  # part of the key: other random numbers than those of mixing
_AGREED_DIGITS = 15  # hex digits of a digest that the ranks compare
_MAX_SPARES = 16
_REASONS = {"missing": "missing shard", "changed": "changed shard", "damaged": "other bytes", "failed": "failed shard"}
_FREE_BAD = 8  # replaced samples of a rank that are fine in a short run, whatever the rate


@dataclass(frozen=True, order=True)
class Replaced:
    """A sample that could not be read at its turn."""

    step: int
    slot: int  # of the rank's batch
    attempt: int  # 0: the sample itself; from 1 on: spares that were bad too
    domain: str
    tar: str
    uid: str  # 16 hex digits
    reason: str  # short and the same for all of a kind
    detail: str


@dataclass(frozen=True, eq=False)
class Batch:
    """What one rank trains on at one step."""

    step: int
    images: Pixels  # (N, H, W, 3); overwritten by the next but one `next()`, or the `wait()` before it
    labels: Int64  # (N,)
    uids: UInt64  # (N,)
    groups: int  # N = groups * sum(quotas)
    quotas: tuple[int, ...]
    mix: MixPlan | None
    replaced: tuple[Replaced, ...]

    def split(self, count: int) -> list["Batch"]:
        """`count` equal parts of whole groups, in order, without `replaced`; `groups` must be a multiple of it."""
        size = len(self.labels) // count
        return [
            replace(
                self,
                images=self.images[rows],
                labels=self.labels[rows],
                uids=self.uids[rows],
                groups=self.groups // count,
                mix=None if self.mix is None else self.mix.part(rows),
                replaced=(),
            )
            for rows in (slice(first, first + size) for first in range(0, len(self.labels), size))
        ]


@dataclass
class Counters:
    """Of this rank, since the stream was opened; batches that were handed out only."""

    steps: int = 0
    samples: int = 0
    bytes: int = 0
    by_pillow: int = 0  # samples that the fast decoder did not take
    replaced: Counter[str] = field(default_factory=Counter)  # reason -> samples
    wait_s: float = 0.0  # the trainer waited for a batch, or for the shards that are taken in at the end of an epoch


@dataclass(frozen=True, eq=False)
class _Source:
    """An open data set."""

    spec: DomainSpec
    index: Index
    fetcher: Fetcher


@dataclass(frozen=True, eq=False)
class _Flight:
    """A batch that is being filled; each slot is written by one thread only."""

    step: int
    takes: list[Take]
    sources: list[_Source]
    domain: Int64  # (N,) number of each slot's domain
    place: Int64  # (N,) number of each slot in its domain's `Take`
    rows: Int64  # (N,)
    passes: Int64  # (N,) how often each came before
    images: Pixels
    labels: Int64
    uids: UInt64
    sizes: Int64  # (N,) bytes of the files
    by_pillow: npt.NDArray[np.bool_]
    replaced: list[Replaced]


class Stream:
    """Batches for one rank, from `start_step` on, without end. Use it in a `with` block.

    Decoding threads start with the first `next()`: a stream of local data that was not used before a fork works in the
    child, one that was used says so. It belongs to one thread. An error of a decoding thread is raised by `next()` at
    its own step, and again at every later call.
    """

    def __init__(
        self,
        spec: StreamSpec,
        *,
        groups: int,
        seed: int,
        epoch_steps: int,
        rank: int = 0,
        world: int = 1,
        start_step: int = 0,
        state: Mapping[str, Any] | None = None,
        agree: Agree | None = None,
        pin: bool = False,
    ) -> None:
        """`groups`: of a step, over all `world` ranks. `state`: of an earlier stream, instead of `start_step`.

        `agree` is needed where there are several ranks, so that all read the same: it takes whole numbers of 61 bits
        and returns for each the smallest that a rank has, as an all-reduce does; all ranks call it here, and at the
        same `wait()` or `next()` where a data set grows. `pin`: page-locked buffers, if there is CUDA.

        Raises ValueError for what `SampleOrder` and `load_index` refuse, and if another rank has found other data.
        """
        cv2.setNumThreads(1)  # the threads here share the cores already
        if world > 1 and agree is None:
            raise ValueError(f"stream: found {world} ranks, expected `agree`, so that all read the same data")
        self.spec = spec
        self.rank, self.world = rank, world
        self.counters = Counters()
        self._seed = seed
        self._agree: Agree = agree or (lambda numbers: numbers)
        self._sources: list[_Source] = []
        self._decoders = DecodeThreads(spec.threads)
        self._flights: deque[tuple[_Flight, Job]] = deque()
        self._error: Exception | None = None
        try:
            indexes = self._look(spec.domains)
            self._schedule = SampleOrder(
                [
                    Domain(name=domain.name, quota=domain.quota, index=index, sampling=domain.sampling)
                    for domain, index in zip(spec.domains, indexes, strict=True)
                ],
                groups=groups,
                seed=seed,
                window_shards=spec.window_shards,
                epoch_steps=epoch_steps,
            )
            if state is not None:
                self._schedule, start_step = self._schedule.resume(state)
            self._schedule.takes(start_step, rank, world)  # refuses what cannot be dealt out
            for domain, index in zip(spec.domains, indexes, strict=True):
                fetcher = spec.cache.fetcher(domain.source, index, spec.deadline_s, len(spec.domains), spec.verify)
                self._sources.append(_Source(domain, index, fetcher))
        except BaseException:
            self.close()
            raise
        self._step = self._planned = start_step
        self._ahead = spec.prefetch_steps if spec.threads else 0
        self._num_samples = groups // world * sum(domain.quota for domain in spec.domains)
        shape = (self._num_samples, spec.size_px, spec.size_px, 3)
        # the batch that is handed out, the one before it, and those that are being filled
        self._ring = [new_buffer(shape, pin) for _ in range(self._ahead + 2)]

    def __enter__(self) -> "Stream":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        """The batch of the next step.

        Raises TimeoutError after `deadline_s`, ValueError when too many samples cannot be read.
        """
        self.wait(lambda: False)
        with self._failing_for_good():
            return self._hand_out(self._flights.popleft()[0])

    def wait(self, is_stopped: Callable[[], bool]) -> bool:
        """Until the batch of the next step is there, so that `next()` gives it at once.

        False if `is_stopped()`, asked about once a second, was true before. Raises as `next()`.
        """
        if self._error is not None:
            raise self._error
        began = time.perf_counter()
        with self._failing_for_good():
            while self._planned <= self._step + self._ahead:
                self._plan()
            flight, job = self._flights[0]
            is_there = self._decoders.finish(job, self.spec.deadline_s, is_stopped)
            self.counters.wait_s += time.perf_counter() - began
            if not is_there and not is_stopped():
                raise TimeoutError(
                    f"stream: found {job.filled} of {job.count} pictures of step {flight.step} after "
                    f"{self.spec.deadline_s:g} s, expected all; the storage is too slow or hangs (deadline_s)"
                )
            return is_there

    @contextlib.contextmanager
    def _failing_for_good(self) -> Iterator[None]:
        """An error inside is raised again at every later call."""
        try:
            yield
        except Exception as error:
            self._error = error
            raise
        except BaseException:
            self._error = ValueError(
                "stream: it was interrupted in the middle of a batch; make a new one from its state"
            )
            raise

    def state(self) -> dict[str, Any]:
        """JSON object from which a stream goes on with the batch that `next()` would give now.

        The same on all ranks, and good for another number of ranks.
        """
        return self._schedule.state(self._step)

    def fetched(self) -> dict[str, dict[str, int]]:
        """Domain -> what its `Fetcher` counted: bytes, retries, cache; also for batches that are not handed out yet."""
        return {source.spec.name: source.fetcher.counters() for source in self._sources}

    def close(self) -> None:
        """Within a second, even if a thread hangs in a read."""
        self._decoders.close()
        for source in self._sources:
            source.fetcher.close()
        self._flights.clear()
        if self._error is None:
            self._error = ValueError("stream: found it closed, expected an open one; make a new one from its state")

    def _plan(self) -> None:
        """Begin to fill the batch of step `_planned`."""
        step = self._planned
        if step and step % self._schedule.epoch_steps == 0:
            self._grow(step)
        takes = self._schedule.takes(step, self.rank, self.world)
        count = self._num_samples
        flight = _Flight(
            step=step,
            takes=takes,
            sources=list(self._sources),
            domain=_in_batch([np.full((take.groups, take.quota), number) for number, take in enumerate(takes)]),
            place=_in_batch([np.arange(take.count).reshape(take.groups, take.quota) for take in takes]),
            rows=_in_batch([take.rows() for take in takes]),
            passes=_in_batch([take.passes() for take in takes]),
            images=self._ring[step % len(self._ring)],
            labels=np.zeros(count, np.int64),
            uids=np.zeros(count, np.uint64),
            sizes=np.zeros(count, np.int64),
            by_pillow=np.zeros(count, np.bool_),
            replaced=[],
        )
        for number, source in enumerate(self._sources):
            source.fetcher.prefetch(flight.rows[flight.domain == number], takes[number].coming())
        self._flights.append((flight, self._decoders.start(count, partial(self._fill, flight))))
        self._planned = step + 1

    def _fill(self, flight: _Flight, slot: int) -> None:
        """Read, decode and change the picture of one slot; of a spare, if it cannot be read."""
        number = int(flight.domain[slot])
        source = flight.sources[number]
        row = int(flight.rows[slot])
        for attempt in range(_MAX_SPARES + 1):
            uid = int(source.index.uid[row])
            try:
                data = source.fetcher.read(row)
                rng = KeyedRandom(self._seed, _PIXELS, int(flight.passes[slot]), uid)
                is_fast = train_pixels(data, self.spec.size_px, self.spec.augment, rng, flight.images[slot])
                if source.spec.planted_shift:
                    flight.images[slot] = planted_shift(flight.images[slot], source.spec.planted_shift)
            except (UnreadablePicture, FetchError) as error:
                # a TimeoutError ends the stream: it is no fault of the sample, and all others would fail too
                reason = "no picture" if isinstance(error, UnreadablePicture) else _REASONS[error.reason]
                flight.replaced.append(
                    Replaced(
                        step=flight.step,
                        slot=slot,
                        attempt=attempt,
                        domain=source.spec.name,
                        tar=source.index.place_of(row),
                        uid=f"{uid:016x}",
                        reason=reason,
                        detail=str(error)[:200],
                    )
                )
                row = flight.takes[number].spare(int(flight.place[slot]), attempt)
                continue
            flight.labels[slot] = source.index.label[row]
            flight.uids[slot] = uid
            flight.sizes[slot] = len(data)
            flight.by_pillow[slot] = not is_fast
            return
        raise ValueError(
            f"stream: found no readable sample of {source.spec.name} for slot {slot} of step {flight.step} in "
            f"{_MAX_SPARES + 1} tries, the last: {flight.replaced[-1].tar}, {flight.replaced[-1].detail}; "
            f"{source.index.mend}"
        )

    def _hand_out(self, flight: _Flight) -> Batch:
        replaced = tuple(sorted(flight.replaced))
        counters = self.counters
        counters.steps += 1
        counters.samples += len(flight.rows)
        counters.bytes += int(flight.sizes.sum())
        counters.by_pillow += int(flight.by_pillow.sum())
        counters.replaced.update(bad.reason for bad in replaced)
        num_bad = counters.replaced.total()
        # one that was given the counts of more ranks may begin above the limit: a sound batch is handed out even then
        if replaced and num_bad > max(_FREE_BAD, self.spec.bad_rate * counters.samples):
            last = replaced[-1]
            index = next(source.index for source in self._sources if source.spec.name == last.domain)
            raise ValueError(
                f"stream: found {num_bad} unreadable of {counters.samples} samples up to step {flight.step}, expected "
                f"a part of at most {self.spec.bad_rate:g}; the last: {last.domain} {last.tar} id {last.uid}, "
                f"{last.detail}; {index.mend}"
            )
        takes = flight.takes
        groups = takes[0].groups
        quotas = tuple(take.quota for take in takes)
        mix = None
        if self.spec.mix.is_on:
            mix = plan_mix(
                self.spec.mix, quotas, self.spec.size_px, self._seed, flight.step, self.rank * groups, groups
            )
        self._step = flight.step + 1
        return Batch(
            step=flight.step,
            images=flight.images,
            labels=flight.labels,
            uids=flight.uids,
            groups=groups,
            quotas=quotas,
            mix=mix,
            replaced=replaced,
        )

    def _look(self, domains: Sequence[DomainSpec]) -> list[Index]:
        """The index of each; of those that grow the shards before the first that is missing, if all ranks have them.

        Raises ValueError if another rank found other data.
        """
        spec = self.spec
        indexes = [load_index(one.source, one.subset, spec.cache.folder, spec.class_list) for one in domains]
        growing = [number for number, domain in enumerate(domains) if domain.grow]
        counts = self._agree([indexes[number].unbroken() for number in growing]) if growing else []
        for number, count in zip(growing, counts, strict=True):
            indexes[number] = indexes[number].prefix(count)
        if self.world > 1:
            self._refuse_others(domains, indexes)
        return indexes

    def _refuse_others(self, domains: Sequence[DomainSpec], indexes: Sequence[Index]) -> None:
        """Raises ValueError unless all ranks have the same: then the smallest number is the largest too."""
        numbers = [int(index.digest[:_AGREED_DIGITS], 16) for index in indexes]
        agreed = self._agree([*numbers, *(-number for number in numbers)])
        for domain, index, least, most in zip(domains, indexes, agreed, agreed[len(numbers) :], strict=False):
            if least != -most:
                way_out = (
                    "let all ranks see one data set"
                    if domain.grow
                    else (f"set grow of domain {domain.name} to true, or start when the data set is complete")
                )
                raise ValueError(
                    f"{index.url}: found {len(index.tars)} shards on rank {self.rank} (digest {index.digest[:16]}) and "
                    f"others on another rank, expected the same on all; {way_out}"
                )

    def _grow(self, step: int) -> None:
        """Take in the shards that have come, at the end of an epoch."""
        numbers = [
            number
            for number, domain in enumerate(self._schedule.domains)
            # a state may know more of the future than this stream: batches were prepared when it was taken
            if self.spec.domains[number].grow and domain.segments[-1].first_step < step
        ]
        if not numbers:
            return
        specs = [self.spec.domains[number] for number in numbers]
        for number, spec, index in zip(numbers, specs, self._look(specs), strict=True):
            if len(index.tars) > self._schedule.domains[number].segments[-1].num_shards:
                self._schedule = self._schedule.grow(spec.name, step, index)
                fetcher = self._sources[number].fetcher
                fetcher.grow(index)
                self._sources[number] = _Source(spec, index, fetcher)


def _in_batch(parts: Sequence[Int64]) -> Int64:
    """(groups, quota) of each domain, to (N,): group by group, in each domain by domain."""
    return np.concatenate(parts, axis=1).reshape(-1)
