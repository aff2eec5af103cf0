"""What the writer stores, byte for byte, and what it refuses."""

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.disk.home import home
from shards.disk.jpeg import encode_jpeg
from shards.disk.layout import SAMPLE_SCHEMA, TABLE_SCHEMA, table_name, tar_name
from shards.disk.store import FolderStore, open_store
from shards.disk.tar import header, padding, trailer
from shards.set.verify import verify
from shards.set.writer import ShardWriter, checked_row, members_of
from tests.support.shard_rows import FINGERPRINT, fill, leftovers, make_row, pixels, published, write_shard

JPEG = encode_jpeg(pixels(3, 0))


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    opened = open_store(str(tmp_path / "out"))
    assert isinstance(opened, FolderStore)
    return opened


def damages(store: FolderStore) -> list[str]:
    """All but the gap below shard 3."""
    return [str(damage) for damage in verify(store).damages if damage.kind != "gap"]


def test_a_shard_is_a_plain_tar_of_four_members_per_success_in_key_order(store: FolderStore) -> None:
    write_shard(store, 3)
    with tarfile.open(store.root / tar_name(3), "r:") as tar:
        members = tar.getmembers()
        assert [member.name for member in members] == [
            f"00003000{slot}.{extension}" for slot in range(4) for extension in ("cls", "jpg", "json", "txt")
        ]
        for member in members:
            assert (member.mtime, member.uid, member.gid, member.uname, member.gname) == (0, 0, 0, "", "")
            assert (member.mode, member.type) == (0o644, tarfile.REGTYPE)
        contents = {member.name: tar.extractfile(member).read() for member in members}  # type: ignore[union-attr]
    assert contents["000030001.cls"] == b"1"
    assert contents["000030001.jpg"] == encode_jpeg(pixels(3, 1))
    assert contents["000030001.txt"].decode() == make_row(3, 1)["caption"]
    facts = json.loads(contents["000030001.json"])
    assert list(facts) == sorted(facts)
    assert None not in facts.values()
    assert {name: facts[name] for name in ("key", "seed", "width")} == {
        "key": "000030001",
        "seed": 2**62 + 1,
        "width": 16,
    }


def test_the_table_has_every_draw_and_says_where_the_members_lie(store: FolderStore) -> None:
    write_shard(store, 3)
    table = pq.read_table(store.root / table_name(3))
    assert table.schema.equals(TABLE_SCHEMA)
    rows = table.to_pylist()
    assert [row["status"] for row in rows] == ["success"] * 4 + ["blank"]
    tar = (store.root / tar_name(3)).read_bytes()
    for slot, row in enumerate(rows[:4]):
        assert tar[row["jpg_offset"] : row["jpg_offset"] + row["jpg_size"]] == encode_jpeg(pixels(3, slot))
        facts = json.loads(tar[row["json_offset"] : row["json_offset"] + row["json_size"]])
        assert facts["sha256"] == row["sha256"]
        assert {name: row[name] for name in SAMPLE_SCHEMA.names if row[name] is not None} == {
            name: value for name, value in facts.items() if name != "sha256"
        }
    assert rows[4]["jpg_offset"] is None
    assert rows[4]["shard"] == 3


def test_e7_the_bytes_depend_on_rows_and_pixels_only(tmp_path: Path) -> None:
    """Another folder, attempt, time, process, user mask, hash seed, time zone and thread count: the same files."""
    write_shard(open_folder(tmp_path / "one"), 3)
    code = (
        "import os, sys; from pathlib import Path; from shards.disk.store import open_store; "
        "from tests.support.shard_rows import write_shard; os.umask(0o077); "
        "write_shard(open_store(sys.argv[1]), 3, 'other')"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "77", "TZ": "Asia/Tokyo", "OMP_NUM_THREADS": "2", "USER": "else"}
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "two")],
        cwd=home(),
        env=environment,
        check=True,
        timeout=120,
    )
    assert published(tmp_path / "one") == published(tmp_path / "two")


def open_folder(path: Path) -> FolderStore:
    opened = open_store(str(path))
    assert isinstance(opened, FolderStore)
    return opened


