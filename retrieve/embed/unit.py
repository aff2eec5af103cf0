"""One unit of an embedding: the rows of one table of the pool through the CLIP, published as a whole.

In: an `EmbedJob`, a unit number. Out: a small summary. On disk: its files and records (`retrieve.embed.output`).

The bytes depend on (pool, model, unit) alone: rows go to the model in their order, `clip.batch` at a time. Threads
read, decode and prepare the pictures of the next batches while the model works on this one. A row that is not kept
is never decoded; it, a row without a picture, and a picture that cannot be decoded have zeros, and the record names
them.
"""

import contextlib
import os
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.lib import format as npy
from pydantic import BaseModel, ConfigDict

from cluster.fan_out.work import Beat
from cluster.process.exit import NotAgain, WorkerBroken
from cluster.process.failure import error_line
from cluster.process.memory import free_memory, is_memory_error
from gen.model.clip import Clip, check_image, clip_digest
from retrieve.embed.output import LOCK, Output
from retrieve.embed.spec import Decides, EmbedSpec
from retrieve.pool.blocks import Blocks
from retrieve.pool.columns import KNOWN
from retrieve.pool.embeddings import Modality
from retrieve.pool.images import NoPicture, Place, PoolImages, Stretch, read_stretches
from retrieve.pool.pool import BATCH_ROWS, KEPT, ROW, Part, Pool, open_pool
from shards.disk.layout import SUCCESS
from shards.disk.lock import locked
from shards.disk.record import JSON, FileStamp
from shards.disk.regular import sha256_of
from shards.disk.replace import whole_file
from shards.stream.pixels import UnreadablePicture, whole_pixels

if TYPE_CHECKING:
    from torch import Tensor

NOT_KEPT = "not_kept"  # flagged, blocked, or not there by the table's own word; the table says which
BLOCKED = "blocked"  # by the hash of the picture, of which the table says nothing
NO_PICTURE = "no_picture"
NO_CAPTION = "no_caption"
UNDECODABLE = "failed_to_decode"
STRIP = "failed_to_resize"
MAX_REASONS = 100  # of a record, in words; its lists of rows are whole
DECODE_S = 600.0  # for the pictures of a batch; a worker that hangs for longer gives the unit up
LOCK_S = 300.0

Bad = tuple[int, str, str]  # place in the batch, status, reason


class EmbedJob(BaseModel):
    """All a worker needs, as plain data that may travel to another machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    spec: EmbedSpec
    out: Path
    decides: Decides


@dataclass
class Rows:
    """What became of the rows of a unit in one modality."""

    by_status: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    reasons: list[JSON] = field(default_factory=list)

    def note(self, row: int, status: str, reason: str = "") -> None:
        """`row` counts from the start of the unit."""
        self.by_status[status].append(row)
        if reason and len(self.reasons) < MAX_REASONS:
            self.reasons.append({"row": row, "status": status, "reason": reason[:300]})

    @property
    def num_bad(self) -> int:
        """Rows that are noted, those that are not kept aside."""
        return sum(len(rows) for status, rows in self.by_status.items() if status != NOT_KEPT)

    def to_json(self, num_rows: int) -> dict[str, JSON]:
        """Counts of all statuses, and the rows of those that only this record tells."""
        counts: dict[str, int] = {status: len(rows) for status, rows in sorted(self.by_status.items())}
        told: dict[str, JSON] = {status: rows for status, rows in self.by_status.items() if status != NOT_KEPT}
        return {
            "rows": num_rows,
            "statuses": {**counts, SUCCESS: num_rows - sum(counts.values())},
            "rows_by_status": told,
            "reasons": self.reasons,
        }


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows of the unit that the model gets at once."""

    first: int  # in the unit
    rows: pa.Table
    kept: np.ndarray
    places: Sequence[Place]  # of the pictures; none if the tables have no keys
    pictures: "Future[Pictures] | None"


@dataclass(frozen=True, eq=False)
class Pictures:
    """The pictures of a batch: `pixels` of the rows `at`, and why the others have none."""

    at: np.ndarray
    pixels: "Tensor | None"
    bad: list[Bad]


