"""A training started as several ranks over Ray.

In: a recipe, the run's folder, how many ranks, a stop flag. Out: a `RayOutcome`. On disk, below `<run>/logs/<life>/`:
`recipe.yaml`, resolved, which all ranks read, and the output of each rank, `rank-NNN.txt` (on its own machine, if the
folder is not shared); everything else is the training's, see `train.session.session`.

The ranks start in the caller's folder, so relative paths lead to the same files.
"""

import os
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cluster.fan_out.attempt import life_id
from cluster.process.environment import named_cluster
from cluster.process.stop_flag import StopFlag
from cluster.ranks.over_ray import RanksSpec, log_of, run_ranks
from cluster.ranks.place import find_place
from cluster.recipes.load import dump_recipe
from shards.disk.data_set import refuse_foreign_folder
from train.evaluate.results import STAGES
from train.recipe import TrainRecipe, check_ranks
from train.session.figures import LoggedFigures

LOGS = "logs"
# -P: modules come from the checkout alone, never from the folder it starts in
PROGRAM = ("-P", "-m", "train.program")


@dataclass(frozen=True)
class RayOutcome:
    """How the ranks ended, as the command line says it."""

    exit_code: int
    line: str
    is_good: bool  # done, or stopped as asked


def check_over_ray(recipe: TrainRecipe, ranks: int, environment: Mapping[str, str]) -> None:
    """Raises ValueError for ranks that cannot be started here, or that the recipe does not fit."""
    place = find_place(environment)
    if place.launcher != "plain":
        raise ValueError(
            f"--ranks: found a process that {place.launcher} started as rank {place.rank} of {place.world}, expected "
            f"none; leave --ranks out, or start without {place.launcher}"
        )
    for one in (*recipe.earlier.values(), recipe):
        check_ranks(one, ranks)


def describe_over_ray(recipe: TrainRecipe, ranks: int, out: Path, environment: Mapping[str, str]) -> str:
    """What `train_over_ray` would do, in a line."""
    spec = _spec(recipe, ranks)
    where = named_cluster(environment)
    cluster = f"the cluster at {where}" if where else "a cluster on this machine"
    count = recipe.engine.accumulate
    in_parts = f", in {count} micro-batches of {recipe.schedule.groups // (ranks * count)}" if count > 1 else ""
    cores = "1 core" if spec.cpus_per_rank == 1 else f"{spec.cpus_per_rank} cores"
    stages = f", after the stages {', '.join(recipe.earlier)}" if recipe.before else ""
    return (
        f"{ranks} ranks over Ray on {cluster}, each with {cores} and one GPU where there are GPUs; "
        f"{recipe.schedule.groups // ranks} of {recipe.schedule.groups} groups of {sum(recipe.quotas)} images a step "
        f"on each{in_parts}{stages}; their output in {out / LOGS}"
    )


def train_over_ray(
    recipe: TrainRecipe, out: Path, ranks: int, stop: StopFlag, say: Callable[[str], None]
) -> RayOutcome:
    """Train until the end or until `stop`; `say` gets the lines of rank 0.

    Raises ValueError for a folder with something else in it, ClusterError if the ranks cannot be started,
    OSError if the folder cannot be written.
    """
    refuse_foreign_folder(out, "training")
    life = out / LOGS / life_id(os.environ, time.time(), secrets.token_bytes(5))
    life.mkdir(parents=True)
    asked = life / "recipe.yaml"
    asked.write_text(dump_recipe(recipe), encoding="utf-8")
    here = Path.cwd()
    stages = {out / STAGES / name: stage for name, stage in recipe.earlier.items()}
    figures = [LoggedFigures(folder, one.schedule.steps) for folder, one in {**stages, out: recipe}.items()]

    def said(line: str) -> None:
        say(line)
        for one in figures:
            one.look()

    ended = run_ranks([*PROGRAM, str(asked), str(out)], _spec(recipe, ranks), here, here / life, stop, said)
    if ended.cause is not None:
        line = f"{ended.cause.sentence()}; see {log_of(life, ended.cause.rank)}"
        return RayOutcome(ended.exit_code, line, is_good=False)
    line = ended.said or f"{out}: stopped before the ranks had begun ({stop.reason}); the same command goes on"
    return RayOutcome(ended.exit_code, line, is_good=True)


def _spec(recipe: TrainRecipe, ranks: int) -> RanksSpec:
    # decoding and computing share cores: on a GPU the one takes them, on a CPU the other
    return RanksSpec(ranks=ranks, cpus_per_rank=max(1, recipe.data.threads, recipe.engine.threads))
