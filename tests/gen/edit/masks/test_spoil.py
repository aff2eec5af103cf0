"""Masks that are made worse on purpose: what each way keeps of a mask, and that seeds decide the rest."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from gen.edit.masks.masker import Mask, Masker, Source, made_worse
from gen.edit.masks.pixels import dilate
from gen.edit.masks.spec import MaskSpec, mask_digest
from gen.edit.masks.spoil import SpoilSpec, overlap, spoil
from tests.gen.edit.masks.test_pixels import MASKS, disc, square

SEEDS = st.integers(0, 2**63 - 1)
SPOILS = st.one_of(
    st.builds(SpoilSpec, kind=st.sampled_from(["dilate", "shift"]), px=st.integers(1, 30)),
    st.just(SpoilSpec(kind="random")),
)
SHIFT, RANDOM = SpoilSpec(kind="shift", px=7), SpoilSpec(kind="random")
FIRST = "b682bed7d89d831f200fc8bef8f87d72c1ca34b768a01043cfff1be20f235fc6"
SECOND = "f1ec29273ee9f3e49205f6339cf7adfb8e216f4ebb12d7bc198967173d192beb"


def box(mask: np.ndarray) -> tuple[slice, slice]:
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


@settings(deadline=None, max_examples=60)
@given(MASKS, SPOILS, SEEDS)
def test_the_same_seed_makes_the_same_mask_and_leaves_its_own_alone(
    mask: np.ndarray, spec: SpoilSpec, seed: int
) -> None:
    before = mask.copy()
    worse = spoil(mask, spec, seed)
    assert worse.dtype == bool
    assert worse.shape == mask.shape
    assert (spoil(mask, spec, seed) == worse).all()
    assert (mask == before).all()


@settings(deadline=None, max_examples=100)
@given(MASKS, st.integers(1, 30), SEEDS)
def test_a_shift_keeps_the_shape_and_goes_no_farther_than_asked(mask: np.ndarray, px: int, seed: int) -> None:
    moved = spoil(mask, SpoilSpec(kind="shift", px=px), seed)
    assert moved.sum() == mask.sum()
    if mask.any():
        old, new = box(mask), box(moved)
        assert (mask[old] == moved[new]).all()
        way = np.hypot(new[0].start - old[0].start, new[1].start - old[1].start)
        assert way <= px + 0.71  # whole pixels


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 20), SEEDS, st.integers(0, 60), st.integers(0, 60))
def test_a_shift_with_room_goes_the_whole_way(px: int, seed: int, top: int, left: int) -> None:
    """The longest way of a square of 20 px in a picture of 80 px is 30 px or more, wherever it is."""
    mask = square(80, top, left, 20)
    old, new = box(mask), box(spoil(mask, SpoilSpec(kind="shift", px=px), seed))
    way = np.hypot(new[0].start - old[0].start, new[1].start - old[1].start)
    assert abs(way - px) <= 0.71


def test_shifts_go_in_all_directions() -> None:
    mask = disc(200, 100, 100, 20)
    ways = set()
    for seed in range(300):
        new = box(spoil(mask, SpoilSpec(kind="shift", px=20), seed))
        ways.add((new[0].start - 80, new[1].start - 80))
    assert len(ways) == 16
    assert {(0, 20), (0, -20), (20, 0), (-20, 0)} < ways


@settings(deadline=None, max_examples=100)
@given(MASKS, SEEDS)
def test_a_blob_has_the_area_of_the_mask_to_the_pixel(mask: np.ndarray, seed: int) -> None:
    assert spoil(mask, RANDOM, seed).sum() == mask.sum()


@settings(deadline=None, max_examples=40)
@given(st.integers(40, 1500), SEEDS)
def test_a_blob_knows_the_area_alone(area: int, seed: int) -> None:
    masks = [np.zeros(64 * 64, bool) for _ in range(2)]
    masks[0][:area], masks[1][-area:] = True, True
    one, other = (spoil(mask.reshape(64, 64), RANDOM, seed) for mask in masks)
    assert (one == other).all()


def test_blobs_are_of_one_piece_lie_everywhere_and_differ() -> None:
    blobs = [spoil(disc(64, 32, 32, 14), RANDOM, seed) for seed in range(200)]
    assert {cv2.connectedComponents(blob.astype(np.uint8))[0] for blob in blobs} == {2}  # with what is no blob
    assert len({blob.tobytes() for blob in blobs}) == 200
    assert np.any(blobs, axis=0).mean() > 0.85  # not in the corners


@settings(deadline=None, max_examples=60)
@given(MASKS, st.integers(1, 8), SEEDS)
def test_a_dilated_mask_is_grown_by_so_much_to_each_side_whatever_the_seed(
    mask: np.ndarray, px: int, seed: int
) -> None:
    spec = SpoilSpec(kind="dilate", px=px)
    assert (spoil(mask, spec, seed) == dilate(mask, 2 * px + 1)).all()
    assert (spoil(square(60, 20, 25, 6), spec, seed) == square(60, 20 - px, 25 - px, 6 + 2 * px)).all()


def test_the_overlap_is_that_of_geometry() -> None:
    assert overlap(square(40, 0, 0, 10), square(40, 5, 0, 10)) == pytest.approx(50 / 150)
    assert overlap(square(40, 0, 0, 10), square(40, 20, 20, 10)) == 0
    assert overlap(np.zeros((3, 3), bool), np.zeros((3, 3), bool)) == 1


# in a spec


def found_by(spec: MaskSpec, mask: np.ndarray) -> Mask:
    def find(image: np.ndarray, source: Source) -> np.ndarray:
        return mask

    image = np.zeros((*mask.shape, 3), np.uint8)
    return Masker(spec, {"otsu": find}).masks([image], ["crane"], ["bird"], ["key"])[0]


def test_a_mask_that_was_made_worse_keeps_the_found_one_beside_it() -> None:
    spec = MaskSpec(order=("otsu",), dilate_px=5, spoil=SHIFT)
    found = found_by(spec, disc(80, 40, 40, 15))
    worse = made_worse(found, spec, 3)
    assert (worse.mask_HW == spoil(disc(80, 40, 40, 15), SHIFT, 3)).all()
    assert (worse.found_HW == disc(80, 40, 40, 15)).all()
    assert (worse.wide_HW == dilate(worse.mask_HW, 5)).all()
    assert (worse.how, worse.status, worse.area) == (found.how, found.status, found.area)


def test_without_it_and_without_a_mask_nothing_changes() -> None:
    plain, spec = MaskSpec(order=("otsu",)), MaskSpec(order=("otsu",), spoil=SHIFT)
    found, none = found_by(plain, disc(80, 40, 40, 15)), found_by(spec, disc(80, 40, 40, 1))
    assert made_worse(found, plain, 3) is found
    assert found.found_HW is None
    assert none.mask_HW is None
    assert made_worse(none, spec, 3) is none


def test_the_limits_are_those_of_the_mask_that_was_found() -> None:
    spec = MaskSpec(order=("otsu",), greatest_area=0.3, spoil=SpoilSpec(kind="dilate", px=40))
    worse = made_worse(found_by(spec, disc(80, 40, 40, 20)), spec, 0)
    assert worse.area == 1


def test_the_digest_is_as_it_was_without_it_and_another_with_each() -> None:
    """A data set that was begun before there was this field can be continued."""
    assert mask_digest(MaskSpec(order=("otsu",))) == FIRST
    assert mask_digest(MaskSpec(order=("otsu", "whole"), dilate_px=5, contour="all")) == SECOND
    spoils = [None, SHIFT, RANDOM, SpoilSpec(kind="shift", px=8), SpoilSpec(kind="dilate", px=7)]
    assert len({mask_digest(MaskSpec(order=("otsu",), spoil=one)) for one in spoils}) == len(spoils)


@pytest.mark.parametrize("fields", [{"kind": "shift"}, {"kind": "dilate"}, {"kind": "random", "px": 3}])
def test_a_length_that_does_not_fit_its_kind_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=r"px: found .* for kind"):
        SpoilSpec.model_validate(fields)
