"""Rows of a data set's pictures, kept by content: the same tar read by the same model is never read twice.

In: a data set, a descriptor. Out: a matrix for each shard, a row for each success in the order of its table. On disk,
in `features/` of this user's cache (`shards.disk.machine_cache`; `XDG_CACHE_HOME` moves it to a disk that machines
share):

    <descriptor>/<key>.npy    float16 (successes, D); the key is a hash of the sha256 of tar and table in the record

Never in the data set: it may be read-only or remote, and rows decide what is kept, so they are believed only where
nobody but their user writes. A name or folder of the data set is no part of the key; a copy finds the same rows, and a
shard of other bytes finds none. A file that is no such matrix is made again.

A picture that cannot be read has a row of zeros. Such a shard is not kept, because a repair may bring the picture back.
All rows pass through half precision, so that a second run sees the same numbers as the first.
"""

import contextlib
import hashlib
import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gen.model.clip import MAX_SIDE_RATIO
from retrieve.dedup.descriptor import Descriptor
from retrieve.dedup.picture import Image
from shards.disk.jpeg import decode_jpeg
from shards.disk.layout import SUCCESS
from shards.disk.machine_cache import cache_folder
from shards.disk.record import Record
from shards.disk.regular import read_regular
from shards.disk.replace import replace_file
from shards.disk.store import Store
from shards.set.manifest import iter_tables
from shards.set.row_jpegs import JPEG_COLUMNS, read_jpegs

FEATURES = "features"
_LENGTHS = (0.98, 1.02)  # of a unit row in half precision


@dataclass(frozen=True, eq=False)
class Features:
    """The rows of one shard."""

    rows: NDArray[np.float16]  # N D; zeros: no picture, or a flat one that the descriptor sees nothing in
    unreadable: Mapping[int, str]  # place in the shard -> why


def iter_features(
    store: Store,
    records: Mapping[int, Record],
    descriptor: Descriptor,
    say: Callable[[str], None],
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    cache: Path | None = None,
) -> Iterator[tuple[int, Features]]:
    """(shard, its rows), shards rising. `cache`: a folder in the place of this user's; `say` hears where that cannot be
    written. Raises ValueError as `iter_tables` does."""
    base = cache if cache is not None else cache_folder(os.environ, FEATURES, say)
    total = sum(record.successes for record in records.values())
    done = 0
    for shard, record in sorted(records.items()):
        path = base / descriptor.digest / f"{_key_of(record)}.npy"
        found = _read(path, record.successes)
        if found is None:
            found = _describe(store, record, descriptor, partial(_advance, on_progress, done, total))
            if not found.unreadable:
                with contextlib.suppress(OSError):  # a full disk: the next run describes them again
                    _write(path, found.rows)
        done += record.successes
        on_progress(done, total)
        yield shard, found


def _advance(on_progress: Callable[[int, int], None], before: int, total: int, done: int) -> None:
    on_progress(before + done, total)


def _key_of(record: Record) -> str:
    return hashlib.sha256(f"{record.tar.sha256} {record.parquet.sha256}".encode()).hexdigest()


def _describe(store: Store, record: Record, descriptor: Descriptor, on_progress: Callable[[int], None]) -> Features:
    columns = ["key", "status", *JPEG_COLUMNS]
    table = pa.concat_tables(iter_tables(store, {record.shard: record}, columns))
    samples = table.filter(pc.equal(table["status"], SUCCESS)).to_pylist()
    order = sorted(range(len(samples)), key=lambda place: samples[place]["jpg_offset"])
    jpegs = zip(order, read_jpegs(store, record.shard, [samples[place] for place in order]), strict=True)
    blocks: list[tuple[list[int], NDArray[np.float32]]] = []
    unreadable: dict[int, str] = {}
    done = 0
    while batch := list(islice(jpegs, descriptor.batch)):
        places, images = _decoded(batch, unreadable)
        if images:
            blocks.append((places, descriptor.rows_of(images)))
        done += len(batch)
        on_progress(done)
    width = blocks[0][1].shape[1] if blocks else 1
    rows = np.zeros((len(samples), width), np.float16)
    for places, block in blocks:
        rows[places] = block
    return Features(rows, unreadable)


def _decoded(batch: Sequence[tuple[int, bytes | str]], unreadable: dict[int, str]) -> tuple[list[int], list[Image]]:
    """Places and pictures of those that can be read; the others go to `unreadable`."""
    places, images = [], []
    for place, jpeg in batch:
        if isinstance(jpeg, str):
            unreadable[place] = jpeg
            continue
        try:
            image: Any = decode_jpeg(jpeg)
        except ValueError as error:
            unreadable[place] = str(error)
            continue
        if max(image.shape[:2]) > MAX_SIDE_RATIO * min(image.shape[:2]):
            unreadable[place] = f"{image.shape[1]} x {image.shape[0]} pixels are a strip and no picture"
            continue
        places.append(place)
        images.append(image)
    return places, images


def _read(path: Path, num: int) -> Features | None:
    """The rows in the file; None if there is none, or if it is no matrix of `num` rows of length 1 or 0."""
    with contextlib.suppress(OSError, ValueError, EOFError, SyntaxError):  # numpy's, for bytes that are no array
        rows = np.load(io.BytesIO(read_regular(path)), allow_pickle=False)
        if rows.dtype != np.float16 or rows.ndim != 2 or len(rows) != num:
            return None
        lengths = np.sqrt(np.einsum("nd,nd->n", rows, rows, dtype=np.float32))
        if ((lengths == 0) | ((lengths > _LENGTHS[0]) & (lengths < _LENGTHS[1]))).all():
            return Features(rows, {})
    return None


def _write(path: Path, rows: NDArray[np.float16]) -> None:
    file = io.BytesIO()
    np.save(file, rows, allow_pickle=False)
    replace_file(path, file.getvalue())
