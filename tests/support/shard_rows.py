"""Small shards for the tests of `shards/`: rows and pixels are pure functions of (shard, slot, salt)."""

import hashlib
from pathlib import Path

import numpy as np

from shards.disk.jpeg import encode_jpeg
from shards.disk.layout import sample_key
from shards.disk.object_store import ObjectStore
from shards.disk.record import Record
from shards.disk.store import FolderStore
from shards.set.writer import ShardWriter

FINGERPRINT = "ab" * 32
SIZE_PX = 16


def pixels(shard: int, slot: int, salt: str = "") -> np.ndarray:
    """uint8 [16, 16, 3]; another salt stands for another device, whose bytes differ."""
    seed = hashlib.sha256(f"{shard} {slot} {salt}".encode()).digest()
    return np.random.default_rng(list(seed)).integers(0, 256, (SIZE_PX, SIZE_PX, 3), dtype=np.uint8)


def make_row(shard: int, slot: int, **changes: object) -> dict[str, object]:
    return {
        "key": sample_key(shard, slot),
        "uid": f"{shard * 10_000 + slot:032x}",
        "status": "success",
        "domain": "synthetic",
        "class_id": slot % 3,
        "class_name": "crane",
        "caption": f"a crane, the bird, nummer {slot} ünïcödé",
        "prompt_id": slot,
        "seed": 2**62 + slot,
        "similarity": 0.3,
        "model": "fake",
        "width": SIZE_PX,
        "height": SIZE_PX,
        **changes,
    }


def fill(writer: ShardWriter, shard: int, num_samples: int = 4, num_rejected: int = 1, salt: str = "") -> None:
    for slot in range(num_samples):
        writer.add(make_row(shard, slot), encode_jpeg(pixels(shard, slot, salt)))
    for slot in range(num_samples, num_samples + num_rejected):
        writer.add(make_row(shard, slot, status="blank", width=None, height=None), None)


def write_shard(
    store: FolderStore | ObjectStore,
    shard: int,
    attempt: str = "first",
    num_samples: int = 4,
    salt: str = "",
    fingerprint: str = FINGERPRINT,
) -> Record:
    with ShardWriter(store, shard, attempt, fingerprint) as writer:
        fill(writer, shard, num_samples, salt=salt)
        return writer.commit(100.0, 101.5, {"device": "cpu"})


def published(root: Path) -> dict[str, str]:
    """Name -> sha256 of every tar and table, and of every record's name: what must not depend on who wrote it."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() if path.suffix != ".json" else "record"
        for path in sorted(root.iterdir())
        if path.is_file()
    }


def leftovers(root: Path) -> list[str]:
    """Temporaries, claims and quarantined files."""
    return sorted(
        str(path.relative_to(root))
        for folder in ("tmp", "claims", "quarantine")
        for path in (root / "_meta" / folder).rglob("*")
        if path.is_file()
    )
