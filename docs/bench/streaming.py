"""S1: what it costs to stream pictures into batches, beside the ways people do it today.

In: a data set of photograph-like JPEGs (see `tiles.py`), how often, optionally the interpreter of an environment with
litData. Out: CPU and wall time per picture of each side, time to the first batch after resuming, memory over three
epochs. On disk: litData's copy of the data set beside it.

All sides read the same tars, crop by the same law, flip, and give batches of 224 px; webdataset shuffles as its authors
advise. CPU time is that of this process, its threads and its finished children, start of workers included.
"""

import io
import json
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import psutil

from docs.bench.measure import Line, Result, Samples, Verdict, cpu_seconds, ratios
from shards.stream.augment import AugmentSpec, crop_box
from shards.stream.fetch import Verify
from shards.stream.index import load_index
from shards.stream.keyed_random import KeyedRandom
from shards.stream.spec import DomainSpec, StreamSpec
from shards.stream.stream import Stream

SIDE_PX = 224
BATCH = 64
WORKERS = 2
LITDATA_LIMIT_S = 3600
OURS = "sixfold, uint8"
UNCHECKED = "sixfold, uint8, verify: never"
FAST = "webdataset, simplejpeg, OpenCV, uint8"
TORCHVISION = "webdataset, Pillow, torchvision, float32"
TORCHVISION_UINT8 = "webdataset, Pillow, torchvision, uint8"
LITDATA = "litData, Pillow, torchvision, float32"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Plan:
    """The real run, or the miniature of the tests."""

    folder: Path  # of the tars
    count: int  # pictures
    rounds: int
    quick: bool
    litdata_python: Path | None

    def judge(self, target: str, found: str, met: bool) -> Verdict:
        return Verdict(target, found, None if self.quick else met)


@dataclass(frozen=True)
class Cost:
    pictures: int
    cpu_s: float
    wall_s: float


Side: TypeAlias = Callable[[], int]  # reads the whole set once; how many pictures came


def measure(plan: Plan) -> Result:
    import cv2
    import torch

    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    tars = [str(path) for path in sorted(plan.folder.glob("*.tar"))]
    sides: dict[str, Callable[[], Cost]] = {
        OURS: lambda: _timed(lambda: _ours(plan)),
        UNCHECKED: lambda: _timed(lambda: _ours(plan, verify="never")),
        FAST: lambda: _timed(lambda: _webdataset(tars, _fast)),
        TORCHVISION: lambda: _timed(lambda: _webdataset(tars, _torchvision(as_float=True))),
        TORCHVISION_UINT8: lambda: _timed(lambda: _webdataset(tars, _torchvision(as_float=False))),
    }
    litdata_python = plan.litdata_python
    if litdata_python is not None:
        sides[LITDATA] = lambda: _litdata(plan, litdata_python)
    costs: dict[str, list[Cost]] = {name: [] for name in sides}
    for number in range(-1 if not plan.quick else 0, plan.rounds):
        for name, side in sides.items():
            cost = side()
            if number >= 0:  # the round before loads what it loads, and the pictures into memory
                costs[name].append(cost)
    cpu = {name: tuple(cost.cpu_s / cost.pictures * 1e3 for cost in some) for name, some in costs.items()}
    wall = {name: tuple(cost.wall_s / cost.pictures * 1e3 for cost in some) for name, some in costs.items()}
    lines = [Line(name, {"CPU ms/picture": cpu[name], "wall ms/picture": wall[name]}) for name in sides]
    starts: dict[float, list[float]] = {0.0: [], 0.9: []}
    for _ in range(3 * plan.rounds):
        for part, some in starts.items():
            some.append(_first_batch_ms(plan, part))
    lines += [
        Line(f"sixfold, first batch from {part:.0%} of an epoch", {"wall ms": tuple(some)})
        for part, some in starts.items()
    ]
    memory = _memory_MiB(plan, 3)
    lines.append(Line("sixfold, private memory after each of 3 epochs", {"MiB": memory}))
    sizes = load_index(str(plan.folder)).size
    return Result(
        title="stream JPEGs from tars into batches of 224 px",
        method=f"{len(sizes):,} different cuts of two photographs, 500x375 px, JPEG quality 95, 4:2:0, "
        f"{sizes.mean() / 1000:.0f} KB in the mean, {len(tars)} tars, page cache warm; random crop (8 to 100 % of the "
        f"area), flip; batches of {BATCH}; {WORKERS} threads (ours) or worker processes; OpenCV and torch with one "
        f"thread; {plan.rounds} rounds in turn after one that is not counted.",
        anchor="4.85 ms for webdataset with Pillow and torchvision to float32, 2.82 ms with simplejpeg and OpenCV, "
        "4.77 ms for litData (CPU per picture, 600 pictures, an earlier run on two cores of the same kind)",
        predicted="at least 2x less CPU than webdataset with Pillow, 1.2x less than with simplejpeg and OpenCV",
        lines=lines,
        ratio_of="CPU ms/picture",
        verdicts=_verdicts(plan, cpu, starts, memory),
        notes=[
            "The fast webdataset side interpolates without averaging first, which is cheaper and coarser than ours.",
            *([] if litdata_python else ["litData: not run: not installed (--litdata-python)."]),
        ],
    )


