"""One build of an index: what is missing of it is made, part by part, on every core there is, and then published.

In: an `IndexSpec`, a folder. Out: an `IndexOutcome`. On disk: what `retrieve.index.output` names, and
`_meta/logs/<start>-<pid>.jsonl`. The same call goes on where a killed one ended. Until a new index is whole and its
recall measured, the one before it stays and is searched.
"""

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cluster.fan_out.work import Summary
from cluster.process.exit import EXIT_COMPLETE, EXIT_INCOMPLETE
from cluster.process.machine import memory_bytes, usable_cores
from cluster.process.stop_flag import StopFlag
from cluster.recipes.folder import changes, listing
from cluster.waiting import waiting
from gen.make.work import Held, held, refuse_shared, work_off
from retrieve.index.choice import choose, parse_factory
from retrieve.index.index import Index, opened
from retrieve.index.measure import Say, measure, queries_for
from retrieve.index.output import (
    FOLDER,
    INNER_PRODUCT,
    WHOLE,
    IndexFile,
    Measured,
    Output,
    Record,
    Setting,
    mark_of,
    size_of,
)
from retrieve.index.spec import Decides, IndexSpec
from retrieve.index.unit import TRAIN, IndexJob, empty_index, make_index_worker, merge_into, name_of, write
from retrieve.pool.embeddings import FOLDERS, Embeddings, read_summary
from retrieve.pool.pool import open_pool
from shards.disk.address import file_path
from shards.disk.amounts import counted, size_text, time_text
from shards.disk.regular import sha256_of
from shards.disk.replace import whole_file
from shards.disk.safe_text import quoted
from shards.disk.store import FolderStore, open_store

WHEN_SLOW = "raise cluster.stall_deadline_s, or threads and cluster.cpus_per_worker"
MERGED_SHARE = 0.8  # of the memory, that an index may fill while it is made of its parts
MOST_CAUSES = 3


@dataclass(frozen=True)
class Planned:
    """A pool, and the index that it gets."""

    spec: IndexSpec  # with absolute paths
    embeddings: Embeddings
    captions: Embeddings | None  # for queries
    vectors: Path
    decides: Decides
    why: str
    output: Output
    model: str | None
    model_digest: str | None

    @property
    def mark(self) -> str:
        """What units belong to."""
        return mark_of(self.decides)

    @property
    def bytes_per_vector(self) -> float:
        """Of the index that will be."""
        return self.decides.kind.bytes_per_vector(self.decides.rows, self.decides.dim)

    @property
    def core_seconds(self) -> float:
        """A rough estimate."""
        return self.decides.kind.core_seconds(self.decides.rows, self.decides.dim)

    @property
    def is_merged(self) -> bool:
        """Whether one file comes out."""
        if self.decides.num_parts == 1 or self.spec.parts == "keep":
            return self.decides.num_parts == 1
        if not self.decides.kind.can_merge:
            return False
        fits = self.bytes_per_vector * self.decides.rows <= MERGED_SHARE * memory_bytes()
        return fits or self.spec.parts == "merge"

    @property
    def num_made(self) -> int:
        """Units that are there, of an index that is not published yet."""
        names = map(name_of, range(self.decides.num_parts + 1))
        return sum(self.output.done(name, self.mark) is not None for name in names)

    def there(self) -> Record | None:
        """The record of this very index, if it is published and whole by size."""
        for record in self.output.records():
            whole = all(size_of(self.output.root / one.name) == one.bytes for one in record.files)
            if record.mark == self.mark and whole:
                return record
        return None

    def describe(self) -> str:
        """Count, factory and why, bytes, minutes."""
        decides, workers = self.decides, self.spec.cluster.workers
        cores = usable_cores() if workers == "auto" else workers * self.spec.threads
        cores = min(self.spec.threads if self.spec.cluster.in_process else cores, decides.num_parts * decides.threads)
        size = size_text(self.bytes_per_vector * decides.rows)
        state = "there" if self.there() else f"{self.num_made} of {counted(decides.num_parts + 1, 'unit')} made"
        shape = "one file" if self.is_merged else "parts that are searched one by one"
        model = "a model that no file names" if self.model is None else quoted(self.model, 200)
        return "\n".join(
            [
                f"vectors  {self.vectors / FOLDERS[decides.modality]}: {counted(decides.rows, 'row')} of "
                f"{decides.dim} numbers, by {model}",
                f"index    {decides.factory}",
                f"why      {self.why}",
                f"size     {self.bytes_per_vector:,.0f} bytes a vector, {size}; {shape}",
                f"time     about {time_text(self.core_seconds)} of one core, {time_text(self.core_seconds / cores)} "
                "here; then the exact scan reads all vectors once, to measure recall",
                f"output   {self.output.root}, {state}",
            ]
        )


