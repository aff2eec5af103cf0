"""One run: a recipe, a scale and an output in; finished shards, a subset and a summary out.

The whole path in one place:

    recipe ─▶ classes ─▶ prompts.parquet ─▶ plan ─▶ units that have no record yet ─▶ fan_out ─▶ subset, summary

The same call continues an interrupted run; a recipe that would make other images is refused with the list of
differences (`gen.output`); a scale that is already there makes nothing. On disk, under the output's `_meta/`: what
`gen.output` keeps, `subsets/<scale>.parquet` with exactly the samples of the scale, `logs/<start>-<pid>.jsonl`.
"""

import contextlib
import os
import secrets
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cluster.code import code_hash
from cluster.fan_out.attempt import life_id
from cluster.fan_out.events import Event, EventLog
from cluster.fan_out.fan_out import fan_out
from cluster.fan_out.progress import Progress
from cluster.fan_out.work import Summary
from cluster.process.exit import EXIT_COMPLETE, EXIT_INCOMPLETE
from cluster.process.lease import Lease
from cluster.process.stop_flag import StopFlag
from cluster.recipes.load import fingerprint
from gen.make.plan import Plan, estimate
from gen.make.unit import UnitJob, make_unit_worker
from gen.model.folder import ModelFolder
from gen.output import PROMPT_TABLE, Store, open_output, unit_job, write_summary
from gen.prompts.prompts import PromptTable, count_prompts
from gen.prompts.write import Say
from gen.recipe import Recipe, identity
from gen.sampler.decide import decide_open_fields
from gen.sampler.spec import check_sampler, is_guided
from shards.disk.amounts import counted, size_text, time_text
from shards.disk.layout import META, SUCCESS, shard_name
from shards.disk.record import JSON, Record
from shards.disk.replace import whole_file
from shards.disk.store import FolderStore, open_store
from shards.labels.classes import Class, load_classes
from shards.set.commit import recover
from shards.set.manifest import iter_tables, read_subset, scan_records, write_subset
from shards.set.quarantine import QUARANTINE

BYTES_PER_PIXEL = 0.45  # for estimates: q95 JPEG of generated pictures, 59 to 147 KB at 512 px
BYTES_PER_SAMPLE = 5_000  # tar headers, texts and the table's row; measured in the sandbox
MAX_LISTED = 20  # units and shards in one message


@dataclass(frozen=True)
class GenerateOutcome:
    """How a call of `run` ended, for people (`sentence`) and for scripts (`as_json`, `exit_code`)."""

    scale: str
    asked_images: int  # of this scale
    asked_units: int
    images: int  # successes in the shards of this scale
    done_units: int
    made_units: int  # by this call
    rejected: Mapping[str, int]  # status -> draws, over the shards of this scale
    short: Mapping[int, int]  # shard -> slots that no draw filled
    work: Summary | None  # of the fan-out; None if there was nothing to do
    seconds: float

    @property
    def exit_code(self) -> int:
        if self.work is not None and self.work.exit_code != EXIT_COMPLETE:
            return self.work.exit_code
        return EXIT_INCOMPLETE if self.short or self.done_units < self.asked_units else EXIT_COMPLETE

    def sentence(self) -> str:
        """What there is now; on a second line what is missing and what to do."""
        there = f"{self.scale}: {counted(self.images, 'image')} in {self.done_units:,} of "
        there += counted(self.asked_units, "shard")
        if self.rejected:
            there += ", rejected and drawn again: " + ", ".join(f"{num} {name}" for name, num in self.rejected.items())
        if self.work is None:
            there += "; nothing was left to make"
        else:
            rate = self.work.images / self.seconds
            there += f"; this call made {self.work.images:,} in {self.seconds:.0f} s ({rate:.1f} images/s)"
        problem = self._problem()
        return f"{there}\nnot complete: {problem}" if problem else there

    def _problem(self) -> str:
        work = self.work
        if work is not None and work.error:
            return work.error
        if work is not None and work.drained:
            return "stopped on request; run the same command again to continue"
        if work is not None and work.quarantined:
            units = "; ".join(f"unit {one.unit}: {one.cause}" for one in work.quarantined[:MAX_LISTED])
            gave_up = counted(len(work.quarantined), "unit")
            return f"gave up {gave_up} ({units}); run the same command again to try once more"
        if self.short:
            shards = ", ".join(str(shard) for shard in list(self.short)[:MAX_LISTED])
            return (
                f"no image after all draws for {counted(sum(self.short.values()), 'sample')} in shards {shards}; their "
                "rows say why; raise shards.max_draws in a new output"
            )
        return ""

    def as_json(self) -> dict[str, Any]:
        return {
            "scale": self.scale,
            "asked": {"images": self.asked_images, "units": self.asked_units},
            "there": {"images": self.images, "units": self.done_units},
            "made_units": self.made_units,
            "rejected": dict(self.rejected),
            "short": {str(shard): num for shard, num in self.short.items()},
            "work": None if self.work is None else self.work.as_json(),
            "seconds": round(self.seconds, 3),
            "exit_code": self.exit_code,
        }


