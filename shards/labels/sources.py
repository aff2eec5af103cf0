"""Where class lists come from: shipped names, files, ImageFolders, data sets of ours.

In: the `source` of a recipe's classes. Out: entries as the source tells them, in its order. On disk, one of
    names.txt     one name a line; ids count from 0
    classes.csv   a header line with `name` and any of `id`, `wordnet_id`, `count`
    classes.json  a list of names, or of objects with those keys
    folder/       an ImageFolder: one folder of images per class, sorted by name, ids from 0, counts from the files
    shards/       a data set of ours (NNNNN_stats.json): ids, names and counts from its tables
"""

import ast
import csv
import io
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pyarrow.compute as pc

from shards.disk.home import home
from shards.disk.layout import SUCCESS
from shards.disk.store import open_for_reading, redact
from shards.set.manifest import iter_tables, scan_records

COLUMNS = ("id", "name", "wordnet_id", "count")
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"}

_WORDNET_ID = re.compile(r"n[0-9]{8}")
_NUMBERED = re.compile(r"([0-9]{4,10})_([a-z0-9_]+)")
_RECORD_FILE = re.compile(r"[0-9]{5}_stats\.json")


@dataclass(frozen=True)
class Entry:
    """A class as its source tells it; ids and names are not yet checked."""

    id: int
    name: str
    wordnet_id: str | None = None
    count: int | None = None


def read_source(source: str) -> list[Entry]:
    """The classes of a source as it tells them, unchecked but for their form. Raises ValueError with one line."""
    if source in SHIPPED:
        return SHIPPED[source]()
    if "://" in source:
        return _read_data_set(source)
    path = Path(source).expanduser()
    if path.is_dir():
        with os.scandir(path) as listing:
            is_data_set = any(_RECORD_FILE.fullmatch(item.name) for item in listing)
        return _read_data_set(str(path)) if is_data_set else _read_image_folder(path)
    if path.is_file():
        if path.suffix.lower() not in READERS:
            raise ValueError(f"{path}: found a file ending in {path.suffix!r}, expected one of {', '.join(READERS)}")
        return READERS[path.suffix.lower()](path)
    near = get_close_matches(source.lower(), SHIPPED, n=1)
    hint = f"; did you mean {near[0]}?" if near else f"; shipped lists are {', '.join(SHIPPED)}"
    raise ValueError(
        f"classes.source: found {ascii(redact(source))[:80]}, expected a shipped list, a file or a folder{hint}"
    )


def _read_sandbox() -> list[Entry]:
    return _read_csv(home() / "sandbox" / "classes.csv")


def _read_imagenet() -> list[Entry]:
    """ImageNet-1k from the tables that the installed timm (ids) and open_clip (names) carry; neither is imported.

    The two tables meet by position only, so the names are held against WordNet's own (timm carries those too): they
    share a word for 959 of 1000 classes, and for 135 when shifted by one.
    """
    info = package_folder("timm") / "data" / "_info"
    ids = read_lines(info / "imagenet_synsets.txt")
    names = _literal(package_folder("open_clip") / "zero_shot_metadata.py", "IMAGENET_CLASSNAMES")
    lemmas = wordnet_lemmas()
    well_formed = all(_WORDNET_ID.fullmatch(wordnet_id) for wordnet_id in ids)
    if len(ids) != 1000 or ids != sorted(set(ids)) or len(names) != 1000 or not well_formed:
        raise ValueError(
            f"imagenet-1k: found {len(ids)} ids (timm) and {len(names)} names (open_clip), expected 1000 sorted "
            "distinct ids and 1000 names; install the versions of requirements.lock"
        )
    alike = sum(
        bool(_words(name) & _words(lemmas.get(wordnet_id, ""))) for wordnet_id, name in zip(ids, names, strict=True)
    )
    if alike < 900:
        raise ValueError(
            f"imagenet-1k: found {alike} of 1000 names like WordNet's, expected at least 900: the order of the tables "
            "in timm and open_clip differs; install the versions of requirements.lock"
        )
    return [Entry(index, name, wordnet_id) for index, (wordnet_id, name) in enumerate(zip(ids, names, strict=True))]


SHIPPED: dict[str, Callable[[], list[Entry]]] = {"sandbox": _read_sandbox, "imagenet-1k": _read_imagenet}


@cache
def wordnet_lemmas() -> Mapping[str, str]:
    path = package_folder("timm") / "data" / "_info" / "imagenet_synset_to_lemma.txt"
    return dict(line.split("\t", 1) for line in read_lines(path) if "\t" in line)


def _words(text: str) -> set[str]:
    return set(re.findall("[a-z]{3,}", text.lower()))


def package_folder(package: str) -> Path:
    """Where a package lies, without importing it (open_clip takes seconds)."""
    found = find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise ValueError(f"imagenet-1k: {package} is not installed, expected its class tables; install it")
    return Path(next(iter(found.submodule_search_locations)))


def _literal(path: Path, name: str) -> list[str]:
    """The tuple or list of strings assigned to `name` in a source file, read as a literal and never run."""
    for node in ast.parse(_read_file(path)).body:
        if isinstance(node, ast.Assign) and any(isinstance(to, ast.Name) and to.id == name for to in node.targets):
            return [str(item) for item in ast.literal_eval(node.value)]
    raise ValueError(f"{path}: found no {name}, expected it there; install the versions of requirements.lock")


