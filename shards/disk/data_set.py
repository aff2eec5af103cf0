"""Whether a store holds a data set of ours; asked before it is read, repaired or written.

In: a store. Out: yes or no, or the error for a place without one. On disk: reads a listing and at most one file.
"""

import contextlib
import json
import shlex
from itertools import islice
from pathlib import Path

from shards.disk.layout import RECORD, shard_of
from shards.disk.pictures import picture_format
from shards.disk.record import MAX_RECORD_BYTES
from shards.disk.store import CLAIMS, HOW_TO_MAKE, FolderStore, Store

_LOOK = 20  # folders, and files in each, that are looked at to tell what a place is


def is_data_set(store: Store) -> bool:
    """Whether a record of ours lies there, or the place where our writers announce one.

    Damaged records count: they are ours to name. The statistics of img2dataset, which have the same name, do not.
    """
    if isinstance(store, FolderStore) and store.path(CLAIMS).is_dir():
        return True
    for name in store.list():
        if shard_of(name, RECORD) is not None:
            return _may_be_record(store.read_range(name, 0, MAX_RECORD_BYTES))
    return bool(store.list(f"{CLAIMS}/"))


def no_shards(store: Store) -> ValueError:
    """The error for a place without shards; it says how to make shards of what is there."""
    if isinstance(store, FolderStore) and _has_pictures(store.root):
        folder = shlex.quote(store.url)
        return ValueError(
            f"{store.url}: found a folder of pictures, expected a data set of shards; make one with "
            f"`sixfold export {folder} --to shards --out {folder}-shards`"
        )
    return ValueError(f"{store.url}: found no shards, expected a data set; {HOW_TO_MAKE}")


def _may_be_record(data: bytes) -> bool:
    """False only for the statistics of another tool, which have no `schema`."""
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        return True
    return not isinstance(body, dict) or "schema" in body


def _has_pictures(root: Path) -> bool:
    """Whether one of the first sub-folders has a picture among its first files."""
    folders = (path for path in root.iterdir() if path.is_dir() and path.name[0] not in "._")
    for folder in islice(folders, _LOOK):
        with contextlib.suppress(OSError):  # lost+found
            if any(picture_format(file) for file in islice(folder.iterdir(), _LOOK)):
                return True
    return False
