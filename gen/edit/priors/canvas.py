"""The canvas: the square that a model works on, and the way back to the size of the source.

In: an image or a mask of any size, the side of the square. Out: the same on the square, padded right and below with
black; after the edit, the image in its old size. On disk: nothing. Source: VariReal (V.12).
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image as Pil

from gen.edit.priors.pixels import Image, MaskHW, check_image


@dataclass(frozen=True)
class Fit:
    """How a source lies on its canvas, in px."""

    side: int
    height: int  # of the source
    width: int
    inner_height: int  # of its picture on the canvas, at the upper left
    inner_width: int


def fit(height: int, width: int, side: int) -> Fit:
    """The largest picture of a source on a square: its longer side is `side`. Raises ValueError for sizes below 1."""
    if min(height, width, side) < 1:
        raise ValueError(f"found {height} x {width} px on a canvas of {side} px, expected sizes of at least 1")
    inner = (max(1, round(one * side / max(height, width))) for one in (height, width))
    return Fit(side, height, width, *inner)


def onto_canvas(image_HWC: Image, place: Fit) -> Image:
    """The image on its canvas: uint8 (side, side, 3), Lanczos. Raises ValueError if the image is of another size."""
    check_image(image_HWC)
    _check_size(image_HWC, place)
    canvas = np.zeros((place.side, place.side, 3), np.uint8)
    canvas[: place.inner_height, : place.inner_width] = _resized(image_HWC, place.inner_height, place.inner_width)
    return canvas


def mask_onto_canvas(mask_HW: MaskHW, place: Fit) -> MaskHW:
    """The mask on the canvas, bool (side, side): a pixel is of the object if half of what it covers is."""
    _check_size(mask_HW, place)
    shares = Pil.fromarray(np.where(mask_HW, 255, 0).astype(np.uint8)).resize(
        (place.inner_width, place.inner_height), Pil.Resampling.BOX
    )
    canvas = np.zeros((place.side, place.side), np.bool_)
    canvas[: place.inner_height, : place.inner_width] = np.asarray(shares) >= 128
    return canvas


def off_canvas(canvas_NNC: Image, place: Fit) -> Image:
    """What lies on the canvas, in the size of the source: uint8 (H, W, 3), Lanczos."""
    check_image(canvas_NNC, "canvas")
    if canvas_NNC.shape[:2] != (place.side, place.side):
        raise ValueError(f"canvas: found {canvas_NNC.shape[:2]}, expected {(place.side, place.side)}")
    return _resized(canvas_NNC[: place.inner_height, : place.inner_width], place.height, place.width)


def _check_size(array: Image | MaskHW, place: Fit) -> None:
    if array.shape[:2] != (place.height, place.width):
        raise ValueError(f"found {array.shape[:2]} px, expected {(place.height, place.width)} as the fit has it")


def _resized(image_HWC: Image, height: int, width: int) -> Image:
    """Unchanged if it has this size already."""
    if image_HWC.shape[:2] == (height, width):
        return image_HWC.copy()
    return np.asarray(Pil.fromarray(image_HWC).resize((width, height), Pil.Resampling.LANCZOS)).copy()
