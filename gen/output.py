"""What a run keeps under `_meta/` of its output, and what can be told from it later.

In: a store and what a run depends on. Out: the run's fingerprint, its state in words, images made again. On disk:

    run.json          the identity (recipe without `cluster`, class list, model digest, versions) and its fingerprint
    recipe.yaml       the resolved recipe, which `sixfold generate` reads back
    meanings.jsonl    which sense of each class name is meant, and how sure the choice was
    prompts.parquet   every prompt of every class
    summary.json      how the last call ended
"""

import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster.lease import LEASE, Holder
from cluster.recipe import differences, dump_recipe, fingerprint
from cluster.signals import StopFlag
from gen.diversify import MEANINGS, PROMPTS, Say, diversify
from gen.names.classes import Class, load_classes
from gen.prompts import PromptTable
from gen.recipe import Recipe, identity, read_recipe
from gen.regenerate import Comparison, regenerate_some
from gen.sampler import Sampler
from gen.unit import UnitJob, UnitWorker
from shards.layout import META, SUCCESS
from shards.manifest import scan, scan_records
from shards.store import FolderStore, ObjectStore

RUN = f"{META}/run.json"
RECIPE = f"{META}/recipe.yaml"
PROMPT_TABLE = f"{META}/{PROMPTS}"
SUMMARY = f"{META}/summary.json"
MAX_LISTED = 20  # differences, damages and the like in one message

Store = FolderStore | ObjectStore


def open_output(
    store: Store,
    recipe: Recipe,
    identified: dict[str, Any],
    classes: list[Class],
    code: str,
    say: Say,
    stop: StopFlag | None = None,
) -> str:
    """The run's fingerprint. Writes `run.json` and its company the first time, compares every later time.

    `identified` is `identity(recipe)`, `code` the code hash. Meanings are chosen and prompts drawn the first time
    only: `run.json`, written last, says that they are whole. Raises ValueError with the list of differences if the
    output was made by another recipe, other weights or other library versions; Draining on a stop.
    """
    listed = [[one.id, one.name, one.wordnet_id, one.count] for one in classes]
    identified = identified | {"class_list": fingerprint(listed)}
    try:
        known = json.loads(store.read_bytes(RUN))
    except FileNotFoundError:
        known = None
    if known is not None:
        changed = differences(known["identity"], identified)
        if changed:
            raise ValueError(
                f"{store.url}: was made by another recipe ({_listing(changed)}); use another output folder, or the "
                f"recipe in its {RECIPE}"
            )
        if hashlib.sha256(store.read_bytes(PROMPT_TABLE)).hexdigest() != known["prompts_sha256"]:
            raise ValueError(f"{store.url}/{PROMPT_TABLE}: is not the file this run began with; bring that file back")
        return str(known["fingerprint"])
    with tempfile.TemporaryDirectory() as scratch:
        made = diversify(recipe, classes, Path(scratch), say, stop)
        for sentence in made.sentences():
            say(sentence)
        prompts = (Path(scratch) / PROMPTS).read_bytes()
        if made.meanings is not None:
            store.replace(f"{META}/{MEANINGS}", (Path(scratch) / MEANINGS).read_bytes())
    digest = hashlib.sha256(prompts).hexdigest()
    mark = fingerprint({"identity": identified, "prompts_sha256": digest})
    store.replace(PROMPT_TABLE, prompts)
    heading = f"# the resolved recipe of run {mark[:12]}; versions and hashes are in run.json\n"
    store.replace(RECIPE, (heading + dump_recipe(recipe)).encode())
    about = {"fingerprint": mark, "prompts_sha256": digest, "code": code, "identity": identified}
    if not store.write_exclusive(RUN, _json_bytes(about)):
        raise ValueError(f"{store.url}: another run began here at this moment; run the same command again")
    return mark


