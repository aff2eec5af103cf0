"""What lies below `_meta` is part of the data set: it is checked, and it never decides against the records."""

import hashlib
import json
import os
import zlib
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import sixfold
from shards.disk.layout import TABLE_SCHEMA, record_name
from shards.disk.record import parse_record
from shards.disk.store import FolderStore, open_store
from shards.set.ledger import LEDGER
from shards.set.manifest import read_subset, read_table, scan, scan_records, subset_names, write_subset
from shards.set.origin import origin_bytes
from shards.set.repair import repair, repair_meta
from shards.set.status import SUMMARY, asked_units, status_of
from shards.set.verify import verify
from shards.stream.index import load_index
from tests.support.shard_rows import FINGERPRINT, write_shard

OTHER = "cd" * 32


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    opened = open_store(str(tmp_path / "out"))
    assert isinstance(opened, FolderStore)
    for shard in range(3):
        write_shard(opened, shard)
    return opened


def named(store: FolderStore) -> set[tuple[int | None, str, str | None]]:
    return {(one.shard, one.kind, one.member) for one in verify(store).damages}


@pytest.mark.parametrize("mark", [OTHER, "0" * 64])
def test_one_shard_of_another_run_is_a_stranger_whether_or_not_the_origin_is_known(
    store: FolderStore, mark: str
) -> None:
    path = store.root / record_name(1)
    record = parse_record(path.read_bytes(), 1, "")
    path.write_bytes(type(record)(**{**vars(record), "fingerprint": mark}).to_bytes())
    for origin in (None, FINGERPRINT):
        if origin is not None:
            store.replace("_meta/run.json", origin_bytes(origin, {}, {}))
        assert named(store) == {(1, "stranger", "00001_stats.json")}
        assert scan(store).strangers.keys() == {1}
        with pytest.raises(ValueError, match=rf"00001_stats\.json: found a shard of run {mark[:12]}, expected run"):
            scan_records(store)
    assert repair(store, verify(store)).keys() == {1}
    assert sorted(scan_records(store)) == [0, 2]


def test_shards_of_two_runs_with_nothing_to_tell_which_is_right_are_named_and_none_is_moved(
    store: FolderStore,
) -> None:
    write_shard(store, 3, fingerprint=OTHER)
    write_shard(store, 4, fingerprint=OTHER)
    write_shard(store, 5, fingerprint=OTHER)
    assert named(store) == {(None, "meta", "_meta/run.json")}
    assert not repair(store, verify(store))
    with pytest.raises(ValueError, match="found shards of 2 runs"):
        scan_records(store)


def test_k11_a_subset_of_samples_that_are_not_in_the_shards_is_named(store: FolderStore) -> None:
    table = read_table(store, [0, 1])
    write_subset(store, "good", table.filter([status == "success" for status in table["status"].to_pylist()]), {})
    assert not named(store)
    write_subset(store, "rejected", table.slice(4, 1), {})
    strange = table.slice(0, 2).set_column(1, "uid", [["f" * 32, "e" * 32]])
    write_subset(store, "others", strange, {})
    assert named(store) == {(None, "meta", f"_meta/subsets/{name}.json") for name in ("rejected", "others")}
    assert len(repair_meta(store, verify(store))["_meta/subsets/others.json"]) == 2
    assert not named(store)
    assert len(read_subset(store, "good")[0]) == 8