class EmbedWorker:
    """Makes units, one at a time; owns the loaded model."""

    def __init__(self, job: EmbedJob, pool: Pool, clip: Clip, is_cuda: bool) -> None:
        self.job, self.pool, self.clip = job, pool, clip
        self.output = Output.of(job.out, pool, job.decides)
        self.precision = "fp32"
        if is_cuda:
            self.precision = "fp16" if job.spec.precision == "auto" else job.spec.precision
        self.dim = clip.embed_texts([]).shape[1]
        self._images = PoolImages(pool)
        self._decoders = job.spec.decoders(is_cuda)
        self._batch = clip.spec.batch

    def __call__(self, unit: int, attempt: str, beat: Beat) -> Mapping[str, JSON]:
        """Make what the unit lacks."""
        todo = [one for one in self.job.spec.modalities if self.output.record(one, unit) is None]
        if not todo:
            return {"rows": 0}
        started = time.monotonic()
        part = self.pool.parts[unit]
        told = {one: Rows() for one in todo}
        with (
            contextlib.ExitStack() as held,
            _open_files(self.output, unit, todo, part.num_rows, self.dim) as files,
        ):
            try:
                with contextlib.closing(self._batches(part, "image" in todo)) as batches:
                    for batch in batches:
                        self._embed(batch, files, told)
                        beat(batch.first + len(batch.rows), sum(rows.num_bad for rows in told.values()))
                if not part.num_rows:  # a table without rows still says which columns it has
                    files.write_rows(self.pool.take([], tuple(KNOWN)), [])
                files.seal(part.num_rows)
            except (ValueError, pa.ArrowException) as error:  # a damaged table or tar, which stays damaged
                raise NotAgain(f"{part.path.name}: {error}") from error
            except RuntimeError as error:
                self._name_device_fault(error)
                raise
            held.enter_context(locked(self.job.out / LOCK, LOCK_S))
            if any(self.output.record(one, unit) is not None for one in todo):
                raise RuntimeError(f"{part.path.name}: another attempt was faster; what it left is made next time")
            seconds = round(time.monotonic() - started, 3)
            for modality in todo:
                body = told[modality].to_json(part.num_rows)
                about: dict[str, JSON] = {
                    "table": part.path.name,
                    "precision": self.precision,
                    "attempt": attempt,
                    "seconds": seconds,
                }
                self.output.write_record(modality, unit, files.stamps(modality), {**about, **body})
        return {"rows": part.num_rows, "seconds": seconds}

    def _name_device_fault(self, error: RuntimeError) -> None:
        """Raises what a full memory or a lost device means; any other error is left to the caller."""
        import torch

        if is_memory_error(error):
            free_memory()
            raise RuntimeError(
                f"found no memory for a batch of {self._batch} ({error_line(error, 200)}); lower pool.clip.batch, in a "
                "new folder"
            ) from None
        if isinstance(error, torch.AcceleratorError):
            raise WorkerBroken(
                f"the device failed ({error_line(error, 200)}); check it with `nvidia-smi -q`"
            ) from error

    def _batches(self, part: Part, with_pictures: bool) -> Generator[Batch]:
        """In order; the pictures of the next ones are decoded meanwhile."""
        threads = ThreadPoolExecutor(self._decoders, "decode")
        ahead: deque[Batch] = deque()
        try:
            for batch in self._scan(part, threads if with_pictures else None):
                ahead.append(batch)
                if len(ahead) > self._decoders + 1:
                    yield ahead.popleft()
            yield from ahead
        finally:
            threads.shutdown(wait=False, cancel_futures=True)

    def _scan(self, part: Part, threads: ThreadPoolExecutor | None) -> Iterator[Batch]:
        size = self._batch
        for table in self.pool.scan(part, tuple(KNOWN), max(1, BATCH_ROWS // size) * size):
            places = [] if self.pool.columns.key is None else self._images.places_of(table)
            for start in range(0, len(table), size):
                rows, mine = table.slice(start, size), places[start : start + size]
                kept = np.asarray(rows[KEPT].to_numpy())
                pictures = (
                    None
                    if threads is None
                    else threads.submit(_prepare, self.clip, self.pool.blocks, *self._find(mine, kept))
                )
                yield Batch(rows[ROW][0].as_py() - part.first_row, rows, kept, mine, pictures)

    def _find(self, places: Sequence[Place], kept: np.ndarray) -> tuple[list[tuple[int, Stretch]], list[Bad]]:
        """(place in the batch, bytes) of the pictures of the kept rows, and of which there are none."""
        found: list[tuple[int, Stretch]] = []
        bad: list[Bad] = []
        for at in np.flatnonzero(kept).tolist():
            try:
                found.append((at, self._images.find(places[at])))
            except NoPicture as error:
                bad.append((at, NO_PICTURE, str(error)))
        return found, bad

    def _embed(self, batch: Batch, files: "_Files", told: Mapping[Modality, Rows]) -> None:
        for place in np.flatnonzero(~batch.kept).tolist():
            for rows in told.values():
                rows.note(batch.first + place, NOT_KEPT)
        if batch.pictures is not None:
            pictures = batch.pictures.result(timeout=DECODE_S)
            vectors = np.zeros((len(batch.rows), self.dim), np.float16)
            if pictures.pixels is not None:
                vectors[pictures.at] = self._run(self.clip.embed_prepared, pictures.pixels)
            for place, status, reason in pictures.bad:
                told["image"].note(batch.first + place, status, reason)
            files.write("image", vectors)
        if "text" in told:
            files.write("text", self._texts(batch, told["text"]))
        files.write_rows(batch.rows, [place.shard for place in batch.places])

    def _texts(self, batch: Batch, told: Rows) -> np.ndarray:
        captions = batch.rows["caption"].to_pylist()
        at = []
        for place in np.flatnonzero(batch.kept).tolist():
            if captions[place] is None or not str(captions[place]).strip():
                told.note(batch.first + place, NO_CAPTION)
            else:
                at.append(place)
        vectors = np.zeros((len(batch.rows), self.dim), np.float16)
        if at:
            vectors[at] = self._run(self.clip.embed_texts, [str(captions[place]) for place in at])
        return vectors

    def _run(self, embed: Callable[[Any], np.ndarray], items: Any) -> np.ndarray:
        """On a GPU in the lower precision; a batch that has no finite result in it again in full precision."""
        if self.precision == "fp32":
            return embed(items)
        import torch

        dtype = torch.float16 if self.precision == "fp16" else torch.bfloat16
        with contextlib.suppress(ValueError), torch.autocast("cuda", dtype):
            return embed(items)
        return embed(items)


def _prepare(clip: Clip, blocks: Blocks, stretches: list[tuple[int, Stretch]], bad: list[Bad]) -> Pictures:
    """Read, decode, and prepare for the model; runs in a thread. Raises ValueError or OSError for a damaged tar."""
    at, images = [], []
    places = [place for place, _ in stretches]
    for place, data in zip(places, read_stretches([one for _, one in stretches]), strict=True):
        if blocks.holds(data):
            bad.append((place, BLOCKED, ""))
            continue
        try:
            image = whole_pixels(data)
        except UnreadablePicture as error:
            bad.append((place, UNDECODABLE, str(error)))
            continue
        try:
            check_image(image)
        except ValueError as error:
            bad.append((place, STRIP, str(error)))
            continue
        at.append(place)
        images.append(image)
    return Pictures(np.array(at, np.int64), clip.prepare_images(images) if images else None, sorted(bad))


@dataclass(frozen=True, eq=False)
class _Files:
    """The files of one unit while they are made; from `_open_files`."""

    output: Output
    unit: int
    vectors: Mapping[Modality, BinaryIO]
    table: BinaryIO | None
    told: list[pa.Table] = field(default_factory=list)  # rows that wait for a row group
    writers: list[pq.ParquetWriter] = field(default_factory=list)  # of the table: one, made with the first rows
    num_rows: Counter[str] = field(default_factory=Counter)
    sealed: dict[str, FileStamp] = field(default_factory=dict)

    def write(self, modality: Modality, vectors: np.ndarray) -> None:
        """The next float16 rows."""
        self.vectors[modality].write(np.ascontiguousarray(vectors, "<f2").tobytes())
        self.num_rows[modality] += len(vectors)

    def write_rows(self, rows: pa.Table, shards: Sequence[str]) -> None:
        """What the pool says of the next rows, by role."""
        if self.table is None:
            return
        columns = {"caption": rows["caption"]}
        if "key" in rows.column_names:
            keys = rows["key"].cast(pa.string())
            columns = {"image_path": keys, **columns, "key": keys, "shard": pa.array(shards, pa.string())}
        columns |= {name: rows[name] for name in KNOWN if name in rows.column_names and name not in columns}
        self.told.append(pa.table(columns))
        if sum(len(one) for one in self.told) >= BATCH_ROWS:
            self._write_told()

    def _write_told(self) -> None:
        """A row group; small ones would be slow to read."""
        if self.table is None or not self.told:
            return
        told = pa.concat_tables(self.told)
        if not self.writers:
            self.writers.append(pq.ParquetWriter(self.table, told.schema, compression="zstd"))
        self.writers[0].write_table(told, row_group_size=max(1, len(told)))
        self.told.clear()

    def seal(self, num_rows: int) -> None:
        """Wait until all is on the disk, and hash it. Raises ValueError if the table has other rows than it said."""
        for modality in self.vectors:
            if self.num_rows[modality] != num_rows:
                raise ValueError(f"found {self.num_rows[modality]:,} rows, expected {num_rows:,}; fetch it again")
        self._write_told()
        for writer in self.writers:
            writer.close()
        files = {self.output.vectors(one, self.unit): file for one, file in self.vectors.items()}
        if self.table is not None:
            files[self.output.table(self.unit)] = self.table
        for path, file in files.items():
            file.flush()
            os.fsync(file.fileno())
            stamp = FileStamp(bytes=os.fstat(file.fileno()).st_size, sha256=sha256_of(Path(file.name)))
            self.sealed[path.relative_to(self.output.root).as_posix()] = stamp

    def stamps(self, modality: Modality) -> dict[str, FileStamp]:
        """Of the files that the record of this modality names."""
        others = {
            self.output.vectors(one, self.unit).relative_to(self.output.root).as_posix()
            for one in self.vectors
            if one != modality
        }
        return {name: stamp for name, stamp in self.sealed.items() if name not in others}


@contextlib.contextmanager
def _open_files(output: Output, unit: int, modalities: Sequence[Modality], num_rows: int, dim: int) -> Iterator[_Files]:
    """Files that take their names when the block ends well, and are removed when it does not; the record is there then,
    so that a run that ends in between leaves nothing that no record names."""
    with contextlib.ExitStack() as opened:
        vectors: dict[Modality, BinaryIO] = {}
        for modality in modalities:
            vectors[modality] = opened.enter_context(whole_file(output.vectors(modality, unit)))
            about = {"descr": "<f2", "fortran_order": False, "shape": (num_rows, dim)}
            npy.write_array_header_1_0(vectors[modality], about)
        table = None if output.has_tables else opened.enter_context(whole_file(output.table(unit)))
        files = _Files(output, unit, vectors, table)
        try:
            yield files
        finally:
            for writer in files.writers:
                with contextlib.suppress(OSError, ValueError):  # of a unit that is given up
                    writer.close()


def make_embed_worker(job: Mapping[str, object]) -> EmbedWorker:
    """A worker from plain data (`EmbedJob.model_dump(mode="json")`); loads the model. Raises ValueError in one line."""
    checked = EmbedJob.model_validate(job)
    spec = checked.spec.pool.clip
    assert spec is not None
    pool = open_pool(checked.spec.pool, with_vectors=False)
    for what, found, planned in (
        (f"the pool {checked.spec.pool.source}", pool.digest, checked.decides.pool_digest),
        (f"the model {spec.model}", clip_digest(spec), checked.decides.model_digest),
    ):
        if found != planned:
            raise ValueError(
                f"{what}: found another one here (digest {found[:12]}) than the run was planned with "
                f"({planned[:12]}); give every node the same files"
            )
    import torch

    return EmbedWorker(checked, pool, Clip.load(spec), spec.device != "cpu" and torch.cuda.is_available())
