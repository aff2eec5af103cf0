"""The pictures that edits begin with: which ones, in which order, and their bytes.

In: a data set of ours, tars of others, an image folder or a data set of Hugging Face, through the index
(`shards.stream.index`); the classes of a recipe. Out: `Sources`, and a reader of their pixels. On disk:
`_meta/sources.parquet` of the edited set, a row for each source.

The sources of a class are in an order that a hash of seed and sample id decides: of a smaller number the first ones are
taken, and neither other classes nor the order of files or shards matter. One edit of each source is 1x.
"""

import hashlib
import io
from collections.abc import Mapping, Sequence
from concurrent.futures import wait
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field

from cluster.process.exit import Draining, NotAgain
from cluster.process.stop_flag import StopFlag
from gen.edit.priors.canvas import place_on, resized_for
from shards.disk.address import BESIDE, file_path, is_remote, shown
from shards.disk.data_set import is_data_set
from shards.disk.layout import META, shard_of
from shards.disk.safe_text import quoted, visible
from shards.disk.store import open_for_reading
from shards.labels.classes import Class
from shards.set.manifest import iter_tables
from shards.stream.fetch import FetchError
from shards.stream.foreign_tars import short_id
from shards.stream.index import foreign_keys, load_index
from shards.stream.index_arrays import Index
from shards.stream.pixels import Pixels, UnreadablePicture, whole_pixels
from shards.stream.request_threads import RequestThreads
from shards.stream.spec import CacheSpec

SOURCES_NAME = "sources.parquet"
SOURCES = f"{META}/{SOURCES_NAME}"
READ_THREADS = 4
DEADLINE_S = 300.0  # for one picture
LOOK_S = 0.2  # between two looks at the stop flag
SCHEMA = pa.schema(
    [
        pa.field("class_id", pa.int32(), nullable=False),
        pa.field("number", pa.int32(), nullable=False),  # 0.. within the class
        pa.field("row", pa.int64(), nullable=False),  # of the index
        pa.field("key", pa.string(), nullable=False),  # of the sample in its set, or its path; visible characters
        pa.field("sha256", pa.string(), nullable=False),  # of the picture's bytes when the run began
    ]
)


