"""The index of a data set: where every sample's picture lies, as arrays that a training run reads by number.

In: a data set of ours (folder or URL; records, tables, optionally a subset), tars that others wrote (`foreign_tars`),
an image folder (`pictures`), or a data set of Hugging Face (`hugging_face`). Out: an `Index`. On disk: what
shards.stream.saved_index keeps; the last two kinds are looked at anew each time.

An index is known by its entries, one for each tar: for a shard of ours its record's hashes and what the subset chooses
of it, for others' tars name, size and time. So a data set that changed is never read through an old index, and the tars
that are as they were are taken from it.
"""

import binascii
import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from shards.disk.data_set import is_data_set, is_image_folder, kind_of_place
from shards.disk.layout import MAX_ROWS_PER_SHARD, SUCCESS, shard_name, tar_name
from shards.disk.record import Record
from shards.disk.store import FolderStore, Store, open_for_reading
from shards.labels.folders import Named
from shards.set.manifest import iter_tables, read_subset, read_table, scan_records
from shards.set.subset import refuse_lost
from shards.stream.foreign_tars import Foreign, ForeignTar, keys_of, scan_foreign, short_id
from shards.stream.hugging_face import Files, hugging_face_classes, hugging_face_files, index_hugging_face
from shards.stream.index_arrays import ARRAYS, ROWS, Index, Int64, UInt64, hash_of_arrays, make_index
from shards.stream.pictures import index_pictures, picture_classes
from shards.stream.saved_index import Before, key_of, newest_saved, one_builder, places_of, read_saved, save_index

T = TypeVar("T", int, str)

ClassList: TypeAlias = Callable[[str], Sequence[Named] | None]  # source -> classes whose ids it has; None: its own

COLUMNS = ("key", "uid", "status", "class_id", "jpg_offset", "jpg_size", "sha256")


def own_classes(source: str) -> None:
    """A `ClassList`: class folders and class labels have the ids that they have by themselves."""


def load_index(
    url: str, subset: str | None = None, cache: Path | None = None, class_list: ClassList = own_classes
) -> Index:
    """The index of the data set at `url`: the saved one if it fits, else built and saved.

    `subset` names a subset of ours; for tars that others wrote, it is how the names of those to read begin, and of a
    set of Hugging Face the split. `cache` is used when the data set's own folder cannot be written. `class_list` says
    which ids class folders and class labels have; it is asked for them alone. Raises ValueError for a damaged shard, a
    subset that names what is not there, an id or key that occurs twice, tars that are cut short or hold no labels.
    """
    store = open_for_reading(url)
    apart = _apart(store, subset)
    if isinstance(apart, Files):
        return index_hugging_face(store.url, apart, class_list(url))
    if apart is not None:
        return index_pictures(apart, class_list(url))
    wanted = _ours(store, subset) if is_data_set(store) else _foreign(store, subset)
    places = places_of(store, subset, cache)
    saved = read_saved(store.url, places, wanted.key)
    if saved is not None:
        return saved
    with one_builder(places):
        saved = read_saved(store.url, places, wanted.key)  # by the process that was waited for
        if saved is not None:
            return saved
        index = wanted.build(newest_saved(store.url, places))
        _refuse_twins(index, wanted.ids_of)
        save_index(places, wanted.entries, index)
    return index


def foreign_keys(url: str, subset: str | None, index: Index, numbers: Sequence[int]) -> Iterator[list[str]]:
    """For each of these tars of an index of tars that others wrote the keys of its pictures; for a file of a set of
    Hugging Face `<its name>/<row>` of all its rows. Raises ValueError for what cannot be read any more."""
    store = open_for_reading(url)
    apart = _apart(store, subset)
    for number in numbers:
        if isinstance(apart, Files):
            rows = int(index.first[number + 1] - index.first[number] + index.left_out[number])
            yield [f"{apart.names[number]}/{row}" for row in range(rows)]
        else:
            yield keys_of(store, index.tars[number], int(index.tar_bytes[number]))


