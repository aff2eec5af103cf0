"""Every sample of a test or validation set, once.

In: an `EvalSpec`, the set's index, this rank's number. Out: `EvalBatch` after `EvalBatch`. On disk: what `fetch.py`
keeps in its cache.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
import numpy.typing as npt

from shards.disk.safe_text import visible
from shards.stream.decode_threads import DecodeThreads, Job
from shards.stream.fetch import FetchError
from shards.stream.index_arrays import Index, Int64, UInt64
from shards.stream.pixels import Pixels, UnreadablePicture, eval_pixels, new_buffer
from shards.stream.spec import EvalSpec

_TARS_AHEAD = 4  # fetched before they are read


@dataclass(frozen=True, eq=False)
class EvalBatch:
    """Samples of a test set, in the order of its index."""

    images: Pixels  # (N, H, W, 3); overwritten by the next but one batch
    labels: Int64  # (N,)
    uids: UInt64  # (N,)
    valid: npt.NDArray[np.bool_]  # (N,) False: padding, all zero


def read_all(spec: EvalSpec, index: Index, batch: int, rank: int = 0, world: int = 1) -> Iterator[EvalBatch]:
    """Every sample of `index`, of the set at `spec.source`, once over all ranks: rank r gets its batches r, r + world,
    ...; all get equally many.

    Pixels are those of timm's evaluation transform. Raises ValueError for a sample that cannot be read, also because
    the set is another one by now: a figure over less than the whole set would not be comparable. Raises TimeoutError if
    the storage does not answer for `deadline_s`.
    """
    if batch < 1 or world < 1 or not 0 <= rank < world:
        raise ValueError(f"read_all: found batch {batch}, rank {rank} of {world}, expected a batch and a rank of them")
    cv2.setNumThreads(1)
    if not len(index):
        raise ValueError(f"{index.url}: found no sample, expected a test set; check the folder and the subset")
    fetcher = spec.cache.fetcher(spec.source, index, spec.deadline_s, 1, spec.verify)
    decoders = DecodeThreads(spec.threads)
    num_batches = -(-len(index) // (batch * world))
    ahead = 2 if spec.threads else 0
    ring = [new_buffer((batch, spec.size_px, spec.size_px, 3), False) for _ in range(ahead + 2)]
    jobs: deque[tuple[Int64, Pixels, Job]] = deque()
    planned = 0

    def fill(rows: Int64, images: Pixels, slot: int) -> None:
        row = int(rows[slot])
        try:
            images[slot] = eval_pixels(fetcher.read(row), spec.size_px, spec.crop_pct)
        except (UnreadablePicture, FetchError) as error:
            raise ValueError(
                f"{index.url}: {visible(index.place_of(row))}, id {int(index.uid[row]):016x}: {error}; every sample "
                f"of a test set is needed; {index.mend}"
            ) from error

    try:
        for number in range(num_batches):
            while planned < min(number + ahead + 1, num_batches):
                first = (planned * world + rank) * batch
                rows = np.arange(first, min(first + batch, len(index)), dtype=np.int64)
                images = ring[planned % len(ring)]
                images[len(rows) :] = 0
                fetcher.prefetch(rows, _tars_behind(index, rows))
                jobs.append((rows, images, decoders.start(len(rows), partial(fill, rows, images))))
                planned += 1
            rows, images, job = jobs.popleft()
            if not decoders.finish(job, spec.deadline_s):
                raise TimeoutError(
                    f"{index.url}: found {job.filled} of {job.count} pictures of a batch after {spec.deadline_s:g} s, "
                    "expected all; the storage is too slow or hangs (deadline_s)"
                )
            labels, uids = np.zeros(batch, np.int64), np.zeros(batch, np.uint64)
            labels[: len(rows)], uids[: len(rows)] = index.label[rows], index.uid[rows]
            yield EvalBatch(images=images, labels=labels, uids=uids, valid=np.arange(batch) < len(rows))
    finally:
        decoders.close()
        fetcher.close()


def _tars_behind(index: Index, rows: Int64) -> Int64:
    """The next few tars behind the last of `rows`, which rise."""
    first = int(index.tar_of(rows[-1:])[0]) + 1 if len(rows) else 0
    return np.arange(first, min(first + _TARS_AHEAD, len(index.tars)), dtype=np.int64)
