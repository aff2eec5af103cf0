"""Priors of colour and texture: the object tinted before the model sees it.

In: an image, a mask, a colour or a texture, alpha. Out: (1 - alpha) x image + alpha x prior inside the mask, rounded;
the image itself outside. On disk: nothing. Source: VariReal's colour and texture generators (V.22).
"""

import random

import cv2
import numpy as np
from numpy.typing import NDArray

from gen.edit.priors.pixels import Image, MaskHW, check_alike, check_image, check_mask, check_share

CROP_PX = 256  # VariReal's, of a texture of 1024 px
_SHARPEN = np.array([[0, -1, 0], [-1, 5, -1], [0, -1, 0]], np.float32)


def blend_colour(image_HWC: Image, mask_HW: MaskHW, rgb: tuple[int, int, int], alpha: float) -> Image:
    """The image with its object tinted. Raises ValueError for arrays that do not fit, or alpha outside 0..1."""
    if not all(0 <= channel <= 255 for channel in rgb):
        raise ValueError(f"rgb: found {rgb}, expected three numbers in 0..255")
    check_mask(image_HWC, mask_HW)
    return _blend(image_HWC, mask_HW, np.broadcast_to(np.array(rgb, np.uint8), image_HWC.shape), alpha)


def blend_texture(image_HWC: Image, mask_HW: MaskHW, texture_HWC: Image, alpha: float) -> Image:
    """The image with a texture of its own size laid over its object. Raises ValueError as `blend_colour` does."""
    check_mask(image_HWC, mask_HW)
    check_alike(image_HWC, texture_HWC, "texture")
    return _blend(image_HWC, mask_HW, texture_HWC, alpha)


def texture_patch(texture_HWC: Image, height: int, width: int, seed: int, crop_px: int = CROP_PX) -> Image:
    """A square of a texture, enlarged to cover an image, sharpened: uint8 (height, width, 3).

    The place of the square depends on the seed alone. It is enlarged (bicubic) to the longer side, so that it is not
    stretched, and what hangs over is cut off. Raises ValueError if the texture is smaller than the square.
    """
    check_image(texture_HWC, "texture")
    rows, columns = texture_HWC.shape[:2]
    if not 0 < crop_px <= min(rows, columns):
        raise ValueError(f"crop_px: found {crop_px}, expected 1..{min(rows, columns)}, the texture's shorter side")
    rng = random.Random(seed)
    top, left = (int(rng.random() * (side - crop_px + 1)) for side in (rows, columns))
    square = texture_HWC[top : top + crop_px, left : left + crop_px]
    side = max(height, width)
    large = cv2.resize(square, (side, side), interpolation=cv2.INTER_CUBIC)
    patch: Image = np.ascontiguousarray(cv2.filter2D(large, -1, _SHARPEN)[:height, :width]).astype(np.uint8)
    return patch


def _blend(image_HWC: Image, mask_HW: MaskHW, prior_HWC: NDArray[np.uint8], alpha: float) -> Image:
    check_share(alpha, "alpha")
    mixed_HWC = (1 - alpha) * image_HWC.astype(np.float64) + alpha * prior_HWC
    return np.where(mask_HW[..., None], np.rint(mixed_HWC).astype(np.uint8), image_HWC)
