"""Classification as a Task: how it is chosen, and what of the recipe reaches its pictures."""

import json
import typing
from pathlib import Path

import pytest

from cluster.recipes.load import RecipeError, load_recipe
from shards.disk.home import home
from tests.support.small_training import last_state, small_recipe, train_alone, write_sets
from train.model.classifiers import normalisation_of
from train.model.normalisation import IMAGENET
from train.recipe import TaskName, TrainRecipe
from train.run import TASKS
from train.task.classify import classify


def test_every_task_that_a_recipe_can_name_is_there() -> None:
    assert TASKS.keys() == set(typing.get_args(TaskName))
    assert TASKS["classify"] is classify


def test_a_recipe_without_a_task_classifies_and_an_unknown_one_is_named(tmp_path: Path) -> None:
    shipped = home() / "recipes" / "sandbox-train.yaml"
    assert load_recipe(shipped, TrainRecipe).task == "classify"
    with pytest.raises(RecipeError, match=r"`task`: found \"clasify\", expected 'classify'"):
        load_recipe(shipped, TrainRecipe, ["task=clasify"])


TRAINING_RECIPES = (
    *("sandbox-train", "sandbox-vit"),
    *("imagenet-resnet50-6x", "imagenet-convnext-t-6x", "imagenet-vit-s16-6x"),
)


def test_the_shipped_recipes_normalise_as_imagenet_is() -> None:
    for name in TRAINING_RECIPES:
        assert normalisation_of(load_recipe(home() / "recipes" / f"{name}.yaml", TrainRecipe).model) == IMAGENET


def test_the_recipes_mean_and_deviation_reach_pictures_and_export(tmp_path: Path) -> None:
    write_sets(tmp_path)
    short = {"schedule__steps": 1, "evaluate__validation": None}
    assert train_alone(small_recipe(tmp_path, **short), tmp_path / "imagenet").exit_code == 0
    own = {"model__mean": [0.5, 0.5, 0.5], "model__std": [0.25, 0.25, 0.25]}
    assert train_alone(small_recipe(tmp_path, **short, **own), tmp_path / "own").exit_code == 0
    about = json.loads((tmp_path / "own" / "model.json").read_text())
    assert (about["mean"], about["std"]) == ([0.5, 0.5, 0.5], [0.25, 0.25, 0.25])
    seen = [last_state(tmp_path / name)["bn1.running_mean"] for name in ("imagenet", "own")]
    assert not seen[0].equal(seen[1])
