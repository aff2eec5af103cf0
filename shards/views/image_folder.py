"""Exports shards as a folder of pictures by class, and imports such folders as shards.

On disk, as the image folders of torchvision and Hugging Face:

    0007_seven/000120034.jpg   the stored JPEG, byte for byte; the folder is class id and name in plain letters
    metadata.parquet           file_name and every fact of the row; an import does without it if it is missing

Export: in comes a store and a `Choice`, out goes the folder. Import: in comes any folder with one sub-folder for each
class, out go shards. The source folder is only read.

On import a JPEG is stored as it is, with its EXIF (which may hold the place where it was taken), if every decoder shows
it correctly: no rotation note, no bytes behind the end. Any other picture is decoded and encoded again. A picture that
cannot be decoded becomes a row with the reason, and so does a link that leads nowhere or to a folder.

Ids and names of the classes come from a list, or from the sub-folders; shards.labels.folders says how. An image keeps
the domain of its export. Otherwise it is `synthetic` if its XMP says that it was generated, and `real` if not.
"""

import hashlib
import io
import json
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, UnidentifiedImageError

from shards.disk.address import local_root
from shards.disk.data_set import is_data_set, open_to_write
from shards.disk.jpeg import MAX_PIXELS, SOURCE_TYPES, SourceType, decode_jpeg, encode_jpeg, read_source_type
from shards.disk.layout import EDIT_FIELD, MAX_ROWS_PER_SHARD, RUN, SAMPLE_SCHEMA, SUCCESS, sample_key
from shards.disk.pictures import (
    DECODERS,
    FORMATS,
    MAX_PICTURE_BYTES,
    is_system_folder,
    orientation_of,
    picture_format,
    rgb_pixels,
)
from shards.disk.regular import read_regular
from shards.disk.replace import whole_folder
from shards.disk.safe_text import clip, visible
from shards.disk.stand_in import stand_in
from shards.disk.store import FolderStore, ObjectStore, Store, open_for_reading
from shards.labels.classes import Class
from shards.labels.folders import (
    class_folder,
    class_folders_in,
    classes_of_folders,
    files_below,
    trouble_with,
)
from shards.labels.metadata import FILE_NAME, METADATA, facts_beside, refuse_twins
from shards.set.commit import claimed, recover
from shards.set.manifest import scan, scan_records
from shards.set.origin import origin_bytes, read_origin, run_of
from shards.set.row_jpegs import JPEG_COLUMNS, read_jpegs
from shards.set.status import write_summary
from shards.set.writer import ShardWriter
from shards.views.dataset_card import write_folder_card
from shards.views.export import Choice, Exported, select

METADATA_SCHEMA = pa.schema([FILE_NAME, *SAMPLE_SCHEMA])
EDITED_METADATA_SCHEMA = pa.schema([*METADATA_SCHEMA, EDIT_FIELD])  # of folders with edited pictures


@dataclass(frozen=True)
class Imported:
    """What an import wrote, and what it left."""

    num_shards: int
    num_samples: int
    num_failed: int
    num_already_there: int  # shards that an earlier import of the same folder had finished
    ignored: tuple[str, ...]  # files that are no pictures of a kind we read, and folders of an operating system

    @property
    def exit_code(self) -> int:
        """That of the command: 0, or 3 if some pictures could not be read."""
        return 3 if self.num_failed else 0

    def left_out(self) -> str:
        """``"2 .tif, 1 .txt, 1 __MACOSX/"``: what was not read, by suffix, most first; "" for nothing."""
        kinds = Counter(map(_kind_of_file, self.ignored))
        return ", ".join(f"{count:,} {visible(kind)[:20]}" for kind, count in kinds.most_common(10))


@dataclass(frozen=True)
class Source:
    """One picture of a folder: where it lies, its class, and what the folder's metadata knows of it."""

    root: Path
    name: str  # relative to it, with "/"
    class_id: int
    class_name: str
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """Where the picture is."""
        return self.root / self.name


def export_image_folder(store: Store, to: Path, choice: Choice) -> Exported:
    """Write the chosen samples as pictures by class. Raises ValueError if one is damaged, and leaves no folder then."""
    selection = select(store, to, choice)
    digits = len(str(max(selection.census.classes, default=0)))
    schema = EDITED_METADATA_SCHEMA if selection.census.edits else METADATA_SCHEMA
    facts = schema.names[1:]
    with whole_folder(to) as folder, pq.ParquetWriter(folder / METADATA, schema) as metadata:
        for shard in selection.shards():
            table = selection.rows(shard, [*facts, *JPEG_COLUMNS])
            rows = table.to_pylist()
            names = []
            for row, jpeg in zip(rows, read_jpegs(store, shard, rows), strict=True):
                if isinstance(jpeg, str):
                    raise ValueError(f"{store.url}: sample {row['key']}: {jpeg}; nothing was exported")
                names.append(f"{class_folder(row['class_id'], row['class_name'], digits)}/{row['key']}.jpg")
                target = folder / names[-1]
                target.parent.mkdir(exist_ok=True)
                target.write_bytes(jpeg)
            columns = [pa.array(names, pa.string()), *(table[column] for column in facts)]
            metadata.write_table(pa.table(columns, schema=schema))
    return Exported(to, selection.census.successes, selection.num_left_out)


