"""Masks of images: ways one after the other, limits, files, and what every failure says; with scripted finders."""

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

import gen.edit.masks.files
from cluster.process.exit import NotAgain
from gen.edit.masks.masker import NO_MASK, Mask, Masker, NoMask, Source, by_otsu, by_text, grounded
from gen.edit.masks.networks import Found
from gen.edit.masks.pixels import dilate
from gen.edit.masks.spec import MaskSpec, asked_text, mask_digest, mask_folders
from gen.edit.masks.stored import encode_mask
from shards.disk.layout import SUCCESS
from shards.disk.pictures import MAX_PICTURE_BYTES
from shards.disk.safe_text import visible
from tests.gen.edit.masks.test_pixels import disc, square

SIDE = 80


def picture(mask: np.ndarray, ink: int = 30, paper: int = 220) -> np.ndarray:
    return np.repeat(np.where(mask, ink, paper).astype(np.uint8)[..., None], 3, axis=2)


def one(masker: Masker, image: np.ndarray, name: str = "crane", kind: str = "bird", key: str = "a") -> Mask:
    [mask] = masker.masks([image], [name], [kind], [key])
    return mask


def refused(**fields: object) -> str:
    with pytest.raises(ValidationError) as caught:
        MaskSpec(**fields)  # type: ignore[arg-type]
    [mistake] = caught.value.errors()
    assert "\n" not in mistake["msg"]
    return mistake["msg"]


GROUNDED = {"order": ("grounded",), "detector": "d", "sam": "s"}


def scripted(
    spec: MaskSpec, discs: list[tuple[float, float, float]], scores: list[float], told: list[str] | None = None
) -> Masker:
    """The ways of the order, with a detector that knows the true boxes and a segmenter that fills a disc into each."""
    boxes = np.array([(c - r, y - r, c + r, y + r) for y, c, r in discs], np.float32).reshape(-1, 4)

    def boxes_of(image: np.ndarray, text: str) -> Found:
        if told is not None:
            told.append(text)
        order = np.argsort(scores)[::-1]
        return Found(np.array(scores, np.float32)[order], boxes[order])

    def masks_of(image: np.ndarray, box_N4: np.ndarray) -> np.ndarray:
        return np.stack([disc(SIDE, (t + b) / 2, (lo + hi) / 2, (b - t) / 2) for lo, t, hi, b in box_N4.tolist()])

    return Masker(spec, {"grounded": grounded(spec, boxes_of, masks_of), "otsu": by_otsu})


# grounded


def test_with_true_boxes_the_mask_is_the_object() -> None:
    true = disc(SIDE, 40, 30, 20)
    told: list[str] = []
    masker = scripted(MaskSpec(**GROUNDED), [(40, 30, 20)], [0.9], told)
    mask = one(masker, picture(true))
    assert (mask.how, mask.status, mask.reason) == ("grounded", SUCCESS, "")
    assert (mask.mask_HW == true).all()
    assert mask.area == np.count_nonzero(true) / SIDE**2
    assert told == ["A bird crane"]


def test_the_best_box_counts_or_all_of_them() -> None:
    discs, scores = [(20, 20, 12), (60, 60, 14)], [0.5, 0.8]
    best = one(scripted(MaskSpec(**GROUNDED), discs, scores), picture(disc(SIDE, 1, 1, 1)))
    assert (best.mask_HW == disc(SIDE, 60, 60, 14)).all()
    every = MaskSpec(**GROUNDED, instances="all", contour="all")
    both = one(scripted(every, discs, scores), picture(disc(SIDE, 1, 1, 1)))
    assert (both.mask_HW == (disc(SIDE, 20, 20, 12) | disc(SIDE, 60, 60, 14))).all()
    largest = one(scripted(MaskSpec(**GROUNDED, instances="all"), discs, scores), picture(disc(SIDE, 1, 1, 1)))
    assert (largest.mask_HW == disc(SIDE, 60, 60, 14)).all()