@dataclass(frozen=True)
class IndexOutcome:
    """How a build ended."""

    output: Output
    record: Record | None  # None: something is missing
    made_units: int
    missing_units: int
    seconds: float
    work: Summary | None

    @property
    def exit_code(self) -> int:
        """As `cluster.process.exit` says."""
        if self.record is not None:
            return EXIT_COMPLETE
        return self.work.exit_code or EXIT_INCOMPLETE if self.work is not None else EXIT_INCOMPLETE

    def sentence(self) -> str:
        """What a person is told at the end."""
        if self.record is None:
            lines = [f"{counted(self.missing_units, 'unit')} missing after {time_text(self.seconds)}"]
            if self.work is not None:
                lines += [self.work.error] if self.work.error else [one.cause for one in self.work.quarantined]
            return "; ".join([*lines[: 1 + MOST_CAUSES], "run the same command again to go on"])
        record, measured = self.record, self.record.measured
        what = "nothing was missing" if not self.made_units else f"built in {time_text(self.seconds)}"
        size = sum(one.bytes for one in record.files)
        left = f", {record.unusable:,} rows without a direction left out" if record.unusable else ""
        return (
            f"{self.output.root / record.files[0].name}: {what}: {counted(record.count, 'vector')}{left}, "
            f"{size_text(size)}, {size / max(1, record.count):,.0f} bytes a vector; {recall_text(measured)}"
        )


def recall_text(measured: Measured) -> str:
    """What an index finds, in words."""
    text = (
        f"recall@{measured.k} is {measured.recall:.3f} with {measured.num_queries:,} {measured.queries} as queries, "
        f"{measured.queries_per_s:,.0f} a second on one thread"
    )
    if not measured.is_reached:
        text += f": less than {measured.wanted:g}, which no setting reaches; give more --memory, or --factory"
    return text


def plan(spec: IndexSpec, out: Path | None, again: bool = False) -> Planned:
    """Look at all that a build would need; writes nothing. `out` None: index/ beside the vectors. `again`: another
    index may be replaced.

    Raises ValueError with one line for what a build would refuse.
    """
    spec = spec.at_home()
    pool = open_pool(spec.pool)
    embeddings = pool.embeddings(spec.modality)
    vectors = file_path(spec.pool.embeddings or spec.pool.source)
    if embeddings is None:
        flag = "--images" if spec.modality == "image" else "--texts"
        raise ValueError(
            f"{vectors}: found no {spec.modality} vectors, expected {FOLDERS[spec.modality]}/; make them with `sixfold "
            f"embed POOL --clip MODEL {flag}`"
        )
    if spec.factory is None:
        chosen = choose(embeddings.num_rows, embeddings.dim, spec.memory_bytes, spec.purpose)
        factory, why = chosen.factory, chosen.why
        if not chosen.fits:
            raise ValueError(f"memory: {chosen.why} Give more --memory, or a --factory")
    else:
        factory, why = spec.factory, "It was asked for."
    kind = parse_factory(factory, embeddings.dim)
    if kind.least_rows > embeddings.num_rows:
        raise ValueError(
            f"factory {factory}: found {embeddings.num_rows:,} rows, expected at least {kind.least_rows:,} to learn it "
            "from; give --factory Flat, or one with fewer lists"
        )
    decides = Decides.of(spec, embeddings, kind)
    empty_index(decides)
    root = ((spec.pool.embeddings or spec.pool.source) / FOLDER if out is None else out).absolute()
    output = Output(root, spec.modality)
    summary = read_summary(vectors) or {}
    is_told = spec.modality in summary.get("modalities", {})
    planned = Planned(
        spec=spec,
        embeddings=embeddings,
        captions=pool.text,
        vectors=vectors.absolute(),
        decides=decides,
        why=why,
        output=output,
        model=str(summary["model"]) if is_told else None,
        model_digest=str(summary["model_digest"]) if is_told else None,
    )
    _refuse_others(planned, again)
    return planned


