"""The canvas: every image fits, and comes back in its own size."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen.edit.priors.canvas import mask_onto_canvas, off_canvas, onto_canvas, place_on, resized_for
from tests.support.random_pictures import SEEDS, blot, picture

ANY_SIDE = st.integers(1, 90)


@given(ANY_SIDE, ANY_SIDE, st.integers(1, 80), SEEDS)
def test_a_picture_and_its_mask_come_back_bit_by_bit_and_beside_them_is_nothing(
    height: int, width: int, side: int, seed: int
) -> None:
    place = place_on(height, width, side)
    image, mask = resized_for(picture(height, width, seed), place), blot(place.height, place.width, seed)
    canvas, on_canvas = onto_canvas(image, place), mask_onto_canvas(mask, place)
    assert canvas.shape == (side, side, 3)
    assert np.array_equal(off_canvas(canvas, place), image)
    assert np.array_equal(on_canvas[: place.height, : place.width], mask)
    for whole in (canvas, on_canvas):
        assert not whole[place.height :].any()
        assert not whole[:, place.width :].any()


@given(ANY_SIDE, ANY_SIDE, st.integers(1, 80))
def test_the_longer_side_fills_the_canvas_and_the_shape_stays(height: int, width: int, side: int) -> None:
    place = place_on(height, width, side)
    assert max(place.height, place.width) == side
    assert abs(place.height * width - place.width * height) <= max(height, width)


@given(st.integers(1, 60), SEEDS)
def test_a_picture_whose_longer_side_is_the_canvas_is_not_resized(width: int, seed: int) -> None:
    image = picture(60, width, seed)
    assert np.array_equal(resized_for(image, place_on(60, width, 60)), image)


def test_a_smooth_picture_is_resized_smoothly() -> None:
    def smooth(height: int, width: int) -> np.ndarray:
        y, x = (np.mgrid[:height, :width].astype(float) + 0.5) / np.array([height, width])[:, None, None]
        return np.stack([y * 255, x * 255, (x + y) * 127], axis=-1).astype(np.uint8)

    for side in (200, 1024):
        place = place_on(300, 400, side)
        resized = resized_for(smooth(300, 400), place)
        assert resized.shape == (place.height, place.width, 3)
        assert np.abs(resized.astype(int) - smooth(place.height, place.width)).max() <= 3


def test_another_size_than_that_of_the_place_is_refused() -> None:
    place = place_on(30, 40, 40)
    with pytest.raises(ValueError, match=r"found \(40, 30\) px, expected \(30, 40\)"):
        onto_canvas(picture(40, 30, 0), place)
    with pytest.raises(ValueError, match=r"found \(40, 30\) px, expected \(30, 40\)"):
        mask_onto_canvas(blot(40, 30, 0), place)
    with pytest.raises(ValueError, match=r"found \(40, 39\) px, expected \(40, 40\)"):
        off_canvas(picture(40, 39, 0), place)
    with pytest.raises(ValueError, match="found 0 x 40 px on a canvas of 64 px"):
        place_on(0, 40, 64)
