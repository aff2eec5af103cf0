"""The units of a search: tables of captions, files of vectors. What was found in one is kept until all are done.

In: what is asked of a pool. Out: for each route a table of `class_id`, `row`. On disk, below the output, removed when
the search has ended:

    _meta/search/queries.npy            float32 (Q, D): the texts of the classes, for routes by vectors
    _meta/search/image-00007.parquet    what was found in file 7: query, row, score (class_id, row of captions); its
                                        schema says for which search (`mark`), its pages have checksums

A unit is a pure function of the pool and of what is asked, so one that is made twice is the same. `cluster.fan_out`
works units off; those of a small pool in this process, where the start of workers would take longer than the search.
"""

import hashlib
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field

from cluster.fan_out.work import Beat, FanOutSpec, Summary
from cluster.process.exit import EXIT_INCOMPLETE, Draining, RunFailed
from cluster.process.stop_flag import StopFlag
from cluster.recipes.load import fingerprint
from gen.make.scale import Store
from gen.make.work import Held, work_off
from gen.model.clip import device_of
from retrieve.captions.queries import Clause
from retrieve.captions.search import SCHEMA, CaptionSearch, find_in_part
from retrieve.captions.spec import Semantics
from retrieve.pool.pool import ROW, Pool, open_pool
from retrieve.pool.spec import PoolSpec
from retrieve.run.recipe import Route
from retrieve.scan.scan import scan_part
from shards.disk.layout import META
from shards.disk.record import JSON
from shards.disk.store import open_store

FOLDER = f"{META}/search"
QUERIES = f"{FOLDER}/queries.npy"
_PART = re.compile(r"[a-z]+-[0-9]{5,}\.parquet")
QUERY, SCORE = "query", "score"
PART_SCHEMA = pa.schema([(QUERY, pa.int32()), (ROW, pa.int64()), (SCORE, pa.float32())])  # of a file of vectors
FOLDED_AT = 4  # times as many rows as all queries may find are held at most, and one part
PART = "search part"  # in the history of the output
SMALL_ROWS = 2_000_000  # a pool of fewer is searched in this process
MAX_PART_BYTES = 1 << 32
VERSION = 2  # of what the same search finds; 2: rows that may not leave take nobody's place
WHEN_SLOW = "raise cluster.stall_deadline_s"


@dataclass(frozen=True, eq=False)
class Asked:
    """What is searched for. A route that is not asked for has nothing."""

    clauses: tuple[Clause, ...] = ()
    match: Semantics = "phrase"
    queries_QD: np.ndarray = field(default_factory=lambda: np.empty((0, 0), np.float32))  # of length 1
    class_ids: tuple[int, ...] = ()  # of each query
    k: int = 1  # rows that a query finds


