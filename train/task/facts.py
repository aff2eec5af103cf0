"""What is known of each Task before it is loaded, and torch with it.

In: the name of a Task in a recipe. Out: its `TaskFacts`. On disk: nothing.
"""

import shlex
from dataclasses import dataclass
from pathlib import Path

from gen.model.style_token import TOKEN
from train.model.clip import CLIP_ABOUT
from train.model.pretrained import ABOUT
from train.recipe import TaskName, TrainRecipe


@dataclass(frozen=True)
class TaskFacts:
    """What the folder of a training says without its Task."""

    metric: str  # what the score of its results is called
    last_file: str  # of its export: where it is, the export is whole


FACTS: dict[TaskName, TaskFacts] = {
    "classify": TaskFacts("top-1", ABOUT),
    "clip": TaskFacts("top-1", CLIP_ABOUT),
    "invert": TaskFacts("pictures nearer than with the untrained word", TOKEN),
}


def how_to_use(recipe: TrainRecipe, folder: Path) -> str:
    """What can be done with the export of a training in `folder`, with the override that does it, for a shell."""
    if recipe.invert is not None:
        return f"prompts.style_token={shlex.quote(str(folder))} in a recipe of generate says the new word"
    if recipe.clip is not None:
        return f"clip.model={shlex.quote(recipe.clip.exported_in(folder))} starts there from these weights"
    return f"model.pretrained={shlex.quote(str(folder))} starts there from these weights"
