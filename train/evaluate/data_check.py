"""Checks the data of a training before its first step: no sample both trains and tests, an id is the same class
everywhere.

In: the data sets of a recipe, as `Opened`s. Out: lines that say what could not be compared; a ValueError for data that
must not be trained on. On disk: only the indexes that `shards.stream.index` saves.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from shards.disk.address import local_root
from shards.disk.amounts import counted, size_text
from shards.disk.checked_json import plain_json
from shards.disk.layout import META, TAR, shard_of
from shards.disk.record import Record, RecordError, read_record
from shards.disk.safe_text import clip, quoted
from shards.disk.store import Store, open_for_reading
from shards.labels.folders import fold_name
from shards.labels.imagenet import is_wordnet_id
from shards.set.manifest import read_table
from shards.set.status import refuse_unfinished
from shards.stream.index import ClassList, load_index, own_classes
from shards.stream.index_arrays import Index
from shards.stream.spec import DomainSpec

CLASSES = f"{META}/classes.json"  # of a data set that `sixfold generate` made: rows that begin with id and name
_NUMBER = re.compile(r"[0-9]+")


@dataclass(frozen=True, eq=False)
class Opened:
    """A data set of a recipe."""

    field: str  # where the recipe names it: data.domains.real, evaluate.tests.v2
    source: str
    index: Index
    has_own_ids: bool = False  # a label map says which outputs they mean

    @property
    def place(self) -> str:
        return f"{self.field} ({clip(self.index.url, 120)})"


def open_domains(
    domains: Sequence[DomainSpec], cache: Path | None, class_list: ClassList = own_classes
) -> list[Opened]:
    """The data that are trained on. Raises ValueError for a domain that shall grow and is not made of our shards, and
    for one that shall not grow and is not finished."""
    found = []
    for domain in domains:
        if not domain.grow and domain.subset is None:
            refuse_unfinished(domain.source, f"data.domains.{domain.name}")
        index = load_index(domain.source, domain.subset, cache, class_list)
        one = Opened(f"data.domains.{domain.name}", domain.source, index)
        if domain.grow and one.index.tars and _first_record(one) is None:
            raise ValueError(
                f"{one.place}: found grow: true for what others wrote, expected shards of ours, whose records say "
                "that they are whole; set grow to false, and start when all are there"
            )
        found.append(one)
    return found


def _first_record(one: Opened) -> Record | None:
    """The record of the set's first tar; None for tars that others wrote."""
    shard = shard_of(one.index.tars[0], TAR) if one.index.tars else None
    if shard is None:
        return None
    try:
        return read_record(open_for_reading(one.source), shard)
    except RecordError:  # the statistics of another tool: a damaged record of ours would have given no index
        return None


def what_is_read(sets: Sequence[Opened]) -> list[str]:
    """Lines about pictures that are left out, and about files that were unpacked."""
    said = []
    for one in sets:
        left_out = int(one.index.left_out.sum())
        if one.index.files and left_out:
            said.append(f"{one.place}: {counted(left_out, 'picture')} left out: links, empty files, other formats")
        source = local_root(one.source)
        if one.index.root and source is not None and not Path(one.index.root).is_relative_to(source):
            size = size_text(int(one.index.tar_bytes.sum()))
            said.append(f"{one.place}: parquet is read from its unpacked copy, {size} in {one.index.root}")
    return said


# classes


def check_outputs(domains: Sequence[Opened], num_classes: int) -> list[str]:
    """A line about outputs that no class has. Raises ValueError for a class that has no output."""
    highest = [(int(one.index.label.max()), one.field) for one in domains if len(one.index)]
    for class_id, field in highest:
        refuse_few_outputs(num_classes, class_id, field)
    note = extra_outputs(num_classes, max(highest)[0]) if highest else None
    return [] if note is None else [note]


