"""Photograph-like JPEGs for the streaming benchmark: cuts of the two photographs that scikit-learn ships.

In: a folder, how many. Out: nothing. On disk: a data set of ours with 1,000 pictures a shard, made once (about 10 ms
CPU a picture) and kept; every picture is another cut, mirrored or not, with other colours: 500 x 375 px, JPEG quality
95, 4:2:0.
"""

from functools import cache
from pathlib import Path

import numpy as np

from shards.disk.jpeg import encode_jpeg
from shards.disk.layout import sample_key
from shards.disk.store import FolderStore, open_store
from shards.set.manifest import scan_records
from shards.set.writer import ShardWriter
from shards.stream.keyed_random import KeyedRandom

WIDTH_PX, HEIGHT_PX = 500, 375
FINGERPRINT = "7" * 64


def make_tiles(folder: Path, count: int, per_shard: int = 1000) -> None:
    """Write the shards that are missing."""
    store = open_store(str(folder))
    assert isinstance(store, FolderStore)
    done = scan_records(store)
    for shard in range(-(-count // per_shard)):
        if shard in done:
            continue
        with ShardWriter(store, shard, "tiles", FINGERPRINT) as writer:
            for slot in range(min(per_shard, count - shard * per_shard)):
                number = shard * per_shard + slot
                row = {
                    "key": sample_key(shard, slot),
                    "uid": f"{number:032x}",
                    "status": "success",
                    "domain": "real",
                    "class_id": number % 1000,
                    "class_name": "a temple" if number % 2 else "a flower",
                    "caption": "a cut of a photograph",
                    "width": WIDTH_PX,
                    "height": HEIGHT_PX,
                }
                writer.add(row, encode_jpeg(tile(number), 95, "420", None))
            writer.commit(0.0, 1.0, {})


@cache
def _photographs() -> tuple[np.ndarray, ...]:
    from sklearn.datasets import load_sample_images

    return tuple(load_sample_images().images)


def tile(number: int) -> np.ndarray:
    """uint8 [375, 500, 3]. The same number gives the same picture."""
    import cv2

    rng = KeyedRandom(number)
    photograph = _photographs()[number % 2]
    high = int(rng.uniform(300, 427))
    wide = high * WIDTH_PX // HEIGHT_PX
    top, left = rng.below(427 - high + 1), rng.below(640 - wide + 1)
    cut = cv2.resize(
        photograph[top : top + high, left : left + wide], (WIDTH_PX, HEIGHT_PX), interpolation=cv2.INTER_CUBIC
    )
    if rng.below(2):
        cut = cv2.flip(cut, 1)
    shift = np.array([rng.uniform(-25, 25) for _ in range(3)])
    grain = np.random.Generator(np.random.PCG64(number)).normal(0, 3, (HEIGHT_PX, WIDTH_PX, 1))
    image: np.ndarray = (cut * rng.uniform(0.8, 1.2) + shift + grain).clip(0, 255).astype(np.uint8)
    return image
