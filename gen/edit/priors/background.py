"""The prior of a background: the new place under the old object, and the region that the model may paint.

In: an image, its mask, a picture of a place. Out: the merged image; the region as 0..255. On disk: nothing. Source:
VariReal's background generator (V.20, V.21).
"""

import cv2
import numpy as np

from gen.edit.priors.pixels import Image, Mask, Plane, check_alike, check_mask

BLUR_PX = 41  # side of VariReal's Gaussian, at 1024 px
GREY, WHITE = 100, 255  # what an object stands on for the IP-Adapter, and for its edges


def dilate(mask_HW: Mask, side_px: int) -> Mask:
    """The mask grown by a square of `side_px`: half of it to each side. 0 and 1 leave it as it is."""
    if side_px < 0:
        raise ValueError(f"dilation: found {side_px} px, expected 0 or more")
    if side_px <= 1:
        return mask_HW.copy()
    return cv2.dilate(mask_HW.astype(np.uint8), np.ones((side_px, side_px), np.uint8)).astype(np.bool_)


def merge_background(image_HWC: Image, mask_HW: Mask, place_HWC: Image, dilation_px: int = 0) -> Image:
    """The image inside the dilated mask, the place outside. Raises ValueError for arrays that do not fit."""
    check_mask(image_HWC, mask_HW)
    check_alike(image_HWC, place_HWC, "place")
    return np.where(dilate(mask_HW, dilation_px)[..., None], image_HWC, place_HWC)


def background_region(mask_HW: Mask, blur_px: int = BLUR_PX) -> Plane:
    """What the model may paint: uint8 (H, W), 255 far from the object, 0 far inside it.

    It is the inverse of the mask without dilation, blurred by a Gaussian of `blur_px`, an odd number; 1 = not blurred.
    """
    if blur_px < 1 or blur_px % 2 == 0:
        raise ValueError(f"blur: found {blur_px} px, expected an odd number from 1")
    return cv2.GaussianBlur(np.where(mask_HW, 0, 255).astype(np.uint8), (blur_px, blur_px), 0)


def object_on(image_HWC: Image, mask_HW: Mask, level: int) -> Image:
    """The object alone, on an even grey of this level, 0..255."""
    check_mask(image_HWC, mask_HW)
    return np.where(mask_HW[..., None], image_HWC, np.uint8(level))