class SourceSpec(BaseModel):
    """Which pictures are edited."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    set: Annotated[str, BESIDE] = Field(
        min_length=1, description="a data set, tars, an image folder or a data set of Hugging Face; all of it is real"
    )
    subset: str | None = Field(None, description="name of a subset or split of it; null = all", examples=["shots-20"])
    per_class: int | None = Field(
        None, ge=1, description="of each class, at most; null = all there are", examples=[100]
    )

    def at_home(self) -> "SourceSpec":
        """The same with a whole path, for processes with another working folder."""
        return self.model_copy(update={"set": self.set if is_remote(self.set) else str(file_path(self.set).absolute())})


@dataclass(frozen=True)
class Source:
    """One row of the table."""

    class_id: int
    number: int
    row: int
    key: str
    sha256: str


@dataclass(frozen=True, eq=False)
class Sources:
    """The table in memory, sorted by class and number."""

    table: pa.Table

    @staticmethod
    def load(data: bytes) -> "Sources":
        """Raises ValueError if it is not such a table."""
        try:
            table = pq.read_table(io.BytesIO(data))
        except pa.ArrowException as error:
            raise ValueError(f"sources: found no parquet file ({str(error)[:120]}), expected one") from None
        if table.schema.names != SCHEMA.names:
            raise ValueError(f"sources: found columns {table.schema.names}, expected {SCHEMA.names}")
        return Sources(table.cast(SCHEMA))

    def to_bytes(self) -> bytes:
        """What `load` reads; the same table gives the same bytes."""
        sink = io.BytesIO()
        pq.write_table(self.table, sink, compression="zstd")
        return sink.getvalue()

    @cached_property
    def _starts(self) -> Mapping[int, tuple[int, int]]:
        ids, first, count = np.unique(self.table["class_id"].to_numpy(), return_index=True, return_counts=True)
        return {int(one): (int(at), int(num)) for one, at, num in zip(ids, first, count, strict=True)}

    def num_per_class(self) -> dict[int, int]:
        """Class id -> sources."""
        return {class_id: num for class_id, (_, num) in self._starts.items()}

    def at(self, class_id: int, number: int) -> Source:
        """Raises IndexError for a number that the class does not have."""
        first, num = self._starts.get(class_id, (0, 0))
        if not 0 <= number < num:
            raise IndexError(f"class {class_id}: found source {number}, expected 0..{num - 1}")
        return Source(**{name: self.table[name][first + number].as_py() for name in SCHEMA.names})

    def named(self, class_id: int, key: str) -> Source | None:
        """The source of the class that has this key; None if none has."""
        first, num = self._starts.get(class_id, (0, 0))
        number = pc.index(self.table["key"].slice(first, num), key).as_py()
        return None if number < 0 else self.at(class_id, number)


def check_local(spec: SourceSpec, recipe: str) -> None:
    """Raises ValueError for an address: a recipe that came with a data set must not choose which addresses are called.
    `recipe`: where it stands, for the message."""
    if is_remote(spec.set):
        raise ValueError(
            f"{shown(spec.set)}: found an address that the data set chose, expected a folder of this machine, so "
            f"nothing is fetched; fetch the pictures yourself, and name your copy in {recipe}"
        )


def index_of(spec: SourceSpec, classes: Sequence[Class]) -> Index:
    """The index of the set; folders and labels have the ids of `classes`. Raises ValueError for what cannot be read."""
    return load_index(spec.set, spec.subset, class_list=lambda source: classes)


def chosen_rows(spec: SourceSpec, index: Index, classes: Sequence[Class], seed: int) -> dict[int, list[int]]:
    """Class id -> rows of the index, in the order of the sources. Raises ValueError for a class without any, and for
    pictures of no class of the list."""
    by_id = {one.id: one for one in classes}
    if strangers := sorted(set(np.unique(index.label).tolist()) - by_id.keys()):
        raise ValueError(
            f"{index.url}: found pictures of class id {strangers[0]}, expected ids of classes.source "
            f"({len(by_id):,} classes); give the list that the set was made with"
        )
    rows = {class_id: np.flatnonzero(index.label == class_id).tolist() for class_id in sorted(by_id)}
    if empty := [one for one in by_id.values() if not rows[one.id]]:
        raise ValueError(
            f"{index.url}: found no picture of {len(empty):,} classes, such as {quoted(empty[0].name, 60)}, expected "
            "some of each; give a class list without them"
        )
    for class_id, found in rows.items():
        found.sort(key=lambda row: _rank(seed, int(index.uid[row])))
        rows[class_id] = found[: spec.per_class]
    return rows


def rows_by_key(spec: SourceSpec, index: Index) -> dict[str, int]:
    """Key of each picture that is there now -> row of the index: where sources of another index lie in this one."""
    rows = range(len(index))
    return dict(zip(_keys(spec, index, rows), rows, strict=True))


def with_counts(classes: Sequence[Class], rows: Mapping[int, Sequence[int]]) -> list[Class]:
    """The classes with as many images in 1x as they have sources."""
    return [replace(one, count=len(rows[one.id])) for one in classes]


def write_sources(
    spec: SourceSpec, index: Index, rows: Mapping[int, Sequence[int]], stop: StopFlag | None = None
) -> bytes:
    """The table as bytes. Reads every picture once, for its hash. Raises ValueError for one that cannot be read,
    Draining on a stop, also while a store does not answer."""
    listed = [(class_id, number, row) for class_id, found in rows.items() for number, row in enumerate(found)]
    keys = _keys(spec, index, [row for _, _, row in listed], stop)
    with SourceReader(spec, index) as reader:
        hashes = _hashes(reader, [row for _, _, row in listed], stop)
    columns = [*zip(*listed, strict=True), keys, hashes]
    return Sources(
        pa.table([pa.array(column, kind) for column, kind in zip(columns, SCHEMA.types, strict=True)], SCHEMA)
    ).to_bytes()


def _hashes(reader: "SourceReader", rows: Sequence[int], stop: StopFlag | None) -> list[str]:
    """Hex sha256 of the pictures in these rows of the index. Raises Draining on a stop; a read that hangs then is left
    to its thread, which holds up no exit."""
    threads = RequestThreads(READ_THREADS)
    asked = [threads.submit(partial(_hash, reader, row)) for row in rows]
    found = []
    try:
        for future in asked:
            while not wait([future], timeout=LOOK_S).done:
                _heed(stop)
            _heed(stop)
            found.append(future.result(timeout=0))
        return found
    finally:
        for future in asked:
            future.cancel()
        threads.close()


def _hash(reader: "SourceReader", row: int) -> str:
    return hashlib.sha256(reader.bytes_of(row)).hexdigest()


def _heed(stop: StopFlag | None) -> None:
    """Raises Draining on a stop."""
    if stop is not None and stop.requested:
        raise Draining(f"stopped on request ({stop.reason})")


class SourceReader:
    """Reads the sources' bytes and pixels; many threads may. A context manager: owns open files."""

    def __init__(self, spec: SourceSpec, index: Index) -> None:
        self.index = index
        self._fetcher = CacheSpec().fetcher(spec.set, index, DEADLINE_S, 1, "never")

    def __enter__(self) -> "SourceReader":
        return self

    def __exit__(self, *told: object) -> None:
        self._fetcher.close()

    def bytes_of(self, row: int) -> bytes:
        """Raises ValueError for what is gone or damaged, OSError if it cannot be read now."""
        try:
            return self._fetcher.read(row)
        except FetchError as error:
            if error.reason == "failed":
                raise
            raise ValueError(f"{self.index.url}: {visible(self.index.place_of(row))}: {error}") from None

    def read(self, source: Source) -> bytes:
        """The very bytes that the run began with. Raises NotAgain that names the source if they are gone or others."""
        where = f"{self.index.url}: source {quoted(source.key, 80)}"
        try:
            data = self.bytes_of(source.row)
        except ValueError as error:
            raise NotAgain(f"{where}: {error}; bring it back, and run the same command again") from None
        if hashlib.sha256(data).hexdigest() != source.sha256:
            raise NotAgain(
                f"{where}: found other bytes than when the run began; bring the picture back, and run the same command "
                "again, or edit the new ones in another output"
            )
        return data