@given(
    members=st.lists(
        st.tuples(st.from_regex(r"[0-9]{9}\.(cls|jpg|json|txt)", fullmatch=True), st.binary(max_size=1500)), max_size=8
    )
)
@settings(max_examples=60, deadline=None)
def test_our_tar_bytes_are_those_of_an_independent_tar_writer(members: list[tuple[str, bytes]]) -> None:
    ours = b""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
            ours += header(name, len(data)) + data + padding(len(data))
    ours += trailer(len(ours))
    assert ours == sink.getvalue()


def test_a_tar_header_takes_no_name_or_size_that_ustar_cannot_hold() -> None:
    for name, size in (("x" * 101, 0), ("", 0), ("a.jpg", -1), ("a.jpg", 8**11)):
        with pytest.raises(ValueError):
            header(name, size)


@pytest.mark.parametrize(
    "key",
    [
        "00003.001",
        "0000300/1",
        "00003000\n",
        "000030001\n",
        "\x1b00300001",
        "00003000\0",
        "0" * 300,
        "00003000é",
        "００００３０００１",
        "__key__00",
        "000040001",
        "",
        "00003000",
        "../300001",
        "-00030001",
        None,
        30001,
        b"000030001",
    ],
    ids=repr,
)
def test_h5_a_key_outside_the_fixed_alphabet_is_refused(store: FolderStore, key: object) -> None:
    with ShardWriter(store, 3, "x", FINGERPRINT) as writer:
        with pytest.raises(ValueError, match="expected 00003 and 4 more digits") as caught:
            writer.add(make_row(3, 0, key=key), JPEG)
        assert "\n" not in str(caught.value)
        assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "jpeg", "message"),
    [
        ({}, None, "found no JPEG with status 'success'"),
        ({"status": "blank"}, JPEG, "found a JPEG with status 'blank'"),
        ({"status": "Not OK!"}, JPEG, "found the status"),
        ({"status": None}, JPEG, "status is missing"),
        ({"uid": "xyz"}, JPEG, "expected 32 hex digits"),
        ({"domain": "imaginary"}, JPEG, "found the domain 'imaginary'"),
        ({"colour": "red"}, JPEG, "unknown field 'colour'"),
        ({"class_id": "3"}, JPEG, r"class_id is '3' \(str\), expected int32"),
        ({"class_id": True}, JPEG, "class_id is 'True'"),
        ({"class_id": 2**31}, JPEG, "class_id is"),
        ({"draw": 2**15}, JPEG, "draw is"),
        ({"seed": 2**63}, JPEG, "seed is"),
        ({"similarity": float("nan")}, JPEG, "similarity is 'nan'"),
        ({"similarity": 1e300}, JPEG, "similarity is"),
        ({"similarity": "0.3"}, JPEG, "similarity is"),
        ({"caption": None}, JPEG, "caption is missing"),
        ({"caption": 5}, JPEG, "caption is '5'"),
        ({"caption": "half \ud800"}, JPEG, "lone surrogate"),
        ({"caption": "x" * 70_000}, JPEG, "70000 bytes"),
        ({"width": 17}, JPEG, "the JPEG has 16x16 pixels, the row says 17x16"),
        ({}, b"GIF89a", "from the start mark"),
        ({}, JPEG + b"PK", "nothing else"),
        ({}, encode_jpeg(pixels(3, 0), source_type=None), "must say so in its XMP"),
        ({"domain": "edited"}, encode_jpeg(pixels(3, 0), source_type=None), "must say so in its XMP"),
    ],
    ids=lambda value: str(value)[:30] if isinstance(value, (dict, str)) else "",
)
def test_a_row_or_image_that_does_not_fit_is_refused_in_one_line_and_leaves_the_shard_as_it_was(
    store: FolderStore, changes: dict[str, object], jpeg: bytes | None, message: str
) -> None:
    with ShardWriter(store, 3, "x", FINGERPRINT) as writer:
        with pytest.raises(ValueError, match=message) as caught:
            writer.add(make_row(3, 0, **changes), jpeg)
        assert "\n" not in str(caught.value)
        assert "shard 3" in str(caught.value)
        fill(writer, 3)
        writer.commit(100.0, 101.5, {})
    assert damages(store) == []
    assert verify(store).samples == 4


