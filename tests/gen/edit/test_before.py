"""What the gallery shows of an edited set: source and mask beside each edit, the judge in words; and what is left where
the sources are gone."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen.edit.before import edits_of
from gen.edit.masks.stored import mask_of_rle
from shards.disk.jpeg import decode_jpeg, encode_jpeg
from shards.disk.store import open_for_reading
from shards.gallery_page import gallery_page
from shards.views.edit_view import Edits
from tests.shards.views.test_gallery import Page
from tests.support.small_edits import MODELS, NAMES, edit, jpegs, recipe_of, rows, source_of, write_classes, write_real

# diffusers' own, under NumPy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

HOW = {
    "kind": "attribute",
    "attributes": {"kinds": ["background", "colour"], "feasibility": "mixed", "lexicon": "sandbox"},
    "masks": {"order": ["otsu"]},
    "judge": {"kind": "clip", "clip": {"model": str(MODELS / "clip")}, "threshold": 0.5, "budget": 2},
}


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_real(tmp_path_factory.mktemp("real") / "set")


@pytest.fixture(scope="module")
def edited(real: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folds of two sources of each class, whose judge rejects some."""
    folder = tmp_path_factory.mktemp("edited")
    body = recipe_of(real, write_classes(folder / "classes.csv"), HOW)
    assert edit(body, folder / "out", 2, source={"per_class": 2}).exit_code in (0, 3)
    return folder / "out"


@pytest.fixture(scope="module")
def pages(edited: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gallery_page(str(edited), tmp_path_factory.mktemp("pages") / "gallery").parent


@pytest.fixture(scope="module")
def edits(edited: Path) -> Iterator[Edits]:
    with edits_of(open_for_reading(str(edited))) as found:
        assert found is not None
        yield found


def kept(out: Path, class_id: int) -> list[dict[str, Any]]:
    return [row for row in rows(out) if row["status"] == "success" and row["class_id"] == class_id]


def text_of(page: Page) -> str:
    return " ".join(" ".join(page.texts).split())


def moved(edited: Path, real: Path, to: Path, place: str) -> Path:
    """A copy of the set whose recipe names another place of its sources."""
    shutil.copytree(edited, to)
    recipe = to / "_meta" / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace(str(real), place))
    return to


def test_source_mask_and_edit_stand_side_by_side(edited: Path, real: Path, pages: Path) -> None:
    for class_id in NAMES:
        made = kept(edited, class_id)
        assert made
        shown = Page(pages / f"class-{class_id:04d}.html").values("img", "src")
        assert len(shown) == 3 * len(made)
        for row, source, mask, image in zip(made, shown[::3], shown[1::3], shown[2::3], strict=True):
            of_source = decode_jpeg((pages / source).read_bytes()).astype(np.int16)
            assert np.abs(of_source - decode_jpeg(source_of(real, row)[1])).mean() < 6
            is_object = decode_jpeg((pages / mask).read_bytes())[..., 1] > 128
            assert (is_object == mask_of_rle(json.dumps(json.loads(row["edit"])["mask"]["rle"]))).mean() > 0.99
            assert image.endswith(f"{row['key']}.jpg")


def test_edits_of_one_source_share_its_small_copy(edited: Path, pages: Path) -> None:
    sources = {row["url"] for class_id in NAMES for row in kept(edited, class_id)}
    assert len(list(pages.glob("__thumbs/sources/*.jpg"))) == len(sources)


def test_a_card_says_attribute_and_side_and_what_the_judge_said(edited: Path, pages: Path) -> None:
    for class_id in NAMES:
        text = text_of(Page(pages / f"class-{class_id:04d}.html"))
        for row in kept(edited, class_id):
            told = json.loads(row["edit"])
            judge = told["judge"]
            right = round(judge["score"] * judge["asked"])
            assert f"attribute {told['attribute']} kind {told['kind']} side {told['side']} mask " in text
            assert f"judge {right} of {judge['asked']}" in text
            for answer in judge["answers"]:
                as_expected = "as expected" if answer["answer"] == answer["expected"] else "not as expected"
                assert f"{answer['question']} {answer['answer'].capitalize()}, {as_expected}." in text


def test_one_can_look_at_one_side_or_one_kind_alone_where_there_are_several(edited: Path, pages: Path) -> None:
    several = set()
    for class_id in NAMES:
        told = [json.loads(row["edit"]) for row in kept(edited, class_id)]
        wanted = {
            name for name, field in (("altered", "kind"), ("side", "side")) if len({one[field] for one in told}) > 1
        }
        page = Page(pages / f"class-{class_id:04d}.html")
        assert set(page.values("select", "name")) == wanted
        assert {one[field] for one in told for field in ("kind", "side")} <= set(page.texts)
        several |= wanted
    assert "side" in several


def test_a_rejected_edit_says_which_answers_were_wrong(edited: Path, pages: Path) -> None:
    rejected = [row for row in rows(edited) if row["status"] == "rejected"]
    assert rejected, "the judge rejects some"
    text = text_of(Page(pages / "rejected.html"))
    for row in rejected:
        wrong = [one for one in json.loads(row["edit"])["judge"]["answers"] if one["answer"] != one["expected"]]
        assert f"{wrong[0]['question']} {wrong[0]['answer'].capitalize()}, not as expected." in text


