"""What every prior checks: an image and a mask that fit together.

In: arrays. Out: nothing, or a ValueError of one line. On disk: nothing.

Letters: H rows, W columns, C = 3 channels (RGB). An image is uint8 HWC, a mask is bool HW: True is the object.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]  # H W 3
MaskHW = NDArray[np.bool_]  # H W
Plane = NDArray[Any]  # H W floats; OpenCV's annotations are wider than what it returns


def check_image(image_HWC: Image, what: str = "image") -> None:
    """Raises ValueError if it is no uint8 RGB image with at least one pixel."""
    if image_HWC.dtype != np.uint8 or image_HWC.ndim != 3 or image_HWC.shape[2] != 3 or not image_HWC.size:
        raise ValueError(f"{what}: found {image_HWC.dtype} {image_HWC.shape}, expected uint8 (H, W, 3)")


def check_alike(image_HWC: Image, other_HWC: Image, what: str) -> None:
    """Raises ValueError if either is no image, or if their sizes differ."""
    check_image(image_HWC)
    check_image(other_HWC, what)
    if image_HWC.shape != other_HWC.shape:
        raise ValueError(f"{what}: found {other_HWC.shape}, expected {image_HWC.shape} as the image; resize it first")


def check_mask(image_HWC: Image, mask_HW: MaskHW) -> None:
    """Raises ValueError if either is malformed, or if their sizes differ."""
    check_image(image_HWC)
    if mask_HW.dtype != np.bool_ or mask_HW.shape != image_HWC.shape[:2]:
        raise ValueError(
            f"mask: found {mask_HW.dtype} {mask_HW.shape}, expected bool {image_HWC.shape[:2]} as the image"
        )


def check_share(value: float, what: str) -> None:
    """Raises ValueError if the value is not in 0..1."""
    if not 0 <= value <= 1:
        raise ValueError(f"{what}: found {value}, expected 0..1")
