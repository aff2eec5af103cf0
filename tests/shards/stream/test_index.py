"""An index finds every picture of a data set, of ours or of others, and nothing is left out without a word."""

import contextlib
import errno
import fcntl
import hashlib
import io
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tarfile
import time
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.disk.data_set import open_data_set
from shards.disk.jpeg import encode_jpeg
from shards.disk.layout import SAMPLE_SCHEMA, TABLE_SCHEMA, record_name, sample_key, table_name, tar_name
from shards.disk.object_store import ObjectStore
from shards.disk.record import FileStamp, Record
from shards.disk.store import FolderStore, open_store
from shards.set.manifest import read_member, read_table, scan_records, write_subset
from shards.set.writer import ShardWriter
from shards.stream.index import load_index
from shards.stream.index_arrays import ARRAYS, ROWS, Index, arrays_of, hash_of, make_index
from tests.support.small_data_set import FINGERPRINT, picture, sample, write_data_set
from tests.support.traced import peak_bytes


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This user's cache folder on this machine, where indexes are saved."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    """Three shards of 10 pictures and 2 rejected draws."""
    return write_data_set(tmp_path / "ours", 3)


def picture_at(store: FolderStore, index: Index, row: int) -> bytes:
    tar = int(index.tar_of(np.array([row]))[0])
    return store.read_range(index.tars[tar], int(index.offset[row]), int(index.size[row]))


def columns(index: Index) -> dict[str, list[int]]:
    return {
        name: getattr(index, name).tolist()
        for name in ("first", "tar_bytes", "left_out", "offset", "size", "label", "uid")
    }


def saved_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix in (".npy", ".json") and "index" in path.parts)


def add_shard(store: FolderStore, shard: int, num: int = 5) -> None:
    with ShardWriter(store, shard, f"try-{shard}", FINGERPRINT) as writer:
        for index in range(num):
            writer.add(sample(shard, index, index % 3), encode_jpeg(picture(index % 3, index)))
        writer.commit(1.0, 2.0, {"device": "cpu"}, slots=num)


def spoil_tables(store: FolderStore, shards: Iterable[int]) -> None:
    """Other bytes of the same size: the records still fit, and whoever reads such a table is refused."""
    for shard in shards:
        path = store.path(table_name(shard))
        path.write_bytes(bytes(path.stat().st_size))


# data sets of ours


def test_every_success_is_found_in_the_order_of_the_shards(store: FolderStore) -> None:
    index = load_index(store.url)
    table = [row for row in read_table(store, scan_records(store)).to_pylist() if row["status"] == "success"]
    assert len(index) == len(table) == 30
    assert index.tars == ("00000.tar", "00001.tar", "00002.tar")
    assert index.first.tolist() == [0, 10, 20, 30]
    assert index.label.tolist() == [row["class_id"] for row in table]
    assert index.tar_of(np.arange(30)).tolist() == [row["shard"] for row in table]
    assert [picture_at(store, index, row) for row in range(30)] == [read_member(store, row) for row in table]
    assert len(set(index.uid.tolist())) == 30


def test_rejected_draws_are_counted_and_a_shard_may_be_empty(store: FolderStore) -> None:
    with ShardWriter(store, 3, "none", FINGERPRINT) as writer:
        writer.add(sample(3, 0, 1, status="blank"), None)
        writer.commit(1.0, 2.0, {}, slots=1, allow_empty=True)
    index = load_index(store.url)
    assert index.first.tolist() == [0, 10, 20, 30, 30]
    assert index.left_out.tolist() == [2, 2, 2, 1]


def test_the_second_load_reads_no_table(store: FolderStore, cache: Path) -> None:
    built = load_index(store.url)
    assert saved_files(cache)
    spoil_tables(store, range(3))
    again = load_index(store.url)
    assert columns(again) == columns(built)
    assert again.digest == built.digest
    assert (again.tars, again.tar_sha256) == (built.tars, built.tar_sha256)


def test_of_a_data_set_that_grew_only_the_new_tables_are_read(tmp_path: Path, store: FolderStore) -> None:
    """Shards may come in any order, and one may have been made again."""
    add_shard(store, 5)
    load_index(store.url)
    add_shard(store, 4)
    add_shard(store, 7)
    shutil.copytree(store.root, tmp_path / "copy", ignore=shutil.ignore_patterns("_meta"))
    spoil_tables(store, (0, 1, 2, 5))
    index, fresh = load_index(store.url), load_index(str(tmp_path / "copy"))
    assert index.tars == ("00000.tar", "00001.tar", "00002.tar", "00004.tar", "00005.tar", "00007.tar")
    assert columns(index) == columns(fresh)
    assert index.digest == fresh.digest
    for name in (record_name(4), tar_name(4), table_name(4)):
        store.path(name).unlink()
    add_shard(store, 4, num=2)
    assert np.diff(load_index(store.url).first).tolist() == [10, 10, 10, 2, 5, 5]


