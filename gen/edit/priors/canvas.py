"""The canvas: the square that a model works on, and the way back to the size of the source.

In: an image or a mask of any size, the side of the square. Out: the same on the square, padded right and below with
black; after the edit, what lies where the image lay. On disk: nothing. Source: VariReal (V.12), which makes the result
as large as the source again; here it stays as it was edited, so that what was not edited keeps its pixels.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image as Pil

from gen.edit.priors.pixels import Image, MaskHW, check_image


@dataclass(frozen=True)
class Place:
    """Where a picture lies on its canvas, at the upper left, in px."""

    side: int
    height: int
    width: int


def place_on(height: int, width: int, side: int) -> Place:
    """The largest picture of a source on a square: its longer side is `side`. Raises ValueError for sizes below 1."""
    if min(height, width, side) < 1:
        raise ValueError(f"found {height} x {width} px on a canvas of {side} px, expected sizes of at least 1")
    inner = (max(1, round(one * side / max(height, width))) for one in (height, width))
    return Place(side, *inner)


def resized_for(image_HWC: Image, place: Place) -> Image:
    """A source in the size that it has on its canvas: uint8, Lanczos; unchanged if it has this size already."""
    check_image(image_HWC)
    if image_HWC.shape[:2] == (place.height, place.width):
        return image_HWC.copy()
    size = (place.width, place.height)
    return np.asarray(Pil.fromarray(image_HWC).resize(size, Pil.Resampling.LANCZOS)).copy()


def onto_canvas(image_HWC: Image, place: Place) -> Image:
    """The image on its canvas: uint8 (side, side, 3). Raises ValueError if the image is of another size."""
    check_image(image_HWC)
    _check_size(image_HWC, place.height, place.width)
    canvas = np.zeros((place.side, place.side, 3), np.uint8)
    canvas[: place.height, : place.width] = image_HWC
    return canvas


def mask_onto_canvas(mask_HW: MaskHW, place: Place) -> MaskHW:
    """The mask on the canvas, bool (side, side); what is padded is no object."""
    _check_size(mask_HW, place.height, place.width)
    canvas = np.zeros((place.side, place.side), np.bool_)
    canvas[: place.height, : place.width] = mask_HW
    return canvas


def off_canvas(canvas_NNC: Image, place: Place) -> Image:
    """What lies where the image lay: uint8 (height, width, 3)."""
    check_image(canvas_NNC, "canvas")
    _check_size(canvas_NNC, place.side, place.side)
    return canvas_NNC[: place.height, : place.width].copy()


def _check_size(array: Image | MaskHW, height: int, width: int) -> None:
    if array.shape[:2] != (height, width):
        raise ValueError(f"found {array.shape[:2]} px, expected {(height, width)} by its place on the canvas")
