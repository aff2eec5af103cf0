"""The real images of each class, as pixels, for meanings, style inversion and reports.

In: an ImageFolder, or a data set of ours (folder or URL, optionally one of its subsets); classes. Out: class by class,
ids ascending, a limited number of images of each. For a picture that cannot be used, its reason comes out, and another
picture of the class takes its place. On disk: nothing is written.

Folders are matched with classes as shards.labels.folders says. If no folder names a class, the folders' own ids count,
provided they are the ids of all classes. A sample of a data set belongs to the class with the same id and name,
otherwise to the only class of that name. Only samples of the domain `real` are used.

The images of a class are those whose names come first after hashing with the seed. So a larger number gives a longer
list in the same order, and neither other classes nor the order of files or shards matter.
"""

import errno
import hashlib
import io
import struct
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from PIL import Image as Picture

from shards.disk.address import is_remote, places_of
from shards.disk.data_set import is_data_set
from shards.disk.jpeg import MAX_PIXELS
from shards.disk.pictures import DECODERS, MAX_PICTURE_BYTES, is_picture, picture_format, rgb_pixels
from shards.disk.regular import read_regular
from shards.disk.safe_text import quoted, redact, visible
from shards.disk.store import Store, open_for_reading
from shards.labels.classes import Class
from shards.labels.folders import class_folder, class_folders_in, files_below, fold_name, match_folders, own_classes
from shards.set.manifest import read_member, read_subset, scan_records
from shards.set.row_jpegs import JPEG_COLUMNS
from shards.set.subset import iter_samples

MAX_SIDE_RATIO = 32  # a strip of 1 x 60,000 px is no picture of anything, and preprocessing would blow it up
SPARE = 2  # of a data set's samples, so many times the asked number are remembered in case some cannot be read
READ_THREADS = 4
READ_AHEAD = 8  # pictures decoded ahead, so memory is that of eight

Image = NDArray[np.uint8]  # H W 3, RGB


@dataclass(frozen=True)
class RealImage:
    """One picture of a class, or why it cannot be used; exactly one of `pixels` and `reason` is None."""

    class_id: int
    name: str  # file below the folder, or key of the sample
    pixels: Image | None
    reason: str | None  # failed_to_decode | too_large | too_narrow | unsupported_format | unreadable | damaged


@dataclass(frozen=True)
class _Item:
    name: str
    read: Callable[[], bytes | str]  # the file's bytes, or the reason why there are none


def read_real(
    source: str,
    classes: Sequence[Class],
    max_per_class: int,
    seed: int,
    subset: str | None = None,
    wanted: Collection[int] | None = None,
) -> Iterator[RealImage]:
    """Up to `max_per_class` pictures of each class; a class without any is left out.

    `classes` are all of the list, because a picture's class may be told by what the other classes are; `wanted`: the
    ids whose pictures are read, None for all. Raises ValueError (one line) if the source is neither kind, no class of
    the list is in it, or not one picture of all that it has could be decoded.
    """
    where = visible(redact(source))[:200]
    wanted = {one.id for one in classes} if wanted is None else set(wanted)
    items = _items(source, where, classes, wanted, max_per_class, seed, subset)
    reasons: Counter[str] = Counter()
    num_decoded = 0
    has_others = False
    with ThreadPoolExecutor(READ_THREADS) as pool:
        for class_id, queue in items:
            has_others |= class_id not in wanted
            num_wanted, at = max_per_class, 0
            while num_wanted and at < len(queue):
                chunk = queue[at : at + min(READ_AHEAD, num_wanted)]
                at += len(chunk)
                for item, found in zip(chunk, pool.map(_decoded, chunk), strict=True):
                    if isinstance(found, str):
                        reasons[found] += 1
                        yield RealImage(class_id, item.name, None, found)
                    else:
                        num_wanted -= 1
                        num_decoded += 1
                        yield RealImage(class_id, item.name, found, None)
    if not num_decoded and not has_others:
        counted = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items())) or "no picture at all"
        raise ValueError(f"{where}: found {counted}, expected at least one picture that can be decoded")


def decode_picture(data: bytes) -> Image | str:
    """RGB pixels, the right way up; a `str` is the reason why there are none.

    Size is judged from the header, before anything is allocated; only shards.disk.pictures' decoders are opened.
    """
    try:
        with Picture.open(io.BytesIO(data), formats=DECODERS) as picture:
            width, height = picture.size
            if width * height > MAX_PIXELS:
                return "too_large"
            if max(width, height) > MAX_SIDE_RATIO * min(width, height):
                return "too_narrow"
            return np.array(rgb_pixels(picture))
    except (Picture.DecompressionBombError, Picture.DecompressionBombWarning):
        return "too_large"
    except (OSError, ValueError, TypeError, SyntaxError, EOFError, IndexError, KeyError, OverflowError, struct.error):
        return "failed_to_decode"  # Pillow's decoders raise all of these on broken files