def test_a_twin_among_the_new_shards_is_found(store: FolderStore) -> None:
    """D18 holds for what is taken from an earlier index as well."""
    load_index(store.url)
    with ShardWriter(store, 3, "again", FINGERPRINT) as writer:
        writer.add({**sample(3, 0, 0), "uid": sample(1, 4, 0)["uid"]}, encode_jpeg(picture(0, 0)))
        writer.commit(1.0, 2.0, {"device": "cpu"}, slots=1)
    with pytest.raises(ValueError, match=r"00001\.tar key 000010004 and 00003\.tar key 000030000 are the same sample"):
        load_index(store.url)


def indexes_of(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.rglob("index.json"))


def test_the_newest_two_indexes_of_a_set_are_kept_and_those_that_are_read(tmp_path: Path, cache: Path) -> None:
    store = write_data_set(tmp_path / "ours", num_shards=2, num_slots=600, num_rejected=0)  # arrays that are mapped
    write_subset(store, "some", read_table(store, [0]), {"rule": "by hand"})
    load_index(store.url, "some")
    other = set(indexes_of(cache))
    load_index(store.url)
    held = load_index(store.url)  # from the files
    first = set(indexes_of(cache)) - other
    wanted = columns(held)
    seen = []
    for shard in range(2, 6):
        add_shard(store, shard)
        load_index(store.url)
        seen.append(set(indexes_of(cache)) - other - first)
        assert first | other <= set(indexes_of(cache))
    assert [len(folders) for folders in seen] == [1, 2, 2, 2]
    assert seen[2] & seen[3]
    assert seen[3] - seen[2]
    assert columns(held) == wanted
    del held
    add_shard(store, 6)
    load_index(store.url)
    assert len(set(indexes_of(cache)) - other) == 2
    assert not first & set(indexes_of(cache))


