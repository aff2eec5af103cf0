"""A Session: one training from its newest checkpoint to its end. A Task (`train.task.task`) says what is trained.

In: `TrainRecipe`, its Task, folders, a stop flag, the open `Ranks`. Out: a `TrainOutcome`. On disk:

    <checkpoints>/          see train.session.checkpoint and train.session.run_state
    <folder>/results.jsonl  see train.evaluate.results: the validation set at the ends of epochs, the test sets once
    <folder>/...            the Task's export

A Session continues from the newest complete checkpoint. After a signal (`StopFlag`) to any rank all ranks save and end.

A step is: a batch of the stream, in as many micro-batches as `engine.accumulate` says; forward, loss and backward of
each; the norm of the gradients' mean; if it is finite, the weights and their average are updated. At the end of an
epoch the running statistics of all ranks are combined in place, and the validation set is measured. For a checkpoint
they are combined in copies, so the time of a checkpoint changes nothing.
"""

import contextlib
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from cluster.code import library_versions
from cluster.fan_out.progress import duration
from cluster.process.stop_flag import StopFlag
from cluster.ranks.group import Ranks
from cluster.recipes.folder import refuse_other
from cluster.waiting import waiting
from shards.disk.file_calls import Disk
from shards.stream.keyed_random import hashed
from shards.stream.stream import Batch, Stream
from train.evaluate.evaluate import Moment, RunFacts, Validation, make_result, select
from train.evaluate.results import RESULTS, Result, append_results, read_results
from train.model.engine import Forward
from train.model.optim import Loss, learning_rate
from train.model.step import Descent, KeptBuffers, Stepped
from train.recipe import TrainRecipe, deciding, recipe_digest
from train.session import checkpoint
from train.session.logs import Pace, ReplacedLog, RunLog
from train.session.outcome import TrainOutcome
from train.session.reading import Reading
from train.session.run_folder import run_name
from train.session.run_state import VERSION, RunState, pack, part_names, read_state, unpack
from train.session.weights import make_weights
from train.task.task import Measured, Task

VALIDATION = "validation"  # its name in results
LIBRARIES = (
    *("torch", "timm", "deepspeed", "numpy", "simplejpeg", "opencv-python-headless"),
    *("transformers", "open_clip_torch", "peft"),
)
LOG_EVERY_S = 5.0
_DROPOUT = 0x64726F70  # keeps these seeds apart from those of order and pixels