def own_classes_of(url: str, subset: str | None = None) -> Sequence[Named] | None:
    """The classes that an image folder or a set of Hugging Face has by itself; None for tars, which have numbers."""
    apart = _apart(open_for_reading(url), subset)
    if isinstance(apart, Files):
        return hugging_face_classes(apart)
    return None if apart is None else picture_classes(apart)


def _apart(store: Store, subset: str | None) -> Files | FolderStore | None:
    """The files of a set of Hugging Face, or the folder of pictures, that is there; None for tars, or for nothing."""
    if not isinstance(store, FolderStore) or kind_of_place(store) in ("data set", "tars"):
        return None
    if not is_image_folder(store):
        return hugging_face_files(store, subset)
    if subset is not None:
        raise ValueError(f"{store.url}: found an image folder, expected no subset; give the folder of the part itself")
    return store  # also beside a metadata.parquet, as our export writes it


@dataclass(frozen=True)
class _Wanted:
    """An index that is asked for."""

    entries: tuple[str, ...]  # for each tar, as JSON: all that its part of the index depends on
    build: Callable[[Before | None], Index]
    ids_of: Callable[[int], list[tuple[str, str]]]  # number of a tar -> (key, whole id) of what is in it

    @property
    def key(self) -> str:
        return key_of(self.entries)


def _ours(store: Store, subset: str | None) -> _Wanted:
    records = scan_records(store)
    chosen = _chosen_keys(store, subset, records) if subset is not None else None
    shards = sorted(records if chosen is None else chosen)
    entries = tuple(
        json.dumps(
            [
                shard,
                records[shard].tar.sha256,
                records[shard].parquet.sha256,
                None if chosen is None else hash_of_arrays(*chosen[shard]),
            ]
        )
        for shard in shards
    )
    return _Wanted(
        entries,
        lambda before: _build_ours(store, {shard: records[shard] for shard in shards}, chosen, subset, entries, before),
        lambda number: _ids_of(store, shards[number]),
    )


def _foreign(store: Store, subset: str | None) -> _Wanted:
    foreign = Foreign.find(store, subset)
    entries = tuple(json.dumps([name, *stamp]) for name, stamp in foreign.stamps.items())
    return _Wanted(
        entries,
        lambda before: _build_foreign(store, foreign, entries, before),
        lambda number: _foreign_ids(store, foreign, number),
    )


def _build_foreign(store: Store, foreign: Foreign, entries: Sequence[str], before: Before | None) -> Index:
    known = _known(foreign.tars, entries, before)
    fresh = Foreign({name: stamp for name, stamp in foreign.stamps.items() if name not in known})
    tars = dict(zip(fresh.tars, scan_foreign(store, fresh), strict=True))
    for name, (old, number) in known.items():
        tars[name] = ForeignTar(
            bytes=int(old.index.tar_bytes[number]),
            sha256=old.index.tar_sha256[number],
            left_out=int(old.index.left_out[number]),
            offset=old.rows("offset", number),
            size=old.rows("size", number),
            label=old.rows("label", number),
            uid=old.rows("uid", number),
        )
    scanned = [tars[name] for name in foreign.tars]
    return make_index(
        store.url,
        tuple(foreign.tars),
        tuple(tar.sha256 for tar in scanned),
        {
            "first": _starts([len(tar.offset) for tar in scanned]),
            "tar_bytes": np.array([tar.bytes for tar in scanned], np.int64),
            "left_out": np.array([tar.left_out for tar in scanned], np.int64),
            "offset": _joined([tar.offset for tar in scanned], np.int64),
            "size": _joined([tar.size for tar in scanned], np.int64),
            "label": _joined([tar.label for tar in scanned], np.int32),
            "uid": _joined([tar.uid for tar in scanned], np.uint64),
            "picture_hash": np.zeros(sum(len(tar.offset) for tar in scanned), np.uint64),
        },
    )


def _known(names: Sequence[T], entries: Sequence[str], before: Before | None) -> dict[T, tuple[Before, int]]:
    """Those tars (or shards) that an earlier index has as they are now: (it, their number in it)."""
    if before is None:
        return {}
    pairs = zip(names, entries, strict=True)
    return {name: (before, before.tars[entry]) for name, entry in pairs if entry in before.tars}


