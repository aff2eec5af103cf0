"""Priors of colour and texture: the formula inside the mask, and not a pixel outside."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen.edit.priors.blend import blend_colour, blend_texture, texture_patch
from tests.support.random_pictures import SEEDS, SIDES, blot, picture

ALPHAS = st.floats(0, 1)
RGB = st.tuples(st.integers(0, 255), st.integers(0, 255), st.integers(0, 255))


@given(SIDES, SIDES, SEEDS, RGB, ALPHAS)
def test_inside_the_mask_a_colour_is_blended_by_the_formula_and_outside_nothing_changes(
    height: int, width: int, seed: int, rgb: tuple[int, int, int], alpha: float
) -> None:
    image, mask = picture(height, width, seed), blot(height, width, seed)
    before = image.copy()
    blended = blend_colour(image, mask, rgb, alpha)
    assert np.array_equal(blended[~mask], image[~mask])
    wanted = (1 - alpha) * image[mask].astype(float) + alpha * np.array(rgb)
    assert np.abs(blended[mask] - wanted).max(initial=0) <= 0.5 + 1e-9
    assert np.array_equal(image, before)


@given(SIDES, SIDES, SEEDS, ALPHAS)
def test_a_texture_is_blended_by_the_same_formula(height: int, width: int, seed: int, alpha: float) -> None:
    image, mask, texture = picture(height, width, seed), blot(height, width, seed), picture(height, width, seed + 1)
    blended = blend_texture(image, mask, texture, alpha)
    assert np.array_equal(blended[~mask], image[~mask])
    wanted = (1 - alpha) * image[mask].astype(float) + alpha * texture[mask]
    assert np.abs(blended[mask] - wanted).max(initial=0) <= 0.5 + 1e-9


def test_alpha_0_is_the_image_and_alpha_1_the_colour() -> None:
    image, mask = picture(9, 7, 0), blot(9, 7, 0)
    assert np.array_equal(blend_colour(image, mask, (1, 2, 3), 0), image)
    assert (blend_colour(image, mask, (1, 2, 3), 1)[mask] == (1, 2, 3)).all()


@given(st.integers(1, 40), st.integers(1, 40), SEEDS)
def test_a_patch_covers_the_image_and_depends_on_its_seed_alone(height: int, width: int, seed: int) -> None:
    texture = picture(32, 48, 0)
    patch = texture_patch(texture, height, width, seed, crop_px=16)
    assert patch.shape == (height, width, 3)
    assert patch.dtype == np.uint8
    assert np.array_equal(patch, texture_patch(texture.copy(), height, width, seed, crop_px=16))


def test_a_patch_of_the_crops_own_size_is_a_sharpened_square_of_the_texture() -> None:
    """The kernel, by hand: five times the middle less its four neighbours; the rim mirrors."""
    texture = picture(20, 20, 3)
    patch = texture_patch(texture, 8, 8, 5, crop_px=8)
    found = []
    for top in range(13):
        for left in range(13):
            square = np.pad(texture[top : top + 8, left : left + 8].astype(int), ((1, 1), (1, 1), (0, 0)), "reflect")
            middle = square[1:-1, 1:-1]
            around = square[:-2, 1:-1] + square[2:, 1:-1] + square[1:-1, :-2] + square[1:-1, 2:]
            if np.array_equal(np.clip(5 * middle - around, 0, 255), patch):
                found.append((top, left))
    assert len(found) == 1


def test_patches_of_other_seeds_are_from_other_places() -> None:
    texture = picture(64, 64, 0)
    assert len({texture_patch(texture, 8, 8, seed, crop_px=8).tobytes() for seed in range(20)}) >= 15


def test_an_even_texture_stays_even_however_it_is_enlarged() -> None:
    texture = np.full((300, 300, 3), (90, 140, 30), np.uint8)
    assert (texture_patch(texture, 700, 1024, 0) == (90, 140, 30)).all()


def test_a_patch_of_a_wide_image_is_not_stretched() -> None:
    """Stripes across the texture are as far apart in a wide patch as in a square one."""
    texture = np.zeros((64, 64, 3), np.uint8)
    texture[:, ::8] = 255
    wide, square = (texture_patch(texture, height, 128, 0, crop_px=32) for height in (40, 128))
    assert np.array_equal(wide, square[:40])


IMAGE, MASK = picture(4, 4, 0), blot(4, 4, 0)


@pytest.mark.parametrize(
    ("image", "mask", "rgb", "alpha", "said"),
    [
        (IMAGE, blot(4, 5, 0), (0, 0, 0), 0.5, r"mask: found bool \(4, 5\), expected bool \(4, 4\)"),
        (IMAGE, MASK.astype(float), (0, 0, 0), 0.5, r"mask: found float64 \(4, 4\)"),
        (IMAGE / 255, MASK, (0, 0, 0), 0.5, r"image: found float64 \(4, 4, 3\), expected uint8 \(H, W, 3\)"),
        (IMAGE[..., :1], MASK, (0, 0, 0), 0.5, r"image: found uint8 \(4, 4, 1\)"),
        (IMAGE, MASK, (0, 0, 256), 0.5, r"expected three numbers in 0\.\.255"),
        (IMAGE, MASK, (0, 0, 0), 1.1, r"alpha: found 1\.1, expected 0\.\.1"),
        (IMAGE, MASK, (0, 0, 0), float("nan"), r"alpha: found nan"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(image: Any, mask: Any, rgb: Any, alpha: float, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        blend_colour(image, mask, rgb, alpha)


def test_textures_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"texture: found \(4, 5, 3\), expected \(4, 4, 3\)"):
        blend_texture(IMAGE, MASK, picture(4, 5, 0), 0.5)
    with pytest.raises(ValueError, match=r"crop_px: found 5, expected 1\.\.4"):
        texture_patch(picture(4, 9, 0), 4, 4, 0, crop_px=5)
