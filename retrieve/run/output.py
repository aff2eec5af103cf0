"""What a retrieved data set keeps under `_meta/`.

In: a store and what a run depends on. Out: the run's fingerprint. On disk:

    run.json            the identity (recipe without `cluster`, class list, digest of the pool), its fingerprint, and
                        the hashes of the next four
    recipe.yaml         the resolved recipe
    classes.json        id, name, WordNet id and count of each class
    candidates.parquet  the rows of the pool that may become images, for each class in their order
    search.json         how many rows each step of the search found and left out, and why; the way vectors were searched
    subsets/            `6x.parquet` and the like: exactly the samples of a scale
    summary.json        what the last call was asked for, and how it ended

A file that is gone or damaged is written again by the same recipe; hashes tell that it is the same.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cluster.recipes.folder import changes, listing
from cluster.recipes.load import canonical_json, dump_recipe, fingerprint
from gen.make.scale import Store
from retrieve.make.candidates import CANDIDATES
from retrieve.run.recipe import RetrieveRecipe
from shards.disk.layout import META, RUN
from shards.labels.classes import Class
from shards.set.manifest import scan
from shards.set.origin import Origin, changed_files, origin_bytes, read_origin

RECIPE_NAME, CLASSES, SEARCH = "recipe.yaml", "classes.json", "search.json"
CANDIDATES_NAME = CANDIDATES.removeprefix(f"{META}/")
Say = Callable[[str], None]
Search = Callable[[], tuple[bytes, Mapping[str, Any]]]  # candidates.parquet, and the counts of the search


def begun_by(store: Store) -> Origin | None:
    """The run that began here; None if none did. Raises ValueError if something else began the data set."""
    known = read_origin(store)
    if known is not None and not known.body.keys() >= {"identity", "code", "candidates_sha256"}:
        raise ValueError(
            f"{store.url}: found a data set that `sixfold retrieve` did not begin, expected one of its own; use "
            "another output folder"
        )
    return known


def open_output(
    store: Store,
    recipe: RetrieveRecipe,
    identified: Mapping[str, Any],
    classes: Sequence[Class],
    code: str,
    search: Search,
    say: Say,
) -> str:
    """The run's fingerprint. Writes `run.json` and its company the first time, compares every later time, and writes
    again what is damaged. `search` is called the first time, and if its files are lost.

    Raises ValueError with the list of differences if the output was made by another recipe or from another pool.
    """
    listed = [[one.id, one.name, one.wordnet_id, one.count] for one in classes]
    identified = {**identified, "class_list": fingerprint(listed)}
    known = begun_by(store)
    if known is not None and (changed := changes(known.body["identity"], identified, RetrieveRecipe)):
        if scan(store).records:
            raise ValueError(
                f"{store.url}: was made by another recipe or from another pool ({listing(changed)}); use another "
                f"output folder, or the recipe in its {META}/{RECIPE_NAME}"
            )
        say(f"{store.url}: nothing was made there yet, so it begins anew with this recipe ({listing(changed)})")
        store.delete(RUN)
        known = None

    def company(mark: str, found: bytes, counts: Mapping[str, Any]) -> dict[str, bytes]:
        heading = f"# the resolved recipe of run {mark[:12]}; versions and hashes are in run.json\n"
        return {
            RECIPE_NAME: (heading + dump_recipe(recipe)).encode(),
            CLASSES: canonical_json(listed) + b"\n",
            CANDIDATES_NAME: found,
            SEARCH: canonical_json(dict(counts)) + b"\n",
        }

    torn = {} if known is None else changed_files(store, known)
    if known is not None and not torn:
        return known.fingerprint
    found, counts = search()
    sha256 = hashlib.sha256(found).hexdigest()
    mark = fingerprint({"identity": dict(identified), "candidates_sha256": sha256})
    before = {record.fingerprint for record in scan(store).records.values()}
    if before - {mark}:
        raise ValueError(
            f"{store.url}: found shards of run {min(before)[:12]}, and this search finds other candidates (run "
            f"{mark[:12]}); bring {', '.join(torn) or RUN} back, or use another output folder"
        )
    files = company(mark, found, counts)
    for name, data in files.items():
        store.replace(f"{META}/{name}", data)
    about = origin_bytes(mark, files, {"identity": dict(identified), "candidates_sha256": sha256, "code": code})
    if known is not None:
        say(f"{store.url}/{META}: found damaged or missing files; written again: {', '.join(torn)}")
        store.replace(RUN, about)
    elif not store.write_exclusive(RUN, about):
        raise ValueError(f"{store.url}: another run began here at this moment; run the same command again")
    return mark
