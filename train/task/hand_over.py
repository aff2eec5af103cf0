"""From one stage of a classification to the next: which weights it starts from, and whether their classifier fits.

In: recipes, the folder of a finished stage, the data of two stages. Out: the recipe of the next stage with its weights
named and pinned; a ValueError for stages that do not go together. On disk, read only: the export of a stage.
"""

from collections.abc import Sequence
from pathlib import Path

from train.evaluate.data_check import Opened
from train.model.classifiers import pinned
from train.model.head import mapped_outputs
from train.recipe import TrainRecipe
from train.task.export import class_names

_NOTHING = {"pretrained": None, "pretrained_revision": None, "pretrained_sha256": None}


def started_from(recipe: TrainRecipe, folder: Path) -> TrainRecipe:
    """The recipe without earlier stages, starting from what the last of them has exported into `folder`. Raises
    ValueError if nothing is there."""
    model = recipe.classifier.model_copy(update={**_NOTHING, "pretrained": str(folder)})
    return recipe.model_copy(update={"model": pinned(model), "before": ()})


def without_weights(recipe: TrainRecipe) -> TrainRecipe:
    """The same of a stage whose weights are not there yet, so that the rest of it can be checked."""
    model = recipe.classifier.model_copy(update={**_NOTHING, "head": "by_size"})
    return recipe.model_copy(update={"model": model, "before": ()})


def check_hand_over(
    before: TrainRecipe, after: TrainRecipe, data_before: Sequence[Opened], data_after: Sequence[Opened]
) -> None:
    """Raises ValueError unless the stage `after` can take over the classifier of `before`, as its `head` says."""
    there, here = before.classifier.num_classes, after.classifier.num_classes
    if after.classifier.head == "keep" and there != here:
        raise ValueError(
            f"model.head: found keep for {here} outputs after a stage with {there}, expected as many; set "
            "model.head=new, or change model.num_classes"
        )
    if after.classifier.head == "map":
        mapped_outputs(_names(data_after), _names(data_before), "the stage before")


def _names(data: Sequence[Opened]) -> dict[int, str]:
    return {int(class_id): name for class_id, name in class_names(data).items()}
