"""Data sets of Hugging Face `datasets` as an index: what `save_to_disk` wrote, or parquet files with pictures.

In: a folder of this machine, the name of a split, and classes if a list says which ids its labels have. Out: an
`Index`. On disk, one of

    state.json, *.arrow                     a `Dataset`, as `save_to_disk` writes it
    dataset_dict.json, <split>/…            a `DatasetDict`; the split is named, or there is only one
    train-00000-of-00002.parquet …          as on the hub, also in `data/`; the split is how the names begin

Arrow files hold the bytes of each picture in one piece, so the index says where, and they are read in place. Parquet
files pack them: each is unpacked once into `arrow/<its sha256>.arrow` in this user's cache, which may be deleted at any
time, and is read there. A file is written under another name and renamed, so a kill leaves no half of one.

The columns are the first of pictures and the first of class labels, as the features of the file name them. Labels are
numbers of the set; with a list, the names of a class label decide (shards.labels.folders). Classes are called as those
of class folders are (shards.labels.spoken).
"""

import contextlib
import functools
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from shards.disk.amounts import size_text
from shards.disk.checked_json import plain_json
from shards.disk.layout import checked_name
from shards.disk.lock import locked
from shards.disk.machine_cache import cache_folder
from shards.disk.parquet import types_of_others
from shards.disk.pictures import MAX_PICTURE_BYTES
from shards.disk.regular import open_regular, read_regular, sha256_of
from shards.disk.replace import whole_file
from shards.disk.safe_text import one_line, quoted, visible
from shards.disk.store import FolderStore
from shards.labels.folders import Entry, Named, classes_of_folders
from shards.labels.imagenet import is_wordnet_id, wordnet_name
from shards.labels.spoken import spoken_names, wordnet_pairs
from shards.stream.foreign_tars import short_id
from shards.stream.index_arrays import Index, make_index
from shards.stream.parts import refuse_missing_parts

STATE, SPLITS = "state.json", "dataset_dict.json"
ARROW, PARQUET = ".arrow", ".parquet"
UNPACKED = "arrow"  # the folder in the cache
MAX_STATE_BYTES = 10_000_000
UNPACK_S = 3600.0  # longest wait for another process that unpacks the same file
ROWS_AT_ONCE = 32  # of a parquet file in memory
MAX_UNPACKED = 20  # times its own size, and `MAX_PICTURE_BYTES`: what more comes out of a file is no data set
_OF_SPLIT = re.compile(r"(.+?)(?:-[0-9]{1,6}-of-[0-9]{1,6}(?:-[0-9a-f]+)?)?\.parquet")


@dataclass(frozen=True)
class Files:
    """The files of one split, all Arrow or all parquet."""

    folder: Path
    names: tuple[str, ...]


@dataclass(frozen=True)
class _Columns:
    """Which columns are read, and what the labels are called."""

    picture: str
    label: str
    names: tuple[str, ...] | None


def hugging_face_files(store: FolderStore, split: str | None) -> Files | None:
    """The files of the set; None if there is no such set. Raises ValueError if the split is not told, not there or
    not whole."""
    root = store.root
    if (root / SPLITS).is_file():
        told = _json(root / SPLITS).get("splits")
        splits = [str(name) for name in told] if isinstance(told, list) else []
        return _saved(root / checked_name(_one_of(splits, split, store.url)))
    if (root / STATE).is_file():
        if split is not None:
            raise ValueError(
                f"{store.url}: found a data set without splits, expected none to be named; drop the subset"
            )
        return _saved(root)
    for folder in (root, root / "data"):
        names = sorted(path.name for path in folder.glob(f"*{PARQUET}")) if folder.is_dir() else []
        if names:
            splits = list(dict.fromkeys(match[1] for name in names if (match := _OF_SPLIT.fullmatch(name))))
            chosen = _one_of(splits, split, store.url)
            names = [name for name in names if (match := _OF_SPLIT.fullmatch(name)) and match[1] == chosen]
            refuse_missing_parts(names, visible(str(folder)))
            return Files(folder, tuple(names))
    return None


