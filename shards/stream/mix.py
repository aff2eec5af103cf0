"""Mixup and cutmix: which pictures of a batch are mixed with which, and how much; pure.

In: `MixSpec` (from the recipe), the quotas of a group, which groups of which step. Out: a `MixPlan` of arrays; the
training applies it on the device. On disk: nothing.

A picture is mixed only with one of the same domain and group, so batch normalisation sees no mixture of domains. The
plan depends on (seed, step, number of the group over all ranks), and not on the number of ranks.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from shards.stream.keyed_random import KeyedRandom

_PURPOSE = 0x6D6978  # part of the key: other random numbers than those of the pixels


class MixSpec(BaseModel):
    """The `mix` part of a recipe; with both alphas 0 nothing is mixed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mixup_alpha: float = Field(default=0.0, ge=0, le=2, description="of the Beta distribution; 0: no mixup")
    cutmix_alpha: float = Field(default=0.0, ge=0, le=2, description="of the Beta distribution; 0: no cutmix")
    chance: float = Field(
        default=1.0, ge=0, le=1, description="part of the groups (domains of them, samples) that are mixed"
    )
    cutmix_part: float = Field(default=0.5, ge=0, le=1, description="part of the mixed that are cut, if both are on")
    per: Literal["group", "domain", "sample"] = Field(
        default="group",
        description="what is mixed or not, and has a share of its own; domain: the pictures of one domain in a group",
    )

    @property
    def is_on(self) -> bool:
        """Whether any picture is mixed."""
        return self.mixup_alpha > 0 or self.cutmix_alpha > 0


@dataclass(frozen=True, eq=False)
class MixPlan:
    """For each of N pictures: its partner, and the share of its own label.

    Mixup: share * picture + (1 - share) * partner. Cutmix (if the box is not empty): the box comes from the partner.
    In both, the label is share * own + (1 - share) * partner's.
    """

    partner: npt.NDArray[np.int64]  # (N,) index into the batch, of the same slice
    share: npt.NDArray[np.float32]  # (N,) 1: not mixed
    box: npt.NDArray[np.int32]  # (N, 4) top, left, bottom, right in pixels

    def part(self, rows: slice) -> "MixPlan":
        """The plan of some of the pictures, whole groups of them."""
        return MixPlan(self.partner[rows] - rows.start, self.share[rows], self.box[rows])


Blend: TypeAlias = tuple[float, tuple[int, int, int, int]]  # share, box
_PLAIN: Blend = (1.0, (0, 0, 0, 0))


def plan_mix(
    spec: MixSpec, quotas: Sequence[int], size_px: int, seed: int, step: int, first_group: int, groups: int
) -> MixPlan:
    """The plan of a rank: for the step's groups `first_group` .. `first_group` + `groups`; N = groups * sum(quotas)."""
    partner: list[int] = []
    blends: list[Blend] = []
    for group in range(first_group, first_group + groups):
        rng = KeyedRandom(seed, _PURPOSE, step, group)
        shared = _draw_blend(spec, size_px, rng)
        for number, quota in enumerate(quotas):
            if spec.per == "domain" and number:
                shared = _draw_blend(spec, size_px, rng)
            slice_of_batch = range(len(partner), len(partner) + quota)
            partner += rng.shuffled(slice_of_batch)
            blends += [_draw_blend(spec, size_px, rng) if spec.per == "sample" else shared for _ in range(quota)]
    return MixPlan(
        partner=np.array(partner, np.int64),
        share=np.array([share for share, _ in blends], np.float32),
        box=np.array([box for _, box in blends], np.int32).reshape(-1, 4),
    )


def apply_mix(images: npt.NDArray[np.uint8], plan: MixPlan) -> npt.NDArray[np.float32]:
    """The mixed pictures (N, H, W, 3) in 0..255, in numpy: the reference for what the training computes."""
    mixed = images.astype(np.float32)
    for number, (partner, share, box) in enumerate(zip(plan.partner, plan.share, plan.box, strict=True)):
        top, left, bottom, right = box
        if bottom > top:
            mixed[number, top:bottom, left:right] = images[partner, top:bottom, left:right]
        else:
            mixed[number] = share * images[number] + (1 - share) * images[partner].astype(np.float32)
    return mixed


def _draw_blend(spec: MixSpec, size_px: int, rng: KeyedRandom) -> Blend:
    if rng.uniform() >= spec.chance:
        return _PLAIN
    part = spec.cutmix_part if spec.mixup_alpha else 1.0
    if spec.cutmix_alpha and rng.uniform() < part:
        return _draw_box(rng.beta(spec.cutmix_alpha), size_px, rng)
    if spec.mixup_alpha:
        return rng.beta(spec.mixup_alpha), (0, 0, 0, 0)
    return _PLAIN


def _draw_box(share: float, size_px: int, rng: KeyedRandom) -> Blend:
    """A square with 1 - share of the area around a random pixel, cut off at the border, and the share that remains.

    Without a pixel in the box nothing is mixed. Source: Yun et al. 2019, algorithm 1.
    """
    half = int(size_px * math.sqrt(1 - share)) // 2
    y, x = rng.below(size_px), rng.below(size_px)
    top, bottom = max(0, y - half), min(size_px, y + half)
    left, right = max(0, x - half), min(size_px, x + half)
    area = (bottom - top) * (right - left)
    if not area:
        return _PLAIN
    return 1 - area / size_px**2, (top, left, bottom, right)
