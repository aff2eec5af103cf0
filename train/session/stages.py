"""A training in stages: each is a training of its own, and starts from the weights that the one before has exported.

In: a `TrainRecipe` with stages (`before`), a function from a recipe to its Task, and what a training needs. Out: the
`TrainOutcome` of the last stage, or of the one that was stopped. On disk, in the run's folder:

    stages/<name>/      an earlier stage, as train.session.in_folder writes a training
    stages/leep.json    see train.session.start_leep
    ...                 the last stage, likewise; its recipe.yaml is the whole recipe

The folder belongs to the whole recipe from the beginning, and every digest in its results covers all stages. The same
command goes on with the stage and the step where it stopped. A stage has no optimiser, average or step from the one
before. What all stages read is looked through before the first one begins.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from cluster.process.stop_flag import StopFlag
from cluster.ranks.group import RankFailed, Ranks
from shards.disk.file_calls import OS_DISK, Disk
from train.evaluate.data_check import Opened, open_domains, refuse_shared
from train.evaluate.evaluate import OpenSet, open_sets
from train.evaluate.results import STAGES
from train.model.optim import make_optimizer
from train.recipe import TrainRecipe, check_ranks
from train.session.in_folder import meet, take_folder, told, train_in_folder
from train.session.outcome import TrainOutcome
from train.session.start_leep import leep_of_stages
from train.task.task import Task

LAST = "last stage"


@dataclass(frozen=True)
class HandOver:
    """What a Task says of the way from one stage to the next; `train.task.hand_over` has that of classification."""

    started_from: Callable[[TrainRecipe, Path], TrainRecipe]  # the recipe, with the result of the stage in that folder
    without_weights: Callable[[TrainRecipe], TrainRecipe]  # of a stage that starts from what is not there yet
    # raises ValueError unless the second can follow the first, with the data of both
    check: Callable[[TrainRecipe, TrainRecipe, Sequence[Opened], Sequence[Opened]], None]


def train_in_stages(
    recipe: TrainRecipe,
    make_task: Callable[[TrainRecipe], Task],
    hand_over: HandOver,
    out: Path,
    home: Path,
    stop: StopFlag,
    ranks: Ranks,
    disk: Disk = OS_DISK,
) -> TrainOutcome:
    """Train what is left of the stages. Raises ValueError or OSError as `train_in_folder` does, for a mistake in a
    later stage too, which its line names."""
    earlier = recipe.earlier
    for name, stage in earlier.items():
        with _named(name):
            check_ranks(stage, ranks.world)
    device = meet(recipe, stop, ranks)
    total = len(earlier) + 1
    weights: Path | None = None
    with contextlib.ExitStack() as owned:
        done = take_folder(recipe, make_task(recipe), out, ranks, (out / STAGES).exists, owned)
        if done is not None:
            return done
        _check_later(recipe, make_task, hand_over, out, ranks)
        for number, (name, stage) in enumerate(earlier.items(), start=1):
            place = f"{name} ({number} of {total})"
            with _named(name):
                asked = stage if weights is None else hand_over.started_from(stage, weights)
                weights = out / STAGES / name
                task = make_task(asked)
                outcome = train_in_folder(asked, task, weights, home, stop, ranks, disk, f"stage {place}: ")
            if outcome.stopped:
                return replace(outcome, folder=out, stage=place)
        assert weights is not None
        with told(ranks, "measuring LEEP"):
            found = leep_of_stages(recipe, out, ranks, device)
    task = make_task(hand_over.started_from(recipe, weights))
    words = f"{LAST} ({total} of {total}): "
    return replace(train_in_folder(recipe, task, out, home, stop, ranks, disk, words, found), earlier=tuple(earlier))


def _check_later(
    recipe: TrainRecipe, make_task: Callable[[TrainRecipe], Task], hand_over: HandOver, out: Path, ranks: Ranks
) -> None:
    """Raises ValueError for data, a model, an optimiser or a hand-over of a stage that is refused later, and for a
    stage that reads pictures of the sets of the last one; the first stage that is not done checks its own. Every rank
    opens the data, with no collective call pending, as at the beginning of a training."""
    stages = {**recipe.earlier, LAST: recipe}
    is_exported = make_task(recipe).is_exported
    left = [name for name in stages if name == LAST or not is_exported(out / STAGES / name)]
    if len(left) == 1:
        return
    with _named(LAST):
        sets = _sets_of(recipe)
    before: tuple[TrainRecipe, list[Opened]] | None = None
    for name in left:
        stage = hand_over.without_weights(stages[name])
        data = stage.data
        sources = ", ".join(dict.fromkeys(domain.source for domain in data.domains))
        with _named(name), told(ranks, f"looking through {sources}"):
            domains = open_domains(data.domains, data.cache.folder, data.class_list)
            for one in sets:
                for domain in domains:
                    refuse_shared(one.opened, domain, "a model must not be tested on pictures it was trained on")
            if before is not None:
                task = make_task(stage)
                task.check_data(domains, ranks)
                hand_over.check(before[0], stages[name], before[1], domains)
                if ranks.rank == 0:
                    make_optimizer(stage.optim, task.build(torch.device("cpu")))
        before = (stages[name], domains)


def _sets_of(recipe: TrainRecipe) -> list[OpenSet]:
    """The sets that measure the result; a stage may have others."""
    data = recipe.data
    return open_sets(recipe.evaluate, recipe.classifier.num_classes, data.cache.folder, (), data.class_list)


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """An error says in which stage it was found."""
    try:
        yield
    except RankFailed:  # it says so already
        raise
    except ValueError as error:
        raise ValueError(f"{name if name == LAST else f'stage {name}'}: {error}") from None
