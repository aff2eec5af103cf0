"""C1: what it costs to encode and write a 512 px image.

In: photograph-like arrays from code and a seed. Out: CPU and wall milliseconds per image of four ways to store them,
and of our JPEG encoder alone, which is the limit.
On disk: one shard, or one file per image, removed again.
"""

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from docs.bench.measure import Line, Result, Side, Size, alternate, ratios
from shards.disk.jpeg import encode_jpeg
from shards.disk.layout import sample_key
from shards.disk.store import open_store
from shards.set.writer import ShardWriter

SIDE_PX = 512
OURS_420, OURS_444 = "sixfold, JPEG 4:2:0 (recipes for ImageNet)", "sixfold, JPEG 4:4:4 (the default)"
ENCODER_420, ENCODER_444 = "the JPEG encoder alone, 4:2:0", "the JPEG encoder alone, 4:4:4"
PNG, WEBDATASET = "Pillow, a PNG file per image", "webdataset.ShardWriter, Pillow JPEG 4:2:0"


def measure(size: Size) -> Result:
    num = 4 if size.quick else 128
    images = [photograph(seed) for seed in range(min(num, 64))]
    images = (images * -(-num // len(images)))[:num]
    sides = {
        OURS_420: _ours(images, "420"),
        OURS_444: _ours(images, "444"),
        PNG: _png_files(images),
        WEBDATASET: _webdataset(images),
        ENCODER_420: _encoder(images, "420"),
        ENCODER_444: _encoder(images, "444"),
    }
    sizes: dict[str, float] = {}
    timed = alternate({name: _noting_size(side, name, sizes) for name, side in sides.items()}, size)
    lines = [
        Line(
            name,
            {"CPU ms/image": one.cpu_ms, "wall ms/image": one.wall_ms}
            | ({"KiB/image": (sizes[name],)} if sizes[name] else {}),
        )
        for name, one in timed.items()
    ]
    limit_420, limit_444 = (
        float(np.median(ratios(timed[PNG].cpu_ms, timed[name].cpu_ms))) for name in (ENCODER_420, ENCODER_444)
    )
    by_420 = float(np.median(ratios(timed[PNG].cpu_ms, timed[OURS_420].cpu_ms)))
    by_444 = float(np.median(ratios(timed[PNG].cpu_ms, timed[OURS_444].cpu_ms)))
    return Result(
        title="encode and write 512 px images",
        method=f"{num} images a repeat, from at most 64 different arrays made by code: noise with a 1/f amplitude "
        "spectrum, its colour channels correlated, under twelve shaded ellipses with sharp edges. Ours includes XMP, "
        "JSON, caption and class members, two hashes of every byte, the parquet table, fsync, claim and record; "
        "webdataset's has the same four members and nothing else; the PNG side has no metadata. JPEG quality 95, "
        "PNG at Pillow's default level. One thread each.",
        anchor="41.7 ms for Pillow's PNG files, 1.4-1.5 ms for JPEG 4:2:0 into a tar (CPU per image, an earlier run on "
        "two cores of the same kind); the JPEG encoder alone is 0.8-1.2 ms",
        predicted="27x with 4:2:0 and about 18x with 4:4:4, whose encoder alone is 1.4-1.9 ms",
        lines=lines,
        ratio_of="CPU ms/image",
        verdicts=[
            size.judge("at least 25x less CPU than PNG files, 4:2:0", f"{by_420:.1f}x", by_420 >= 25),
            size.judge("the same at 4:4:4, which stores 4 times the colour", f"{by_444:.1f}x", by_444 >= 25),
        ],
        notes=[f"The limit, with nothing but the encoder: {limit_420:.1f}x with 4:2:0, {limit_444:.1f}x with 4:4:4."],
    )


def photograph(seed: int, side_px: int = SIDE_PX) -> np.ndarray:
    """uint8 [side_px, side_px, 3]: 1/f noise under shaded ellipses. The same seed gives the same array."""
    rng = np.random.default_rng(seed)
    across = np.fft.rfftfreq(side_px)
    down = np.fft.fftfreq(side_px)[:, None]
    amplitude = 1 / np.maximum(np.hypot(across, down), 1 / side_px)
    layers = []
    for _ in range(3):
        phase = rng.uniform(0, 2 * np.pi, amplitude.shape)
        layer = np.fft.irfft2(amplitude * np.exp(1j * phase), s=(side_px, side_px))
        layers.append(layer / layer.std())
    shared = layers[0]
    image = np.stack([128 + 40 * (0.9 * shared + 0.3 * layer) for layer in layers], axis=-1)
    y, x = np.mgrid[0:side_px, 0:side_px]
    for _ in range(12):
        x0, y0 = rng.uniform(0, side_px, 2)
        wide, high = rng.uniform(20, 140, 2) * (side_px / SIDE_PX)
        inside = ((x - x0) / wide) ** 2 + ((y - y0) / high) ** 2 < 1
        shade = 1 + 0.3 * (x - x0) / wide
        colour = rng.uniform(20, 235, 3)
        image[inside] = 0.8 * (shade[..., None] * colour)[inside] + 0.2 * image[inside]
    return image.clip(0, 255).round().astype(np.uint8)


def _facts(slot: int) -> dict[str, object]:
    """A whole row, as a unit writes it."""
    return {
        "key": sample_key(0, slot),
        "uid": f"{slot:032x}",
        "status": "success",
        "domain": "synthetic",
        "class_id": slot % 1000,
        "class_name": "sulphur-crested cockatoo",
        "caption": "a photo of a large sulphur-crested cockatoo in the evening light.",
        "prompt_id": slot % 80,
        "prompt_kind": "template",
        "replicate": slot // 80,
        "draw": 0,
        "seed": 2**62 + slot,
        "batch": slot // 32,
        "model": "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "revision": "451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
        "licence": "creativeml-openrail-m",
        "sampler": '{"batch": 32, "dtype": "bf16", "guidance": 2.0, "scheduler": "dpm++", "size_px": 512, "steps": 30}',
        "width": SIDE_PX,
        "height": SIDE_PX,
        "original_width": SIDE_PX,
        "original_height": SIDE_PX,
    }


def _ours(images: Sequence[np.ndarray], subsampling: str) -> Side:
    def write(folder: Path) -> int:
        with ShardWriter(open_store(str(folder)), 0, "bench-0", "0" * 64) as writer:
            for slot, image in enumerate(images):
                writer.add(_facts(slot), encode_jpeg(image, 95, subsampling))
            writer.commit(0.0, 1.0, {})
        return len(images)

    return write


def _encoder(images: Sequence[np.ndarray], subsampling: str) -> Side:
    def encode(folder: Path) -> int:
        for image in images:
            encode_jpeg(image, 95, subsampling)
        return len(images)

    return encode


def _png_files(images: Sequence[np.ndarray]) -> Side:
    from PIL import Image

    def write(folder: Path) -> int:
        for slot, image in enumerate(images):
            Image.fromarray(image).save(folder / f"{slot:06d}.png")
        return len(images)

    return write


def _webdataset(images: Sequence[np.ndarray]) -> Side:
    import webdataset
    from PIL import Image

    def write(folder: Path) -> int:
        with webdataset.ShardWriter(str(folder / "%05d.tar"), maxcount=len(images), verbose=0) as sink:
            for slot, image in enumerate(images):
                facts = _facts(slot)
                buffer = io.BytesIO()
                Image.fromarray(image).save(buffer, "JPEG", quality=95)
                sink.write(
                    {
                        "__key__": str(facts["key"]),
                        "cls": str(facts["class_id"]),
                        "jpg": buffer.getvalue(),
                        "json": facts,
                        "txt": str(facts["caption"]),
                    }
                )
        return len(images)

    return write


def _noting_size(side: Side, name: str, sizes: dict[str, float]) -> Callable[[Path], int]:
    def write(folder: Path) -> int:
        items = side(folder)
        sizes[name] = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / items / 1024
        return items

    return write
