"""Real images of the other sense: photographs of dice and tiles under the sandbox's class names, as an ImageFolder."""

from pathlib import Path

import numpy as np

from sandbox.world import CLASS_NAMES, INKS, LIGHTS, PAPERS, Scene, render
from shards.disk.jpeg import encode_jpeg
from shards.labels.folders import class_folder


def write_dice(root: Path, per_class: int) -> Path:
    """`root` with a folder of pictures for each class, the same every time."""
    rng = np.random.default_rng(11)
    for digit, name in enumerate(CLASS_NAMES):
        folder = root / class_folder(digit, name)
        folder.mkdir()
        for number in range(per_class):
            scene = Scene(
                sense="pips",
                class_id=digit,
                scan=-1,
                ink=str(rng.choice(list(INKS))),
                paper=str(rng.choice(list(PAPERS))),
                light=str(rng.choice(LIGHTS)),
                seed=int(rng.integers(1 << 62)),
            )
            (folder / f"{number}.jpg").write_bytes(encode_jpeg(render(scene), source_type=None))
    return root