def _verdicts(
    plan: Plan, cpu: dict[str, Samples], starts: dict[float, list[float]], memory: Samples
) -> Sequence[Verdict]:
    by_pillow = float(np.median(ratios(cpu[TORCHVISION], cpu[OURS])))
    by_fast = float(np.median(ratios(cpu[FAST], cpu[OURS])))
    checked = float(np.median(ratios(cpu[OURS], cpu[UNCHECKED]))) - 1
    late = float(np.median(starts[0.9]) / np.median(starts[0.0]))
    growth = memory[-1] - memory[0]
    return [
        plan.judge("at least 2x less CPU than webdataset, Pillow, float32", f"{by_pillow:.2f}x", by_pillow >= 2),
        plan.judge("at least 1.2x less CPU than webdataset, simplejpeg, OpenCV", f"{by_fast:.2f}x", by_fast >= 1.2),
        plan.judge("comparing every picture with its hash at most 5 % more CPU", f"{checked:.1%}", checked <= 0.05),
        plan.judge("first batch at 90 % at most 1.5 times as late as at 0 %", f"{late:.2f}x", late <= 1.5),
        plan.judge("memory grows by at most 16 MiB from epoch 1 to 3", f"{growth:.1f} MiB", growth <= 16),
    ]


def _timed(side: Side) -> Cost:
    cpu_begun, begun = cpu_seconds(), time.perf_counter()
    pictures = side()
    return Cost(pictures, cpu_seconds() - cpu_begun, time.perf_counter() - begun)


def _stream(plan: Plan, start_step: int = 0, verify: Verify = "first") -> Stream:
    spec = StreamSpec(
        domains=(DomainSpec(name="real", source=str(plan.folder), quota=_batch(plan)),),
        size_px=SIDE_PX,
        threads=WORKERS,
        augment=AugmentSpec(),
        verify=verify,
    )
    return Stream(spec, groups=1, seed=1, epoch_steps=_steps(plan), start_step=start_step)


def _batch(plan: Plan) -> int:
    return min(BATCH, plan.count)


def _steps(plan: Plan) -> int:
    return plan.count // _batch(plan)


def _ours(plan: Plan, verify: Verify = "first") -> int:
    with _stream(plan, verify=verify) as stream:
        return sum(len(next(stream).images) for _ in range(_steps(plan)))


def _first_batch_ms(plan: Plan, part: float) -> float:
    """From nothing to the first batch: index, order, threads, decoding."""
    begun = time.perf_counter()
    with _stream(plan, int(part * _steps(plan))) as stream:
        next(stream)
        return (time.perf_counter() - begun) * 1e3


def _memory_MiB(plan: Plan, epochs: int) -> Samples:
    """Private memory of this process; mapped tars are the page cache's."""
    found = []
    with _stream(plan) as stream:
        for _ in range(epochs):
            for _ in range(_steps(plan)):
                next(stream)
            used = psutil.Process().memory_info()
            found.append((used.rss - used.shared) / 2**20)
    return tuple(found)


def _webdataset(tars: Sequence[str], decode: Callable[[bytes], Any]) -> int:
    import webdataset as wds

    dataset = (
        wds.WebDataset(list(tars), nodesplitter=wds.split_by_node, shardshuffle=100)
        .shuffle(1000)
        .to_tuple("jpg", "cls")
        .map_tuple(decode, int)
        .batched(BATCH)
    )
    loader = wds.WebLoader(dataset, batch_size=None, num_workers=min(WORKERS, len(tars)))
    return sum(len(images) for images, _ in loader)


def _fast(data: bytes) -> np.ndarray:
    """The crop's law is ours, so that the same is done."""
    import cv2
    import simplejpeg

    cv2.setNumThreads(1)
    image = simplejpeg.decode_jpeg(data, fastdct=True, fastupsample=True)
    rng = KeyedRandom(int.from_bytes(os.urandom(8), "little"))
    height, width = image.shape[:2]
    top, left, high, wide = crop_box(height, width, (0.08, 1.0), (3 / 4, 4 / 3), rng)
    part = cv2.resize(image[top : top + high, left : left + wide], (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_LINEAR)
    return cv2.flip(part, 1) if rng.below(2) else part


def _torchvision(as_float: bool) -> Callable[[bytes], Any]:
    from PIL import Image
    from torchvision import transforms

    steps: list[Any] = [transforms.RandomResizedCrop(SIDE_PX), transforms.RandomHorizontalFlip()]
    if as_float:
        steps += [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    else:
        steps += [transforms.PILToTensor()]
    change = transforms.Compose(steps)
    return lambda data: change(Image.open(io.BytesIO(data)).convert("RGB"))


def _litdata(plan: Plan, python: Path) -> Cost:
    out = plan.folder.parent / f"{plan.folder.name}-litdata"
    program = Path(__file__).with_name("litdata_side.py")
    numbers = [str(number) for number in (plan.count, BATCH, WORKERS)]
    done = subprocess.run(
        [str(python), str(program), str(plan.folder), str(out), *numbers],
        stdout=subprocess.PIPE,
        text=True,
        timeout=LITDATA_LIMIT_S,
        check=True,
    )
    cost = json.loads(done.stdout.splitlines()[-1])
    return Cost(cost["read"], cost["cpu_s"], cost["wall_s"])