def fitted(data: bytes, side_px: int, fit: str) -> Pixels | str:
    """The picture as it is edited, uint8 [height, width, 3]; a text is why there is none.

    crop: the short side becomes `side_px`, then the centre. squash: both sides become it. Both bicubic with
    antialiasing, as Pillow has it. pad: the long side becomes it (Lanczos), and the short one is at most that long. A
    picture of that very size stays as it is.
    """
    from PIL import Image

    try:
        image_HWC = whole_pixels(data)
    except UnreadablePicture as error:
        return str(error)
    height, width = image_HWC.shape[:2]
    if height == width == side_px:
        return image_HWC
    if fit == "pad":
        return resized_for(image_HWC, place_on(height, width, side_px))
    picture = Image.fromarray(image_HWC)
    if fit == "squash":
        box = (0.0, 0.0, float(width), float(height))
    else:
        short = min(height, width)
        left, top = (width - short) / 2, (height - short) / 2
        box = (left, top, left + short, top + short)
    return np.asarray(picture.resize((side_px, side_px), Image.Resampling.BICUBIC, box))


def _rank(seed: int, uid: int) -> bytes:
    return hashlib.blake2b(f"{seed}/{uid:016x}".encode(), digest_size=16, person=b"sixfold source").digest()


def _keys(spec: SourceSpec, index: Index, rows: Sequence[int], stop: StopFlag | None = None) -> list[str]:
    """What people call the samples in these rows of the index, hidden characters shown: of tars the key, of a set of
    Hugging Face file and row, of a folder the path. Raises Draining on a stop."""
    if index.files:
        return [visible(index.files[row]) for row in rows]
    store = open_for_reading(spec.set)
    tars = index.tar_of(np.array(rows, np.int64)).tolist()
    known: dict[int, str] = {}
    if is_data_set(store):
        shards = sorted({shard for tar in tars if (shard := shard_of(index.tars[tar])) is not None})
        for table in iter_tables(store, shards, ["uid", "key"]):
            known.update(zip(map(short_id, table["uid"].to_pylist()), table["key"].to_pylist(), strict=True))
        return [known[int(index.uid[row])] for row in rows]
    used = sorted(set(tars))
    for found in foreign_keys(spec.set, spec.subset, index, used):
        _heed(stop)
        known.update((short_id(key), visible(key)) for key in found)
    try:
        return [known[int(index.uid[row])] for row in rows]
    except KeyError:
        raise ValueError(f"{index.url}: found other pictures than a moment ago; run the same command again") from None
