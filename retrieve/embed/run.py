"""One embedding of a pool: what is missing of it is made, unit by unit, on every GPU or core there is.

In: an `EmbedSpec`, a folder. Out: an `EmbedOutcome`. On disk: what `retrieve.embed.output` names, and
`_meta/logs/<start>-<pid>.jsonl`. The same call goes on where a killed one ended; a folder of another model or pool is
refused with the list of differences.
"""

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cluster.fan_out.work import Summary
from cluster.process.exit import EXIT_COMPLETE, EXIT_INCOMPLETE
from cluster.process.stop_flag import StopFlag
from cluster.waiting import waiting
from gen.make.work import Held, held, refuse_shared, work_off
from gen.model.clip import clip_digest, clip_width
from retrieve.embed.output import Output
from retrieve.embed.spec import Decides, EmbedSpec
from retrieve.embed.unit import EmbedJob, make_embed_worker
from retrieve.pool.embeddings import FOLDERS, SUMMARY, Modality
from retrieve.pool.pool import Pool, open_pool
from shards.disk.amounts import counted, size_text, time_text
from shards.disk.layout import SUCCESS
from shards.disk.store import FolderStore, open_store

WHEN_SLOW = "lower pool.clip.batch in a new folder, or raise cluster.stall_deadline_s"
HALF_BYTES = 2
MOST_CAUSES = 3  # of units that failed, in one line


@dataclass(frozen=True)
class Planned:
    """A pool and a model that fit each other, and the folder of their vectors."""

    spec: EmbedSpec  # with absolute paths
    pool: Pool
    decides: Decides
    output: Output
    dim: int
    model: str  # as it was named

    def describe(self) -> str:
        """Units, rows, bytes, and what is there."""
        pool, lines = self.pool, []
        rows = f"{counted(len(pool.parts), 'unit')} of {counted(pool.num_rows, 'row')}"
        lines.append(f"pool     {pool.spec.source}: {rows}")
        if "image" in self.spec.modalities:
            lines.append(f"tars     {counted(len(pool.tars), 'tar')}, {size_text(_bytes(pool.tars.values()))} to read")
        lines.append(f"model    {self.model} (digest {self.decides.model_digest[:12]}), {self.dim} numbers a vector")
        for modality in self.spec.modalities:
            missing = len(self.output.missing([modality]))
            size = size_text(pool.num_rows * self.dim * HALF_BYTES)
            lines.append(
                f"{modality:<9}{FOLDERS[modality]}/: {size}; {len(pool.parts) - missing} units there, {missing} to make"
            )
        tables = "the pool's own tables tell the rows" if self.output.has_tables else "with metadata/ beside them"
        lines.append(f"output   {self.output.root}, {tables}")
        return "\n".join(lines)


@dataclass(frozen=True)
class EmbedOutcome:
    """How a run ended."""

    output: Path
    rows: int  # of the pool
    made_units: int
    missing_units: int
    seconds: float
    rows_per_s: float  # of this life, without its start
    summary: dict[str, Any] | None  # of `embeddings.json`
    work: Summary | None

    @property
    def exit_code(self) -> int:
        """As `cluster.process.exit` says."""
        if self.missing_units and self.work is not None and self.work.exit_code:
            return self.work.exit_code
        return EXIT_INCOMPLETE if self.missing_units else EXIT_COMPLETE

    def sentence(self) -> str:
        """What a person is told at the end."""
        if self.missing_units:
            lines = [f"{counted(self.missing_units, 'unit')} missing after {time_text(self.seconds)}"]
            if self.work is not None and self.work.error:
                lines.append(self.work.error)
            elif self.work is not None:
                lines += [one.cause for one in self.work.quarantined[:MOST_CAUSES]]
            return "; ".join([*lines, "run the same command again to go on"])
        made = "nothing was missing"
        if self.made_units:
            made = (
                f"{counted(self.made_units, 'unit')} made in {time_text(self.seconds)}, {self.rows_per_s:,.0f} rows/s"
            )
        return (
            f"{self.output}: {counted(self.rows, 'row')}, {made}{_zeros(self.summary)}; {SUMMARY} says what made them"
        )