def _refuse_others(planned: Planned, again: bool) -> None:
    """Raises ValueError if another index is there that nobody said to replace."""
    output = planned.output
    records = output.records()
    if again or any(one.mark == planned.mark for one in records):
        return
    if records:
        before, now = records[0].decides.model_dump(mode="json"), planned.decides.model_dump(mode="json")
        raise ValueError(
            f"{output.root}: found another {output.modality} index ({listing(changes(before, now, Decides))}); say "
            "--replace to build this one in its place, or choose another --out"
        )
    if output.index_path.exists():
        raise ValueError(
            f"{output.index_path}: found an index that `sixfold index` did not write; say --replace, or choose another "
            "--out"
        )


def run(planned: Planned, stop: StopFlag, say: Say) -> IndexOutcome:
    """Make what is missing, measure it and publish it.

    Raises ValueError, OSError or RuntimeError with one line: a second build in the same folder, a place that cannot be
    written; Draining on a stop while parts are joined or the index is measured. What else goes wrong is in the outcome.
    """
    store = open_store(str(planned.output.root))
    assert isinstance(store, FolderStore)
    refuse_shared(planned.spec.cluster, "index")
    with held(store, stop, "index") as hold:
        outcome = _build(planned, store, stop, hold, say)
        hold.ended(outcome.exit_code, outcome.sentence() if outcome.record is None else "")
    return outcome


def _build(planned: Planned, store: FolderStore, stop: StopFlag, hold: Held, say: Say) -> IndexOutcome:
    started = time.monotonic()
    output, mark = planned.output, planned.mark
    work: Summary | None = None
    made = 0
    output.settle()
    there = planned.there()
    if there is not None and (path := _damaged(output, there, stop)) is not None:
        say(f"{path}: found other bytes than its record says: a damaged index; it is built again")
        there = None
    if there is None:
        output.begin(mark)
        if output.done(WHOLE, mark) is None:
            hold.life.there(planned.num_made, "unit")
            for units in ([TRAIN], list(range(1, planned.decides.num_parts + 1))):
                todo = [one for one in units if output.done(name_of(one), mark) is None]
                if todo:
                    work = _make(planned, todo, store, stop, hold)
                missing = [one for one in units if output.done(name_of(one), mark) is None]
                made += len(todo) - len(missing)
                hold.life.there(planned.num_made, "unit")
                if missing:
                    seconds = time.monotonic() - started
                    return IndexOutcome(output, None, made, len(missing), seconds, work)
        if planned.is_merged:
            with waiting("making one file of the parts"):
                _merge(planned, stop)
        there = _record(planned, stop)
        output.publish(there)
    elif there.measured.wanted != planned.spec.recall:
        output.clear(there)  # the unfinished build of another index, whose file publishing would take for this one
        say(f"recall {planned.spec.recall:g} is wished for, not {there.measured.wanted:g}: measured again")
        there = _measured(planned, stop, there, [output.root / one.name for one in there.files])
        output.publish(there)
    else:
        output.clear(there)  # what a build left that was killed after it had published
    return IndexOutcome(output, there, made, 0, time.monotonic() - started, work)


def _damaged(output: Output, record: Record, stop: StopFlag) -> Path | None:
    """The first file that has other bytes than the record says. Raises Draining on a stop."""
    with waiting("checking the bytes of the index that is there"):
        paths = [(output.root / one.name, one.sha256) for one in record.files]
        return next((path for path, expected in paths if sha256_of(path, stop.go_on) != expected), None)


