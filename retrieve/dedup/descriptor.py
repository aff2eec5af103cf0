"""What tells that two pictures are the same: a function from images to rows, with its thresholds.

In: images. Out: unit rows whose inner product says how alike two pictures are. On disk: nothing.

Each descriptor has scales of its own, so its thresholds stand beside it:

    picture  the picture without its light (`retrieve.dedup.picture`), the default
    clip     the CLIP that scores: pictures of the same things are alike too. The sandbox's own finds 15 % of the copies
             at 0.96 and removes 197 of 39,278 others with them (`docs/bench/leakage.py`), so it is no proof of a copy
    others   a network that was trained for copies is a `Descriptor` as well; 0.604169 is the threshold of the ISC
             descriptor isc_ft_v107 in Unmet Promise, 0.75 that of SSCD. None is shipped.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gen.model.clip import Clip
from retrieve.dedup.picture import TEST_ABOVE, Image, describe_pictures

DescriptorName = Literal["picture", "clip"]

PICTURE_VERSION = 1  # one more when `describe_pictures` gives other numbers


@dataclass(frozen=True)
class Scale:
    """Inner products above which two pictures count as the same."""

    test_above: float  # a picture and a test image
    near_above: float  # two pictures of a set


SCALES: dict[DescriptorName, Scale] = {
    "picture": Scale(TEST_ABOVE, TEST_ABOVE),
    "clip": Scale(0.96, 0.94),  # 0.94 is clip-retrieval's own
}


@dataclass(frozen=True)
class Descriptor:
    """`digest` names it in caches: another one means other rows."""

    digest: str
    rows_of: Callable[[Sequence[Image]], NDArray[np.float32]]  # N images -> N D, rows of length 1 or 0
    batch: int = 256  # images at once


def picture_descriptor() -> Descriptor:
    """The picture without its light; needs no model."""
    return Descriptor(f"picture-{PICTURE_VERSION}", describe_pictures)


def clip_descriptor(clip: Clip) -> Descriptor:
    """A CLIP's image vectors."""
    return Descriptor(f"clip-{clip.digest}", clip.embed_images, clip.spec.batch)
