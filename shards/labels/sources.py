"""Sources of class lists: shipped names, files, ImageFolders, data sets of ours.

In: the `source` of a recipe's classes. Out: entries as the source has them, in its order. On disk, one of
    names.txt     one name a line; ids count from 0; also LOC_synset_mapping.txt, and lists of WordNet ids
    classes.csv   a header line with `name` and any of `id`, `wordnet_id`, `count`, `meaning`, `kind`
    classes.json  a list of names, or of objects with those keys
    folder/       an ImageFolder: one folder of images per class; ids as shards.labels.folders says, counts from files
    shards/       a data set of ours (NNNNN_stats.json): ids, names and counts from its tables
"""

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from difflib import get_close_matches
from functools import partial
from pathlib import Path

import pyarrow.compute as pc

from shards.disk.address import file_path, is_remote
from shards.disk.checked_json import plain_json
from shards.disk.data_set import is_data_set
from shards.disk.home import home
from shards.disk.layout import SUCCESS
from shards.disk.pictures import picture_format
from shards.disk.safe_text import quoted, redact
from shards.disk.store import open_for_reading
from shards.labels.folders import Entry, class_folders_in, files_below, own_classes, trouble_with
from shards.labels.imagenet import imagenet_names, is_wordnet_id, wordnet_name
from shards.labels.metadata import names_beside
from shards.labels.spoken import wordnet_pairs
from shards.labels.task import IMAGENET, TASKS, read_task
from shards.labels.text_file import read_lines, read_text
from shards.set.manifest import iter_tables, scan_records
from shards.set.status import refuse_missing

COLUMNS = ("id", "name", "wordnet_id", "count", "meaning", "kind")
OTHER_COLUMNS = tuple(name for name in COLUMNS if name != "name")
HEADINGS = frozenset(
    {"name", "names", "class", "classes", "class name", "class_name", "classname", "label", "labels", "category"}
    | {"categories", "id,name", "name,id", "class_id,class_name", "synset", "wnid"}
)
_FIELDS = re.compile(r"[0-9]+\s*[,;:\t]\s*\S")


def read_source(source: str) -> list[Entry]:
    """The classes of a source as it tells them, unchecked but for their form. Raises ValueError with one line."""
    if source in SHIPPED:
        return SHIPPED[source]()
    if is_remote(source):
        return _read_data_set(source)
    path = file_path(source)
    if path.is_dir():
        return _read_data_set(str(path)) if is_data_set(open_for_reading(str(path))) else _read_image_folder(path)
    if path.is_file():
        if path.suffix.lower() not in READERS:
            raise ValueError(f"{path}: found a file ending in {path.suffix!r}, expected one of {', '.join(READERS)}")
        return READERS[path.suffix.lower()](path)
    near = get_close_matches(source.lower(), SHIPPED, n=1)
    hint = f"; did you mean {near[0]}?" if near else f"; shipped lists are {', '.join(SHIPPED)}"
    raise ValueError(
        f"classes.source: found {quoted(redact(source), 80)}, expected a shipped list, a file or a folder{hint}"
    )


def _read_sandbox() -> list[Entry]:
    return _read_csv(home() / "sandbox" / "classes.csv")


def _read_imagenet() -> list[Entry]:
    return [Entry(index, name, wordnet_id) for index, (wordnet_id, name) in enumerate(imagenet_names().items())]


def _read_task(name: str) -> list[Entry]:
    return list(read_task(name).entries)


SHIPPED: dict[str, Callable[[], list[Entry]]] = {
    "sandbox": _read_sandbox,
    IMAGENET: _read_imagenet,
    **{name: partial(_read_task, name) for name in TASKS},
}


def _read_text(path: Path) -> list[Entry]:
    """One name a line. Lines that begin with `# ` are remarks. Lines of other forms than names are refused."""
    lines = [(number, line.strip()) for number, line in enumerate(read_text(path).split("\n"), 1)]
    lines = [(number, line) for number, line in lines if line and not re.match(r"#(\s|$)", line)]
    names = [line for _, line in lines]
    if names and names[0].casefold() in HEADINGS:
        raise ValueError(
            f"{path}, line {lines[0][0]}: found {quoted(names[0], 40)}, which looks like a heading, expected a class "
            "name; remove the line, or save the list as .csv"
        )
    if len(names) > 1 and all(map(_FIELDS.match, names)):
        raise ValueError(
            f"{path}, line {lines[0][0]}: found {quoted(names[0], 40)}, a number before each name, expected one name a "
            "line; save the list as .csv with the heading id,name"
        )
    if names and all(map(is_wordnet_id, names)):
        return [Entry(index, wordnet_name(name) or name, name) for index, name in enumerate(names)]
    if pairs := wordnet_pairs(names):
        return [Entry(index, name, wordnet_id) for index, (wordnet_id, name) in enumerate(pairs)]
    return [Entry(index, name) for index, name in enumerate(names)]