def run(
    recipe: Recipe,
    scale: Fraction,
    out: str,
    home: Path,
    stop: StopFlag,
    single_writer: bool = False,
    say: Say = print,
) -> GenerateOutcome:
    """Make what is missing of `scale` in `out`, a folder or URL. `home` is the checkout whose code runs, `say` hears
    in one line what takes long before the first image.

    Raises ValueError, OSError or RuntimeError with one line: an output of another recipe, a second run on the same
    output, a place that cannot be written, a missing model, damaged shards. What goes wrong later is in the outcome.
    """
    started = time.monotonic()
    url = out if "://" in out or not out else str(Path(out).absolute())  # an empty one is refused, not the folder here
    classes = load_classes(recipe.classes)
    _plan(recipe, classes, {}).num_units(scale)  # refuses impossible sizes before anything is touched
    _check_negatives(recipe, check_sampler(recipe.sampler))
    code = code_hash(home)
    store = open_store(url, single_writer)
    life = life_id(os.environ, time.time(), secrets.token_bytes(5))
    lock_folder = store.root if isinstance(store, FolderStore) else None
    with Lease.take(store, life, stop.request, lock_folder=lock_folder):
        recipe = decide_open_fields(recipe, store, say, stop)
        identified = identity(recipe)
        mark = open_output(store, recipe, identified, classes, code, say, stop)
        if torn := recover(store).set_aside:
            say(
                f"{counted(len(torn), 'damaged shard')} set aside in {store.url}/{QUARANTINE}, first "
                f"{shard_name(torn[0])}; those of this scale are made again"
            )
        plan = _plan(recipe, classes, PromptTable.load(store.read_bytes(PROMPT_TABLE)).num_per_class())
        before = scan_records(store, mark)
        todo = [unit for unit in plan.units(scale) if unit not in before]
        work = None
        if todo:
            about = {"fingerprint": mark, "code": code, "identity": identified}
            work = _work(recipe, plan, todo, unit_job(recipe, classes, url, single_writer, about), store, stop)
        records = scan_records(store, mark)
        outcome = _outcome(plan, scale, before, records, work, time.monotonic() - started)
        if outcome.done_units == outcome.asked_units:
            _write_scale(store, plan, scale, records)
        write_summary(store, outcome.as_json())
        return outcome


def _check_negatives(recipe: Recipe, model: ModelFolder) -> None:
    """Raises ValueError for a negative text that the model would never look at."""
    if is_guided(recipe.sampler, model):
        return
    file, spec = recipe.prompts.file, recipe.sampler
    if ({recipe.prompts.negative} if file is None else PromptTable.load(Path(file)).negatives()) - {""}:
        raise ValueError(
            f"{'prompts.negative' if file is None else file}: a negative text has no effect with model {spec.model} at "
            f"guidance {spec.guidance:g}; leave it empty, or set sampler.guidance above 1 (FLUX takes none)"
        )


def scale_name(scale: Fraction) -> str:
    """`6x`, `0.5x`: as people write it, and the name of the subset."""
    return f"{float(scale):g}x"


def describe(recipe: Recipe, scale: Fraction) -> str:
    """What a run would make and take, in a few lines; reads the class list, touches nothing else."""
    classes = load_classes(recipe.classes)
    plan = _plan(recipe, classes, {})
    seconds_each = 1 / recipe.expect.images_per_s if recipe.expect else 0.0
    bytes_each = BYTES_PER_SAMPLE + BYTES_PER_PIXEL * recipe.sampler.stored_px**2
    cost = estimate(plan, scale, bytes_each, seconds_each, 1)
    counts = [one.count for one in classes]
    rest = f", {cost.images_made - cost.images:,} more to fill the last shard" if cost.images_made > cost.images else ""
    rows = [
        ("classes", f"{len(classes):,}, {_range(min(counts), max(counts))} images each in one fold of {sum(counts):,}"),
        ("images", f"{cost.images:,} ({scale_name(scale)}), {recipe.sampler.stored_px} px{rest}"),
        ("shards", f"{cost.shards:,} of at most {counted(recipe.shards.samples_per_shard, 'image')}"),
        ("space", f"about {size_text(cost.bytes)} (guessed at {size_text(bytes_each)} an image)"),
        ("prompts", _describe_prompts(recipe, len(classes))),
        ("model", f"{recipe.sampler.model}, {recipe.sampler.steps} steps, guidance {recipe.sampler.guidance:g}"),
    ]
    if recipe.expect is not None:
        rate = f"{recipe.expect.images_per_s:g} images/s each, as the recipe expects"
        one, eight = time_text(3600 * cost.hours), time_text(3600 * cost.hours / 8)
        rows.append(("time", f"about {one} of one worker, {eight} of eight ({rate})"))
    return "\n".join(f"{name:<9}{text}" for name, text in rows)


