"""What is done to the pixels of a mask: pure functions.

In: maps and masks H W, lengths in pixels. Out: masks H W of bools, a share. On disk: nothing.

A mask is true on the object. Neighbours touch over eight sides; the world ends at the border of the image.
"""

import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

MaskHW = NDArray[np.bool_]

OBJECT = 128  # the least level of 255 that is object
BORDER_SHARE = 0.08  # of the shorter side: the ring that is taken for paper
LEAST_CONTRAST = 16.0  # levels of 255; noise and light of plain paper stay below it


def binarise(map_HW: NDArray[Any], least: float = OBJECT) -> MaskHW:
    """Where a map is at least `least`. Raises ValueError for a map that is not H W, is empty, or holds NaN."""
    if map_HW.ndim != 2 or 0 in map_HW.shape:
        raise ValueError(f"mask: found {map_HW.dtype} {list(map_HW.shape)}, expected [height, width]")
    if np.isnan(map_HW).any():
        raise ValueError("mask: found NaN in a map, expected numbers; the weights that made it are damaged")
    return np.asarray(map_HW >= least)


def area_share(mask_HW: MaskHW) -> float:
    """The share of pixels that are object, 0..1."""
    return float(np.count_nonzero(mask_HW) / mask_HW.size)


def largest_part(mask_HW: MaskHW, polygon_px: float = 0.0) -> MaskHW:
    """The largest part, filled: its outer contour as a polygon, no hole left. Nothing of an empty mask.

    `polygon_px` is how far a simpler polygon may be from the contour, in pixels; 0 = every point of it. Of parts that
    are equally large it is the topmost, then the leftmost.
    """
    found, _ = cv2.findContours(mask_HW.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = np.zeros(mask_HW.shape, np.uint8)
    if found:
        largest = max(found, key=_rank)
        cv2.fillPoly(filled, [cv2.approxPolyDP(largest, polygon_px, True) if polygon_px else largest], 1)
    return filled.astype(bool)


def _rank(contour: Any) -> tuple[float, int, int]:
    """How many pixels are in or on a contour, by Pick's theorem; then how far up and left its first pixel is."""
    pixels = cv2.contourArea(contour) + len(contour) / 2 + 1
    if len(contour) == 1:
        pixels = 1.0
    column, row = (int(least) for least in contour.reshape(-1, 2).min(axis=0))
    return pixels, -row, -column


def dilate(mask_HW: MaskHW, side_px: int) -> MaskHW:
    """Grown by a square of `side_px`: a pixel is object if one of the square around it is. 0 and 1 change nothing.

    An odd side grows (side - 1) / 2 to each side; an even one grows one more down and right than up and left.
    """
    if side_px <= 1:
        return mask_HW.copy()
    square = np.ones((side_px, side_px), np.uint8)
    before = (side_px - 1) // 2
    # dilation looks at the mirrored square, so the anchor is the other end
    grown = cv2.dilate(mask_HW.astype(np.uint8), square, anchor=(side_px - 1 - before, side_px - 1 - before))
    return grown.astype(bool)


def unlike_paper(image_HWC: NDArray[np.uint8]) -> MaskHW | None:
    """Where an RGB image is unlike its paper, by Otsu's threshold on the distance in colour; None without a contrast.

    Paper is the median of a ring at the border. Pixels are smoothed against noise before. Source: Otsu 1979.
    """
    smooth = cv2.blur(image_HWC, (3, 3)).astype(np.float32)
    height, width = image_HWC.shape[:2]
    ring_px = max(1, math.ceil(BORDER_SHARE * min(height, width)))
    ring = np.ones((height, width), bool)
    ring[ring_px:-ring_px, ring_px:-ring_px] = False
    paper_C = np.median(smooth[ring], axis=0)
    distance_HW = np.linalg.norm(smooth - paper_C, axis=-1)
    levels_HW = np.clip(distance_HW, 0, 255).astype(np.uint8)
    threshold, _ = cv2.threshold(levels_HW, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    far = levels_HW > threshold
    if not far.any() or far.all() or levels_HW[far].mean() - levels_HW[~far].mean() < LEAST_CONTRAST:
        return None
    return np.asarray(far)
