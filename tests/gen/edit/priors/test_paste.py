"""Paste-back: the object as it was, the background as it was made, and no rim in the old background's colour."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from gen.edit.priors.background import merge_background
from gen.edit.priors.paste import (
    core_colours,
    core_of,
    halo_share,
    paste_background,
    paste_object,
    paste_softly,
    share_by_distance,
)
from sandbox.sets import set_scenes
from sandbox.world import PAPERS, render
from tests.support.random_pictures import SEEDS, SIDES, blot, disc, grown, picture

INK, OLD, NEW = (20, 20, 24), (252, 226, 70), (130, 200, 255)


def drawn(paper: tuple[int, int, int], radius: float = 14, side: int = 64) -> NDArray[np.uint8]:
    """A disc of ink on paper, whose rim is mixed as a camera mixes it."""
    coverage = cv2.GaussianBlur(disc(side, radius).astype(np.float32), (0, 0), 0.7)[..., None]
    return np.rint(coverage * np.array(INK) + (1 - coverage) * np.array(paper)).astype(np.uint8)


# hard


@given(SIDES, SIDES, SEEDS)
def test_a_hard_paste_keeps_the_object_bit_by_bit_and_everything_else_as_it_was_made(
    height: int, width: int, seed: int
) -> None:
    source, edited, mask = picture(height, width, seed), picture(height, width, seed + 1), blot(height, width, seed)
    pasted = paste_object(source, edited, mask)
    assert np.array_equal(pasted[mask], source[mask])
    assert np.array_equal(pasted[~mask], edited[~mask])
    assert np.array_equal(paste_background(source, edited, mask), paste_object(source, edited, ~mask))


# soft


@given(SIDES, SIDES, SEEDS, st.floats(0.1, 4), st.floats(0.05, 0.95))
def test_a_soft_paste_keeps_the_core_bit_by_bit_and_what_is_far_away_as_it_was_made(
    height: int, width: int, seed: int, rim_px: float, share: float
) -> None:
    source, edited = picture(height, width, seed), picture(height, width, seed + 1)
    mask = blot(height, width, seed, share)
    pasted = paste_softly(source, edited, mask, rim_px)
    core = core_of(mask, rim_px)
    assert not core[~mask].any()
    assert np.array_equal(pasted[core], source[core])
    far = ~grown(mask, int(np.ceil(rim_px + 1)))
    assert np.array_equal(pasted[far], edited[far])


def test_alpha_is_linear_in_the_distance_to_the_edge() -> None:
    mask = np.zeros((5, 20), np.bool_)
    mask[:, 10:] = True
    assert share_by_distance(mask, 1.0)[2, 7:13].tolist() == [0, 0, 0.25, 0.75, 1, 1]
    assert share_by_distance(mask, 2.0)[2, 6:14].tolist() == [0, 0, 0.125, 0.375, 0.625, 0.875, 1, 1][0:8]
    assert np.array_equal(core_of(mask, 1.0)[2], np.arange(20) >= 11)


@pytest.mark.parametrize("is_object", [True, False])
def test_an_image_that_is_all_object_or_none_has_no_rim(is_object: bool) -> None:
    source, edited = picture(6, 6, 0), picture(6, 6, 1)
    mask = np.full((6, 6), is_object)
    assert np.array_equal(paste_softly(source, edited, mask), source if is_object else edited)


def test_an_object_at_the_border_of_the_image_has_no_rim_there() -> None:
    mask = np.zeros((9, 9), np.bool_)
    mask[:5] = True
    assert (share_by_distance(mask)[:3] == 1).all()


def test_towards_the_rim_the_object_has_the_colour_of_its_core() -> None:
    source, mask = drawn(OLD), disc(64, 14)
    colours = core_colours(source, mask)
    rim = mask & ~core_of(mask)
    assert np.linalg.norm(source[rim].astype(float) - INK, axis=1).max() > 60
    assert np.linalg.norm(colours[rim].astype(float) - INK, axis=1).max() < 60
    assert np.array_equal(colours[core_of(mask)], source[core_of(mask)])


def test_where_an_object_is_too_thin_for_a_core_its_own_pixels_are_taken() -> None:
    source, edited = picture(30, 30, 0), np.full((30, 30, 3), 255, np.uint8)
    mask = np.zeros((30, 30), np.bool_)
    mask[:, 15] = True
    assert not core_of(mask).any()
    assert np.array_equal(core_colours(source, mask), source)
    pasted = paste_softly(source, edited, mask)
    wanted = np.rint(0.75 * source[:, 15] + 0.25 * 255)
    assert np.array_equal(pasted[:, 15], wanted)
    mask[:9, :9] = True  # a core, but far from the lower end of the line
    assert np.array_equal(core_colours(source, mask)[-1], source[-1])


def test_a_rim_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="rim: found 0 px, expected more than 0; for no rim paste hard"):
        share_by_distance(disc(9, 3), 0)


# the halo


def test_a_dilated_mask_leaves_a_halo_and_a_soft_paste_leaves_none() -> None:
    source, edited, mask = drawn(OLD), np.full((64, 64, 3), NEW, np.uint8), disc(64, 14)
    wide = merge_background(source, grown(mask, 2), edited)
    assert halo_share(source, wide, mask) > 0.9
    assert halo_share(source, paste_softly(source, edited, mask), mask) == 0
    assert halo_share(source, source, mask) == 0  # nothing was edited, so there is nothing to tell


def test_a_soft_paste_is_nearer_to_a_picture_on_the_new_paper_than_a_hard_one() -> None:
    source, true, mask = drawn(OLD), drawn(NEW), disc(64, 14)
    edited = np.full((64, 64, 3), NEW, np.uint8)
    ring = grown(mask, 2) & ~core_of(mask)
    wrong = {
        paste.__name__: float(np.abs(paste(source, edited, mask)[ring].astype(float) - true[ring]).mean())
        for paste in (paste_object, paste_softly)
    }
    assert wrong["paste_softly"] < 0.75 * wrong["paste_object"], wrong


def test_the_sandboxs_real_pictures_on_another_paper_are_as_if_they_had_been_written_on_it() -> None:
    """Compared with the very same picture on the other paper; noise alone makes 2.3 levels."""
    papers = list(PAPERS)
    scenes = [one for one in set_scenes("real-test") if (one.ground, one.light) == ("plain", "daylight")][:32]
    wrong: dict[str, list[float]] = {"hard": [], "by distance": [], "soft": [], "dilated": []}
    halo: dict[str, list[float]] = {name: [] for name in wrong}
    for number, scene in enumerate(scenes):
        paper = papers[(papers.index(scene.paper) + 1 + number % 7) % len(papers)]
        source, true = render(scene), render(replace(scene, paper=paper))
        edited = np.full_like(source, 0) + np.array(PAPERS[paper], np.uint8)
        mask = render(replace(scene, ink="black", paper="white")).mean(axis=2) < 135
        alpha = share_by_distance(mask)[..., None]
        results = {
            "hard": paste_object(source, edited, mask),
            "by distance": np.rint(alpha * core_colours(source, mask) + (1 - alpha) * edited).astype(np.uint8),
            "soft": paste_softly(source, edited, mask),
            "dilated": merge_background(source, grown(mask, 2), edited),
        }
        around = grown(mask, 2)
        for name, result in results.items():
            wrong[name].append(float(np.abs(result[around].astype(float) - true[around]).mean()))
            halo[name].append(halo_share(source, result, mask))
    levels = {name: float(np.mean(values)) for name, values in wrong.items()}
    shares = {name: float(np.mean(values)) for name, values in halo.items()}
    assert levels["soft"] < 3.5 < 5 < min(levels["hard"], levels["by distance"]), levels
    assert shares["soft"] < 0.005 < 0.05 < shares["hard"] < 0.2 < 0.6 < shares["dilated"], shares


def test_the_share_is_that_of_the_pixels_around_the_object() -> None:
    source, edited, mask = drawn(OLD), np.full((64, 64, 3), NEW, np.uint8), disc(64, 14)
    half = paste_softly(source, edited, mask)
    wide = merge_background(source, grown(mask, 2), edited)
    half[:, :32] = wide[:, :32]
    assert halo_share(source, half, mask) == pytest.approx(halo_share(source, wide, mask) / 2, abs=0.05)


@pytest.mark.parametrize("is_object", [True, False])
def test_an_image_that_is_all_object_or_none_has_no_halo(is_object: bool) -> None:
    assert halo_share(picture(9, 9, 0), picture(9, 9, 1), np.full((9, 9), is_object)) == 0


@given(SIDES, SIDES, SEEDS, st.integers(1, 4))
def test_the_share_is_between_0_and_1_for_any_picture(height: int, width: int, seed: int, rim_px: int) -> None:
    source, result = picture(height, width, seed), picture(height, width, seed + 1)
    assert 0 <= halo_share(source, result, blot(height, width, seed, 0.05), rim_px) <= 1