def content_of(source: str, subset: str | None) -> str:
    """Hex sha256 of what decides which pictures are read: the hashes of a data set's shards and of the subset's list,
    or name and size of each file of an ImageFolder, whose bytes would take minutes. Raises ValueError or OSError."""
    folder = None if is_remote(source) else next((path for path in places_of(source) if path.is_dir()), Path(source))
    store = open_for_reading(source if folder is None else str(folder))
    if folder is None or is_data_set(store):
        lines = [f"{shard} {record.tar.sha256}" for shard, record in sorted(scan_records(store).items())]
        lines += [] if subset is None else sorted(read_subset(store, subset)[0]["uid"].to_pylist())
    else:
        files = [file for name in class_folders_in(folder) for file in files_below(folder / name) if is_picture(file)]
        lines = sorted(f"{file.relative_to(folder).as_posix()} {file.stat().st_size}" for file in files)
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def folders_of(folders: Sequence[str], classes: Sequence[Class], where: str) -> dict[int, str]:
    """Class id -> folder, ids ascending. Raises ValueError if no folder is one of the classes, or cannot be told."""
    matched = {one.id: folder for folder, one in match_folders(folders, classes, where).items()}
    if not matched and len(folders) == len(classes):
        own = {one.id: folder for folder, one in own_classes(folders, where).items()}
        matched = own if own.keys() == {one.id for one in classes} else {}
    if not matched:
        some = ", ".join(quoted(folder, 40) for folder in sorted(folders)[:3]) or "none"
        raise ValueError(
            f"{where}: found the class folders {some} ({len(folders)} in all), expected the names of the classes, such "
            f"as {quoted(classes[0].name, 60)} or {class_folder(classes[0].id, classes[0].name)}"
        )
    return dict(sorted(matched.items()))


# the two kinds of source


def _items(
    source: str,
    where: str,
    classes: Sequence[Class],
    wanted: Set[int],
    max_per_class: int,
    seed: int,
    subset: str | None,
) -> Iterator[tuple[int, list[_Item]]]:
    """Class by class, ids ascending, the pictures that may be read, in the order in which to try them; none of a class
    that is there and not wanted."""
    ordered = sorted(classes, key=lambda one: one.id)
    if is_remote(source):
        yield from _samples(open_for_reading(source), where, ordered, wanted, max_per_class, seed, subset)
        return
    found = [path for path in places_of(source) if path.is_dir()]
    if not found:
        raise ValueError(
            f"{where}: found no such folder, expected an ImageFolder or a data set of real images; check the path"
        )
    folder = found[0]
    store = open_for_reading(str(folder))
    if is_data_set(store):
        yield from _samples(store, where, ordered, wanted, max_per_class, seed, subset)
        return
    if subset is not None:
        raise ValueError(f"{where}: found an ImageFolder, which has no subsets; remove subset: {quoted(subset, 60)}")
    for class_id, name in folders_of(class_folders_in(folder), ordered, where).items():
        if class_id not in wanted:
            yield class_id, []
            continue
        files = [file.relative_to(folder).as_posix() for file in files_below(folder / name) if is_picture(file)]
        files.sort(key=lambda file: _rank(seed, file))
        yield class_id, [_Item(visible(file), partial(_read_file, folder / file)) for file in files]


def _samples(
    store: Store,
    where: str,
    classes: Sequence[Class],
    wanted: Set[int],
    max_per_class: int,
    seed: int,
    subset: str | None,
) -> Iterator[tuple[int, list[_Item]]]:
    """The real samples of a data set. Remembers at most 2 * SPARE * max_per_class rows a class."""
    by_id = {one.id: one for one in classes}
    times = Counter(fold_name(one.name) for one in classes)
    by_name = {fold_name(one.name): one for one in classes if times[fold_name(one.name)] == 1}
    columns = ["uid", "key", "shard", "class_id", "class_name", "status", "domain", *JPEG_COLUMNS]
    kept: dict[int, list[tuple[bytes, dict[str, object]]]] = {}
    domains: Counter[str] = Counter()
    limit = SPARE * max_per_class
    for table in iter_samples(store, subset, columns, "real images"):
        domains.update(table["domain"].to_pylist())
        for row in _rows(table.filter(pc.equal(table["domain"], "real"))):
            same_id = by_id.get(int(str(row["class_id"])))
            name = fold_name(str(row["class_name"]))
            one = same_id if same_id and fold_name(same_id.name) == name else by_name.get(name)
            if one is None:
                continue
            rows = kept.setdefault(one.id, [])
            if one.id not in wanted:
                continue
            rows.append((_rank(seed, str(row["uid"])), row))
            if len(rows) > 2 * limit:
                rows.sort(key=lambda ranked: ranked[0])
                del rows[limit:]
    if not kept:
        counted = ", ".join(f"{count} {domain}" for domain, count in sorted(domains.items())) or "none"
        raise ValueError(
            f"{where}: found no real sample of the {len(classes)} classes (samples by domain: {counted}), expected "
            "some; give the data set of real images"
        )
    for class_id in sorted(kept):
        rows = sorted(kept[class_id], key=lambda ranked: ranked[0])[:limit]
        yield class_id, [_Item(str(row["key"]), partial(_read_sample, store, row)) for _, row in rows]


def _rows(table: pa.Table) -> Iterator[dict[str, object]]:
    for batch in table.to_batches(max_chunksize=10_000):
        yield from batch.to_pylist()


def _rank(seed: int, name: str) -> bytes:
    return hashlib.blake2b(f"{seed}/{name}".encode("utf-8", "surrogateescape"), digest_size=16).digest()


def _decoded(item: _Item) -> Image | str:
    data = item.read()
    return data if isinstance(data, str) else decode_picture(data)


def _read_file(path: Path) -> bytes | str:
    if picture_format(path) is None:
        return "unsupported_format"
    try:
        return read_regular(path, MAX_PICTURE_BYTES)
    except OSError as error:
        return "too_large" if error.errno == errno.EFBIG else "unreadable"


def _read_sample(store: Store, row: dict[str, object]) -> bytes | str:
    try:
        return read_member(store, row)
    except OSError:
        return "unreadable"
    except ValueError:
        return "damaged"  # missing, short, or other bytes than the table says
