"""One run: a recipe, a scale and an output in; finished shards, a subset and a summary out.

The whole path in one place:

    recipe ─▶ classes ─▶ prompts.parquet ─▶ plan ─▶ units that have no record yet ─▶ fan_out ─▶ subset, summary

The same call continues an interrupted run; a recipe that would make other images is refused with the list of
differences (`gen.run.output`); a scale that is already there makes nothing. On disk, under the output's `_meta/`: what
`gen.run.output` and `gen.make.work` keep.
"""

import time
from fractions import Fraction
from functools import partial
from pathlib import Path

from cluster.code import code_hash
from cluster.process.stop_flag import StopFlag
from cluster.waiting import waiting
from gen.make.outcome import MakeOutcome, asked_of
from gen.make.output import is_under_way
from gen.make.work import held, set_torn_aside, settle, work_off
from gen.prompts.write import Say
from gen.run.auto import fill_auto
from gen.run.output import begun_by, has_prompts, open_output
from gen.run.recipe import Recipe, identity, job_of, sizes_of, usable_classes
from gen.run.room import check_room
from gen.sampler.spec import sampler_digest
from gen.sampler.text_to_image import make_text_to_image_worker
from shards.disk.address import one_spelling
from shards.disk.data_set import open_to_write
from shards.set.manifest import scan_records
from shards.set.status import write_summary
from shards.views.dataset_card import write_folder_card

WHEN_SLOW = "lower sampler.batch or raise cluster.stall_deadline_s"


def run(
    recipe: Recipe,
    scale: Fraction,
    out: str,
    home: Path,
    stop: StopFlag,
    single_writer: bool = False,
    say: Say = print,
) -> MakeOutcome:
    """Make what is missing of `scale` in `out`, a folder or URL. `home` is the checkout whose code runs, `say` hears
    in one line what takes long before the first image.

    Raises ValueError, OSError or RuntimeError with one line: an output of another recipe, a second run on the same
    output, a place that cannot be written, a missing model, damaged shards. What goes wrong later is in the outcome.
    """
    started = time.monotonic()
    url = one_spelling(out)
    with waiting("checking what the recipe names"):
        classes = usable_classes(recipe, has_prompts(url))
    plan = sizes_of(recipe, classes)
    units = plan.units(scale)  # refuses impossible sizes before anything is touched
    code = code_hash(home)
    store = open_to_write(url, single_writer)
    with waiting(f"checking the model {recipe.sampler.model}"):
        sampler_digest(recipe.sampler)  # reads all its bytes, once: while nobody waits for this run
    with held(store, stop, "generate", recipe.cluster.shared) as hold:
        known = begun_by(store)
        begun = known.body["identity"]["sampler"] if known is not None and is_under_way(store) else None
        sampler = fill_auto(recipe.sampler, recipe.cluster, begun, say, stop)
        recipe = recipe.model_copy(update={"sampler": sampler})
        mark, identified = open_output(store, known, recipe, identity(recipe), classes, code, say, stop)
        with waiting("reading what is there"):
            write_folder_card(store, recipe.name)
            set_torn_aside(store, say)
            before = scan_records(store, mark)
        hold.life.there(len(before), "shard")
        todo = [unit for unit in units if unit not in before]
        work = None
        if todo:
            check_room(recipe, say)
            # before the first image, so that a call that is killed is known by what is missing of it
            write_summary(store, asked_of(plan, scale))
            job = job_of(recipe, classes, url, single_writer, mark, code, identified)
            make_worker = partial(make_text_to_image_worker, job.model_dump(mode="json"))
            images = sum(plan.unit_size(unit) for unit in todo)
            threads = recipe.sampler.threads
            spec = recipe.cluster
            work = work_off(
                todo, images, make_worker, spec, store, stop, hold, threads, WHEN_SLOW, shared=spec.shared, say=say
            )
        return settle(store, hold, plan, scale, mark, before, work, started)