def refuse_few_outputs(num_classes: int, class_id: int, field: str) -> None:
    """Raises ValueError for a model without an output for `class_id`, which the data set in `field` has."""
    if class_id >= num_classes:
        raise ValueError(
            f"model.num_classes: found {num_classes}, expected at least {class_id + 1}, for {field} has the class id "
            f"{class_id}; set model.num_classes={class_id + 1}"
        )


def extra_outputs(num_classes: int, class_id: int) -> str | None:
    """A line about a model with more outputs than the data have classes, whose highest id is `class_id`."""
    extra = num_classes - class_id - 1
    if extra <= 0:
        return None
    return (
        f"model.num_classes: found {num_classes}, and the data has class ids up to {class_id}; "
        f"{counted(extra, 'output')} will have no picture: set model.num_classes={class_id + 1} unless you mean that"
    )


# samples


def refuse_shared(one: Opened, other: Opened, why: str) -> None:
    """Raises ValueError if the two data sets have a sample in common; `why` says why they must not."""
    num = num_shared(one.index, other.index)
    if num:
        raise ValueError(
            f"{one.place}: found {num} samples that are also in {other.place}, expected none, because {why}; give "
            "other pictures, or leave these out by a subset"
        )


def num_shared(one: Index, other: Index) -> int:
    """How many samples are in both: in tars with equal bytes, or in the same tars if no hash is known.

    Equal ids alone do not count across data sets, because an import makes them of file names. Tars of one name are the
    same in one folder only: splits of one address have folders of their own.
    """
    if one.digest == other.digest:
        return len(one)
    hashes = set(one.tar_sha256) & set(other.tar_sha256) - {""}
    names = set(one.tars) & set(other.tars) if (one.root or one.url) == (other.root or other.url) else set()
    if not hashes and not names:
        return 0
    return len(np.intersect1d(_uids(one, hashes, names), _uids(other, hashes, names)))


def _uids(index: Index, hashes: set[str], names: set[str]) -> npt.NDArray[np.uint64]:
    """Of the samples in the tars with one of these hashes or names."""
    parts = [
        index.uid[int(index.first[number]) : int(index.first[number + 1])]
        for number, (sha256, name) in enumerate(zip(index.tar_sha256, index.tars, strict=True))
        if sha256 in hashes or name in names
    ]
    return np.concatenate([np.empty(0, np.uint64), *parts])


# names


@dataclass(frozen=True)
class _Names:
    """What a data set calls its classes."""

    one: Opened
    names: dict[int, set[str]]  # id -> names as they stand there

    @property
    def ids(self) -> dict[str, set[int]]:
        """Folded name -> ids: ImageNet has two cranes."""
        found: dict[str, set[int]] = {}
        for class_id, names in self.names.items():
            for name in names:
                word = name.lstrip("0") or "0" if _NUMBER.fullmatch(name) else fold_name(name)
                found.setdefault(word, set()).add(class_id)
        return found


def check_names(sets: Sequence[Opened]) -> list[str]:
    """Lines about sets whose names could not be compared.

    Raises ValueError if an id has two names, or a name two ids that no data set has side by side. Words are compared
    with words and WordNet ids with WordNet ids. A name that is the class's own number says nothing of other names, but
    it does say that no other class has that number for a name.
    """
    said = [f"{one.place}: has a label map, its class names were not compared" for one in sets if one.has_own_ids]
    found: list[_Names] = []
    for one in sets:
        if one.has_own_ids:
            continue
        names = read_names(one)
        if names is None:
            said.append(f"{one.place}: what others wrote holds no class names here, so its ids were not compared")
            labels = np.unique(one.index.label)
            if len(labels) > 1 and labels[0] == 1 and labels[-1] == len(labels):
                said.append(
                    f"{one.place}: found the labels 1 to {len(labels)} and no 0; if they count from 1, every label is "
                    "one too high: write the tars again with labels from 0, or give a label map (labels)"
                )
            continue
        num = len(np.unique(one.index.label))
        if len(names) < num:
            said.append(f"{one.place}: the names of {len(names)} of {num} classes were compared")
        found.append(_Names(one, names))
    for is_wordnet in (False, True):
        _compare([_Names(one.one, dict(_of_kind(one.names, is_wordnet))) for one in found])
    kinds = [{is_wordnet_id(name) for names in one.names.values() for name in names} for one in found]
    if {False} in kinds and {True} in kinds:
        first = found[kinds.index({True})].one
        said.append(f"{first.place}: calls classes by WordNet ids, which were not compared with the others' names")
    return said


