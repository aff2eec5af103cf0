"""Class folders: the one rule that says which class a folder means, for class lists, imports, exports, real images.

In: names of folders, and classes if there is a list. Out: the class of each folder. On disk: names of folders are read,
and the tables of ImageNet's classes if folders are WordNet ids.

Folders alone (`own_classes`); the first line that fits all of them counts:

    0007_seven, 0012_zebra    as `class_folder` writes them: the number is the id, the rest the name; the whole name,
                              which may have no plain letter at all, stands in the metadata beside them
    1, 2, 10 (or 001, 002)    numbers: the number is the id, whatever their order as text; at most 2147483647
    n01440764, n02012849      WordNet ids: ids 0, 1, ... in sorted order, which is that of ImageNet-1k for all of it;
                              names as ImageNet-1k or WordNet has them
    n02085620-Chihuahua       WordNet ids and names: ids 0, 1, ... in sorted order
    crane, zebra, Ant         names: ids 0, 1, ... in the order of their characters (Ant, crane, zebra; c1, c10, c2),
                              as torchvision counts; the names are as people say them (shards.labels.spoken)

Two folders with one id (`1` and `01`) are refused, and so is a mixture of numbers and names, which has no clear ids.

With a list (`match_folders`) a folder has the id of the class that it names: by WordNet id, as `class_folder` writes
it, by name (case, blanks, ``_``, ``-`` and ``/`` do not count), or by number. So a part of the classes (a test set, a
held-out part) has the ids of the whole. A part of ImageNet-1k can be a class list of its own. As a data set it needs a
list, because only its owner knows whether its ids are its own or those of the 1000 (`refuse_part_of_imagenet`).
"""

import errno
import os
import re
import stat
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Protocol, TypeVar

from shards.disk.pictures import MAX_PICTURE_BYTES, is_system_folder
from shards.disk.safe_text import clip, quoted
from shards.labels.imagenet import imagenet_names, is_wordnet_id, wordnet_name
from shards.labels.metadata import METADATA
from shards.labels.spoken import folded_form, spoken_names, wordnet_pairs

LONGEST_SLUG = 40
MAX_ID = 2**31 - 1  # of a class: what a table's column holds
NO_LETTERS = "class"  # in a folder's name for a class name without plain letters
NOT_KNOWN: Mapping[int, str] = MappingProxyType({})
SPLITS = frozenset({"train", "training", "val", "valid", "validation", "dev", "test", "testing"})
_EXPORTED = re.compile(r"([0-9]{4,10})_([a-z0-9_]+)")
_NUMBER = re.compile(r"[0-9]{1,10}")


class Named(Protocol):
    """What a folder is matched with."""

    @property
    def id(self) -> int:
        """The class id that the folder gets."""

    @property
    def name(self) -> str:
        """The name of the class."""

    @property
    def wordnet_id(self) -> str | None:
        """Such as n02012849; None if the class has none."""


Known = TypeVar("Known", bound=Named)


@dataclass(frozen=True)
class Entry:
    """A class as its source tells it; ids and names are not yet checked."""

    id: int
    name: str
    wordnet_id: str | None = None
    count: int | None = None
    meaning: str | None = None
    kind: str | None = None


def class_folder(class_id: int, name: str, digits: int = 4) -> str:
    """``(7, "Zebra / crossing")`` -> ``"0007_zebra_crossing"``; never empty, never a path.

    ``digits`` of the id, so that names sort by id: of all folders side by side the widest one's, and at least 4.
    """
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode("ascii").lower()
    slug = re.sub(r"[^a-z0-9]+", "_", plain).strip("_")[:LONGEST_SLUG].strip("_")
    return f"{class_id:0{max(4, digits)}d}_{slug or NO_LETTERS}"


def fold_name(name: str) -> str:
    """A class name in the form in which names are compared: case, blanks, ``_`` and ``-`` do not count."""
    return " ".join(re.sub("[_/-]", " ", unicodedata.normalize("NFC", name).casefold()).split())


