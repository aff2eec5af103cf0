"""Edits of one attribute: what changes, what must not, and who has the last word. Scripted model and judge on real
pictures and masks; at the end a recipe with the sandbox's own models."""

import json
import os
import random
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

import gen.edit.alter
import gen.edit.masks.files
import shards
import sixfold
from cluster.process.exit import NotAgain
from cluster.recipes.load import load_recipe
from gen.edit.alter import Alter
from gen.edit.attributes.attribute import Attribute
from gen.edit.editors.editor import Own
from gen.edit.judge.judge import Judged, JudgeLost
from gen.edit.judge.question import Question
from gen.edit.judge.verdict import Answered, Verdict, verdict_of
from gen.edit.masks.masker import Mask
from gen.edit.masks.spoil import overlap
from gen.edit.masks.stored import encode_mask, rle_of
from gen.edit.priors.paste import core_of
from gen.edit.recipe import AttributeEditSpec, EditRecipe, edit_identity
from gen.edit.remake import regenerate_edits
from gen.edit.run import edit_job_of, find_work
from gen.edit.worker import make_edit_worker
from gen.make.refill import UnitWorker
from gen.make.regenerate import regenerate_some
from gen.names.kind import kind_of
from gen.prompts.table import PromptTable
from gen.sampler.sampler import Request, Sampled
from gen.sampler.start import Start
from shards.disk.jpeg import decode_jpeg, encode_jpeg
from shards.disk.store import open_for_reading, open_store
from shards.labels.classes import Class
from shards.set.manifest import scan_records
from shards.set.verify import verify
from shards.set.writer import MAX_TEXT_BYTES
from tests.gen.edit.test_sources import write_tars
from tests.support import warm
from tests.support.alter_makers import alter_of, attribute, made_by, mask_of, table_of
from tests.support.painter import FINGERPRINT, no_beat
from tests.support.small_edits import (
    EACH,
    MODELS,
    NAMES,
    all_bytes,
    edit,
    jpegs,
    pixels,
    recipe_of,
    rows,
    source_of,
    write_classes,
    write_real,
)

# diffusers' own, under NumPy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

GREEN = (20, 230, 40)
PAINT = np.array([255, 0, 255], np.uint8)
PLACES = tuple(attribute("background", name, GREEN) for name in ("moss", "slime", "grass", "lime", "leaf"))
INKS = tuple(attribute("colour", name, GREEN) for name in ("moss ink", "lime ink"))
DRAWN = (attribute("background", "brick wall", None),)
WEAVES = (attribute("texture", "woven wool", None),)