def _read_file(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ValueError(f"{path}: found no such file, expected a readable one; check the path") from None
    except OSError as error:
        raise ValueError(
            f"{path}: found a file that cannot be read ({error.strerror}), expected a readable one"
        ) from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: found bytes that are not UTF-8 at {error.start}; save it as UTF-8") from None


def read_lines(path: Path) -> list[str]:
    """Lines without their ends; only newlines end a line, so a stray U+2028 stays in its name and is refused there."""
    return [line.rstrip("\r") for line in _read_file(path).split("\n") if line.strip()]


def _read_text(path: Path) -> list[Entry]:
    return [Entry(index, name) for index, name in enumerate(read_lines(path))]


def read_counts(path: Path) -> list[int]:
    return [_int(line, f"{path}, line {number}") for number, line in enumerate(read_lines(path), 1)]


def _int(text: str, where: str) -> int:
    if not re.fullmatch(r"-?[0-9]{1,18}", text.strip()):
        raise ValueError(f"{where}: found {ascii(text)[:40]}, expected a whole number")
    return int(text)


def _read_csv(path: Path) -> list[Entry]:
    rows = csv.reader(io.StringIO(_read_file(path), newline=""), strict=True)
    entries: list[Entry] = []
    try:
        header = [column.strip() for column in next(rows, [])]
        if "name" not in header or not set(header) <= set(COLUMNS) or len(set(header)) != len(header):
            found = ascii(",".join(header))[:80]
            raise ValueError(f"{path}: found the header {found}, expected `name` and any of id, wordnet_id, count")
        for row in rows:
            if not any(row):
                continue
            where = f"{path}, line {rows.line_num}"
            if len(row) != len(header):
                raise ValueError(f"{where}: found {len(row)} fields, expected {len(header)}")
            entries.append(_entry(dict(zip(header, row, strict=True)), len(entries), where))
    except csv.Error as error:
        raise ValueError(f"{path}, line {rows.line_num}: found broken CSV ({error}); mend the quotes") from None
    return entries


def _entry(row: Mapping[str, str], index: int, where: str) -> Entry:
    return Entry(
        id=_int(row["id"], f"{where}, id") if "id" in row else index,
        name=row["name"],
        wordnet_id=_wordnet_id(row.get("wordnet_id", ""), where),
        count=_int(row["count"], f"{where}, count") if row.get("count") else None,
    )


def _wordnet_id(text: str, where: str) -> str | None:
    if text and not _WORDNET_ID.fullmatch(text):
        raise ValueError(f"{where}: found the WordNet id {ascii(text)[:40]}, expected n and 8 digits, or nothing")
    return text or None


def _read_json(path: Path) -> list[Entry]:
    try:
        items = json.loads(_read_file(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: found broken JSON ({error}); mend it") from None
    if not isinstance(items, list):
        raise ValueError(f"{path}: found a {type(items).__name__}, expected a list of names or of objects with `name`")
    entries = []
    for index, item in enumerate(items):
        where = f"{path}, item {index}"
        row = {"name": item} if isinstance(item, str) else item
        if not isinstance(row, dict) or not isinstance(row.get("name"), str) or not set(row) <= set(COLUMNS):
            raise ValueError(
                f"{where}: found {ascii(item)[:60]}, expected a name or an object with {', '.join(COLUMNS)}"
            )
        if any(isinstance(value, (bool, float, list, dict)) for value in row.values()):
            raise ValueError(f"{where}: found {ascii(item)[:60]}, expected text and whole numbers")
        entries.append(_entry({key: str(value) for key, value in row.items() if value is not None}, index, where))
    return entries


READERS: dict[str, Callable[[Path], list[Entry]]] = {".csv": _read_csv, ".json": _read_json, ".txt": _read_text}


def _read_image_folder(folder: Path) -> list[Entry]:
    """Class folders sorted by name as torchvision sorts them; folders named by WordNet id get their ImageNet names.

    Folders that are all numbered as our own export numbers them (`0007_zebra_crossing`) keep their ids.
    """
    with os.scandir(folder) as listing:
        names = sorted(item.name for item in listing if item.is_dir() and not item.name.startswith("."))
    if not names:
        raise ValueError(f"{folder}: found no class folders, expected one folder of images per class")
    by_wordnet_id = {}
    if all(_WORDNET_ID.fullmatch(name) for name in names):
        by_wordnet_id = {entry.wordnet_id: entry.name for entry in _read_imagenet()}
        unknown = [name for name in names if name not in by_wordnet_id]
        by_wordnet_id |= {name: wordnet_lemmas()[name].split(",")[0] for name in unknown if name in wordnet_lemmas()}
    numbered = [_NUMBERED.fullmatch(name) for name in names]
    entries = []
    for index, name in enumerate(names):
        count = sum(
            os.path.splitext(file)[1].lower() in IMAGE_SUFFIXES
            for _, _, files in os.walk(folder / name)
            for file in files
        )
        if not count:
            raise ValueError(f"{folder / name}: found no images, expected at least one; remove the folder or fill it")
        wordnet_id = name if name in by_wordnet_id else None
        own = numbered[index] if all(numbered) else None
        if own is not None:
            entries.append(Entry(int(own[1]), own[2].replace("_", " "), None, count))
        else:
            entries.append(Entry(index, by_wordnet_id.get(name, name), wordnet_id, count))
    return entries


def _read_data_set(url: str) -> list[Entry]:
    """Classes and counts of the samples (not of the rejected draws) of a data set."""
    store = open_for_reading(url)
    columns = ["class_id", "class_name"]
    counts: Counter[tuple[int, str]] = Counter()
    for table in iter_tables(store, scan_records(store), [*columns, "status"]):
        samples = table.filter(pc.equal(table["status"], SUCCESS)).group_by(columns).aggregate([([], "count_all")])
        for row in samples.to_pylist():
            counts[row["class_id"], row["class_name"]] += row["count_all"]
    return [Entry(class_id, name, None, count) for (class_id, name), count in counts.items()]
