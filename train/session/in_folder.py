"""A training in its folder: locks and claims the folder, opens the ranks, checks the data, then runs a Session.

In: `TrainRecipe`, its Task, the run's folder, the checkout whose code runs, a stop flag, the `Ranks` that have met.
Out: a `TrainOutcome`. On disk, in the run's folder (all ranks see it; rank 0 alone writes):

    recipe.yaml             as asked, resolved
    run.lock                held by the training at work
    _meta/lives/            the history of the folder, see cluster.process.lives
    log.jsonl tensorboard/  see train.session.logs, as for the one file that every rank writes, replaced-<rank>.jsonl
    ...                     see train.session.session

The same command continues where the last one ended. A training that is refused before its first step leaves nothing.
"""

import contextlib
import os
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from secrets import token_bytes

import torch

from cluster.code import code_hash
from cluster.fan_out.attempt import life_id
from cluster.process.exit import EXIT_FOLLOWED
from cluster.process.lives import LifeFile, begin
from cluster.process.stop_flag import StopFlag
from cluster.ranks.group import RankFailed, Ranks
from cluster.ranks.place import device_of
from cluster.recipes.folder import LocalFolder, claim
from cluster.waiting import waiting
from shards.disk.data_set import refuse_foreign_folder
from shards.disk.file_calls import OS_DISK, Disk
from shards.disk.lock import folder_locked
from shards.disk.store import FolderStore
from train.evaluate.data_check import open_domains
from train.recipe import TrainRecipe, check_ranks, deciding, recipe_digest
from train.session.logs import ReplacedLog, RunLog
from train.session.outcome import TrainOutcome
from train.session.run_folder import (
    CHECKPOINTS,
    LOCK,
    RECIPE,
    WAIT,
    WHO,
    Before,
    finished_before,
    is_used,
    left_as_it_was,
)
from train.session.session import Session
from train.session.start_leep import leep_of_start
from train.task.task import Task

NOTHING: Mapping[str, float | str] = {}


def meet(recipe: TrainRecipe, stop: StopFlag, ranks: Ranks) -> torch.device:
    """Wait for all ranks; the device of this one. A second call changes nothing. Raises ValueError for a recipe that
    so many ranks cannot share, and if one of them does not come."""
    check_ranks(recipe, ranks.world)
    device = device_of(ranks.place, os.environ)
    torch.set_num_threads(recipe.engine.threads)
    with told(ranks, f"waiting for all {ranks.world} ranks"):
        ranks.open(device, recipe.engine.deadline_s, alone_too=recipe.engine.kind != "single")
    stop.arm()
    return device


def take_folder(
    recipe: TrainRecipe,
    task: Task,
    out: Path,
    ranks: Ranks,
    has_begun: Callable[[], bool],
    owned: contextlib.ExitStack,
) -> TrainOutcome | None:
    """Lock the folder and claim it for the recipe, until `owned` ends; the outcome of a training that is finished,
    which gets no claim. All ranks call it; rank 0 does it.

    A training that is refused before it has begun leaves nothing. Raises ValueError for a folder of something else, or
    of another recipe.
    """
    done = None
    was_used = False
    if ranks.rank == 0:
        refuse_foreign_folder(out, "training")
        before = Before.of(out)
        owned.enter_context(folder_locked(out, LOCK, WHO, WAIT))
        is_exported = task.is_exported(out)
        was_used = is_used(out, is_exported)
        owned.enter_context(left_as_it_was(before, lambda: was_used or has_begun()))
        done = finished_before(recipe, out, is_exported, task.metric)
    if ranks.agree(done is not None)[0]:
        steps = recipe.schedule.steps
        return done or TrainOutcome(out, steps, steps, 0.0, 0.0, task.metric, (), "", was_finished=True)
    if ranks.rank == 0:
        claim(LocalFolder(out), RECIPE, recipe, deciding, WHO, was_used)
    return None


def train_in_folder(
    recipe: TrainRecipe,
    task: Task,
    out: Path,
    home: Path,
    stop: StopFlag,
    ranks: Ranks,
    disk: Disk = OS_DISK,
    words: str = "",
    leep: Mapping[str, float | str] = NOTHING,
) -> TrainOutcome:
    """Train until the end or until `stop`. Raises ValueError or OSError with one line for what cannot go on; `ranks`
    then ends the others with the cause. `disk` takes the checkpoints; texts for people begin with `words`; log and
    results hold `leep`, or what is measured here if the recipe asks for it (`train.session.start_leep`)."""
    began = time.monotonic()
    device = meet(recipe, stop, ranks)
    session: Session | None = None
    with contextlib.ExitStack() as owned:
        log = life = None
        done = take_folder(recipe, task, out, ranks, lambda: session is not None and session.step > 0, owned)
        if done is not None:
            return done
        if ranks.rank == 0:
            life = owned.enter_context(
                begin(FolderStore(out), life_id(os.environ, time.time(), token_bytes(5)), "train")
            )
            digest = recipe_digest(recipe)
            log = owned.enter_context(RunLog(out, recipe.log, digest, heard=partial(_lived, life), words=words))
        # now, and not after days of training: are all sets there, and do they fit? Every rank opens them, with no
        # collective call pending: one builds an index, for up to an hour, and the others wait at its lock
        sources = ", ".join(dict.fromkeys(domain.source for domain in recipe.data.domains))
        with told(ranks, f"looking through {sources}"):
            domains = open_domains(recipe.data.domains, recipe.data.cache.folder, recipe.data.class_list)
            lines = list(task.check_data(domains, ranks))
        for line in lines:
            if log is not None:
                log.say(line)
        if recipe.evaluate.leep:
            with told(ranks, "measuring LEEP"):
                leep = leep_of_start(recipe, domains[0], out, ranks, device)
        names = owned.enter_context(ReplacedLog(out, ranks.rank))
        with told(ranks, f"building the model on {device}"):
            nats = {name: value for name, value in leep.items() if isinstance(value, float)}
            session = Session(
                recipe, task, out, out / CHECKPOINTS, code_hash(home), stop, ranks, device, log, names, disk, nats
            )
        if log is not None:
            log.line(
                "started",
                0,
                engine=recipe.engine.kind,
                ranks=ranks.world,
                bn_groups=session.weights.bn_groups,
                launcher=ranks.place.launcher,
                device=str(device),
                seconds=round(time.monotonic() - began, 3),
            )
            for name, value in leep.items():
                if isinstance(value, str):
                    log.say(f"LEEP of {name} was not measured: {value}")
                log.line("leep", 0, of=name, **({"reason": value} if isinstance(value, str) else {"leep": value}))
        try:
            outcome = session.run()
        except RankFailed as error:
            if life is not None:
                life.ended(EXIT_FOLLOWED, str(error))
            raise
        if life is not None:
            life.ended(outcome.exit_code, f"stopped: {outcome.stopped}" if outcome.stopped else "complete")
        return outcome


def _lived(life: LifeFile, kind: str, step: int, numbers: Mapping[str, object]) -> None:
    """What a line of the log says for the history."""
    if kind in ("train", "saved"):
        if life.life.before is None:  # it went on from no checkpoint
            life.there(0, "step")
        life.at_work()
    if kind in ("resumed", "saved"):
        life.there(step, "step")


def told(ranks: Ranks, words: str) -> contextlib.AbstractContextManager[None]:
    """A wait that all ranks have and rank 0 tells."""
    return waiting(words) if ranks.rank == 0 else contextlib.nullcontext()
