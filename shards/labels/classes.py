"""Classes: the labels that a data set is made for, each with its number of real images.

In: a `ClassSpec`, whose source is a shipped name, a file, an ImageFolder or a data set of ours. Out: a list of `Class`,
ids ascending. The id is the label written into shards, and never changes. Two classes may share a name (ImageNet has
two "missile" and two "sunglasses"), never an id. On disk: nothing; shards.labels.sources says what a source looks like.
"""

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from itertools import pairwise
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from shards.disk.address import BESIDE, Beside, file_path
from shards.disk.safe_text import quoted, redact, visible
from shards.labels.folders import MAX_ID, Entry
from shards.labels.sources import SHIPPED, read_counts, read_source
from shards.labels.spoken import spoken_names

MAX_NAME_CHARS = 200
# What a class is, so that its contexts fit; gen/names/kinds.yaml says what each means.
Kind = Literal[
    "animal",
    "pet",
    "flying",
    "crawling",
    "waterside",
    "aquatic",
    "person",
    "plant",
    "fungus",
    "food",
    "drink",
    "vehicle",
    "train",
    "watercraft",
    "aircraft",
    "building",
    "waterfront",
    "shop",
    "street",
    "yard",
    "interior",
    "landscape",
    "furniture",
    "household",
    "device",
    "instrument",
    "clothing",
    "tool",
    "sport",
    "snow",
    "texture",
    "other",
]
KINDS: tuple[Kind, ...] = get_args(Kind)
MAX_COUNT = 1_000_000_000


class ClassSpec(BaseModel):
    """Which classes, and how many images of each make up one multiple of the real set.

    At most one of `per_class`, `total` and `counts` is given; with none, the source itself must carry the counts.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: Annotated[str, Beside(frozenset(SHIPPED))] = Field(
        min_length=1, description=f"{', '.join(SHIPPED)}, or the path of a list, an ImageFolder or a data set"
    )
    per_class: int | None = Field(
        None, ge=1, le=MAX_COUNT, description="the same count for every class", examples=[100]
    )
    total: int | None = Field(
        None, ge=1, le=MAX_COUNT, description="images in all, spread within one over the classes", examples=[1000]
    )
    counts: Annotated[tuple[int, ...] | str | None, BESIDE] = Field(
        None, description="one count per class, in line or one a line in a file", examples=["counts.txt"]
    )
    limit: int | None = Field(None, ge=1, description="keep the first so many classes", examples=[10])

    def uncounted(self) -> "ClassSpec":
        """The same classes, each with the count 1, for work that asks only who they are."""
        return self.model_copy(update={"per_class": 1, "total": None, "counts": None})


@dataclass(frozen=True)
class Class:
    """One label."""

    id: int
    name: str
    wordnet_id: str | None  # n02012849
    count: int  # images in one multiple of the real set
    meaning: str | None = None  # the phrase for the sense of the name, "crane, the bird", if the list says it
    kind: Kind | None = None  # if the list says it


def load_classes(spec: ClassSpec) -> list[Class]:
    """The classes of a recipe, ids ascending. Raises ValueError with one line for a person."""
    entries, where = read_source(spec.source), visible(redact(spec.source))[:200]
    if not entries:
        raise ValueError(f"{where}: found no classes, expected at least one")
    for entry in entries:
        if not 0 <= entry.id <= MAX_ID:
            raise ValueError(f"{where}: found class id {entry.id}, expected 0..{MAX_ID}")
    repeated = [class_id for class_id, times in Counter(entry.id for entry in entries).items() if times > 1]
    if repeated:
        names = ", ".join(quoted(entry.name, 40) for entry in entries if entry.id == repeated[0])[:200]
        raise ValueError(f"{where}: found id {repeated[0]} for {names}, expected one class per id; renumber one")
    entries = [replace(entry, name=clean_name(entry.name, f"{where}, class {entry.id}")) for entry in entries]
    said = spoken_names([entry.name for entry in entries])
    entries = [replace(entry, name=name) for entry, name in zip(entries, said, strict=True)]
    entries = sorted(entries, key=lambda entry: entry.id)[: spec.limit]
    return [
        Class(entry.id, entry.name, entry.wordnet_id, count, *_told(entry, f"{where}, class {entry.id}"))
        for entry, count in zip(entries, _choose_counts(spec, entries, where), strict=True)
    ]


def whole_list(spec: ClassSpec, classes: Sequence[Class]) -> Sequence[Class]:
    """All classes of the list that `classes` are read from, also those behind its limit; their counts say nothing."""
    return classes if spec.limit is None else load_classes(spec.uncounted().model_copy(update={"limit": None}))


def _told(entry: Entry, where: str) -> tuple[str | None, Kind | None]:
    """The meaning and the kind that the list gives. Raises ValueError for a kind that is none."""
    kind = next((one for one in KINDS if one == entry.kind), None)
    if entry.kind and kind is None:
        near = get_close_matches(entry.kind, KINDS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"{where}: found the kind {quoted(entry.kind, 40)}, expected one of {', '.join(KINDS)}{hint}")
    return clean_name(entry.meaning, f"{where}, meaning") if entry.meaning else None, kind


def clean_name(name: str, where: str) -> str:
    """A class name in Unicode form C without outer blanks. Raises ValueError if it could not be a line of text."""
    name = unicodedata.normalize("NFC", name).strip()
    if not name:
        raise ValueError(f"{where}: found an empty name, expected some text")
    if len(name) > MAX_NAME_CHARS:
        raise ValueError(f"{where}: found a name of {len(name)} characters, expected at most {MAX_NAME_CHARS}")
    for char in name:
        if unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp"):
            raise ValueError(
                f"{where}: found the control character U+{ord(char):04X} in {quoted(name, 80)}, "
                "expected plain text; remove it"
            )
    return name


def _choose_counts(spec: ClassSpec, entries: Sequence[Entry], source: str) -> list[int]:
    given = [key for key in ("per_class", "total", "counts") if getattr(spec, key) is not None]
    if len(given) > 1:
        raise ValueError(f"classes: found {' and '.join(given)}, expected only one of them")
    if spec.per_class is not None:
        return [spec.per_class] * len(entries)
    if spec.total is not None:
        if spec.total < len(entries):
            raise ValueError(
                f"classes.total: found {spec.total}, expected at least one image for {len(entries)} classes"
            )
        edges = [spec.total * index // len(entries) for index in range(len(entries) + 1)]
        return [after - before for before, after in pairwise(edges)]
    if spec.counts is not None:
        where = "classes.counts" if isinstance(spec.counts, tuple) else visible(spec.counts)[:200]
        counts = list(spec.counts) if isinstance(spec.counts, tuple) else read_counts(file_path(spec.counts))
        if len(counts) != len(entries):
            raise ValueError(f"{where}: found {len(counts)} counts, expected one for each of {len(entries)} classes")
        return [_check_count(count, f"{where}, class {entry.id}") for count, entry in zip(counts, entries, strict=True)]
    counts = []
    for entry in entries:
        if entry.count is None:
            raise ValueError(
                f"{source}: found no count for class {entry.id} ({entry.name}), expected how many real images "
                "it has; set classes.per_class, classes.total or classes.counts"
            )
        counts.append(_check_count(entry.count, f"{source}, class {entry.id} ({entry.name})"))
    return counts


def _check_count(count: int, where: str) -> int:
    if not 1 <= count <= MAX_COUNT:
        raise ValueError(f"{where}: found count {count}, expected 1..{MAX_COUNT}; drop the class or correct it")
    return count
