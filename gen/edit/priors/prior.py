"""The prior of an edit: what an editor begins with in place of the source.

In: a source with the masks of its object, an attribute, the picture that was drawn of it or none. Out: an image of the
source's size. On disk: nothing. Source: VariReal (V.20, V.22).
"""

import numpy as np

from gen.edit.attributes.attribute import Attribute
from gen.edit.priors.background import merge_background
from gen.edit.priors.blend import blend_colour, blend_texture, texture_patch
from gen.edit.priors.pixels import Image, MaskHW

TEXTURE_CROP = 4  # a texture is a quarter of a drawn square, enlarged: VariReal's 256 of 1024 px


def with_prior(
    source_HWC: Image,
    object_HW: MaskHW,
    wide_HW: MaskHW,
    attribute: Attribute,
    drawn_HWC: Image | None,
    alpha: float,
    seed: int,
) -> Image:
    """The source with a place under its object, or a tint or a texture over it: the drawn one, else the attribute's
    colour; without either the source itself. `wide_HW`: what a new place leaves of the source."""
    rgb = attribute.rgb
    if drawn_HWC is None and rgb is None:
        return source_HWC
    if attribute.kind == "background":
        return merge_background(source_HWC, wide_HW, flat(source_HWC, rgb) if drawn_HWC is None else drawn_HWC)
    if drawn_HWC is None:
        assert rgb is not None, "either is there"
        return blend_colour(source_HWC, object_HW, rgb, alpha)
    height, width = source_HWC.shape[:2]
    crop_px = max(1, min(drawn_HWC.shape[:2]) // TEXTURE_CROP)
    patch_HWC = texture_patch(drawn_HWC, height, width, seed, crop_px)
    return blend_texture(source_HWC, object_HW, patch_HWC, alpha)


def flat(image_HWC: Image, rgb: tuple[int, int, int] | None) -> Image:
    """An even picture of the image's size."""
    assert rgb is not None, "of a colour"
    return np.broadcast_to(np.array(rgb, np.uint8), image_HWC.shape).copy()
