"""JPEG bytes that say where they come from and that every reader understands."""

import io

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from shards.disk.jpeg import (
    MAX_PIXELS,
    SOURCE_TYPES,
    decode_jpeg,
    encode_jpeg,
    jpeg_size,
    may_be_turned,
    read_source_type,
)
from shards.disk.pictures import orientation_of

ADDRESS = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"


def gradient(height: int = 48, width: int = 64) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 255 // width, y * 255 // height, (x + y) * 255 // (width + height)], -1).astype(np.uint8)


@pytest.mark.parametrize("subsampling", ["444", "420"])
@pytest.mark.parametrize("source_type", [*SOURCE_TYPES, None])
def test_k5_an_encoded_image_says_its_source_type_to_every_reader(subsampling: str, source_type: object) -> None:
    image = gradient()
    data = encode_jpeg(image, subsampling=subsampling, source_type=source_type)  # type: ignore[arg-type]
    assert read_source_type(data) == source_type
    by_pillow = Image.open(io.BytesIO(data), formats=["JPEG"])
    assert by_pillow.info["jfif"] == 257, "the JFIF header still comes first"
    if source_type is None:
        assert "xmp" not in by_pillow.info
    else:
        assert f"digitalsourcetype/{source_type}".encode() in by_pillow.info["xmp"]
    assert dict(by_pillow.getexif()) == {}
    plain = simplejpeg.decode_jpeg(data, colorspace="RGB")
    assert np.array_equal(decode_jpeg(data), plain)
    assert np.abs(np.asarray(by_pillow).astype(int) - plain).max() <= 2
    assert np.abs(plain.astype(int) - image).mean() < 3
    assert jpeg_size(data) == image.shape[:2]


def test_e9_the_bytes_hold_the_pixels_and_the_source_type_and_nothing_else() -> None:
    data = encode_jpeg(gradient())
    bare = encode_jpeg(gradient(), source_type=None)
    at = data.index(b"\xff\xe1")
    length = 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    assert data[:at] + data[at + length :] == bare
    assert ADDRESS.encode() in data[at : at + length]
    assert data == encode_jpeg(gradient()), "the same pixels give the same bytes"


@given(seed=st.integers(0, 2**32), height=st.integers(1, 40), width=st.integers(1, 40), quality=st.integers(1, 100))
@settings(max_examples=60, deadline=None)
def test_any_image_comes_back_in_its_size(seed: int, height: int, width: int, quality: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    data = encode_jpeg(image, quality=quality)
    assert decode_jpeg(data).shape == image.shape
    assert read_source_type(data) == "trainedAlgorithmicMedia"


def test_images_and_settings_that_do_not_fit_are_refused() -> None:
    image = gradient()
    for bad in (image[..., 0], image.astype(np.float32), image[:0], np.dstack([image, image])):
        with pytest.raises(ValueError, match="expected uint8"):
            encode_jpeg(bad)
    with pytest.raises(ValueError, match="quality"):
        encode_jpeg(image, quality=0)
    with pytest.raises(ValueError, match="subsampling"):
        encode_jpeg(image, subsampling="422")
    with pytest.raises(ValueError, match="source type"):
        encode_jpeg(image, source_type="photograph")  # type: ignore[arg-type]


def test_h7_a_header_that_claims_a_huge_image_is_refused_before_decoding() -> None:
    data = bytearray(encode_jpeg(gradient()))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = (60_000).to_bytes(2, "big") * 2
    with pytest.raises(ValueError, match=f"at most {MAX_PIXELS}"):
        decode_jpeg(bytes(data))


def test_h11_bytes_behind_the_end_of_the_image_are_refused() -> None:
    data = encode_jpeg(gradient())
    for bad in (data + b"PK\x03\x04", data[:-2], b"", b"\xff\xd8", data[2:], b"GIF89a" + data):
        with pytest.raises(ValueError):
            decode_jpeg(bad)


@given(data=st.binary(max_size=300))
@settings(max_examples=200, deadline=None)
def test_reading_the_source_type_of_any_bytes_never_fails(data: bytes) -> None:
    assert read_source_type(data) is None
    assert read_source_type(b"\xff\xd8\xff\xe1" + data) in (None, "trainedAlgorithmicMedia")


def pillow_turns(jpeg: bytes) -> bool:
    with Image.open(io.BytesIO(jpeg)) as picture:
        return orientation_of(picture) != 1


@pytest.mark.filterwarnings("ignore::UserWarning:PIL.TiffImagePlugin")  # as shards.disk.pictures has it
@settings(max_examples=300, deadline=None)
@given(
    orientation=st.integers(0, 10),
    others=st.lists(st.sampled_from([0x010F, 0x0131, 0x0213, 0x0100]), unique=True),
    big=st.booleans(),
    changes=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 255)), max_size=3),
    length=st.none() | st.integers(0, 60),
)
def test_a_jpeg_that_pillow_would_turn_is_never_taken_for_an_upright_one(
    orientation: int, others: list[int], big: bool, changes: list[tuple[int, int]], length: int | None
) -> None:
    exif = Image.Exif()
    exif.endian = ">" if big else "<"
    for tag in others:
        exif[tag] = "a camera" if tag in (0x010F, 0x0131) else 1
    exif[0x0112] = orientation
    body = bytearray(exif.tobytes()[:length])
    for at, value in changes:
        if at < len(body):
            body[at] = value
    plain = encode_jpeg(np.zeros((8, 8, 3), np.uint8))
    jpeg = plain[:2] + b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + bytes(body) + plain[2:]
    assert may_be_turned(jpeg) or not pillow_turns(jpeg)
    if not changes and length is None and orientation in range(1, 9):
        assert may_be_turned(jpeg) == pillow_turns(jpeg) == (orientation != 1)
