"""A training from its recipe alone: `TASKS` says which Task a recipe means.

In: a `TrainRecipe`, the run's folder, the checkout, a stop flag, the ranks. Out: a `TrainOutcome`. On disk: see
`train.session.in_folder` and `train.session.stages`.
"""

from collections.abc import Callable
from pathlib import Path

from cluster.process.stop_flag import StopFlag
from cluster.ranks.group import Ranks
from shards.disk.file_calls import OS_DISK, Disk
from train.recipe import TaskName, TrainRecipe, with_pinned_weights
from train.session.in_folder import train_in_folder
from train.session.outcome import TrainOutcome
from train.session.stages import HandOver, train_in_stages
from train.task.adapt_clip import adapt_clip
from train.task.classify import classify
from train.task.hand_over import check_hand_over, started_from, without_weights
from train.task.invert import invert
from train.task.task import Task

TASKS: dict[TaskName, Callable[[TrainRecipe], Task]] = {"classify": classify, "clip": adapt_clip, "invert": invert}
HAND_OVERS: dict[TaskName, HandOver] = {"classify": HandOver(started_from, without_weights, check_hand_over)}


def train(
    recipe: TrainRecipe, out: Path, home: Path, stop: StopFlag, ranks: Ranks, disk: Disk = OS_DISK
) -> TrainOutcome:
    """Train the recipe's Task, with the stages before it. Errors are those of
    `train.session.in_folder.train_in_folder`, and those of trained weights that are not there."""
    recipe = with_pinned_weights(recipe)
    if recipe.before:
        return train_in_stages(recipe, TASKS[recipe.task], HAND_OVERS[recipe.task], out, home, stop, ranks, disk)
    return train_in_folder(recipe, TASKS[recipe.task](recipe), out, home, stop, ranks, disk)
