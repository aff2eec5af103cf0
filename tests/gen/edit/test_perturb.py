"""Perturbation of real pictures, from a recipe to shards: which source an image has, and what each gamma does to it.

Real recipes, shards and the sandbox's own generator, on a few pictures; no Ray.
"""

import io
import json
import shutil
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

import sixfold
from gen.edit.remake import regenerate_edits
from gen.edit.sources import SOURCES, Sources, fitted
from shards.disk.jpeg import decode_jpeg, encode_jpeg, read_source_type
from shards.disk.store import open_for_reading, open_store
from shards.set.manifest import read_member
from shards.set.status import write_summary
from shards.set.verify import verify
from tests.support.small_edits import (
    EACH,
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

EDIT = "compositeWithTrainedAlgorithmicMedia"


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_real(tmp_path_factory.mktemp("real") / "set")


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_classes(tmp_path_factory.mktemp("classes") / "classes.csv")


@pytest.fixture(scope="module")
def body(real: Path, classes: Path) -> dict[str, Any]:
    return recipe_of(real, classes, {"kind": "perturb", "gamma": 0.5})


@pytest.fixture(scope="module")
def edited(body: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twice the sources, half of the way."""
    out = tmp_path_factory.mktemp("edited") / "out"
    assert edit(body, out, 2).exit_code == 0
    return out


def test_each_source_has_one_edit_in_each_fold_and_the_row_says_which(edited: Path, real: Path) -> None:
    made = [row for row in rows(edited) if row["status"] == "success"]
    assert len(made) == 2 * EACH * len(NAMES)
    for fold in (0, 1):
        sources = [row["url"] for row in made if row["replicate"] == fold]
        assert len(sources) == len(set(sources)) == EACH * len(NAMES)
    for row in made:
        found, _ = source_of(real, row)
        assert (row["domain"], row["class_id"], row["class_name"]) == ("edited", found["class_id"], found["class_name"])
        assert json.loads(row["sampler"])["edit"] == {"kind": "perturb", "gamma": 0.5, "fit": "crop"}
    assert verify(open_for_reading(str(edited))).damages == ()


def test_a_source_meets_another_prompt_in_the_next_fold(edited: Path) -> None:
    texts: dict[str, list[str]] = {}
    for row in rows(edited):
        texts.setdefault(row["url"], []).append(row["caption"])
    assert all(len(set(two)) == 2 for two in texts.values())


def test_an_image_says_that_it_was_edited(edited: Path) -> None:
    store = open_for_reading(str(edited))
    assert {read_source_type(read_member(store, row)) for row in rows(edited)} == {EDIT}


def test_an_edit_is_nearer_to_its_source_than_to_any_other_of_its_class(edited: Path, real: Path) -> None:
    sources = {row["key"]: pixels(real, row) for row in rows(real)}
    nearest = 0
    made = rows(edited)
    for row in made:
        own = row["url"].split("#")[0]
        apart = {key: float(np.abs(pixels(edited, row) - image).mean()) for key, image in sources.items()}
        nearest += min(apart, key=lambda key: apart[key]) == own
    assert nearest >= 0.9 * len(made)


def test_the_further_the_way_the_less_is_left(body: dict[str, Any], real: Path, tmp_path: Path) -> None:
    apart = []
    for gamma in (0.0, 0.25, 0.5, 1.0):
        out = tmp_path / str(gamma)
        assert edit(body, out, edit={"gamma": gamma}).exit_code == 0
        differences = [np.abs(pixels(out, row) - decode_jpeg(source_of(real, row)[1])).mean() for row in rows(out)]
        apart.append(float(np.mean(differences)))
    assert apart == sorted(apart)
    assert apart[0] == 0


def test_gamma_0_keeps_the_very_bytes_of_a_jpeg_beside_the_note_and_asks_no_model(
    body: dict[str, Any], real: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gen.edit.worker.load_planned", lambda job: pytest.fail("loaded a model"))
    assert edit(body, tmp_path / "out", edit={"gamma": 0}).exit_code == 0
    for row in rows(tmp_path / "out"):
        stored = read_member(open_for_reading(str(tmp_path / "out")), row)
        _, data = source_of(real, row)
        assert (decode_jpeg(stored) == decode_jpeg(data)).all()
        assert stored.endswith(data[20:])
        assert "steps" not in json.loads(row["sampler"])


def test_gamma_0_encodes_what_is_no_plain_jpeg_of_the_stored_size(body: dict[str, Any], tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for number, (class_id, jpeg) in enumerate(jpegs()):
        (photos / NAMES[class_id]).mkdir(parents=True, exist_ok=True)
        data = jpeg + b"behind the end" if number == 0 else jpeg
        if number == 1:
            with io.BytesIO() as file:
                Image.fromarray(decode_jpeg(jpeg)).convert("CMYK").save(file, "JPEG")
                data = file.getvalue()
        (photos / NAMES[class_id] / f"{number:02d}.jpg").write_bytes(data)
    for side in (64, 32):
        out = tmp_path / str(side)
        how = {"source": {"set": str(photos)}, "edit": {"gamma": 0}, "sampler": {"saved_px": side}}
        assert edit(body, out, 1, **how).exit_code == 0
        assert verify(open_for_reading(str(out))).damages == ()
        assert {(row["width"], row["height"]) for row in rows(out)} == {(side, side)}


def test_gamma_0_encodes_the_square_that_a_strip_is_squashed_to(body: dict[str, Any], tmp_path: Path) -> None:
    """Its rows or columns are all the same, as the strip's own one is."""
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    for class_id, strip_HWC in enumerate((noise[:1], noise[:, :1], noise)):
        (tmp_path / "photos" / NAMES[class_id]).mkdir(parents=True)
        (tmp_path / "photos" / NAMES[class_id] / "a.jpg").write_bytes(encode_jpeg(strip_HWC, source_type=None))
    made = edit(body, tmp_path / "out", source={"set": str(tmp_path / "photos")}, edit={"gamma": 0, "fit": "squash"})
    assert (made.images, made.exit_code) == (3, 0), made.sentence()
    assert {pixels(tmp_path / "out", row).shape for row in rows(tmp_path / "out")} == {(64, 64, 3)}
    assert verify(open_for_reading(str(tmp_path / "out"))).damages == ()


def test_gamma_0_keeps_a_picture_whose_lowest_rows_are_even(body: dict[str, Any], tmp_path: Path) -> None:
    """A frame, a caption's ground: nothing decoded it, so no decode has stopped half-way."""
    for class_id, name in NAMES.items():
        (tmp_path / "photos" / name).mkdir(parents=True)
        image_HWC = np.random.default_rng(class_id).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        image_HWC[52:] = (200, 205, 210)
        Image.fromarray(image_HWC).save(tmp_path / "photos" / name / "a.png")
    for side in (64, 32):
        how = {"source": {"set": str(tmp_path / "photos")}, "edit": {"gamma": 0}, "sampler": {"saved_px": side}}
        made = edit(body, tmp_path / str(side), **how)
        assert (made.images, made.exit_code) == (3, 0), made.sentence()


def test_the_same_call_goes_on_and_a_larger_scale_begins_with_the_smaller(
    body: dict[str, Any], edited: Path, tmp_path: Path
) -> None:
    assert edit(body, tmp_path / "out", 1).made_units == 2
    one = all_bytes(tmp_path / "out")
    assert edit(body, tmp_path / "out", 1).made_units == 0
    assert edit(body, tmp_path / "out", 2).made_units == 2
    two = all_bytes(tmp_path / "out")
    assert {name: two[name] for name in one} == one
    assert {name: data for name, data in two.items() if name.endswith(".tar")} == {
        name: data for name, data in all_bytes(edited).items() if name.endswith(".tar")
    }


def test_edits_are_made_again_to_the_last_byte(edited: Path) -> None:
    compared = regenerate_edits(open_for_reading(str(edited)), 7, 3)
    assert len(compared) == 7
    assert all(one.same_bytes for one in compared)


def test_a_source_whose_bytes_have_changed_is_named_and_not_edited(
    body: dict[str, Any], tmp_path: Path, classes: Path
) -> None:
    photos = tmp_path / "photos"
    for number, (class_id, jpeg) in enumerate(jpegs()):
        (photos / NAMES[class_id]).mkdir(parents=True, exist_ok=True)
        (photos / NAMES[class_id] / f"{number:02d}.jpg").write_bytes(jpeg)
    fields = {"source": {"set": str(photos)}, "sampler": {"batch": 6}}
    assert edit(body, tmp_path / "out", 1, **fields).exit_code == 0
    victim = photos / "two" / sorted(path.name for path in (photos / "two").iterdir())[0]
    whole = victim.read_bytes()
    before = victim.stat()
    changed = whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:]
    victim.write_bytes(changed)
    assert victim.stat().st_size == before.st_size
    outcome = edit(body, tmp_path / "out", 2, **fields)
    assert outcome.exit_code != 0
    assert f"two/{victim.name}" in outcome.sentence()
    assert "found other bytes than when the run began" in outcome.sentence()
    victim.write_bytes(whole + b"zz")
    with pytest.raises(ValueError, match=rf"two/{victim.name}': found other bytes than when the run began"):
        edit(body, tmp_path / "out", 2, **fields)
    victim.write_bytes(whole)
    assert edit(body, tmp_path / "out", 2, **fields).exit_code == 0


def test_of_a_blank_picture_that_is_not_changed_nobody_is_told_to_draw_more(
    body: dict[str, Any], tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    for number, (class_id, jpeg) in enumerate(jpegs()):
        (photos / NAMES[class_id]).mkdir(parents=True, exist_ok=True)
        blank = encode_jpeg(np.full((64, 64, 3), 200, np.uint8), source_type=None)
        (photos / NAMES[class_id] / f"{number:02d}.jpg").write_bytes(jpeg if number else blank)
    made = edit(body, tmp_path / "out", 1, edit={"gamma": 0}, source={"set": str(photos)})
    assert (made.exit_code, sum(made.short.values()), made.rejected.keys()) == (3, 1, {"blank"})
    assert "at gamma 0 every draw is the source itself: leave these sources out" in made.problem()
    assert "max_draws" not in made.problem()


@pytest.mark.parametrize("gamma", [0, 0.5])
def test_a_picture_that_cannot_be_decoded_is_one_row_with_its_reason_and_the_run_ends(
    body: dict[str, Any], tmp_path: Path, gamma: float
) -> None:
    """Alone in a shard too: each shard of one picture is there afterwards, and the same call has nothing to do."""
    photos = tmp_path / "photos"
    for number, (class_id, jpeg) in enumerate(jpegs()):
        (photos / NAMES[class_id]).mkdir(parents=True, exist_ok=True)
        data = b"\xff\xd8 no picture \xff\xd9" if number == 0 else jpeg
        (photos / NAMES[class_id] / f"{number:02d}.jpg").write_bytes(data)
    for size, out in ((6, tmp_path / "six"), (1, tmp_path / "one")):
        fields = {"source": {"set": str(photos), "per_class": EACH}, "shards": {"samples_per_shard": size}}
        made = edit(body, out, 1, edit={"gamma": gamma}, **fields)
        assert (made.exit_code, made.images, sum(made.short.values())) == (3, EACH * len(NAMES) - 1, 1)
        assert made.done_units == made.asked_units
        [bad] = [row for row in rows(out) if row["status"] != "success"]
        assert bad["status"] == "failed_to_decode"
        assert bad["error_message"]
        assert "rejected: 1 failed_to_decode (none of them drawn again)" in made.sentence()
        assert "these sources cannot be read: mend them or leave them out" in made.problem()
        assert "max_draws" not in made.problem()
        again = edit(body, out, 1, edit={"gamma": gamma}, **fields)
        assert (again.made_units, again.exit_code) == (0, 3)


def test_folders_named_by_wordnet_ids_are_edited_also_where_classes_share_a_name(
    body: dict[str, Any], tmp_path: Path
) -> None:
    ids = {0: "n01440764", 1: "n02012849", 2: "n03126707"}
    for number, (class_id, jpeg) in enumerate(jpegs()):
        (tmp_path / "photos" / ids[class_id]).mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / ids[class_id] / f"{number:02d}.jpg").write_bytes(jpeg)
    listed = [f"{class_id},{name},{ids[class_id]}" for class_id, name in ((0, "tench"), (1, "crane"), (2, "crane"))]
    (tmp_path / "classes.csv").write_text("\n".join(["id,name,wordnet_id", *listed]) + "\n")
    fields = {"source": {"set": str(tmp_path / "photos")}, "classes": {"source": str(tmp_path / "classes.csv")}}
    made = edit(body, tmp_path / "out", 1, edit={"gamma": 0}, **fields)
    assert (made.images, made.exit_code) == (EACH * len(ids), 0), made.sentence()
    for row in rows(tmp_path / "out"):
        assert row["url"].startswith(f"{ids[row['class_id']]}/")


def test_another_set_of_sources_is_another_run(body: dict[str, Any], real: Path, tmp_path: Path) -> None:
    shutil.copytree(real, tmp_path / "moved")
    assert edit(body, tmp_path / "out", 1).exit_code == 0
    assert edit(body, tmp_path / "out", 1, source={"set": str(tmp_path / "moved")}).made_units == 0
    with pytest.raises(ValueError, match=r"made by another recipe or from other data \(source.per_class"):
        edit(body, tmp_path / "out", 1, source={"per_class": 2})


def test_of_fewer_sources_the_first_ones_are_taken(body: dict[str, Any], tmp_path: Path) -> None:
    tables = []
    for number in (2, 4):
        assert edit(body, tmp_path / str(number), 1, source={"per_class": number}, edit={"gamma": 0}).exit_code == 0
        table = pq.read_table(tmp_path / str(number) / SOURCES).to_pylist()
        tables.append({(row["class_id"], row["number"]): row["key"] for row in table})
    assert tables[0].items() <= tables[1].items()
    assert Counter(class_id for class_id, _ in tables[0]) == dict.fromkeys(NAMES, 2)


@pytest.mark.parametrize(
    ("part", "fields", "message"),
    [
        ("classes", {"per_class": 5}, "classes: found a number of images, expected none"),
        ("edit", {"gamma": 0.1}, "edit.gamma: found 0.1 of 4 steps, which takes none; set at least 0.25, or 0"),
        ("edit", {"gamma": 1.5}, "less than or equal to 1"),
        ("sampler", {"guidance_interval": [0.2, 0.8]}, "sampler.guidance_interval: found .*, expected null"),
        ("sampler", {"reuse_every": 2}, "sampler.reuse_every: found 2, expected null"),
    ],
)
def test_recipes_that_cannot_be_meant_are_refused(
    body: dict[str, Any], tmp_path: Path, part: str, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        edit(body, tmp_path / "out", 1, **{part: fields})


def test_sources_of_a_set_that_is_not_finished_are_refused(body: dict[str, Any], real: Path, tmp_path: Path) -> None:
    store = open_store(str(shutil.copytree(real, tmp_path / "set")))
    write_summary(store, {"asked": {"units": 3}, "exit_code": None})
    with pytest.raises(ValueError, match=r"^source\.set: edit \(.*\): found 1 of the 3 shards that the last"):
        edit(body, tmp_path / "out", 1, source={"set": store.url})
    assert not (tmp_path / "out").exists()


def test_sources_of_a_class_that_the_list_does_not_have_and_classes_without_sources_are_named(
    body: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "few.csv").write_text("id,name\n0,zero\n1,one\n")
    with pytest.raises(ValueError, match=r"found pictures of class id 2, expected ids of classes\.source"):
        edit(body, tmp_path / "out", 1, classes={"source": str(tmp_path / "few.csv")})
    (tmp_path / "many.csv").write_text("id,name\n" + "".join(f"{n},{n}-th\n" for n in range(5)))
    with pytest.raises(ValueError, match="found no picture of 2 classes, such as '3-th'"):
        edit(body, tmp_path / "out", 1, classes={"source": str(tmp_path / "many.csv")})
    with pytest.raises(ValueError, match=r"source\.set: "):
        edit(body, tmp_path / "out", 1, source={"set": str(tmp_path / "nowhere")})


def test_the_command_says_what_it_would_do_and_does_it(body: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "edits.yaml"
    file.write_text(json.dumps(body))
    call = ["edit", str(file), "--scale", "2x", "--out", str(tmp_path / "out")]
    planned = CliRunner().invoke(sixfold.command_line(), [*call, "--dry-run"])
    assert planned.exit_code == 0, planned.output
    assert "12 pictures of 3 classes" in planned.output
    assert "gamma 0.5: 2 of 4 steps" in planned.output
    assert not (tmp_path / "out").exists()
    done = CliRunner().invoke(sixfold.command_line(), [*call, "edit.gamma=0"])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out" / "_meta" / "gallery" / "index.html").is_file()


def test_the_command_makes_no_gallery_of_a_store_and_one_that_fails_leaves_the_outcome_as_it_is(
    body: dict[str, Any], tmp_path: Path
) -> None:
    file, url = tmp_path / "edits.yaml", f"memory://{uuid.uuid4().hex}"
    file.write_text(json.dumps(body))
    call = ["edit", str(file), "edit.gamma=0", "--out"]
    made = CliRunner().invoke(sixfold.command_line(), [*call, url])
    assert made.exit_code == 0, made.output
    assert f"`sixfold show {url} --out FOLDER`" in made.output
    (tmp_path / "out" / "_meta" / "gallery").mkdir(parents=True)
    (tmp_path / "out" / "_meta" / "gallery" / "mine.txt").write_text("mine")
    made = CliRunner().invoke(sixfold.command_line(), [*call, str(tmp_path / "out")])
    assert made.exit_code == 0, made.output
    assert "no gallery (" in made.output
    assert "found a folder with other files in it" in made.output
    assert "images in 2 of 2 shards" in made.output.splitlines()[-1]


# pure parts


@settings(max_examples=40, deadline=None)
@given(
    width=st.integers(1, 90),
    height=st.integers(1, 90),
    side=st.integers(1, 64),
    fit=st.sampled_from(["crop", "squash"]),
)
def test_a_picture_of_any_shape_becomes_a_square(width: int, height: int, side: int, fit: str) -> None:
    image = np.random.default_rng(width * 100 + height).integers(0, 256, (height, width, 3), np.uint8)
    found = fitted(encode_jpeg(image), side, fit)
    assert isinstance(found, np.ndarray)
    assert (found.shape, found.dtype) == ((side, side, 3), np.uint8)


def test_a_crop_is_the_centre_and_a_squash_is_all() -> None:
    image = np.zeros((32, 96, 3), np.uint8)
    image[:, :32, 0], image[:, 32:64, 1], image[:, 64:, 2] = 255, 255, 255
    data = encode_jpeg(image, quality=100)
    cropped, squashed = fitted(data, 32, "crop"), fitted(data, 33, "squash")
    assert isinstance(cropped, np.ndarray)
    assert isinstance(squashed, np.ndarray)
    assert cropped[:, 4:-4].mean(axis=(0, 1)).argmax() == 1
    assert cropped[:, 4:-4, 0].mean() < 10
    assert [int(squashed[:, at].mean(axis=0).argmax()) for at in (3, 16, 29)] == [0, 1, 2]


def test_a_picture_of_the_very_size_keeps_its_pixels() -> None:
    image = np.random.default_rng(4).integers(0, 256, (24, 24, 3), np.uint8)
    data = encode_jpeg(image)
    for fit in ("crop", "squash"):
        assert (fitted(data, 24, fit) == decode_jpeg(data)).all()


def test_what_is_no_table_of_sources_is_refused() -> None:
    with pytest.raises(ValueError, match="sources: found no parquet file"):
        Sources.load(b"PAR1 nothing PAR1")
