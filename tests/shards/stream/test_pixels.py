"""Bytes to pixels: evaluation equal to timm's, training near Pillow's, files of every kind, bounds before decoding."""

import io
import random
import resource
import struct
import zlib

import numpy as np
import pytest
import simplejpeg
import timm.data
from PIL import Image

from shards.disk.jpeg import MAX_PIXELS
from shards.stream.augment import AugmentSpec
from shards.stream.keyed_random import KeyedRandom
from shards.stream.pixels import UnreadablePicture, decode_with_pillow, eval_pixels, shrink, train_pixels
from tests.support.photographs import encoded, photographs

PHOTO = photographs()[0]
WHOLE = AugmentSpec(scale=(1.0, 1.0), ratio=(1e-3, 1e3), flip=0.0)


def trained(data: bytes | memoryview, size_px: int = 224, spec: AugmentSpec = WHOLE, key: int = 0) -> np.ndarray:
    out = np.zeros((size_px, size_px, 3), np.uint8)
    train_pixels(data, size_px, spec, KeyedRandom(key), out)
    return out


@pytest.mark.parametrize(
    ("height", "width", "size_px", "crop_pct"),
    [
        (427, 640, 224, 0.875),
        (300, 200, 224, 1.0),
        (427, 427, 224, 0.95),
        (120, 90, 96, 0.9),
        (90, 120, 224, 0.8),
        (31, 17, 32, 0.875),
        (32, 32, 32, 1.0),
        (333, 111, 101, 0.77),
    ],
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_evaluation_pixels_equal_timms_in_every_value(
    height: int, width: int, size_px: int, crop_pct: float, kind: str
) -> None:
    data = encoded(PHOTO[:height, :width], kind)
    transform = timm.data.create_transform(
        size_px, is_training=False, interpolation="bicubic", crop_pct=crop_pct, normalize=False
    )
    theirs = transform(Image.open(io.BytesIO(data)).convert("RGB")).numpy().transpose(1, 2, 0)
    assert np.array_equal(eval_pixels(data, size_px, crop_pct), theirs)


@pytest.mark.parametrize(("height", "width"), [(4, 400), (400, 4), (7, 333)])
def test_the_centre_of_a_strip_is_the_same_whether_all_of_it_is_enlarged_or_not(
    height: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = encoded(PHOTO[:height, :width], "PNG")
    whole = eval_pixels(data, 64, 0.875)
    monkeypatch.setattr("shards.stream.pixels.MAX_PIXELS", height * width)
    part = eval_pixels(data, 64, 0.875)
    assert np.abs(part.astype(int) - whole).max() <= 1


@pytest.mark.parametrize("size", [(1, 60_000), (60_000, 1)])
def test_h7_a_strip_is_evaluated_in_the_memory_of_its_centre(size: tuple[int, int]) -> None:
    """Enlarged as a whole to a short side of 256 it would take 12 GB."""
    strip = encoded(np.full((*size, 3), (200, 100, 50), np.uint8), "JPEG")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert np.abs(eval_pixels(strip, 224, 0.875).astype(int) - (200, 100, 50)).max() <= 3
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000, "KiB"


@pytest.mark.parametrize(
    ("kind", "mode", "is_fast"),
    [
        ("JPEG", "RGB", True),
        ("JPEG", "L", True),
        ("JPEG", "CMYK", False),
        ("PNG", "RGB", False),
        ("PNG", "L", False),
        ("PNG", "P", False),
        ("PNG", "RGBA", False),
        ("WEBP", "RGB", False),
    ],
)
def test_files_of_every_kind_become_rgb(kind: str, mode: str, is_fast: bool) -> None:
    data = encoded(PHOTO[:64, :64], kind, mode)
    out = np.zeros((64, 64, 3), np.uint8)
    assert train_pixels(memoryview(data), 64, WHOLE, KeyedRandom(0), out) == is_fast
    plain = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert np.abs(out.astype(int) - plain).mean() < 4, "the fast decoder is less exact with colour"
    assert eval_pixels(data, 64, 1.0).shape == (64, 64, 3)


def test_a_jpeg_that_the_strict_decoder_refuses_is_read_by_pillow() -> None:
    data = encoded(PHOTO[:64, :64])
    odd = data[:-2] + b"\x00\x00\xff\xd1\x00" + data[-2:]  # a restart mark that belongs to no interval
    with pytest.raises(ValueError, match="Corrupt JPEG data"):
        simplejpeg.decode_jpeg(odd)
    out = np.zeros((32, 32, 3), np.uint8)
    assert not train_pixels(odd, 32, WHOLE, KeyedRandom(0), out)
    assert np.abs(out.astype(int) - trained(data, 32)).mean() < 2


@pytest.mark.parametrize("height_px", [500, 700, 1000, 2500])
def test_decoding_at_a_part_of_the_size_changes_little(height_px: int) -> None:
    """Against the whole picture through Pillow's antialiased filter: at most 3 levels in the mean."""
    big = Image.fromarray(PHOTO).resize((height_px * 3 // 2, height_px), Image.Resampling.BICUBIC)
    ours = trained(encoded(np.asarray(big), quality=95), 112)
    theirs = np.asarray(big.resize((112, 112), Image.Resampling.BILINEAR))
    assert np.abs(ours.astype(int) - theirs).mean() < 3


def test_a_scaled_decode_shows_the_same_part_of_the_picture() -> None:
    """A crop of a smooth ramp: a shift by one source pixel would show as 0.17 levels, a wrong box as many."""
    y, x = np.mgrid[0:1500, 0:1500] / 1500 * 255
    data = encoded(np.stack([x, y, np.zeros_like(x)], axis=-1).round().astype(np.uint8), quality=98, subsampling=0)
    spec = AugmentSpec(scale=(0.3, 0.9), flip=0.0)
    for key in range(10):
        scaled = trained(data, 100, spec, key)
        full = np.zeros((100, 100, 3), np.uint8)
        train_pixels(encoded(decode_with_pillow(data), "PNG", compress_level=0), 100, spec, KeyedRandom(key), full)
        assert np.abs(scaled.astype(int) - full)[..., :2].max() <= 3


@pytest.mark.parametrize("shape", [(448, 448), (250, 230), (1000, 300), (300, 1000), (60, 70), (1, 1), (1, 900)])
def test_shrinking_is_near_pillows_antialiased_filter(shape: tuple[int, int]) -> None:
    """At most 3.5 levels in the mean on a photograph; OpenCV's plain bilinear is 9 apart at a factor of 4.5."""
    image = np.asarray(Image.fromarray(PHOTO).resize(shape[::-1], Image.Resampling.BICUBIC))
    theirs = np.asarray(Image.fromarray(image).resize((224, 224), Image.Resampling.BILINEAR))
    assert np.abs(shrink(image, 224).astype(int) - theirs).mean() < 3.5


@pytest.mark.parametrize("shape", [(448, 448), (250, 230), (60, 70)])
def test_a_crop_is_resized_bicubic_if_asked(shape: tuple[int, int]) -> None:
    """Nearer to Pillow's bicubic than to its bilinear, wherever no pixels are averaged first."""
    image = np.asarray(Image.fromarray(PHOTO).resize(shape[::-1], Image.Resampling.BICUBIC))
    spec = WHOLE.model_copy(update={"resize": "bicubic"})
    found = trained(encoded(image, "PNG"), 224, spec).astype(int)
    assert np.array_equal(found, shrink(image, 224, "bicubic"))
    if min(shape) < 448:
        near = {
            way: np.abs(found - np.asarray(Image.fromarray(image).resize((224, 224), way))).mean()
            for way in (Image.Resampling.BICUBIC, Image.Resampling.BILINEAR)
        }
        assert near[Image.Resampling.BICUBIC] < near[Image.Resampling.BILINEAR]


def test_the_flip_mirrors_and_nothing_else() -> None:
    data = encoded(PHOTO)
    always = WHOLE.model_copy(update={"flip": 1.0})
    assert np.array_equal(trained(data, spec=always), trained(data)[:, ::-1])


def test_pixels_depend_on_the_key_alone() -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    data = encoded(PHOTO)
    spec = AugmentSpec(policy="rand", erase=0.3)
    first = [trained(data, 64, spec, seed + n) for n in range(8)]
    again = [trained(memoryview(data), 64, spec, seed + n) for n in reversed(range(8))]
    assert all(np.array_equal(a, b) for a, b in zip(first, reversed(again), strict=True))
    assert len({one.tobytes() for one in first}) == 8


def huge_png() -> bytes:
    """A PNG that claims 9,000 x 9,000 pixels in a few bytes."""
    head = b"IHDR" + struct.pack(">IIBBBBB", 9_000, 9_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 10) + b"IDAT" + bytes(14)


def huge_jpeg() -> bytes:
    """A JPEG whose header claims 60,000 x 60,000 pixels."""
    data = bytearray(encoded(PHOTO[:16, :16]))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", 60_000, 60_000)
    return bytes(data)


@pytest.mark.parametrize("data", [huge_png(), huge_jpeg()], ids=["PNG", "JPEG"])
def test_h7_a_claim_of_too_many_pixels_is_refused_before_decoding(data: bytes) -> None:
    with pytest.raises(UnreadablePicture, match=f"at most {MAX_PIXELS} are decoded"):
        trained(data)
    with pytest.raises(UnreadablePicture):
        eval_pixels(data, 224, 0.9)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xd8",
        b"not a picture",
        encoded(PHOTO)[:5000],
        encoded(PHOTO, "PNG")[:5000],
        *(encoded(PHOTO[:9, :9], kind) for kind in ("TIFF", "EPS", "TGA")),
    ],
    ids=["empty", "mark", "text", "cut JPEG", "cut PNG", "TIFF", "EPS", "TGA"],
)
def test_h9_what_is_no_picture_is_named_so(data: bytes) -> None:
    with pytest.raises(UnreadablePicture, match="no picture that Pillow can decode"):
        trained(data)
    with pytest.raises(UnreadablePicture):
        eval_pixels(data, 224, 0.9)


def test_h8_damaged_bytes_are_pixels_or_a_named_error_never_a_crash() -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    files = [encoded(PHOTO[:80, :80]), encoded(PHOTO[:80, :80], "PNG"), encoded(PHOTO[:80, :80], "WEBP")]
    messages = []
    for _ in range(300):
        data = bytearray(files[int(rng.random() * 3)])
        for _ in range(1 + int(rng.random() * 6)):
            data[int(rng.random() * len(data))] = int(rng.random() * 256)
        try:
            assert trained(bytes(data), 32).shape == (32, 32, 3)
        except UnreadablePicture as error:
            messages.append(str(error))
    assert messages
    assert all("\n" not in message for message in messages)
