"""The picture without its light: found again under another one, resized, re-encoded; others are not like it."""

import cv2
import numpy as np
import pytest

from gen.model.nearest import nearest
from retrieve.dedup.picture import TEST_ABOVE, describe_pictures
from shards.disk.jpeg import decode_jpeg, encode_jpeg
from tests.support.picture_set import in_other_light, scenes

SCENES = scenes(40)


def resized(image, side):
    return cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)


@pytest.mark.parametrize(
    "change",
    [
        in_other_light,
        lambda image: resized(image, 48),
        lambda image: resized(image, 200),
        lambda image: cv2.resize(image, (96, 64), interpolation=cv2.INTER_AREA),
        lambda image: decode_jpeg(encode_jpeg(image, quality=60, source_type=None)),
        lambda image: (255 * (image / 255) ** 0.8).astype(np.uint8),
    ],
    ids=["light", "smaller", "larger", "squeezed", "JPEG 60", "gamma"],
)
def test_a_picture_is_found_again_after(change):
    number, found = nearest(describe_pictures([change(image) for image in SCENES]), describe_pictures(SCENES))
    assert number.tolist() == list(range(len(SCENES)))
    assert found.min() > TEST_ABOVE


@pytest.mark.parametrize(
    "change", [lambda image: image[6:-6, 6:-6], lambda image: image[:, ::-1]], ids=["crop", "mirror"]
)
def test_what_its_description_says_it_does_not_find(change):
    _, found = nearest(describe_pictures([change(image) for image in SCENES]), describe_pictures(SCENES))
    assert found.max() < TEST_ABOVE


def test_other_pictures_are_not_like_it():
    _, found = nearest(describe_pictures(scenes(150, seed=1)), describe_pictures(SCENES))
    assert found.max() < TEST_ABOVE - 0.2


def test_a_flat_picture_is_like_nothing_not_even_itself():
    rows = describe_pictures([np.full((50, 70, 3), level, np.uint8) for level in (0, 128, 255)])
    assert not rows.any()


def test_rows_have_length_one_and_do_not_depend_on_their_batch():
    rows = describe_pictures(SCENES)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)
    assert np.array_equal(rows[7], describe_pictures(SCENES[7:8])[0])


def test_a_shadow_that_moves_slowly_changes_less_than_a_stroke():
    """The descriptor sees what a plain comparison of pixels does not."""
    page = SCENES[0]
    stroke = page.copy()
    stroke[28:36, 4:60] = 20
    lit = in_other_light(page)
    plain = [float(np.abs(other.astype(float) - page).mean()) for other in (lit, stroke)]
    rows = describe_pictures([page, lit, stroke])
    assert plain[0] > plain[1]
    assert rows[0] @ rows[1] > rows[0] @ rows[2]