def test_keys_come_once_and_in_rising_order(store: FolderStore) -> None:
    with ShardWriter(store, 3, "x", FINGERPRINT) as writer:
        writer.add(make_row(3, 5), encode_jpeg(pixels(3, 5)))
        with pytest.raises(ValueError, match="found twice"):
            writer.add(make_row(3, 5), encode_jpeg(pixels(3, 5)))
        with pytest.raises(ValueError, match="rising key order"):
            writer.add(make_row(3, 4), encode_jpeg(pixels(3, 4)))
        writer.add(make_row(3, 9, status="blank", width=None, height=None), None)
        writer.add(make_row(3, 4, status="nan", width=None, height=None), None)
        record = writer.commit(0.0, 1.0, {})
    assert record.status_dict == {"blank": 1, "nan": 1, "success": 1}
    assert damages(store) == []


def test_e10_any_text_is_stored_exactly(store: FolderStore) -> None:
    texts = [
        "",
        "nul \0 here",
        "emoji 🦩 and שלום",
        "line\nbreak\r\n",
        "%s {0.__class__} ${jndi:x}",
        "x" * 60_000,
        "\u202e\x1b[31m",
    ]
    with ShardWriter(store, 3, "x", FINGERPRINT) as writer:
        for slot, text in enumerate(texts):
            writer.add(make_row(3, slot, caption=text, meaning=text), encode_jpeg(pixels(3, slot)))
        writer.commit(0.0, 1.0, {})
    assert damages(store) == []
    rows = pq.read_table(store.root / table_name(3)).to_pylist()
    assert [row["caption"] for row in rows] == texts
    assert [row["meaning"] for row in rows] == texts


@given(
    caption=st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    meaning=st.none() | st.text('\\"\n,: {}\x00\x7f\u2028é🦩', max_size=12),
    seed=st.none() | st.integers(-(2**63), 2**63 - 1),
    similarity=st.none() | st.floats(width=32, allow_nan=False, allow_infinity=False),
)
@settings(max_examples=150, deadline=None)
def test_the_json_member_is_what_the_standard_library_writes_with_an_indent_of_four(
    caption: str, meaning: str | None, seed: int | None, similarity: float | None
) -> None:
    row = checked_row(make_row(3, 0, caption=caption, meaning=meaning, seed=seed, similarity=similarity), 3)
    facts = {name: value for name, value in row.items() if value is not None} | {"sha256": "0" * 64}
    plain = json.dumps(facts, indent=4, sort_keys=True, ensure_ascii=False, allow_nan=False)
    assert members_of(row, JPEG, "0" * 64)["json"] == plain.encode()


def test_numbers_of_numpy_are_numbers(store: FolderStore) -> None:
    with ShardWriter(store, 3, "x", FINGERPRINT) as writer:
        changes = {"class_id": np.int64(2), "similarity": np.float64(0.1), "width": np.int32(16)}
        writer.add(make_row(3, 0, **changes), JPEG)
        writer.commit(0.0, 1.0, {})
    assert damages(store) == []


def test_a_writer_left_by_an_exception_leaves_nothing_behind(store: FolderStore) -> None:
    def fail() -> None:
        with ShardWriter(store, 3, "x", FINGERPRINT) as writer:
            fill(writer, 3)
            assert leftovers(store.root) == ["_meta/tmp/00003.x.tar"]
            raise RuntimeError("the generator failed")

    with pytest.raises(RuntimeError, match="the generator failed"):
        fail()
    assert published(store.root) == {}
    assert leftovers(store.root) == []


def test_nothing_comes_after_a_commit(store: FolderStore) -> None:
    with ShardWriter(store, 3, "x", FINGERPRINT) as writer:
        fill(writer, 3)
        writer.commit(0.0, 1.0, {})
        with pytest.raises(ValueError, match="after the commit"):
            writer.add(make_row(3, 8), encode_jpeg(pixels(3, 8)))
        with pytest.raises(ValueError, match="committed twice"):
            writer.commit(0.0, 1.0, {})
    assert damages(store) == []


def test_real_images_need_no_source_type(store: FolderStore) -> None:
    with ShardWriter(store, 3, "x", FINGERPRINT) as writer:
        writer.add(make_row(3, 0, domain="real"), encode_jpeg(pixels(3, 0), source_type=None))
        writer.commit(0.0, 1.0, {})
    assert damages(store) == []
