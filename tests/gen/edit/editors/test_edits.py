"""Edits by editors with networks of their own: whatever these paint, what may not change is the source's, bit by bit.

Random weights; real pictures and masks; at the end recipes as people write them, with the sandbox's generator for
priors.
"""

import json
import re
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter
from typer.testing import CliRunner

import sixfold
from cluster.recipes.load import load_recipe
from gen.edit.attributes.attribute import Attribute
from gen.edit.editors.editor import Change, Editor
from gen.edit.editors.open import open_editor
from gen.edit.editors.spec import EditorSpec, beside_of, editor_digest
from gen.edit.recipe import AttributeEditSpec, EditRecipe, edit_identity
from gen.edit.remake import regenerate_edits
from gen.edit.run import describe, edit_job_of, find_work
from gen.edit.worker import make_edit_worker
from gen.model.folder import ModelError, open_model
from gen.prompts.table import PromptTable
from gen.sampler import memory
from gen.sampler.memory import need_of
from gen.sampler.sampler import Sampled, Sampler
from gen.sampler.spec import SamplerSpec
from shards.disk.home import home
from shards.disk.store import open_for_reading
from shards.set.verify import verify
from tests.support.alter_makers import alter_of, attribute, made_by, mask_of, table_of
from tests.support.painter import FINGERPRINT
from tests.support.small_edits import (
    EACH,
    MODELS,
    NAMES,
    all_bytes,
    edit,
    recipe_of,
    rows,
    write_classes,
    write_real,
)
from tests.support.tiny_editors import tiny_controlnet, tiny_editor, tiny_ip_adapter

# diffusers' own, under NumPy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

GREEN = (20, 230, 40)
MIXED = (
    attribute("background", "moss", GREEN),
    attribute("background", "brick wall", None),
    attribute("colour", "moss ink", GREEN, feasible=False),
    attribute("texture", "woven wool", None),
)
EDITORS: dict[str, dict[str, Any]] = {
    "inpaint": {"kind": "inpaint", "model": "inpaint", "steps": 2, "licence": "MIT"},
    "cascade": {
        "kind": "cascade",
        "model": "inpaint",
        "base": "inpaint-base",
        "controlnet": "control",
        "ip_adapter": "ip",
        "steps": 2,
        "control_steps": 1,
    },
    "instruct": {"kind": "instruct", "model": "kontext", "steps": 1},
    "control": {"kind": "control", "model": "inpaint-base", "controlnet": "control", "steps": 1},
}
PLACES = ("model", "base", "controlnet", "ip_adapter")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("folders")
    tiny_editor("inpaint-sd", root / "inpaint")
    tiny_editor("kontext", root / "kontext")
    tiny_controlnet(root / "inpaint-base", root / "control")
    tiny_ip_adapter(root / "inpaint-base", root / "ip")
    return root


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_real(tmp_path_factory.mktemp("real") / "set")


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> PromptTable:
    return table_of(tmp_path_factory.mktemp("prompts") / "prompts.parquet")


@pytest.fixture(scope="module")
def sampler(root: Path) -> Sampler:
    spec = SamplerSpec(model=str(root / "inpaint-base"), steps=1, size_px=64, batch=12, device="cpu")
    return Sampler.load(spec)


def fields_of(root: Path, kind: str) -> dict[str, Any]:
    told = EDITORS[kind]
    return {name: str(root / value) if name in PLACES else value for name, value in told.items()}


def editor_of(root: Path, kind: str, sampler: Sampler) -> Editor:
    spec: Any = TypeAdapter(EditorSpec).validate_python(fields_of(root, kind))
    return open_editor(spec, sampler, editor_digest(spec))


class Recording:
    """An editor that remembers what it was asked, and can have a bad picture."""

    def __init__(self, editor: Editor, bad: int | None = None) -> None:
        self.editor, self.columns, self.bad = editor, editor.columns, bad
        self.changes: list[Change] = []
        self.wants_prior, self.prepare, self.draw = editor.wants_prior, editor.prepare, editor.draw

    def change(self, changes: Any, alive: Any) -> Sampled:
        self.changes += changes
        made = self.editor.change(changes, alive)
        if self.bad is not None:
            made.finite_N[self.bad] = False
        return made


@pytest.mark.parametrize("kind", EDITORS)
def test_outside_of_what_may_change_each_pixel_is_the_sources(
    root: Path, real: Path, prompts: PromptTable, sampler: Sampler, tmp_path: Path, kind: str
) -> None:
    maker = alter_of(real, prompts, tmp_path, MIXED, editor_of(root, kind, sampler), paste="hard")
    seen = set()
    for picture, row, source_HWC in made_by(maker):
        told, mask_HW = json.loads(row["edit"]), mask_of(row)
        region_HW = ~mask_HW if told["kind"] == "background" else mask_HW
        assert picture.image_HWC is not None
        assert (picture.image_HWC[~region_HW] == source_HWC[~region_HW]).all()
        assert (picture.image_HWC[region_HW] != source_HWC[region_HW]).any(axis=1).mean() > 0.5
        seen.add(told["kind"])
    assert seen == {"background", "colour", "texture"}