def _range(low: int, high: int) -> str:
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _describe_prompts(recipe: Recipe, num_classes: int) -> str:
    """What is drawn, and how much of a language model it takes at least."""
    spec, asks = recipe.prompts, 0
    if spec.file is not None:
        return f"taken from {spec.file}"
    each = "all there are" if spec.per_class is None else f"{spec.per_class:,}"
    text = f"{spec.kind}, {each} a class; meanings: {recipe.meanings.choose}"
    if recipe.llm.provider == "offline":
        return f"{text}; no language model"
    if recipe.meanings.choose == "clip":
        asks += num_classes
    if spec.kind in ("cd", "sd", "cd+sd"):
        asks += num_classes * -(-(spec.per_class or 0) // spec.contexts.batch)
    elif spec.kind == "caption":
        asks += num_classes * (1 + (spec.per_class or 0))
    return f"{text}; at least {asks:,} asks of {recipe.llm.model} unless {recipe.llm.cache} knows the answers"


def walk_plan(recipe: Recipe, scale: Fraction, out: Path | None) -> str:
    """Go through every unit and count its samples; optionally write one row per sample to the parquet file `out`."""
    started = time.perf_counter()
    classes = load_classes(recipe.classes)
    plan = _plan(recipe, classes, count_prompts(classes, recipe.prompts, recipe.seed))
    names = ("shard", "slot", "class_id", "prompt_id", "replicate")
    schema = pa.schema([(name, pa.int32()) for name in names])
    total = 0
    with contextlib.ExitStack() as stack:
        writer = None
        if out is not None:
            file = stack.enter_context(whole_file(out))
            writer = stack.enter_context(pq.ParquetWriter(file, schema, compression="zstd"))
        for shard in plan.units(scale):
            unit = plan.unit(shard)
            total += len(unit)
            if writer is not None:
                places = ([shard] * len(unit), range(len(unit)), unit.class_ids, unit.prompt_ids, unit.replicates)
                writer.write_table(pa.table([pa.array(column, pa.int32()) for column in places], schema=schema))
    where = f", written to {out}" if out is not None else ""
    seconds = time.perf_counter() - started
    return f"walked   {counted(total, 'sample')} in {counted(plan.num_units(scale), 'shard')} in {seconds:.1f} s{where}"


def _plan(recipe: Recipe, classes: list[Class], num_prompts: Mapping[int, int]) -> Plan:
    """Without `num_prompts` a plan that knows sizes only: prompts do not decide how many samples there are."""
    return Plan(
        {one.id: one.count for one in classes},
        num_prompts or dict.fromkeys((one.id for one in classes), 1),
        recipe.seed,
        recipe.shards.samples_per_shard,
        recipe.shards.max_draws,
    )


def _work(recipe: Recipe, plan: Plan, todo: list[int], job: UnitJob, store: Store, stop: StopFlag) -> Summary:
    """Fan the missing units out, with a log and a progress display."""
    logs = store.root / META / "logs" if isinstance(store, FolderStore) else Path("out/logs")
    log_file = logs / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.jsonl"
    num_images = sum(plan.unit_size(unit) for unit in todo)
    with EventLog(log_file) as log, Progress(len(todo), num_images) as progress:

        def on_event(event: Event) -> None:
            log(event)
            progress(event)

        make_worker = partial(make_unit_worker, job.model_dump(mode="json"))
        return fan_out(todo, make_worker, recipe.cluster, on_event, stop, recipe.sampler.threads)


def _outcome(
    plan: Plan,
    scale: Fraction,
    before: Mapping[int, Record],
    records: Mapping[int, Record],
    work: Summary | None,
    seconds: float,
) -> GenerateOutcome:
    there = {unit: records[unit] for unit in plan.units(scale) if unit in records}
    statuses: Counter[str] = Counter()
    for record in there.values():
        statuses.update(record.status_dict)
    images = statuses.pop(SUCCESS, 0)
    return GenerateOutcome(
        scale=scale_name(scale),
        asked_images=plan.num_samples(scale),
        asked_units=plan.num_units(scale),
        images=images,
        done_units=len(there),
        made_units=sum(unit not in before for unit in there),
        rejected=dict(sorted(statuses.items())),
        short={unit: record.short for unit, record in there.items() if record.short},
        work=work,
        seconds=seconds,
    )


def _write_scale(store: Store, plan: Plan, scale: Fraction, records: Mapping[int, Record]) -> None:
    """The subset of exactly this scale: the successes among the leading slots of its shards."""
    slots = dict(plan.subset(scale))
    name = scale_name(scale)
    rule: dict[str, JSON] = {
        "scale": name,
        "images": plan.num_samples(scale),
        "tables": fingerprint({str(unit): records[unit].parquet.sha256 for unit in slots}),
    }
    with contextlib.suppress(ValueError):  # not there yet, or torn: it is written anew
        if read_subset(store, name)[1] == rule:
            return
    parts = []
    tables = iter_tables(store, {unit: records[unit] for unit in slots}, ["uid", "key", "shard", "status"])
    for num_slots, table in zip(slots.values(), tables, strict=True):
        slot = pc.cast(pc.utf8_slice_codeunits(table["key"], 5), pa.int32())  # a key is the shard, then the slot
        parts.append(table.filter(pc.and_(pc.less(slot, num_slots), pc.equal(table["status"], SUCCESS))))
    write_subset(store, name, pa.concat_tables(parts), rule)