@pytest.mark.parametrize("place", ["nowhere/real", "s3://bucket/real", ""])
def test_without_its_sources_a_page_says_so_and_shows_mask_and_edit(
    edited: Path, real: Path, tmp_path: Path, place: str
) -> None:
    pages = gallery_page(
        str(moved(edited, real, tmp_path / "out", place or str(tmp_path))), tmp_path / "gallery"
    ).parent
    page = Page(pages / "class-0001.html")
    assert len(page.values("img", "src")) == 2 * len(kept(edited, 1))
    assert f"Without their sources: {place or tmp_path}" in text_of(page)
    assert "Real pictures are not shown: " in text_of(Page(pages / "index.html"))


def of_folder(folder: Path) -> None:
    """Edits in `folder / "out"` of an image folder, `folder / "real"`."""
    for number, (class_id, jpeg) in enumerate(jpegs()):
        file = folder / "real" / NAMES[class_id] / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(jpeg)
    body = recipe_of(folder / "real", write_classes(folder / "classes.csv"), {"kind": "perturb", "gamma": 0})
    assert edit(body, folder / "out").exit_code == 0


def test_sources_are_shown_after_their_set_has_more_or_fewer_pictures(tmp_path: Path) -> None:
    of_folder(tmp_path)
    folder, made = tmp_path / "real", rows(tmp_path / "out")

    def found() -> list[str]:
        with edits_of(open_for_reading(str(tmp_path / "out"))) as edits:
            assert edits is not None
            sources = [edits.of({**row, "edit": None}).source() for row in made]
        return ["" if isinstance(source, np.ndarray) else str(source) for source in sources]

    for class_id, jpeg in jpegs():
        (folder / NAMES[class_id] / "00-added.jpg").write_bytes(jpeg)
    assert found() == [""] * len(made)
    gone = made[0]["url"].partition("#")[0]
    (folder / gone).unlink()
    assert found() == [f"cannot be read: it is no longer in {folder}" if row is made[0] else "" for row in made]


def test_a_source_with_other_bytes_is_not_shown_and_the_others_are(tmp_path: Path) -> None:
    of_folder(tmp_path)
    folder = tmp_path / "real"
    row = kept(tmp_path / "out", 1)[0]
    changed = folder / row["url"].partition("#")[0]
    changed.write_bytes(encode_jpeg(np.zeros((64, 64, 3), np.uint8), source_type=None))
    page = Page(gallery_page(str(tmp_path / "out"), tmp_path / "gallery").parent / "class-0001.html")
    made = kept(tmp_path / "out", 1)
    assert len(page.values("img", "src")) == 2 * len(made) - 1
    assert text_of(page).count("has other bytes now than when it was edited") == 1
    shown = {Path(address).stem for address in page.values("img", "src") if "/sources/" in address}
    assert shown == {one["url"].partition("#sha256=")[2][:32] for one in made[1:]}
    changed.unlink()
    page = Page(gallery_page(str(tmp_path / "out"), tmp_path / "gallery").parent / "class-0001.html")
    assert len(page.values("img", "src")) >= len(made)
    assert len(re.findall("Without their sources|cannot be read|other bytes", text_of(page))) >= 1


MASK_WORDS = ("rle", "how", "area", "spoil", "iou")
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(MASK_WORDS), inner, max_size=3),
    max_leaves=6,
)
ANSWERS = st.lists(st.dictionaries(st.sampled_from(["question", "answer", "expected", "reason"]), VALUES), max_size=3)
JUDGES = st.fixed_dictionaries({}, optional={"score": VALUES, "asked": VALUES, "answers": ANSWERS | VALUES})
NAMED = ("attribute", "kind", "side", "mask", "halo")
TOLD = st.fixed_dictionaries({}, optional={**dict.fromkeys(NAMED, VALUES), "judge": JUDGES | VALUES})


@given(TOLD.map(json.dumps) | st.text(max_size=20) | st.none(), st.none() | st.text(max_size=20))
def test_whatever_a_row_says_of_its_edit_it_can_be_shown(edits: Edits, text: str | None, url: str | None) -> None:
    found = edits.of({"edit": text, "url": url, "class_id": 0})
    assert all(isinstance(word, str) for fact in found.facts for word in fact)
    mask_HW = found.mask()
    assert mask_HW is None or mask_HW.dtype == np.bool_
    assert found.source() == "no such source in _meta/sources.parquet"


def test_a_mask_that_was_made_worse_on_purpose_says_so(edits: Edits) -> None:
    mask = {"how": "otsu", "area": 0.25, "spoil": {"kind": "shift", "px": 8, "iou": 0.307}}
    facts = dict(edits.of({"edit": json.dumps({"mask": mask}), "url": "", "class_id": 0}).facts)
    assert facts["mask"] == (
        "25.0% of the picture, by otsu, made worse on purpose (shift): overlap with the found one 0.31"
    )
    del mask["spoil"]
    facts = dict(edits.of({"edit": json.dumps({"mask": mask}), "url": "", "class_id": 0}).facts)
    assert facts["mask"] == "25.0% of the picture, by otsu"


def test_a_mask_that_a_row_has_no_room_for_is_told_in_words(edits: Edits) -> None:
    mask = {"how": "otsu", "area": 0.5, "left_out": "72,118 bytes"}
    found = edits.of({"edit": json.dumps({"mask": mask}), "url": None, "class_id": 0})
    assert ("mask", "50.0% of the picture, by otsu; too large for a row (72,118 bytes)") in found.facts
    assert found.mask() is None


def test_a_set_of_another_verb_has_no_edits(real: Path) -> None:
    with edits_of(open_for_reading(str(real))) as edits:
        assert edits is None
