"""A training, from the recipe to the exported model.

In: `TrainRecipe`, the run's folder, the checkout whose code runs, a stop flag, the `Ranks` that have met.
Out: a `TrainOutcome`. On disk, in the run's folder (all ranks see it; rank 0 alone writes):

    recipe.yaml             as asked, resolved
    run.lock                held by the training at work
    log.jsonl tensorboard/  see train.session.logs, as for the one file that every rank writes, replaced-<rank>.jsonl
    checkpoints/            see train.session.checkpoint and train.session.run_state
    results.jsonl           see train.evaluate.results: the validation set at the ends of epochs, the test sets once
    model.safetensors       the result, plain weights; model.json and bn_distances.json beside it, see train.task.export

The same command goes on from the newest complete checkpoint. A signal (`StopFlag`) to any rank saves and ends all.

A step: a batch of the stream, forward, loss, backward, the gradient's norm; if it is finite, the weights move and the
average follows. At the end of an epoch the ranks' running statistics are combined in place and the validation set is
measured. Statistics for a checkpoint are combined in copies, so when one is written does not change the training.
"""

import contextlib
import json
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from cluster.code import code_hash, library_versions
from cluster.fan_out.progress import duration
from cluster.process.exit import EXIT_AGAIN, EXIT_COMPLETE
from cluster.process.stop_flag import StopFlag
from cluster.ranks.group import Ranks, device_of
from cluster.recipes.load import dump_recipe, load_recipe
from shards.disk.amounts import counted
from shards.disk.file_calls import OS_DISK, Disk
from shards.disk.lock import folder_locked
from shards.disk.replace import replace_file
from shards.stream.keyed_random import hashed
from shards.stream.stream import Batch, Stream
from train.evaluate.evaluate import (
    Counts,
    Moment,
    OpenSet,
    RunFacts,
    SetSpec,
    Validation,
    make_result,
    open_set,
    open_sets,
    select,
)
from train.evaluate.measure import measure
from train.evaluate.results import RESULTS, Result, Role, append_results, read_results
from train.model.aux_bn import aux_layers, check_aux, export_plain
from train.model.bn_statistics import broadcast_buffers, combine, distances
from train.model.classifiers import build
from train.model.ema import Ema
from train.model.engine import Engine, make_engine
from train.model.input import DeviceMix, to_input
from train.model.optim import learning_rate
from train.model.step import Descent, KeptBuffers
from train.recipe import TrainRecipe, check_ranks, deciding, recipe_digest, refuse_other
from train.session import checkpoint
from train.session.data_check import Opened, check_names, open_domains
from train.session.logs import Pace, ReplacedLog, RunLog
from train.session.run_state import VERSION, RunState, pack, part_names, read_state, unpack
from train.task.export import ABOUT, check_same_output, plain_model, write_export

CHECKPOINTS = "checkpoints"
RECIPE = "recipe.yaml"
LOCK = "run.lock"
VALIDATION = "validation"  # its name in results
LIBRARIES = ("torch", "timm", "deepspeed", "numpy", "simplejpeg", "opencv-python-headless")
LOG_EVERY_S = 5.0
# What a fetcher may count (`shards.stream.fetch.Fetcher.counters`) that makes a training slow and does not end it.
FETCH_ADVICE = {
    "cache_full": "data.cache.folder has no room for some shards, whose pictures are read one by one, slowly; raise "
    "data.cache.max_bytes, or free space on its disk",
    "download_failed": "some shards could not be fetched whole, their pictures are read one by one, slowly; check the "
    "store, and the disk of data.cache.folder",
    "other_bytes": "some shards came with other bytes than their records say; run `sixfold verify` on the data set, "
    "and let nobody write to it",
}
_DROPOUT = 0x64726F70  # keeps these seeds apart from those of order and pixels


