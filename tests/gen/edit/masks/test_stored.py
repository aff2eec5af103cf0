"""Masks as bytes and as text: round trips, COCO's own spelling, hostile inputs."""

import io
import json
import struct
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from transformers.models.sam2.image_processing_sam2 import _mask_to_rle

from gen.edit.masks.stored import decode_mask, encode_mask, mask_of_rle, rle_of

SIZES = st.tuples(st.integers(1, 40), st.integers(1, 40))
MASKS = SIZES.flatmap(lambda size: arrays.arrays(bool, size)) | SIZES.map(lambda size: np.ones(size, bool))


def png_of(levels: np.ndarray, mode: str | None = None) -> bytes:
    held = io.BytesIO()
    picture = Image.fromarray(levels)
    (picture.convert(mode) if mode else picture).save(held, format="PNG")
    return held.getvalue()


def png_claiming(width: int, height: int) -> bytes:
    """A whole PNG of some hundred bytes that says it has width x height pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@settings(deadline=None, max_examples=100)
@given(MASKS)
def test_a_mask_comes_back_from_bytes_and_from_text(mask: np.ndarray) -> None:
    for again in (decode_mask(encode_mask(mask)), mask_of_rle(rle_of(mask))):
        assert again.dtype == bool
        assert again.shape == mask.shape
        assert (again == mask).all()
    assert encode_mask(mask.copy()) == encode_mask(mask)


def test_bytes_have_one_bit_a_pixel_and_any_viewer_shows_them() -> None:
    mask = np.zeros((1024, 1024), bool)
    mask[200:800, 300:700] = True
    data = encode_mask(mask)
    assert len(data) < 2000
    with Image.open(io.BytesIO(data)) as picture:
        assert (picture.format, picture.mode, picture.size) == ("PNG", "1", (1024, 1024))


@settings(deadline=None, max_examples=60)
@given(MASKS)
def test_runs_are_those_that_transformers_counts(mask: np.ndarray) -> None:
    [theirs] = _mask_to_rle(torch.from_numpy(mask)[None])
    told = json.loads(rle_of(mask))
    assert told["size"] == theirs["size"] == list(mask.shape)
    runs, value, shift = [], 0, 0
    for character in told["counts"]:  # COCO's spelling, read by a program of its own
        bits = ord(character) - 48
        value |= (bits & 0x1F) << shift
        shift += 5
        if not bits & 0x20:
            value -= (1 << shift) if bits & 0x10 else 0
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    assert runs == theirs["counts"]


def test_the_text_is_the_one_that_pycocotools_writes() -> None:
    mask = np.zeros((6, 9), bool)
    mask[1:4, 2:7] = True
    mask[2, 3] = False
    assert rle_of(mask) == '{"size": [6, 9], "counts": "=33NN0220000;"}'  # version 2.0.11
    assert (mask_of_rle('{"counts": "=33NN0220000;", "size": [6, 9]}') == mask).all()


@pytest.mark.parametrize("mode", ["1", "L", "RGB"])
def test_grey_and_rgb_masks_of_other_programs_are_read_at_128(mode: str) -> None:
    levels = np.array([[0, 127, 128, 255]], np.uint8)
    if mode == "1":
        assert decode_mask(png_of(np.array([[0, 0, 255, 255]], np.uint8), "1")).tolist() == [[False, False, True, True]]
    else:
        assert decode_mask(png_of(levels, mode)).tolist() == [[False, False, True, True]]


def test_a_coloured_mask_is_object_where_any_channel_is() -> None:
    red = np.zeros((1, 2, 3), np.uint8)
    red[0, 1, 0] = 200
    assert decode_mask(png_of(red)).tolist() == [[False, True]]


@pytest.mark.parametrize("mode", ["P", "RGBA", "LA", "I;16"])
def test_kinds_of_png_that_do_not_say_what_is_object_are_refused(mode: str) -> None:
    levels = np.zeros((4, 4), np.uint16 if mode == "I;16" else np.uint8)
    data = png_of(levels, None if mode == "I;16" else mode)
    with pytest.raises(ValueError, match=r"^mask: found a PNG of the kind .*, expected one bit, grey or RGB"):
        decode_mask(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no picture",
        b"\x89PNG\r\n\x1a\n",
        encode_mask(np.ones((64, 64), bool))[:-30],
        png_claiming(64, 64),
        png_claiming(100_000, 100_000),
        png_claiming(0, 5),
        b"\xff\xd8\xff\xe0" + b"\0" * 100,
    ],
)
def test_bytes_that_are_no_whole_png_are_refused_in_one_line(data: bytes) -> None:
    with pytest.raises(ValueError) as refused:
        decode_mask(data)
    assert str(refused.value).startswith("mask: found ")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[" * 100_000,
        '{"size": [2, 2]}',
        '{"size": [2, 2], "counts": [4]}',
        '{"size": [2, 2], "counts": "4", "more": 1}',
        '{"size": [true, 4], "counts": "4"}',
        '{"size": [-2, -2], "counts": "4"}',
        '{"size": [2, 2.0], "counts": "4"}',
        '{"size": [100000, 100000], "counts": "4"}',
        '{"size": [2, 2], "counts": ""}',
        '{"size": [2, 2], "counts": "5"}',
        '{"size": [2, 2], "counts": "3"}',
        '{"size": [2, 2], "counts": "N6"}',
        '{"size": [2, 2], "counts": "T"}',
        '{"size": [2, 2], "counts": "oooooooooo0"}',
        '{"size": [2, 2], "counts": "4\\n"}',
        '{"size": [2, 2], "counts": "é"}',
    ],
)
def test_text_that_is_no_whole_mask_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(ValueError) as refused:
        mask_of_rle(text)
    assert str(refused.value).startswith("mask: found ")
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 300


@settings(deadline=None, max_examples=150)
@given(st.text(max_size=30), st.integers(1, 50), st.integers(1, 50))
def test_any_counts_are_a_mask_of_that_size_or_refused(counts: str, height: int, width: int) -> None:
    told, mask = "", None
    try:
        mask = mask_of_rle(json.dumps({"size": [height, width], "counts": counts}))
    except ValueError as refused:
        told = str(refused)
    assert told.startswith("mask: ") if mask is None else mask.shape == (height, width)


@pytest.mark.parametrize(
    "mask", [np.zeros((2, 2), np.uint8), np.zeros((0, 2), bool), np.zeros((2, 2, 1), bool), np.zeros(4, bool)]
)
def test_what_is_no_mask_is_not_written(mask: np.ndarray) -> None:
    for write in (encode_mask, rle_of):
        with pytest.raises(ValueError, match=r"^mask: found (uint8|bool) \[.*\], expected bool \[height, width\]"):
            write(mask)
