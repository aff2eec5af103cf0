"""The prior of a background: the new place under the old object, and the region that the model may paint.

In: an image, the mask of its object, grown or not, a picture of a place. Out: the merged image; the region as 0..255.
On disk: nothing. Source: VariReal's background generator (V.20, V.21).
"""

import cv2
import numpy as np

from gen.edit.priors.pixels import Image, MaskHW, Plane, check_alike, check_mask

GREY, WHITE = 100, 255  # what an object stands on for the IP-Adapter, and for its edges


def merge_background(image_HWC: Image, kept_HW: MaskHW, place_HWC: Image) -> Image:
    """The image where it is kept, the place everywhere else. Raises ValueError for arrays that do not fit.

    Kept is the object and, as a rule, some px around it, so that the model sees where it stands.
    """
    check_mask(image_HWC, kept_HW)
    check_alike(image_HWC, place_HWC, "place")
    return np.where(kept_HW[..., None], image_HWC, place_HWC)


def background_region(mask_HW: MaskHW, blur_px: int) -> Plane:
    """What the model may paint: uint8 (H, W), 255 far from the object, 0 far inside it.

    It is the inverse of the mask, which is not grown here, blurred by a Gaussian of `blur_px`, an odd number. 1 = not
    blurred.
    """
    if blur_px < 1 or blur_px % 2 == 0:
        raise ValueError(f"blur: found {blur_px} px, expected an odd number from 1")
    return cv2.GaussianBlur(np.where(mask_HW, 0, 255).astype(np.uint8), (blur_px, blur_px), 0)


def object_on(image_HWC: Image, mask_HW: MaskHW, level: int) -> Image:
    """The object alone, on an even grey of this level, 0..255."""
    check_mask(image_HWC, mask_HW)
    return np.where(mask_HW[..., None], image_HWC, np.uint8(level))