def test_without_a_box_the_next_way_is_tried_and_says_so() -> None:
    spec = MaskSpec(order=("grounded", "otsu"), detector="d", sam="s")
    true = square(SIDE, 20, 20, 30)
    mask = one(scripted(spec, [], []), picture(true))
    assert mask.how == "otsu"
    assert mask.reason == "grounded: found no box with a score above 0.4"
    assert np.count_nonzero(mask.mask_HW ^ true) <= 4 * 30


# text


def test_the_best_object_of_a_text_counts_or_all() -> None:
    asked: list[str] = []

    def masks_of(image: np.ndarray, text: str) -> np.ndarray:
        asked.append(text)
        return np.stack([square(SIDE, 5, 5, 20), square(SIDE, 40, 40, 30)])

    for instances, expected in (
        ("best", square(SIDE, 5, 5, 20)),
        ("all", square(SIDE, 5, 5, 20) | square(SIDE, 40, 40, 30)),
    ):
        spec = MaskSpec(order=("text",), text_model="t", phrase="{name} {kind}", instances=instances, contour="all")
        mask = one(Masker(spec, {"text": by_text(spec, masks_of)}), picture(expected), kind="")
        assert (mask.mask_HW == expected).all()
    assert asked == ["crane", "crane"]


# limits


def give(mask: np.ndarray, **fields: object) -> Mask:
    spec = MaskSpec(order=("segmenter",), segmenter="s", **fields)  # type: ignore[arg-type]
    return one(Masker(spec, {"segmenter": lambda image, source: mask}), picture(mask))


def test_a_mask_out_of_its_limits_is_a_failure_with_one_line() -> None:
    small = give(square(100, 10, 10, 3), least_area=0.01)
    assert (small.status, small.how, small.mask_HW, small.area) == (NO_MASK, None, None, 0.0)
    assert small.reason == "segmenter: found 0.09% of the image, expected 1.00% to 95.00%"
    large = give(np.ones((100, 100), bool))
    assert large.reason == "segmenter: found 100.00% of the image, expected 0.50% to 95.00%"
    assert give(square(100, 10, 10, 10), least_area=0.01).status == SUCCESS


def test_limits_are_asked_of_the_part_that_is_kept() -> None:
    crumbs = np.zeros((100, 100), bool)
    crumbs[::4, ::4] = True  # 6 % of the image, in crumbs of one pixel
    assert give(crumbs, contour="all").status == SUCCESS
    assert give(crumbs).status == NO_MASK


def test_the_wide_mask_is_grown_and_the_mask_is_not() -> None:
    mask = give(disc(SIDE, 40, 40, 20), dilate_px=12)
    assert (mask.mask_HW == disc(SIDE, 40, 40, 20)).all()
    assert (mask.wide_HW == dilate(disc(SIDE, 40, 40, 20), 12)).all()
    assert mask.area == np.count_nonzero(mask.mask_HW) / SIDE**2


def test_all_ways_that_failed_are_in_the_reason() -> None:
    def nothing(image: np.ndarray, source: Source) -> np.ndarray:
        raise NoMask(f"found nothing\nof {source.name} \x1b[31m")

    spec = MaskSpec(order=("text", "segmenter"), text_model="t", segmenter="s")
    mask = one(Masker(spec, {"text": nothing, "segmenter": nothing}), picture(square(SIDE, 0, 0, 9)))
    assert mask.status == NO_MASK
    assert mask.reason == "text: found nothing of crane; segmenter: found nothing of crane"


def test_the_whole_image_is_a_mask_whatever_the_limits() -> None:
    mask = one(Masker.load(MaskSpec(order=("otsu", "whole")), "cpu"), np.full((30, 40, 3), 90, np.uint8))
    assert (mask.how, mask.area, mask.mask_HW.shape) == ("whole", 1.0, (30, 40))
    assert mask.reason == "otsu: found no contrast with the colour at the border"