class SearchJob(BaseModel):
    """All that a worker needs, as plain data."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pool: PoolSpec
    pool_digest: str = Field(description="of the pool that the driver has opened")
    routes: tuple[Route, ...]
    clauses: tuple[tuple[int, tuple[str, ...]], ...]
    match: Semantics
    class_ids: tuple[int, ...]
    k: int
    mark: str = Field(description="fingerprint of the pool and of what is asked")
    out: str
    single_writer: bool


@dataclass(frozen=True)
class Unit:
    """One file of a route."""

    route: Route
    number: int  # of the table or of the file of vectors

    @property
    def name(self) -> str:
        """Of its part, below the output."""
        return f"{FOLDER}/{self.route}-{self.number:05d}.parquet"


def units_of(pool: Pool, routes: Sequence[Route]) -> list[Unit]:
    """In the order of their numbers. The pool has vectors for every route by vectors."""
    found = []
    for route in dict.fromkeys(routes):
        embeddings = None if route == "captions" else pool.embeddings(route)
        num = len(pool.parts) if embeddings is None else len(embeddings.files)
        found += [Unit(route, number) for number in range(num)]
    return found


def search_parts(
    pool: Pool,
    routes: Sequence[Route],
    asked: Asked,
    spec: FanOutSpec,
    store: Store,
    stop: StopFlag,
    hold: Held | None,
    say: Callable[[str], None] = print,
) -> dict[Route, pa.Table]:
    """Route -> `class_id`, `row` of what was found, in the order of the units; a pair may be there several times.

    Raises Draining on a stop, RunFailed in one line for units that failed.
    """
    pool_spec = pool.spec.at_home()
    units = units_of(pool, routes)
    job = SearchJob(
        pool=pool_spec,
        pool_digest=pool.digest,
        routes=tuple(routes),
        clauses=tuple((one.class_id, one.needles) for one in asked.clauses),
        match=asked.match,
        class_ids=asked.class_ids,
        k=asked.k,
        mark=_mark_of(pool, routes, asked),
        out=store.url,
        single_writer=store.single_writer,
    )
    if len(asked.queries_QD):
        store.replace(QUERIES, _npy(asked.queries_QD))
    there = {place for place, unit in enumerate(units) if _kept(store, unit, job.mark) is not None}
    if hold is not None:
        hold.life.there(len(there), PART)
    todo = [place for place in range(len(units)) if place not in there]
    if todo:
        is_small = pool.num_rows < SMALL_ROWS
        spec = spec.model_copy(update={"straggler_factor": 0.0, "in_process": spec.in_process or is_small})
        rows = sum(_rows_of(pool, units[place]) for place in todo)
        make_worker = partial(make_search_worker, job.model_dump(mode="json"))
        threads = spec.cpus_per_worker
        work = work_off(todo, rows, make_worker, spec, store, stop, hold, threads, WHEN_SLOW, "rows", say=say)
        if hold is not None:
            hold.life.there(len(there) + work.done, PART)
        _refuse_failed(work, units)
    found: dict[Route, pa.Table] = {}
    for route in dict.fromkeys(routes):
        tables = (_whole(store, unit, job.mark) for unit in units if unit.route == route)
        found[route] = pa.concat_tables(tables) if route == "captions" else best_of(tables, asked.class_ids, asked.k)
    return found


def _whole(store: Store, unit: Unit, mark: str) -> pa.Table:
    part = _kept(store, unit, mark)
    if part is None:
        raise RunFailed(
            f"{store.url}/{unit.name}: found no whole file after the search; run the same command again",
            EXIT_INCOMPLETE,
        )
    return part


def clear_parts(store: Store) -> None:
    """Remove what a search has kept; it has ended. Files of other names are not ours."""
    for name in store.list(f"{FOLDER}/"):
        if name == QUERIES or _PART.fullmatch(name.removeprefix(f"{FOLDER}/")):
            store.delete(name)


# the worker


def make_search_worker(job: Mapping[str, object]) -> "SearchWorker":
    """A worker from plain data (`SearchJob.model_dump(mode="json")`). Raises ValueError in one line."""
    return SearchWorker(SearchJob.model_validate(job))


class SearchWorker:
    """Searches one file at a time."""

    def __init__(self, job: SearchJob) -> None:
        self.job = job
        self.store = open_store(job.out, job.single_writer)
        self.pool = open_pool(job.pool)
        if self.pool.digest != job.pool_digest:
            raise ValueError(
                f"{job.pool.source}: found another pool here than the run was planned with; give every node the same "
                "files"
            )
        self.units = units_of(self.pool, job.routes)
        self.captions = CaptionSearch([Clause(one, needles) for one, needles in job.clauses], job.match)
        self.queries_QD, self.device = np.empty((0, 0), np.float32), "cpu"
        if set(job.routes) - {"captions"}:
            assert job.pool.clip is not None, "the recipe has a CLIP for these routes"
            self.device = device_of(job.pool.clip)
            self.queries_QD = np.load(io.BytesIO(self.store.read_bytes(QUERIES)), allow_pickle=False)

    def __call__(self, unit: int, attempt: str, beat: Beat) -> Mapping[str, JSON]:
        one = self.units[unit]
        if one.route == "captions":
            table = find_in_part(self.pool, self.pool.parts[one.number], self.captions, lambda rows: beat(rows, 0))
        else:
            table = self._near(one, lambda rows: beat(rows, 0))
        self.store.replace(one.name, _part_bytes(table, self.job.mark))
        beat(_rows_of(self.pool, one), 0)
        return {"rows": _rows_of(self.pool, one), "found": len(table)}

    def _near(self, unit: Unit, tell: Callable[[int], None]) -> pa.Table:
        """Of each query the k nearest rows of this file that may leave. Which of them are among the k nearest of all,
        the driver says."""
        assert unit.route != "captions"
        embeddings = self.pool.embeddings(unit.route)
        assert embeddings is not None
        file = embeddings.files[unit.number]
        may_leave = self.pool.may_leave(file.first_row, file.num_rows)

        def kept(first: int, num: int) -> np.ndarray:
            return may_leave[first - file.first_row :][:num]

        found = scan_part(file, self.queries_QD, self.job.k, kept=kept, device=self.device, tell=tell)
        places = found.rows >= 0
        queries = np.repeat(np.arange(len(found.rows)), places.sum(axis=1))
        columns = [pa.array(queries, pa.int32()), pa.array(found.rows[places]), pa.array(found.scores[places])]
        return pa.table(columns, schema=PART_SCHEMA)


def best_of(tables: Iterable[pa.Table], class_ids: Sequence[int], k: int) -> pa.Table:
    """`class_id`, `row`: of each query its k best rows over all files; of equal scores the lower row comes first.

    Memory for a few tables: what is not among the k best so far is dropped now and then. `class_ids`: of each query.
    """
    whole = PART_SCHEMA.empty_table()
    for table in tables:
        whole = pa.concat_tables([whole, table])
        if len(whole) > FOLDED_AT * len(class_ids) * k:
            whole = _best_rows(whole, k)
    whole = _best_rows(whole, k)
    ids = np.asarray(class_ids, np.int32)[whole[QUERY].to_numpy()]
    return pa.table([pa.array(ids, pa.int32()), whole[ROW]], schema=SCHEMA)


def _best_rows(table: pa.Table, k: int) -> pa.Table:
    """The k best of each query, ordered by query, the best first."""
    queries, rows, scores = (table[name].to_numpy() for name in (QUERY, ROW, SCORE))
    order = np.lexsort((rows, -scores, queries))
    queries = queries[order]
    best = np.arange(len(queries)) - np.searchsorted(queries, queries, side="left") < k
    kept = order[best]
    return pa.table([pa.array(queries[best]), pa.array(rows[kept]), pa.array(scores[kept])], schema=PART_SCHEMA)


def pairs_of(rows_QK: np.ndarray, class_ids: Sequence[int]) -> pa.Table:
    """`class_id`, `row` of what each query found, -1 for nothing."""
    places = rows_QK >= 0
    ids = np.repeat(np.asarray(class_ids, np.int32), places.sum(axis=1))
    return pa.table([pa.array(ids, pa.int32()), pa.array(rows_QK[places], pa.int64())], schema=SCHEMA)


def _rows_of(pool: Pool, unit: Unit) -> int:
    if unit.route == "captions":
        return pool.parts[unit.number].num_rows
    embeddings = pool.embeddings(unit.route)
    assert embeddings is not None
    return embeddings.files[unit.number].num_rows


def _refuse_failed(work: Summary, units: Sequence[Unit]) -> None:
    if work.drained:
        raise Draining("stopped on request during the search")
    if work.error is not None:
        raise RunFailed(f"the search could not go on: {work.error}", work.exit_code)
    if work.quarantined:
        first = work.quarantined[0]
        raise RunFailed(
            f"the search of {units[first.unit].route} {first.unit} failed: {first.cause}; run the same command again "
            "to try once more",
            work.exit_code,
        )


# what is kept


def _mark_of(pool: Pool, routes: Sequence[Route], asked: Asked) -> str:
    return fingerprint(
        {
            "version": VERSION,
            "pool": pool.digest,
            "routes": list(routes),
            "clauses": [[one.class_id, list(one.needles)] for one in asked.clauses],
            "match": asked.match,
            "queries": hashlib.sha256(np.ascontiguousarray(asked.queries_QD).tobytes()).hexdigest(),
            "class_ids": list(asked.class_ids),
            "k": asked.k,
        }
    )


def _part_bytes(table: pa.Table, mark: str) -> bytes:
    sink = io.BytesIO()
    marked = table.replace_schema_metadata({"mark": mark})
    pq.write_table(marked, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue()


def _kept(store: Store, unit: Unit, mark: str) -> pa.Table | None:
    """None for what is not there, is damaged, or is of another search: then it is made again."""
    try:
        data = store.read_bytes(unit.name, MAX_PART_BYTES)
        table = pq.read_table(io.BytesIO(data), page_checksum_verification=True)
    except (FileNotFoundError, pa.ArrowException, OSError):
        return None
    is_ours = (table.schema.metadata or {}).get(b"mark") == mark.encode()
    return table.replace_schema_metadata(None) if is_ours else None


def _npy(array: np.ndarray) -> bytes:
    sink = io.BytesIO()
    np.save(sink, array, allow_pickle=False)
    return sink.getvalue()
