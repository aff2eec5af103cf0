"""No damage stays unnoticed, and each is named by shard, member and kind."""

import hashlib
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shards.disk.layout import TABLE_SCHEMA, record_name, table_name, tar_name
from shards.disk.record import FileStamp, parse_record, read_record
from shards.disk.store import FolderStore, open_store
from shards.set.manifest import read_member, read_table
from shards.set.verify import KINDS, Report, verify
from tests.support.shard_rows import write_shard

SEED = int(os.environ.get("SIXFOLD_TEST_SEED", "20261121"))


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    opened = open_store(str(tmp_path / "out"))
    assert isinstance(opened, FolderStore)
    return opened


def kinds(report: Report) -> set[tuple[int | None, str]]:
    return {(damage.shard, damage.kind) for damage in report.damages}


def rewrite_record(store: FolderStore, shard: int, **changes: object) -> None:
    """What somebody does who can forge hashes: a record that fits the altered files."""
    path = store.root / record_name(shard)
    record = parse_record(path.read_bytes(), shard, "")
    files = {}
    for name, field in ((tar_name(shard), "tar"), (table_name(shard), "parquet")):
        data = (store.root / name).read_bytes()
        files[field] = FileStamp(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    path.write_bytes(replace(record, **{**files, **changes}).to_bytes())


def rewrite_table(store: FolderStore, shard: int, change: Callable[[list[dict[str, object]]], object]) -> None:
    """Alter rows of the table and make the record fit."""
    rows = pq.read_table(store.root / table_name(shard)).to_pylist()
    change(rows)
    pq.write_table(pa.Table.from_pylist(rows, schema=TABLE_SCHEMA), store.root / table_name(shard))
    rewrite_record(store, shard)


def test_a_whole_data_set_is_clean_and_counted(store: FolderStore) -> None:
    seen = []
    for shard in range(3):
        write_shard(store, shard)
    report = verify(store, lambda done, total: seen.append((done, total)), expected=range(3))
    assert report.damages == ()
    assert (report.shards, report.rows, report.samples) == (3, 15, 12)
    assert report.bytes == sum(
        path.stat().st_size for path in store.root.iterdir() if path.suffix in (".tar", ".parquet")
    )
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_a8_a_truncated_shard_is_always_reported(store: FolderStore) -> None:
    """Cut at every 512-byte block and beside it (M1: the stock reader notices only a cut inside a payload)."""
    write_shard(store, 0)
    path = store.root / tar_name(0)
    whole = path.read_bytes()
    for block in range(0, len(whole), 512):
        for end in {block, max(block - 1, 0), block + 100}:
            path.write_bytes(whole[:end])
            report = verify(store)
            assert (0, "size") in kinds(report)
            if end <= len(whole) - 10_240:
                lost = [damage for damage in report.damages if damage.kind == "member"]
                assert len(lost) == 1, "the first lost member is named, not each of hundreds"
                assert "this member and all behind it are lost" in lost[0].message
    path.write_bytes(whole)
    assert verify(store).damages == ()


def flip_bits(store: FolderStore, times: int) -> None:
    print("seed", SEED)
    rng = random.Random(SEED)
    write_shard(store, 0)
    whole = {name: (store.root / name).read_bytes() for name in (tar_name(0), table_name(0), record_name(0))}
    rows = [row for row in read_table(store, [0]).to_pylist() if row["status"] == "success"]
    spans = [
        (row[f"{ext}_offset"] - 512, row[f"{ext}_offset"] + row[f"{ext}_size"], f"{row['key']}.{ext}", row, ext)
        for row in rows
        for ext in ("cls", "jpg", "json", "txt")
    ]
    refused = 0
    for _ in range(times):
        name = rng.choices(list(whole), weights=[8, 1, 1])[0]
        data = bytearray(whole[name])
        at = rng.randrange(len(data))
        data[at] ^= 1 << rng.randrange(8)
        (store.root / name).write_bytes(data)
        report = verify(store)
        if name == record_name(0) and report.damages == ():
            # white space between JSON tokens means nothing
            assert parse_record(bytes(data), 0, "") == parse_record(whole[name], 0, "")
        else:
            assert report.damaged_shards() == [0], f"flip at byte {at} of {name} went unnoticed"
            assert {damage.kind for damage in report.damages} <= KINDS.keys()
        if name == tar_name(0):
            hit = [span for span in spans if span[0] <= at < span[1]]
            assert len(hit) <= 1
            for start, _, member, row, ext in hit:
                assert member in {damage.member for damage in report.damages}, f"byte {at} lies in {member}"
                if at >= start + 512:
                    refused += 1
                    with pytest.raises(ValueError, match="hash"):
                        read_member(store, row, ext)
                    assert (
                        read_member(store, row, ext, check=False)
                        == data[start + 512 : start + 512 + row[f"{ext}_size"]]
                    )
        (store.root / name).write_bytes(whole[name])
    assert refused > times // 20
    assert verify(store).damages == ()


def test_a9_any_flipped_bit_is_reported_with_the_member_and_the_reader_refuses_it(store: FolderStore) -> None:
    flip_bits(store, 300)


@pytest.mark.torture
def test_a9_ten_thousand_flipped_bits_are_all_reported(store: FolderStore) -> None:
    flip_bits(store, 10_000)


def test_a12_d18_a_shard_copied_under_another_number_is_reported(store: FolderStore) -> None:
    write_shard(store, 0)
    for name, copy in ((tar_name(0), tar_name(1)), (table_name(0), table_name(1)), (record_name(0), record_name(1))):
        shutil.copy(store.root / name, store.root / copy)
    assert kinds(verify(store)) == {(1, "record")}
    # even with a record that was made to fit, the keys belong to shard 0
    rewrite_record_as(store, 0, 1)
    assert kinds(verify(store)) == {(1, "table")}


def rewrite_record_as(store: FolderStore, shard: int, other: int) -> None:
    record = read_record(store, shard)
    assert record is not None
    (store.root / record_name(other)).write_bytes(replace(record, shard=other).to_bytes())


def test_a_uid_that_occurs_twice_in_the_data_set_is_reported(store: FolderStore) -> None:
    for shard in range(3):
        write_shard(store, shard)
    rewrite_table(store, 2, lambda rows: rows[4].update(uid=f"{10_002:032x}"))
    report = verify(store)
    assert kinds(report) == {(2, "duplicate")}
    assert "is also in shard 1" in report.damages[0].message


def test_gaps_missing_shards_strays_and_unpublished_files_are_named(store: FolderStore) -> None:
    for shard in (0, 2):
        write_shard(store, shard)
    (store.root / "00003.tar").write_bytes(b"debris")
    (store.root / "sizes.json").write_text("{}")
    (store.root / "evil\x1b[31m.tar").write_text("")
    (store.root / "README.md").write_text("is fine")
    report = verify(store, expected=range(6))
    assert kinds(report) == {(1, "gap"), (3, "unpublished"), (4, "missing"), (5, "missing"), (None, "stray")}
    strays = {damage.member for damage in report.damages if damage.kind == "stray"}
    assert strays == {"sizes.json", "evil⟨U+001B⟩[31m.tar"}
    assert report.damaged_shards() == [3]
    for damage in report.damages:
        assert str(damage).isprintable()


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda rows: rows[1].update(caption="another prompt"), "content"),
        (lambda rows: rows[1].update(class_id=2), "content"),
        (lambda rows: rows[1].update(seed=1), "content"),
        (lambda rows: rows[1].update(width=17), "jpeg"),
        (lambda rows: rows[1].update(jpg_offset=rows[0]["jpg_offset"]), "table"),
        (lambda rows: rows[1].update(jpg_offset=-5), "table"),
        (lambda rows: rows[1].update(jpg_size=2**40), "table"),
        (lambda rows: rows[1].update(jpg_size=-1), "table"),
        (lambda rows: rows[1].update(sha256=None), "table"),
        (lambda rows: rows[1].update(sha256="0" * 64), "member"),
        (lambda rows: rows[1].update(status="blank"), "table"),
        (lambda rows: rows[4].update(status="success"), "table"),
        (lambda rows: rows[1].update(shard=5), "table"),
        (lambda rows: rows[1].update(key="000000000"), "table"),
        (lambda rows: rows[1].update(key="../../etc"), "table"),
        (lambda rows: rows[1].update(uid="x"), "table"),
        (lambda rows: rows.reverse(), "table"),
        (lambda rows: rows.pop(), "table"),
    ],
)
def test_a_table_that_contradicts_tar_or_record_is_reported_even_if_every_hash_was_made_to_fit(
    store: FolderStore, change: Callable[[list[dict[str, object]]], object], kind: str
) -> None:
    write_shard(store, 0)
    rewrite_table(store, 0, change)
    assert kind in {damage.kind for damage in verify(store).damages}


