"""One run of edits: a recipe, a scale and an output in; finished shards, a subset and a summary out.

The whole path in one place:

    recipe ─▶ classes, source pictures ─▶ tables ─▶ plan ─▶ units without a record ─▶ fan_out

The same call continues an interrupted run; a recipe or a source set that would give other images is refused with the
list of differences (`gen.make.output`); a scale that is already there makes nothing.
"""

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

from cluster.code import code_hash
from cluster.process.stop_flag import StopFlag
from cluster.recipes.mistake import RecipeError
from cluster.waiting import waiting
from gen.edit.attributes.draw import ClassAttributes
from gen.edit.attributes.gather import gather_attributes
from gen.edit.attributes.lexicon import attributes_content
from gen.edit.attributes.stored import FILE, dump_attributes
from gen.edit.editors.spec import beside_of, check_editor, editor_digest
from gen.edit.judge.judge import judge_digest
from gen.edit.masks.spec import mask_digest, mask_hashes
from gen.edit.recipe import AttributeEditSpec, EditRecipe, PerturbSpec, differences, edit_identity
from gen.edit.rows import EditJob, edit_plan
from gen.edit.sources import SOURCES_NAME, Sources, chosen_rows, index_of, with_counts, write_sources
from gen.edit.too_long import check_judged_texts, cut_line
from gen.edit.worker import make_edit_worker
from gen.llm.ask import open_llm
from gen.make.outcome import MakeOutcome, asked_of
from gen.make.output import BegunBy, has_shards, is_under_way, open_output
from gen.make.plan import Plan
from gen.make.scale import Store, scale_name
from gen.make.screen import REASONS
from gen.make.work import held, set_torn_aside, settle, work_off
from gen.model.folder import ModelError, open_model
from gen.names.kind import kind_of_list
from gen.prompts.meanings import given_meanings
from gen.prompts.table import PromptTable
from gen.prompts.write import PROMPTS, Say
from gen.run.auto import fill_auto
from gen.run.output import drawn_texts, has_prompts, rows_of
from gen.run.recipe import drawn_from, job_of, look_up
from gen.run.room import check_room, describe_room
from gen.sampler.memory import NOTHING, Beside
from gen.sampler.start import executed_steps
from shards.disk.address import one_spelling
from shards.disk.amounts import counted
from shards.disk.data_set import open_to_write
from shards.disk.home import home
from shards.disk.layout import META
from shards.disk.safe_text import quoted
from shards.labels.classes import Class
from shards.set.manifest import scan_records
from shards.set.status import refuse_unfinished, write_summary
from shards.stream.index_arrays import Index
from shards.views.dataset_card import write_folder_card

BEGUN_BY = BegunBy("edit", (SOURCES_NAME, PROMPTS, FILE))
WHEN_SLOW = "lower sampler.batch or raise cluster.stall_deadline_s"
WHEN_TORN = (
    "a language model judged these edits, so made again they may be others: bring the file back from a copy, or give "
    "them up with `sixfold repair` and run the same command again"
)
LASTING = {
    "no_mask": "no object was found in these sources: set edit.masks otherwise in a new output, or leave them out",
    "failed_to_decode": "these sources cannot be read: mend them or leave them out, in a new output",
}
AS_IT_IS = "at gamma 0 every draw is the source itself: leave these sources out, or set edit.gamma, in a new output"
WHEN_SHORT = "look at why their draws were rejected with `sixfold show`, or raise shards.max_draws in a new output"


@dataclass(frozen=True)
class Work:
    """What a recipe asks for: who the classes are, which pictures are edited."""

    classes: Sequence[Class]  # each with as many images in 1x as it has sources
    index: Index
    rows: Mapping[int, Sequence[int]]  # class id -> rows of the index, in the order of the sources


def is_judged_freely(recipe: EditRecipe) -> bool:
    """Whether the same edits may be judged otherwise another day."""
    return isinstance(recipe.edit, AttributeEditSpec) and recipe.edit.judge.kind == "vlm"