class Session:
    """The live objects of one training: weights, stream, counters. Each rank has a Session; they work in step."""

    def __init__(
        self,
        recipe: TrainRecipe,
        task: Task,
        out: Path,
        checkpoints: Path,
        code: str,
        stop: StopFlag,
        ranks: Ranks,
        device: torch.device,
        log: RunLog | None,
        names: ReplacedLog,
        disk: Disk,
        leep: Mapping[str, float],
    ) -> None:
        """`log`: of rank 0; `names`: of this rank; `leep`: for the results."""
        self.recipe, self.task, self.out, self.checkpoints, self.disk = recipe, task, out, checkpoints, disk
        self.stop, self.ranks, self.device, self.log = stop, ranks, device, log
        self.facts = RunFacts(
            run=run_name(out),
            recipe=recipe_digest(recipe),
            seed=recipe.seed,
            data={},
            code=code,
            versions=library_versions(LIBRARIES),
            leep=leep,
        )
        self.step = self.closed = self.moved = self.skipped_in_row = 0
        self.saved: int | None = None
        self.history: list[Validation] = []
        self.chosen: dict[str, Tensor] | None = None
        self.chosen_step: int | None = None
        self.seconds = self.wait_s = 0.0
        self.went_on = False  # from a checkpoint
        self._first = contextlib.ExitStack()  # what is told until the first step is made
        self.reading = Reading(ranks, log, names)
        self.weights = make_weights(task, recipe, device, ranks)
        kept = KeptBuffers(self.weights.model) if recipe.nan.policy == "skip" else None
        self.descent = Descent(self.weights.engine, self.weights.ema, kept)

    def run(self) -> TrainOutcome:
        """Train until the end or until the stop flag is raised; measure and export at the end."""
        state = self._resume()
        recipe = self.recipe
        self._check_export()  # now, and not after days of training
        if self.log is not None:
            self._first.enter_context(waiting("opening the data and making the first step"))
        with (
            self._first,
            Stream(
                recipe.data,
                groups=recipe.schedule.groups,
                seed=recipe.seed,
                epoch_steps=recipe.schedule.epoch_steps,
                rank=self.ranks.rank,
                world=self.ranks.world,
                state=state,
                agree=lambda counts: self.ranks.rows(torch.tensor(counts)).amin(0).tolist(),
                pin=self.device.type == "cuda",
            ) as stream,
        ):
            # how many may be bad is a part of all samples of the training, not of this life
            stream.counters.replaced.update(self.reading.replaced)
            stream.counters.samples += self.step * recipe.schedule.groups // self.ranks.world * sum(recipe.quotas)
            if not self._train(stream):
                return self._outcome((), self.stop.reason or "another rank was asked to")
            state = stream.state()
        results = self._finish(state)
        return self._outcome(results, "" if results is not None else self.stop.reason or "another rank was asked to")

    # going on

    def _resume(self) -> dict[str, object] | None:
        """Fill everything from the newest complete checkpoint; the stream's state."""
        found = checkpoint.find(self.checkpoints)
        newest = self.ranks.rows(torch.tensor([found.step]))
        if len(newest.unique()) > 1:
            raise ValueError(
                f"{self.checkpoints}: found step {int(newest.min())} on one rank and {int(newest.max())} on another, "
                "expected one folder that all ranks see; put the run on a shared file system"
            )
        if self.log is not None and found.incomplete:
            try:
                cleared = checkpoint.clear_incomplete(self.checkpoints, self.disk)
            except OSError as error:
                self.log.say(f"{self.checkpoints}: what was never finished is still there ({error}); training goes on")
            else:
                self.log.say(f"cleared {len(cleared)} checkpoints that were never finished: {', '.join(cleared[:5])}")
                self.log.line("cleared", 0, folders=list(cleared))
        if found.newest is None:
            return None
        parts = checkpoint.read(found.newest, part_names(self.weights.ema is not None))
        state = read_state(parts)
        asked = deciding(self.recipe)
        refuse_other(state.decided(asked), asked, TrainRecipe, str(found.newest), "training")
        self.chosen = unpack(parts, state, self.weights, self.ranks)
        self.chosen_step = state.chosen
        self.step, self.closed, self.moved = state.step, state.closed, state.moved
        self.skipped_in_row = state.skipped_in_row
        self.history = [Validation(step, score) for step, score in state.history]
        self.seconds, self.wait_s = state.seconds, state.wait_s
        self.reading.resume(state.replaced)
        self.saved = state.step
        self.went_on = True
        if self.log is not None:
            self.log.say(f"going on from {found.newest}, step {state.step} of {self.recipe.schedule.steps}")
            for text in state.normalised_otherwise(self.weights.bn_groups):
                self.log.say(text)
            self.log.line("resumed", state.step, checkpoint=found.newest.name, ranks=self.ranks.world)
        return state.stream

    # training

    def _train(self, stream: Stream) -> bool:
        """Steps and epochs to the end; False if it was asked to stop, after saving."""
        recipe, ranks = self.recipe, self.ranks
        steps, epoch_steps = recipe.schedule.steps, recipe.schedule.epoch_steps
        step_images = recipe.schedule.groups * sum(recipe.quotas)
        pace = Pace(steps, step_images, self.step, self.wait_s, time.monotonic)
        logged = saved_at = time.monotonic()
        news: Stepped | None = None  # of the last step, until it is logged
        before_s, before_wait_s = self.seconds, self.wait_s
        trained_s = 0.0  # of this life, evaluation and saving left out
        while True:
            began = time.monotonic()
            # before the batch is handed out, so that a stall of the storage does not hold up a stop
            is_stalled = self.step < steps and not stream.wait(lambda: self.stop.requested)
            now = time.monotonic()
            trained_s += now - began
            self.wait_s = before_wait_s + stream.counters.wait_s
            due = self.log is not None and now - saved_at >= 60 * recipe.checkpoint.every_min
            tell = self.log is not None and (now - logged >= LOG_EVERY_S or self.step in (1, steps))
            quit_now, save_now, log_now = ranks.agree(is_stalled or self.stop.requested, due, tell)
            later = time.monotonic()  # a rank that waits for its data holds up the others here
            trained_s += later - now
            self.seconds = before_s + trained_s
            if log_now and news is not None:
                self._log_step(news, pace)
                logged, news = now, None
            if save_now and not quit_now:
                self._save(stream, must=False)
                saved_at = time.monotonic()
            if not quit_now and self.step > self.closed and (self.step % epoch_steps == 0 or self.step == steps):
                self._close_epoch(stream)
            if self.step == steps and self.closed == steps:
                self._save(stream)
                return True
            if quit_now:
                self._save(stream)
                return False
            began = time.monotonic()
            batch = next(stream)
            news = self._step(batch)
            now = time.monotonic()
            trained_s += now - began
            self.seconds = before_s + trained_s
            self.reading.add(batch.replaced)

    def _log_step(self, stepped: Stepped, pace: Pace) -> None:
        """The losses are means over the ranks, which all call this."""
        loss, *parts = (self.ranks.add_up(stepped.numbers.cpu()) / self.ranks.world).tolist()
        if self.log is None:
            return
        self.log.line(
            "train",
            self.step,
            loss=loss,
            **{f"loss_{name}": part for name, part in zip(stepped.names, parts, strict=True)},
            rate=self._rate(self.step - 1),
            images_per_s=round(self._images_per_s(), 1),
            wait_share=round(self._wait_share(), 4),
            images=self._images(self.step),
            seconds=round(self.seconds, 3),
            wait_s=round(self.wait_s, 3),
            skipped=self.step - self.moved,
        )
        if (text := pace.line(self.step, loss, self.wait_s)) is not None:
            self.log.say(text)

    def _rate(self, step: int) -> float:
        return learning_rate(self.recipe.optim, step, self.recipe.schedule.steps)

    def _step(self, batch: Batch) -> Stepped:
        """One batch. Raises ValueError as the Task says of the batch, and as the recipe's policy for NaN says."""
        torch.manual_seed(hashed(self.recipe.seed, _DROPOUT, batch.step, self.ranks.rank) >> 1)
        stepped = self.descent.step(
            [partial(self._loss, part) for part in batch.split(self.recipe.engine.accumulate)], self._rate(batch.step)
        )
        if stepped.moved:
            self.moved += 1
            self.skipped_in_row = 0
        else:
            self._skip(batch.step, stepped.loss)
        self.step = batch.step + 1
        self._first.close()
        return stepped

    def _loss(self, part: Batch, forward: Forward) -> Loss:
        return self.task.loss(forward, part, self.device, self.ranks)

    def _skip(self, step: int, loss: float) -> None:
        """Count a step that changed nothing; give up when it is too often."""
        policy = self.recipe.nan
        self.skipped_in_row += 1
        what = f"a loss of {loss}" if loss - loss != 0 else f"a gradient that is not finite (loss {loss:.4g})"
        if policy.policy == "stop":
            raise ValueError(
                f"step {step}: found {what}, expected finite numbers; nothing of this step was kept, go on from the "
                f"last checkpoint with a lower optim.lr, optim.clip_grad, or nan.policy: skip"
            )
        if self.skipped_in_row > policy.most:
            raise ValueError(
                f"step {step}: found {what} in {self.skipped_in_row} steps in a row, expected at most {policy.most} "
                "(nan.most); lower optim.lr or set optim.clip_grad"
            )
        if self.log is not None:
            self.log.line(
                "skipped", step, reason="loss" if loss - loss != 0 else "gradient", in_row=self.skipped_in_row
            )

    # ends of epochs, and the end

    def _close_epoch(self, stream: Stream) -> None:
        schedule, spec = self.recipe.schedule, self.recipe.evaluate
        self.weights.combine()
        epoch = -(-self.step // schedule.epoch_steps)
        if spec.validation is not None and (epoch % spec.every_epochs == 0 or self.step == schedule.steps):
            with self.weights.averaged():
                found = self.task.measure(self.weights.model, VALIDATION, "validation", self.device, self.ranks)
            self.history.append(Validation(self.step, found.score))
            if self.log is not None:
                append_results(self.out / RESULTS, self._results(found, self.step, False, stream.state()))
            if select(self.history) == self.step:
                self.chosen, self.chosen_step = self._keep(), self.step
            if self.log is not None:
                self.log.say(f"step {self.step}: validation {self.task.metric} {found.text}")
                self.log.line("validation", self.step, **found.numbers)
                for name, picture in found.pictures.items():
                    self.log.picture(name, self.step, picture)
        self.reading.share(self.step)
        self.reading.share_fetched(self.step, stream)
        self.closed = self.step

    def _keep(self) -> dict[str, Tensor]:
        with self.weights.averaged():
            return self.task.keep(self.weights.model)

    def _check_export(self) -> None:
        with self.weights.averaged():
            self.task.check_export(self.weights.model, self.device)

    def _finish(self, state: dict[str, object]) -> tuple[Result, ...] | None:
        """Measure the chosen weights on the test sets and export them; None if it was asked to stop before."""
        self._check_export()
        step, kept = self.chosen_step, self.chosen
        if step is None or kept is None:
            step, kept = self.step, self._keep()
        model = self.task.finished(kept, self.device)
        results: list[Result] = []
        numbers = []
        for name in self.recipe.evaluate.tests:
            if self.ranks.agree(self.stop.requested)[0]:
                return None
            with waiting(f"testing on {name}") if self.log is not None else contextlib.nullcontext():
                found = self.task.measure(model, name, "test", self.device, self.ranks)
            results += self._results(found, step, True, state)
            numbers.append((found.set, found.numbers))
        if self.log is not None:
            self._select_validation(step)
            facts = {
                "step": step,
                "weights": self.weights.which,
                "recipe": self.facts.recipe,
                "seed": self.recipe.seed,
            }
            self.task.export(self.out, kept, facts, self.weights.model)
            if results:  # last: a sweep takes a run with results of its tests for done
                append_results(self.out / RESULTS, results)
            for name, counted in numbers:
                self.log.line("test", step, set=name, **counted)
        self.ranks.wait_for_all()
        return tuple(results)

    def _select_validation(self, step: int) -> None:
        """Say of the chosen step's validation line that it was chosen."""
        for line in read_results(self.out / RESULTS).results:
            if line.role == "validation" and line.step == step:
                append_results(self.out / RESULTS, [line.model_copy(update={"selected": True})])

    # files and figures

    def _save(self, stream: Stream, must: bool = True) -> None:
        """A checkpoint of this step, unless there is one. Without `must` an error of the disk is said and borne."""
        if self.saved == self.step or self.step == 0:
            return
        by_rank = self.reading.share(self.step)
        state = RunState(
            version=VERSION,
            step=self.step,
            closed=self.closed,
            moved=self.moved,
            skipped_in_row=self.skipped_in_row,
            ema_updates=None if self.weights.ema is None else self.weights.ema.num_updates,
            stream=stream.state(),
            history=tuple((one.step, one.score) for one in self.history),
            chosen=self.chosen_step,
            seconds=self.seconds,
            wait_s=self.wait_s,
            replaced=by_rank,
            recipe=deciding(self.recipe),
            bn_groups=self.weights.bn_groups,
        )
        began = time.monotonic()
        parts = pack(self.weights, self.chosen, state, self.ranks)
        is_missing = False
        if self.log is not None:
            try:
                folder = checkpoint.save(self.checkpoints, self.step, parts, self.disk)
                self.log.line("saved", self.step, checkpoint=folder.name, seconds=round(time.monotonic() - began, 3))
            except OSError as error:
                if must:
                    raise
                is_missing = True
                self.log.say(f"step {self.step}: no checkpoint was written ({error}); training goes on")
                self.log.line("not_saved", self.step, reason=str(error))
            else:
                self._remove_older()
        if not self.ranks.agree(is_missing)[0]:
            self.saved = self.step

    def _remove_older(self) -> None:
        assert self.log is not None
        try:
            checkpoint.keep_newest(self.checkpoints, self.recipe.checkpoint.keep, self.disk)
        except OSError as error:
            self.log.say(f"step {self.step}: the checkpoint is written, an older one is still there ({error})")
            self.log.line("not_removed", self.step, reason=str(error))

    def _images(self, step: int) -> int:
        """That all ranks have seen up to there."""
        return step * self.recipe.schedule.groups * sum(self.recipe.quotas)

    def _images_per_s(self) -> float:
        return self._images(self.step) / self.seconds if self.seconds else 0.0

    def _wait_share(self) -> float:
        return min(1.0, self.wait_s / self.seconds) if self.seconds else 0.0

    def _results(self, found: Measured, step: int, selected: bool, state: dict[str, object]) -> list[Result]:
        """That of the main branch first; `state`: of the stream, at `step` or later."""
        moment = Moment(
            step, self.weights.which, self._images(step), self._images_per_s(), self._wait_share(), time.time()
        )
        data, groups = {**_digests(state, step), found.set: found.digest}, self.weights.bn_groups
        make = partial(make_result, replace(self.facts, data=data, bn_groups=groups), moment, found.set, found.role)
        views = self.recipe.evaluate.views_of(found.role, found.set)
        return [
            make(found.counts, selected, views=views, score=found.score),
            *(make(counts, selected, branch, views) for branch, counts in found.branches.items()),
        ]

    def _outcome(self, results: tuple[Result, ...] | None, stopped: str) -> TrainOutcome:
        replaced = self.reading.replaced_by_all
        if self.log is not None:
            self.log.line("stopped" if stopped else "finished", self.step, reason=stopped, replaced=replaced)
            self.log.say(f"{duration(self.seconds)} of training{', all starts together' if self.went_on else ''}")
        return TrainOutcome(
            self.out,
            self.step,
            self.recipe.schedule.steps,
            self._images_per_s(),
            self._wait_share(),
            self.task.metric,
            results or (),
            stopped,
            replaced,
        )


def _digests(state: Mapping[str, object], step: int) -> dict[str, str]:
    """Domain -> digest of the index that the first `step` steps have read last; a growth that is planned for later is
    left out."""
    domains = state["domains"]
    assert isinstance(domains, list)
    return {
        str(domain["name"]): str([digest for first, _, digest in domain["segments"] if first < max(step, 1)][-1])
        for domain in domains
    }