def _build_ours(
    store: Store,
    records: dict[int, Record],
    chosen: dict[int, tuple[Int64, UInt64]] | None,
    subset: str | None,
    entries: Sequence[str],
    before: Before | None,
) -> Index:
    """Reads one table after the other, of shards that `before` has not, into arrays of the final length."""
    known = _known(list(records), entries, before)
    counts = [records[shard].successes if chosen is None else len(chosen[shard][0]) for shard in records]
    arrays: dict[str, npt.NDArray[Any]] = {
        "first": _starts(counts),
        "tar_bytes": np.array([record.tar.bytes for record in records.values()], np.int64),
        "left_out": np.array([record.count for record in records.values()], np.int64) - np.array(counts, np.int64),
    }
    arrays |= {name: np.empty(sum(counts), ARRAYS[name]) for name in ROWS}
    tables = iter_tables(store, {shard: records[shard] for shard in records if shard not in known}, COLUMNS)
    stop = 0
    for shard, count in zip(records, counts, strict=True):
        start, stop = stop, stop + count
        if shard in known:
            old, number = known[shard]
            for name in ROWS:
                arrays[name][start:stop] = old.rows(name, number)
            continue
        table = next(tables)
        table = table.filter(pc.equal(table["status"], SUCCESS))
        where = f"{store.url}: shard {shard_name(shard)}"
        if table.num_rows != records[shard].successes:
            raise ValueError(
                f"{where}: found {table.num_rows} successes, its record says {records[shard].successes}; "
                "run `sixfold verify`"
            )
        keys = _keys_of(table, where, shard)
        uids = _short_ids(table["uid"], where)
        if chosen is not None:
            table, uids = _only(table, keys, uids, chosen[shard], f"subset {subset}: shard {shard_name(shard)}")
        for name, column in {"offset": "jpg_offset", "size": "jpg_size", "label": "class_id"}.items():
            if table[column].null_count:
                raise ValueError(f"{where}: found a success without a picture; run `sixfold verify`")
            arrays[name][start:stop] = table[column].to_numpy()
        arrays["uid"][start:stop] = uids
        arrays["picture_hash"][start:stop] = _first_bits(table["sha256"], where)
    return make_index(
        store.url,
        tuple(tar_name(shard) for shard in records),
        tuple(record.tar.sha256 for record in records.values()),
        arrays,
    )


def _chosen_keys(store: Store, subset: str, records: dict[int, Record]) -> dict[int, tuple[Int64, UInt64]]:
    """Shard -> (keys, short ids) of the samples in `subset`, keys rising."""
    samples, _ = read_subset(store, subset)
    where = f"{store.url}: subset {subset}"
    shards = samples["shard"].to_numpy()
    keys = _keys_of(samples, where, shards)
    ids = _short_ids(samples["uid"], where)
    refuse_lost(where, np.unique(shards).tolist(), records)
    order = np.argsort(keys, kind="stable")
    keys, ids, shards = keys[order], ids[order], shards[order]
    twins = np.flatnonzero(keys[1:] == keys[:-1])
    if len(twins):
        raise ValueError(f"{where}: names key {keys[twins[0]]:09d} twice, expected each sample once; write it again")
    starts = np.flatnonzero(np.diff(shards, prepend=-1))
    ends = np.append(starts[1:], len(shards))
    return {int(shards[s]): (keys[s:e], ids[s:e]) for s, e in zip(starts, ends, strict=True)}


def _only(
    table: pa.Table, keys: Int64, ids: UInt64, chosen: tuple[Int64, UInt64], where: str
) -> tuple[pa.Table, UInt64]:
    """The rows of `table` with the chosen keys. Raises ValueError if one is not there or is another sample now."""
    taken = np.flatnonzero(np.isin(keys, chosen[0]))
    if len(taken) != len(chosen[0]):
        lost = np.setdiff1d(chosen[0], keys)
        raise ValueError(
            f"{where} has no sample with key {lost[0]:09d}, which the subset names; write the subset again"
        )
    taken = taken[np.argsort(keys[taken], kind="stable")]
    other = np.flatnonzero(ids[taken] != chosen[1])
    if len(other):
        raise ValueError(
            f"{where}: key {keys[taken][other[0]]:09d} is another sample than when the subset was made; write it again"
        )
    taken.sort()
    return table.take(taken), ids[taken]