def find_work(recipe: EditRecipe, has_texts: bool) -> Work:
    """Raises RecipeError, a line for each thing that the recipe names and that cannot be used. `has_texts`: the output
    has its prompts; then nobody asks for what they were drawn from."""
    whole = recipe.model_copy(update={"classes": recipe.classes.uncounted()})
    classes, lines = look_up(whole, has_texts)
    work = None
    if classes:
        try:
            work = work_of(recipe, classes)
        except (ValueError, OSError) as error:
            lines = [*lines, " ".join(f"source.set: {error}".split())]
    if isinstance(recipe.edit, AttributeEditSpec):
        lines = [*lines, *_missing_of(recipe.edit, recipe.sampler.size_px)]
    if not lines and work is not None and not has_texts:
        try:
            _check_attributes(recipe, work.classes)
        except (ValueError, OSError) as error:
            lines = [" ".join(str(error).split())]
    if lines or work is None:
        raise RecipeError.of(lines)
    return work


def _missing_of(edit: AttributeEditSpec, size_px: int | None) -> list[str]:
    """A line for each thing that an attribute edit names and that cannot be used."""
    lines = []
    for look in (
        lambda: mask_digest(edit.masks),
        lambda: check_editor(edit.editor, size_px),
        lambda: judge_digest(edit.judge),
        lambda: attributes_content(edit.attributes.lexicon),
    ):
        try:
            look()
        except (ValueError, OSError) as error:
            lines.append(" ".join(str(error).split()))
    return lines


def _check_attributes(recipe: EditRecipe, classes: Sequence[Class]) -> None:
    """Raises ValueError for attributes of which it is known before any prompt is drawn that a run would refuse them."""
    edit, meanings = recipe.edit, recipe.meanings
    if not isinstance(edit, AttributeEditSpec):
        return
    if edit.attributes.source == "llm" and recipe.llm.provider != "offline":
        return
    given = given_meanings(classes, meanings) if meanings.choose == "given" else {}
    if meanings.choose == "clip" or recipe.prompts.file is not None:  # then meanings tell the kind of all other classes
        classes = [one for one in classes if kind_of_list(one) is not None]
    _check_told_apart(edit, gather_attributes(classes, edit.attributes, None, recipe.seed, given))


def _check_told_apart(edit: AttributeEditSpec, found: Sequence[ClassAttributes]) -> None:
    """Raises ValueError for a class with a single attribute of a kind, which a CLIP judge can compare with no other."""
    if edit.judge.kind != "clip":
        return
    for one in found:
        for kind in edit.attributes.kinds:
            if sum(word.kind == kind for cell in one.cells for word in cell) < 2:
                raise ValueError(
                    f"edit.attributes: found one {kind} for class {one.class_id}, expected two or more: a CLIP judges "
                    "by comparing; add some to the lexicon, or set edit.judge.kind=none"
                )


def work_of(recipe: EditRecipe, classes: Sequence[Class]) -> Work:
    """The source pictures of the classes. Raises ValueError or OSError for a set that cannot be read, is not whole or
    lacks some."""
    if recipe.source.subset is None:
        refuse_unfinished(recipe.source.set, "edit")
    index = index_of(recipe.source, classes)
    rows = chosen_rows(recipe.source, index, classes, recipe.seed)
    return Work(with_counts(classes, rows), index, rows)