@dataclass(frozen=True)
class TrainOutcome:
    """How a call of `train` ended."""

    folder: Path
    step: int  # steps done, over all lives
    steps: int  # asked for
    images_per_s: float  # over all lives and ranks; 0 if none was trained on
    wait_share: float
    results: tuple[Result, ...]  # the run's, on its test sets
    stopped: str  # why it ended early; empty if it did not
    replaced: int = 0  # samples that could not be read, over all lives and ranks

    @property
    def exit_code(self) -> int:
        return EXIT_AGAIN if self.stopped else EXIT_COMPLETE

    def sentence(self) -> str:
        if self.stopped:
            return (
                f"{self.folder}: stopped at step {self.step} of {self.steps} ({self.stopped}) and saved; the same "
                f"command goes on{self._bad()}"
            )
        tests = "; ".join(f"{one.set} {100 * one.top1:.2f} %" for one in self.results) or "no test set"
        if not self.images_per_s:
            return f"{self.folder}: {self.steps} steps, finished before; nothing was left to do; top-1: {tests}"
        return (
            f"{self.folder}: {self.steps} steps, {self.images_per_s:,.0f} images/s, {self.wait_share:.0%} waiting for "
            f"data; top-1: {tests}{self._bad()}"
        )

    def _bad(self) -> str:
        if not self.replaced:
            return ""
        return f"; {counted(self.replaced, 'sample')} could not be read and gave way to others, see replaced-*.jsonl"


def train(
    recipe: TrainRecipe, out: Path, home: Path, stop: StopFlag, ranks: Ranks, disk: Disk = OS_DISK
) -> TrainOutcome:
    """Train until the end or until `stop`. Raises ValueError or OSError with one line for what cannot go on; `ranks`
    then ends the others with the cause. `disk` takes the checkpoints."""
    began = time.monotonic()
    check_ranks(recipe, ranks.world)
    device = device_of(ranks.place, os.environ)
    torch.set_num_threads(recipe.engine.threads)
    ranks.open(device, recipe.engine.deadline_s, alone_too=recipe.engine.kind != "single")
    stop.arm()
    with contextlib.ExitStack() as owned:
        log = None
        if ranks.rank == 0:
            owned.enter_context(folder_locked(out, LOCK, "training", "wait for it, or take another folder"))
            _claim(recipe, out)
            log = owned.enter_context(RunLog(out, recipe.log, recipe_digest(recipe)))
        done = _finished(recipe, out) if ranks.rank == 0 else ()
        if ranks.agree(bool(done))[0]:
            return TrainOutcome(out, recipe.schedule.steps, recipe.schedule.steps, 0.0, 0.0, done, "")
        # now, and not after days of training: are all sets there, and do their classes fit? Every rank opens them, with
        # no collective call pending: one builds an index, for up to an hour, and the others wait at its lock
        opened = _open_data(recipe)
        if log is not None and recipe.data.check_names:
            for line in check_names(opened):
                log.say(line)
        replaced = owned.enter_context(ReplacedLog(out, ranks.rank))
        training = _Training(recipe, out, home, stop, ranks, device, log, replaced, disk)
        if log is not None:
            log.line(
                "started",
                0,
                engine=recipe.engine.kind,
                ranks=ranks.world,
                launcher=ranks.place.launcher,
                device=str(device),
                seconds=round(time.monotonic() - began, 3),
            )
        return training.run()


def _claim(recipe: TrainRecipe, out: Path) -> None:
    """Write recipe.yaml, or refuse a folder that belongs to another recipe. A recipe that failed before anything of it
    was kept owns nothing: the mended one takes its place."""
    path = out / RECIPE
    if path.is_file() and ((out / CHECKPOINTS).exists() or (out / RESULTS).exists() or (out / ABOUT).exists()):
        refuse_other(recipe, deciding(load_recipe(path, TrainRecipe)), str(out))
    replace_file(path, dump_recipe(recipe).encode())


def _open_data(recipe: TrainRecipe) -> list[Opened]:
    """All data sets of the recipe. Raises ValueError for data that must not be trained or measured on."""
    cache = recipe.data.cache.folder
    domains = open_domains(recipe.data.domains, cache)
    sets = open_sets(recipe.evaluate, recipe.model.num_classes, cache, domains)
    return [*domains, *(one.opened for one in sets)]


def _finished(recipe: TrainRecipe, out: Path) -> tuple[Result, ...]:
    """The results on all test sets, if they and the exported model are there."""
    if not (out / ABOUT).is_file() or not recipe.evaluate.tests:
        return ()
    found = {line.set: line for line in read_results(out / RESULTS).results if line.selected and line.role == "test"}
    return tuple(found[name] for name in recipe.evaluate.tests) if found.keys() >= set(recipe.evaluate.tests) else ()


