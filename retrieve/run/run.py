"""One retrieval: a recipe, a scale and an output in; finished shards of real images, a subset and a summary out.

The whole path in one place:

    recipe ─▶ classes, meanings ─▶ search of the pool ─▶ candidates.parquet ─▶ plan ─▶ units without a record ─▶ fan_out

On disk, under the output's `_meta/`, what `gen.make.output` keeps, with the tables

    candidates.parquet  the rows of the pool that may become images, for each class in their order
    search.json         how many rows each step of the search found and left out, and why; the way vectors were searched

The same call continues an interrupted run; a recipe or a pool that would give other images is refused with the list of
differences (`gen.make.output`); a scale that is already there makes nothing.
"""

import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

from cluster.code import code_hash
from cluster.process.stop_flag import StopFlag
from cluster.recipes.load import canonical_json
from cluster.waiting import waiting
from gen.make.outcome import MakeOutcome, asked_of
from gen.make.output import BegunBy, open_output
from gen.make.plan import Plan
from gen.make.refill import UnitJob
from gen.make.scale import scale_name
from gen.make.work import held, set_torn_aside, settle, work_off
from retrieve.download.program import VERSION, find_program, with_program
from retrieve.download.spec import DownloadSpec
from retrieve.make.candidates import CANDIDATES, CandidateTable
from retrieve.make.from_tars import make_from_tars_worker
from retrieve.make.from_urls import make_from_urls_worker
from retrieve.make.rows import RetrieveJob
from retrieve.pool.pool import Pool, open_pool
from retrieve.run.parts import clear_parts
from retrieve.run.recipe import RetrieveRecipe, changes_of, identity, knows_tars
from retrieve.run.route import check_routes, indexes_of, route_text
from retrieve.run.search import search_pool
from shards.disk.address import one_spelling
from shards.disk.amounts import counted, size_text
from shards.disk.data_set import open_to_write
from shards.disk.layout import META
from shards.disk.store import FolderStore
from shards.labels.classes import Class, load_classes
from shards.set.manifest import scan_records
from shards.set.status import write_summary
from shards.views.dataset_card import write_folder_card

WHEN_SLOW = "raise cluster.stall_deadline_s"
WHEN_SHORT = {
    False: "raise filter.top, search.per_query or shards.max_draws, or search by more routes, in a new output",
    True: "remove these shards and run the same command again to ask their addresses once more, or raise "
    "shards.max_draws in a new output",
}
CANDIDATES_NAME, SEARCH = CANDIDATES.removeprefix(f"{META}/"), "search.json"
BEGUN_BY = BegunBy("retrieve", (CANDIDATES_NAME,))
BYTES_EACH = 200_000  # of a picture on the web, on average; an assumption
Say = Callable[[str], None]


