"""Where every sample's picture lies, as arrays: what a training run reads by number.

In: a data set of ours (folder or URL; records, tables, optionally a subset), or tars that others wrote (see
`foreign.py`). Out: an `Index`. On disk, so that the second start takes a moment, in `_meta/index/<set>/` of a local
data set that can be written, else in `index/<set>/` of the cache folder given:

    lock                    held by the process that builds; the others wait for what it saves
    <key>/index.json        what each tar was when it was read, the digest; written last
    <key>/first.npy ...     the arrays, no pickles

The set is a hash of the subset's name (in a cache also of the address), the key one of the records' hashes (of names,
sizes and times for others' tars) and of what the subset chooses: a data set that changed is never read through an old
index, but the tars that are as they were are taken from it. An index whose bytes do not give its digest is built again.
The newest `KEPT` of a set stay, and those that a process still reads.
"""

import binascii
import contextlib
import fcntl
import hashlib
import io
import json
import mmap
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from shards.disk.data_set import is_data_set
from shards.disk.layout import MAX_ROWS_PER_SHARD, META, SUCCESS, TAR, shard_name, shard_of, tar_name
from shards.disk.lock import locked, open_to_lock, try_lock
from shards.disk.record import Record
from shards.disk.store import FolderStore, Store, open_for_reading
from shards.set.manifest import iter_tables, read_subset, read_table, scan_records
from shards.stream.foreign_tars import Foreign, ForeignTar, keys_of, scan_foreign, short_id

Int64: TypeAlias = npt.NDArray[np.int64]
Int32: TypeAlias = npt.NDArray[np.int32]
UInt64: TypeAlias = npt.NDArray[np.uint64]
T = TypeVar("T", int, str)

VERSION = 1  # of the digest
SAVED = 2  # of the files
KEPT = 2
BUILD_S = 3600.0  # longest wait for another process that builds the same index
INDEXES = "index"
COLUMNS = ("key", "uid", "status", "class_id", "jpg_offset", "jpg_size")
ARRAYS: dict[str, type[np.generic]] = {
    "first": np.int64,
    "tar_bytes": np.int64,
    "left_out": np.int64,
    "offset": np.int64,
    "size": np.int64,
    "label": np.int32,
    "uid": np.uint64,
}
_SMALL_BYTES = 4096  # a map costs more than such a read


@dataclass(frozen=True, eq=False)
class Index:
    """The n samples of S tars, ordered by tar, then by row. An index of fewer tars is a prefix of a longer one."""

    url: str  # redacted; for people and messages
    tars: tuple[str, ...]  # S names
    tar_sha256: tuple[str, ...]  # S; "" where nobody has read the whole tar yet
    tar_bytes: Int64  # (S,)
    left_out: Int64  # (S,) rows that are no sample here: rejected, not in the subset, without a picture
    first: Int64  # (S + 1,) rows of tar s are first[s] .. first[s + 1]
    offset: Int64  # (n,) of the picture's bytes in its tar
    size: Int64  # (n,)
    label: Int32  # (n,)
    uid: UInt64  # (n,) 64 bits of the sample id
    digest: str  # sha256 of all of it but the url

    def __len__(self) -> int:
        return len(self.offset)

    def tar_of(self, rows: Int64) -> Int64:
        """For each row the number of its tar."""
        return np.searchsorted(self.first, rows, side="right").astype(np.int64) - 1

    def prefix(self, num_tars: int) -> "Index":
        """The index of the first `num_tars` tars: the one that was loaded when there were no more."""
        if not 0 <= num_tars <= len(self.tars):
            raise ValueError(f"{self.url}: found {len(self.tars)} tars, expected at least {num_tars}")
        if num_tars == len(self.tars):
            return self
        rows = int(self.first[num_tars])
        return make_index(
            self.url,
            self.tars[:num_tars],
            self.tar_sha256[:num_tars],
            {
                name: array[: {"first": num_tars + 1, "tar_bytes": num_tars, "left_out": num_tars}.get(name, rows)]
                for name, array in _arrays(self).items()
            },
        )

    def unbroken(self) -> int:
        """How many shards of ours there are before the first number that is missing: what a run over a data set that
        is still growing may use, because only more can come behind it."""
        found = enumerate(shard_of(name, TAR) for name in self.tars)
        return next((number for number, shard in found if shard != number), len(self.tars))


def load_index(url: str, subset: str | None = None, cache: Path | None = None) -> Index:
    """The index of the data set at `url`: the saved one if it fits, else built and saved.

    `subset` names a subset of ours; for tars that others wrote, it is how the names of those to read begin. `cache` is
    used when the data set's own folder cannot be written. Raises ValueError for a damaged shard, a subset that names
    what is not there, an id or key that occurs twice, tars that are cut short or hold no labels.
    """
    store = open_for_reading(url)
    wanted = _ours(store, subset) if is_data_set(store) else _foreign(store, subset)
    places = _places(store, subset, cache)
    saved = _read_saved(store.url, places, wanted.key)
    if saved is not None:
        return saved
    with _one_builder(places):
        saved = _read_saved(store.url, places, wanted.key)  # by the process that was waited for
        if saved is not None:
            return saved
        index = wanted.build(_newest_saved(store.url, places))
        _refuse_twins(index, wanted.ids_of)
        _save(places, wanted, index)
    return index