@pytest.mark.parametrize("file", ["00001_stats.json", "00001.parquet", "00001.tar"])
def test_a_subset_stays_while_its_shard_is_made_again(store: FolderStore, file: str) -> None:
    table = read_table(store, [0, 1])
    write_subset(store, "some", table.filter([status == "success" for status in table["status"].to_pylist()]), {})
    before = {name: store.read_bytes(name) for name in store.list("_meta/subsets/")}
    data = bytearray(store.read_bytes(file))
    data[len(data) // 2] ^= 1
    (store.root / file).write_bytes(data)
    note = "_meta/subsets/some.json: 4 of its 8 samples are of shards that are missing or damaged"
    for kinds in ({"record", "hash"}, {"gap"}):
        report = verify(store)
        assert report.notes == (note,)
        assert {one.kind for one in report.damages} & kinds
        assert not report.damaged_files()
        repair(store, report)
        assert repair_meta(store, report) == {}
    write_shard(store, 1)
    assert verify(store).notes == ()
    assert not named(store)
    assert {name: store.read_bytes(name) for name in store.list("_meta/subsets/")} == before


def test_a_subset_that_names_the_wrong_shard_of_a_key_is_damaged(store: FolderStore) -> None:
    rows = read_table(store, [0], ["uid", "key", "shard"]).slice(0, 1).to_pylist()
    write_subset(store, "moved", pa.Table.from_pylist([{**rows[0], "shard": 1}]), {})
    assert named(store) == {(None, "meta", "_meta/subsets/moved.json")}


def test_k11_a_ledger_that_says_something_else_than_a_record_is_named_and_set_aside(store: FolderStore) -> None:
    """Each line whole by its own crc, and with the stamp of the record's file."""
    scan_records(store)
    lines = store.read_bytes(LEDGER).splitlines()
    entry = json.loads(lines[1].partition(b" ")[2])
    entry["record"]["files"]["parquet"]["sha256"] = "0" * 64
    body = json.dumps(entry, separators=(",", ":")).encode()
    store.replace(LEDGER, b"\n".join([lines[0], b"%08x %s" % (zlib.crc32(body), body), lines[2]]) + b"\n")
    assert named(store) == {(None, "meta", LEDGER)}
    repair_meta(store, verify(store))
    assert not named(store)
    assert scan_records(store)[1].parquet.sha256 != "0" * 64


def test_k11_a_table_that_only_the_ledger_vouches_for_is_not_read(store: FolderStore) -> None:
    """Labels turned by one in a table, its hash renewed in the ledger; the record knows the true one."""
    scan_records(store)
    path = store.root / "00001.parquet"
    rows = pq.read_table(path).to_pylist()
    pq.write_table(
        pa.Table.from_pylist([{**row, "class_id": (row["class_id"] + 1) % 3} for row in rows], schema=TABLE_SCHEMA),
        path,
    )
    lines = store.read_bytes(LEDGER).splitlines()
    entry = json.loads(lines[1].partition(b" ")[2])
    data = path.read_bytes()
    entry["record"]["files"]["parquet"] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    body = json.dumps(entry, separators=(",", ":")).encode()
    store.replace(LEDGER, b"\n".join([lines[0], b"%08x %s" % (zlib.crc32(body), body), lines[2]]) + b"\n")
    with pytest.raises(ValueError, match=r"00001_stats\.json: found another record than _meta/records\.jsonl has"):
        load_index(store.url)
    found = named(store)
    assert (None, "meta", LEDGER) in found
    assert found & {(1, kind, "00001.parquet") for kind in ("size", "hash")}


@pytest.mark.parametrize(
    "summary",
    [
        b"",
        b"torn",
        b"[]",
        b"{}",
        b'{"asked": 5}',
        b'{"asked": {"units": 1e10}}',
        b'{"asked": {"units": 10000000000}}',
        b'{"asked": {"units": -1}}',
        b'{"asked": {"units": true}}',
        b'{"asked": {"units": 3}, "checksum": "0"}',
        b"[" * 100_000,
    ],
)
def test_a_summary_that_says_nothing_sensible_is_named_and_breaks_nothing(store: FolderStore, summary: bytes) -> None:
    store.replace(SUMMARY, summary)
    assert named(store) == {(None, "meta", SUMMARY)}
    assert asked_units(store) == range(0)
    state = status_of(store, None)
    assert not state.is_whole
    assert f"{SUMMARY}: found" in state.text
    repair_meta(store, verify(store))
    assert status_of(store, None).is_whole


def test_files_that_nobody_takes_for_data_are_told_and_are_no_damage(store: FolderStore) -> None:
    (store.root / "README.md").write_text("the card of the set")
    assert verify(store).notes == ()
    (store.root / "notes\u202e.txt").write_text("")
    (store.root / "a.jpg").write_bytes(b"")
    report = verify(store)
    assert report.damages == ()
    assert report.notes == ("2 other files beside the shards: a.jpg, notes⟨U+202E⟩.txt",)


@pytest.mark.parametrize("name", ["mine (copy).json", "Mine.json", "mine.txt"])
def test_a_file_that_a_person_put_among_the_subsets_is_told_and_stays(store: FolderStore, name: str) -> None:
    (store.root / "_meta/subsets").mkdir(exist_ok=True)
    write_subset(store, "mine", read_table(store, [0, 1]).slice(0, 0), {})
    (store.root / "_meta/subsets" / name).write_text("{}")
    (store.root / "00001.tar").write_bytes(b"damaged")
    (store.root / "_meta/summary.json").write_text("no summary")
    report = verify(store)
    assert f"1 other file among the subsets: _meta/subsets/{name}" in report.notes
    said = CliRunner().invoke(sixfold.command_line(), ["repair", str(store.root)])
    assert said.exit_code == 0, said.output
    assert "shard 00001: moved to _meta/quarantine/000001" in said.output
    assert "_meta/summary.json: moved to _meta/quarantine/000002" in said.output
    assert (store.root / "_meta/subsets" / name).exists()
    assert subset_names(store) == ["mine"]


LINKED = ("_meta", "_meta/tmp", "_meta/claims", "_meta/quarantine", "_meta/leases", "_meta/logs", "_meta/subsets")


@pytest.mark.parametrize("name", [*LINKED, "_meta/quarantine/000001"])
def test_nothing_is_written_moved_or_removed_through_a_link_in_meta(
    store: FolderStore, tmp_path: Path, name: str
) -> None:
    elsewhere = tmp_path / "elsewhere"
    linked = store.root / name
    if linked.exists():
        linked.rename(elsewhere)
    elsewhere.mkdir(exist_ok=True)
    linked.parent.mkdir(exist_ok=True)
    linked.symlink_to(elsewhere, target_is_directory=True)
    (elsewhere / "theirs.json").write_text("{}")
    before = sorted(elsewhere.rglob("*"))
    acts: list[Callable[[], object]] = [
        lambda: store.write_exclusive(f"{name}/new.json", b"{}"),
        lambda: store.replace(f"{name}/new.json", b"{}"),
        lambda: store.move(record_name(0), f"{name}/new.json"),
        lambda: store.move(f"{name}/theirs.json", "_meta/taken.json"),
        lambda: store.delete(f"{name}/theirs.json"),
    ]
    if name in LINKED:
        acts.append(lambda: open_store(str(store.root)))
    if name in ("_meta", "_meta/tmp", "_meta/claims"):
        acts.append(lambda: write_shard(store, 3))
    for act in acts:
        with pytest.raises(ValueError, match=r"found a link, expected a folder of the data set; remove the link"):
            act()
        assert sorted(elsewhere.rglob("*")) == before
        assert (store.root / record_name(0)).exists()


def test_a_data_set_that_is_reached_through_a_link_is_written_as_any_other(store: FolderStore, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(store.root, target_is_directory=True)
    through = open_store(str(tmp_path / "link"))
    write_shard(through, 3)
    assert sorted(scan_records(store)) == [0, 1, 2, 3]
    assert os.path.islink(tmp_path / "link")
