"""A data set of given pictures, one shard each so many, written by the real writer."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from shards.disk.jpeg import SourceType, encode_jpeg
from shards.disk.store import FolderStore, open_store
from shards.set.writer import ShardWriter
from tests.support.small_data_set import FINGERPRINT, sample


def write_pictures(
    folder: Path,
    pictures: Sequence[np.ndarray],
    classes: Sequence[int] | None = None,
    per_shard: int = 8,
    domain: str = "real",
    **changes: object,
) -> FolderStore:
    """Pictures in their order, `per_shard` a shard; `changes` are fields of every row."""
    store = open_store(str(folder))
    assert isinstance(store, FolderStore)
    for shard, start in enumerate(range(0, len(pictures), per_shard)):
        part = pictures[start : start + per_shard]
        with ShardWriter(store, shard, f"try-{shard}", FINGERPRINT) as writer:
            for index, picture in enumerate(part):
                class_id = classes[start + index] if classes is not None else 0
                size = {"height": picture.shape[0], "width": picture.shape[1]}
                row = sample(shard, index, class_id, **size, **changes)
                note: SourceType | None = "trainedAlgorithmicMedia" if domain in ("synthetic", "edited") else None
                writer.add({**row, "domain": domain}, encode_jpeg(picture, source_type=note))
            writer.commit(1.0, 2.0, {"device": "cpu"}, slots=len(part))
    return store


def scenes(num: int, seed: int = 0, side_px: int = 64) -> list[np.ndarray]:
    """Different pictures: bars and patches in random places and colours."""
    draw = np.random.default_rng(seed)
    found = []
    for _ in range(num):
        picture = np.full((side_px, side_px, 3), draw.integers(120, 230, 3), np.float32)
        for _ in range(12):
            top, left = draw.integers(0, side_px - 6, 2)
            high, wide = draw.integers(3, side_px // 3, 2)
            picture[top : top + high, left : left + wide] = draw.integers(10, 240, 3)
        found.append(np.clip(picture + draw.normal(0, 2, picture.shape), 0, 255).astype(np.uint8))
    return found


def in_other_light(picture: np.ndarray, seed: int = 0) -> np.ndarray:
    """The same page under a coloured light that falls off to one side."""
    draw = np.random.default_rng(seed)
    height, width = picture.shape[:2]
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    angle = draw.uniform(0, 2 * np.pi)
    fall = 0.7 + 0.2 * (x * np.cos(angle) + y * np.sin(angle))
    lit = picture * fall[..., None] * draw.uniform(0.6, 1.1, 3)
    return np.clip(lit + draw.normal(0, 2, picture.shape), 0, 255).astype(np.uint8)
