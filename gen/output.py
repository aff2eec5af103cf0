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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.code import code_hash
from cluster.process.lease import LEASE, Holder
from cluster.process.stop_flag import StopFlag
from cluster.recipes.load import differences, dump_recipe, fingerprint, with_defaults
from cluster.recipes.mistake import RecipeError
from gen.make.regenerate import Comparison, regenerate_some
from gen.make.unit import UnitJob, UnitWorker
from gen.prompts.prompts import PromptTable
from gen.prompts.write import MEANINGS, PROMPTS, Say, diversify
from gen.recipe import Recipe, identity, read_recipe
from gen.sampler.sampler import Sampler
from shards.disk.amounts import counted, size_text
from shards.disk.data_set import no_shards
from shards.disk.home import home
from shards.disk.layout import META, SUCCESS, shard_name
from shards.disk.safe_text import quoted
from shards.disk.store import FolderStore, ObjectStore
from shards.labels.classes import Class, load_classes
from shards.set.manifest import scan, scan_records

RUN = f"{META}/run.json"
RECIPE = f"{META}/recipe.yaml"
PROMPT_TABLE = f"{META}/{PROMPTS}"
SUMMARY = f"{META}/summary.json"
MAX_LISTED = 20  # differences, damages and the like in one message
MAX_NAME = 60  # characters of a class name in one

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
    output was made by another recipe, other weights or other library versions; Draining on a stop. A field that the
    version of sixfold behind the output did not know yet is no difference while it stands at its default.
    """
    listed = [[one.id, one.name, one.wordnet_id, one.count] for one in classes]
    identified = identified | {"class_list": fingerprint(listed)}
    try:
        known = json.loads(store.read_bytes(RUN))
    except FileNotFoundError:
        known = None
    if known is not None:
        changed = differences(with_defaults(known["identity"], identified, Recipe), identified)
        if changed:
            words = [_class_change(store, classes) if line.startswith("class_list:") else line for line in changed]
            raise ValueError(
                f"{store.url}: was made by another recipe ({_listing(words)}){_version_note(known, code)}; use another "
                f"output folder, or the recipe in its {RECIPE}"
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


def unit_job(
    recipe: Recipe, classes: Sequence[Class], url: str, single_writer: bool, about: Mapping[str, Any]
) -> UnitJob:
    """What workers are given. `about` has `fingerprint`, `code` and `identity`, as `run.json` does."""
    return UnitJob(
        out=url,
        single_writer=single_writer,
        fingerprint=about["fingerprint"],
        prompts=PROMPT_TABLE,
        num_per_class={one.id: one.count for one in classes},
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
        try:
            recipe = read_recipe(file, [])
        except RecipeError as error:
            problem = str(error).replace(str(file), RECIPE)
            raise ValueError(
                f"{store.url}: {problem}{_version_note(known, code_hash(home()))}; use that version"
            ) from None
    here = identity(recipe) | {"class_list": known["identity"]["class_list"]}
    changed = differences(with_defaults(known["identity"], here, Recipe), here)
    if changed:
        raise ValueError(
            f"{store.url}: cannot be made again here: found other settings, models or versions ({_listing(changed)})"
            f"{_version_note(known, code_hash(home()))}; make them as they were"
        )
    job = unit_job(recipe, load_classes(recipe.classes), store.url, False, known)
    worker = UnitWorker(job, Sampler.load(recipe.sampler), prompts, store)
    return regenerate_some(worker, sorted(scan_records(store, known["fingerprint"])), num, seed)


@dataclass(frozen=True)
class OutputState:
    """How far a data set is."""

    text: str  # a few lines
    is_whole: bool  # no shard is known to be damaged or short, and none of the last call is missing


def describe_output(store: Store) -> OutputState:
    """How far the data set is; sizes are compared, bytes are not. Raises ValueError if there are no shards."""
    found = scan(store)
    if not found.records and not found.problems:
        raise no_shards(store)
    records = found.records.values()
    statuses: Counter[str] = Counter()
    for record in records:
        statuses.update(record.status_dict)
    short = sum(record.short for record in records)
    damaged = sorted(found.problems)
    asked = asked_units(store)
    missing = [unit for unit in asked or () if unit not in found.records and unit not in found.problems]
    rejected = [f"{num:,} {status}" for status, num in sorted(statuses.items()) if status != SUCCESS]
    space = sum(record.tar.bytes + record.parquet.bytes for record in records)
    rows = [
        ("shards", f"{len(records):,} done, {len(damaged):,} damaged{_names(damaged)}"),
        ("images", f"{statuses[SUCCESS]:,}"),
        ("rejected", ", ".join(rejected) or "none"),
        ("short", f"{counted(short, 'sample')} without an image"),
        ("space", size_text(space)),
    ]
    if asked is not None:
        text = f"asked for {counted(len(asked), 'shard')}, {len(missing):,} of them missing{_names(missing)}"
        rows.append(("last call", text))
    holder = Holder.from_json(store.read_bytes(LEASE)) if store.exists(LEASE) else None
    is_free = holder is None or holder.released
    rows.append(("writer", "nobody now" if is_free else str(holder)))
    rows += [("damage", found.problems[shard]) for shard in damaged[:MAX_LISTED]]
    if is_free and (damaged or missing):
        rows.append(("to do", "run the same `sixfold generate` again: it makes exactly these"))
    lines = [f"{name:<10}{text}" for name, text in rows]
    return OutputState("\n".join(lines), is_whole=not damaged and not missing and not short)


def _names(shards: Sequence[int]) -> str:
    more = f" and {len(shards) - MAX_LISTED} more" if len(shards) > MAX_LISTED else ""
    return f": {', '.join(shard_name(shard) for shard in shards[:MAX_LISTED])}{more}" if shards else ""


def _class_change(store: Store, classes: Sequence[Class]) -> str:
    """In what the class list is not the one that this output began with."""
    table = PromptTable.load(store.read_bytes(PROMPT_TABLE))
    before, now = table.num_per_class().keys(), {one.id for one in classes}
    if before != now:
        odd = min(before ^ now)
        return f"classes: {len(before)} before, {len(now)} now, id {odd} is {'gone' if odd in before else 'new'}"
    for one in classes:
        name = table.prompt(one.id, 0).class_name
        if name != one.name:
            return f"classes: id {one.id} was {quoted(name, MAX_NAME)} before, {quoted(one.name, MAX_NAME)} now"
    return "classes: the same names with other counts or WordNet ids"


def _version_note(known: Mapping[str, Any], code: str) -> str:
    """Says so if other code than `code` began the run."""
    if known["code"] == code:
        return ""
    return f", by another version of sixfold (code {known['code'][:12]}, here {code[:12]})"


def _listing(lines: list[str]) -> str:
    more = f"; and {len(lines) - MAX_LISTED} more" if len(lines) > MAX_LISTED else ""
    return "; ".join(lines[:MAX_LISTED]) + more


def _json_bytes(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode("ascii")
