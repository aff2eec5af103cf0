"""The litData side of the streaming benchmark: `python litdata_side.py TARS OUT COUNT BATCH WORKERS`.

In: a folder of tars with .jpg and .cls members. Out: one line of JSON: pictures read, CPU and wall seconds of reading
them (this process, its threads and children; imports and the making of the chunks are not counted). On disk: OUT,
litData's own chunks of the same JPEG bytes, made once.

It imports nothing of this project, so that it runs in an environment that has litdata, torch, torchvision and Pillow.
"""

import io
import json
import os
import resource
import sys
import tarfile
import time
from pathlib import Path
from typing import Any


def samples_of(tar: str) -> Any:
    """Dictionaries of a tar's pictures, for `litdata.optimize`."""
    with tarfile.open(tar) as file:
        labels: dict[str, bytes] = {}
        pictures: dict[str, bytes] = {}
        for member in file:
            stem, _, extension = member.name.partition(".")
            if extension in ("jpg", "cls"):
                opened = file.extractfile(member)
                assert opened is not None
                (pictures if extension == "jpg" else labels)[stem] = opened.read()
    for stem, data in pictures.items():
        yield {"image": data, "label": int(labels[stem])}


def cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def main(tars: str, out: str, count: int, batch: int, workers: int) -> None:
    import litdata
    import torch
    from PIL import Image
    from torchvision import transforms

    torch.set_num_threads(1)
    if not (Path(out) / "index.json").exists():
        names = [str(path) for path in sorted(Path(tars).glob("*.tar"))]
        litdata.optimize(fn=samples_of, inputs=names, output_dir=out, chunk_bytes="64MB", num_workers=1)
        # it leaves the process with another way to start workers, which cannot take a class of this function
        os.execv(sys.executable, [sys.executable, *sys.argv])
    change = transforms.Compose(
        [
            transforms.RandomResizedCrop(224),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )

    class Decoded(litdata.StreamingDataset):
        def __getitem__(self, index: Any) -> Any:
            item = super().__getitem__(index)
            return change(Image.open(io.BytesIO(item["image"])).convert("RGB")), item["label"]

    begun, cpu_begun = time.perf_counter(), cpu_seconds()
    loader = litdata.StreamingDataLoader(
        Decoded(out, shuffle=True), batch_size=batch, num_workers=workers, drop_last=False
    )
    read = 0
    for images, _ in loader:
        read += len(images)
        if read >= count:
            break
    del loader
    print(json.dumps({"read": read, "wall_s": time.perf_counter() - begun, "cpu_s": cpu_seconds() - cpu_begun}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6]))