@settings(deadline=None, max_examples=20)
@given(st.lists(st.tuples(st.integers(8, 60), st.integers(8, 60), st.integers(6, 15)), min_size=1, max_size=5))
def test_a_mask_does_not_depend_on_the_others_of_its_call(discs: list[tuple[int, int, int]]) -> None:
    images = [picture(disc(SIDE, *one_of)) for one_of in discs]
    masker = Masker.load(MaskSpec(order=("otsu",)), "cpu")
    together = masker.masks(images, ["a"] * len(images), [""] * len(images), ["k"] * len(images))
    for image, mask in zip(images, together, strict=True):
        assert (one(masker, image).mask_HW == mask.mask_HW).all()


@pytest.mark.parametrize(
    "image", [np.zeros((8, 8, 3), np.float32), np.zeros((8, 8), np.uint8), np.zeros((0, 8, 3), np.uint8)]
)
def test_what_is_no_image_is_refused(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"^image: found .*, expected uint8 \[height, width, 3\]$"):
        one(Masker.load(MaskSpec(order=("whole",)), "cpu"), image)


# files


def of_files(folder: Path) -> Masker:
    return Masker.load(MaskSpec(order=("file",), masks=str(folder)), "cpu")


def test_masks_that_are_there_are_found_by_the_key(tmp_path: Path) -> None:
    first, second = disc(SIDE, 40, 40, 20), square(SIDE, 3, 3, 40)
    (tmp_path / "bird").mkdir()
    (tmp_path / "000000012.png").write_bytes(encode_mask(first))
    (tmp_path / "bird" / "x.y.png").write_bytes(encode_mask(second))
    masks = of_files(tmp_path).masks([picture(first)] * 2, ["", ""], ["", ""], ["000000012", "bird/x.y"])
    assert [mask.how for mask in masks] == ["file", "file"]
    assert (masks[0].mask_HW == first).all()
    assert (masks[1].mask_HW == second).all()


def test_a_file_that_is_missing_damaged_or_of_another_size_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "cut.png").write_bytes(encode_mask(disc(SIDE, 40, 40, 20))[:40])
    (tmp_path / "wide.png").write_bytes(encode_mask(np.ones((SIDE, SIDE + 1), bool)))
    (tmp_path / "folder.png").mkdir()
    masker = of_files(tmp_path)
    for key, told in (
        ("none", "file: found no file 'none.png'"),
        ("cut", "file: 'cut.png': mask: found no PNG that can be read"),
        ("wide", "file: 'wide.png': found 81 x 80 pixels, expected the image's 80 x 80"),
        ("folder", "file: found no file 'folder.png'"),
    ):
        mask = one(masker, picture(disc(SIDE, 40, 40, 20)), key=key)
        assert mask.status == NO_MASK
        assert mask.reason.startswith(told)


@pytest.mark.parametrize("key", ["../up", "a/../../up", "/up", "", ".", "a//b", "./a", "a/"])
def test_a_key_never_leads_out_of_the_folder(tmp_path: Path, key: str) -> None:
    data = encode_mask(np.ones((SIDE, SIDE), bool))
    for place in (tmp_path / "up.png", tmp_path / "masks" / "a.png"):
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(data)
    mask = one(of_files(tmp_path / "masks"), picture(disc(SIDE, 40, 40, 20)), key=key)
    assert mask.status == NO_MASK
    assert mask.reason.startswith("file: found no file ")


@pytest.mark.parametrize("name", [".hidden", "...dot", ".folder/a", "a b", "x\u200by", "w#sha256=dead", "n\udcff"])
def test_a_mask_is_found_whatever_its_sources_name(tmp_path: Path, name: str) -> None:
    file, true = tmp_path / f"{name}.png", disc(SIDE, 40, 40, 20)
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(encode_mask(true))
    mask = one(of_files(tmp_path), picture(true), key=visible(name))
    assert (mask.how, mask.reason) == ("file", "")


def test_two_masks_whose_names_are_one_to_see_are_refused(tmp_path: Path) -> None:
    for name in ("x\u200by", "x⟨U+200B⟩y"):
        (tmp_path / f"{name}.png").write_bytes(encode_mask(disc(SIDE, 40, 40, 20)))
    with pytest.raises(ValueError, match=r"found two masks whose names are one to see, 'x.*y\.png', expected one"):
        mask_digest(MaskSpec(order=("file",), masks=str(tmp_path)))


