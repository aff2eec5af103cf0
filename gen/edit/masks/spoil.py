"""Masks that are made worse on purpose, for experiments: what does an edit cost whose mask is bad?

In: a mask H W of bools, a `SpoilSpec` of a recipe, a seed. Out: the worse mask. On disk: nothing.

    dilate    grown by `px` to each side
    shift     moved by `px` in one of 16 directions that the seed chooses; its shape stays, and no pixel is lost
    random    a blob of the same area, somewhere

The same mask, spec and seed give the same mask.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from gen.edit.masks.pixels import MaskHW, dilate

DIRECTIONS = 16
WAVES = (2, 3, 4)  # of a blob's outline, in a turn
WAVE = 0.15  # of its radius: the height of a wave, at most; together they leave no thin arms
_SALT = 0x5901  # a stream of its own: the seed of a sample is that of its noise too


class SpoilSpec(BaseModel):
    """How masks are made worse."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["dilate", "shift", "random"] = Field(
        description="dilate: grown to each side; shift: moved, with its shape; random: a blob of the same area",
        examples=["shift"],
    )
    px: int | None = Field(
        None, ge=1, le=1024, description="of dilate and shift: how far, in pixels of the edited picture", examples=[6]
    )

    @model_validator(mode="after")
    def _length_fits_kind(self) -> "SpoilSpec":
        if (self.px is None) != (self.kind == "random"):
            found, expected = ("none", "a number of pixels") if self.px is None else (f"{self.px}", "none")
            raise ValueError(f"px: found {found} for kind {self.kind}, expected {expected}")
        return self


def spoil(mask_HW: MaskHW, spec: SpoilSpec, seed: int) -> MaskHW:
    """The mask made worse. `seed`: a whole number from 0 on, which `dilate` does not look at."""
    random = np.random.default_rng([_SALT, seed])
    if spec.kind == "random":
        return _blob(mask_HW.shape, int(np.count_nonzero(mask_HW)), random)
    assert spec.px is not None, "its spec says how far"
    return dilate(mask_HW, 2 * spec.px + 1) if spec.kind == "dilate" else _moved(mask_HW, spec.px, random)


def overlap(one_HW: MaskHW, other_HW: MaskHW) -> float:
    """Intersection over union, 0..1; 1 of two empty masks."""
    union = np.count_nonzero(one_HW | other_HW)
    return np.count_nonzero(one_HW & other_HW) / union if union else 1.0


def _moved(mask_HW: MaskHW, px: int, random: np.random.Generator) -> MaskHW:
    """In the first direction with room for the whole way; without one in that with most room, as far as it goes."""
    if not mask_HW.any():
        return mask_HW.copy()
    rows, columns = (np.flatnonzero(mask_HW.any(axis=axis)) for axis in (1, 0))
    (height, width), (top, bottom), (left, right) = mask_HW.shape, (rows[0], rows[-1]), (columns[0], columns[-1])
    ways = []
    for turn in random.permutation(DIRECTIONS):
        angle = 2 * np.pi * turn / DIRECTIONS
        asked = np.rint((px * np.sin(angle), px * np.cos(angle))).astype(int)
        found = np.clip(asked, (-top, -left), (height - 1 - bottom, width - 1 - right))
        if (found == asked).all():
            ways = [found]
            break
        ways.append(found)
    down, right_by = max(ways, key=lambda way: int((way**2).sum()))
    return np.roll(mask_HW, (down, right_by), (0, 1))  # nothing comes in again on the other side: there is room


def _blob(shape: tuple[int, ...], area: int, random: np.random.Generator) -> MaskHW:
    """`area` pixels around a place: those that are nearest to it, in the measure of a wavy outline."""
    height, width = shape
    radius = np.sqrt(area / np.pi)
    # the centre has room for the radius, where the image has
    row, column = (random.uniform(min(radius, side / 2), max(side - radius, side / 2)) for side in (height, width))
    y_HW, x_HW = np.mgrid[:height, :width] + 0.5
    angle_HW = np.arctan2(y_HW - row, x_HW - column)
    outline_HW: NDArray[np.float64] = np.ones((height, width))
    for wave in WAVES:
        outline_HW += random.uniform(0, WAVE) * np.cos(wave * angle_HW + random.uniform(0, 2 * np.pi))
    near = np.argsort((np.hypot(y_HW - row, x_HW - column) / outline_HW).ravel(), kind="stable")
    blob = np.zeros(height * width, bool)
    blob[near[:area]] = True
    return blob.reshape(height, width)