def plan(spec: EmbedSpec, out: Path | None) -> Planned:
    """Look at all that a run would need; writes nothing. `out` None: beside the pool.

    Raises ValueError with one line for what a run would refuse.
    """
    assert spec.pool.clip is not None
    model, spec = spec.pool.clip.model, spec.at_home()
    assert spec.pool.clip is not None
    pool = open_pool(spec.pool, with_vectors=False)
    if "image" in spec.modalities and not pool.tars:
        raise ValueError(f"{spec.pool.images or spec.pool.source}: found no *.tar, expected the pictures; use --texts")
    if "image" in spec.modalities and pool.columns.key is None:
        raise ValueError(
            f"{pool.parts[0].path}: found no column of keys, expected `key` (and `shard`): pictures cannot be found in "
            "the tars; use --texts, or name it with pool.columns.key=NAME"
        )
    with waiting(f"checking the model {model}"):
        decides = Decides.of(spec, pool, clip_digest(spec.pool.clip))
    root = (spec.pool.source if out is None else out).absolute()
    output = Output.of(root, pool, decides)
    output.refuse_strangers(decides, spec.modalities)
    return Planned(spec, pool, decides, output, clip_width(spec.pool.clip), model)


def run(planned: Planned, stop: StopFlag) -> EmbedOutcome:
    """Make what is missing.

    Raises ValueError, OSError or RuntimeError with one line: a second run on the same folder, a place that cannot be
    written. What goes wrong later is in the outcome.
    """
    started = time.monotonic()
    output, modalities = planned.output, planned.spec.modalities
    store = open_store(str(output.root))
    assert isinstance(store, FolderStore)
    refuse_shared(planned.spec.cluster, "embed")
    with held(store, stop, "embed") as hold:
        output.refuse_strangers(planned.decides, modalities)  # another run may just have ended
        output.begin(planned.decides, planned.model, modalities)
        todo = output.missing(modalities)
        hold.life.there(output.num_units - len(todo), "unit")
        work = None
        if todo:
            work = _make(planned, todo, store, stop, hold)
        missing = output.missing(modalities)
        hold.life.there(output.num_units - len(missing), "unit")
        summary = output.write_summary(planned.decides, planned.model, planned.dim)
        made = sum(planned.pool.parts[unit].num_rows for unit in todo if unit not in missing)
        busy = 0.0 if work is None else work.seconds - work.start_s
        outcome = EmbedOutcome(
            output=output.root,
            rows=planned.pool.num_rows,
            made_units=len(todo) - len(missing),
            missing_units=len(missing),
            seconds=time.monotonic() - started,
            rows_per_s=made / busy if busy > 0 else 0.0,
            summary=summary,
            work=work,
        )
        hold.ended(outcome.exit_code, outcome.sentence() if missing else "")
    return outcome


def _make(planned: Planned, todo: list[int], store: FolderStore, stop: StopFlag, hold: Held) -> Summary:
    """Make the missing units."""
    num_rows = sum(planned.pool.parts[unit].num_rows for unit in todo)
    job = EmbedJob(spec=planned.spec, out=planned.output.root, decides=planned.decides)
    spec = planned.spec.cluster.model_copy(update={"straggler_factor": 0.0})  # a unit twice would be the same bytes
    make_worker = partial(make_embed_worker, job.model_dump(mode="json"))
    return work_off(todo, num_rows, make_worker, spec, store, stop, hold, planned.spec.threads, WHEN_SLOW, "rows")


def _zeros(summary: dict[str, Any] | None) -> str:
    """What has no vector, by modality and status."""
    if summary is None:
        return ""
    told = []
    for modality, about in summary["modalities"].items():
        bad = {status: number for status, number in about["statuses"].items() if status != SUCCESS and number}
        if bad:
            told.append(f"{modality}: " + ", ".join(f"{number:,} {status}" for status, number in bad.items()))
    return f"; zeros stand for {'; '.join(told)}" if told else ""


def _bytes(paths: Any) -> int:
    return sum(path.stat().st_size for path in paths)


def modalities_of(pool: Pool) -> tuple[Modality, ...]:
    """Those that the pool has something of."""
    return ("image", "text") if pool.has_pictures else ("text",)
