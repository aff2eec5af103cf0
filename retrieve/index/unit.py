"""The units of an index: its lists are learned once, then each part of the pool is put into a copy of what was learned.

In: an `IndexJob`, a unit number: 0 learns, n + 1 makes part n. Out: a small summary. On disk: a file of FAISS and its
record (`retrieve.index.output`).

A unit depends on (vectors, factory, unit) alone, on one thread to the byte: the vectors that lists are learned from are
drawn by a fixed seed, and a part is filled in the order of its rows. Vectors without direction are counted and left
out.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from cluster.fan_out.work import Beat
from cluster.process.exit import NotAgain
from retrieve.index.output import LOCK, TRAINED, Output, mark_of
from retrieve.index.spec import Decides, vectors_digest
from retrieve.pool.embeddings import Embeddings, open_embeddings
from retrieve.scan.scan import MAX_LENGTH
from shards.disk.lock import locked
from shards.disk.record import JSON
from shards.disk.regular import sha256_of
from shards.disk.replace import whole_file

SEED = 0x51D
TRAIN = 0  # the unit that learns
SPARE = 1.25  # rows that are drawn for each one that is learned from; some have no direction
BLOCK_ROWS = 8192
EF_CONSTRUCTION = 128  # candidates of a graph while it is built
LEARN_S = 7 * 24 * 3600.0  # a deadline for what cannot be interrupted
BEAT_S = 5.0
LOCK_S = 300.0


class IndexJob(BaseModel):
    """All a worker needs, as plain data that may travel to another machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    vectors: Path  # the folder with img_emb/ or text_emb/
    out: Path
    decides: Decides


class IndexWorker:
    """Makes units, one at a time."""

    def __init__(self, job: IndexJob, embeddings: Embeddings) -> None:
        self.job, self.embeddings = job, embeddings
        self.output, self.mark = Output(job.out, job.decides.modality), mark_of(job.decides)

    def __call__(self, unit: int, attempt: str, beat: Beat) -> Mapping[str, JSON]:
        """Make a unit that is not there."""
        import faiss

        faiss.omp_set_num_threads(self.job.decides.threads)
        name = name_of(unit)
        if self.output.done(name, self.mark) is not None:
            return {"rows": 0}
        started = time.monotonic()
        index, body = self._learn(beat) if unit == TRAIN else self._part(unit - 1, beat)
        self._publish(name, index, {**body, "attempt": attempt, "seconds": round(time.monotonic() - started, 3)})
        return {"rows": body["rows"]}

    def _publish(self, name: str, index: Any, body: Mapping[str, JSON]) -> None:
        """A second attempt at the unit finds the record of the first and leaves it."""
        with contextlib.ExitStack() as held:
            with whole_file(self.output.unit_path(name)) as file:
                write(index, Path(file.name))
                held.enter_context(locked(self.job.out / LOCK, LOCK_S))
                if self.output.done(name, self.mark) is not None:
                    raise RuntimeError(f"{name}: another attempt was faster")
            self.output.write_done(name, self.mark, body)

    def _learn(self, beat: Beat) -> tuple[Any, dict[str, JSON]]:
        decides = self.job.decides
        index = empty_index(decides)
        if index.is_trained:
            return index, {"rows": 0, "learned_from": 0}
        vectors = sample(self.embeddings, decides.train_rows)
        least = decides.kind.least_rows
        if len(vectors) < least:
            raise NotAgain(
                f"found {len(vectors):,} vectors with a direction, expected at least {least:,} to learn "
                f"{decides.factory} from; give --factory Flat, or one with fewer lists"
            )
        with _learned_on_gpus(index):
            _while_beating(lambda: index.train(vectors), beat)
        return index, {"rows": 0, "learned_from": len(vectors)}

    def _part(self, number: int, beat: Beat) -> tuple[Any, dict[str, JSON]]:
        index = self._learned()
        first, end = self.job.decides.part(number)
        num_added = 0
        for start, block in _rows(self.embeddings, first, end):
            vectors, usable = with_direction(block)
            _add(index, vectors, usable, start - first)
            num_added += int(usable.sum())
            beat(start - first + len(block), 0)
        _settle(index, end - first)
        return index, {
            "rows": end - first,
            "first_row": first,
            "count": num_added,
            "unusable": end - first - num_added,
        }

    def _learned(self) -> Any:
        import faiss

        done = self.output.done(TRAINED, self.mark)
        if done is None or sha256_of(done.path) != done.body["sha256"]:
            raise RuntimeError(
                f"{self.output.unit_path(TRAINED)}: found other bytes than recorded; delete it, run again"
            )
        return faiss.read_index(str(done.path))


def name_of(unit: int) -> str:
    """The name of a unit's file."""
    return TRAINED if unit == TRAIN else f"{unit - 1:05d}"


def make_index_worker(job: Mapping[str, object]) -> IndexWorker:
    """A worker from plain data (`IndexJob.model_dump(mode="json")`). Raises ValueError in one line."""
    checked = IndexJob.model_validate(job)
    embeddings = open_embeddings(checked.vectors, checked.decides.modality)
    if embeddings is None or vectors_digest(embeddings) != checked.decides.vectors:
        raise ValueError(
            f"{checked.vectors}: found other vectors here than the run was planned with; give every node the same files"
        )
    return IndexWorker(checked, embeddings)


