"""What a run keeps under `_meta/` of its output.

In: a store and what a run depends on. Out: the run's fingerprint. On disk:

    run.json          the identity (recipe without `cluster`, class list, model digest, versions) and its fingerprint
    recipe.yaml       the resolved recipe, which `sixfold generate` reads back
    meanings.jsonl    which sense of each class name is meant, and how sure the choice was
    prompts.parquet   every prompt of every class
    subsets/          `6x.parquet` and the like: exactly the samples of a scale
    summary.json      how the last call ended
"""

import contextlib
import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cluster.process.stop_flag import StopFlag
from cluster.recipes.folder import listing
from cluster.recipes.load import dump_recipe, fingerprint
from gen.make.plan import Plan
from gen.prompts.table import PROMPT_TABLE, PromptTable
from gen.prompts.write import MEANINGS, PROMPTS, Say, write_prompts
from gen.run.outcome import scale_name
from gen.run.recipe import Recipe, changes_of
from shards.disk.layout import META, SUCCESS
from shards.disk.object_store import ObjectStore
from shards.disk.record import JSON, Record
from shards.disk.safe_text import quoted
from shards.disk.store import FolderStore
from shards.labels.classes import Class
from shards.set.manifest import iter_tables, read_subset, scan_records, write_subset
from shards.set.status import SUMMARY

RUN = f"{META}/run.json"
RECIPE = f"{META}/recipe.yaml"
MAX_NAME = 60  # characters of a class name in one

Store = FolderStore | ObjectStore


def read_run(store: Store) -> dict[str, Any] | None:
    """What `run.json` says of the run that began here; None if none did."""
    try:
        known: dict[str, Any] = json.loads(store.read_bytes(RUN))
    except FileNotFoundError:
        return None
    return known


def open_output(
    store: Store,
    known: Mapping[str, Any] | None,
    recipe: Recipe,
    identified: dict[str, Any],
    classes: list[Class],
    code: str,
    say: Say,
    stop: StopFlag,
) -> tuple[str, Mapping[str, Any]]:
    """The run's fingerprint, and its identity as it began.

    Writes `run.json` and its company the first time, compares every later time.
    `known` is `read_run(store)`, `identified` `identity(recipe)`, `code` the code hash. Meanings are chosen and prompts
    drawn the first time only: `run.json`, written last, says that they are whole. Raises ValueError with the list of
    differences if the output was made by another recipe, other weights or other library versions; Draining on a stop.
    If nothing was made yet, the other recipe takes its place. A field that the version of sixfold behind the output did
    not know yet is no difference while it stands at its default.
    """
    listed = [[one.id, one.name, one.wordnet_id, one.count] for one in classes]
    identified = identified | {"class_list": fingerprint(listed)}
    if known is not None:
        changed = changes_of(known["identity"], identified)
        if changed and not scan_records(store):
            say(f"{store.url}: nothing was made there yet, so it begins anew with this recipe ({listing(changed)})")
            store.delete(RUN)
            known = None
        elif changed:
            words = [_class_change(store, classes) if line.startswith("class_list:") else line for line in changed]
            raise ValueError(
                f"{store.url}: was made by another recipe ({listing(words)}){version_note(known, code)}; use another "
                f"output folder, or the recipe in its {RECIPE}"
            )
    if known is not None:
        if hashlib.sha256(store.read_bytes(PROMPT_TABLE)).hexdigest() != known["prompts_sha256"]:
            raise ValueError(f"{store.url}/{PROMPT_TABLE}: is not the file this run began with; bring that file back")
        return str(known["fingerprint"]), known["identity"]
    with tempfile.TemporaryDirectory() as scratch:
        made = write_prompts(recipe, classes, Path(scratch), say, stop)
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
    return mark, identified


def write_scale(store: Store, plan: Plan, scale: Fraction, records: Mapping[int, Record]) -> None:
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


def write_summary(store: Store, summary: Mapping[str, Any]) -> None:
    """How a call ended; `shards.set.status` reads it."""
    store.replace(SUMMARY, _json_bytes(summary))


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


def version_note(known: Mapping[str, Any], code: str) -> str:
    """Says so if other code than `code` began the run."""
    if known["code"] == code:
        return ""
    return f", by another version of sixfold (code {known['code'][:12]}, here {code[:12]})"


def _json_bytes(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode("ascii")