@dataclass(frozen=True)
class _Before:
    """An index that was saved, and the number of each of its tars by what that tar was then."""

    index: Index
    tars: dict[str, int]

    def rows(self, name: str, tar: int) -> npt.NDArray[Any]:
        """The part of the array `name` that belongs to a tar."""
        part: npt.NDArray[Any] = getattr(self.index, name)[int(self.index.first[tar]) : int(self.index.first[tar + 1])]
        return part


@dataclass(frozen=True)
class _Wanted:
    """An index that is asked for."""

    entries: tuple[str, ...]  # for each tar, as JSON: all that its part of the index depends on
    build: Callable[[_Before | None], Index]
    ids_of: Callable[[int], list[tuple[str, str]]]  # number of a tar -> (key, whole id) of what is in it

    @property
    def key(self) -> str:
        return _hash_of({"version": SAVED, "entries": self.entries})


def make_index(url: str, tars: Sequence[str], tar_sha256: Sequence[str], arrays: dict[str, npt.NDArray[Any]]) -> Index:
    """An index with its digest. Raises ValueError if the arrays do not fit each other."""
    for name, kind in ARRAYS.items():
        if arrays[name].dtype != kind or arrays[name].ndim != 1:
            raise ValueError(f"{url}: found {name} of {arrays[name].dtype}, expected a list of {kind.__name__}")
    first = arrays["first"]
    num = len(tars)
    per_tar = {len(tar_sha256), len(arrays["tar_bytes"]), len(arrays["left_out"]), len(first) - 1}
    per_row = {len(arrays[name]) for name in ("offset", "size", "label", "uid")}
    if per_tar != {num} or per_row != {int(first[-1])} or int(first[0]) or (np.diff(first) < 0).any():
        raise ValueError(f"{url}: found arrays of different lengths, expected {num} tars and {int(first[-1])} rows")
    return Index(
        url=url,
        tars=tuple(tars),
        tar_sha256=tuple(tar_sha256),
        digest=_digest(tars, tar_sha256, arrays),
        **arrays,
    )


def _ours(store: Store, subset: str | None) -> _Wanted:
    records = scan_records(store)
    chosen = _chosen_keys(store, subset, records) if subset is not None else None
    shards = sorted(records if chosen is None else chosen)
    entries = tuple(
        _entry(
            shard,
            records[shard].tar.sha256,
            records[shard].parquet.sha256,
            None if chosen is None else _sha256(*chosen[shard]),
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
    entries = tuple(_entry(name, *stamp) for name, stamp in foreign.stamps.items())
    return _Wanted(
        entries,
        lambda before: _build_foreign(store, foreign, entries, before),
        lambda number: _foreign_ids(store, foreign, number),
    )


def _build_foreign(store: Store, foreign: Foreign, entries: Sequence[str], before: _Before | None) -> Index:
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
        },
    )


def _known(names: Sequence[T], entries: Sequence[str], before: _Before | None) -> dict[T, tuple[_Before, int]]:
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
    before: _Before | None,
) -> Index:
    """Reads one table after the other, of shards that `before` has not, into arrays of the final length."""
    known = _known(list(records), entries, before)
    counts = [records[shard].successes if chosen is None else len(chosen[shard][0]) for shard in records]
    arrays: dict[str, npt.NDArray[Any]] = {
        "first": _starts(counts),
        "tar_bytes": np.array([record.tar.bytes for record in records.values()], np.int64),
        "left_out": np.array([record.count for record in records.values()], np.int64) - np.array(counts, np.int64),
    }
    arrays |= {name: np.empty(sum(counts), ARRAYS[name]) for name in ("offset", "size", "label", "uid")}
    tables = iter_tables(store, {shard: records[shard] for shard in records if shard not in known}, COLUMNS)
    stop = 0
    for shard, count in zip(records, counts, strict=True):
        start, stop = stop, stop + count
        if shard in known:
            old, number = known[shard]
            for name in ("offset", "size", "label", "uid"):
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
    missing = sorted(set(np.unique(shards).tolist()) - records.keys())
    if missing:
        raise ValueError(
            f"{where}: names shard {missing[0]}, which has no record; run the data set's recipe to its end"
        )
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


def _places(store: Store, subset: str | None, cache: Path | None) -> list[Path]:
    """The folders where an index of this set may be saved, in the order of preference."""
    places = []
    if isinstance(store, FolderStore) and os.access(store.root, os.W_OK):
        places.append(store.root / META / INDEXES / _hash_of([subset])[:16])
    if cache is not None:
        places.append(cache.absolute() / INDEXES / _hash_of([store.url, subset])[:16])
    return places


@contextlib.contextmanager
def _one_builder(places: Sequence[Path]) -> Iterator[None]:
    """One process at a time, of all that see the first of these folders that can be locked. After `BUILD_S`, or where
    there are no locks, each builds for itself: the results are equal."""
    with contextlib.ExitStack() as held:
        for place in places:
            try:
                place.mkdir(parents=True, exist_ok=True)
                if held.enter_context(locked(place / "lock", BUILD_S)):
                    break
            except TimeoutError:
                break
            except OSError:
                continue
        yield


