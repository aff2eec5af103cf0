"""The canvas: every image fits, and comes back in its own size."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen.edit.priors.canvas import fit, mask_onto_canvas, off_canvas, onto_canvas
from tests.support.random_pictures import SEEDS, blot, disc, picture

ANY_SIDE = st.integers(1, 90)


@given(ANY_SIDE, ANY_SIDE, st.integers(1, 80), SEEDS)
def test_an_image_comes_back_in_its_own_size(height: int, width: int, side: int, seed: int) -> None:
    place, image = fit(height, width, side), picture(height, width, seed)
    canvas = onto_canvas(image, place)
    assert canvas.shape == (side, side, 3)
    assert off_canvas(canvas, place).shape == image.shape
    assert not canvas[place.inner_height :].any()
    assert not canvas[:, place.inner_width :].any()


@given(ANY_SIDE, ANY_SIDE, st.integers(1, 80))
def test_the_longer_side_fills_the_canvas_and_the_shape_stays(height: int, width: int, side: int) -> None:
    place = fit(height, width, side)
    assert max(place.inner_height, place.inner_width) == side
    assert abs(place.inner_height * width - place.inner_width * height) <= max(height, width)


@given(st.integers(1, 60), SEEDS)
def test_an_image_whose_longer_side_is_the_canvas_comes_back_bit_by_bit(width: int, seed: int) -> None:
    place, image, mask = fit(60, width, 60), picture(60, width, seed), blot(60, width, seed)
    assert np.array_equal(off_canvas(onto_canvas(image, place), place), image)
    assert np.array_equal(mask_onto_canvas(mask, place)[:, :width], mask)
    assert not mask_onto_canvas(mask, place)[:, width:].any()


def test_a_smooth_image_comes_back_nearly_as_it_was() -> None:
    y, x = np.mgrid[:300, :400]
    image = np.stack([y * 255 // 300, x * 255 // 400, (x + y) * 255 // 700], axis=-1).astype(np.uint8)
    for side in (256, 1024):
        place = fit(300, 400, side)
        assert np.abs(off_canvas(onto_canvas(image, place), place).astype(int) - image).max() <= 3


@pytest.mark.parametrize("side", [25, 50, 200])
def test_a_mask_keeps_its_share_of_the_picture(side: int) -> None:
    mask = disc(100, 30)
    on_canvas = mask_onto_canvas(mask, fit(100, 100, side))
    assert on_canvas.dtype == np.bool_
    assert on_canvas.mean() == pytest.approx(mask.mean(), rel=0.06)


def test_another_size_than_that_of_the_fit_is_refused() -> None:
    place = fit(30, 40, 64)
    with pytest.raises(ValueError, match=r"found \(40, 30\) px, expected \(30, 40\)"):
        onto_canvas(picture(40, 30, 0), place)
    with pytest.raises(ValueError, match=r"found \(40, 30\) px, expected \(30, 40\)"):
        mask_onto_canvas(blot(40, 30, 0), place)
    with pytest.raises(ValueError, match=r"canvas: found \(64, 63\), expected \(64, 64\)"):
        off_canvas(picture(64, 63, 0), place)
    with pytest.raises(ValueError, match="found 0 x 40 px on a canvas of 64 px"):
        fit(0, 40, 64)