def unit_job(recipe: Recipe, url: str, single_writer: bool, about: Mapping[str, Any]) -> UnitJob:
    """What workers are given. `about` has `fingerprint`, `code` and `identity`, as `run.json` does."""
    return UnitJob(
        out=url,
        single_writer=single_writer,
        fingerprint=about["fingerprint"],
        prompts=PROMPT_TABLE,
        num_per_class={one.id: one.count for one in load_classes(recipe.classes)},
        seed=recipe.seed,
        sampler=recipe.sampler,
        model_digest=about["identity"]["model_digest"],
        screen=recipe.screen,
        shards=recipe.shards,
        extra={"code": about["code"], **about["identity"]["versions"]},
    )


def write_summary(store: Store, summary: Mapping[str, Any]) -> None:
    store.replace(SUMMARY, _json_bytes(summary))


def asked_units(store: Store) -> range | None:
    """The units that the last call was asked for; None if there was none."""
    try:
        return range(json.loads(store.read_bytes(SUMMARY))["asked"]["units"])
    except FileNotFoundError:
        return None


def regenerate_images(store: Store, num: int, seed: int) -> list[Comparison]:
    """Make `num` images of a data set again, from its own `_meta`, and compare; publishes nothing.

    Raises ValueError if the output is not ours, or if model or versions here are not those it was made with.
    """
    try:
        known = json.loads(store.read_bytes(RUN))
        resolved = store.read_bytes(RECIPE)
        prompts = PromptTable.load(store.read_bytes(PROMPT_TABLE))
    except FileNotFoundError as error:
        raise ValueError(f"{store.url}: was not made by `sixfold generate` ({error} is missing)") from None
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "recipe.yaml"
        file.write_bytes(resolved)
        recipe = read_recipe(file, [])
    here = identity(recipe) | {"class_list": known["identity"]["class_list"]}
    changed = differences(known["identity"], here)
    if changed:
        raise ValueError(f"{store.url}: cannot be made again here: {_listing(changed)}")
    worker = UnitWorker(unit_job(recipe, store.url, False, known), Sampler.load(recipe.sampler), prompts, store)
    return regenerate_some(worker, sorted(scan_records(store, known["fingerprint"])), num, seed)


def describe_output(store: Store) -> str:
    """How far the data set is, in a few lines. Raises ValueError if there are no shards."""
    found = scan(store)
    if not found.records and not found.problems:
        raise ValueError(f"{store.url}: found no shards, expected a data set made by `sixfold generate`")
    records = found.records.values()
    statuses: Counter[str] = Counter()
    for record in records:
        statuses.update(record.status_dict)
    rows = [("shards", f"{len(records):,} done, {len(found.problems):,} damaged"), ("images", f"{statuses[SUCCESS]:,}")]
    rejected = [f"{num:,} {status}" for status, num in sorted(statuses.items()) if status != SUCCESS]
    rows.append(("rejected", ", ".join(rejected) or "none"))
    rows.append(("short", f"{sum(record.short for record in records):,} samples without an image"))
    rows.append(("space", f"{sum(record.tar.bytes + record.parquet.bytes for record in records) / 1e6:,.1f} MB"))
    asked = asked_units(store)
    if asked is not None:
        missing = sum(unit not in found.records for unit in asked)
        rows.append(("last call", f"asked for {len(asked):,} shards, {missing:,} of them missing"))
    holder = Holder.from_json(store.read_bytes(LEASE)) if store.exists(LEASE) else None
    rows.append(("writer", "nobody now" if holder is None or holder.released else str(holder)))
    rows += [("damage", problem) for problem in list(found.problems.values())[:MAX_LISTED]]
    return "\n".join(f"{name:<10}{text}" for name, text in rows)


def _listing(lines: list[str]) -> str:
    more = f"; and {len(lines) - MAX_LISTED} more" if len(lines) > MAX_LISTED else ""
    return "; ".join(lines[:MAX_LISTED]) + more


def _json_bytes(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode("ascii")
