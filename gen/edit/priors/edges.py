"""The shape of an object, for a ControlNet that keeps it: its edges, or its mask.

In: an image and its mask. Out: an image of white edges on black, or of a white object. On disk: nothing. Source of the
edges: VariReal (V.24).
"""

import cv2
import numpy as np

from gen.edit.priors.background import WHITE, object_on
from gen.edit.priors.pixels import Image, MaskHW

LOW_SHARE = 0.7  # of the median
HIGH = 255
BOX_PX = 5


def thresholds(image_HWC: Image, mask_HW: MaskHW) -> tuple[float, float]:
    """Canny's low and high: 0.7 x the median of the object on white, blurred by a 5x5 box; 255."""
    blurred = cv2.blur(object_on(image_HWC, mask_HW, WHITE), (BOX_PX, BOX_PX))
    return LOW_SHARE * float(np.median(blurred)), HIGH


def edge_image(image_HWC: Image, mask_HW: MaskHW) -> Image:
    """Canny's edges of the object on white: uint8 (H, W, 3), 0 or 255. Raises ValueError for arrays that do not fit."""
    low, high = thresholds(image_HWC, mask_HW)
    edges_HW = cv2.Canny(object_on(image_HWC, mask_HW, WHITE), low, high)
    return np.repeat(edges_HW[..., None], 3, axis=2).astype(np.uint8)


def mask_image(mask_HW: MaskHW) -> Image:
    """The object white on black: uint8 (H, W, 3), 0 or 255."""
    return np.repeat(np.where(mask_HW, 255, 0).astype(np.uint8)[..., None], 3, axis=2)