class PaintingModel:
    """Paints what may change in one colour; without a start it draws stripes."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[Request], Start | None]] = []
        self.prepared: list[str] = []

    def prepare(self, texts: Sequence[str], negatives: Sequence[str]) -> None:
        self.prepared += texts

    def sample(self, requests: Sequence[Request], alive: Callable[[float], None], start: Start | None) -> Sampled:
        self.calls.append((list(requests), start))
        if start is None:
            stripes = np.zeros((len(requests), 64, 64, 3), np.uint8)
            stripes[:, ::2] = 200
            image_NHWC = stripes
        else:
            assert start.region_NHW is not None
            image_NHWC = np.where(start.region_NHW[..., None], PAINT, start.image_NHWC)
        every = np.ones(len(requests), bool)
        return Sampled(image_NHWC, every, ~every, wait=lambda timeout_s: None)


class ScriptedJudge:
    """Says of each image, by its number, how many of four questions it answers as expected."""

    def __init__(self, right: Callable[[int], int]) -> None:
        self.right = right
        self.seen: list[NDArray[np.uint8]] = []

    def answers(self, image_HWC: NDArray[np.uint8], questions: Sequence[Question]) -> Verdict:
        return self.verdicts([(image_HWC, questions)])[0]

    def verdicts(self, judged: Sequence[Judged]) -> list[Verdict]:
        told = []
        for image_HWC, questions in judged:
            right = self.right(len(self.seen))
            self.seen.append(image_HWC)
            answers = [
                Answered(one, "yes" if one.expected == (number < right) else "no")
                for number, one in enumerate(questions)
            ]
            told.append(verdict_of(answers, 0.5))
        return told


class RaisingJudge(ScriptedJudge):
    """Accepts every image but one, the first that it sees, about which it raises an error each time."""

    def __init__(self, error: Exception) -> None:
        super().__init__(lambda number: 4)
        self.error = error
        self.bad_HWC: NDArray[np.uint8] | None = None

    def verdicts(self, judged: Sequence[Judged]) -> list[Verdict]:
        if self.bad_HWC is None:
            self.bad_HWC = judged[0][0]
        if any((image_HWC == self.bad_HWC).all() for image_HWC, _ in judged):
            raise self.error
        return super().verdicts(judged)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_real(tmp_path_factory.mktemp("real") / "set")


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_classes(tmp_path_factory.mktemp("classes") / "classes.csv")


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> PromptTable:
    return table_of(tmp_path_factory.mktemp("prompts") / "prompts.parquet")


def maker_of(
    real: Path, prompts: PromptTable, out: Path, attributes: Sequence[Attribute], by: Any = None, **fields: Any
) -> tuple[Alter, PaintingModel]:
    """Over scripted parts."""
    model = PaintingModel()
    return alter_of(real, prompts, out, attributes, Own(model), by, **fields), model


def test_a_new_background_leaves_the_core_of_the_object_as_it_was_bit_by_bit(
    real: Path, prompts: PromptTable, tmp_path: Path
) -> None:
    maker, _ = maker_of(real, prompts, tmp_path, PLACES)
    for picture, row, source_HWC in made_by(maker):
        assert picture.image_HWC is not None
        core_HW = core_of(mask_of(row))
        assert core_HW.sum() > 50
        assert (picture.image_HWC[core_HW] == source_HWC[core_HW]).all()
        far_HW = ~mask_of(row)
        assert (picture.image_HWC[far_HW] == PAINT).all(axis=1).mean() > 0.7


def test_a_hard_paste_keeps_every_pixel_of_the_object(real: Path, prompts: PromptTable, tmp_path: Path) -> None:
    maker, _ = maker_of(real, prompts, tmp_path, PLACES, paste="hard")
    for picture, row, source_HWC in made_by(maker):
        mask_HW = mask_of(row)
        assert picture.image_HWC is not None
        assert (picture.image_HWC[mask_HW] == source_HWC[mask_HW]).all()
        assert (picture.image_HWC[~mask_HW] == PAINT).all()


@pytest.mark.parametrize("attributes", [INKS, WEAVES])
def test_a_new_colour_or_texture_leaves_everything_around_the_object_as_it_was(
    real: Path, prompts: PromptTable, tmp_path: Path, attributes: Sequence[Attribute]
) -> None:
    maker, _ = maker_of(real, prompts, tmp_path, attributes)
    for picture, row, source_HWC in made_by(maker):
        mask_HW = mask_of(row)
        assert picture.image_HWC is not None
        assert (picture.image_HWC[~mask_HW] == source_HWC[~mask_HW]).all()
        assert (picture.image_HWC[mask_HW] == PAINT).all()


@pytest.mark.parametrize("attributes", [INKS, WEAVES])
def test_a_picture_whose_lowest_rows_are_even_can_have_another_colour_or_texture(
    prompts: PromptTable, tmp_path: Path, attributes: Sequence[Attribute]
) -> None:
    """These rows are the source's own again after pasting, and no decode that stopped half-way."""
    for number, (class_id, jpeg) in enumerate(jpegs()):
        image_HWC = np.array(decode_jpeg(jpeg))
        image_HWC[52:] = (200, 205, 210)
        for folder in ("real", "masks"):
            (tmp_path / folder / NAMES[class_id]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image_HWC).save(tmp_path / "real" / NAMES[class_id] / f"{number}.png")
        disc = np.hypot(*np.mgrid[-32:32, -32:32]) < 15
        (tmp_path / "masks" / NAMES[class_id] / f"{number}.png.png").write_bytes(encode_mask(disc))
    masks = {"order": ["file"], "masks": str(tmp_path / "masks")}
    maker, _ = maker_of(tmp_path / "real", prompts, tmp_path / "out", attributes, masks=masks)
    told = UnitWorker(maker.rows.job.made.unit, maker, open_store(str(tmp_path / "out")))(0, "try-1", no_beat)
    assert (told["images"], told["rejected"]) == (EACH * len(NAMES), {})


def test_the_model_begins_with_a_place_in_the_attributes_colour_under_the_object(
    real: Path, prompts: PromptTable, tmp_path: Path
) -> None:
    maker, model = maker_of(real, prompts, tmp_path, PLACES)
    made = made_by(maker)
    ((_, start),) = model.calls
    assert start is not None
    assert start.region_NHW is not None
    for number, (_, row, source_HWC) in enumerate(made):
        mask_HW = mask_of(row)
        assert (start.region_NHW[number] == ~mask_HW).all()
        assert (start.image_NHWC[number][~mask_HW] == GREEN).all()
        assert (start.image_NHWC[number][mask_HW] == source_HWC[mask_HW]).all()


def test_pictures_in_tars_of_others_have_the_masks_that_are_named_by_their_keys(
    prompts: PromptTable, tmp_path: Path
) -> None:
    disc = np.hypot(*np.mgrid[-32:32, -32:32]) < 15
    for key in write_tars(tmp_path / "real"):
        file = tmp_path / "masks" / f"{key.replace('⟨U+200B⟩', chr(0x200B))}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encode_mask(disc))
    masks = {"order": ["file"], "masks": str(tmp_path / "masks")}
    maker, _ = maker_of(tmp_path / "real", prompts, tmp_path, INKS, masks=masks)
    assert {picture.status for picture, _, _ in made_by(maker)} == {"success"}


def test_of_an_attribute_without_a_colour_the_model_draws_the_place_first(
    real: Path, prompts: PromptTable, tmp_path: Path
) -> None:
    maker, model = maker_of(real, prompts, tmp_path, DRAWN)
    made_by(maker)
    (asked, nothing), (_, start) = model.calls
    assert nothing is None
    assert {one.prompt for one in asked} == {"a page of brick wall"}
    assert "a page of brick wall" in model.prepared
    assert start is not None
    assert start.region_NHW is not None
    assert set(np.unique(start.image_NHWC[start.region_NHW])) == {0, 200}