@pytest.mark.parametrize("kind", EDITORS)
def test_an_edit_made_alone_has_the_bytes_that_it_has_in_its_unit(
    root: Path, real: Path, prompts: PromptTable, sampler: Sampler, tmp_path: Path, kind: str
) -> None:
    """Of attributes with a colour; priors that are drawn come from the sampler, which keeps its batches."""
    maker = alter_of(real, prompts, tmp_path, [MIXED[0], MIXED[2]], editor_of(root, kind, sampler))
    whole, alone = made_by(maker), made_by(maker, chosen=lambda place: place == 4)
    assert whole[4][0].image_HWC is not None
    assert np.array_equal(whole[4][0].image_HWC, alone[0][0].image_HWC)


def test_the_row_says_which_editor_did_it_and_by_what_settings(
    root: Path, real: Path, prompts: PromptTable, sampler: Sampler, tmp_path: Path
) -> None:
    editor, fields = editor_of(root, "inpaint", sampler), fields_of(root, "inpaint")
    cells = [{"kind": "colour", "side": "infeasible", "guidance": 12.0}]
    maker = alter_of(real, prompts, tmp_path, MIXED, editor, editor=fields, cells=cells)
    row = maker.row(maker.samples(0)[0], 0)
    told = json.loads(str(row["sampler"]))["edit"]
    assert told["editor"] == {"kind": "inpaint", "steps": 2, "guidance": 7.5, "region_blur_px": 0}
    assert told["cells"] == cells
    assert (row["model"], row["licence"]) == ("StableDiffusionInpaintPipeline", "MIT")
    assert re.fullmatch("sha256:[0-9a-f]{64}", str(row["revision"]))
    assert str(root) not in json.dumps(row)


def test_each_change_has_the_settings_of_its_kind_and_side(
    root: Path, real: Path, prompts: PromptTable, sampler: Sampler, tmp_path: Path
) -> None:
    editor = Recording(editor_of(root, "inpaint", sampler))
    cells = [
        {"kind": "background", "strength": 0.5, "dilate_px": 9},
        {"kind": "colour", "side": "infeasible", "alpha": 1.0, "strength": 1.0},
    ]
    maker = alter_of(real, prompts, tmp_path, MIXED, editor, editor=fields_of(root, "inpaint"), cells=cells)
    made_by(maker)
    by_kind = {one.kind: one for one in editor.changes}
    assert {kind: one.settings.strength for kind, one in by_kind.items()} == {
        "background": 0.5,
        "colour": 1.0,
        "texture": 0.5,
    }
    ink = by_kind["colour"]
    assert (ink.start_HWC[ink.object_HW] == GREEN).all()  # alpha 1
    place = next(one for one in editor.changes if one.words == "moss")
    kept_HW = (place.start_HWC == place.source_HWC).all(axis=2)
    assert kept_HW[place.object_HW].all()
    assert kept_HW.sum() > 1.5 * place.object_HW.sum()  # what lies 4 px around it, too


def test_an_instruction_editor_needs_no_prior_and_nothing_is_drawn_for_it(
    root: Path, real: Path, prompts: PromptTable, sampler: Sampler, tmp_path: Path
) -> None:
    editor = Recording(editor_of(root, "instruct", sampler))
    editor.draw = None  # type: ignore[assignment]
    made_by(alter_of(real, prompts, tmp_path, MIXED, editor, prior="drawn"))
    assert all(np.array_equal(one.start_HWC, one.source_HWC) for one in editor.changes)


@pytest.mark.parametrize("kind", EDITORS)
def test_a_picture_that_went_wrong_is_a_row_of_its_own_and_the_others_keep_their_bytes(
    root: Path, real: Path, prompts: PromptTable, sampler: Sampler, tmp_path: Path, kind: str
) -> None:
    editor = editor_of(root, kind, sampler)
    attributes: list[Attribute] = [MIXED[0], MIXED[2]]
    whole = made_by(alter_of(real, prompts, tmp_path, attributes, editor))
    made = made_by(alter_of(real, prompts, tmp_path, attributes, Recording(editor, bad=3)))
    assert [picture.status for picture, _, _ in made] == ["success"] * 3 + ["nan"] + ["success"] * 8
    for place, (picture, _, _) in enumerate(made):
        assert place == 3 or np.array_equal(picture.image_HWC, whole[place][0].image_HWC)


# recipes


