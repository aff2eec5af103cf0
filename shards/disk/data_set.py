"""What a place holds: a data set of ours, or something else; asked before it is read, repaired or written.

In: a store. Out: a word for what is there, or the error of a verb that cannot use it. On disk: reads listings and at
most one file; writes nothing.

A data set of ours has a record, a file that says which run began it, or a claim of an attempt. Empty folders prove
nothing: any refused or killed command may leave them.
"""

import contextlib
import os
import shlex
from itertools import islice
from pathlib import Path
from typing import Literal, TypeAlias

from shards.disk.checked_json import plain_json
from shards.disk.layout import RECORD, RUN, TAR, shard_of
from shards.disk.pictures import picture_format
from shards.disk.record import MAX_RECORD_BYTES
from shards.disk.store import (
    CLAIMS,
    HOW_TO_MAKE,
    FolderStore,
    ObjectStore,
    Store,
    local_root,
    open_for_reading,
    open_store,
)

Kind: TypeAlias = Literal["data set", "tars", "sweep", "training", "pictures", "other"]

# Files that a sweep and a training keep in their folders, by what they tell; the first that is there counts.
_MARKS: dict[str, Kind] = {
    "sweep.lock": "sweep",
    "sweep.yaml": "sweep",
    "run.lock": "training",
    "results.jsonl": "training",
}
_LOOK = 20  # folders, and files in each, that are looked at to tell what a place is


def is_data_set(store: Store) -> bool:
    """Whether a data set of ours is there. Damaged records count: they are ours to name. The statistics of img2dataset,
    which have the same name, do not."""
    names = store.list()
    for name in names:
        if shard_of(name, RECORD) is not None:
            return _may_be_record(store.read_range(name, 0, MAX_RECORD_BYTES))
    return store.exists(RUN) or any(name.endswith(".json") for name in store.list(f"{CLAIMS}/"))


def kind_of_place(store: Store) -> Kind:
    """What is there. "tars": shards that others wrote, or ours without their records. "other": nothing that we know,
    often nothing at all."""
    if is_data_set(store):
        return "data set"
    names = store.list()
    if any(name.endswith(TAR) or shard_of(name) is not None for name in names):
        return "tars"
    for mark, kind in _MARKS.items():
        if mark in names:
            return kind
    return "pictures" if isinstance(store, FolderStore) and _has_pictures(store.root) else "other"


def no_data_set(store: Store) -> ValueError:
    """The error of a verb that needs a data set of ours; it says what is there instead, and what to do."""
    kind = kind_of_place(store)
    if kind == "pictures":
        folder = shlex.quote(store.url)
        return ValueError(
            f"{store.url}: found a folder of pictures, expected a data set of shards; make one with "
            f"`sixfold export {folder} --to shards --out {folder}-shards`"
        )
    if kind == "tars":
        return ValueError(
            f"{store.url}: found tars or tables without a record of ours, so they were not made by sixfold or were "
            "copied without NNNNN_stats.json, expected a data set; copy all files of the set, or train on the tars as "
            "they are"
        )
    if kind in ("training", "sweep"):
        return ValueError(
            f"{store.url}: found the folder of a {kind}, expected a data set; the data it reads are named in its "
            f"{'recipe.yaml' if kind == 'training' else 'sweep.yaml'}, `sixfold report` shows its results"
        )
    return ValueError(f"{store.url}: found no shards, expected a data set; {HOW_TO_MAKE}")


def open_data_set(url: str) -> FolderStore | ObjectStore:
    """Open a data set of ours for reading; writes nothing. Raises ValueError that says what is there instead."""
    store = open_for_reading(url)
    if not is_data_set(store):
        raise no_data_set(store)
    return store


def open_to_write(url: str, single_writer: bool = False) -> FolderStore | ObjectStore:
    """Open a place where a data set may be begun or go on. Raises ValueError, and leaves the place as it was, if
    something else is there, or as `open_store` does."""
    root = local_root(url)
    if root is None or root.is_dir():
        _refuse(open_for_reading(url), {"data set", "other"}, "a new or empty folder, or a data set of sixfold")
    return open_store(url, single_writer)


def refuse_foreign_folder(folder: Path, owner: Literal["training", "sweep"] | None = None) -> None:
    """Raises ValueError if the folder holds what a verb that makes no shards must not write among; `owner`: what it may
    go on with."""
    if folder.is_dir():
        good: set[Kind] = {"other"} if owner is None else {"other", owner}
        expected = "a new or empty folder" + ("" if owner is None else f", or that of a {owner}")
        _refuse(FolderStore(folder, read_only=True), good, expected)


def _refuse(store: Store, good: set[Kind], expected: str) -> None:
    kind = kind_of_place(store)
    if kind in good:
        return
    found = {
        "tars": "tars or tables without a record of ours, which were not made by sixfold",
        "training": "the folder of a training",
        "sweep": "the folder of a sweep",
        "pictures": "a folder of pictures",
        "data set": "a data set of shards",
    }[kind]
    raise ValueError(f"{store.url}: found {found}, expected {expected}; give another place with --out")


def _may_be_record(data: bytes) -> bool:
    """False only for the statistics of another tool, which have no `schema`."""
    try:
        body = plain_json(data)
    except ValueError:
        return True
    return not isinstance(body, dict) or "schema" in body


def is_image_folder(store: Store) -> bool:
    """Whether pictures lie in, or anywhere below, one of the first sub-folders of a folder.

    To be asked of what shall be read; where something is to be written, only pictures directly in them count.
    """
    if not isinstance(store, FolderStore):
        return False
    folders = (path for path in store.root.iterdir() if path.is_dir() and path.name[0] not in "._")
    walks = (islice(os.walk(folder), _LOOK) for folder in islice(folders, _LOOK))
    return any(picture_format(file) for walk in walks for _, _, files in walk for file in files[:_LOOK])


def _has_pictures(root: Path) -> bool:
    """Whether one of the first sub-folders has a picture among its first files."""
    folders = (path for path in root.iterdir() if path.is_dir() and path.name[0] not in "._")
    for folder in islice(folders, _LOOK):
        with contextlib.suppress(OSError):  # lost+found
            if any(picture_format(file) for file in islice(folder.iterdir(), _LOOK)):
                return True
    return False
