"""The prior of a background: the place outside the object, the object itself inside."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from gen.edit.priors.background import background_region, dilate, merge_background, object_on
from tests.support.random_pictures import SEEDS, SIDES, blot, disc, picture


def grown(mask: NDArray[np.bool_], reach: int) -> NDArray[np.bool_]:
    """By definition: a pixel is of it if one of the mask is at most `reach` rows and columns away."""
    rows, columns = mask.shape
    return np.array(
        [
            [mask[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1].any() for x in range(columns)]
            for y in range(rows)
        ]
    )


@given(SIDES, SIDES, SEEDS, st.integers(0, 3))
def test_a_mask_grows_by_half_the_square_to_each_side(height: int, width: int, seed: int, reach: int) -> None:
    mask = blot(height, width, seed, share=0.1)
    assert np.array_equal(dilate(mask, 2 * reach + 1), grown(mask, reach))


@pytest.mark.parametrize(("side_px", "area"), [(0, 1), (1, 1), (25, 625), (50, 2500), (120, 14400)])
def test_a_pixel_grows_to_the_whole_square(side_px: int, area: int) -> None:
    mask = np.zeros((201, 201), np.bool_)
    mask[100, 100] = True
    assert dilate(mask, side_px).sum() == area


@given(SIDES, SIDES, SEEDS, st.integers(0, 9))
def test_the_object_is_kept_bit_by_bit_and_the_place_is_everywhere_else(
    height: int, width: int, seed: int, dilation_px: int
) -> None:
    image, place, mask = picture(height, width, seed), picture(height, width, seed + 1), blot(height, width, seed, 0.1)
    merged = merge_background(image, mask, place, dilation_px)
    kept = dilate(mask, dilation_px)
    assert np.array_equal(merged[kept], image[kept])
    assert np.array_equal(merged[~kept], place[~kept])
    assert kept[mask].all()


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
    with pytest.raises(ValueError, match="dilation: found -1 px"):
        dilate(blot(4, 4, 0), -1)
    with pytest.raises(ValueError, match="blur: found 40 px, expected an odd number"):
        background_region(blot(4, 4, 0), 40)