def test_a_tint_is_mixed_with_the_object_by_alpha(real: Path, prompts: PromptTable, tmp_path: Path) -> None:
    maker, model = maker_of(real, prompts, tmp_path, INKS, alpha=0.25)
    made = made_by(maker)
    ((_, start),) = model.calls
    assert start is not None
    for number, (_, row, source_HWC) in enumerate(made):
        mask_HW = mask_of(row)
        mixed = 0.75 * source_HWC[mask_HW].astype(float) + 0.25 * np.array(GREEN)
        assert np.abs(start.image_NHWC[number][mask_HW] - mixed).max() <= 1


def test_without_a_prior_the_model_begins_with_the_picture(real: Path, prompts: PromptTable, tmp_path: Path) -> None:
    maker, model = maker_of(real, prompts, tmp_path, PLACES, prior="none")
    made = made_by(maker)
    ((_, start),) = model.calls
    assert start is not None
    assert all((start.image_NHWC[number] == source).all() for number, (_, _, source) in enumerate(made))


def test_the_row_says_attribute_side_and_mask_and_the_caption_is_what_the_model_reads(
    real: Path, prompts: PromptTable, tmp_path: Path
) -> None:
    odd = (attribute("background", "lava", None, feasible=False),)
    maker, model = maker_of(real, prompts, tmp_path, odd)
    made = made_by(maker)
    texts = {request.prompt for requests, start in model.calls if start is not None for request in requests}
    assert {row["caption"] for _, row, _ in made} == texts
    for _, row, _ in made:
        told = json.loads(row["edit"])
        assert (told["attribute"], told["kind"], told["side"]) == ("lava", "background", "infeasible")
        assert told["mask"]["how"] == "otsu"
        assert told["mask"]["area"] == pytest.approx(mask_of(row).mean(), abs=1e-4)
        assert 0 <= told["halo"] <= 1
        assert row["caption"] == f"a {row['class_name']} on lava"
        assert json.loads(row["context"]) == {"background": "lava", "side": "infeasible"}


def test_a_mask_that_was_made_worse_is_that_of_the_edit_in_every_draw_and_the_row_says_so(
    real: Path, prompts: PromptTable, tmp_path: Path
) -> None:
    masks = {"order": ["otsu"], "least_area": 0.02}
    plain, _ = maker_of(real, prompts, tmp_path, PLACES)
    maker, _ = maker_of(
        real, prompts, tmp_path, PLACES, paste="hard", masks={**masks, "spoil": {"kind": "shift", "px": 8}}
    )
    found = [mask_of(row) for _, row, _ in made_by(plain)]
    again = maker.make([(sample, 1) for sample in maker.samples(0)], lambda share: None)
    again.wait(60)
    for place, (picture, row, source_HWC) in enumerate(made_by(maker)):
        mask_HW, told = mask_of(row), json.loads(row["edit"])["mask"]
        assert picture.image_HWC is not None
        assert (picture.image_HWC[mask_HW] == source_HWC[mask_HW]).all()
        assert (picture.image_HWC[~mask_HW] == PAINT).all()
        assert told["spoil"] == {"kind": "shift", "px": 8, "iou": round(overlap(mask_HW, found[place]), 4)}
        assert mask_HW.sum() == found[place].sum()
        assert told["spoil"]["iou"] < 0.7
        assert json.loads(str(again.picture(place).columns["edit"]))["mask"] == told


def test_kinds_of_another_strength_go_through_the_model_apart_and_come_back_in_their_places(
    real: Path, prompts: PromptTable, tmp_path: Path
) -> None:
    strength = {"background": 0.9, "colour": 0.4}
    maker, model = maker_of(real, prompts, tmp_path, [*PLACES[:2], *INKS], strength=strength)
    made = made_by(maker)
    assert sorted(start.gamma for _, start in model.calls if start is not None) == [0.4, 0.9]
    for picture, row, source_HWC in made:
        mask_HW = mask_of(row)
        kept_HW = core_of(mask_HW) if json.loads(row["edit"])["kind"] == "background" else ~mask_HW
        assert picture.image_HWC is not None
        assert (picture.image_HWC[kept_HW] == source_HWC[kept_HW]).all()


def test_a_prior_that_the_model_cannot_draw_is_a_row_with_its_reason(
    real: Path, prompts: PromptTable, tmp_path: Path
) -> None:
    maker, model = maker_of(real, prompts, tmp_path, DRAWN)
    sample = model.sample

    def with_a_fault(requests: Sequence[Request], alive: Callable[[float], None], start: Start | None) -> Sampled:
        made = sample(requests, alive, start)
        if start is None:
            made.finite_N[1] = False
        return made

    model.sample = with_a_fault  # type: ignore[method-assign]
    made = made_by(maker)
    assert [picture.status for picture, _, _ in made].count("nan") == 1
    assert made[1][0].error == "its prior: NaN or Inf in the float image"
    assert all(picture.status == "success" for place, (picture, _, _) in enumerate(made) if place != 1)


def test_a_source_has_another_attribute_in_each_fold_until_all_were_there(
    real: Path, prompts: PromptTable, tmp_path: Path
) -> None:
    maker, _ = maker_of(real, prompts, tmp_path, PLACES)
    seen: dict[str, list[str]] = {}
    for unit in range(len(PLACES)):
        for sample in maker.samples(unit):
            row = maker.row(sample, 0)
            seen.setdefault(str(row["url"]), []).append(json.loads(str(row["edit"]))["attribute"])
    assert len(seen) == EACH * len(NAMES)
    assert all(sorted(names) == sorted(one.name for one in PLACES) for names in seen.values())


