"""Paste-back: the source's pixels laid over the edited image again, and a measure of the rim that this may leave.

In: source, edited image and mask. Out: the image that is kept. On disk: nothing.

A hard paste takes every pixel of the object from the source. The outermost of these are mixed with the old background,
which shows as a rim in its colour. A soft paste keeps the core as it is, bit by bit; towards the rim it fades to the
edited image, and takes the object's colour there from the nearest pixel of the core, which is not mixed. Where an object
is so thin that no core is near, its own pixels are taken.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from gen.edit.priors.background import dilate
from gen.edit.priors.pixels import Image, Mask, Plane, check_alike, check_mask

RIM_PX = 1.0  # of a soft paste, to each side of the mask's edge
REACH = 4.0  # rims: a core farther away tells no colour
_TELLS = 30.0  # RGB distance from which old and new background differ


def paste_object(source_HWC: Image, edited_HWC: Image, mask_HW: Mask) -> Image:
    """Edited background, old object: inside the mask each pixel is the source's. For edits of the background."""
    _check(source_HWC, edited_HWC, mask_HW)
    return np.where(mask_HW[..., None], source_HWC, edited_HWC)


def paste_background(source_HWC: Image, edited_HWC: Image, mask_HW: Mask) -> Image:
    """Edited object, old background: outside the mask each pixel is the source's. For edits of colour and texture."""
    _check(source_HWC, edited_HWC, mask_HW)
    return np.where(mask_HW[..., None], edited_HWC, source_HWC)


def paste_softly(source_HWC: Image, edited_HWC: Image, mask_HW: Mask, rim_px: float = RIM_PX) -> Image:
    """As `paste_object`, but fading within `rim_px` of the mask's edge.

    The core (`core_of`) is bit-identical to the source, and what is farther than `rim_px` outside the mask to the
    edited image.
    """
    _check(source_HWC, edited_HWC, mask_HW)
    alpha_HW = soft_alpha(mask_HW, rim_px)
    object_HWC = core_colours(source_HWC, mask_HW, rim_px)
    mixed_HWC = alpha_HW[..., None] * object_HWC + (1 - alpha_HW[..., None]) * edited_HWC
    return np.rint(mixed_HWC).astype(np.uint8)


def soft_alpha(mask_HW: Mask, rim_px: float = RIM_PX) -> Plane:
    """How much of each pixel is object: (H, W) in 0..1, linear in the distance to the mask's edge, 1/2 on the edge.

    Distances are between pixel centres, so the edge lies half a pixel outside the outermost pixel of the object.
    """
    if rim_px <= 0:
        raise ValueError(f"rim: found {rim_px} px, expected more than 0; for no rim paste hard")
    if mask_HW.all() or not mask_HW.any():
        return mask_HW.astype(np.float64)
    signed_HW = np.where(mask_HW, _distance_inside(mask_HW) - 0.5, 0.5 - _distance_inside(~mask_HW))
    return np.clip(0.5 + signed_HW / (2 * rim_px), 0, 1)


def core_of(mask_HW: Mask, rim_px: float = RIM_PX) -> Mask:
    """The pixels that a soft paste leaves as they are."""
    return soft_alpha(mask_HW, rim_px) >= 1


def core_colours(source_HWC: Image, mask_HW: Mask, rim_px: float = RIM_PX) -> Image:
    """The source, with each pixel outside the core replaced by the nearest one of the core, if one is near."""
    core_HW = core_of(mask_HW, rim_px)
    if not core_HW.any():
        return source_HWC.copy()
    distance_HW, nearest_HWC = _nearest(source_HWC, core_HW)
    is_near_HW = distance_HW <= REACH * rim_px + 1
    return np.where(is_near_HW[..., None], nearest_HWC, source_HWC)


def halo_share(source_HWC: Image, result_HWC: Image, mask_HW: Mask, rim_px: int = 2) -> float:
    """The share of the pixels just outside the object that still look like the old background, 0..1.

    Looked at are the pixels within `rim_px` of the mask. Each is compared with the old and the new background, both at
    the nearest place beyond the rim, and with the object's core. It counts as halo if the old background is nearest.
    Where old and new background are alike there is nothing to tell; 0.0 if that is so everywhere.
    """
    _check(source_HWC, result_HWC, mask_HW)
    near_HW = dilate(mask_HW, 2 * rim_px + 1)
    rim_HW = near_HW & ~mask_HW
    beyond_HW = ~dilate(near_HW, 3)
    if not rim_HW.any() or not beyond_HW.any():
        return 0.0
    old_RC = _nearest(cv2.blur(source_HWC, (3, 3)), beyond_HW)[1][rim_HW].astype(np.float64)
    new_RC = _nearest(cv2.blur(result_HWC, (3, 3)), beyond_HW)[1][rim_HW].astype(np.float64)
    core_HW = core_of(mask_HW) if core_of(mask_HW).any() else mask_HW
    object_RC = _nearest(result_HWC, core_HW)[1][rim_HW].astype(np.float64)
    seen_RC = result_HWC[rim_HW].astype(np.float64)
    tells_R = np.linalg.norm(old_RC - new_RC, axis=1) >= _TELLS
    if not tells_R.any():
        return 0.0
    to_old_R, to_new_R, to_object_R = (np.linalg.norm(seen_RC - one, axis=1) for one in (old_RC, new_RC, object_RC))
    is_halo_R = (to_old_R < to_new_R) & (to_old_R < to_object_R)
    return float(is_halo_R[tells_R].mean())


def _check(source_HWC: Image, edited_HWC: Image, mask_HW: Mask) -> None:
    check_mask(source_HWC, mask_HW)
    check_alike(source_HWC, edited_HWC, "edited")


def _distance_inside(mask_HW: Mask) -> Plane:
    """Of each pixel of the mask: how far the nearest pixel is that is not of it, in px; 0 elsewhere. Exact."""
    return cv2.distanceTransform(mask_HW.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE).astype(np.float64)


def _nearest(image_HWC: Image, of_HW: Mask) -> tuple[Plane, NDArray[np.uint8]]:
    """Of each pixel: how far the nearest pixel of `of_HW` is, in px, and its colour. `of_HW` is not empty."""
    distance_HW, label_HW = cv2.distanceTransformWithLabels(
        (~of_HW).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    colours_LC = np.zeros((int(label_HW.max()) + 1, 3), np.uint8)
    colours_LC[label_HW[of_HW]] = image_HWC[of_HW]
    return distance_HW, colours_LC[label_HW]