def run(
    recipe: EditRecipe,
    scale: Fraction,
    out: str,
    home: Path,
    stop: StopFlag,
    single_writer: bool = False,
    say: Say = print,
) -> MakeOutcome:
    """Make what is missing of `scale` in `out`, a folder or URL; `say` hears in one line what takes long.

    Raises ValueError, OSError or RuntimeError with one line. What goes wrong later is in the outcome.
    """
    started = time.monotonic()
    url = one_spelling(out)
    with waiting("looking at the recipe and its source pictures"):
        work = find_work(recipe, has_prompts(url))
    plan = plan_of(recipe, work)
    units = plan.units(scale)  # refuses impossible sizes before anything is touched
    code = code_hash(home)
    store = open_to_write(url, single_writer)
    with waiting(f"checking the model {recipe.sampler.model}"):
        edit_identity(recipe, work.index)  # reads all bytes of all models, once: while nobody waits for this run
    with held(store, stop, "edit", recipe.cluster.shared) as hold:

        def draw() -> dict[str, bytes]:
            texts = drawn_texts(recipe, work.classes, say, stop)
            texts[FILE] = _attributes(recipe, work.classes, PromptTable.load(texts[PROMPTS]), say, stop)
            with waiting(f"reading {counted(plan.fold_size, 'source picture')}"):
                return {SOURCES_NAME: write_sources(recipe.source, work.index, work.rows, stop), **texts}

        known = BEGUN_BY.known(store)
        begun = known.body["identity"]["sampler"] if known is not None and is_under_way(store) else None
        recipe = recipe.model_copy(
            update={"sampler": fill_auto(recipe.sampler, recipe.cluster, begun, say, stop)}
        )  # fmt: skip
        own = edit_identity(recipe, work.index)
        if known is not None and known.body["identity"]["source"]["digest"] != work.index.digest and has_shards(store):
            _refuse_changed_picture(recipe, work, store, stop)
        contents = {"contents": drawn_from(recipe.meanings, recipe.llm)}
        mark = open_output(store, recipe, own, rows_of(work.classes), code, BEGUN_BY, draw, differences, say, contents)
        with waiting("reading what is there"):
            write_folder_card(store, recipe.name)
            set_torn_aside(store, say, WHEN_TORN if is_judged_freely(recipe) else "")
            before = scan_records(store, mark)
        hold.life.there(len(before), "shard")
        todo = [unit for unit in units if unit not in before]
        summary = None
        if todo:
            check_room(recipe, say, _beside(recipe))
            write_summary(store, asked_of(plan, scale))
            job = edit_job_of(recipe, work, url, single_writer, mark, code, own)
            make_worker = partial(make_edit_worker, job.model_dump(mode="json"))
            images, spec = sum(plan.unit_size(unit) for unit in todo), recipe.cluster
            threads = recipe.sampler.threads
            summary = work_off(
                todo, images, make_worker, spec, store, stop, hold, threads, WHEN_SLOW, shared=spec.shared, say=say
            )  # fmt: skip
        return settle(store, hold, plan, scale, mark, before, summary, started, WHEN_SHORT, lasting_of(recipe))


def _refuse_changed_picture(recipe: EditRecipe, work: Work, store: Store, stop: StopFlag) -> None:
    """Raises ValueError that names the first source that has other bytes than when the run began. Says nothing where
    that is not what changed: pictures came or went, it is another set, or the table of the sources is lost."""
    if not store.exists(f"{META}/{SOURCES_NAME}"):
        return
    begun, now = {}, {}
    try:
        with waiting("looking for the source pictures that have changed"):
            before = store.read_bytes(f"{META}/{SOURCES_NAME}")
            tables = before, write_sources(recipe.source, work.index, work.rows, stop)
            begun, now = (
                {(row["class_id"], row["key"]): row["sha256"] for row in Sources.load(table).table.to_pylist()}
                for table in tables
            )
    except (ValueError, OSError):
        return
    for source, sha256 in begun.items():
        if now.get(source, sha256) != sha256:
            raise ValueError(
                f"{work.index.url}: source {quoted(source[1], 80)}: found other bytes than when the run began; bring "
                "the picture back, and run the same command again, or edit the new ones in another output"
            )


def lasting_of(recipe: EditRecipe) -> Mapping[str, str]:
    """What to do about samples whose draws all end alike, by their status."""
    if isinstance(recipe.edit, PerturbSpec) and recipe.edit.gamma == 0:
        return {**dict.fromkeys(REASONS, AS_IT_IS), **LASTING}
    return LASTING


