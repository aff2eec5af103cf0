"""The few-shot real images as an image folder: `python -m sandbox.real_folder`.

In: nothing. Out: how many bytes were written. On disk: `sandbox/real-train/0007_seven/00.jpg` .. `19.jpg`, the first 20
shots of each class of the set real-train. Folders are named as by an export, so their order is that of the class ids.
"""

from pathlib import Path

from sandbox.sets import set_scenes
from sandbox.world import CLASS_NAMES, render
from shards.disk.jpeg import encode_jpeg
from shards.disk.replace import whole_folder
from shards.labels.folders import class_folder

FOLDER = Path(__file__).parent / "real-train"
SHOTS = 20


def write_real_folder(to: Path) -> int:
    """Write the pictures into a new folder, all or none; returns the number of bytes."""
    num_bytes = 0
    with whole_folder(to) as folder:
        for number, scene in enumerate(set_scenes("real-train")[: SHOTS * len(CLASS_NAMES)]):
            target = folder / class_folder(scene.class_id, CLASS_NAMES[scene.class_id])
            target.mkdir(exist_ok=True)
            # a photograph of the world, not a generated image: no source-type note
            jpeg = encode_jpeg(render(scene), source_type=None)
            (target / f"{number // len(CLASS_NAMES):02d}.jpg").write_bytes(jpeg)
            num_bytes += len(jpeg)
    return num_bytes


if __name__ == "__main__":
    print(f"{FOLDER}: {write_real_folder(FOLDER)} bytes")