def _of_kind(names: dict[int, set[str]], is_wordnet: bool) -> Iterable[tuple[int, set[str]]]:
    for class_id, all_names in names.items():
        kept = {name for name in all_names if is_wordnet_id(name) == is_wordnet}
        if kept:
            yield class_id, kept


def _compare(sets: Sequence[_Names]) -> None:
    side_by_side: dict[str, set[int]] = {}
    for one in sets:
        for name, ids in one.ids.items():
            if len(ids) > 1:
                side_by_side.setdefault(name, set()).update(ids)
    name_of: dict[int, tuple[str, Opened]] = {}
    ids_of: dict[str, tuple[set[int], Opened]] = {}
    advice = (
        "give class folders and labels the ids of the other (data.classes), make shards anew with them (`sixfold "
        "export --to shards --classes`), or set data.check_names: false if you know that they mean the same"
    )
    for one in sets:
        for class_id, names in sorted(one.names.items()):
            for name in sorted(names):
                if name.lstrip("0") == str(class_id).lstrip("0"):
                    continue
                before, where = name_of.setdefault(class_id, (name, one.one))
                if fold_name(name) != fold_name(before):
                    raise ValueError(
                        f"{one.one.place}: found class {class_id} under the name {quoted(name, 60)}, and "
                        f"{quoted(before, 60)} in {where.place}, expected one name for an id; {advice}"
                    )
        for folded, ids in sorted(one.ids.items()):
            known, where = ids_of.setdefault(folded, (ids, one.one))
            if not known & ids and not known | ids <= side_by_side.get(folded, set()):
                raise ValueError(
                    f"{one.one.place}: found the class {quoted(folded, 60)} under the id {min(ids)}, and under "
                    f"{min(known)} in {where.place}, expected one id for a name; {advice}"
                )
            ids_of[folded] = (known | ids, where)


def read_names(one: Opened) -> dict[int, set[str]] | None:
    """Class id -> names as they stand in a data set of ours, in class folders or labels; None where there are none.

    The list of classes of a data set tells them, if it has one. Of classes that it does not name, a table is read for
    each that no table before has shown: where classes are mixed over shards, one or two show all. A class whose rows
    have no name is left out.
    """
    index = one.index
    if index.class_names is not None:
        return {number: {name} for number, name in index.class_names.items()}
    if not index.tars:
        return {}
    if _first_record(one) is None:
        return None
    store = open_for_reading(one.source)
    labels, rows = np.unique(index.label, return_index=True)
    listed = listed_classes(store)
    found = {label: {listed[label]} for label in labels.tolist() if label in listed}
    for label, row in zip(labels.tolist(), rows.tolist(), strict=True):
        if label in found:
            continue
        tar = index.tars[int(index.tar_of(np.array([row], np.int64))[0])]
        table = read_table(store, [int(tar[:5])], ["class_id", "class_name"])
        for pair in table.group_by(["class_id", "class_name"]).aggregate([]).to_pylist():
            if pair["class_name"]:
                found.setdefault(pair["class_id"], set()).add(pair["class_name"])
    return found


def listed_classes(store: Store) -> dict[int, str]:
    """Class id -> name, of the list of classes of a data set of ours; {} without one. Raises ValueError for a file that
    is no JSON."""
    if not store.exists(CLASSES):
        return {}
    told = plain_json(store.read_bytes(CLASSES))
    rows = [row for row in told if isinstance(row, list) and len(row) > 1] if isinstance(told, list) else []
    return {row[0]: row[1] for row in rows if isinstance(row[0], int) and isinstance(row[1], str) and row[1]}