def class_folders_in(folder: Path) -> list[str]:
    """Names of the class folders, sorted; hidden ones and those of an operating system (``__MACOSX``) are none.

    Raises ValueError for a link that leads nowhere and may have been one: without it the ids of others would be wrong.
    """
    with os.scandir(folder) as listing:
        items = [item for item in listing if not item.name.startswith(".") and not is_system_folder(item.name)]
    for item in items:
        if not os.path.splitext(item.name)[1] and not os.path.exists(item.path):
            raise ValueError(
                f"{folder}: found the link {quoted(item.name, 60)}, which leads nowhere, expected a class folder; mend "
                "or remove it"
            )
    names = sorted(item.name for item in items if item.is_dir())
    for name in names:
        if not _is_utf8(name):
            raise ValueError(
                f"{folder}: found the class folder {quoted(name, 60)}, whose name is no UTF-8, expected text; rename it"
            )
    if names and SPLITS.issuperset(map(str.casefold, names)) and all(_has_folders(folder / name) for name in names):
        raise ValueError(
            f"{folder}: found the folders {', '.join(names)}, which hold class folders themselves, expected class "
            f"folders; give one of these, such as {folder / names[0]}"
        )
    return names


def _is_utf8(name: str) -> bool:
    """False for a name of other bytes, which Python holds as half characters."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _has_folders(folder: Path) -> bool:
    with os.scandir(folder) as listing:
        return any(item.is_dir() for item in listing)


def files_below(folder: Path) -> Iterator[Path]:
    """All that a class folder holds but its folders, sorted folder by folder; links to folders and what is no file
    stand among them, and `trouble_with` tells them apart."""
    with os.scandir(folder) as listing:
        items = sorted(listing, key=lambda item: item.name)
    for item in items:
        if item.is_dir(follow_symlinks=False):
            yield from files_below(folder / item.name)
        else:
            yield folder / item.name


def trouble_with(path: Path) -> str:
    """Why something cannot be read as a picture's file: in words; "" for a file of a size that may be read."""
    try:
        about = path.stat()
    except OSError as error:
        leads_nowhere = path.is_symlink() and error.errno in (errno.ENOENT, errno.ELOOP)
        what = "a link that leads nowhere" if leads_nowhere else f"what cannot be looked at ({error.strerror})"
        return f"found {what}, expected a file"
    if stat.S_ISDIR(about.st_mode):
        return "found a link to a folder, which is not followed, expected a file"
    if not stat.S_ISREG(about.st_mode):
        return "found a pipe, a device or a socket, expected a file"
    if about.st_size > MAX_PICTURE_BYTES:
        return f"found {about.st_size:,} bytes, expected at most {MAX_PICTURE_BYTES:,}"
    return ""


def own_classes(folders: Sequence[str], where: str, names: Mapping[int, str] = NOT_KNOWN) -> dict[str, Entry]:
    """Folder -> the class that it is by itself, in the order of `folders`; `names` are those beside an export.

    Raises ValueError for two folders of one id, for a number that is no id, for numbers among other names, and for
    folders of an export whose names have no plain letter and are not known.
    """
    if exported := _all_match(_EXPORTED, folders):
        nameless = [name for name, found in exported if found[2] == NO_LETTERS and int(found[1]) not in names]
        if len(nameless) > 1:
            raise ValueError(
                f"{where}: found the class folders {nameless[0]} and {nameless[1]}, whose names have no plain letters, "
                f"expected {METADATA} beside them, as the export wrote it; bring it back, or give a class list"
            )
        told = {name: names.get(int(found[1]), found[2].replace("_", " ")) for name, found in exported}
        return _by_number({name: Entry(int(found[1]), told[name]) for name, found in exported}, where)
    if numbers := _all_match(_NUMBER, folders):
        return _by_number({name: Entry(int(name), name) for name, _ in numbers}, where)
    strays = [name for name in folders if _NUMBER.fullmatch(name)]
    if strays:
        other = next(name for name in folders if name not in strays)
        raise ValueError(
            f"{where}: found the class folder {strays[0]!r}, a number, beside {quoted(other, 60)}, expected numbers "
            "only or names only: ids of such a mix cannot be told; rename one kind, or give a class list"
        )
    place = {name: number for number, name in enumerate(sorted(folders))}
    if all(map(is_wordnet_id, folders)):
        known = {name: wordnet_name(name) for name in folders}
        return {name: Entry(place[name], known[name] or name, name if known[name] else None) for name in folders}
    if pairs := wordnet_pairs(folders):
        return {name: Entry(place[name], said, key) for name, (key, said) in zip(folders, pairs, strict=True)}
    return {name: Entry(place[name], said) for name, said in zip(folders, spoken_names(folders), strict=True)}


