"""Exports for other tools: timm, open_clip, DALI and the Hugging Face hub.

In: a store with records and a `Choice` of samples. Out and on disk: a folder outside the data set's top level, because
any other JSON file there breaks img2dataset's resume:

    00000.tar …       links to the data set's own tars (copies of those in an object store, compared with the hashes
                      of their records), numbered without gaps; if only some samples of a tar are chosen, a new tar with
                      these, byte for byte
    _info.json        timm:       --dataset wds/NAME --data-dir FOLDER
    sizes.json        open_clip:  --train-data 'FOLDER/{00000..00011}.tar'
    00000.idx …       DALI:       fn.readers.webdataset(paths=…, index_paths=…)
    README.md         Hugging Face dataset card

A sample without a licence that lets it be passed on stops the export, unless the choice says what to do with it. The
data set itself is only read.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from shards.disk.data_set import no_data_set
from shards.disk.layout import MEMBER_EXTENSIONS, META, SUCCESS, tar_name
from shards.disk.record import Record
from shards.disk.replace import whole_folder
from shards.disk.store import FolderStore, Store
from shards.disk.tar import BLOCK, header, padding, trailer
from shards.set.manifest import read_table, scan_records
from shards.set.status import refuse_missing
from shards.set.subset import Subset, chosen_rows
from shards.views.census import Census, licensed_rows, take_census
from shards.views.dataset_card import dataset_card
from shards.views.licence import HOW_TO_NAME

MEMBER_COLUMNS = [f"{extension}_{what}" for extension in MEMBER_EXTENSIONS for what in ("offset", "size")]
MEMBER_HASHES = {
    extension: "sha256" if extension == "jpg" else f"{extension}_sha256" for extension in MEMBER_EXTENSIONS
}
COPY_BYTES = 16 << 20
PAUSES_S = (0.0, 0.2, 0.6, 1.8)  # before each try to read from an object store

UnknownLicence = Literal["refuse", "leave_out", "keep"]


@dataclass(frozen=True)
class Choice:
    """Which samples are exported. ``unknown_licence``: what to do with samples that may not be passed on."""

    subset: Subset | None = None
    unknown_licence: UnknownLicence = "refuse"


@dataclass(frozen=True)
class Exported:
    """What an export wrote."""

    folder: Path
    num_samples: int
    num_left_out: int  # samples without a licence that were left out on request


@dataclass(frozen=True)
class Selection:
    """The chosen samples of a data set, shard by shard."""

    store: Store
    records: Mapping[int, Record]
    choice: Choice
    census: Census
    num_left_out: int  # without a licence, on request

    def rows(self, shard: int, columns: list[str]) -> pa.Table:
        """The chosen samples of one shard, in key order."""
        names = sorted({"uid", "status", "licence", *columns})
        table = chosen_rows(read_table(self.store, {shard: self.records[shard]}, names), shard, self.choice.subset)
        table = licensed_rows(table) if self.choice.unknown_licence == "leave_out" else table
        return table.filter(pc.equal(table["status"], SUCCESS))

    def shards(self) -> list[int]:
        """The shards that hold chosen samples, sorted."""
        subset = self.choice.subset
        return [shard for shard in sorted(self.records) if subset is None or shard in subset]


def select(store: Store, to: Path, choice: Choice) -> Selection:
    """Count the samples that are chosen to go into the folder ``to``; nothing is written.

    Raises ValueError if there are none, if some of a subset are not there, or without a subset the set is not finished,
    if some may not be passed on and the choice is to refuse, or if ``to`` lies among the data set's own files; below
    its ``_meta`` is fine.
    """
    if isinstance(store, FolderStore):
        root, target = store.root.resolve(), to.resolve()
        if target.is_relative_to(root) and not target.is_relative_to(root / META / "export"):
            raise ValueError(
                f"{to}: found the data set itself or a folder in it, expected one outside, or below "
                f"{store.url}/{META}/export; choose another"
            )
    records = scan_records(store)
    if not records:
        raise no_data_set(store)
    if choice.subset is None:
        refuse_missing(store, "export")
    census = take_census(store, records, choice.subset)
    if census.unlicensed and choice.unknown_licence == "refuse":
        raise ValueError(
            f"{store.url}: found {census.unlicensed} of {census.successes} samples without a licence to pass them on, "
            "expected one for each; leave them out (`--unlicensed leave_out`), or keep them for your own use "
            f"(`--unlicensed keep`); {HOW_TO_NAME}"
        )
    num_left_out = 0
    if census.unlicensed and choice.unknown_licence == "leave_out":
        num_left_out = census.unlicensed
        census = take_census(store, records, choice.subset, licensed_only=True)
    if num_left_out and not census.successes:
        raise ValueError(
            f"{store.url}: found no sample with a licence to pass it on, so all {num_left_out:,} would be left out, "
            f"expected at least one; {HOW_TO_NAME}; keep them for your own use with `--unlicensed keep`"
        )
    if not census.successes:
        raise ValueError(
            f"{store.url}: found no chosen sample, expected at least one; choose another subset, or see with "
            "`sixfold show` what became of the draws"
        )
    return Selection(store, records, choice, census, num_left_out)


def export_timm(store: Store, to: Path, choice: Choice, split: str = "train") -> Exported:
    """Links and ``_info.json``; timm then reads it as ``wds/`` with this split."""
    selection = select(store, to, choice)
    with whole_folder(to) as folder:
        lengths = dict(_place_tars(selection, folder, to))
        info = {
            "name": split,
            "num_samples": sum(lengths.values()),
            "filenames": list(lengths),
            "shard_lengths": list(lengths.values()),
        }
        _write_json(folder / "_info.json", {"splits": {split: info}})
    return Exported(to, selection.census.successes, selection.num_left_out)


def export_open_clip(store: Store, to: Path, choice: Choice) -> Exported:
    """Links and ``sizes.json``, tar name to number of samples."""
    selection = select(store, to, choice)
    with whole_folder(to) as folder:
        _write_json(folder / "sizes.json", dict(_place_tars(selection, folder, to)))
    return Exported(to, selection.census.successes, selection.num_left_out)


def export_dali(store: Store, to: Path, choice: Choice) -> Exported:
    """Links and one ``.idx`` a tar, format v1.2: a line a sample, ``extension offset size name`` a member."""
    selection = select(store, to, choice)
    with whole_folder(to) as folder:
        _place_tars(selection, folder, to, _write_dali_index)
    return Exported(to, selection.census.successes, selection.num_left_out)


def export_hugging_face(store: Store, to: Path, choice: Choice) -> Exported:
    """Links and a dataset card, ready for ``hf upload``; the card names models, licences, counts and limits."""
    selection = select(store, to, choice)
    with whole_folder(to) as folder:
        _place_tars(selection, folder, to)
        fingerprints = {selection.records[shard].fingerprint for shard in selection.shards()}
        card = dataset_card(
            selection.census, to.name, sorted(fingerprints), selection.num_left_out, selection.census.unlicensed
        )
        (folder / "README.md").write_text(card, encoding="utf-8")
    return Exported(to, selection.census.successes, selection.num_left_out)


def _place_tars(
    selection: Selection,
    folder: Path,
    final: Path,
    on_tar: Callable[[Path, list[dict[str, int | str]]], None] = lambda path, rows: None,
) -> list[tuple[str, int]]:
    """Put the chosen samples' tars into ``folder``, numbered without gaps; returns (name, samples) of each.

    ``on_tar`` sees where each tar lies and its members' keys, offsets and sizes in it.
    """
    placed: list[tuple[str, int]] = []
    for shard in selection.shards():
        columns = ["key", *MEMBER_COLUMNS, *MEMBER_HASHES.values()]
        rows = selection.rows(shard, columns).select(columns).to_pylist()
        if not rows:
            continue
        name = tar_name(len(placed))
        if len(rows) == selection.records[shard].successes:
            _link_or_copy(selection.store, selection.records[shard], folder / name, final)
        else:
            rows = _cut(selection.store, shard, rows, folder / name)
        on_tar(folder / name, rows)
        placed.append((name, len(rows)))
    return placed


def _link_or_copy(store: Store, record: Record, target: Path, final: Path) -> None:
    name = tar_name(record.shard)
    if isinstance(store, FolderStore):
        # relative, so that an export inside the data set's folder moves with it
        target.symlink_to(os.path.relpath(store.path(name).resolve(), final.resolve()))
        return

    def copy() -> bool:
        digest = hashlib.sha256()
        with target.open("wb") as file:
            for start in range(0, record.tar.bytes, COPY_BYTES):
                piece = store.read_range(name, start, min(COPY_BYTES, record.tar.bytes - start))
                digest.update(piece)
                file.write(piece)
        return digest.hexdigest() == record.tar.sha256

    _try_to_read(store, copy, f"{name}: found other bytes than its record says")


def _cut(store: Store, shard: int, rows: list[dict[str, int | str]], target: Path) -> list[dict[str, int | str]]:
    """Write a tar of these samples, headers and padding as they are; returns the rows with their new offsets.

    A sample's members lie together, so it is one stretch of the old tar.
    """
    first, last = MEMBER_EXTENSIONS[0], MEMBER_EXTENSIONS[-1]
    name = tar_name(shard)
    moved = []
    with target.open("wb") as file:
        for row in rows:
            start = int(row[f"{first}_offset"]) - BLOCK
            end = int(row[f"{last}_offset"]) + int(row[f"{last}_size"]) + len(padding(int(row[f"{last}_size"])))

            def copy(row: dict[str, int | str] = row, start: int = start, end: int = end) -> bool:
                stretch = store.read_range(name, start, end - start)
                is_right = _is_sample(stretch, start, row)
                if is_right:
                    file.write(stretch)
                return is_right

            shift = file.tell() - start
            _try_to_read(store, copy, f"{name}: found other bytes at {row['key']} than the table says")
            offsets = {f"{e}_offset": int(row[f"{e}_offset"]) + shift for e in MEMBER_EXTENSIONS}
            moved.append({**row, **offsets})
        file.write(trailer(file.tell()))
    return moved


def _is_sample(stretch: bytes, start: int, row: Mapping[str, int | str]) -> bool:
    """Whether the bytes from `start` on are those of the row's members: their headers, their hashes, nothing else."""
    parts = []
    for extension in MEMBER_EXTENSIONS:
        at, size = int(row[f"{extension}_offset"]) - start, int(row[f"{extension}_size"])
        data = stretch[at : at + size]
        if hashlib.sha256(data).hexdigest() != row[MEMBER_HASHES[extension]]:
            return False
        parts += [header(f"{row['key']}.{extension}", size), data, padding(size)]
    return b"".join(parts) == stretch


def _try_to_read(store: Store, copy: Callable[[], bool], wrong: str) -> None:
    """Copy until the bytes are right: an object store may answer with a part once. Raises ValueError with `wrong`."""
    for pause_s in PAUSES_S[:1] if isinstance(store, FolderStore) else PAUSES_S:
        time.sleep(pause_s)
        if copy():
            return
    raise ValueError(f"{store.url}/{wrong}; run sixfold verify")


def _write_dali_index(tar: Path, rows: list[dict[str, int | str]]) -> None:
    with tar.with_suffix(".idx").open("w", encoding="ascii") as file:
        file.write(f"v1.2 {len(rows)}\n")
        for row in rows:
            members = (f"{e} {row[f'{e}_offset']} {row[f'{e}_size']} {row['key']}.{e}" for e in MEMBER_EXTENSIONS)
            file.write(" ".join(members) + "\n")


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