def import_image_folder(
    folder: Path,
    out: str,
    *,
    samples_per_shard: int = 1_000,
    licence: str | None = None,
    quality: int = 95,
    classes: Sequence[Class] | None = None,
    alone: Callable[[FolderStore | ObjectStore], AbstractContextManager[object]] = nullcontext,
    clock: Callable[[], float] = time.time,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Imported:
    """Write the pictures of ``folder`` into shards in ``out``, a folder or URL; called again it goes on.

    ``licence`` is written for pictures whose metadata names none. ``classes`` is the list that gives ids and names;
    without it the sub-folders do, and a part of ImageNet-1k is refused (shards.labels.folders). ``quality`` is for
    pictures that have to be encoded anew. ``alone`` keeps other writers away while shards are made. Raises ValueError
    if there is no picture, a sub-folder is not in ``classes``, or ``out`` lies in ``folder`` or holds something else;
    nothing is written then.
    """
    if not 1 <= samples_per_shard <= MAX_ROWS_PER_SHARD:
        raise ValueError(f"samples_per_shard: found {samples_per_shard}, expected 1..{MAX_ROWS_PER_SHARD}")
    root = local_root(out)
    if root is not None and root.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{out}: found the folder of pictures or one in it, expected one outside; choose another")
    sources, ignored = find_pictures(folder, classes)
    store = open_to_write(out)
    plan = {
        "import": [
            [source.name, _size_of(source.path), source.class_id, source.class_name, *_digest_of_facts(source)]
            for source in sources
        ],
        "samples_per_shard": samples_per_shard,
        "licence": licence,
        "quality": quality,
    }
    fingerprint = hashlib.sha256(json.dumps(plan, sort_keys=True).encode("ascii")).hexdigest()
    begun = read_origin(store)
    marks = claimed(store) | {shard: record.fingerprint for shard, record in scan(store).records.items()}
    if run_of(begun, marks.values()) not in (None, fingerprint):
        raise ValueError(f"{out}: was begun with other pictures or settings; use another output folder")
    starts = range(0, len(sources), samples_per_shard)
    with alone(store):
        if begun is None:
            store.write_exclusive(RUN, origin_bytes(fingerprint, {}, {"made_by": "sixfold export --to shards"}))
        write_folder_card(store, folder.name)
        recover(store)
        records = scan_records(store, fingerprint)
        already = len(records)
        summary = {"asked": {"images": len(sources), "units": len(starts)}, "exit_code": None}
        if already < len(starts):
            write_summary(store, summary)  # first, so that an import that is killed is known by what is missing
        for shard, start in enumerate(starts):
            progress(shard, len(starts))
            if shard in records:
                continue
            chunk = sources[start : start + samples_per_shard]
            started = clock()
            with ShardWriter(store, shard, f"import-{max(0, int(started * 1e6)):x}", fingerprint) as writer:
                for index, source in enumerate(chunk):
                    writer.add(*_row(source, sample_key(shard, index), licence, quality))
                about = {"source": "image folder"}
                records[shard] = writer.commit(started, clock(), about, len(chunk), allow_empty=True)
        progress(len(starts), len(starts))
        done = [records[shard] for shard in range(len(starts))]
        num_samples = sum(record.successes for record in done)
        imported = Imported(len(done), num_samples, len(sources) - num_samples, already, tuple(ignored))
        write_summary(store, {**summary, "exit_code": imported.exit_code})
    return imported


def find_pictures(folder: Path, classes: Sequence[Class] | None = None) -> tuple[list[Source], list[str]]:
    """The pictures of a folder, mixed over the classes in an order that depends on their names only, and other files.

    A folder that was exported keeps its order by key. Raises ValueError as `import_image_folder` does.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: found no folder, expected one with a sub-folder for each class; check the path")
    if is_data_set(open_for_reading(str(folder))):
        raise ValueError(f"{folder}: found a data set of shards, expected a folder of pictures; use it as it is")
    sub_folders = class_folders_in(folder)
    facts = facts_beside(folder)
    names = {row["class_id"]: row["class_name"] for row in facts.values() if {"class_id", "class_name"} <= row.keys()}
    known = classes_of_folders(sub_folders, classes, names, str(folder))
    sources = []
    ignored = sorted(path.name for path in folder.iterdir() if not path.is_dir() and path.name != METADATA)
    ignored += sorted(f"{path.name}/" for path in folder.iterdir() if is_system_folder(path.name))
    for sub_folder in sub_folders:
        one = known[sub_folder]
        for path in files_below(folder / sub_folder):
            name = path.relative_to(folder).as_posix()
            if picture_format(path) is None and not trouble_with(path):
                ignored.append(name)
                continue
            row = facts.get(name, {})
            kept = row.get("class_name") if classes is None else None
            sources.append(Source(folder, name, one.id, kept or one.name, row))
    if not sources:
        raise ValueError(
            f"{folder}: found no picture in {len(sub_folders)} sub-folders, expected {', '.join(FORMATS)} files; put "
            f"the pictures of each class into {folder}/CLASS/"
        )
    sources.sort(key=lambda source: (source.facts.get("key", ""), _digest(source.name)))
    refuse_twins(((source.name, _uid_of(source)) for source in sources), folder)
    return sources, ignored


def _uid_of(source: Source) -> str:
    return str(source.facts.get("uid") or _digest(source.name)[:32])


def _row(source: Source, key: str, licence: str | None, quality: int) -> tuple[dict[str, Any], bytes | None]:
    """The row of one picture and its JPEG; without a JPEG when it cannot be decoded."""
    trouble, shown = trouble_with(source.path), visible(source.name)
    data = b""
    if not trouble:
        try:
            data = read_regular(source.path, MAX_PICTURE_BYTES)
        except OSError as error:
            trouble = f"cannot be read ({error.strerror})"
    row = dict(source.facts)
    found = read_source_type(data)
    generated = "edited" if found == SOURCE_TYPES[1] else "synthetic" if found == SOURCE_TYPES[0] else None
    row |= {"key": key, "class_id": source.class_id, "class_name": source.class_name}
    row["uid"] = _uid_of(source)
    if generated and row.get("domain", "real") == "real":
        row["domain"] = generated  # the picture's own word counts more than the folder's
    row.setdefault("domain", "real")
    row.setdefault("caption", source.class_name)
    if licence is not None:
        row.setdefault("licence", licence)
    source_type: SourceType | None = {"synthetic": SOURCE_TYPES[0], "edited": SOURCE_TYPES[1]}.get(row["domain"])
    if trouble:
        return {**row, "status": "failed_to_decode", "error_message": f"{shown}: {trouble}"}, None
    try:
        jpeg, (height, width), (original_height, original_width) = _as_jpeg(data, source, quality, source_type)
    except UnidentifiedImageError:
        what = stand_in(data) or f"no picture of the kinds {', '.join(DECODERS)}"
        message = f"{shown}: found {what}"
        return {**row, "status": "failed_to_decode", "error_message": message}, None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        message = f"{shown}: {clip(str(error), 300)}"
        return {**row, "status": "failed_to_decode", "error_message": message}, None
    row |= {"status": SUCCESS, "width": width, "height": height}
    row.setdefault("original_width", original_width)
    row.setdefault("original_height", original_height)
    return row, jpeg


def _as_jpeg(
    data: bytes, source: Source, quality: int, source_type: SourceType | None
) -> tuple[bytes, tuple[int, int], tuple[int, int]]:
    """JPEG bytes, their (height, width) and those of the file. Raises what a decoder raises."""
    kind = picture_format(source.name)
    with warnings.catch_warnings(action="error", category=Image.DecompressionBombWarning):
        opened = Image.open(io.BytesIO(data), formats=DECODERS)
    with opened as image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise ValueError(f"the header says {width} x {height} pixels, at most {MAX_PIXELS} are decoded")
        is_plain = kind == image.format == "JPEG" and image.mode in ("RGB", "L") and data.endswith(b"\xff\xd9")
        if is_plain and orientation_of(image) == 1 and (source_type is None or read_source_type(data) is not None):
            decode_jpeg(data)
            return data, (height, width), (height, width)
        pixels = rgb_pixels(image)
    jpeg = encode_jpeg(pixels, quality, "444", source_type)
    return jpeg, (pixels.shape[0], pixels.shape[1]), (height, width)


def _size_of(path: Path) -> int:
    return 0 if trouble_with(path) else path.stat().st_size


def _kind_of_file(name: str) -> str:
    """``"a/b.TIF"`` -> ``".tif"``; ``"._*.png"`` for what macOS leaves beside a picture; folders by name."""
    path = PurePosixPath(name)
    if name.endswith("/"):
        return name
    return ("._*" if path.name.startswith("._") else "") + path.suffix.lower() or "without a suffix"


def _digest_of_facts(source: Source) -> list[str]:
    """One hash; none of a picture without facts, so that a folder without metadata keeps the fingerprint it had."""
    return [_digest(json.dumps(dict(source.facts), sort_keys=True))] if source.facts else []


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