def hugging_face_classes(files: Files) -> list[Named] | None:
    """The classes that the labels name; None if they are numbers only."""
    columns = _columns(_schema_of(files.folder / files.names[0]), visible(str(files.folder)))
    return None if columns.names is None else _entries(columns.names)


def index_hugging_face(url: str, files: Files, classes: Sequence[Named] | None) -> Index:
    """Where every picture lies. Raises ValueError for files that cannot be used as they are."""
    where = visible(str(files.folder))
    columns = _columns(_schema_of(files.folder / files.names[0]), where)
    ids = known = None
    if columns.names is not None and classes is not None:
        known = classes_of_folders(columns.names, classes, {}, where)
        ids = np.array([known[name].id for name in columns.names], np.int64)
    is_packed = files.names[0].endswith(PARQUET)
    names = [f"{_unpacked(files.folder / name, columns)}{ARROW}" if is_packed else name for name in files.names]
    root = _cache() if is_packed else files.folder
    parts = [
        _scan(root / name, columns, f"{where}/{visible(own)}") for name, own in zip(names, files.names, strict=True)
    ]
    kept = [size > 0 for _, size, _ in parts]
    labels = [_labels(label[keep], ids, columns, where) for (_, _, label), keep in zip(parts, kept, strict=True)]
    uids = [
        [short_id(f"{name}/{row}") for row in np.flatnonzero(keep)]
        for name, keep in zip(files.names, kept, strict=True)
    ]
    counts = [int(keep.sum()) for keep in kept]
    class_names = None
    if columns.names is not None:
        said = _entries(columns.names) if known is None else [known[name] for name in columns.names]
        class_names = {one.id: one.name for one in said}
    return make_index(
        url,
        names,
        [""] * len(names),
        {
            "first": np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            "tar_bytes": np.array([(root / name).stat().st_size for name in names], np.int64),
            "left_out": np.array([len(keep) - num for keep, num in zip(kept, counts, strict=True)], np.int64),
            "offset": np.concatenate([offset[keep] for (offset, _, _), keep in zip(parts, kept, strict=True)]),
            "size": np.concatenate([size[keep] for (_, size, _), keep in zip(parts, kept, strict=True)]),
            "label": np.concatenate(labels).astype(np.int32),
            "uid": np.array([uid for part in uids for uid in part], np.uint64),
            "picture_hash": np.zeros(sum(counts), np.uint64),
        },
        root=str(root),
        class_names=class_names,
    )


def _one_of(splits: Sequence[str], split: str | None, where: str) -> str:
    if split is None and len(splits) == 1:
        return splits[0]
    if split in splits:
        return str(split)
    found = ", ".join(visible(name) for name in splits[:8]) or "none"
    asked = "several" if split is None else f"no {quoted(split, 40)}"
    raise ValueError(f"{where}: found {asked} among the splits ({found}), expected one; name it as the subset")


