"""The real images that a first recipe is for, where no class list can be read from their folder: `sixfold init`.

In: a set of Hugging Face whose labels have names, or a class list and a folder of pictures, tars or such a set. Out:
class entries with the number of their pictures; the text of a list of them (`id,name,...,count`, as `classes.csv` of
`shards.labels.sources`). On disk: nothing of ours, but the index of tars, which a training reads again.
"""

import csv
import io
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from shards.disk.address import file_path, is_remote
from shards.disk.data_set import is_data_set, is_image_folder, kind_of_place
from shards.disk.safe_text import quoted
from shards.disk.store import FolderStore, open_for_reading
from shards.labels.classes import Class, ClassSpec, load_classes
from shards.labels.folders import Entry, Named
from shards.labels.sources import COLUMNS, SHIPPED
from shards.set.status import refuse_unfinished
from shards.stream.hugging_face import hugging_face_classes, hugging_face_files
from shards.stream.index import load_index


def labelled(source: str) -> list[Entry] | None:
    """The classes of a set of Hugging Face that have pictures, with their number; None for another source.

    Raises ValueError for tars and for a set whose labels are numbers alone: it says which list is wanted.
    """
    if source in SHIPPED or is_remote(source) or not file_path(source).is_dir():
        return None
    store = open_for_reading(str(file_path(source)))
    if is_data_set(store) or is_image_folder(store) or not isinstance(store, FolderStore):
        return None
    is_tars = kind_of_place(store) == "tars"
    try:
        files = None if is_tars else hugging_face_files(store, None)
    except ValueError as error:
        raise ValueError(f"{error}; here give the folder of one split, as `save_to_disk` writes it") from None
    if files is None and not is_tars:
        return None
    named = None if files is None else hugging_face_classes(files)
    if named is None:
        raise ValueError(
            f"{source}: found {'tars' if is_tars else 'a data set'} with labels that are numbers, expected names of "
            "classes; write a list `id,name` in the order of the labels and give that: sixfold init classes.csv "
            f"--real {shlex.quote(source)}"
        )
    counts = real_counts(source, named)
    return [Entry(one.id, one.name, one.wordnet_id, counts[one.id]) for one in named if one.id in counts]


def real_counts(real: str, classes: Sequence[Named]) -> dict[int, int]:
    """Class id -> pictures in `real`, whose class folders and labels have the ids of `classes`. Raises ValueError as
    `load_index` does, for a data set that is not finished, and for an id that no class has."""
    refuse_unfinished(real, "--real", "give --per-class")
    labels, counts = np.unique(load_index(real, class_list=lambda _: classes).label, return_counts=True)
    found = dict(zip(labels.tolist(), counts.tolist(), strict=True))
    known = {one.id for one in classes}
    if others := sorted(found.keys() - known):
        raise ValueError(
            f"{real}: found pictures of class {others[0]}, expected the ids of the list, {min(known)} to {max(known)}; "
            "add the class to the list"
        )
    return found


def counted_entries(entries: Sequence[Entry], counts: Mapping[int, int], real: str) -> list[Entry]:
    """The entries with these counts. Raises ValueError if a class has none."""
    missing = [one.name for one in entries if one.id not in counts]
    if missing:
        raise ValueError(
            f"{real}: found no picture of {quoted(missing[0], 60)} ({len(missing):,} of {len(entries):,} classes of "
            "the list), expected some of each; take them out of the list, or give --per-class"
        )
    return [replace(one, count=counts[one.id]) for one in entries]


def list_text(entries: Sequence[Entry]) -> str:
    """A class list as CSV, with the columns that an entry has."""
    columns = [name for name in COLUMNS if any(getattr(one, name) is not None for one in entries)]
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(columns)
    rows.writerows([["" if (cell := getattr(one, name)) is None else cell for name in columns] for one in entries])
    return text.getvalue()


def classes_of(text: str, per_class: int | None) -> list[Class]:
    """The classes of a list that is not written yet. Raises ValueError as `load_classes` does."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "classes.csv"
        path.write_text(text, encoding="utf-8")
        return load_classes(ClassSpec(source=str(path), per_class=per_class))
