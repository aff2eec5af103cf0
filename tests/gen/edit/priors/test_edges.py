"""The edges of an object: where its outline is, and nowhere else."""

import numpy as np

from gen.edit.priors.edges import edge_image, thresholds
from tests.support.random_pictures import blot, disc, grown, picture


def test_the_thresholds_are_seven_tenths_of_the_median_of_the_blurred_object_on_white_and_255() -> None:
    image, mask = picture(20, 30, 1), blot(20, 30, 1, share=0.8)
    on_white = np.where(mask[..., None], image, 255).astype(float)
    padded = np.pad(on_white, ((2, 2), (2, 2), (0, 0)), "reflect")
    blurred = sum(padded[y : y + 20, x : x + 30] for y in range(5) for x in range(5)) / 25
    low, high = thresholds(image, mask)
    assert abs(low - 0.7 * float(np.median(np.rint(blurred)))) <= 0.7
    assert high == 255


def test_a_small_object_has_the_threshold_of_white_paper() -> None:
    assert thresholds(picture(40, 40, 0), disc(40, 5))[0] == 0.7 * 255


def test_the_edges_of_a_dark_disc_are_its_rim() -> None:
    mask = disc(64, 20)
    image = np.full((64, 64, 3), 200, np.uint8)
    image[mask] = (30, 20, 90)
    edges = edge_image(image, mask)
    assert set(np.unique(edges)) == {0, 255}
    assert (edges == edges[..., :1]).all()
    is_edge = edges[..., 0] > 0
    rim = grown(mask, 2) & grown(~mask, 2)
    assert is_edge.sum() > 80
    assert not is_edge[~rim].any()


def test_what_is_outside_the_mask_has_no_edges() -> None:
    mask = disc(64, 20)
    image = picture(64, 64, 0)
    image[mask] = 10
    on_white = np.full((64, 64, 3), 255, np.uint8)
    on_white[mask] = 10
    assert np.array_equal(edge_image(image, mask), edge_image(on_white, mask))