def run(
    recipe: RetrieveRecipe,
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
    classes, pool, fetched = _opened(recipe, scale)
    download = with_program(recipe.download) if fetched else recipe.download
    plan = plan_of(recipe, classes)
    units = plan.units(scale)  # refuses impossible sizes before anything is touched
    code = code_hash(home)
    store = open_to_write(url, single_writer)
    with waiting("hashing what the images depend on"):  # whole models: while nobody waits for this run
        tars_digest = None if fetched else pool.tars_digest
        own = identity(recipe, pool.digest_without_lists, indexes_of(recipe), tars_digest)
    with held(store, stop, "retrieve", recipe.cluster.shared) as hold:

        def differ(begun: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
            if not fetched and not knows_tars(begun["identity"]):
                say(f"{url}: began before the pool's tars were noted; take care that they are the same as then")
            before = dict(begun["identity"])
            if before.get("pool_digest") == pool.digest:  # of a version that counted the lines of block lists
                before["pool_digest"] = now["pool_digest"]
            return changes_of(before, now)

        def search() -> dict[str, bytes]:
            found, counts = search_pool(recipe, classes, pool, store, hold, stop, say)
            for line in _ways(counts):
                say(line)
            return {CANDIDATES_NAME: found, SEARCH: canonical_json(counts) + b"\n"}

        listed = [[one.id, one.name, one.wordnet_id, one.count] for one in classes]
        mark = open_output(store, recipe, own, listed, code, BEGUN_BY, search, differ, say)
        clear_parts(store)
        with waiting("reading what is there"):
            write_folder_card(store, recipe.name)
            set_torn_aside(store, say)
            before = scan_records(store, mark)
        hold.life.there(len(before), "shard")
        todo = [unit for unit in units if unit not in before]
        work = None
        if todo:
            write_summary(store, asked_of(plan, scale))
            job = job_of(recipe, classes, url, single_writer, mark, code, download, tars_digest)
            make_worker = partial(
                make_from_urls_worker if fetched else make_from_tars_worker, job.model_dump(mode="json")
            )
            images = sum(plan.unit_size(unit) for unit in todo)
            spec = recipe.cluster
            work = work_off(
                todo, images, make_worker, spec, store, stop, hold, 1, WHEN_SLOW, shared=spec.shared, say=say
            )
        return settle(store, hold, plan, scale, mark, before, work, started, WHEN_SHORT[fetched])


def look(recipe: RetrieveRecipe, scale: Fraction, stop: StopFlag, say: Say) -> str:
    """What a search finds and leaves out, and whether it is enough; writes nothing. Refuses what `run` would."""
    classes, pool, fetched = _opened(recipe, scale)
    plan = plan_of(recipe, classes)
    with tempfile.TemporaryDirectory(prefix="sixfold-") as scratch:  # nothing of it is kept
        here = recipe.model_copy(update={"cluster": recipe.cluster.model_copy(update={"in_process": True})})
        found, counts = search_pool(here, classes, pool, FolderStore(Path(scratch)), None, stop, say)
    lines = [f"{what:<28}{number:>12,}" for what, number in counts.items() if isinstance(number, int)]
    lines += [f"  {reason:<26}{number:>12,}" for reason, number in counts["reasons"].items()]
    lines += _ways(counts)
    wanted = {f"{one.id} {one.name}": math.ceil(one.count * scale) for one in classes}
    short = {name: num for name, num in counts["kept of each class"].items() if num < wanted[name]}
    lines.append(f"{scale_name(scale)}: {counted(plan.num_samples(scale), 'image')} asked for")
    if fetched:
        lines += _about_fetching(recipe, CandidateTable.load(found), plan.num_samples(scale))
    if short:
        few = ", ".join(f"{name} {num:,} of {wanted[name]:,}" for name, num in list(short.items())[:20])
        lines.append(
            f"short: {few}; raise filter.top or search.per_query, lower filter.score, or search by more routes"
        )
    return "\n".join(lines)


def _ways(counts: Mapping[str, Any]) -> list[str]:
    """By which way each kind of vectors was searched."""
    return [f"{route} vectors: searched {route_text(told)}" for route, told in counts["routes"].items()]


def _opened(recipe: RetrieveRecipe, scale: Fraction) -> tuple[list[Class], Pool, bool]:
    """(classes, pool, whether images are fetched). Raises ValueError for what cannot be searched as the recipe asks."""
    if scale > recipe.most:  # candidates are shared out for so many folds
        raise ValueError(
            f"scale: found {scale_name(scale)}, expected at most {recipe.most}x, for which candidates are shared out; "
            "set `most` in a recipe for another output"
        )
    classes = load_classes(recipe.classes)
    if strangers := sorted(recipe.filter.by_class.keys() - {one.id for one in classes}):
        raise ValueError(
            f"filter.by_class: found {strangers[0]}, expected the id of a class of {recipe.classes.source}, such as "
            f"{classes[0].id} of {classes[0].name}"
        )
    with waiting("opening the pool"):
        pool = open_pool(recipe.pool)
        fetched = check_images(recipe, pool)
        check_routes(recipe, pool)
    return classes, pool, fetched


def check_images(recipe: RetrieveRecipe, pool: Pool) -> bool:
    """Whether the images must be fetched. Raises ValueError for a pool that has neither images nor addresses, and for
    a search that looks at images that are not there yet."""
    if pool.has_pictures:
        return False
    if pool.tars and (pool.spec.images is not None or pool.columns.url is None):
        raise ValueError(
            f"{pool.parts[0].path}: found no column of keys, expected `key` (and `shard`): images cannot be found in "
            f"the tars of {pool.spec.images or pool.spec.source}; name it with pool.columns.key=NAME"
        )
    if pool.columns.url is None:
        raise ValueError(
            f"{pool.spec.source}: found no *.tar and no column of addresses, expected the pool's images; give them "
            "with pool.images"
        )
    if recipe.dedup.against or recipe.dedup.near is not None:
        raise ValueError(
            f"{pool.spec.source}: found no images in tars, and dedup looks at pictures before they are fetched; set "
            "dedup.near=null and dedup.against=[], then `sixfold filter OUT --near --against` looks at what was fetched"
        )
    return True


def _about_fetching(recipe: RetrieveRecipe, candidates: CandidateTable, num_images: int) -> list[str]:
    """How much is fetched, by what."""
    urls = len(candidates.table) - candidates.table["url"].null_count
    least = size_text(num_images * BYTES_EACH)
    try:
        program = f"img2dataset {VERSION}, {find_program(recipe.download)}"
    except ValueError as error:
        program = f"not there: {error}"
    return [
        f"download: {urls:,} addresses, of which {num_images:,} are asked first; about {least} if none fails "
        f"({size_text(BYTES_EACH)} each)",
        f"program: {program}",
    ]


def plan_of(recipe: RetrieveRecipe, classes: Sequence[Class]) -> Plan:
    """The plan as far as sizes go."""
    return Plan(
        {one.id: one.count for one in classes},
        dict.fromkeys((one.id for one in classes), 1),
        recipe.seed,
        recipe.shards.samples_per_shard,
        recipe.shards.max_draws,
    )


def job_of(
    recipe: RetrieveRecipe,
    classes: Sequence[Class],
    url: str,
    single_writer: bool,
    mark: str,
    code: str,
    download: DownloadSpec,
    tars_digest: str | None,
) -> RetrieveJob:
    """What workers are given."""
    return RetrieveJob(
        unit=UnitJob(
            out=url,
            single_writer=single_writer,
            fingerprint=mark,
            screen=recipe.screen,
            shards=recipe.shards,
            extra={"code": code},
        ),
        num_per_class={one.id: one.count for one in classes},
        class_names={one.id: one.name for one in classes},
        most_folds=recipe.most,
        seed=recipe.seed,
        pool=recipe.pool.at_home(),
        tars_digest=tars_digest,
        size_px=recipe.size_px,
        licence=recipe.licence,
        download=download,
    )