def test_a_draw_is_another_seed_for_the_same_attribute(real: Path, prompts: PromptTable, tmp_path: Path) -> None:
    maker, _ = maker_of(real, prompts, tmp_path, PLACES)
    sample = maker.samples(0)[3]
    first, second = maker.row(sample, 0), maker.row(sample, 1)
    assert (first["edit"], first["caption"]) == (second["edit"], second["caption"])
    assert first["seed"] != second["seed"]
    assert first["uid"] != second["uid"]


def test_a_picture_without_a_mask_is_a_row_with_its_reason_and_the_others_are_made(
    real: Path, prompts: PromptTable, tmp_path: Path
) -> None:
    folder = tmp_path / "masks"
    folder.mkdir()
    before, _ = maker_of(real, prompts, tmp_path, PLACES)
    key = before.rows.source(before.samples(0)[2]).key
    disc = np.hypot(*np.mgrid[-32:32, -32:32]) < 20
    (folder / f"{key}.png").write_bytes(encode_mask(disc))
    maker, _ = maker_of(real, prompts, tmp_path, PLACES, masks={"order": ["file"], "masks": str(folder)})
    made = made_by(maker)
    assert made[2][0].status == "success"
    assert (mask_of(made[2][1]) == disc).all()
    others = [picture for place, (picture, _, _) in enumerate(made) if place != 2]
    assert {picture.status for picture in others} == {"no_mask"}
    assert all("found no file" in str(picture.error) for picture in others)
    out = tmp_path / "out"
    told = UnitWorker(maker.rows.job.made.unit, maker, open_store(str(out)))(0, "try-1", no_beat)
    assert (told["images"], told["rejected"]) == (1, {"no_mask": 11}), "another seed finds no mask either"


