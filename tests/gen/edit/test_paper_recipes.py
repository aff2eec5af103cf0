"""The recipes that ship for VariReal's three tasks: every cell of its tables, and the parts of its path.

The tables themselves are compared with the paper's code in tests/gen/edit/priors/test_table.py.
"""

from typing import Any, get_args

import pytest

from cluster.recipes.load import load_recipe
from gen.edit.attributes.attribute import ATTRIBUTE_KINDS
from gen.edit.attributes.gather import gather_attributes
from gen.edit.cells import Settings
from gen.edit.editors.spec import CascadeSpec
from gen.edit.priors.table import Task, edit_cell
from gen.edit.recipe import AttributeEditSpec, EditRecipe
from shards.disk.home import home
from shards.labels.classes import load_classes

PAPER = tuple(task for task in get_args(Task) if task != "other")
QUERIES = {"pets": "A pet {name}", "aircraft": "A aircraft {name}", "cars": "A car {name}"}
NUM_CLASSES = {"pets": 37, "aircraft": 100, "cars": 196}


def recipe_of(task: str) -> EditRecipe:
    return load_recipe(home() / "recipes" / "edit" / f"varireal-{task}.yaml", EditRecipe)


def edit_of(task: str) -> AttributeEditSpec:
    edit = recipe_of(task).edit
    assert isinstance(edit, AttributeEditSpec)
    return edit


@pytest.mark.parametrize("task", PAPER)
@pytest.mark.parametrize("kind", ATTRIBUTE_KINDS)
@pytest.mark.parametrize("feasible", [True, False])
def test_every_edit_has_the_settings_of_its_cell(task: Task, kind: Any, feasible: bool) -> None:
    recipe, cell = recipe_of(task), edit_cell(task, kind, feasible)
    found = edit_of(task).settings(kind, feasible, recipe.sampler.made_px)
    alpha = found.alpha if cell.alpha is None else cell.alpha  # a background has none
    assert found == Settings(
        strength=cell.strength,
        alpha=alpha,
        dilate_px=cell.dilation_px,
        steps=cell.steps,
        guidance=cell.guidance,
        ip_scale=cell.ip_scale,
    )


@pytest.mark.parametrize("task", PAPER)
def test_the_path_is_the_papers(task: str) -> None:
    recipe, edit = recipe_of(task), edit_of(task)
    assert (recipe.sampler.made_px, recipe.sampler.steps, recipe.sampler.scheduler) == (1024, 20, "dpm++")
    assert (recipe.seed, recipe.source.per_class) == (6, 100)
    assert (edit.fit, edit.paste, edit.prior, edit.phrase) == ("pad", "hard", "drawn", "plain")
    assert edit.attributes.kinds == ATTRIBUTE_KINDS
    assert edit.attributes.sides == (False, True)
    editor = edit.editor
    assert isinstance(editor, CascadeSpec)
    assert (editor.control_steps, editor.control_guidance, editor.control_scale) == (25, 7.5, 1.0)
    assert editor.ip_weights == "sdxl_models/ip-adapter-plus_sdxl_vit-h.safetensors"
    masks = edit.masks
    assert (masks.order, masks.query, masks.contour) == (("grounded",), QUERIES[task], "largest")
    assert (masks.box_threshold, masks.text_threshold, masks.dilate_px) == (0.4, 0.3, 0)
    assert (edit.judge.kind, edit.judge.threshold, edit.judge.asked) == ("vlm", 0.5, ("visible", "plausible"))


@pytest.mark.parametrize("task", PAPER)
def test_each_class_has_attributes_of_every_kind_on_both_sides(task: str) -> None:
    classes = load_classes(recipe_of(task).classes.uncounted())
    assert len(classes) == NUM_CLASSES[task]
    gathered = gather_attributes(classes, edit_of(task).attributes, None, 0)
    assert all(len(one.cells) == 6 and min(map(len, one.cells)) >= 2 for one in gathered)