@pytest.mark.parametrize("key", ["a\0b", "\ud800", "x" * 5000, "a\nb", "no/such/folder"])
def test_a_key_that_no_file_has_is_a_failure_in_one_line(tmp_path: Path, key: str) -> None:
    mask = one(of_files(tmp_path), picture(disc(SIDE, 40, 40, 20)), key=key)
    assert mask.status == NO_MASK
    assert mask.reason.startswith("file: ")
    assert len(mask.reason) < 300
    assert "\n" not in mask.reason


def test_a_disk_that_fails_for_a_moment_ends_the_attempt_and_changes_no_mask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither is there no mask, nor has the next way its turn: tried again, the row is what it would have been."""
    true = square(SIDE, 20, 20, 30)
    (tmp_path / "a.png").write_bytes(encode_mask(true))
    for order in (("file",), ("file", "otsu")):
        masker = Masker.load(MaskSpec(order=order, masks=str(tmp_path)), "cpu")
        with monkeypatch.context() as failing:

            def stale(path: Path, *told: object) -> bytes:
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))

            failing.setattr(gen.edit.masks.files, "read_regular", stale)
            with pytest.raises(OSError, match=os.strerror(errno.ESTALE)):
                one(masker, picture(true))
        assert one(masker, picture(true)).how == "file"


def test_a_mask_that_is_gone_or_another_one_than_when_the_run_began_stops_it(tmp_path: Path) -> None:
    file, true = tmp_path / "a.png", square(SIDE, 20, 20, 30)
    before = encode_mask(true)
    file.write_bytes(before)
    masker = Masker.load(MaskSpec(order=("file", "otsu"), masks=str(tmp_path)), "cpu")
    file.unlink()
    told = r"^edit\.masks\.masks: 'a\.png': found {} below .*, expected the mask of when the run began; bring"
    with pytest.raises(NotAgain, match=told.format("no such file")):
        one(masker, picture(true))
    file.write_bytes(encode_mask(square(SIDE, 20, 20, 31)))
    with pytest.raises(NotAgain, match=told.format("other bytes")):
        one(masker, picture(true))
    file.write_bytes(before)
    assert one(masker, picture(true)).how == "file"
    (tmp_path / "b.png").write_bytes(before)
    late = one(masker, picture(true), key="b")
    assert (late.how, late.reason) == ("otsu", "file: found no file 'b.png'"), "it was not there when the run began"


def test_a_file_that_is_too_large_for_a_mask_is_refused_before_a_run_begins(tmp_path: Path) -> None:
    with open(tmp_path / "a.png", "wb") as file:
        file.truncate(MAX_PICTURE_BYTES + 1)
    with pytest.raises(ValueError, match=r"a\.png': found 268,435,457 bytes, expected at most 268,435,456; make it"):
        mask_digest(MaskSpec(order=("file",), masks=str(tmp_path)))


# the spec


def test_a_way_without_what_it_needs_is_refused() -> None:
    assert "detector: found none, expected a folder or a hub id; the way grounded needs it" in refused(
        order=["grounded"]
    )
    assert "masks: found none" in refused(order=["otsu", "file"])
    assert "expected each way once" in refused(order=["otsu", "otsu"])
    assert "at least 1" in refused(order=[])
    assert "least_area: found 0.5 with greatest_area 0.5, expected less" in refused(
        order=["otsu"], least_area=0.5, greatest_area=0.5
    )
    assert "a polygon is of the largest part" in refused(order=["otsu"], contour="all", polygon_px=2)
    for query in ("a {colour} {name}", "a bird", "{}{name}", "{name"):
        assert "expected the slot {name}, perhaps {kind}, and no other" in refused(order=["otsu"], query=query)


def test_a_text_is_filled_once_and_an_empty_kind_leaves_no_gap() -> None:
    assert asked_text("A {kind} {name}", "pug", "dog") == "A dog pug"
    assert asked_text("A {kind} {name}", "pug", "") == "A pug"
    assert asked_text("A {kind} {name}", "{kind}", "{name}") == "A {name} {kind}"


def test_a_folder_of_masks_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"^edit\.masks\.masks '.*none': found no such folder, expected one with <key>"
    ):
        mask_folders(MaskSpec(order=("file",), masks=str(tmp_path / "none")))


def test_the_digest_is_of_what_decides_the_masks(tmp_path: Path) -> None:
    folder = tmp_path / "masks"
    folder.mkdir()
    (folder / "a.png").write_bytes(encode_mask(disc(SIDE, 40, 40, 20)))
    spec = MaskSpec(order=("file", "otsu"), masks=str(folder))
    first = mask_digest(spec)
    assert len(first) == 64
    assert mask_digest(spec.model_copy(update={"score_threshold": 0.9})) == first  # of a way that is not tried
    moved = folder.rename(tmp_path / "moved")
    assert mask_digest(MaskSpec(order=("file", "otsu"), masks=str(moved))) == first
    for change in ({"order": ("otsu", "file")}, {"least_area": 0.1}, {"contour": "all"}, {"dilate_px": 3}):
        assert mask_digest(MaskSpec(**{"order": ("file", "otsu"), "masks": str(moved), **change})) != first
    (moved / "a.png").write_bytes(encode_mask(disc(SIDE, 40, 40, 21)))
    assert mask_digest(MaskSpec(order=("file", "otsu"), masks=str(moved))) != first


def test_the_digest_is_of_masks_behind_linked_folders_and_files_too(tmp_path: Path) -> None:
    """What decides a mask is never left out: a link to a folder, one in it to another, a link to a file."""
    for place in ("masks", "else", "far"):
        (tmp_path / place).mkdir()
    (tmp_path / "masks" / "cat").symlink_to(tmp_path / "else")
    (tmp_path / "else" / "old").symlink_to(tmp_path / "far")
    (tmp_path / "masks" / "b.png").symlink_to(tmp_path / "far" / "b.png")
    spec = MaskSpec(order=("file",), masks=str(tmp_path / "masks"))
    files = {
        "cat/a": tmp_path / "else" / "a.png",
        "cat/old/c": tmp_path / "far" / "c.png",
        "b": tmp_path / "far" / "b.png",
    }
    for file in files.values():
        file.write_bytes(encode_mask(disc(SIDE, 40, 40, 20)))
    digests = {mask_digest(spec)}
    for number, (key, file) in enumerate(files.items(), 1):
        mask = disc(SIDE, 40, 40, 30)
        file.write_bytes(encode_mask(mask))
        found = one(of_files(tmp_path / "masks"), picture(mask), key=key).mask_HW
        assert found is not None
        assert (found == mask).all()
        digests.add(mask_digest(spec))
        assert len(digests) == number + 1


@pytest.mark.parametrize("place", ["", "cat", "cat/old"])
def test_a_folder_of_masks_that_cannot_be_read_is_named_and_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    (tmp_path / "cat" / "old").mkdir(parents=True)
    scandir = os.scandir

    def without_rights(path: str) -> Any:
        if Path(path) == tmp_path / place:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", without_rights)
    told = rf"^edit\.masks\.masks: '{tmp_path / place}': Permission denied; make it a file or a folder that can be read"
    with pytest.raises(ValueError, match=told):
        mask_digest(MaskSpec(order=("file",), masks=str(tmp_path)))


def test_a_link_to_a_folder_above_it_and_one_that_leads_nowhere_are_refused(tmp_path: Path) -> None:
    spec = MaskSpec(order=("file",), masks=str(tmp_path))
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "up").symlink_to(tmp_path)
    with pytest.raises(
        ValueError, match=r"found more than .* folders in each other, expected fewer; look for a link to"
    ):
        mask_digest(spec)
    (tmp_path / "cat" / "up").unlink()
    (tmp_path / "cat" / "a.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(ValueError, match=r"cat/a\.png': found a link that leads nowhere, expected a file; make it"):
        mask_digest(spec)
