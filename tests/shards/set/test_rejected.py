"""Small pictures of rejected draws: few, never of what must not be kept, and no change to anything else."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shards.disk.jpeg import decode_jpeg, encode_jpeg, read_source_type
from shards.disk.layout import MAX_ROWS_PER_SHARD, TABLE_SCHEMA, record_name, table_name, tar_name
from shards.disk.record import FileStamp, Record
from shards.disk.store import FolderStore, open_store
from shards.set.manifest import read_rejected, read_table
from shards.set.rejected import ENTRY, KEPT, LONGEST_PX, MAX_BYTES, OF_A_REASON, OF_A_SHARD, rejected_picture
from shards.set.verify import verify
from shards.set.writer import ShardWriter, checked_row, table_bytes
from tests.support.shard_rows import FINGERPRINT, make_row, pixels

NOISE = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)


def store_in(folder: Path) -> FolderStore:
    store = open_store(str(folder))
    assert isinstance(store, FolderStore)
    return store


def write(store: FolderStore, reasons: list[str], small: bytes | None) -> Record:
    """A shard of three samples and a rejected draw for each reason, each with the picture."""
    with ShardWriter(store, 0, "try", FINGERPRINT) as writer:
        for slot in range(3):
            writer.add(make_row(0, slot), encode_jpeg(pixels(0, slot)))
        for place, reason in enumerate(reasons):
            writer.add(make_row(0, 3 + place, status=reason, width=None, height=None), None, small)
        return writer.commit(1.0, 2.0, {})


def rewrite(store: FolderStore, record: Record, entry: str) -> None:
    """What somebody does who can forge hashes: other text in the footer, and a record that fits."""
    path = store.root / table_name(0)
    rows = pq.read_table(path)
    with pq.ParquetWriter(path, TABLE_SCHEMA) as writer:
        writer.write_table(rows)
        writer.add_key_value_metadata({ENTRY: entry})
    stamp = FileStamp(bytes=path.stat().st_size, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    (store.root / record_name(0)).write_bytes(replace(record, parquet=stamp).to_bytes())


def test_a_table_without_pictures_has_the_bytes_that_it_always_had() -> None:
    rows = [{**checked_row(make_row(0, slot, status="blank"), 0), "shard": 0} for slot in range(5)]
    sink = pa.BufferOutputStream()
    table = pa.Table.from_pylist(rows, schema=TABLE_SCHEMA)
    pq.write_table(
        table, sink, compression="zstd", compression_level=3, row_group_size=MAX_ROWS_PER_SHARD, write_statistics=True
    )
    assert table_bytes(rows, {}) == sink.getvalue().to_pybytes()


def test_pictures_lie_in_the_footer_and_change_no_row_and_no_tar(tmp_path: Path) -> None:
    small = encode_jpeg(pixels(0, 9))
    bare, kept = store_in(tmp_path / "bare"), store_in(tmp_path / "kept")
    record = write(kept, ["black", "blank"], small)
    assert read_rejected(bare, write(bare, ["black", "blank"], None)) == {}
    assert read_rejected(kept, record) == {"000000003": small, "000000004": small}
    assert bare.read_bytes(tar_name(0)) == kept.read_bytes(tar_name(0))
    assert bare.read_bytes(table_name(0)) != kept.read_bytes(table_name(0))
    one, other = read_table(bare, [0]), read_table(kept, [0])
    assert one.equals(other)
    assert one.schema.equals(other.schema, check_metadata=True)
    assert pq.read_table(kept.root / table_name(0)).schema.equals(TABLE_SCHEMA)
    assert verify(kept).damages == ()


def test_a_shard_keeps_a_few_of_each_reason(tmp_path: Path) -> None:
    reasons = ["black"] * 9 + ["blank"] * 2 + ["flat", "low_score", "other", "another"] * 5
    store = store_in(tmp_path)
    found = read_rejected(store, write(store, reasons, encode_jpeg(pixels(0, 9))))
    assert len(found) == OF_A_SHARD
    kept = [reasons[int(key[5:]) - 3] for key in found]
    assert kept[:6] == ["black"] * OF_A_REASON + ["blank"] * 2


def test_a_shard_keeps_at_most_64_kb(tmp_path: Path) -> None:
    large = encode_jpeg(NOISE)
    assert 2 * MAX_BYTES / OF_A_SHARD < len(large) < MAX_BYTES
    store = store_in(tmp_path)
    found = read_rejected(store, write(store, ["black", "blank", "flat", "low_score"] * 4, large))
    assert sum(map(len, found.values())) <= MAX_BYTES < sum(map(len, found.values())) + len(large)


@pytest.mark.parametrize("status", ["flagged", "nan", "wrong_size", "error", "failed_to_decode"])
def test_what_the_safety_checker_objects_to_or_never_saw_has_no_picture(status: str) -> None:
    assert rejected_picture(status, NOISE, None) is None


@pytest.mark.parametrize(
    "image", [None, NOISE.astype(np.float32), NOISE[..., 0], NOISE[:, :0], NOISE[:1].repeat(99, 1)]
)
def test_what_is_no_picture_has_none(image: np.ndarray | None) -> None:
    assert rejected_picture("black", image, None) is None


@pytest.mark.parametrize("status", sorted(KEPT))
def test_a_small_picture_is_the_mean_of_whole_blocks_and_says_that_it_is_synthetic(status: str) -> None:
    wide = np.kron(np.arange(60, dtype=np.uint8).reshape(6, 10, 1) * 4, np.ones((50, 50, 3), np.uint8))
    jpeg = rejected_picture(status, wide, "trainedAlgorithmicMedia")
    assert jpeg is not None
    assert read_source_type(jpeg) == "trainedAlgorithmicMedia"
    small = decode_jpeg(jpeg)
    assert small.shape == (50, 83, 3)
    assert max(small.shape) <= LONGEST_PX
    blocks = wide[:300, :498].reshape(50, 6, 83, 6, 3).mean(axis=(1, 3))
    assert np.abs(small - blocks).mean() < 4
    assert rejected_picture(status, np.asfortranarray(wide), "trainedAlgorithmicMedia") == jpeg


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("[]", "no JSON object"),
        ('{"000000003": "aGFsbG8="}', "JPEG"),
        ('{"000000003": 7}', "expected the key of a row"),
        ('{"../../etc": ""}', "expected the key of a row"),
        ('{"000000003": "?"}', "base64"),
        ("{" + " " * 300_000 + "}", "300,002 bytes"),
        ("{", ""),
    ],
)
def test_verify_names_forged_pictures(tmp_path: Path, entry: str, said: str) -> None:
    store = store_in(tmp_path)
    rewrite(store, write(store, ["black"], None), entry)
    [damage] = verify(store).damages
    assert (damage.shard, damage.kind) == (0, "table")
    assert said in damage.message


def test_verify_names_a_picture_of_a_draw_that_was_not_rejected(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    record = write(store, ["black"], encode_jpeg(pixels(0, 9)))
    about = pq.ParquetFile(store.root / table_name(0)).metadata.metadata
    rewrite(store, record, about[ENTRY.encode()].decode().replace("000000003", "000000001"))
    [damage] = verify(store).damages
    assert "key 000000001: a small picture that belongs to no rejected draw" in damage.message