@pytest.fixture(scope="module")
def body(root: Path, real: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    classes = write_classes(tmp_path_factory.mktemp("classes") / "classes.csv")
    how = {
        "kind": "attribute",
        "attributes": {"kinds": ["background", "colour"], "feasibility": "mixed", "lexicon": "sandbox"},
        "masks": {"order": ["segmenter", "otsu"], "segmenter": str(MODELS / "segmenter"), "contour": "all"},
        "editor": fields_of(root, "cascade"),
    }
    recipe = recipe_of(real, classes, how)
    return {**recipe, "sampler": {**recipe["sampler"], "steps": 2}}


@pytest.fixture(scope="module")
def edited(body: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("edited") / "out"
    assert edit(body, out, 1).exit_code == 0
    return out


def test_a_recipe_makes_a_set_without_damage_that_is_made_again_to_the_last_byte(edited: Path) -> None:
    store = open_for_reading(str(edited))
    assert verify(store).damages == ()
    assert sum(row["status"] == "success" for row in rows(edited)) == EACH * len(NAMES)
    assert all(one.same_bytes for one in regenerate_edits(store, 4, 1))
    told = [json.loads(row["sampler"])["edit"]["editor"] for row in rows(edited)]
    assert {(one["kind"], one["ip_scale"], one["control_steps"]) for one in told} == {("cascade", 0.4, 1)}
    assert {row["model"] for row in rows(edited)} == {"StableDiffusionInpaintPipeline"}


def test_models_that_have_moved_change_nothing_and_other_weights_are_another_run(
    body: dict[str, Any], edited: Path, root: Path, tmp_path: Path
) -> None:
    shutil.copytree(edited, tmp_path / "out")
    moved = shutil.copytree(root, tmp_path / "moved")
    there = {**body["edit"], "editor": fields_of(moved, "cascade")}
    assert edit(body, tmp_path / "out", 1, edit=there).made_units == 0
    (tmp_path / "out" / "00001_stats.json").unlink()
    assert edit(body, tmp_path / "out", 1, edit=there).made_units == 1
    assert all_bytes(tmp_path / "out") == all_bytes(edited)
    config = moved / "control" / "config.json"
    config.write_text(config.read_text() + " ")
    with pytest.raises(ValueError, match="made by another recipe"):
        edit(body, tmp_path / "out", 1, edit=there)


def test_an_editor_without_room_beside_the_model_is_refused_before_anything_is_loaded(
    body: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = EditRecipe.model_validate(body)
    told = describe(recipe, find_work(recipe, has_texts=True), Fraction(1))
    assert re.search(r"\nmemory   about .* of weights as fp32, .* of those of the editor, ", told)
    numbers = beside_of(recipe.edit.editor).numbers if isinstance(recipe.edit, AttributeEditSpec) else 0
    model = need_of(recipe.sampler, open_model(recipe.sampler.model, None, None, home()), on_gpu=False).weights
    monkeypatch.setattr(memory, "memory_bytes", lambda: model + 4 * numbers - 1)
    with pytest.raises(ModelError, match=r"generator and its editor: found .* of weights as fp32, expected at most"):
        edit(body, tmp_path / "out", 1)


def test_a_worker_with_other_weights_of_the_editor_refuses_to_start(
    body: dict[str, Any], edited: Path, tmp_path: Path
) -> None:
    recipe = EditRecipe.model_validate(body)
    work = find_work(recipe, has_texts=True)
    identified = edit_identity(recipe, work.index)
    job = edit_job_of(recipe, work, str(edited), False, FINGERPRINT, "c" * 64, identified)
    other = job.model_copy(update={"editor_digest": "e" * 64}).model_dump(mode="json")
    with pytest.raises(ValueError, match=r"edit\.editor: found other weights here \(digest"):
        make_edit_worker(other)


def test_what_an_editor_names_is_looked_for_beside_its_recipe(body: dict[str, Any], root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "inpaint", tmp_path / "mine")
    how = {**body["edit"], "editor": {"kind": "inpaint", "model": "mine"}}
    (tmp_path / "edits.yaml").write_text(json.dumps({**body, "edit": how}))
    chosen = load_recipe(tmp_path / "edits.yaml", EditRecipe)
    assert isinstance(chosen.edit, AttributeEditSpec)
    assert chosen.edit.editor.model == str(tmp_path / "mine")  # type: ignore[union-attr]


def test_a_mistake_in_an_editor_is_one_line_about_its_own_kind(body: dict[str, Any], tmp_path: Path) -> None:
    cascade = body["edit"]["editor"]
    for wrong, line in (
        ({**cascade, "ip_scal": 0.5}, "unknown key `edit.editor.ip_scal`; did you mean `ip_scale`?"),
        ({**cascade, "controlnet": "nowhere"}, "edit.editor.controlnet 'nowhere': found no such folder"),
        ({**cascade, "model": "nowhere"}, "edit.editor.model 'nowhere': found no such folder"),
        ({"kind": "inpaint", "model": "any", "steps": 1}, "strength: found 0.8 of 1 steps, which takes none"),
        ({"kind": "paint"}, "edit.editor"),
    ):
        (tmp_path / "edits.yaml").write_text(json.dumps({**body, "edit": {**body["edit"], "editor": wrong}}))
        told = CliRunner().invoke(sixfold.command_line(), ["edit", str(tmp_path / "edits.yaml"), "--dry-run"])
        assert told.exit_code != 0
        assert line in str(told.exception)
        assert "perturb" not in str(told.exception)


def test_the_command_names_the_editor(body: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "edits.yaml").write_text(json.dumps(body))
    told = CliRunner().invoke(sixfold.command_line(), ["edit", str(tmp_path / "edits.yaml"), "--dry-run"])
    assert told.exit_code == 0, told.output
    assert "judge: none; editor: cascade" in told.output
