"""Masks as a row or a file holds them.

In: masks H W of bools. Out: PNG bytes with one bit a pixel, or one line of text; and back. On disk: nothing.

The text is COCO's: `{"size": [height, width], "counts": "…"}`, run lengths down the columns in its compressed spelling,
which pycocotools reads and writes. Whatever comes from outside is refused with one line unless it is a whole mask of at
most `MAX_PIXELS`; nothing is allocated before its size is known.
"""

import io
import json
import warnings

import numpy as np

from gen.edit.masks.pixels import OBJECT, MaskHW, binarise
from shards.disk.jpeg import MAX_PIXELS
from shards.disk.safe_text import quoted

MODES = ("1", "L", "RGB")  # Pillow's: of a mask on disk; the others have no one meaning
MAX_RLE_CHARACTERS = 1 << 24
_FIRST = 48  # COCO writes 6 bits as a character from "0" on


def encode_mask(mask_HW: MaskHW) -> bytes:
    """PNG bytes of one bit a pixel; the same mask gives the same bytes. Raises ValueError for what is no mask."""
    from PIL import Image

    _check_mask(mask_HW)
    held = io.BytesIO()
    Image.fromarray(mask_HW.astype(np.uint8) * 255).convert("1", dither=Image.Dither.NONE).save(held, format="PNG")
    return held.getvalue()


def decode_mask(data: bytes) -> MaskHW:
    """The mask in a PNG of one bit, of 8-bit grey or RGB: true where any channel is at least 128.

    Raises ValueError for anything else: palettes, transparency and 16 bits do not say what is object.
    """
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # Pillow's warning about a bomb
            picture = Image.open(io.BytesIO(data), formats=("PNG",))
            width, height = picture.size
            if width * height > MAX_PIXELS:
                raise ValueError(f"mask: found {width} x {height} pixels, expected at most {MAX_PIXELS:,}")
            if picture.mode not in MODES or "transparency" in picture.info:
                raise ValueError(
                    f"mask: found a PNG of the kind {picture.mode}, expected one bit, grey or RGB without "
                    "transparency; save it as grey"
                )
            levels = np.asarray(picture.convert("L") if picture.mode == "1" else picture)
    except ValueError as error:
        if str(error).startswith("mask: "):
            raise
        raise _no_png(error) from None
    except MemoryError:
        raise
    except Exception as error:  # Pillow answers damaged files with errors of many types
        raise _no_png(error) from None
    return binarise(levels if levels.ndim == 2 else levels.max(axis=2), OBJECT)


def _no_png(error: Exception) -> ValueError:
    return ValueError(f"mask: found no PNG that can be read ({type(error).__name__}); save it again as PNG")


def rle_of(mask_HW: MaskHW) -> str:
    """The mask as one line of text. Raises ValueError for what is no mask."""
    _check_mask(mask_HW)
    flat = mask_HW.ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    ends = np.concatenate([[0], changes, [flat.size]])
    runs = np.diff(ends).tolist()
    height, width = mask_HW.shape
    return json.dumps({"size": [height, width], "counts": _packed([0, *runs] if flat[0] else runs)})


def mask_of_rle(text: str) -> MaskHW:
    """The mask of such a text. Raises ValueError for any other text."""
    height, width, counts = _parsed(text)
    runs = np.array(_unpacked(counts, height * width), np.int64)
    if runs.sum() != height * width:
        raise ValueError(f"mask: found runs over {runs.sum():,} pixels, expected {height} x {width}; write it again")
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return np.ascontiguousarray(flat.reshape(height, width, order="F"))


def _parsed(text: str) -> tuple[int, int, str]:
    if len(text) > MAX_RLE_CHARACTERS:
        raise ValueError(f"mask: found {len(text):,} characters of text, expected at most {MAX_RLE_CHARACTERS:,}")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, dict) and value.keys() == {"size", "counts"} and isinstance(value["counts"], str):
        size = value["size"]
        if isinstance(size, list) and len(size) == 2 and all(type(side) is int and side > 0 for side in size):
            if size[0] * size[1] > MAX_PIXELS:
                raise ValueError(f"mask: found {size[1]} x {size[0]} pixels, expected at most {MAX_PIXELS:,}")
            return size[0], size[1], value["counts"]
    raise ValueError(
        f"mask: found {quoted(text, 60)}, expected COCO's text {{size: [height, width], counts: …}}; write it again"
    )


def _packed(runs: list[int]) -> str:
    """Runs in COCO's spelling: from the fourth on less the run two before; five bits a character, the sixth says that
    more follow, the sign is that of the last."""
    characters = []
    for number, run in enumerate(runs):
        value = run - runs[number - 2] if number > 2 else run
        while True:
            bits, value = value & 31, value >> 5
            more = value != (-1 if bits & 16 else 0)
            characters.append(chr(_FIRST + bits + 32 * more))
            if not more:
                break
    return "".join(characters)


def _unpacked(counts: str, pixels: int) -> list[int]:
    """The runs again. Raises ValueError for other characters and for a run that the mask cannot hold."""
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        bits = ord(character) - _FIRST
        if not 0 <= bits < 64 or shift > 30:
            raise ValueError(f"mask: found the run {quoted(counts, 40)}, expected COCO's spelling; write it again")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        run = value + runs[-2] if len(runs) > 2 else value
        if not 0 <= run <= pixels:
            raise ValueError(f"mask: found a run of {run:,} pixels, expected 0..{pixels:,}; write it again")
        runs.append(run)
        value = shift = 0
    if shift:
        raise ValueError("mask: found a run that is cut off, expected whole ones; write it again")
    return runs


def _check_mask(mask_HW: MaskHW) -> None:
    if mask_HW.dtype != np.bool_ or mask_HW.ndim != 2 or not 0 < mask_HW.size <= MAX_PIXELS:
        raise ValueError(
            f"mask: found {mask_HW.dtype} {list(mask_HW.shape)}, expected bool [height, width] of at most "
            f"{MAX_PIXELS:,} pixels"
        )
