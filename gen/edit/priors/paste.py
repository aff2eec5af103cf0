"""Paste-back: the source's pixels laid over the edited image again, and a measure of the rim that this may leave.

In: source, edited image and mask. Out: the image that is kept. On disk: nothing.

A hard paste takes every pixel of the object from the source. The outermost of these are mixed with the old background,
which shows as a rim in its colour. A soft paste keeps the core as it is, bit by bit. In the rim it takes the object's
colour from the nearest pixel of the core, which is not mixed, and its share of each pixel from the source: how far the
pixel lies between that colour and the old background. Where these two are alike, the distance to the mask's edge tells
the share; where an object is so thin that no core is near, its own pixels are taken.

80 real pictures of the sandbox on plain paper in daylight were given another even paper and compared with the true
picture on that paper. The pixels around the object were wrong by 6.2 levels after a hard paste, 7.2 with shares by
distance alone and 2.9 with measured ones; noise alone makes 2.3. The halo share was 0.08, 0 and 0, and 0.75 where a
mask grown by 2 px was pasted hard.
"""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from gen.edit.priors.pixels import Image, MaskHW, Plane, check_alike, check_mask

RIM_PX = 1.0  # of a soft paste, to each side of the mask's edge
REACH = 4.0  # rims: a core farther away tells no colour
_TELLS = 30.0  # RGB distance from which old and new background differ
_CLEAR = 15.0  # RGB distance; noise and JPEG blur move a pixel by less


def paste_object(source_HWC: Image, edited_HWC: Image, mask_HW: MaskHW) -> Image:
    """Edited background, old object: inside the mask each pixel is the source's. For edits of the background."""
    _check(source_HWC, edited_HWC, mask_HW)
    return np.where(mask_HW[..., None], source_HWC, edited_HWC)


def paste_background(source_HWC: Image, edited_HWC: Image, mask_HW: MaskHW) -> Image:
    """Edited object, old background: outside the mask each pixel is the source's. For edits of colour and texture."""
    _check(source_HWC, edited_HWC, mask_HW)
    return np.where(mask_HW[..., None], edited_HWC, source_HWC)


def paste_softly(source_HWC: Image, edited_HWC: Image, mask_HW: MaskHW, rim_px: float = RIM_PX) -> Image:
    """As `paste_object`, but mixed within `rim_px` of the mask's edge.

    The core (`core_of`) is bit-identical to the source, and what is farther than `rim_px` outside the mask to the
    edited image.
    """
    _check(source_HWC, edited_HWC, mask_HW)
    alpha_HW, object_HWC = object_share(source_HWC, mask_HW, rim_px), core_colours(source_HWC, mask_HW, rim_px)
    mixed_HWC = alpha_HW[..., None] * object_HWC + (1 - alpha_HW[..., None]) * edited_HWC
    return np.rint(mixed_HWC).astype(np.uint8)


def object_share(source_HWC: Image, mask_HW: MaskHW, rim_px: float = RIM_PX) -> Plane:
    """How much of each pixel is object: (H, W) in 0..1, 1 in the core and 0 beyond the rim.

    Between them it is measured in the source where core and old background are near and differ, else it is
    `share_by_distance`.
    """
    alpha_HW = share_by_distance(mask_HW, rim_px)
    core_HW, far_HW = alpha_HW >= 1, _far_from(mask_HW, math.ceil(rim_px) + 1)
    if not (core_HW.any() and far_HW.any()):
        return alpha_HW
    old_HWC = _nearest(_smooth(source_HWC), far_HW)[1].astype(np.float64)
    step_HWC = core_colours(source_HWC, mask_HW, rim_px) - old_HWC
    length_HW = (step_HWC**2).sum(axis=2)
    share_HW = ((source_HWC - old_HWC) * step_HWC).sum(axis=2) / np.maximum(length_HW, 1e-9)
    is_rim_HW = (alpha_HW > 0) & ~core_HW
    tells_HW = is_rim_HW & (length_HW >= _TELLS**2) & _is_near(core_HW, rim_px)
    return np.where(tells_HW, np.clip(share_HW, 0, 1), alpha_HW)


def share_by_distance(mask_HW: MaskHW, rim_px: float = RIM_PX) -> Plane:
    """How much of each pixel is object by its place alone: (H, W) in 0..1, linear in the distance to the mask's edge.

    Distances are between pixel centres, so the edge, where it is 1/2, lies half a pixel outside the outermost pixel of
    the object. Raises ValueError for a rim that is not above 0.
    """
    if rim_px <= 0:
        raise ValueError(f"rim: found {rim_px} px, expected more than 0; for no rim paste hard")
    if mask_HW.all() or not mask_HW.any():
        return mask_HW.astype(np.float64)
    signed_HW = np.where(mask_HW, _distance_inside(mask_HW) - 0.5, 0.5 - _distance_inside(~mask_HW))
    return np.clip(0.5 + signed_HW / (2 * rim_px), 0, 1)


