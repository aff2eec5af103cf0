"""The prior of a background: the place outside the object, the object itself inside."""

import numpy as np
import pytest
from hypothesis import given

from gen.edit.priors.background import background_region, merge_background, object_on
from tests.support.random_pictures import SEEDS, SIDES, blot, disc, picture


@given(SIDES, SIDES, SEEDS)
def test_what_is_kept_is_bit_identical_and_the_place_is_everywhere_else(height: int, width: int, seed: int) -> None:
    image, place, kept = picture(height, width, seed), picture(height, width, seed + 1), blot(height, width, seed)
    merged = merge_background(image, kept, place)
    assert np.array_equal(merged[kept], image[kept])
    assert np.array_equal(merged[~kept], place[~kept])


def test_the_region_is_the_inverse_of_the_mask_with_a_soft_edge() -> None:
    mask = disc(101, 40)
    assert np.array_equal(background_region(mask, 1), np.where(mask, 0, 255))
    region = background_region(mask, 41)
    assert region[50, 50] == 0
    assert region[0, 0] == 255
    edge = region[50, 5:20].astype(int)  # the disc begins at column 10
    assert (np.diff(edge) <= 0).all()
    assert edge[0] > 150 > 100 > edge[-1]


def test_an_object_stands_alone_on_an_even_grey() -> None:
    image, mask = picture(8, 9, 0), blot(8, 9, 0)
    alone = object_on(image, mask, 100)
    assert np.array_equal(alone[mask], image[mask])
    assert (alone[~mask] == 100).all()
    assert alone.dtype == np.uint8


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="place: found"):
        merge_background(picture(4, 4, 0), blot(4, 4, 0), picture(4, 6, 0))
    with pytest.raises(ValueError, match="blur: found 40 px, expected an odd number"):
        background_region(blot(4, 4, 0), 40)
