"""Classes: the labels a data set is made for, each with the number of real images it stands beside.

In: a `ClassSpec`, whose source is a shipped name, a file, an ImageFolder or a data set of ours.
Out: a list of `Class`, ids ascending. The id is the label written into shards and never changes; two classes may share
a name (ImageNet has two "missile" and two "sunglasses"), never an id.

On disk a class list is one of
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
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

MAX_NAME_CHARS = 200
MAX_ID = 2**31 - 1
MAX_COUNT = 1_000_000_000
COLUMNS = ("id", "name", "wordnet_id", "count")
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"}

_WORDNET_ID = re.compile(r"n[0-9]{8}")
_RECORD_FILE = re.compile(r"[0-9]{5}_stats\.json")


class ClassSpec(BaseModel):
    """Which classes, and how many images of each make up one multiple of the real set.

    At most one of `per_class`, `total` and `counts` is given; with none, the source itself must carry the counts.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str = Field(
        min_length=1, description="sandbox, imagenet-1k, or the path of a list, an ImageFolder or a data set"
    )
    per_class: int | None = Field(None, ge=1, le=MAX_COUNT, description="the same count for every class")
    total: int | None = Field(None, ge=1, le=MAX_COUNT, description="images in all, spread within one over the classes")
    counts: tuple[int, ...] | str | None = Field(
        None, description="one count per class, in line or one a line in a file"
    )
    limit: int | None = Field(None, ge=1, description="keep the first so many classes")


@dataclass(frozen=True)
class Class:
    """One label."""

    id: int
    name: str
    wordnet_id: str | None  # n02012849
    count: int  # images in one multiple of the real set


@dataclass(frozen=True)
class _Entry:
    """A class as its source tells it."""

    id: int
    name: str
    wordnet_id: str | None = None
    count: int | None = None


def load_classes(spec: ClassSpec) -> list[Class]:
    """The classes of a recipe, ids ascending. Raises ValueError with one line for a person."""
    entries = _read_source(spec.source)
    if not entries:
        raise ValueError(f"{spec.source}: found no classes, expected at least one")
    for entry in entries:
        _check_id(entry.id, spec.source)
    repeated = [class_id for class_id, times in Counter(entry.id for entry in entries).items() if times > 1]
    if repeated:
        names = ", ".join(repr(entry.name) for entry in entries if entry.id == repeated[0])
        raise ValueError(f"{spec.source}: found id {repeated[0]} {names}, expected one class per id; renumber one")
    entries = [replace(entry, name=clean_name(entry.name, f"{spec.source}, class {entry.id}")) for entry in entries]
    entries = sorted(entries, key=lambda entry: entry.id)[: spec.limit]
    return [
        Class(entry.id, entry.name, entry.wordnet_id, count)
        for entry, count in zip(entries, _choose_counts(spec, entries), strict=True)
    ]


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
                f"{where}: found the control character U+{ord(char):04X} in {ascii(name)[:80]}, "
                "expected plain text; remove it"
            )
    return name


def _choose_counts(spec: ClassSpec, entries: Sequence[_Entry]) -> list[int]:
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
        where = "classes.counts" if isinstance(spec.counts, tuple) else spec.counts
        counts = list(spec.counts) if isinstance(spec.counts, tuple) else _read_counts(Path(spec.counts))
        if len(counts) != len(entries):
            raise ValueError(f"{where}: found {len(counts)} counts, expected one for each of {len(entries)} classes")
        return [_check_count(count, f"{where}, class {entry.id}") for count, entry in zip(counts, entries, strict=True)]
    counts = []
    for entry in entries:
        if entry.count is None:
            raise ValueError(
                f"{spec.source}: found no count for class {entry.id} ({entry.name}), expected how many real images "
                "it has; set classes.per_class, classes.total or classes.counts"
            )
        counts.append(_check_count(entry.count, f"{spec.source}, class {entry.id} ({entry.name})"))
    return counts


def _check_id(class_id: int, where: str) -> None:
    if not 0 <= class_id <= MAX_ID:
        raise ValueError(f"{where}: found class id {class_id}, expected 0..{MAX_ID}")


def _check_count(count: int, where: str) -> int:
    if not 1 <= count <= MAX_COUNT:
        raise ValueError(f"{where}: found count {count}, expected 1..{MAX_COUNT}; drop the class or correct it")
    return count


# sources


def _read_source(source: str) -> list[_Entry]:
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
    raise ValueError(f"classes.source: found {ascii(source)[:80]}, expected a shipped list, a file or a folder{hint}")


def _read_sandbox() -> list[_Entry]:
    return _read_csv(Path(__file__).parent.parent / "sandbox" / "classes.csv")