def core_of(mask_HW: MaskHW, rim_px: float = RIM_PX) -> MaskHW:
    """The pixels that a soft paste leaves as they are."""
    return share_by_distance(mask_HW, rim_px) >= 1


def core_colours(source_HWC: Image, mask_HW: MaskHW, rim_px: float = RIM_PX) -> Image:
    """The source, with each pixel outside the core replaced by the nearest one of the core, if one is near."""
    core_HW = core_of(mask_HW, rim_px)
    if not core_HW.any():
        return source_HWC.copy()
    return np.where(_is_near(core_HW, rim_px)[..., None], _nearest(source_HWC, core_HW)[1], source_HWC)


def halo_share(source_HWC: Image, result_HWC: Image, mask_HW: MaskHW, rim_px: int = 2) -> float:
    """The share of the pixels around the object's core that still show the old background, 0..1.

    Looked at are the pixels outside the core and within `rim_px` of the mask. Each should be a mixture of the object
    and the new background. It counts as halo if it is nearer, by `_CLEAR`, to a mixture of object and old one. The
    object's colour is that of the nearest core, and both backgrounds are those of the nearest place beyond the rim.
    Where old and new background are alike there is nothing to tell; 0.0 if that is so everywhere.
    """
    _check(source_HWC, result_HWC, mask_HW)
    core_HW = core_of(mask_HW)
    core_HW = core_HW if core_HW.any() else mask_HW
    rim_HW = _grown(mask_HW, rim_px) & ~core_HW
    far_HW = _far_from(mask_HW, rim_px + 1)
    if not (rim_HW.any() and far_HW.any() and core_HW.any()):
        return 0.0
    old_RC, new_RC, object_RC = (
        _nearest(image_HWC, of_HW)[1][rim_HW].astype(np.float64)
        for image_HWC, of_HW in (
            (_smooth(source_HWC), far_HW),
            (_smooth(result_HWC), far_HW),
            (source_HWC, core_HW),
        )
    )
    tells_R = np.linalg.norm(old_RC - new_RC, axis=1) >= _TELLS
    if not tells_R.any():
        return 0.0
    seen_RC = result_HWC[rim_HW].astype(np.float64)
    is_halo_R = _from_mixtures(seen_RC, object_RC, old_RC) + _CLEAR < _from_mixtures(seen_RC, object_RC, new_RC)
    return float(is_halo_R[tells_R].mean())


def _from_mixtures(seen_RC: Plane, one_RC: Plane, other_RC: Plane) -> Plane:
    """Of each of R colours: how far it is from the nearest mixture of two others."""
    step_RC = other_RC - one_RC
    share_R = ((seen_RC - one_RC) * step_RC).sum(axis=1) / np.maximum((step_RC**2).sum(axis=1), 1e-9)
    return np.linalg.norm(seen_RC - one_RC - np.clip(share_R, 0, 1)[:, None] * step_RC, axis=1)


def _check(source_HWC: Image, edited_HWC: Image, mask_HW: MaskHW) -> None:
    check_mask(source_HWC, mask_HW)
    check_alike(source_HWC, edited_HWC, "edited")


def _is_near(core_HW: MaskHW, rim_px: float) -> MaskHW:
    """Where a pixel of the core is near enough to tell a colour."""
    return _distance_inside(~core_HW) <= REACH * rim_px + 1


def _grown(mask_HW: MaskHW, reach_px: int) -> MaskHW:
    """The mask and all that is at most `reach_px` rows and columns away from it."""
    square = np.ones((2 * reach_px + 1, 2 * reach_px + 1), np.uint8)
    return cv2.dilate(mask_HW.astype(np.uint8), square).astype(np.bool_)


def _far_from(mask_HW: MaskHW, reach_px: int) -> MaskHW:
    """What is background alone: more than `reach_px` rows or columns away from the mask."""
    return ~_grown(mask_HW, reach_px)


def _smooth(image_HWC: Image) -> Image:
    """A 3x3 mean against noise."""
    return cv2.blur(image_HWC, (3, 3)).astype(np.uint8)


def _distance_inside(mask_HW: MaskHW) -> Plane:
    """Of each pixel of the mask: how far the nearest pixel is that is not of it, in px; 0 elsewhere. Exact."""
    return cv2.distanceTransform(mask_HW.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE).astype(np.float64)


def _nearest(image_HWC: Image, of_HW: MaskHW) -> tuple[Plane, NDArray[np.uint8]]:
    """Of each pixel: how far the nearest pixel of `of_HW` is, in px, and its colour. `of_HW` is not empty."""
    distance_HW, label_HW = cv2.distanceTransformWithLabels(
        (~of_HW).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    colours_LC = np.zeros((int(label_HW.max()) + 1, 3), np.uint8)
    colours_LC[label_HW[of_HW]] = image_HWC[of_HW]
    return distance_HW, colours_LC[label_HW]
