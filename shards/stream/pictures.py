"""Image folders as an index: a sub-folder for each class, its pictures read in place.

In: a folder of this machine, and classes if a list says which ids its sub-folders have. Out: an `Index`, whose tars are
no files: `pictures-00000` stands for the first thousand pictures, as many as an import puts into a shard. Pictures are
mixed over the classes as an import mixes them, or stand in the order of the keys in `metadata.parquet`, and have the
ids that an import gives them: those in `metadata.parquet`, else a hash of the name. On disk: nothing is written.

So a training on a folder of plain JPEGs and one on its shards see the same bits. They do not where an import encodes
pictures anew (PNG and other formats, CMYK, pictures that are turned or have bytes behind the end, generated ones that
do not say so), nor behind a picture that cannot be read: it has a place among the thousand of a shard, but not here.

What an import would give a row with a reason (links that lead nowhere, what is no file, other picture formats, empty
files) is no sample here, and is counted in `Index.left_out`. Files that are no pictures are passed over.
"""

import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from shards.disk.data_set import no_data_set
from shards.disk.pictures import MAX_PICTURE_BYTES, is_picture, picture_format
from shards.disk.store import FolderStore
from shards.labels.folders import Named, class_folders_in, classes_of_folders, files_below
from shards.labels.metadata import facts_beside, names_beside, refuse_twins
from shards.stream.foreign_tars import short_id
from shards.stream.index_arrays import Index, make_index

PER_SHARD = 1_000


class _Picture(NamedTuple):
    """One picture of a folder; they are ordered as an import orders them, by key, then by the hash of the name."""

    key: str  # in the metadata; "" without
    digest: str  # of the name
    name: str  # below the folder
    uid: str
    size: int  # bytes
    label: int


def picture_classes(store: FolderStore) -> list[Named]:
    """The classes that an image folder has by itself. Raises ValueError if they cannot be told."""
    return list(_classes(store, None).values())


def index_pictures(store: FolderStore, classes: Sequence[Named] | None) -> Index:
    """The pictures of a folder. Raises ValueError for a folder without any, and for a sub-folder whose class cannot be
    told or is not in `classes`, and for metadata that cannot be used."""
    known = _classes(store, classes)
    told = facts_beside(store.root, ("key", "uid"))
    found: list[_Picture] = []
    left_out, beginning = 0, len(str(store.root / "x")) - 1
    for folder, one in known.items():
        for path, size in _pictures_below(store.root / folder):
            if not size:
                left_out += 1
                continue
            name = path[beginning:]
            facts = told.get(name, {})
            digest = hashlib.sha256(os.fsencode(name)).hexdigest()
            uid = facts.get("uid") or digest[:32]
            found.append(_Picture(facts.get("key", ""), digest, name, uid, size, one.id))
    if not found:
        raise ValueError(
            f"{store.url}: found no picture in {len(known)} class folders, expected some; look for other formats"
        )
    found.sort()
    if told:
        refuse_twins(((one.name, one.uid) for one in found), store.root)
    starts = [*range(0, len(found), PER_SHARD), len(found)]
    sizes = np.array([one.size for one in found], np.int64)
    shards = len(starts) - 1
    return make_index(
        store.url,
        [f"pictures-{number:05d}" for number in range(shards)],
        [""] * shards,
        {
            "first": np.array(starts, np.int64),
            "tar_bytes": np.add.reduceat(sizes, starts[:-1]),
            "left_out": np.array([left_out] + [0] * (shards - 1), np.int64),
            "offset": np.zeros(len(found), np.int64),
            "size": sizes,
            "label": np.array([one.label for one in found], np.int32),
            "uid": np.array([short_id(one.uid) for one in found], np.uint64),
            "picture_hash": np.zeros(len(found), np.uint64),
        },
        root=str(store.root),
        files=[one.name for one in found],
        class_names={one.id: one.name for one in known.values()},
    )


def _classes(store: FolderStore, classes: Sequence[Named] | None) -> dict[str, Named]:
    folders = class_folders_in(store.root)
    if not folders:
        raise no_data_set(store)
    return dict(classes_of_folders(folders, classes, names_beside(store.root), store.url))


def _pictures_below(folder: Path) -> Iterator[tuple[str, int]]:
    """The path of each picture with its bytes; 0 for one that cannot be read."""
    for file in files_below(folder):
        path = str(file)  # a text is quicker to look at than a Path
        is_read = picture_format(path) is not None
        if not is_read and not is_picture(path):
            continue
        try:
            about = os.stat(path)
        except OSError:
            yield path, 0
            continue
        is_read = is_read and stat.S_ISREG(about.st_mode) and about.st_size <= MAX_PICTURE_BYTES
        yield path, about.st_size if is_read else 0