def describe(recipe: EditRecipe, work: Work, scale: Fraction) -> str:
    """What a scale means, for people, before anything is made."""
    plan, sampler, edit = plan_of(recipe, work), recipe.sampler, recipe.edit
    if isinstance(edit, PerturbSpec):
        told = f"perturb, gamma {edit.gamma:g}: {executed_steps(sampler.steps, edit.gamma)} of {sampler.steps} steps"
    else:
        kinds, side = ", ".join(edit.attributes.kinds), edit.attributes.feasibility
        told = f"{kinds}, {side}; masks by {', '.join(edit.masks.order)}; judge: {edit.judge.kind}"
        if edit.masks.spoil is not None:
            told += f"; masks made worse: {edit.masks.spoil.kind}"
        if edit.editor.kind != "own":
            told += f"; editor: {edit.editor.kind}"
    lines = [
        f"{'sources':<9}{counted(plan.fold_size, 'picture')} of {len(work.classes):,} classes in {work.index.url}",
        f"{'edit':<9}{told}",
        f"{scale_name(scale):<9}{counted(plan.num_samples(scale), 'image')} in "
        f"{counted(plan.num_units(scale), 'shard')}",
    ]
    try:
        folder = open_model(sampler.model, sampler.revision, sampler.variant, home())
        memory = describe_room(recipe, folder, _beside(recipe))
    except ModelError as error:
        memory = f"unknown: {error}"
    lines.append(f"{'memory':<9}{memory}")
    if recipe.expect is not None:
        seconds = plan.num_samples(scale) / recipe.expect.images_per_s
        lines.append(f"{'time':<9}{seconds / 60:.1f} minutes of one worker, at {recipe.expect.images_per_s:g} images/s")
    return "\n".join(lines)


def _beside(recipe: EditRecipe) -> Beside:
    return NOTHING if isinstance(recipe.edit, PerturbSpec) else beside_of(recipe.edit.editor)


def plan_of(recipe: EditRecipe, work: Work) -> Plan:
    """The plan of the samples."""
    return edit_plan({one.id: one.count for one in work.classes}, recipe.seed, recipe.shards)


def edit_job_of(
    recipe: EditRecipe,
    work: Work,
    url: str,
    single_writer: bool,
    mark: str,
    code: str,
    identified: Mapping[str, Any],
) -> EditJob:
    """What workers are given; `identified`: the identity of the run."""
    return EditJob(
        made=job_of(recipe, work.classes, url, single_writer, mark, code, identified),
        classes=tuple(work.classes),
        source=recipe.source.at_home(),
        source_digest=work.index.digest,
        edit=recipe.edit.at_home(),
        editor_digest="" if isinstance(recipe.edit, PerturbSpec) else editor_digest(recipe.edit.editor),
        masks_digest="" if isinstance(recipe.edit, PerturbSpec) else identified["edit"]["masks"],
        mask_hashes="{}" if isinstance(recipe.edit, PerturbSpec) else json.dumps(mask_hashes(recipe.edit.masks)),
        judge_digest="" if isinstance(recipe.edit, PerturbSpec) else judge_digest(recipe.edit.judge),
    )


def _attributes(recipe: EditRecipe, classes: Sequence[Class], prompts: PromptTable, say: Say, stop: StopFlag) -> bytes:
    """What attributes are drawn from, class by class; nothing for a perturbation."""
    if isinstance(recipe.edit, PerturbSpec):
        return b""
    spec, dropped = recipe.edit.attributes, Counter[str]()
    meanings = {one.id: phrase for one in classes if (phrase := prompts.prompt(one.id, 0).meaning) is not None}
    with open_llm(recipe.llm, stop) as llm, waiting("gathering attributes"):
        found = gather_attributes(classes, spec, llm, recipe.seed, meanings, dropped)
    if dropped:
        say(f"attributes: not used: {', '.join(f'{times:,} {reason}' for reason, times in sorted(dropped.items()))}")
    with waiting("measuring how long texts are"):
        if (line := cut_line(recipe, prompts, found)) is not None:
            say(line)
        check_judged_texts(recipe.edit, prompts, found)
    _check_told_apart(recipe.edit, found)
    return dump_attributes(found)