def match_folders(folders: Sequence[str], classes: Sequence[Known], where: str) -> dict[str, Known]:
    """Folder -> the class of a list that it names; folders that name none are left out.

    Raises ValueError for a folder that names several, and for two that name one.
    """
    by_word: dict[str, dict[int, Known]] = {}
    for one in classes:
        for word in (one.wordnet_id, class_folder(one.id, one.name), fold_name(one.name)):
            if word:
                by_word.setdefault(word, {})[one.id] = one
    by_number = {one.id: {one.id: one} for one in classes}
    found: dict[str, Known] = {}
    taken: dict[int, str] = {}
    for folder in folders:
        exported = _EXPORTED.fullmatch(folder)
        plain = f"{int(exported[1]):04d}_{exported[2]}" if exported else folder
        meant = by_word.get(plain) or by_word.get(fold_name(folder)) or by_word.get(fold_name(folded_form(folder)))
        if not meant and _NUMBER.fullmatch(folder):
            meant = by_number.get(int(folder))
        if not meant:
            continue
        if len(meant) > 1:
            raise ValueError(
                f"{where}: found the class folder {quoted(folder, 60)}, which names the classes "
                f"{', '.join(map(str, sorted(meant)))}, expected one; name it by WordNet id, or "
                f"{', '.join(class_folder(class_id, folder) for class_id in sorted(meant))}"
            )
        [one] = meant.values()
        if one.id in taken:
            raise ValueError(
                f"{where}: found the class folders {quoted(taken[one.id], 60)} and {quoted(folder, 60)} for class "
                f"{one.id} ({clip(one.name, 60)}), expected one; put their pictures together"
            )
        taken[one.id], found[folder] = folder, one
    return found


def classes_of_folders(
    folders: Sequence[str], classes: Sequence[Named] | None, names: Mapping[int, str], where: str
) -> Mapping[str, Named]:
    """Folder -> its class: one of the list, or without a list the one that it is by itself.

    Raises ValueError for a folder whose class cannot be told, and without a list for a part of ImageNet-1k.
    """
    if classes is None:
        refuse_part_of_imagenet(folders, where)
        return own_classes(folders, where, names)
    known = match_folders(folders, classes, where)
    for folder in folders:
        if folder not in known:
            raise ValueError(
                f"{where}: found the class folder {quoted(folder, 60)}, expected the WordNet id, name or number of one "
                f"of the {len(classes)} classes given; rename it, or give the right list"
            )
    return known


def refuse_part_of_imagenet(folders: Sequence[str], where: str) -> None:
    """Raises ValueError for some, but not all, of ImageNet-1k's classes, named by WordNet id."""
    if not folders or not all(map(is_wordnet_id, folders)):
        return
    whole = imagenet_names().keys()
    if whole > set(folders):
        raise ValueError(
            f"{where}: found {len(folders)} of ImageNet-1k's {len(whole)} classes, expected all: the order of a part "
            "gives other ids than the whole has; give `--classes imagenet-1k` for its ids, or `--classes` with a list "
            "of your own"
        )


def _all_match(pattern: re.Pattern[str], folders: Sequence[str]) -> list[tuple[str, re.Match[str]]]:
    """Each folder with its match; [] unless all of them match."""
    found = [(name, pattern.fullmatch(name)) for name in folders]
    return [(name, match) for name, match in found if match] if all(match for _, match in found) else []


def _by_number(entries: dict[str, Entry], where: str) -> dict[str, Entry]:
    folder_of: dict[int, str] = {}
    for folder, one in entries.items():
        if one.id > MAX_ID:
            raise ValueError(
                f"{where}: found the class folder {folder!r}, whose number is no class id, expected 0..{MAX_ID}; put a "
                "letter before the numbers, so that they are names, or give a class list with these names"
            )
        first = folder_of.setdefault(one.id, folder)
        if first != folder:
            raise ValueError(
                f"{where}: found the class folders {first!r} and {folder!r}, both with the id {one.id}, expected one "
                "for an id; rename one, or put their pictures together"
            )
    return entries