def _keys_of(table: pa.Table, where: str, shard: int | Int64) -> Int64:
    """The keys as numbers. Raises ValueError if one does not belong to its shard."""
    keys = pc.cast(table["key"], pa.int64()).to_numpy()
    strange = np.flatnonzero(keys // MAX_ROWS_PER_SHARD != shard)
    if len(strange):
        raise ValueError(f"{where}: found key {table['key'][int(strange[0])]} of another shard; run `sixfold verify`")
    return np.asarray(keys, np.int64)


def _short_ids(column: pa.ChunkedArray, where: str) -> UInt64:
    """`short_id` of each sample id. Raises ValueError if one has not the 32 hex digits that our writer asks for."""
    with contextlib.suppress(ValueError):
        if pc.all(pc.equal(pc.binary_length(column), 32)).as_py() is not False:
            halves = np.frombuffer(binascii.unhexlify("".join(column.to_pylist())), ">u8").reshape(-1, 2)
            return np.bitwise_xor(halves[:, 0], halves[:, 1]).astype(np.uint64)
    raise ValueError(f"{where}: found a sample id that has not 32 hex digits; run `sixfold verify`")


def _first_bits(column: pa.ChunkedArray, where: str) -> UInt64:
    """The first 64 bits of each sha256. Raises ValueError if one has not the 64 hex digits that our writer gives."""
    with contextlib.suppress(ValueError):
        if not column.null_count and pc.all(pc.equal(pc.binary_length(column), 64)).as_py() is not False:
            digits = "".join(pc.utf8_slice_codeunits(column, 0, 16).to_pylist())
            return np.frombuffer(binascii.unhexlify(digits), ">u8").astype(np.uint64)
    raise ValueError(f"{where}: found a picture's hash that has not 64 hex digits; run `sixfold verify`")


def _ids_of(store: Store, shard: int) -> list[tuple[str, str]]:
    """(key, whole id) of every draw of a shard."""
    table = read_table(store, [shard], ["key", "uid"])
    return list(zip(table["key"].to_pylist(), table["uid"].to_pylist(), strict=True))


def _foreign_ids(store: Store, foreign: Foreign, number: int) -> list[tuple[str, str]]:
    name = foreign.tars[number]
    return [(key, key) for key in keys_of(store, name, foreign.stamps[name][0])]


def _refuse_twins(index: Index, ids_of: Callable[[int], list[tuple[str, str]]]) -> None:
    """Raises ValueError that names two samples with the same id.

    Only 64 bits are compared first; that two different ids share them is possible, and no fault.
    """
    order = np.argsort(index.uid, kind="stable")
    twins = np.flatnonzero(index.uid[order[1:]] == index.uid[order[:-1]])
    for at in twins:
        pair = index.tar_of(order[at : at + 2])
        seen: dict[str, tuple[int, str]] = {}
        for tar in sorted(set(pair.tolist())):
            for key, uid in ids_of(tar):
                if short_id(uid) != int(index.uid[order[at]]):
                    continue
                if uid in seen:
                    other_tar, other_key = seen[uid]
                    raise ValueError(
                        f"{index.url}: {index.tars[other_tar]} key {other_key} and {index.tars[tar]} key {key} are the "
                        f"same sample (id {uid[:40]!r}), expected each once; remove one, or use a subset that leaves "
                        "one out"
                    )
                seen[uid] = (tar, key)


def _starts(counts: Sequence[int]) -> Int64:
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64)


def _joined(parts: Sequence[npt.NDArray[Any]], kind: type[np.generic]) -> npt.NDArray[Any]:
    return np.concatenate([np.empty(0, kind), *parts]).astype(kind, copy=False)
