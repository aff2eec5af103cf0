"""What a run keeps under `_meta/` of its output, where it is begun by tables of its own: candidates, sources, prompts.

In: a store, what the run depends on, a function that draws its tables. Out: the run's fingerprint. On disk:

    run.json       the identity, its fingerprint, and the hashes of the next ones
    recipe.yaml    the resolved recipe
    classes.json   id, name, WordNet id and count of each class
    ...            the tables, by the names that the caller gives them
    subsets/       `6x.parquet` and the like: exactly the samples of a scale
    summary.json   what the last call was asked for, and how it ended

A file that is gone or damaged is written again by the same recipe; hashes tell that it is the same.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from pydantic import BaseModel

from cluster.process.writers import sharers, told_writers
from cluster.recipes.folder import listing
from cluster.recipes.load import canonical_json, dump_recipe, fingerprint
from gen.make.scale import Store
from shards.disk.layout import META, RUN
from shards.set.commit import claimed
from shards.set.manifest import scan
from shards.set.origin import Origin, changed_files, origin_bytes, read_origin

RECIPE_NAME, CLASSES = "recipe.yaml", "classes.json"
Say = Callable[[str], None]
Differ = Callable[[Mapping[str, Any], Mapping[str, Any]], list[str]]
NOTHING: Mapping[str, Any] = {}
Rows = list[Any]  # id, name, WordNet id and count of each class


@dataclass(frozen=True)
class BegunBy:
    """A verb, and the names below `_meta/` of the tables that its fingerprint covers."""

    verb: str
    tables: tuple[str, ...]

    def hashes(self, drawn: Mapping[str, bytes]) -> dict[str, str]:
        """As `run.json` and the fingerprint have them, such as `candidates_sha256`."""
        return {_field(name): hashlib.sha256(drawn[name]).hexdigest() for name in self.tables}

    def fits(self, known: Origin) -> bool:
        """Whether this verb began the data set."""
        return known.body.keys() >= {"identity", "code", *map(_field, self.tables)}

    def known(self, store: Store) -> Origin | None:
        """The run that began here; None if none did. Raises ValueError if another verb began the data set."""
        known = read_origin(store)
        if known is not None and not self.fits(known):
            raise ValueError(
                f"{store.url}: found a data set that `sixfold {self.verb}` did not begin, expected one of its own; use "
                "another output folder"
            )
        return known


def open_output(
    store: Store,
    recipe: BaseModel,
    identified: Mapping[str, Any],
    classes: Rows,
    code: str,
    begun_by: BegunBy,
    draw: Callable[[], Mapping[str, bytes]],
    differ: Differ,
    say: Say,
    more: Mapping[str, Any] = NOTHING,
) -> str:
    """The run's fingerprint. Writes `run.json` and its company the first time, compares every later time, and writes
    again what is damaged. `draw` gives the bytes of the tables, and of others that only tell; it is called the first
    time, and if files are lost. `differ`: what `run.json` says and the identity now -> a line for each difference;
    `more`: what it needs besides, kept in `run.json`.

    Raises ValueError with the list of differences if the output was made by another recipe or from other data.
    """
    identified = {**identified, "class_list": fingerprint(classes)}
    known = begun_by.known(store)
    if known is not None and (changed := differ(known.body, identified)):
        if has_shards(store):
            raise ValueError(
                f"{store.url}: was made by another recipe or from other data ({listing(changed)}); use another output "
                f"folder, or the recipe in its {META}/{RECIPE_NAME}"
            )
        refuse_beside_sharers(store, changed)
        say(f"{store.url}: nothing was made there yet, so it begins anew with this recipe ({listing(changed)})")
        store.delete(RUN)
        known = None
    torn = {} if known is None else changed_files(store, known)
    if known is not None and not torn:
        return known.fingerprint
    tables = draw()
    hashes = begun_by.hashes(tables)
    mark = fingerprint({"identity": identified, **hashes})
    before = {record.fingerprint for record in scan(store).records.values()} | set(claimed(store).values())
    if before - {mark}:
        raise ValueError(
            f"{store.url}: found shards of run {min(before)[:12]}, and now other tables are drawn (run {mark[:12]}); "
            f"bring {', '.join(torn) or RUN} back, or use another output folder"
        )
    heading = f"# the resolved recipe of run {mark[:12]}; versions and hashes are in run.json\n"
    files = {
        RECIPE_NAME: (heading + dump_recipe(recipe)).encode(),
        CLASSES: canonical_json(classes) + b"\n",
        **tables,
    }
    for name, data in files.items():
        store.replace(f"{META}/{name}", data)
    about = origin_bytes(mark, files, {"identity": identified, **hashes, "code": code, **more})
    if known is not None:
        say(f"{store.url}/{META}: found damaged or missing files; written again: {', '.join(torn)}")
        store.replace(RUN, about)
    elif not store.write_exclusive(RUN, about):
        raise ValueError(f"{store.url}: another run began here at this moment; run the same command again")
    return mark


def has_shards(store: Store) -> bool:
    """Whether any shard was made there, whole or damaged, or claimed by an attempt that a kill left unfinished; until
    then another recipe may take the output."""
    found = scan(store)
    return bool(found.records or found.problems or claimed(store))


def is_under_way(store: Store) -> bool:
    """Whether a run has made something there, or shares the output now: what `auto` meant to it holds for the next."""
    return has_shards(store) or bool(sharers(store))


def refuse_beside_sharers(store: Store, changed: Sequence[str]) -> None:
    """Raises ValueError if runs share the output now, which another recipe must not begin anew; `changed`: a line for
    each difference."""
    if writers := told_writers(sharers(store)):
        raise ValueError(
            f"{store.url}: another recipe ({listing(changed)}) began there, and its runs work on the first shards "
            f"({writers}); wait for them, or use another output folder"
        )


def _field(name: str) -> str:
    return f"{PurePosixPath(name).stem}_sha256"
