"""What a run would make, and how much space and time it would take.

In: a recipe, its classes, a scale. Out: a few lines for people. On disk: nothing; on request one row per sample of the
plan, in a parquet file.
"""

import contextlib
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from gen.make.plan import estimate
from gen.make.scale import scale_name
from gen.model.folder import ModelError, open_model
from gen.prompts.meanings import bare_names
from gen.prompts.prompts import count_prompts
from gen.run.recipe import Recipe, sizes_of
from gen.run.room import describe_room
from gen.sampler.spec import SamplerSpec, with_size
from shards.disk.amounts import counted, size_text, time_text
from shards.disk.home import home
from shards.disk.replace import whole_file
from shards.labels.classes import Class

BYTES_PER_PIXEL = 0.45  # for estimates: q95 JPEG of generated pictures, 59 to 147 KB at 512 px
BYTES_PER_SAMPLE = 5_000  # tar headers, texts and the table's row; measured in the sandbox
GUESSED_PX = 512  # the side, where the recipe leaves it to a model that is not here


def describe(recipe: Recipe, classes: Sequence[Class], scale: Fraction) -> str:
    """What a run would make and take, in a few lines; touches nothing."""
    plan = sizes_of(recipe, classes)
    sampler, note = recipe.sampler, ""
    try:
        folder = open_model(sampler.model, sampler.revision, sampler.variant, home())
        sampler = with_size(sampler, folder)
        memory = describe_room(recipe, folder)
    except ModelError as error:
        memory = f"unknown: {error}"
        if sampler.size_px is None:
            sampler, note = sampler.model_copy(update={"size_px": GUESSED_PX}), " (guessed: the model is not here)"
    seconds_each = 1 / recipe.expect.images_per_s if recipe.expect else 0.0
    bytes_each = BYTES_PER_SAMPLE + BYTES_PER_PIXEL * sampler.stored_px**2
    cost = estimate(plan, scale, bytes_each, seconds_each, 1)
    counts = [one.count for one in classes]
    rest = f", {cost.images_made - cost.images:,} more to fill the last shard" if cost.images_made > cost.images else ""
    rows = [
        ("classes", f"{len(classes):,}, {_range(min(counts), max(counts))} images each in one fold of {sum(counts):,}"),
        ("images", f"{cost.images:,} ({scale_name(scale)}), {_describe_px(sampler)}{note}{rest}"),
        ("shards", f"{cost.shards:,} of at most {counted(recipe.shards.samples_per_shard, 'image')}"),
        ("space", f"about {size_text(cost.bytes)} (guessed at {size_text(bytes_each)} an image)"),
        ("prompts", _describe_prompts(recipe, len(classes)) + _describe_use(recipe, counts, scale)),
        ("model", f"{recipe.sampler.model}, {recipe.sampler.steps} steps, guidance {recipe.sampler.guidance:g}"),
        ("memory", memory),
    ]
    bare = bare_names(recipe.meanings, classes, recipe.llm.provider != "offline")
    if bare is not None and recipe.prompts.file is None:
        rows.append(("meanings", bare))
    if recipe.sampler.licence == "unknown":
        rows.append(
            (
                "licence",
                "unknown: exports and pushes leave such images out; set sampler.licence before images are made, for it "
                "is a part of the run",
            )
        )
    if recipe.expect is not None:
        rate = f"{recipe.expect.images_per_s:g} images/s each, as the recipe expects"
        one, eight = time_text(3600 * cost.hours), time_text(3600 * cost.hours / 8)
        rows.append(("time", f"about {one} of one worker, {eight} of eight ({rate})"))
    else:
        rows.append(("time", "unknown, for the recipe has no expect.images_per_s; a run tells it after a minute"))
    return "\n".join(f"{name:<9}{text}" for name, text in rows)


def _describe_px(sampler: SamplerSpec) -> str:
    made, stored = sampler.made_px, sampler.stored_px
    return f"{stored} px" if made == stored else f"{stored} px, made at {made}"


def _describe_use(recipe: Recipe, counts: Sequence[int], scale: Fraction) -> str:
    """How many images of this scale share a prompt; said, because prompts are counted over all folds together."""
    if recipe.prompts.per_class is None or recipe.prompts.file is not None:
        return ""
    most = math.ceil(max(counts) * scale / recipe.prompts.per_class)
    return "; each image has a prompt of its own" if most <= 1 else f"; a prompt makes up to {counted(most, 'image')}"


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


def walk_plan(recipe: Recipe, classes: Sequence[Class], scale: Fraction, out: Path | None) -> str:
    """Go through every unit and count its samples; optionally write one row per sample to the parquet file `out`."""
    started = time.perf_counter()
    num_prompts = count_prompts(classes, recipe.prompts, recipe.seed)
    plan = replace(sizes_of(recipe, classes), num_prompts_per_class=num_prompts)
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