def test_the_kind_that_masks_are_asked_with_is_that_of_the_whole_class(
    real: Path, prompts: PromptTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the class list says, else by the WordNet id, else by the meaning; by the name only where nothing else is."""
    told = [
        Class(0, "zero", None, EACH, None, "vehicle"),
        Class(1, "one", "n02012849", EACH),
        Class(2, "two", None, EACH, "two, the kitten"),
    ]
    monkeypatch.setattr("tests.support.alter_makers.CLASSES", told)
    maker, _ = maker_of(real, prompts, tmp_path, PLACES)
    asked: dict[str, set[str]] = {}
    masks = maker.masker.masks

    def seen(images: Any, names: Sequence[str], kinds: Sequence[str], keys: Sequence[str]) -> list[Mask]:
        for name, kind in zip(names, kinds, strict=True):
            asked.setdefault(name, set()).add(kind)
        return masks(images, names, kinds, keys)

    monkeypatch.setattr(maker.masker, "masks", seen)
    made_by(maker)
    assert asked == {one.name: {kind_of(one, one.meaning)} for one in told}
    assert asked == {"zero": {"vehicle"}, "one": {"waterside"}, "two": {"pet"}}


def tall(folder: Path) -> Path:
    """An image folder: the real pictures without a quarter at the right."""
    for number, (class_id, jpeg) in enumerate(jpegs()):
        file = folder / NAMES[class_id] / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encode_jpeg(np.ascontiguousarray(decode_jpeg(jpeg)[:, 8:56]), source_type=None))
    return folder


@pytest.mark.parametrize("attributes", [PLACES, INKS, DRAWN, WEAVES])
def test_a_padded_picture_keeps_its_shape_and_what_is_beside_it_is_cut_off(
    prompts: PromptTable, tmp_path: Path, attributes: Sequence[Attribute]
) -> None:
    maker, model = maker_of(tall(tmp_path / "tall"), prompts, tmp_path, attributes, fit="pad", paste="hard")
    for picture, row, source_HWC in made_by(maker):
        mask_HW = mask_of(row)
        region_HW = ~mask_HW if json.loads(row["edit"])["kind"] == "background" else mask_HW
        assert picture.image_HWC is not None
        assert picture.image_HWC.shape == source_HWC.shape == (64, 48, 3)
        assert (picture.image_HWC == np.where(region_HW[..., None], PAINT, source_HWC)).all()
        assert (row["original_height"], row["original_width"]) == (64, 48)
    start = model.calls[-1][1]
    assert start is not None
    assert start.region_NHW is not None
    assert start.image_NHWC.shape == (12, 64, 64, 3)
    assert start.region_NHW[:, :, 48:].all() == (attributes in (PLACES, DRAWN))


def test_half_of_the_answers_are_enough_and_fewer_are_drawn_again_within_the_budget_of_each_output(
    real: Path, prompts: PromptTable, tmp_path: Path
) -> None:
    """The judge rejects every first try; sample 0 it never accepts. Then only this one is short, after its budget."""
    out = tmp_path / "out"
    judge = ScriptedJudge(lambda number: 2)
    llm = {"provider": "openai", "model": "any", "base_url": "http://127.0.0.1:9/v1"}
    how = {"judge": {"kind": "vlm", "llm": llm, "budget": 3}}
    maker, model = maker_of(real, prompts, out, PLACES, judge, **how)
    bad = maker.row(maker.samples(0)[0], 0)["url"]

    def right(number: int) -> int:
        requests = [request for requests, start in model.calls if start is not None for request in requests]
        told = next(
            (sample, draw)
            for sample in maker.samples(0)
            for draw in range(4)
            if maker.rows.seed(sample, draw) == requests[number].seed
        )
        return 2 if told[1] > 0 and maker.row(told[0], 0)["url"] != bad else 1

    judge.right = right
    UnitWorker(maker.rows.job.made.unit, maker, open_store(str(out)))(0, "try-1", no_beat)
    found: dict[str, list[str]] = {}
    for row in rows(out):
        found.setdefault(row["url"], []).append(row["status"])
    assert sorted(found.pop(str(bad))) == ["rejected"] * 3
    assert all(sorted(statuses) == ["rejected", "success"] for statuses in found.values())
    told = [json.loads(row["edit"])["judge"]["answers"] for row in rows(out)]
    right = {sum(one["answer"] == one["expected"] for one in answers) for answers in told}
    assert (right, {len(answers) for answers in told}) == ({1, 2}, {4})


def test_a_judge_that_cannot_be_reached_ends_the_attempt_and_nothing_is_published(
    real: Path, prompts: PromptTable, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for error in (JudgeLost("judge: found no way to an answer"), OSError("no disk"), RuntimeError("no device")):
        maker, _ = maker_of(real, prompts, out, PLACES, RaisingJudge(error))
        with pytest.raises(type(error), match=str(error)):
            UnitWorker(maker.rows.job.made.unit, maker, open_store(str(out)))(0, "try-1", no_beat)
        assert not list(out.glob("*.tar"))


@pytest.mark.parametrize("part", ["judge", "paste_softly", "halo_share"])
def test_an_error_about_one_picture_rejects_that_one_alone(
    real: Path, prompts: PromptTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    out, error = tmp_path / "out", ValueError("a strip of one row")
    judge = RaisingJudge(error) if part == "judge" else ScriptedJudge(lambda number: 4)
    maker, _ = maker_of(real, prompts, out, PLACES, judge)
    if part != "judge":
        works, bad = getattr(gen.edit.alter, part), maker.rows.read(maker.samples(0)[:1])[0][1]

        def fails(source_HWC: NDArray[np.uint8], *others: Any) -> Any:
            if (source_HWC == bad).all():
                raise error
            return works(source_HWC, *others)

        monkeypatch.setattr(gen.edit.alter, part, fails)
    UnitWorker(maker.rows.job.made.unit, maker, open_store(str(out)))(0, "try-1", no_beat)
    found = [row for row in rows(out) if row["status"] != "success"]
    assert len({row["url"] for row in found}) == 1
    assert {(row["status"], row["error_message"]) for row in found} == {("error", "ValueError: a strip of one row")}
    assert all(mask_of(row).any() for row in found), "the row says what was tried"
    assert len(rows(out)) - len(found) == EACH * len(NAMES) - 1


def test_a_mask_of_more_text_than_a_row_holds_leaves_its_edit_as_it_is(
    real: Path, prompts: PromptTable, tmp_path: Path
) -> None:
    """The row says that the mask is left out; the others have theirs. All are made again to the last byte."""
    out, folder, side = tmp_path / "out", tmp_path / "masks", 384
    folder.mkdir()
    masks = {"order": ["file", "otsu"], "masks": str(folder), "contour": "all"}
    before, _ = maker_of(real, prompts, out, PLACES, size_px=side)
    key = before.rows.source(before.samples(0)[2]).key
    noise_HW = np.random.default_rng(0).random((side, side)) < 0.5
    assert len(rle_of(noise_HW)) > MAX_TEXT_BYTES
    (folder / f"{key}.png").write_bytes(encode_mask(noise_HW))
    maker, _ = maker_of(real, prompts, out, PLACES, size_px=side, masks=masks)
    worker = UnitWorker(maker.rows.job.made.unit, maker, open_store(str(out)))
    assert worker(0, "try-1", no_beat)["images"] == EACH * len(NAMES)
    for row in rows(out):
        mask = json.loads(row["edit"])["mask"]
        if row["url"].startswith(f"{key}#"):
            assert mask == {
                "how": "file",
                "area": round(noise_HW.mean(), 4),
                "left_out": f"{len(rle_of(noise_HW)):,} bytes",
            }
        else:
            assert mask_of(row).shape == (side, side)
    assert all(one.same_bytes for one in regenerate_some(worker, scan_records(worker.store), EACH * len(NAMES), 0))


# a recipe with the sandbox's own models


@pytest.fixture(scope="module")
def body(real: Path, classes: Path) -> dict[str, Any]:
    how = {
        "kind": "attribute",
        "attributes": {"kinds": ["background", "colour"], "feasibility": "mixed", "lexicon": "sandbox"},
        "masks": {"order": ["segmenter", "otsu"], "segmenter": str(MODELS / "segmenter"), "contour": "all"},
        "judge": {"kind": "clip", "clip": {"model": str(MODELS / "clip")}, "threshold": 0.5, "budget": 2},
    }
    recipe = recipe_of(real, classes, how)
    return {**recipe, "sampler": {**recipe["sampler"], "steps": 6}}


@pytest.fixture(scope="module")
def edited(body: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("edited") / "out"
    assert edit(body, out, 1).exit_code in (0, 3)  # 3: the judge liked no try of some
    return out


def test_a_recipe_makes_a_set_without_damage_that_is_made_again_to_the_last_byte(edited: Path, real: Path) -> None:
    store = open_for_reading(str(edited))
    assert verify(store).damages == ()
    made = [row for row in rows(edited) if row["status"] == "success"]
    assert len(made) >= EACH * len(NAMES) // 2
    assert all(one.same_bytes for one in regenerate_edits(store, 4, 1))
    for row in made:
        told = json.loads(row["edit"])
        assert told["judge"]["score"] >= 0.5
        source = decode_jpeg(source_of(real, row)[1]).astype(np.int16)
        kept = core_of(mask_of(row)) if told["kind"] == "background" else ~mask_of(row)
        # what is stored has been through JPEG once more
        assert np.abs(pixels(edited, row) - source)[kept].mean() < 6


def test_a_library_user_reads_samples_and_what_was_done_to_them(edited: Path) -> None:
    for subset in (None, "1x"):
        with_edits = shards.open(str(edited), subset).table(["key", "edit"])
        assert json.loads(with_edits["edit"][0].as_py())["mask"]
        assert "caption" in shards.open(str(edited), subset).table().column_names


def test_a_model_that_has_moved_changes_nothing_and_a_lexicon_with_another_word_does(
    body: dict[str, Any], edited: Path, tmp_path: Path
) -> None:
    shutil.copytree(edited, tmp_path / "out")
    shutil.copytree(MODELS / "segmenter", tmp_path / "segmenter")
    shutil.copytree(MODELS / "generator", tmp_path / "generator")
    moved = {**body["edit"], "masks": {**body["edit"]["masks"], "segmenter": str(tmp_path / "segmenter")}}
    sampler = {"model": str(tmp_path / "generator")}
    assert edit(body, tmp_path / "out", 1, edit=moved, sampler=sampler).made_units == 0
    words = (MODELS.parent / "attributes.yaml").read_text()
    (tmp_path / "words.yaml").write_text(words)
    other = {**body["edit"], "attributes": {**body["edit"]["attributes"], "lexicon": str(tmp_path / "words.yaml")}}
    assert edit(body, tmp_path / "mine", 1, edit=other, source={"per_class": 1}).made_units == 1
    (tmp_path / "words.yaml").write_text(words.replace("a page of grass", "a page of long grass"))
    with pytest.raises(ValueError, match="made by another recipe"):
        edit(body, tmp_path / "mine", 1, edit=other, source={"per_class": 1})


def test_both_sides_take_turns_over_the_sources_of_a_class(edited: Path) -> None:
    sides = {(row["url"], row["replicate"]): json.loads(row["edit"])["side"] for row in rows(edited)}
    assert sorted(sides.values()) == ["feasible"] * 6 + ["infeasible"] * 6


def test_every_try_is_a_row_that_says_what_was_tried(edited: Path) -> None:
    for row in rows(edited):
        told = json.loads(row["edit"])
        assert told["attribute"] in row["caption"]
        if row["status"] == "rejected":
            assert told["judge"]["score"] < 0.5
            assert "questions answered as expected" in row["error_message"]


def test_workers_are_given_whole_paths_of_what_the_recipe_names(
    body: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(MODELS)
    how = {**body["edit"], "judge": {**body["edit"]["judge"], "clip": {"model": "clip"}}}
    how["masks"] = {**how["masks"], "segmenter": "segmenter"}
    recipe = EditRecipe.model_validate({**body, "edit": how})
    work = find_work(recipe, has_texts=False)
    job = edit_job_of(recipe, work, str(tmp_path), False, FINGERPRINT, "c" * 64, edit_identity(recipe, work.index))
    assert isinstance(job.edit, AttributeEditSpec)
    assert job.edit.masks.segmenter == str(MODELS / "segmenter")
    assert job.edit.judge.clip is not None
    assert job.edit.judge.clip.model == str(MODELS / "clip")


def test_a_worker_with_other_masks_or_another_judge_than_the_run_was_planned_with_refuses_to_start(
    body: dict[str, Any], edited: Path, tmp_path: Path
) -> None:
    """The weights of a finder, the weights of the judge: each is changed between the plan and the worker. Masks that
    are there are checked where they are read."""
    files = tmp_path / "files"
    files.mkdir()
    disc = np.hypot(*np.mgrid[-32:32, -32:32]) < 20
    (files / "0.png").write_bytes(encode_mask(disc))
    finder, judge = (shutil.copytree(MODELS / name, tmp_path / name) for name in ("segmenter", "clip"))
    how = {
        **body["edit"],
        "masks": {"order": ["file", "segmenter"], "masks": str(files), "segmenter": str(finder)},
        "judge": {**body["edit"]["judge"], "clip": {"model": str(judge)}},
    }
    recipe = EditRecipe.model_validate({**body, "edit": how})
    work = find_work(recipe, has_texts=True)
    job = edit_job_of(recipe, work, str(edited), False, FINGERPRINT, "c" * 64, edit_identity(recipe, work.index))

    def refused(part: str, changed: Path, data: bytes) -> None:
        before = changed.read_bytes()
        changed.write_bytes(data)
        with pytest.raises(
            ValueError, match=rf"^edit\.{part}: found other .* here \(digest [0-9a-f]{{12}}\) than the run"
        ):
            make_edit_worker(job.model_dump(mode="json"))
        changed.write_bytes(before)

    for part, folder in (("masks", finder), ("judge", judge)):
        refused(part, folder / "config.json", (folder / "config.json").read_bytes() + b" ")


def test_a_run_reads_each_mask_once_for_its_hash_and_stops_at_one_that_changes_later(
    body: dict[str, Any], real: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, hashed = tmp_path / "files", Counter[str]()
    files.mkdir()
    disc = np.hypot(*np.mgrid[-32:32, -32:32]) < 20
    for row in rows(real):
        (files / f"{row['key']}.png").write_bytes(encode_mask(disc))
    sha256_of = gen.edit.masks.files.sha256_of

    def counted(path: Path) -> str:
        hashed[path.name] += 1
        return sha256_of(path)

    monkeypatch.setattr(gen.edit.masks.files, "sha256_of", counted)
    masks = {"order": ["file", "otsu"], "masks": str(files)}
    how = {**body["edit"], "masks": masks, "judge": {"kind": "none"}}
    assert edit({**body, "edit": how}, tmp_path / "out").exit_code == 0
    assert hashed == {path.name: 1 for path in files.iterdir()}
    assert {json.loads(row["edit"])["mask"]["how"] for row in rows(tmp_path / "out")} == {"file"}

    recipe = EditRecipe.model_validate({**body, "edit": how})
    work, out = find_work(recipe, has_texts=True), str(tmp_path / "out")
    job = edit_job_of(recipe, work, out, False, FINGERPRINT, "c" * 64, edit_identity(recipe, work.index))
    for file in files.iterdir():
        file.write_bytes(encode_mask(~disc))
    maker = make_edit_worker(job.model_dump(mode="json")).maker
    sample = maker.samples(0)[0]
    maker.prepare([sample])
    with pytest.raises(NotAgain, match=r"found other bytes below .*, expected the mask of when the run began"):
        maker.make([(sample, 0)], lambda share: None)


@pytest.mark.parametrize(
    ("part", "fields", "message"),
    [
        ("edit", {"strength": {"colour": 0.1}}, "edit.strength.colour: found 0.1 of 6 steps, which takes none"),
        ("edit", {"form": {"colour": "{prompt}"}}, "expected the slots {prompt} and {attribute}, each once"),
        ("sampler", {"saved_px": 32}, "sampler.saved_px: found 32, expected null: the source"),
        ("edit", {"masks": {"order": ["segmenter"]}}, "segmenter: found none, expected a folder or a hub id"),
        ("edit", {"masks": {"order": ["otsu", "whole"]}}, "edit.masks.order: found whole beside a background"),
        ("shards", {"max_draws": 1}, "edit.judge.budget: found 2 above shards.max_draws (1), expected at most as many"),
    ],
)
def test_recipes_that_cannot_be_meant_are_refused(
    body: dict[str, Any], part: str, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        EditRecipe.model_validate({**body, part: {**body[part], **fields}})


@pytest.mark.parametrize(
    "how",
    [
        {"strength": {"background": 1}},
        {"cells": [{"kind": "background", "strength": 1}]},
        {
            "attributes": {"kinds": ["colour"]},
            "editor": {"kind": "cascade", "model": "a", "base": "b", "controlnet": "c", "steps": 1},
        },
    ],
    ids=["strengths", "cells", "cascade"],
)
def test_a_strength_of_which_no_edit_is_made_is_no_reason_to_refuse(body: dict[str, Any], how: dict[str, Any]) -> None:
    """Of colours it is half of the way, of which a single step takes none."""
    plain = {"kind": "attribute", "attributes": {"kinds": ["background"]}, "masks": {"order": ["otsu"]}}
    fields = {**body, "sampler": {**body["sampler"], "steps": 1}, "edit": {**plain, **how}}
    assert EditRecipe.model_validate(fields).sampler.steps == 1


def test_a_mistake_in_a_recipe_is_one_line_about_its_own_kind_of_edit(body: dict[str, Any], tmp_path: Path) -> None:
    for wrong, line in (
        ({"alfa": 0.5}, "unknown key `edit.alfa`; did you mean `alpha`?"),
        ({"alpha": 2}, "`edit.alpha`: found 2, expected at most 1 (of colour"),
        ({"masks": {"order": ["segmenter"], "segmenter": "nowhere"}}, "edit.masks.segmenter 'nowhere': found no such"),
    ):
        (tmp_path / "edits.yaml").write_text(json.dumps({**body, "edit": {**body["edit"], **wrong}}))
        told = CliRunner().invoke(sixfold.command_line(), ["edit", str(tmp_path / "edits.yaml"), "--dry-run"])
        assert told.exit_code != 0
        assert line in str(told.exception)
        assert "perturb" not in str(told.exception)


def test_what_an_attribute_edit_names_is_looked_for_beside_its_recipe(body: dict[str, Any], tmp_path: Path) -> None:
    shutil.copytree(MODELS / "segmenter", tmp_path / "finder")
    how = {**body["edit"], "masks": {**body["edit"]["masks"], "segmenter": "finder"}}
    (tmp_path / "edits.yaml").write_text(json.dumps({**body, "edit": how}))
    chosen = load_recipe(tmp_path / "edits.yaml", EditRecipe)
    assert isinstance(chosen.edit, AttributeEditSpec)
    assert chosen.edit.masks.segmenter == str(tmp_path / "finder")


def test_the_command_says_what_it_would_do(body: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "edits.yaml").write_text(json.dumps(body))
    told = CliRunner().invoke(sixfold.command_line(), ["edit", str(tmp_path / "edits.yaml"), "--dry-run"])
    assert told.exit_code == 0, told.output
    assert "background, colour, mixed; masks by segmenter, otsu; judge: clip" in told.output


def test_pictures_without_a_mask_are_told_apart_from_those_that_more_draws_may_mend(
    body: dict[str, Any], tmp_path: Path
) -> None:
    how = {"masks": {"order": ["otsu"], "least_area": 0.9}, "judge": {"kind": "none"}}
    made = edit(body, tmp_path / "out", 1, edit=how, source={"per_class": 1})
    assert made.rejected == {"no_mask": len(NAMES)}
    assert f"rejected: {len(NAMES)} no_mask (none of them drawn again)" in made.sentence()
    assert "no object was found in these sources: set edit.masks otherwise" in made.problem()
    assert "max_draws" not in made.problem()
    mixed = replace(made, rejected={"no_mask": 1, "rejected": 4})
    assert "rejected: 1 no_mask, 4 rejected (2 of them drawn again)" in mixed.sentence()
    assert "in a new output, or leave them out (no_mask); look at why their draws" in mixed.problem()


@pytest.mark.parametrize(
    ("attributes", "words", "line"),
    [
        ({"feasibility": "mixed"}, ["a page", "a wall"], "found no infeasible background for class 0 ('zero')"),
        ({}, ["a page"], "found one background for class 0, expected two or more: a CLIP judges by comparing"),
        ({"source": "llm"}, ["a page", "a wall"], "attributes.source: found llm, but no language model"),
    ],
    ids=["side", "number", "model"],
)
def test_the_command_refuses_attributes_before_any_prompt_is_drawn(
    body: dict[str, Any], tmp_path: Path, attributes: dict[str, Any], words: list[str], line: str
) -> None:
    lexicon = {"background": {"feasible": [{"words": dict.fromkeys(words, "what is seen")}]}}
    (tmp_path / "words.yaml").write_text(json.dumps(lexicon))
    own = {"kinds": ["background"], "lexicon": str(tmp_path / "words.yaml"), **attributes}
    (tmp_path / "edits.yaml").write_text(json.dumps({**body, "edit": {**body["edit"], "attributes": own}}))
    called = ["edit", str(tmp_path / "edits.yaml"), "--out", str(tmp_path / "out")]
    for more in (["--dry-run"], []):
        told = CliRunner().invoke(sixfold.command_line(), [*called, *more])
        assert told.exit_code != 0
        assert line in str(told.exception)
        assert not (tmp_path / "out").exists()


def test_a_lexicon_for_some_kinds_of_classes_is_not_refused_before_meanings_are_chosen(
    body: dict[str, Any], tmp_path: Path
) -> None:
    """A meaning tells the kind; a kind in the class list needs none."""
    ships = {"background": {"feasible": [{"kinds": ["watercraft"], "words": {"a sea": "waves", "a dock": "planks"}}]}}
    (tmp_path / "words.yaml").write_text(json.dumps(ships))
    how = {**body["edit"], "attributes": {"kinds": ["background"], "lexicon": str(tmp_path / "words.yaml")}}
    (tmp_path / "classes.csv").write_text("id,name,kind\n0,zero,\n1,one,watercraft\n2,two,\n")
    fields = {**body, "edit": how, "meanings": {"choose": "clip"}}
    listed = {**fields, "classes": {"source": str(tmp_path / "classes.csv")}}
    for chosen in (fields, listed):
        assert len(find_work(EditRecipe.model_validate(chosen), has_texts=False).classes) == len(NAMES)
    (tmp_path / "classes.csv").write_text("id,name,kind\n0,zero,\n1,one,watercraft\n2,two,street\n")
    for refused in ({**fields, "meanings": {"choose": "none"}}, listed):
        with pytest.raises(ValueError, match=r"found no feasible background for class [02] \("):
            find_work(EditRecipe.model_validate(refused), has_texts=False)
    assert len(find_work(EditRecipe.model_validate(listed), has_texts=True).classes) == len(NAMES)


@pytest.mark.torture
@pytest.mark.timeout(3000)
def test_killed_at_ten_random_moments_the_edits_end_with_the_same_bytes(
    body: dict[str, Any], edited: Path, tmp_path: Path
) -> None:
    """From an empty folder again and again, until there were ten kills and the last run came through."""
    seed = int(os.environ.get("SEED", "0"))
    print(f"seed {seed}")
    rng, out, kills, longest = random.Random(seed), tmp_path / "out", 0, 30.0
    (tmp_path / "edits.yaml").write_text(json.dumps(body))
    called = ["edit", str(tmp_path / "edits.yaml"), "--scale", "1x", "--out", str(out), "--no-gallery"]
    while True:
        child, begun = warm.start(["-m", "sixfold", *called]), time.monotonic()
        left = rng.uniform(0, longest) if kills < 10 else 600.0
        while child.poll() is None and time.monotonic() < begun + left:
            time.sleep(0.01)
        if child.poll() is None:
            child.kill()
            child.wait(60)
            kills += 1
            continue
        assert child.returncode in (0, 3)
        longest = max(5.0, time.monotonic() - begun)
        assert all_bytes(out) == all_bytes(edited)
        if kills >= 10:
            return
        shutil.rmtree(out)