def _read_imagenet() -> list[_Entry]:
    """ImageNet-1k from the tables that the installed timm (ids) and open_clip (names) carry; neither is imported.

    The two tables meet by position only, so the names are held against WordNet's own (timm carries those too): they
    share a word for 959 of 1000 classes, and for 135 when shifted by one.
    """
    info = _package_folder("timm") / "data" / "_info"
    ids = _read_lines(info / "imagenet_synsets.txt")
    names = _literal(_package_folder("open_clip") / "zero_shot_metadata.py", "IMAGENET_CLASSNAMES")
    lemmas = _wordnet_lemmas()
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
    return [_Entry(index, name, wordnet_id) for index, (wordnet_id, name) in enumerate(zip(ids, names, strict=True))]


SHIPPED: dict[str, Callable[[], list[_Entry]]] = {"sandbox": _read_sandbox, "imagenet-1k": _read_imagenet}


@cache
def _wordnet_lemmas() -> Mapping[str, str]:
    path = _package_folder("timm") / "data" / "_info" / "imagenet_synset_to_lemma.txt"
    return dict(line.split("\t", 1) for line in _read_lines(path) if "\t" in line)


def _words(text: str) -> set[str]:
    return set(re.findall("[a-z]{3,}", text.lower()))


def _package_folder(package: str) -> Path:
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


def _read_lines(path: Path) -> list[str]:
    """Lines without their ends; only newlines end a line, so a stray U+2028 stays in its name and is refused there."""
    return [line.rstrip("\r") for line in _read_file(path).split("\n") if line.strip()]


def _read_text(path: Path) -> list[_Entry]:
    return [_Entry(index, name) for index, name in enumerate(_read_lines(path))]


def _read_counts(path: Path) -> list[int]:
    return [_int(line, f"{path}, line {number}") for number, line in enumerate(_read_lines(path), 1)]


def _int(text: str, where: str) -> int:
    if not re.fullmatch(r"-?[0-9]{1,18}", text.strip()):
        raise ValueError(f"{where}: found {ascii(text)[:40]}, expected a whole number")
    return int(text)


def _read_csv(path: Path) -> list[_Entry]:
    rows = csv.reader(io.StringIO(_read_file(path), newline=""), strict=True)
    entries: list[_Entry] = []
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


def _entry(row: Mapping[str, str], index: int, where: str) -> _Entry:
    return _Entry(
        id=_int(row["id"], f"{where}, id") if "id" in row else index,
        name=row["name"],
        wordnet_id=_wordnet_id(row.get("wordnet_id", ""), where),
        count=_int(row["count"], f"{where}, count") if row.get("count") else None,
    )


def _wordnet_id(text: str, where: str) -> str | None:
    if text and not _WORDNET_ID.fullmatch(text):
        raise ValueError(f"{where}: found the WordNet id {ascii(text)[:40]}, expected n and 8 digits, or nothing")
    return text or None


def _read_json(path: Path) -> list[_Entry]:
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


READERS: dict[str, Callable[[Path], list[_Entry]]] = {".csv": _read_csv, ".json": _read_json, ".txt": _read_text}


def _read_image_folder(folder: Path) -> list[_Entry]:
    """Class folders sorted by name as torchvision sorts them; folders named by WordNet id get their ImageNet names."""
    with os.scandir(folder) as listing:
        names = sorted(item.name for item in listing if item.is_dir() and not item.name.startswith("."))
    if not names:
        raise ValueError(f"{folder}: found no class folders, expected one folder of images per class")
    by_wordnet_id = {}
    if all(_WORDNET_ID.fullmatch(name) for name in names):
        by_wordnet_id = {entry.wordnet_id: entry.name for entry in _read_imagenet()}
        unknown = [name for name in names if name not in by_wordnet_id]
        by_wordnet_id |= {name: _wordnet_lemmas()[name].split(",")[0] for name in unknown if name in _wordnet_lemmas()}
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
        entries.append(_Entry(index, by_wordnet_id.get(name, name), wordnet_id, count))
    return entries


def _read_data_set(url: str) -> list[_Entry]:
    """Classes and counts of the samples (not of the rejected draws) of a data set."""
    import pyarrow.compute as pc  # only this source needs it

    from shards.layout import SUCCESS
    from shards.manifest import iter_tables, scan_records
    from shards.store import open_for_reading

    store = open_for_reading(url)
    columns = ["class_id", "class_name"]
    counts: Counter[tuple[int, str]] = Counter()
    for table in iter_tables(store, scan_records(store), [*columns, "status"]):
        samples = table.filter(pc.equal(table["status"], SUCCESS)).group_by(columns).aggregate([([], "count_all")])
        for row in samples.to_pylist():
            counts[row["class_id"], row["class_name"]] += row["count_all"]
    return [_Entry(class_id, name, None, count) for (class_id, name), count in counts.items()]