def _make(planned: Planned, todo: list[int], store: FolderStore, stop: StopFlag, hold: Held) -> Summary:
    num_rows = 0
    for unit in todo:
        first, end = planned.decides.part(unit - 1) if unit != TRAIN else (0, 0)
        num_rows += end - first
    job = IndexJob(vectors=planned.vectors, out=planned.output.root, decides=planned.decides)
    cluster = planned.spec.cluster
    changed: dict[str, object] = {"straggler_factor": 0.0}
    if cluster.workers == "auto" and not cluster.in_process:
        changed["workers"] = max(1, min(len(todo), usable_cores() // planned.spec.threads))
        if cluster.gpus_per_worker == "auto" and todo != [TRAIN]:  # lists alone are learned on a GPU
            changed["gpus_per_worker"] = 0.0
    spec = cluster.model_copy(update=changed)
    make_worker = partial(make_index_worker, job.model_dump(mode="json"))
    return work_off(todo, num_rows, make_worker, spec, store, stop, hold, planned.spec.threads, WHEN_SLOW, "rows")


def _merge(planned: Planned, stop: StopFlag) -> None:
    """One file of all parts, as a unit of its own. Raises Draining on a stop."""
    import faiss

    output, mark, decides = planned.output, planned.mark, planned.decides
    if output.done(WHOLE, mark) is not None:
        return
    bodies = [output.done(name_of(unit), mark) for unit in range(1, decides.num_parts + 1)]
    parts = [one for one in bodies if one is not None]
    count = sum(int(one.body["count"]) for one in parts)
    with whole_file(output.unit_path(WHOLE)) as file:
        if decides.num_parts == 1:
            shutil.copyfile(parts[0].path, file.name)
        else:
            whole = faiss.read_index(str(output.unit_path(name_of(TRAIN))))
            for one in parts:
                stop.go_on()
                if sha256_of(one.path, stop.go_on) != one.body["sha256"]:
                    raise ValueError(f"{one.path}: found other bytes than recorded; delete it, and run again")
                merge_into(whole, faiss.read_index(str(one.path)), int(one.body["first_row"]))
            write(whole, Path(file.name))
    output.write_done(WHOLE, mark, {"rows": decides.rows, "count": count, "unusable": decides.rows - count})


def _record(planned: Planned, stop: StopFlag) -> Record:
    """Of the units that are there, with what they find. Raises Draining on a stop."""
    output, mark, decides = planned.output, planned.mark, planned.decides
    names = [WHOLE] if planned.is_merged else [name_of(unit) for unit in range(1, decides.num_parts + 1)]
    files, paths, count = [], [], 0
    for name in names:
        done = output.done(name, mark)
        assert done is not None
        body = done.body
        count += int(body["count"])
        target = output.index_path if name == WHOLE else output.parts_path / f"{mark[:12]}_{name}.index"
        files.append(
            IndexFile(
                name=target.relative_to(output.root).as_posix(),
                first_row=int(body.get("first_row", 0)),
                count=int(body["count"]),
                bytes=int(body["bytes"]),
                sha256=str(body["sha256"]),
            )
        )
        paths.append(done.path)
    nothing = Measured(k=1, wanted=0.0, recall=0.0, num_queries=0, queries="", setting=Setting(), queries_per_s=0.0)
    record = Record(
        mark=mark,
        decides=decides,
        metric=INNER_PRODUCT,
        count=count,
        unusable=decides.rows - count,
        files=tuple(files),
        model=planned.model,
        model_digest=planned.model_digest,
        measured=nothing,
    )
    return _measured(planned, stop, record, paths)


def _measured(planned: Planned, stop: StopFlag, record: Record, paths: Sequence[Path]) -> Record:
    with waiting("measuring what the index finds, against the exact scan"):
        files = [(path, one.first_row) for path, one in zip(paths, record.files, strict=True)]
        parts = opened(files, planned.decides.dim)
        index = Index(parts, planned.embeddings, record.count, record.unusable, Setting(), record)
        queries, what = queries_for(planned.embeddings, planned.captions, planned.spec.queries)
        found = measure(index, planned.decides.kind, queries, what, planned.spec.recall, stop.go_on)
    return record.model_copy(update={"measured": found})
