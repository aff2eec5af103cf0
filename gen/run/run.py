"""One run: a recipe, a scale and an output in; finished shards, a subset and a summary out.

The whole path in one place:

    recipe ─▶ classes ─▶ prompts.parquet ─▶ plan ─▶ units that have no record yet ─▶ fan_out ─▶ subset, summary

The same call continues an interrupted run; a recipe that would make other images is refused with the list of
differences (`gen.run.output`); a scale that is already there makes nothing. On disk, under the output's `_meta/`: what
`gen.run.output` keeps, and `logs/<start>-<pid>.jsonl`.
"""

import os
import secrets
import time
from fractions import Fraction
from functools import partial
from pathlib import Path

from cluster.code import code_hash
from cluster.fan_out.attempt import life_id
from cluster.fan_out.events import Event, EventLog
from cluster.fan_out.fan_out import fan_out
from cluster.fan_out.progress import Progress
from cluster.fan_out.work import Summary
from cluster.process.lease import Lease
from cluster.process.stop_flag import StopFlag
from cluster.waiting import waited_for, waiting
from gen.make.plan import Plan
from gen.prompts.write import Say
from gen.run.auto import fill_auto
from gen.run.outcome import GenerateOutcome, asked_of, outcome_of
from gen.run.output import Store, begun_by, has_prompts, open_output, write_scale, write_summary
from gen.run.recipe import Recipe, identity, job_of, sizes_of, usable_classes
from gen.run.room import check_room
from gen.sampler.text_to_image import TextToImageJob, make_text_to_image_worker
from shards.disk.address import one_spelling
from shards.disk.amounts import counted
from shards.disk.data_set import open_to_write
from shards.disk.layout import META, shard_name
from shards.disk.store import FolderStore
from shards.set.commit import recover
from shards.set.manifest import scan_records
from shards.set.quarantine import QUARANTINE
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
) -> GenerateOutcome:
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
    life = life_id(os.environ, time.time(), secrets.token_bytes(5))
    lock_folder = store.root if isinstance(store, FolderStore) else None
    with waiting(f"taking {url}"):  # another machine's lease that was left is watched for a while
        taken = Lease.take(store, life, stop.request, lock_folder=lock_folder)
    with taken as lease:
        lease.doing = waited_for
        known = begun_by(store)
        begun = None if known is None else known.body["identity"]["sampler"]
        sampler = fill_auto(recipe.sampler, recipe.cluster, begun, say, stop)
        recipe = recipe.model_copy(update={"sampler": sampler})
        with waiting(f"checking the model {sampler.model}"):
            own = identity(recipe)
        mark, identified = open_output(store, known, recipe, own, classes, code, say, stop)
        with waiting("reading what is there"):
            write_folder_card(store, recipe.name)
            _set_torn_aside(store, say)
            before = scan_records(store, mark)
        todo = [unit for unit in units if unit not in before]
        work = None
        if todo:
            check_room(recipe, say)
            # before the first image, so that a call that is killed is known by what is missing of it
            write_summary(store, asked_of(plan, scale))
            job = job_of(recipe, classes, url, single_writer, mark, code, identified)
            work = _make(todo, plan, job, recipe, store, stop, lease)
        with waiting("reading what is there"):
            records = scan_records(store, mark)
        outcome = outcome_of(plan, scale, before, records, work, time.monotonic() - started)
        if outcome.done_units == outcome.asked_units:
            write_scale(store, plan, scale, records)
        write_summary(store, outcome.as_json())
        return outcome


def _set_torn_aside(store: Store, say: Say) -> None:
    """What a crash left half-written goes to the quarantine, and is made again."""
    if torn := recover(store).set_aside:
        say(
            f"{counted(len(torn), 'damaged shard')} set aside in {store.url}/{QUARANTINE}, first "
            f"{shard_name(torn[0])}; those of this scale are made again"
        )


def _make(
    todo: list[int], plan: Plan, job: TextToImageJob, recipe: Recipe, store: Store, stop: StopFlag, lease: Lease
) -> Summary:
    """Fan the missing units out, with a log and a progress display, whose line the lease shows to others."""
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.jsonl"
    log_file = Path("out/logs") / name
    if isinstance(store, FolderStore):
        log_file = store.path_to_write(f"{META}/logs/{name}")
    num_images = sum(plan.unit_size(unit) for unit in todo)
    with EventLog(log_file) as log, Progress(len(todo), num_images) as progress:
        lease.doing = progress.line

        def on_event(event: Event) -> None:
            log(event)
            progress(event)

        make_worker = partial(make_text_to_image_worker, job.model_dump(mode="json"))
        return fan_out(todo, make_worker, recipe.cluster, on_event, stop, recipe.sampler.threads, WHEN_SLOW)
