"""Shards made by an enemy or a broken disk: flagged or byte-equal, nothing written, nothing followed, memory flat."""

import hashlib
import io
import os
import random
import resource
import tarfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from shards.disk.layout import record_name, table_name, tar_name
from shards.disk.record import FileStamp, parse_record
from shards.disk.store import FolderStore, open_store
from shards.disk.tar import header, padding, trailer
from shards.set.manifest import read_member, read_table
from shards.set.verify import verify
from tests.support.shard_rows import write_shard

SEED = int(os.environ.get("SIXFOLD_TEST_SEED", "20261121"))


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    opened = open_store(str(tmp_path / "out"))
    assert isinstance(opened, FolderStore)
    write_shard(opened, 0, num_samples=3)
    return opened


def mutate(data: bytes, rng: random.Random) -> bytes:
    """M5's generator: a cut, flipped bytes, a zeroed block, two blocks swapped, bytes put in or taken out."""
    kind = rng.choice(["cut", "flip", "zero", "swap", "insert", "remove", "append"])
    out = bytearray(data)
    block, other = (512 * rng.randrange(max(len(data) // 512, 1)) for _ in range(2))
    if kind == "cut":
        del out[rng.randrange(len(out)) :]
    elif kind == "flip":
        for _ in range(rng.choice([1, 1, 2, 10])):
            out[rng.randrange(len(out))] ^= rng.randrange(1, 256)
    elif kind == "zero":
        out[block : block + 512] = bytes(min(512, len(out) - block))
    elif kind == "swap":
        out[block : block + 512], out[other : other + 512] = out[other : other + 512], out[block : block + 512]
    elif kind == "insert":
        out[block:block] = rng.randbytes(rng.choice([1, 512]))
    elif kind == "remove":
        del out[block : block + rng.choice([1, 512])]
    else:
        out += rng.choice([b"\0" * 512, data, b"x"])
    return bytes(out)


def mutated_shards(store: FolderStore, times: int) -> None:
    print("seed", SEED)
    rng = random.Random(SEED)
    names = [tar_name(0), table_name(0), record_name(0)]
    whole = {name: (store.root / name).read_bytes() for name in names}
    equal = 0
    slowest_s = 0.0
    for _ in range(times):
        name = rng.choices(names, weights=[8, 3, 2])[0]
        data = mutate(whole[name], rng)
        (store.root / name).write_bytes(data)
        start = time.monotonic()
        damages = verify(store).damages
        slowest_s = max(slowest_s, time.monotonic() - start)
        if damages == ():
            equal += 1
            same = data == whole[name]
            if name == record_name(0):  # white space around JSON
                same = parse_record(data, 0, "") == parse_record(whole[name], 0, "")
            assert same, f"a changed {name} went unnoticed"
        (store.root / name).write_bytes(whole[name])
    print(f"{times} mutated shards, {equal} unchanged, {times - equal} flagged, slowest {slowest_s * 1000:.0f} ms")
    assert equal < times // 10
    assert verify(store).damages == ()


def test_h1_mutated_shards_are_flagged_or_byte_equal(store: FolderStore) -> None:
    mutated_shards(store, 400)


@pytest.mark.torture
def test_h1_ten_thousand_mutated_shards_are_flagged_or_byte_equal(store: FolderStore) -> None:
    mutated_shards(store, 10_000)


def crafted(*infos: tuple[tarfile.TarInfo, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=form) as tar:
        for info, data in infos:
            info.size = len(data) if info.isreg() else 0
            tar.addfile(info, io.BytesIO(data))
    return sink.getvalue()


def special(name: str, kind: bytes, target: str = "") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info, b"canary"


def huge_size() -> bytes:
    block = bytearray(header("000000000.jpg", 1))
    block[124:136] = b"\x80\0\0\0\0\0\x01\0\0\0\0\0"  # base-256, 2**40 bytes
    block[148:156] = b"        "
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + b"x"


HOSTILE: dict[str, Callable[[], bytes]] = {
    "path up": lambda: crafted(special("../../canary", tarfile.REGTYPE)),
    "absolute path": lambda: crafted(special("/tmp/canary-of-sixfold", tarfile.REGTYPE)),
    "windows path": lambda: crafted(special("C:\\canary", tarfile.REGTYPE)),
    "symlink": lambda: crafted(special("000000000.jpg", tarfile.SYMTYPE, "/etc/passwd")),
    "hard link": lambda: crafted(special("000000000.jpg", tarfile.LNKTYPE, "/etc/passwd")),
    "device": lambda: crafted(special("000000000.jpg", tarfile.CHRTYPE)),
    "fifo": lambda: crafted(special("000000000.jpg", tarfile.FIFOTYPE)),
    "sparse": lambda: crafted(special("000000000.jpg", tarfile.GNUTYPE_SPARSE), form=tarfile.GNU_FORMAT),
    "long name": lambda: crafted(special("x" * 5000, tarfile.REGTYPE), form=tarfile.GNU_FORMAT),
    "huge pax header": lambda: header("pax", 8**11 - 1).replace(b"ustar", b"ustar") + b"path=x\n",
    "size of 2**40": huge_size,
    "100,000 empty members": lambda: header("000000000.jpg", 0) * 100_000,
    "a gzip file": lambda: b"\x1f\x8b" + bytes(5000),
    "empty": lambda: b"",
    "pickle member": lambda: crafted(special("000000000.pkl", tarfile.REGTYPE)),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_h2_h3_a_crafted_tar_is_refused_though_its_record_fits(store: FolderStore, tmp_path: Path, kind: str) -> None:
    """The enemy writes record and tar; the table says what we wrote. Nothing is extracted or followed."""
    before = sorted(path for path in tmp_path.rglob("*") if path.suffix != ".jsonl")
    record_path = store.root / record_name(0)
    record = parse_record(record_path.read_bytes(), 0, "")
    rows = read_table(store, [0]).to_pylist()
    data = HOSTILE[kind]()
    (store.root / tar_name(0)).write_bytes(data)
    stamp = FileStamp(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    record_path.write_bytes(replace(record, tar=stamp).to_bytes())
    start = time.monotonic()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    report = verify(store)
    assert report.damaged_shards() == [0]
    kinds = {damage.kind for damage in report.damages}
    assert kinds == {"member"} if not data else {"header", "member"} <= kinds  # of nothing, nothing else can be said
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 200_000, "KiB"
    assert time.monotonic() - start < 10
    for row in rows[:3]:
        with pytest.raises(ValueError, match="verify"):
            read_member(store, row)
    assert sorted(path for path in tmp_path.rglob("*") if path.suffix != ".jsonl") == before
    assert not Path("/tmp/canary-of-sixfold").exists()


def test_h4_members_between_ours_are_refused_though_every_hash_fits(store: FolderStore) -> None:
    """A repeated key, an unknown extension: the tar has room for nothing the table does not name."""
    record_path = store.root / record_name(0)
    record = parse_record(record_path.read_bytes(), 0, "")
    whole = (store.root / tar_name(0)).read_bytes()
    end = len(whole.rstrip(b"\0")) + 511 & ~511
    for name in ("000000002.jpg", "000000002.pkl", "000000003.jpg"):
        extra = header(name, 6) + b"canary" + padding(6)
        data = whole[:end] + extra
        data += trailer(len(data))
        (store.root / tar_name(0)).write_bytes(data)
        stamp = FileStamp(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
        record_path.write_bytes(replace(record, tar=stamp).to_bytes())
        assert {damage.kind for damage in verify(store).damages} == {"trailer"}


def test_h1_a_table_that_is_no_parquet_is_refused_though_its_record_fits(store: FolderStore) -> None:
    rng = random.Random(SEED)
    record_path = store.root / record_name(0)
    record = parse_record(record_path.read_bytes(), 0, "")
    whole = (store.root / table_name(0)).read_bytes()
    for data in (b"", b"PAR1", b"PAR1" * 100, rng.randbytes(3000), whole[:-9], b"\xff" * 8 + b"PAR1", whole[4:]):
        (store.root / table_name(0)).write_bytes(data)
        stamp = FileStamp(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
        record_path.write_bytes(replace(record, parquet=stamp).to_bytes())
        assert "table" in {damage.kind for damage in verify(store).damages}
