"""Pixels of masks: areas in closed form on squares and discs, which part is kept, what is growing and blurring."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from gen.edit.masks.pixels import area_share, binarise, dilate, largest_part, unlike_paper
from sandbox.segmenter import overlaps
from sandbox.sets import set_scenes
from sandbox.world import ink_mask, render

SIZES = st.tuples(st.integers(1, 24), st.integers(1, 24))
MASKS = SIZES.flatmap(lambda size: arrays.arrays(bool, size))


def square(size_px: int, top: int, left: int, side_px: int) -> np.ndarray:
    mask = np.zeros((size_px, size_px), bool)
    mask[top : top + side_px, left : left + side_px] = True
    return mask


def disc(size_px: int, row: float, column: float, radius_px: float) -> np.ndarray:
    y, x = np.mgrid[:size_px, :size_px]
    return (y - row) ** 2 + (x - column) ** 2 <= radius_px**2


def test_a_map_is_object_from_the_threshold_on() -> None:
    assert binarise(np.array([[0, 127], [128, 255]], np.uint8)).tolist() == [[False, False], [True, True]]
    assert binarise(np.array([[0.2, 0.5]]), 0.5).tolist() == [[False, True]]


@pytest.mark.parametrize(
    ("levels", "found"),
    [(np.zeros((2, 2, 3)), "[2, 2, 3]"), (np.zeros((0, 4)), "[0, 4]"), (np.full((2, 2), np.nan), "NaN")],
)
def test_a_map_that_is_no_map_is_refused(levels: np.ndarray, found: str) -> None:
    with pytest.raises(ValueError) as refused:
        binarise(levels)
    assert found in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_area_of_a_square_and_of_a_disc_is_what_geometry_says() -> None:
    assert area_share(square(40, 3, 5, 10)) == 100 / 1600
    assert area_share(disc(400, 199.5, 199.5, 150)) == pytest.approx(np.pi * 150**2 / 400**2, rel=2e-3)
    assert area_share(np.zeros((3, 3), bool)) == 0


# growing


@pytest.mark.parametrize("side_px", [0, 1, 2, 3, 4, 7, 25, 50])
def test_a_square_grows_by_one_less_than_the_side(side_px: int) -> None:
    grown = dilate(square(200, 80, 90, 10), side_px)
    before = max(side_px - 1, 0) // 2
    assert (grown == square(200, 80 - before, 90 - before, 10 + max(side_px - 1, 0))).all()


def test_a_disc_grows_by_its_square_as_minkowski_says() -> None:
    """Area of a disc plus a square: the disc, a strip along each of four sides, the square itself."""
    side, radius = 31, 60.0
    grown = dilate(disc(300, 150, 150, radius), side)
    expected = np.pi * radius**2 + 4 * radius * (side - 1) + (side - 1) ** 2
    assert np.count_nonzero(grown) == pytest.approx(expected, rel=0.01)


@settings(deadline=None, max_examples=60)
@given(MASKS, st.integers(0, 9), st.integers(0, 4))
def test_growing_keeps_the_mask_and_twice_is_once_with_the_sum(mask: np.ndarray, side: int, half: int) -> None:
    grown = dilate(mask, side)
    assert (grown | mask == grown).all()
    odd = 2 * half + 1
    twice = dilate(dilate(mask, odd), odd)
    assert (twice == dilate(mask, 2 * odd - 1)).all()


# the largest part


def test_of_two_squares_the_larger_one_is_kept_wherever_it_is() -> None:
    small, large = square(60, 2, 2, 9), square(60, 30, 40, 12)
    assert (largest_part(small | large) == large).all()
    assert (largest_part((small | large)[::-1]) == large[::-1]).all()


def test_holes_are_filled_and_what_lies_in_them_too() -> None:
    ring = disc(81, 40, 40, 30) & ~disc(81, 40, 40, 20)
    assert (largest_part(ring | disc(81, 40, 40, 5)) == disc(81, 40, 40, 30)).all()


def test_a_thin_line_counts_its_pixels_against_a_small_square() -> None:
    """Its contour encloses no area at all."""
    line = np.zeros((40, 40), bool)
    line[5, 3:30] = True
    assert (largest_part(line | square(40, 20, 20, 5)) == line).all()
    assert (largest_part(line | square(40, 20, 20, 6)) == square(40, 20, 20, 6)).all()


def test_of_equal_parts_the_topmost_is_kept_then_the_leftmost() -> None:
    assert (largest_part(square(30, 2, 20, 4) | square(30, 9, 1, 4)) == square(30, 2, 20, 4)).all()
    assert (largest_part(square(30, 2, 20, 4) | square(30, 2, 1, 4)) == square(30, 2, 1, 4)).all()


@settings(deadline=None, max_examples=100)
@given(MASKS)
def test_the_largest_part_is_that_of_connected_components_filled(mask: np.ndarray) -> None:
    part = largest_part(mask)
    if not mask.any():
        assert not part.any()
        return
    _, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    filled_sizes = []
    for label in range(1, labels.max() + 1):
        outside = cv2.copyMakeBorder((labels != label).astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=1)
        _, around = cv2.connectedComponents(outside, connectivity=4)
        filled = (around != around[0, 0])[1:-1, 1:-1]
        filled_sizes.append(np.count_nonzero(filled))
        if (filled == part).all():
            assert (part & (labels == label)).any()
    assert np.count_nonzero(part) == max(filled_sizes)


def test_a_polygon_of_few_points_stays_near_its_contour() -> None:
    round_one = disc(200, 100, 100, 70)
    coarse = largest_part(round_one, polygon_px=3.0)
    assert overlaps(coarse[None], round_one[None])[0] > 0.95
    rim = coarse ^ round_one
    assert rim.any()
    ring = disc(200, 100, 100, 74.5) & ~disc(200, 100, 100, 65.5)
    assert not (rim & ~ring).any()
    assert (largest_part(square(50, 4, 4, 20), polygon_px=3.0) == square(50, 4, 4, 20)).all()


# paper


def test_a_disc_on_paper_is_found_to_within_its_rim() -> None:
    image = np.full((96, 120, 3), (252, 226, 70), np.uint8)
    true = np.zeros((96, 120), bool)
    true[:, :96] = disc(96, 50, 48, 25)
    image[true] = (25, 55, 205)
    noise = np.random.default_rng(1).integers(-6, 7, image.shape)
    found = unlike_paper(np.clip(image + noise, 0, 255).astype(np.uint8))
    assert overlaps(found[None], true[None])[0] > 0.94


@pytest.mark.parametrize("noise", [0, 6])
def test_an_empty_page_has_no_contrast(noise: int) -> None:
    levels = np.random.default_rng(2).integers(-noise, noise + 1, (64, 64, 3))
    assert unlike_paper((200 + levels).astype(np.uint8)) is None


def test_most_photographs_of_the_sandbox_need_no_weights() -> None:
    scenes = [scene for scene in set_scenes("real-val") if scene.ground == "plain" and scene.light == "daylight"][:60]
    found = [unlike_paper(render(scene)) for scene in scenes]
    shares = [
        0.0 if one is None else overlaps(one[None], ink_mask(s)[None])[0] for one, s in zip(found, scenes, strict=True)
    ]
    assert np.median(shares) > 0.85