def _save(places: Sequence[Path], wanted: _Wanted, index: Index) -> None:
    """Write the index to the first place that takes it. None does: the next start takes as long as this one."""
    for place in places:
        try:
            files = FolderStore(place)
            for name, array in _arrays(index).items():
                file = io.BytesIO()
                np.save(file, array, allow_pickle=False)
                files.replace(f"{wanted.key}/{name}.npy", file.getvalue())
            about = {
                "version": SAVED,
                "key": wanted.key,
                "digest": index.digest,
                "entries": wanted.entries,
                "tars": index.tars,
                "tar_sha256": index.tar_sha256,
            }
            files.replace(f"{wanted.key}/index.json", (json.dumps(about, indent=1) + "\n").encode("ascii"))
            for folder in _newest_first(place)[KEPT:]:
                _remove_unread(folder)
            return
        except OSError:
            continue  # a full or read-only disk; the index is a copy of what the data set says


def _newest_first(place: Path) -> list[Path]:
    """The folders of the indexes saved there."""
    with contextlib.suppress(OSError):
        found = [path for path in place.iterdir() if (path / "index.json").is_file()]
        return sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True)
    return []


def _read_saved(url: str, places: Sequence[Path], key: str) -> Index | None:
    """The saved index; None if there is none, or if its bytes do not give its digest."""
    for place in places:
        found = _open_saved(url, place / key)
        if found is not None:
            return found.index
    return None


def _newest_saved(url: str, places: Sequence[Path]) -> _Before | None:
    """The last index of the set that was saved and is whole."""
    found = (_open_saved(url, folder) for place in places for folder in _newest_first(place))
    return next((one for one in found if one is not None), None)


def _open_saved(url: str, folder: Path) -> _Before | None:
    with contextlib.suppress(Exception):  # numpy, ast and tokenize raise a dozen kinds for bytes that are no array
        about = json.loads((folder / "index.json").read_bytes())
        arrays = {name: _mapped(folder / f"{name}.npy") for name in ARRAYS}
        index = make_index(url, about["tars"], about["tar_sha256"], arrays)
        entries = [str(entry) for entry in about["entries"]]
        said = (about["version"], about["key"], about["digest"])
        is_whole = said == (SAVED, folder.name, index.digest) and len(entries) == len(index.tars)
        if is_whole and _hash_of({"version": SAVED, "entries": entries}) == folder.name:
            return _Before(index, {entry: number for number, entry in enumerate(entries)})
    return None


def _mapped(path: Path) -> npt.NDArray[Any]:
    """The array in a .npy file, its pages shared by all processes that read it.

    A map keeps the file's descriptor, and with it the shared lock that keeps the file from being removed: on a network
    mount a map of a removed file ends the process.
    """
    with path.open("rb") as file:
        is_small = os.fstat(file.fileno()).st_size <= _SMALL_BYTES
        if not is_small:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                raise  # it is being removed
            except OSError:
                pass  # a mount without locks, where nothing is removed
            else:
                if not os.fstat(file.fileno()).st_nlink:
                    raise FileNotFoundError(f"{path}: removed between the opening and the lock")
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError(f"{path}: found another version of the format, expected 1.0")
        (num,), _, kind = np.lib.format.read_array_header_1_0(file)
        start = file.tell()
        file.seek(0)
        data = file.read() if is_small else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return np.frombuffer(data, kind, num, start)


def _remove_unread(folder: Path) -> None:
    """Remove a saved index that no process has mapped. Where there are no locks nothing is removed."""
    with contextlib.suppress(OSError), contextlib.ExitStack() as held:
        for file in folder.glob("*.npy"):
            fd = open_to_lock(file)
            held.callback(os.close, fd)
            if not try_lock(fd):
                return
        shutil.rmtree(folder, ignore_errors=True)  # under the locks, so that no process takes it up meanwhile


def _arrays(index: Index) -> dict[str, npt.NDArray[Any]]:
    return {name: getattr(index, name) for name in ARRAYS}


def _digest(tars: Sequence[str], tar_sha256: Sequence[str], arrays: dict[str, npt.NDArray[Any]]) -> str:
    names = {"version": VERSION, "tars": list(tars), "tar_sha256": list(tar_sha256)}
    return _hash_of({**names, "arrays": [[name, _sha256(arrays[name])] for name in ARRAYS]})


def _entry(*facts: int | str | None) -> str:
    return json.dumps(facts)


def _hash_of(body: object) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode("ascii")).hexdigest()


def _sha256(*arrays: npt.NDArray[Any]) -> str:
    """Of the arrays' values, little-endian."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).data)
    return digest.hexdigest()


def _starts(counts: Sequence[int]) -> Int64:
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64)


def _joined(parts: Sequence[npt.NDArray[Any]], kind: type[np.generic]) -> npt.NDArray[Any]:
    return np.concatenate([np.empty(0, kind), *parts]).astype(kind, copy=False)