def test_k5_k7_a_synthetic_image_without_its_source_type_is_reported(store: FolderStore) -> None:
    """Every image of a run is read back; one from which the note was cut does not pass, whatever the hashes say."""
    write_shard(store, 0)
    rows = read_table(store, [0]).to_pylist()
    path = store.root / tar_name(0)
    data = path.read_bytes().replace(b"trainedAlgorithmicMedia", b"untrainedHumanHandicraf", 1)
    path.write_bytes(data)
    row = rows[0]
    digest = hashlib.sha256(data[row["jpg_offset"] : row["jpg_offset"] + row["jpg_size"]]).hexdigest()
    rewrite_table(store, 0, lambda rows: rows[0].update(sha256=digest))
    damages = {(damage.member, damage.kind) for damage in verify(store).damages}
    assert ("000000000.jpg", "provenance") in damages
    assert not any(kind == "provenance" and member != "000000000.jpg" for member, kind in damages)


def test_an_unreadable_file_is_named(store: FolderStore) -> None:
    write_shard(store, 0)
    (store.root / tar_name(0)).unlink()
    (store.root / tar_name(0)).symlink_to("/nonexistent")
    assert (0, "file") in kinds(verify(store))


def test_a7_a_table_of_zeros_is_reported_and_never_parsed(store: FolderStore) -> None:
    write_shard(store, 0)
    path = store.root / table_name(0)
    path.write_bytes(bytes(path.stat().st_size))
    assert kinds(verify(store)) == {(0, "hash")}


def test_beside_a_run_at_work_what_is_not_made_yet_is_no_damage(store: FolderStore) -> None:
    write_shard(store, 0)
    write_shard(store, 2)
    (store.root / "00003.tar").write_bytes(b"being published")
    at_rest = verify(store, expected=range(6))
    assert kinds(at_rest) == {(1, "gap"), (3, "unpublished"), (4, "missing"), (5, "missing")}
    assert at_rest.unmade == ()
    beside = verify(store, expected=range(6), is_running=True)
    assert beside.damages == ()
    assert beside.unmade == (1, 3, 4, 5)
    (store.root / tar_name(2)).unlink()
    assert kinds(verify(store, expected=range(6), is_running=True)) == {(2, "file")}