def read_counts(path: Path) -> list[int]:
    """The counts in a text file, one a line. Raises ValueError for a line that is no whole number."""
    return [_int(line, f"{path}, line {number}") for number, line in enumerate(read_lines(path), 1)]


def _int(text: str, where: str) -> int:
    if not re.fullmatch(r"-?[0-9]{1,18}", text.strip()):
        raise ValueError(f"{where}: found {quoted(text, 40)}, expected a whole number")
    return int(text)


def _read_csv(path: Path) -> list[Entry]:
    rows = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    entries: list[Entry] = []
    try:
        header = [column.strip() for column in next(rows, [])]
        if "name" not in header or not set(header) <= set(COLUMNS) or len(set(header)) != len(header):
            found = quoted(",".join(header), 80)
            raise ValueError(f"{path}: found the header {found}, expected `name` and any of {', '.join(OTHER_COLUMNS)}")
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
        meaning=row.get("meaning") or None,
        kind=row.get("kind") or None,
    )


def _wordnet_id(text: str, where: str) -> str | None:
    if text and not is_wordnet_id(text):
        raise ValueError(f"{where}: found the WordNet id {quoted(text, 40)}, expected n and 8 digits, or nothing")
    return text or None


def _read_json(path: Path) -> list[Entry]:
    try:
        items = plain_json(read_text(path))
    except ValueError as error:
        raise ValueError(f"{path}: found broken JSON ({error}); mend it") from None
    if not isinstance(items, list):
        raise ValueError(f"{path}: found a {type(items).__name__}, expected a list of names or of objects with `name`")
    entries = []
    for index, item in enumerate(items):
        where = f"{path}, item {index}"
        row = {"name": item} if isinstance(item, str) else item
        if not isinstance(row, dict) or not isinstance(row.get("name"), str) or not set(row) <= set(COLUMNS):
            raise ValueError(
                f"{where}: found {quoted(item, 60)}, expected a name or an object with {', '.join(COLUMNS)}"
            )
        if any(isinstance(value, (bool, float, list, dict)) for value in row.values()):
            raise ValueError(f"{where}: found {quoted(item, 60)}, expected text and whole numbers")
        entries.append(_entry({key: str(value) for key, value in row.items() if value is not None}, index, where))
    return entries


READERS: dict[str, Callable[[Path], list[Entry]]] = {".csv": _read_csv, ".json": _read_json, ".txt": _read_text}


def _read_image_folder(folder: Path) -> list[Entry]:
    """The class folders, with their ids by the rule of shards.labels.folders and the number of their pictures."""
    names = class_folders_in(folder)
    if not names:
        raise ValueError(f"{folder}: found no class folders, expected one folder of images per class")
    entries = []
    for name, entry in own_classes(names, str(folder), names_beside(folder)).items():
        count = sum(picture_format(file) is not None and not trouble_with(file) for file in files_below(folder / name))
        if not count:
            raise ValueError(f"{folder / name}: found no images, expected at least one; remove the folder or fill it")
        entries.append(replace(entry, count=count))
    return entries


def _read_data_set(url: str) -> list[Entry]:
    """Classes and counts of the samples (not of the rejected draws) of a data set. Raises ValueError if it is not
    finished: a part has other counts, and perhaps not all classes."""
    store = open_for_reading(url)
    refuse_missing(store, "class list", "give a list of the classes")
    columns = ["class_id", "class_name"]
    counts: Counter[tuple[int, str]] = Counter()
    for table in iter_tables(store, scan_records(store), [*columns, "status"]):
        samples = table.filter(pc.equal(table["status"], SUCCESS)).group_by(columns).aggregate([([], "count_all")])
        for row in samples.to_pylist():
            counts[row["class_id"], row["class_name"]] += row["count_all"]
    return [Entry(class_id, name, None, count) for (class_id, name), count in counts.items()]