def empty_index(decides: Decides) -> Any:
    """Raises ValueError in one line for a factory that FAISS does not make."""
    import faiss

    kind = decides.kind
    try:
        index: Any = faiss.index_factory(decides.dim, kind.factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise ValueError(
            f"factory {kind.factory}: FAISS does not make it for {decides.dim} numbers ({str(error)[-200:]})"
        ) from None
    if kind.links:
        graph: Any = faiss.downcast_index(index.index)
        graph.hnsw.efConstruction = EF_CONSTRUCTION
    return index


@contextlib.contextmanager
def _learned_on_gpus(index: Any) -> Iterator[None]:
    """Lists are learned on all GPUs if FAISS sees any; what is learned lies on the CPU."""
    import faiss

    known: Any = faiss
    ivf = known.try_extract_index_ivf(index)
    if ivf is None or not hasattr(known, "index_cpu_to_all_gpus") or known.get_num_gpus() < 1:
        yield
        return
    flat = known.index_cpu_to_all_gpus(known.IndexFlatIP(ivf.d))  # held here: FAISS does not hold it
    ivf.clustering_index = flat
    try:
        yield
    finally:
        ivf.clustering_index = None


def merge_into(whole: Any, part: Any, first_row: int) -> None:
    """Put a part behind what is there; `part` is empty afterwards."""
    import faiss

    if not isinstance(whole, faiss.IndexRefine):
        whole.merge_from(part, first_row)
        return
    num_rows = whole.ntotal + part.ntotal
    faiss.downcast_index(whole.base_index).merge_from(faiss.downcast_index(part.base_index), first_row)
    faiss.downcast_index(whole.refine_index).merge_from(faiss.downcast_index(part.refine_index), 0)
    whole.ntotal = num_rows


def write(index: Any, path: Path) -> None:
    """The same bytes for the same vectors: free places at the ends of lists, in which FAISS leaves what the memory held
    before, become zeros."""
    import faiss

    known: Any = faiss  # whose types lack some of its classes
    ivf = known.try_extract_index_ivf(index)
    lists = known.downcast_InvertedLists(ivf.invlists) if ivf is not None else None
    if isinstance(lists, known.BlockInvertedLists):
        packer, places = lists.packer, int(lists.n_per_block)
        nothing = np.zeros(packer.code_size, np.uint8)
        for number in range(lists.nlist):
            last, free_from = divmod(int(lists.list_size(number)), places)
            if free_from:
                size = (last + 1) * lists.block_size
                block = faiss.rev_swig_ptr(lists.get_codes(number), size)[-lists.block_size :]
                for place in range(free_from, places):
                    packer.pack_1(nothing, place, block.reshape(1, -1))
    faiss.write_index(index, str(path))


def with_direction(block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(float32 vectors, bool: those with a length that an embedding has), both of all rows."""
    vectors = np.ascontiguousarray(block, np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        lengths = np.sqrt(np.einsum("bd,bd->b", vectors, vectors, dtype=np.float64))
    return vectors, (lengths > 0) & (lengths <= MAX_LENGTH)


def sample(embeddings: Embeddings, most: int, seed: int = SEED) -> np.ndarray:
    """float32, at most `most` vectors with a direction, drawn by the seed, in the order of their rows."""
    vectors, usable = with_direction(embeddings.take(drawn(embeddings.num_rows, most, seed)))
    vectors = vectors[usable]
    if len(vectors) <= most:
        return vectors
    return vectors[np.sort(np.random.default_rng(seed).permutation(len(vectors))[:most])]


def drawn(num_rows: int, most: int, seed: int) -> np.ndarray:
    """Rows, ascending, each once: some more than `most`, or all if there are few."""
    wanted = int(SPARE * most) + 1
    if num_rows <= 2 * wanted:
        return np.arange(num_rows, dtype=np.int64)
    return np.unique(np.random.default_rng(seed).integers(0, num_rows, wanted))


def _rows(embeddings: Embeddings, first: int, end: int) -> Iterator[tuple[int, np.ndarray]]:
    for start, block in embeddings.blocks(BLOCK_ROWS, first):
        if start >= end:
            return
        yield start, block[: end - start]


def _add(index: Any, vectors: np.ndarray, usable: np.ndarray, first_id: int) -> None:
    """The usable ones, with the numbers of their rows; what refines them has a place for every row."""
    import faiss

    ids = first_id + np.flatnonzero(usable)
    base = faiss.downcast_index(index.base_index) if isinstance(index, faiss.IndexRefine) else index
    if len(ids):
        base.add_with_ids(np.ascontiguousarray(vectors[usable]), ids.astype(np.int64))
    if isinstance(index, faiss.IndexRefine):
        clean = np.where(usable[:, None], vectors, np.float32(0))
        faiss.downcast_index(index.refine_index).add(np.ascontiguousarray(clean))


def _settle(index: Any, num_rows: int) -> None:
    import faiss

    if isinstance(index, faiss.IndexRefine):
        index.ntotal = num_rows


def _while_beating(work: Callable[[], None], beat: Beat) -> None:
    """Do the work in a thread, so that the driver sees that this process lives. A stop does not wait for it."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # is raised again where the work was asked for
            failed.append(error)

    thread = threading.Thread(target=run, name="learn", daemon=True)
    thread.start()
    end = time.monotonic() + LEARN_S
    while thread.is_alive():
        thread.join(BEAT_S)
        if time.monotonic() > end:
            raise RuntimeError("learning lists took longer than a week; give fewer lists")
        beat(0, 0)
    if failed:
        raise failed[0]