class _Training:
    """The live objects of one call: model, engine, average, stream, and how far it is."""

    def __init__(
        self,
        recipe: TrainRecipe,
        out: Path,
        home: Path,
        stop: StopFlag,
        ranks: Ranks,
        device: torch.device,
        log: RunLog | None,
        replaced_log: ReplacedLog,
        disk: Disk,
    ) -> None:
        self.recipe, self.out, self.stop, self.ranks, self.device, self.log = recipe, out, stop, ranks, device, log
        self.replaced_log, self.disk = replaced_log, disk
        self.checkpoints = out / CHECKPOINTS
        self.facts = RunFacts(
            run=out.name,
            recipe=recipe_digest(recipe),
            seed=recipe.seed,
            data={},
            code=code_hash(home),
            versions=library_versions(LIBRARIES),
        )
        self.step = self.closed = self.moved = self.skipped_in_row = 0
        self.saved: int | None = None
        self.history: list[Validation] = []
        self.chosen: dict[str, Tensor] | None = None
        self.chosen_step: int | None = None
        self.seconds = self.wait_s = 0.0
        self.replaced: Counter[str] = Counter()  # of this rank, by reason, over all lives
        self.replaced_by_all = 0  # when the ranks last told each other
        self.fetch_told: set[str] = set()  # keys of FETCH_ADVICE
        self.engine, self.ema = self._build()
        kept = KeptBuffers(self.engine.model) if recipe.nan.policy == "skip" else None
        self.descent = Descent(self.engine, recipe.optim, recipe.quotas, self.ema, kept)

    def _build(self) -> tuple[Engine, Ema | None]:
        recipe = self.recipe
        model = build(recipe.model, recipe.quotas, recipe.seed, recipe.data.size_px).to(self.device)
        if recipe.engine.channels_last:
            model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        num_aux = len(aux_layers(model))
        rank_batch = recipe.schedule.groups // self.ranks.world * sum(recipe.quotas)
        engine = make_engine(recipe.engine, recipe.optim, model, self.device, rank_batch)
        if num_aux:
            check_aux(model, num_aux)
        broadcast_buffers(model)
        return engine, None if recipe.optim.ema_decay is None else Ema(model, recipe.optim.ema_decay)

    def run(self) -> TrainOutcome:
        state = self._resume()
        recipe = self.recipe
        self._check_export()  # now, and not after days of training
        with Stream(
            recipe.data,
            groups=recipe.schedule.groups,
            seed=recipe.seed,
            epoch_steps=recipe.schedule.epoch_steps,
            rank=self.ranks.rank,
            world=self.ranks.world,
            state=state,
            agree=lambda counts: self.ranks.rows(torch.tensor(counts)).amin(0).tolist(),
            pin=self.device.type == "cuda",
        ) as stream:
            # how many may be bad is a part of all samples of the training, not of this life
            stream.counters.replaced.update(self.replaced)
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
        newest = self.ranks.rows(torch.tensor([_step_of(found.newest)]))
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
        parts = checkpoint.read(found.newest, part_names(self.ema is not None))
        state = read_state(parts)
        refuse_other(self.recipe, state.recipe, str(found.newest))
        self.chosen = unpack(parts, state, self.engine, self.ema, self.ranks)
        self.chosen_step = state.chosen
        self.step, self.closed, self.moved = state.step, state.closed, state.moved
        self.skipped_in_row = state.skipped_in_row
        self.history = [Validation(step, top1) for step, top1 in state.history]
        self.seconds, self.wait_s = state.seconds, state.wait_s
        self.replaced = _share(state.replaced, self.ranks)
        self.replaced_by_all = sum(sum(own.values()) for own in state.replaced)
        self.saved = state.step
        if self.log is not None:
            self.log.say(f"going on from {found.newest}, step {state.step} of {self.recipe.schedule.steps}")
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
        news: _News | None = None  # of the last step, until it is logged
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
            self.replaced.update(bad.reason for bad in batch.replaced)
            self.replaced_log.add(batch.replaced)

    def _log_step(self, news: "_News", pace: Pace) -> None:
        """The losses are means over the ranks, which all call this."""
        loss, *parts = (self.ranks.add_up(news.numbers.cpu()) / self.ranks.world).tolist()
        if self.log is None:
            return
        domains = self.recipe.data.domains
        self.log.line(
            "train",
            self.step,
            loss=loss,
            **{f"loss_{domain.name}": part for domain, part in zip(domains, parts, strict=True)},
            rate=news.rate,
            images_per_s=round(self._images_per_s(), 1),
            wait_share=round(self._wait_share(), 4),
            skipped=self.step - self.moved,
        )
        if (text := pace.line(self.step, loss, self.wait_s)) is not None:
            self.log.say(text)

    def _step(self, batch: Batch) -> "_News":
        """One batch. Raises ValueError as the recipe's policy for NaN says."""
        recipe = self.recipe
        if int(batch.labels.max()) >= recipe.model.num_classes or int(batch.labels.min()) < 0:
            raise ValueError(
                f"step {batch.step}: found class id {int(batch.labels.max())}, expected below "
                f"{recipe.model.num_classes}; set model.num_classes to what the data has"
            )
        torch.manual_seed(hashed(recipe.seed, _DROPOUT, batch.step, self.ranks.rank) >> 1)
        mix = None if batch.mix is None else DeviceMix.of(batch.mix, self.device)
        pictures = to_input(batch.images, self.device, mix, recipe.engine.channels_last)
        labels = torch.from_numpy(batch.labels).to(self.device, non_blocking=True)
        rate = learning_rate(recipe.optim, batch.step, recipe.schedule.steps)
        stepped = self.descent.step(pictures, labels, mix, rate)
        if stepped.moved:
            self.moved += 1
            self.skipped_in_row = 0
        else:
            self._skip(batch.step, stepped.loss)
        self.step = batch.step + 1
        return _News(stepped.numbers, rate)

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

    # ends of epochs

    def _close_epoch(self, stream: Stream) -> None:
        recipe, model = self.recipe, self.engine.model
        combine(model)
        if self.ema is not None:
            combine(model, self.ema.tensors)
        spec = recipe.evaluate
        epoch = -(-self.step // recipe.schedule.epoch_steps)
        if spec.validation is not None and (epoch % spec.every_epochs == 0 or self.step == recipe.schedule.steps):
            with self._weights():
                one = self._open(VALIDATION, "validation", spec.validation)
                counts = measure(model, one, recipe, self.device, self.ranks)
            self.history.append(Validation(self.step, counts.top1))
            if self.log is not None:
                line = self._result(one, counts, self.step, False, stream.state())
                append_results(self.out / RESULTS, [line])
            if select(self.history) == self.step:
                self.chosen, self.chosen_step = self._plain(), self.step
            if self.log is not None:
                self.log.say(f"step {self.step}: validation top-1 {100 * counts.top1:.2f} %")
                self.log.line("validation", self.step, top1=counts.top1, top5=counts.top5)
        self._share_replaced()
        self._share_fetched(stream)
        self.closed = self.step

    def _share_replaced(self) -> tuple[dict[str, int], ...]:
        """What each rank could not read, by reason; told when it has become more."""
        by_rank = tuple(json.loads(text) for text in self.ranks.texts(json.dumps(self.replaced)))
        before, self.replaced_by_all = self.replaced_by_all, sum(sum(own.values()) for own in by_rank)
        if self.log is not None and self.replaced_by_all > before:
            reasons = sum((Counter(own) for own in by_rank), Counter())
            self.log.line("replaced", self.step, samples=self.replaced_by_all, reasons=reasons)
            self.log.say(f"step {self.step}: {counted(self.replaced_by_all, 'sample')} so far could not be read")
        return by_rank

    def _share_fetched(self, stream: Stream) -> None:
        """Log what the fetchers of all ranks counted in this life; say once of each trouble what to do about it."""
        by_rank = [json.loads(text) for text in self.ranks.texts(json.dumps(stream.fetched()))]
        domains = {name: sum((Counter(own[name]) for own in by_rank), Counter()) for name in by_rank[0]}
        if self.log is None or not any(domains.values()):
            return
        self.log.line("fetched", self.step, domains=domains)
        for name, counts in domains.items():
            for trouble, advice in FETCH_ADVICE.items():
                if counts[trouble] and trouble not in self.fetch_told:
                    self.fetch_told.add(trouble)
                    self.log.say(f"step {self.step}: data.domains.{name}: {advice}")

    def _open(self, name: str, role: Role, spec: SetSpec) -> OpenSet:
        return open_set(name, role, spec, self.recipe.model.num_classes, self.recipe.data.cache.folder)

    def _weights(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if self.ema is None else self.ema.swapped(self.engine.model)

    def _plain(self) -> dict[str, Tensor]:
        model = self.engine.model
        tensors = export_plain(model) if self.ema is None else self.ema.export_plain(model)
        return {name: tensor.cpu() for name, tensor in tensors.items()}

    def _check_export(self) -> dict[str, Tensor]:
        """The plain weights as they are now. Raises ValueError unless they are all there is to the model."""
        weights = self._plain()
        with self._weights():
            check_same_output(self.engine.model, plain_model(self.recipe, weights), self.recipe, self.device)
        return weights

    def _finish(self, state: dict[str, object]) -> tuple[Result, ...] | None:
        """Measure the chosen weights on the test sets and export them; None if it was asked to stop before."""
        recipe, model = self.recipe, self.engine.model
        last = self._check_export()
        weights = last if self.chosen is None or self.chosen_step is None else self.chosen
        step = self.step if self.chosen is None or self.chosen_step is None else self.chosen_step
        plain = plain_model(recipe, weights).to(self.device)
        if recipe.engine.channels_last:
            plain = plain.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        results = []
        for name, spec in recipe.evaluate.tests.items():
            if self.ranks.agree(self.stop.requested)[0]:
                return None
            one = self._open(name, "test", spec)
            counts = measure(plain, one, recipe, self.device, self.ranks)
            results.append(self._result(one, counts, step, True, state))
        if self.log is not None:
            self._select_validation(step)
            if results:
                append_results(self.out / RESULTS, results)
            facts = {"step": step, "weights": self._which(), "recipe": self.facts.recipe, "seed": recipe.seed}
            write_export(self.out, recipe, weights, facts, distances(model), self.step)
            for line in results:
                self.log.line("test", step, set=line.set, top1=line.top1, top5=line.top5)
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
        by_rank = self._share_replaced()
        state = RunState(
            version=VERSION,
            step=self.step,
            closed=self.closed,
            moved=self.moved,
            skipped_in_row=self.skipped_in_row,
            ema_updates=None if self.ema is None else self.ema.num_updates,
            stream=stream.state(),
            history=tuple((one.step, one.top1) for one in self.history),
            chosen=self.chosen_step,
            seconds=self.seconds,
            wait_s=self.wait_s,
            replaced=by_rank,
            recipe=deciding(self.recipe),
        )
        began = time.monotonic()
        parts = pack(self.engine, self.ema, self.chosen, state, self.ranks)
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

    def _images_per_s(self) -> float:
        seen = self.step * self.recipe.schedule.groups * sum(self.recipe.quotas)
        return seen / self.seconds if self.seconds else 0.0

    def _wait_share(self) -> float:
        return min(1.0, self.wait_s / self.seconds) if self.seconds else 0.0

    def _which(self) -> Literal["ema", "last"]:
        return "last" if self.ema is None else "ema"

    def _result(self, one: OpenSet, counts: Counts, step: int, selected: bool, state: dict[str, object]) -> Result:
        """`state`: of the stream, at `step` or later."""
        seen = step * self.recipe.schedule.groups * sum(self.recipe.quotas)
        moment = Moment(step, self._which(), seen, self._images_per_s(), self._wait_share(), time.time())
        facts = replace(self.facts, data={**_digests(state, step), one.name: one.digest})
        return make_result(facts, moment, one.name, one.role, counts, selected)

    def _outcome(self, results: tuple[Result, ...] | None, stopped: str) -> TrainOutcome:
        outcome = TrainOutcome(
            self.out,
            self.step,
            self.recipe.schedule.steps,
            self._images_per_s(),
            self._wait_share(),
            results or (),
            stopped,
            self.replaced_by_all,
        )
        if self.log is not None:
            self.log.line(
                "stopped" if stopped else "finished", self.step, reason=stopped, replaced=self.replaced_by_all
            )
            self.log.say(f"{duration(self.seconds)} of training")
        return outcome


@dataclass(frozen=True, eq=False)
class _News:
    """What a step has to say if it is logged."""

    numbers: Tensor  # as `Stepped` has them
    rate: float


def _share(by_rank: Sequence[Mapping[str, int]], ranks: Ranks) -> Counter[str]:
    """What this rank counted in earlier lives; with another number of ranks an equal part of what all did."""
    if len(by_rank) == ranks.world:
        return Counter(by_rank[ranks.rank])
    total: Counter[str] = sum((Counter(own) for own in by_rank), Counter())
    return Counter({reason: (count + ranks.world - 1 - ranks.rank) // ranks.world for reason, count in total.items()})


def _digests(state: dict[str, object], step: int) -> dict[str, str]:
    """Domain -> digest of the index that the first `step` steps have read last; a growth that is planned for later is
    left out."""
    domains = state["domains"]
    assert isinstance(domains, list)
    return {
        str(domain["name"]): str([digest for first, _, digest in domain["segments"] if first < max(step, 1)][-1])
        for domain in domains
    }


def _step_of(folder: Path | None) -> int:
    return -1 if folder is None else int(folder.name.removeprefix("step-"))
