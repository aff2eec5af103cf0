"""A small, complete data set for tests: coloured pictures with every kind of row, written by the real writer."""

import hashlib
import io
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from shards.disk.jpeg import SourceType, encode_jpeg
from shards.disk.layout import sample_key
from shards.disk.store import FolderStore, open_store
from shards.set.writer import ShardWriter

FINGERPRINT = hashlib.sha256(b"small data set").hexdigest()
CLASS_NAMES = ("zero", "one", "two", "crane", "crane")
NOTES: dict[str, SourceType] = {
    "synthetic": "trainedAlgorithmicMedia",
    "edited": "compositeWithTrainedAlgorithmicMedia",
}
Change = Callable[[int, int, dict[str, object]], Mapping[str, object]]


def picture(class_id: int, index: int, size_px: int = 32) -> np.ndarray:
    """A gradient whose hue tells the class; no two are equal."""
    ramp = np.linspace(0, 255, size_px)
    image = np.zeros((size_px, size_px, 3))
    image[..., class_id % 3] = ramp[None, :]
    image[..., (class_id + 1) % 3] = ramp[:, None] * ((index % 7) + 1) / 8
    image[(index * 5) % size_px, :, :] = 255
    return image.astype(np.uint8)


def sample(shard: int, index: int, class_id: int, **changes: object) -> dict[str, object]:
    """A row as the generator would write it."""
    name = CLASS_NAMES[class_id % len(CLASS_NAMES)]
    return {
        "key": sample_key(shard, index),
        "uid": hashlib.sha256(f"{shard}/{index}".encode()).hexdigest()[:32],
        "status": "success",
        "domain": "synthetic",
        "class_id": class_id,
        "class_name": name,
        "caption": f"a photo of {name}, number {index}",
        "prompt_id": index % 4,
        "prompt_kind": "template",
        "meaning": f"{name}, the written digit",
        "style": ("ink", "chalk", "neon")[index % 3],
        "replicate": index // 4,
        "draw": 0,
        "seed": 1_000_003 * shard + index,
        "model": "sandbox/generator",
        "revision": "0123456789abcdef",
        "licence": "apache-2.0",
        "sampler": '{"steps":12}',
        "width": 32,
        "height": 32,
        "original_width": 32,
        "original_height": 32,
        "similarity": 0.2 + 0.001 * index,
        **changes,
    }


def write_data_set(
    folder: Path,
    num_shards: int = 2,
    num_slots: int = 10,
    num_rejected: int = 2,
    change: Change = lambda shard, index, row: row,
) -> FolderStore:
    """``num_slots`` kept samples and ``num_rejected`` rejected draws a shard; ``change`` may alter every row."""
    store = open_store(str(folder))
    assert isinstance(store, FolderStore)
    for shard in range(num_shards):
        with ShardWriter(store, shard, f"try-{shard}", FINGERPRINT) as writer:
            for index in range(num_slots):
                class_id = (shard * num_slots + index) % len(CLASS_NAMES)
                row = change(shard, index, sample(shard, index, class_id))
                note = NOTES.get(str(row["domain"]))
                writer.add(row, encode_jpeg(picture(class_id, index), source_type=note))
            for index in range(num_slots, num_slots + num_rejected):
                failed = sample(shard, index, index % len(CLASS_NAMES), status="blank", error_message="one flat colour")
                writer.add(change(shard, index, failed), None)
            writer.commit(1.0, 2.0, {"device": "cpu"}, slots=num_slots)
    return store


def write_foreign(folder: Path, labels: Sequence[int], tar: str = "test-0000.tar") -> None:
    """A tar as webdataset writes it: pictures with a .cls, no names of classes."""
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(folder / tar, "w") as file:
        for index, label in enumerate(labels):
            for name, data in ((f"{index}.jpg", encode_jpeg(picture(label, index))), (f"{index}.cls", b"%d" % label)):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                file.addfile(member, io.BytesIO(data))
