"""The folder of a training, looked at without torch: whose it is, whether the training is finished.

In: a `TrainRecipe`, a folder. Out: the outcome of a training that was finished before; errors. On disk: reads; what a
refused training has made is removed by `left_as_it_was`. The files are listed in `train.session.in_folder`.
"""

import contextlib
import os
import shlex
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cluster.recipes.load import parse_recipe
from shards.disk.data_set import refuse_foreign_folder
from shards.disk.layout import META
from shards.disk.lock import is_held
from train.evaluate.results import RESULTS, STAGES, of_branches, read_results, selected
from train.recipe import TrainRecipe, refuse_changed, with_pinned_weights
from train.session.outcome import TrainOutcome

CHECKPOINTS = "checkpoints"
RECIPE = "recipe.yaml"
LOCK = "run.lock"
# what is there before the first step
BEGUN = frozenset({RECIPE, LOCK, META, "log.jsonl", "leep.json", "tensorboard", "wandb"})
WHO, WAIT = "training", "wait for it, or take another folder"


def run_name(out: Path) -> str:
    """What results call the training in this folder; of an earlier stage with the training that it belongs to."""
    return f"{out.parent.parent.name}/{out.name}" if out.parent.name == STAGES else out.name


def is_used(out: Path, is_exported: bool) -> bool:
    """Whether a training has made anything there that is worth keeping."""
    return any((out / name).exists() for name in (CHECKPOINTS, RESULTS, STAGES)) or is_exported


def look(recipe: TrainRecipe, out: Path, last_file: str, metric: str) -> TrainOutcome | None:
    """What the folder alone tells of a training that shall begin or go on there: its outcome if it is finished.

    `last_file`, `metric`: of its Task, see `train.task.facts`.
    Raises ValueError for a folder of something else, of another recipe, or with another training at work, and for
    trained weights that are not there. Nothing is written, no lock is kept: a training asks again when it has the lock.
    """
    refuse_foreign_folder(out, "training")
    if is_held(out / LOCK):
        raise ValueError(f"{out}: found another {WHO} at work in this folder, expected none; {WAIT}")
    return finished_before(with_pinned_weights(recipe), out, (out / last_file).is_file(), metric)


def finished_before(recipe: TrainRecipe, out: Path, is_exported: bool, metric: str) -> TrainOutcome | None:
    """The outcome of a training that is finished: its export is there, and so are results of all its test sets.

    Raises ValueError if the folder has a training with another recipe, or what nothing says the recipe of.
    """
    if is_used(out, is_exported):
        try:
            content = (out / RECIPE).read_bytes()
        except FileNotFoundError:
            if is_exported or not any((out / CHECKPOINTS).glob("*")):  # a checkpoint says its recipe when it is read
                raise ValueError(
                    f"{out}: found {'an export' if is_exported else 'a training'} without {RECIPE}, expected the "
                    "recipe it was trained with, for this training would overwrite it; take another folder"
                ) from None
        else:
            refuse_changed(parse_recipe(content, TrainRecipe, str(out / RECIPE)), recipe, str(out))
    if not is_exported:
        return None
    lines = read_results(out / RESULTS).results
    results = [*selected(lines), *of_branches(lines)]
    tests = recipe.evaluate.tests
    if not {line.set for line in results} >= set(tests):
        return None
    if not tests:
        results = selected(lines, "validation")[-1:]
    steps = recipe.schedule.steps
    earlier = tuple(stage.name for stage in recipe.before)
    use = how_to_use(recipe, out)
    return TrainOutcome(
        out, steps, steps, 0.0, 0.0, metric, tuple(results), "", was_finished=True, use=use, earlier=earlier
    )


def how_to_use(recipe: TrainRecipe, folder: Path) -> str:
    """What can be done with the export of a training in `folder`, with the override that does it, for a shell."""
    if recipe.invert is not None:
        return f"prompts.style_token={shlex.quote(str(folder))} in a recipe of generate says the new word"
    if recipe.clip is not None:
        return f"clip.model={shlex.quote(recipe.clip.exported_in(folder))} starts there from these weights"
    return f"model.pretrained={shlex.quote(str(folder))} starts there from these weights"


@dataclass(frozen=True)
class Before:
    """What was at a place before a training came."""

    out: Path
    missing: tuple[Path, ...]  # of the folder and those above it, the lowest first
    names: frozenset[str]
    recipe: bytes | None

    @staticmethod
    def of(out: Path) -> "Before":
        """What is there now."""
        names = frozenset(path.name for path in out.iterdir()) if out.is_dir() else frozenset()
        recipe = (out / RECIPE).read_bytes() if RECIPE in names else None
        return Before(out, tuple(path for path in (out, *out.parents) if not os.path.exists(path)), names, recipe)

    def restore(self) -> None:
        """Remove what a training has made there since, and nothing else; as far as the disk lets it."""
        with contextlib.suppress(OSError):
            for path in self.out.iterdir():
                is_ours = path.name in BEGUN or path.match("replaced-*.jsonl")
                if is_ours and path.name not in self.names:
                    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            if self.recipe is not None:
                (self.out / RECIPE).write_bytes(self.recipe)
            for folder in self.missing:
                folder.rmdir()


@contextlib.contextmanager
def left_as_it_was(before: Before, has_begun: Callable[[], bool]) -> Iterator[None]:
    """A training that is refused before its first step leaves nothing in a folder that had nothing of a training.

    To be entered with the folder's lock held, and before any file is opened there.
    """
    try:
        yield
    except (ValueError, OSError, ImportError):
        if not has_begun():
            before.restore()
        raise