def test_an_index_that_another_user_saved_is_removed_in_its_turn_and_no_second_copy_is_made(
    tmp_path: Path, store: FolderStore, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Simulated: arrays in a folder of several users that this user may read and not write."""
    opened = os.open

    def open_as_another(path: Path, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if str(path).endswith(".npy") and flags & os.O_ACCMODE != os.O_RDONLY:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return opened(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr("os.open", open_as_another)
    for shard in range(3, 6):
        load_index(store.url, cache=tmp_path / "shared")
        add_shard(store, shard)
    load_index(store.url, cache=tmp_path / "shared")
    assert len(indexes_of(tmp_path / "shared")) == 2
    assert not indexes_of(cache)


def test_an_index_that_nobody_read_for_a_season_goes_when_another_is_saved(
    tmp_path: Path, store: FolderStore, cache: Path
) -> None:
    load_index(store.url)
    (old,) = indexes_of(cache)
    os.utime(old / "index.json", (0, 0))
    load_index(store.url)  # it is read, hence it is in use
    load_index(write_data_set(tmp_path / "second", 1).url)
    assert len(indexes_of(cache)) == 2
    os.utime(old / "index.json", (0, 0))
    load_index(write_data_set(tmp_path / "third", 1).url)
    assert len(indexes_of(cache)) == 2
    assert old not in indexes_of(cache)


def test_k11_an_index_that_lies_in_a_data_set_decides_nothing(tmp_path: Path, store: FolderStore, cache: Path) -> None:
    """One with all labels turned by one, whole by its own digest, where earlier versions looked for it."""
    load_index(store.url)
    (folder,) = indexes_of(cache)
    label = np.load(folder / "label.npy")
    arrays = {name: np.load(folder / f"{name}.npy") for name in ARRAYS} | {"label": (label + 1) % 5}
    about = json.loads((folder / "index.json").read_text())
    about["digest"] = make_index("", about["tars"], about["tar_sha256"], arrays).digest
    np.save(folder / "label.npy", arrays["label"])
    (folder / "index.json").write_text(json.dumps(about))
    for place in (hash_of([None])[:16], hash_of([store.url, None])[:16]):
        shutil.copytree(folder.parent, store.root / "_meta" / "index" / place)
    shutil.rmtree(cache)
    assert load_index(store.url).label.tolist() == label.tolist()


def test_reading_a_data_set_leaves_nothing_in_it(store: FolderStore, tmp_path: Path) -> None:
    write_tar(tmp_path / "foreign" / "00000.tar", imagenet())
    for root in (store.root, tmp_path / "foreign"):
        before = sorted(root.rglob("*"))
        assert len(load_index(str(root)))
        assert sorted(root.rglob("*")) == before


def test_of_several_processes_one_reads_the_tables_and_the_others_wait_for_it(tmp_path: Path) -> None:
    """Each says whether it read a table; one that was killed while it built holds up nobody."""
    store = write_data_set(tmp_path / "ours", num_shards=3)
    code = (
        "import itertools, sys, time\n"
        "import shards.set.manifest as manifest\n"
        "from shards.stream.index import load_index\n"
        "read, tables = manifest._read_one, itertools.count()\n"
        "def slowly(*told):\n"
        "    if next(tables) == 0: print('builds', flush=True)\n"  # tables are read by several threads
        "    time.sleep(float(sys.argv[2]))\n"
        "    return read(*told)\n"
        "manifest._read_one = slowly\n"
        "print(load_index(sys.argv[1]).digest, flush=True)\n"
    )

    def start(pause_s: float) -> "subprocess.Popen[str]":
        told = [sys.executable, "-c", code, store.url, str(pause_s)]
        return subprocess.Popen(told, stdout=subprocess.PIPE, text=True)

    killed = start(600.0)
    assert killed.stdout is not None
    assert killed.stdout.readline() == "builds\n"
    ranks = [start(0.3) for _ in range(4)]
    time.sleep(0.5)
    killed.kill()
    killed.communicate()
    said = [process.communicate(timeout=200)[0].split() for process in ranks]
    digest = load_index(store.url).digest
    assert sorted(said, key=len) == [[digest]] * 3 + [["builds", digest]]


def test_a_builder_that_never_ends_is_not_waited_for_for_ever(
    store: FolderStore, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = load_index(store.url).digest
    (lock,) = cache.rglob("lock")
    for folder in indexes_of(cache):
        shutil.rmtree(folder)
    monkeypatch.setattr("shards.stream.saved_index.BUILD_S", 0.2)
    with lock.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert load_index(store.url).digest == digest


def npy(array: "np.ndarray") -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def npy_that_says(num_rows: int) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<i8", "fortran_order": False, "shape": (num_rows,)})
    return file.getvalue() + bytes(240)


WRONG_BYTES = {
    "empty": b"",
    "a float": npy(np.zeros(30, np.float32)),
    "no list": npy(np.array(7)),
    "no rows": npy(np.zeros(0, np.int64)),
    "a zip": b"PK\x03\x04" + bytes(400),
    "an empty zip": b"PK\x05\x06" + bytes(18),
    "an open bracket": npy(np.zeros(30, np.int64)).replace(b")", b"("),
    "more rows than it has": npy_that_says(31),
    "more rows than memory": npy_that_says(10**15),
    "nested": b"[" * 100_000,
    "null": b"null",
}


@pytest.mark.parametrize("small_bytes", [0, 4096], ids=["mapped", "read"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove", *WRONG_BYTES])
def test_a_damaged_saved_index_is_built_again(
    store: FolderStore, cache: Path, damage: str, small_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shards.stream.saved_index._SMALL_BYTES", small_bytes)
    built = load_index(store.url)
    files = saved_files(cache)
    for path in [one for one in files if one.stem in ("index", "label")] if damage in WRONG_BYTES else files:
        good = path.read_bytes()
        if damage == "flip":
            at = len(good) - 3 if path.suffix == ".npy" else good.index(built.tar_sha256[1].encode()) + 5
            path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        elif damage == "cut":
            path.write_bytes(good[: len(good) // 2])
        elif damage == "remove":
            path.unlink()
        else:
            path.write_bytes(WRONG_BYTES[damage])
        again = load_index(store.url)
        assert columns(again) == columns(built)
        assert path.read_bytes() == good


def test_an_index_that_was_saved_with_a_pickle_in_it_is_not_opened(store: FolderStore, cache: Path) -> None:
    built = load_index(store.url)
    path = next(path for path in saved_files(cache) if path.name == "label.npy")
    np.save(path, np.array([print] * 30, dtype=object), allow_pickle=True)
    assert columns(load_index(store.url)) == columns(built)


def test_a_data_set_that_grew_has_a_new_index_that_begins_with_the_old_one(tmp_path: Path) -> None:
    small = load_index(write_data_set(tmp_path / "ours", 2).url)
    large = load_index(write_data_set(tmp_path / "larger", 4).url)
    assert large.digest != small.digest
    assert large.prefix(2).digest == small.digest
    assert columns(large.prefix(2)) == columns(small)
    assert large.prefix(4) is large
    assert len(large.prefix(0)) == 0
    with pytest.raises(ValueError, match="found 4 tars, expected at least 5"):
        large.prefix(5)


def test_shards_behind_a_gap_are_not_counted_on_yet(store: FolderStore) -> None:
    assert load_index(store.url).unbroken() == 3
    for name in (record_name(1), tar_name(1), table_name(1)):
        store.path(name).unlink()
    index = load_index(store.url)
    assert index.tars == ("00000.tar", "00002.tar")
    assert index.unbroken() == 1


def test_the_same_data_elsewhere_have_the_same_digest(tmp_path: Path, store: FolderStore) -> None:
    shutil.copytree(store.root, tmp_path / "copy")
    assert load_index(str(tmp_path / "copy")).digest == load_index(store.url).digest


def test_a_remote_data_set_is_indexed_in_the_cache_folder(tmp_path: Path, store: FolderStore, cache: Path) -> None:
    url = f"memory://{uuid.uuid4().hex}"
    remote = fsspec.filesystem("memory")
    for path in store.root.glob("0*"):
        remote.pipe_file(f"{url}/{path.name}", path.read_bytes())
    without = load_index(url)
    assert without.digest == load_index(store.url).digest
    cached = load_index(url, cache=tmp_path / "cache")
    for shard in range(3):
        size = remote.size(f"{url}/{table_name(shard)}")
        remote.pipe_file(f"{url}/{table_name(shard)}", bytes(size))
    assert columns(load_index(url, cache=tmp_path / "cache")) == columns(cached)
    assert load_index(url).digest == without.digest
    shutil.rmtree(cache)
    with pytest.raises(ValueError, match="do not have the hash of the record"):
        load_index(url)


def test_a_damaged_shard_stops_the_load(store: FolderStore) -> None:
    path = store.path(table_name(1))
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(ValueError, match=r"00001\.parquet: the bytes do not have the hash of the record"):
        load_index(store.url)
    store.path(tar_name(1)).write_bytes(b"short")
    with pytest.raises(ValueError, match=r"00001\.tar: found 5 bytes"):
        load_index(store.url)


# subsets


def test_a_subset_is_read_in_the_order_of_the_shards(store: FolderStore) -> None:
    table = read_table(store, [2, 0]).filter(pa.array([slot in (1, 4, 7) for slot in list(range(12)) * 2]))
    write_subset(store, "some", table, {"rule": "by hand"})
    index, whole = load_index(store.url, "some"), load_index(store.url)
    assert index.tars == ("00000.tar", "00002.tar")
    assert index.left_out.tolist() == [9, 9]
    wanted = [1, 4, 7, 21, 24, 27]
    for name in ("offset", "size", "label", "uid"):
        assert getattr(index, name).tolist() == getattr(whole, name)[wanted].tolist()
    assert columns(load_index(store.url, "some")) == columns(index)


def test_a_subset_that_no_longer_fits_is_refused(store: FolderStore) -> None:
    rows = read_table(store, [0]).select(["uid", "key", "shard"]).slice(0, 3).to_pylist()

    def write(name: str, changed: list[dict[str, object]]) -> str:
        write_subset(store, name, pa.Table.from_pylist(changed), {})
        return name

    cases = {
        write("twice", [*rows, rows[1]]): "names key 000000001 twice",
        write("blank", [{**rows[0], "key": "000000011"}]): "no sample with key 000000011",
        write("other", [rows[0], {**rows[1], "uid": "0" * 32}]): "key 000000001 is another sample",
        write("gone", [{**rows[0], "key": "000070000", "shard": 7}]): "names shard 00007, which has no record",
        write("mixed", [{**rows[0], "shard": 1}]): "found key 000000000 of another shard",
    }
    for name, message in cases.items():
        with pytest.raises(ValueError, match=message):
            load_index(store.url, name)
    with pytest.raises(ValueError, match="found no such subset"):
        load_index(store.url, "unknown")


# D18: the same sample twice


def test_d18_a_sample_that_lies_in_two_shards_is_named_before_training(tmp_path: Path) -> None:
    def twin(shard: int, index: int, row: dict[str, object]) -> Mapping[str, object]:
        return {**row, "uid": "ab" * 16} if (shard, index) in ((0, 3), (2, 5)) else row

    store = write_data_set(tmp_path / "ours", 3, change=twin)
    message = r"00000\.tar key 000000003 and 00002\.tar key 000020005 are the same sample \(id 'abab"
    with pytest.raises(ValueError, match=message):
        load_index(store.url)
    rows = read_table(store, scan_records(store))
    kept = pa.array([row["status"] == "success" and row["key"] != "000020005" for row in rows.to_pylist()])
    write_subset(store, "once", rows.filter(kept), {})
    assert len(load_index(store.url, "once")) == 29


def test_d18_a_shard_copied_under_a_new_name_is_found(store: FolderStore) -> None:
    for name in (tar_name, table_name, record_name):
        shutil.copy(store.path(name(1)), store.path(name(7)))
    with pytest.raises(ValueError, match="found the record of shard 1, expected 7; it was copied or renamed"):
        load_index(store.url)


def test_two_ids_that_share_64_bits_are_no_twins(tmp_path: Path) -> None:
    ids = {(0, 1): "0" * 31 + "7", (1, 2): "7".zfill(16) + "0" * 16}
    store = write_data_set(tmp_path / "ours", 2, change=lambda s, i, row: {**row, "uid": ids.get((s, i), row["uid"])})
    index = load_index(store.url)
    assert index.uid[1] == index.uid[12] == 7


def test_arrays_that_do_not_fit_each_other_make_no_index(store: FolderStore) -> None:
    index = load_index(store.url)
    arrays = arrays_of(index)
    for change in ({"size": index.size[1:]}, {"tar_bytes": index.tar_bytes[1:]}, {"first": index.first[::-1].copy()}):
        with pytest.raises(ValueError, match="arrays of different lengths"):
            make_index("x", index.tars, index.tar_sha256, {**arrays, **change})
    with pytest.raises(ValueError, match="found label of int64, expected a list of int32"):
        make_index("x", index.tars, index.tar_sha256, {**arrays, "label": index.label.astype(np.int64)})


# tars that others wrote

Members = list[tuple[str, bytes]]


def write_tar(path: Path, members: Members, kind: Literal[0, 1, 2] = tarfile.USTAR_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=kind) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def imagenet(shard: int = 0, count: int = 3) -> Members:
    """As timm's ImageNet: the picture, then its class."""
    pairs = ((f"n01440764_{shard}_{k}", k) for k in range(count))
    return [
        member
        for key, k in pairs
        for member in ((f"{key}.jpg", b"\xff\xd8" + bytes([k]) * (600 * k + 1)), (f"{key}.cls", b"%d\n" % (k + shard)))
    ]


def index_of(folder: Path, members: Members, kind: Literal[0, 1, 2] = tarfile.USTAR_FORMAT) -> Index:
    write_tar(folder / "train-0000.tar", members, kind)
    return load_index(str(folder))


def test_timms_imagenet_is_read_as_webdataset_reads_it(tmp_path: Path) -> None:
    for shard in range(2):
        write_tar(tmp_path / f"imagenet1k-train-{shard:04d}.tar", imagenet(shard))
    index = load_index(str(tmp_path))
    tars = [str(tmp_path / name) for name in index.tars]
    reference = list(webdataset.WebDataset(tars, shardshuffle=False))
    store = FolderStore(tmp_path)
    assert [picture_at(store, index, row) for row in range(len(index))] == [one["jpg"] for one in reference]
    assert index.label.tolist() == [int(one["cls"]) for one in reference] == [0, 1, 2, 1, 2, 3]
    assert len(set(index.uid.tolist())) == 6


def test_a_folder_of_img2dataset_takes_its_labels_from_the_json(tmp_path: Path) -> None:
    members = []
    for k, word in enumerate(("label", "class_id", "target")):
        members += [(f"{k:09d}.jpg", b"x" * 70), (f"{k:09d}.json", json.dumps({"caption": "a", word: 4 + k}).encode())]
        members += [(f"{k:09d}.txt", b"a")]
    write_tar(tmp_path / "00000.tar", members)
    (tmp_path / "00000_stats.json").write_text(json.dumps({"count": 5, "successes": 3, "failed_to_download": 2}))
    pq.write_table(pa.table({"key": ["000000000"]}), tmp_path / "00000.parquet")
    index = load_index(str(tmp_path))
    assert index.label.tolist() == [4, 5, 6]
    assert index.tars == ("00000.tar",)


def test_our_own_tars_alone_give_the_same_places_and_labels(tmp_path: Path, store: FolderStore) -> None:
    (tmp_path / "tars").mkdir()
    for shard in range(3):
        shutil.copy(store.path(tar_name(shard)), tmp_path / "tars")
    ours, theirs = columns(load_index(store.url)), columns(load_index(str(tmp_path / "tars")))
    for name in ("first", "offset", "size", "label", "tar_bytes"):
        assert ours[name] == theirs[name]


def test_a_foreign_index_is_saved_and_built_again_when_a_tar_changes(tmp_path: Path, cache: Path) -> None:
    first = index_of(tmp_path, imagenet())
    assert saved_files(cache)
    assert load_index(str(tmp_path)).digest == first.digest
    again = index_of(tmp_path, imagenet(shard=4))
    assert again.label.tolist() == [4, 5, 6]
    assert again.digest != first.digest


def test_of_foreign_tars_only_those_that_came_or_changed_are_read(tmp_path: Path) -> None:
    for shard in (0, 2):
        write_tar(tmp_path / f"train-{shard:04d}.tar", imagenet(shard))
    load_index(str(tmp_path))
    path = tmp_path / "train-0000.tar"
    stat = path.stat()
    path.write_bytes(b"x" * stat.st_size)  # would be refused if it were read
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    write_tar(tmp_path / "train-0001.tar", imagenet(1))
    write_tar(tmp_path / "train-0002.tar", imagenet(7))
    index = load_index(str(tmp_path))
    assert index.tars == ("train-0000.tar", "train-0001.tar", "train-0002.tar")
    assert index.label.tolist() == [0, 1, 2, 1, 2, 3, 7, 8, 9]
    path.touch()
    with pytest.raises(ValueError, match=r"train-0000\.tar"):
        load_index(str(tmp_path))


@pytest.mark.parametrize("word", ["ETag", "etag", "mtime", "LastModified", "created"])
def test_a_remote_file_that_was_written_again_is_told_by_whatever_its_store_says(word: str) -> None:
    said = {"type": "file", "name": "bucket/train-0.tar", "size": 10_240, "created": 1, word: 1}

    class Listing:
        def ls(self, folder: str, detail: bool) -> list[dict[str, object]]:
            return [dict(said)]

        def invalidate_cache(self) -> None:
            """There is none."""

    store = ObjectStore(Listing(), "bucket", "fake://bucket", single_writer=False, read_only=True)
    before = store.stamps()
    assert store.stamps() == before
    said[word] = 2
    assert store.stamps() != before


def test_a_remote_foreign_tar_is_hashed_while_it_is_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    members = [
        (f"{k}.{kind}", data)
        for k in range(7)
        for kind, data in (("jpg", rng.bytes(3_000_000 + 100 * k)), ("cls", b"%d" % k))
    ]
    path = write_tar(tmp_path / "local" / "a-00.tar", members)
    url = f"memory://{uuid.uuid4().hex}"
    fsspec.filesystem("memory").pipe_file(f"{url}/a-00.tar", path.read_bytes())
    local, remote = load_index(str(path.parent)), load_index(url)
    assert columns(remote) == columns(local)
    assert remote.tar_sha256 == (hashlib.sha256(path.read_bytes()).hexdigest(),)
    assert local.tar_sha256 == ("",)


# keys of up to 900 letters, in folders: longer than the 100 and 155 bytes of a plain header
keys = st.builds(
    lambda name, times: (f"{name}/" * times + name)[:900].rstrip("/"),
    st.text(st.sampled_from("abcü_-0"), min_size=1, max_size=30),
    st.integers(0, 40),
)


@given(
    st.lists(st.tuples(keys, st.binary(min_size=1, max_size=1500)), max_size=6, unique_by=lambda pair: pair[0]),
    st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
@settings(max_examples=60, deadline=None)
def test_long_names_of_gnu_tar_and_pax_are_read_as_tarfile_reads_them(
    tmp_path_factory: pytest.TempPathFactory, pictures: list[tuple[str, bytes]], kind: Literal[1, 2]
) -> None:
    folder = tmp_path_factory.mktemp("foreign")
    members = [
        member for k, (key, data) in enumerate(pictures) for member in ((f"{key}.png", data), (f"{key}.cls", b"%d" % k))
    ]
    path = write_tar(folder / "a.tar", members, kind)
    with tarfile.open(path) as tar:
        reference = [(info.offset_data, info.size) for info in tar if info.name.endswith(".png")]
    index = load_index(str(folder))
    assert list(zip(index.offset.tolist(), index.size.tolist(), strict=True)) == reference
    assert index.label.tolist() == list(range(len(pictures)))
    assert len(set(index.uid.tolist())) == len(pictures)


def test_pax_words_for_one_member_and_for_all_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "for all"}) as tar:
        for name, data in imagenet():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), 1.5  # a fraction needs a pax header
            tar.addfile(info, io.BytesIO(data))
    assert load_index(str(tmp_path)).label.tolist() == [0, 1, 2]