def _saved(folder: Path) -> Files:
    state = _json(folder / STATE)
    listed = state.get("_data_files")
    names = [one.get("filename") for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
    if not names or not all(isinstance(name, str) and name.endswith(ARROW) for name in names):
        raise ValueError(
            f"{visible(str(folder / STATE))}: found no Arrow files in it, expected some; save the set again"
        )
    return Files(folder, tuple(checked_name(str(name)) for name in names))


def _json(path: Path) -> dict[str, Any]:
    try:
        told = plain_json(read_regular(path, MAX_STATE_BYTES))
    except ValueError as error:
        raise ValueError(
            f"{visible(str(path))}: found no JSON ({one_line(str(error), 120)}); save the set again"
        ) from None
    return told if isinstance(told, dict) else {}


# columns


def _entries(names: Sequence[str]) -> list[Named]:
    """The class of each label: its number, and its name to say as for class folders (shards.labels.spoken)."""
    if all(map(is_wordnet_id, names)):
        return [Entry(number, wordnet_name(name) or name, name) for number, name in enumerate(names)]
    if pairs := wordnet_pairs(names):
        return [Entry(number, said, wordnet_id) for number, (wordnet_id, said) in enumerate(pairs)]
    return [Entry(number, said) for number, said in enumerate(spoken_names(names))]


def _schema_of(path: Path) -> pa.Schema:
    with _told(path), types_of_others():
        if path.suffix == PARQUET:
            return pq.read_schema(path)
        with os.fdopen(open_regular(path), "rb") as file, pa.ipc.open_stream(file) as reader:
            return reader.schema


@contextlib.contextmanager
def _told(path: Path) -> Any:
    """What pyarrow says of a damaged file, as one line."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ValueError(
            f"{visible(str(path))}: found a file that cannot be read ({one_line(str(error), 160)}), expected Arrow or "
            "parquet; download or save it again"
        ) from None


def _columns(schema: pa.Schema, where: str) -> _Columns:
    """As the features in the file's metadata say; without them a column with `bytes`, and the numbers of `label`."""
    features: Mapping[str, Any] = {}
    with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
        features = plain_json((schema.metadata or {})[b"huggingface"])["info"]["features"]
    kinds = {name: one["_type"] for name, one in features.items() if isinstance(one, dict) and "_type" in one}
    pictures = [name for name in schema.names if kinds.get(name, "Image") == "Image" and _has_bytes(schema.field(name))]
    named = [name for name in schema.names if kinds.get(name) == "ClassLabel"]
    labels = named or [name for name in ("label", "labels", "cls") if name in schema.names]
    if not pictures or not labels or not pa.types.is_integer(schema.field(labels[0]).type):
        raise ValueError(
            f"{where}: found the columns {quoted(', '.join(schema.names), 160)}, expected one of pictures (bytes "
            "inside) and one of class labels; cast them to Image and ClassLabel, and save the set again"
        )
    told = features[labels[0]].get("names") if named else None
    names = tuple(told) if isinstance(told, list) and all(isinstance(name, str) for name in told) else None
    return _Columns(pictures[0], labels[0], names)


def _has_bytes(field: pa.Field) -> bool:
    kind = field.type
    return pa.types.is_struct(kind) and any(
        part.name == "bytes" and (pa.types.is_binary(part.type) or pa.types.is_large_binary(part.type)) for part in kind
    )


def _labels(
    labels: npt.NDArray[np.int64], ids: npt.NDArray[np.int64] | None, columns: _Columns, where: str
) -> npt.NDArray[np.int64]:
    most = 2**31 if columns.names is None else len(columns.names)
    bad = labels[(labels < 0) | (labels >= most)]
    if len(bad):
        raise ValueError(
            f"{where}: found the label {bad[0]} in {quoted(columns.label, 40)}, expected 0..{most - 1}; a split "
            "without labels (-1) can neither train nor test"
        )
    return labels if ids is None else ids[labels]


# Arrow, in place


def _scan(
    path: Path, columns: _Columns, where: str
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Of each row: where the bytes of its picture lie in the file, how many they are (0: none), its label."""
    offsets, sizes, labels = [], [], []
    os.close(open_regular(path))  # a pipe or a device is refused here
    with _told(path), pa.memory_map(str(path)) as mapped:
        whole = mapped.read_buffer(mapped.size())
        with pa.ipc.open_stream(pa.BufferReader(whole)) as reader:
            for batch in reader:
                pictures, label = batch.column(columns.picture), batch.column(columns.label)
                cells = pictures.field("bytes")
                cells.validate(full=True)
                if label.null_count:
                    raise ValueError(f"{where}: found a row without a label, expected one in each; leave such rows out")
                ends, data = cells.buffers()[1:]
                place = _ends(ends, cells)
                start = 0 if data is None else data.address - whole.address
                size = np.diff(place)
                if len(size) and not 0 <= start + place[0] <= start + place[-1] <= whole.size:
                    raise ValueError(
                        f"{where}: found Arrow data that are packed, expected plain ones; save the set with "
                        "`save_to_disk`"
                    )
                if (size > MAX_PICTURE_BYTES).any():
                    raise ValueError(f"{where}: found a picture of {size.max():,} bytes, at most {MAX_PICTURE_BYTES:,}")
                is_there = ~(_nulls(pictures) | _nulls(cells))
                offsets.append(start + place[:-1])
                sizes.append(np.where(is_there, size, 0))
                labels.append(label.cast(pa.int64()).to_numpy(zero_copy_only=False))
    none = np.empty(0, np.int64)
    offset, size, label_of = (np.concatenate([none, *part]).astype(np.int64) for part in (offsets, sizes, labels))
    if len(size) and not size.any():
        raise ValueError(
            f"{where}: found pictures by the names of their files only, expected their bytes; save the set "
            "on the machine that has the files"
        )
    return offset, size, label_of


def _ends(buffer: pa.Buffer | None, cells: pa.Array) -> npt.NDArray[np.int64]:
    """Where each cell begins in the data, and where the last one ends."""
    if buffer is None or not len(cells):
        return np.zeros(1, np.int64)
    kind = np.int64 if pa.types.is_large_binary(cells.type) else np.int32
    return np.frombuffer(buffer, kind)[cells.offset : cells.offset + len(cells) + 1].astype(np.int64)


def _nulls(column: pa.Array) -> npt.NDArray[np.bool_]:
    found: npt.NDArray[np.bool_] = column.is_null().to_numpy(zero_copy_only=False)
    return found


# parquet, unpacked once


def _cache() -> Path:
    return cache_folder(os.environ, UNPACKED, lambda line: None)


def _unpacked(path: Path, columns: _Columns) -> str:
    """The sha256 of a parquet file whose pictures and labels lie in the cache; unpacks them if need be."""
    stat = path.stat()
    sha256 = _sha256(path, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
    target = _cache() / f"{sha256}{ARROW}"
    if not target.is_file():
        with locked(target.with_suffix(".lock"), UNPACK_S):
            if not target.is_file():  # by the process that was waited for
                _unpack(path, columns, target, MAX_UNPACKED * stat.st_size + MAX_PICTURE_BYTES)
    return sha256


@functools.lru_cache(maxsize=4096)
def _sha256(path: Path, size: int, modified_ns: int, changed_ns: int) -> str:
    return sha256_of(path)


def _unpack(path: Path, columns: _Columns, target: Path, most: int) -> None:
    features: dict[str, Any] = {columns.picture: {"_type": "Image"}}
    if columns.names is not None:
        features[columns.label] = {"_type": "ClassLabel", "names": list(columns.names)}
    told = {"huggingface": json.dumps({"info": {"features": features}})}
    cell = pa.struct([pa.field("bytes", pa.large_binary())])
    schema = pa.schema([pa.field(columns.picture, cell), pa.field(columns.label, pa.int64())], metadata=told)
    asked = [f"{columns.picture}.bytes", columns.label]
    written = 0
    with (
        _told(path),
        pq.ParquetFile(path) as packed,
        whole_file(target) as file,
        pa.ipc.new_stream(file, schema) as out,
    ):
        for batch in packed.iter_batches(ROWS_AT_ONCE, columns=asked, use_threads=False):
            written += batch.nbytes
            if written > most:
                raise ValueError(
                    f"{visible(str(path))}: found pictures of more than {size_text(most)} packed in "
                    f"{size_text(path.stat().st_size)}, expected those of a data set"
                )
            out.write_batch(
                pa.RecordBatch.from_arrays(
                    [batch.column(columns.picture).cast(cell), batch.column(columns.label).cast(pa.int64())],
                    schema=schema,
                )
            )
