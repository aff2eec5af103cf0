"""What is known of each Task before it is loaded, and torch with it.

In: the name of a Task in a recipe. Out: its `TaskFacts`. On disk: nothing.
"""

from dataclasses import dataclass

from gen.model.style_token import TOKEN
from train.model.clip import CLIP_ABOUT
from train.model.pretrained import ABOUT
from train.recipe import TaskName


@dataclass(frozen=True)
class TaskFacts:
    """What the folder of a training says without its Task."""

    metric: str  # what top-1 of its results is called
    last_file: str  # of its export: where it is, the export is whole


FACTS: dict[TaskName, TaskFacts] = {
    "classify": TaskFacts("top-1", ABOUT),
    "clip": TaskFacts("top-1", CLIP_ABOUT),
    "invert": TaskFacts("pictures nearer than with the untrained word", TOKEN),
}