def test_folders_hidden_files_and_keys_without_a_picture_are_no_samples(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        folder = tarfile.TarInfo("train/")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name, data in [("train/.DS_Store", b"x"), ("train/README.txt", b"x"), ("train/._a.jpg", b"x")]:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for name, data in imagenet():
            info = tarfile.TarInfo(f"train/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    index = load_index(str(tmp_path))
    assert len(index) == 3
    assert index.left_out.tolist() == [1]


def test_of_two_pictures_of_a_key_the_jpeg_is_taken_and_capitals_do_not_matter(tmp_path: Path) -> None:
    index = index_of(
        tmp_path, [("a.mask.png", b"12345"), ("a.png", b"1234"), ("a.JPG", b"123"), ("a.CLS", b"7"), ("a.seg", b"1")]
    )
    assert index.size.tolist() == [3]
    assert index.label.tolist() == [7]


def test_a_tar_cut_anywhere_is_refused(tmp_path: Path) -> None:
    """Also between two members, where other readers see a whole tar of fewer samples."""
    path = write_tar(tmp_path / "a.tar", imagenet())
    whole = path.read_bytes()
    end = len(whole.rstrip(b"\0")) // 512 * 512 + 512
    for cut in [*range(0, end + 1, 256), end + 300]:
        path.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match=r"a\.tar: offset \d+: .* cut short"):
            load_index(str(tmp_path))
    path.write_bytes(whole[: end + 512])
    assert len(load_index(str(tmp_path))) == 3


def test_a_changed_bit_in_a_header_is_refused(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", imagenet())
    whole = path.read_bytes()
    for at in range(0, 512, 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        with pytest.raises(ValueError, match=r"a\.tar: offset 0: "):
            load_index(str(tmp_path))


def retyped(kind: bytes) -> bytes:
    """A tar whose first member has another type and a right checksum."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        info = tarfile.TarInfo("a.jpg")
        info.type = kind
        info.linkname = "b.jpg"
        tar.addfile(info)
    return file.getvalue()


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, b"S"])
def test_links_devices_and_sparse_files_are_refused(tmp_path: Path, kind: bytes) -> None:
    (tmp_path / "a.tar").write_bytes(retyped(kind))
    with pytest.raises(ValueError, match=r"a\.tar: offset 0: found a member of type"):
        load_index(str(tmp_path))


def test_two_tars_joined_are_refused_and_not_read_half(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", imagenet())
    path.write_bytes(path.read_bytes() + write_tar(tmp_path / "b" / "b.tar", imagenet(1)).read_bytes())
    with pytest.raises(ValueError, match="more bytes behind the end mark"):
        load_index(str(tmp_path))


def test_bytes_that_are_no_tar_are_refused(tmp_path: Path) -> None:
    """Random bytes, text, and headers that were damaged with their checksum made right."""
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    good = bytearray(write_tar(tmp_path / "a.tar", imagenet()).read_bytes())
    for turn in range(200):
        data = bytearray(good)
        if turn % 4 == 0:
            data = bytearray(rng.bytes(int(rng.integers(0, 4096))))
        else:
            for at in rng.integers(0, 500, 3):
                data[at] = int(rng.integers(0, 256))
            data[148:156] = b" " * 8
            data[148:156] = b"%06o\0 " % sum(data[:512])
        (tmp_path / "a.tar").write_bytes(data)
        with contextlib.suppress(ValueError):
            index = load_index(str(tmp_path))
            assert (index.offset + index.size <= len(data)).all()


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("a.jpg", b"x")], "key 'a': found the label None, expected a class number"),
        ([("a.jpg", b"x"), ("a.cls", b"seven")], "found the label b'seven'"),
        ([("a.jpg", b"x"), ("a.cls", b"-1")], "found the label -1"),
        ([("a.jpg", b"x"), ("a.cls", b"4294967296")], "found the label 4294967296"),
        ([("a.jpg", b"x"), ("a.json", b'{"label": 1.5}')], "found the label 1.5"),
        ([("a.jpg", b"x"), ("a.json", b'{"label": true}')], "found the label True"),
        ([("a.jpg", b"x"), ("a.json", b"[" * 100_000)], "found the label None"),
        ([("a.jpg", b"x"), ("a.cls", b"1" * (1 << 20) + b"1")], "found a .cls of 1048577 bytes"),
        ([("a.jpg", b""), ("a.cls", b"1")], "found 'a.jpg' of 0 bytes"),
        ([("a.jpg", b"x"), ("a.cls", b"1"), ("a.jpg", b"y")], "found 'a.jpg' a second time"),
        ([("cfg_0.5_1.jpg", b"x"), ("cfg_0.5_1.cls", b"1")], "key ends at the first dot"),
    ],
)
def test_a_sample_that_cannot_be_used_is_named(tmp_path: Path, members: Members, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        index_of(tmp_path, members)


def test_d18_a_key_in_two_foreign_tars_is_named(tmp_path: Path) -> None:
    for shard in range(2):
        write_tar(tmp_path / f"{shard}.tar", [("x.jpg", b"x"), ("x.cls", b"1"), *imagenet(shard)])
    with pytest.raises(ValueError, match=r"0\.tar key x and 1\.tar key x are the same sample"):
        load_index(str(tmp_path))


def test_tars_for_training_and_for_validation_are_not_mixed(tmp_path: Path) -> None:
    write_tar(tmp_path / "imagenet1k-train-0000.tar", imagenet(0))
    write_tar(tmp_path / "imagenet1k-train-0001.tar", imagenet(1))
    write_tar(tmp_path / "imagenet1k-validation-00.tar", imagenet(2))
    with pytest.raises(ValueError, match=r"tars of 2 kinds \(imagenet1k-train-, imagenet1k-validation-\)"):
        load_index(str(tmp_path))
    assert len(load_index(str(tmp_path), "imagenet1k-train")) == 6
    assert load_index(str(tmp_path), "imagenet1k-val").label.tolist() == [2, 3, 4]
    with pytest.raises(ValueError, match="no tar whose name begins with 'test'"):
        load_index(str(tmp_path), "test")


@pytest.mark.parametrize("name", ["train-{:05d}-of-00003.tar", "train_{}_of_3.tar", "part{:04d}.tar", "{}.tar"])
def test_tars_that_differ_in_their_numbers_alone_are_of_one_kind(tmp_path: Path, name: str) -> None:
    for shard in range(3):
        write_tar(tmp_path / name.format(shard), imagenet(shard))
    assert len(load_index(str(tmp_path))) == 9
    write_tar(tmp_path / "validation-00000-of-00001.tar", imagenet(3))
    with pytest.raises(ValueError, match="tars of 2 kinds"):
        load_index(str(tmp_path))


@pytest.mark.parametrize(("name", "first"), [("train-{:05d}-of-00003.tar", 0), ("train_{}_of_3.tar", 1)])
def test_of_tars_that_say_how_many_they_are_none_may_be_missing(tmp_path: Path, name: str, first: int) -> None:
    for shard in range(3):
        write_tar(tmp_path / name.format(first + shard), imagenet(shard))
    lost = name.format(first + 1)
    (tmp_path / lost).rename(tmp_path / f"{lost}.part")
    with pytest.raises(ValueError, match=f"found 2 of 3 files that .* {re.escape(lost)} is missing; bring what is"):
        load_index(str(tmp_path), "train")
    alone = name.format(first).partition("of")[0]
    assert len(load_index(str(tmp_path), alone)) == 3, "a beginning that reaches into the numbers means a part"
    (tmp_path / f"{lost}.part").rename(tmp_path / lost)
    assert len(load_index(str(tmp_path), "train")) == 9


def test_a_folder_without_tars_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"found no shards, expected a data set; .* `sixfold generate`"):
        load_index(str(tmp_path))
    with pytest.raises(ValueError, match="found no folder"):
        load_index(str(tmp_path / "nowhere"))


def test_a_verb_of_data_sets_refuses_a_folder_of_pictures_with_the_command_that_makes_shards_of_it(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "my photos"
    (folder / "cat").mkdir(parents=True)
    (folder / "cat" / "a.JPG").write_bytes(b"")
    with pytest.raises(ValueError, match="found a folder of pictures, expected a data set of shards") as refused:
        open_data_set(str(folder))
    assert f"`sixfold export '{folder}' --to shards --out '{folder}'-shards`" in str(refused.value)


def test_a_tar_of_ours_that_is_not_finished_is_not_read_as_somebody_elses(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "new"))
    assert isinstance(store, FolderStore)
    write_tar(store.root / "00000.tar", imagenet())
    store.replace("_meta/claims/00000.json", b"the record that is not published yet")
    assert len(load_index(store.url)) == 0


# size


def write_records(folder: Path, num_shards: int, rows: int) -> None:
    """Shards of ours as far as an index looks at them: tables and records, tars of one byte."""
    names = SAMPLE_SCHEMA.names
    rng = np.random.default_rng(1)
    tar = FileStamp(bytes=1, sha256="0" * 64)
    for shard in range(num_shards):
        ids, hashes = rng.bytes(16 * rows).hex(), rng.bytes(32 * rows).hex()
        columns: dict[str, object] = {
            "key": [sample_key(shard, row) for row in range(rows)],
            "uid": [ids[32 * row : 32 * row + 32] for row in range(rows)],
            "sha256": [hashes[64 * row : 64 * row + 64] for row in range(rows)],
            "class_id": rng.integers(0, 1000, rows, dtype=np.int32),
            "shard": np.full(rows, shard, np.int32),
            "jpg_offset": np.arange(rows, dtype=np.int64) * 100_000,
            "jpg_size": np.full(rows, 99_000, np.int64),
        }
        plain = {"status": "success", "domain": "synthetic", "class_name": "crane", "caption": "a photo of a crane"}
        columns |= {name: [value] * rows for name, value in plain.items()}
        arrays = [
            pa.array(columns[field.name], field.type) if field.name in columns else pa.nulls(rows, field.type)
            for field in TABLE_SCHEMA
        ]
        assert set(columns) <= {*names, "shard", "jpg_offset", "jpg_size", "sha256"}
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_arrays(arrays, schema=TABLE_SCHEMA), sink, compression="zstd")
        data = sink.getvalue().to_pybytes()
        record = Record(
            shard=shard,
            attempt="a",
            fingerprint="ab" * 32,
            tar=tar,
            parquet=FileStamp(bytes=len(data), sha256=hashlib.sha256(data).hexdigest()),
            count=rows,
            successes=rows,
            slots=rows,
            status_dict={"success": rows},
            start_time=0.0,
            end_time=1.0,
            extra={},
        )
        (folder / tar_name(shard)).write_bytes(b"x")
        (folder / table_name(shard)).write_bytes(data)
        (folder / record_name(shard)).write_bytes(record.to_bytes())


def check_size(folder: Path, cache: Path, num_shards: int, rows: int) -> None:
    """Memory beyond the arrays and what saves them stays at a few tables; the second load takes a fraction."""
    write_records(folder, num_shards, rows)
    start = time.process_time()
    index = load_index(str(folder))
    build_s = time.process_time() - start
    assert len(index) == num_shards * rows
    load_s = float("inf")
    for _ in range(3):  # threads of other tests use the processor as well: the least counts
        start = time.process_time()
        again = load_index(str(folder))
        load_s = min(load_s, time.process_time() - start)
    assert again.digest == index.digest
    print(f"{num_shards} shards x {rows} rows: built in {build_s:.2f} s of CPU, loaded in {load_s:.3f} s")
    assert load_s < build_s / 4

    def load_anew(turn: int) -> None:
        shutil.rmtree(cache)
        load_index(str(folder))

    peak = peak_bytes(load_anew)
    print(f"peak beyond pyarrow's pool: {peak / len(index):.1f} bytes a row")
    assert peak < sum(getattr(index, name).itemsize for name in ROWS) * len(index) * 2.5 + num_shards * 12_000 + 20e6


def test_a_second_load_takes_a_fraction_and_memory_is_that_of_the_arrays(tmp_path: Path, cache: Path) -> None:
    check_size(tmp_path, cache, 60, 1_000)


@pytest.mark.torture
def test_10_000_shards_of_1_000_rows_are_indexed_with_flat_memory(tmp_path: Path, cache: Path) -> None:
    check_size(tmp_path, cache, 10_000, 1_000)
