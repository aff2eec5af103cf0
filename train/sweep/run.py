"""Sweeps: the runs of a plan, trained one by one, resumable at any point.

In: a `SweepSpec` (a YAML in recipes/sweeps/), the base recipe it changes, an output folder. Out: a `SweepOutcome`.
On disk:

    sweep.yaml                  what was asked, resolved; the folder belongs to the sweep of this name
    recipes/<run>.yaml          the resolved recipe of each run
    <run>/                      as a training writes it
    logs/<run>-<attempt>.txt    what the run's process printed
    results.jsonl               the lines of all finished runs, with their place in the sweep; replaced as a whole
    sweep.lock                  held by the call at work: one at a time works in a folder
    _meta/lives/                the history of the folder, see cluster.process.lives

With `tune`, the first seeds of a point are trained with each setting of the grid, then its other seeds with the best on
validation (`train.sweep.choice`): of the lines in `results.jsonl` only those of this setting are selected. All runs
measure their tests; what the others reach is in their folders.

A run is done when its results have, for its recipe's digest, a selected line for every test set (and for
validation, with `tune`). So the same command
continues a sweep, also with another engine, more seeds or more points. A recipe with another digest is another run, in
another folder. If data have changed since results were made, the sweep is refused. A point may name the data sets it
needs; a function of the caller makes them, or finds them finished, before the first run.

Runs go through `cluster.fan_out.fan_out`: a unit is one run, in a process of its own (see `train.sweep.worker`).
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from secrets import token_bytes

from pydantic import BaseModel

from cluster.fan_out.attempt import life_id
from cluster.fan_out.events import Event, EventLog
from cluster.fan_out.fan_out import fan_out
from cluster.fan_out.work import Summary
from cluster.process.exit import EXIT_AGAIN, EXIT_COMPLETE
from cluster.process.lives import begin
from cluster.process.stop_flag import StopFlag
from cluster.recipes.folder import LocalFolder, claim
from cluster.recipes.load import dump_recipe
from shards.disk.amounts import counted, time_text
from shards.disk.data_set import refuse_foreign_folder
from shards.disk.lock import folder_locked
from shards.disk.replace import replace_file
from shards.disk.store import FolderStore
from train.evaluate.results import RESULTS, SWEEP, Result
from train.sweep.choice import choices, needed, num_needed, scores_of
from train.sweep.done import DataOf, Digests, finished, gather
from train.sweep.plan import MakeSpec, Run, SweepSpec, chosen_runs, plan_runs
from train.sweep.worker import RunJob, SweepJob, make_sweep_worker

LOCK = "sweep.lock"
RECIPES = "recipes"


@dataclass(frozen=True)
class SweepOutcome:
    """How a call of a sweep ended."""

    name: str
    titles: Sequence[str]  # of all runs, by number
    asked: int
    done: int
    made: int  # by this call
    work: Summary | None  # of the fan-out; None if there was nothing to do
    seconds: float
    choices: Sequence[str] = ()  # of a sweep that tunes: what was chosen, and where the grid should be wider

    @property
    def exit_code(self) -> int:
        """The code that `sixfold sweep` ends with."""
        return EXIT_COMPLETE if self.work is None else self.work.exit_code

    def sentence(self) -> str:
        """The outcome for people; a second line says what is missing, more what was chosen."""
        return "\n".join([self._ended(), *self.choices])

    def _ended(self) -> str:
        there = f"sweep {self.name}: {self.done} of {counted(self.asked, 'run')} done"
        if self.work is None:
            return f"{there}; nothing was left to train"
        there += f"; this call trained {self.made} in {time_text(self.seconds)}"
        problem = self.problem()
        return f"{there}\nnot complete: {problem}" if problem else there

    def problem(self) -> str:
        """Why it is not complete and what to do; "" if it is."""
        if self.work is None:
            return ""
        if self.work.error:
            return self.work.error
        if self.work.drained:
            return "stopped on request; run the same command again to continue"
        if self.work.quarantined:
            first = self.work.quarantined[0]
            return (
                f"gave up {counted(len(self.work.quarantined), 'run')} ({self.titles[first.unit]}: {first.cause}); "
                "run the same command again to try once more"
            )
        return ""


def run_sweep(
    spec: SweepSpec,
    base: BaseModel,
    out: Path,
    home: Path,
    stop: StopFlag,
    make_data: Callable[[MakeSpec], None],
    on_event: Callable[[Event], None] = lambda event: None,
    program: Sequence[str] = (),
    data_of: Callable[[BaseModel], Digests] | None = None,
    labels: Sequence[str] | None = None,
    on_begin: Callable[[Mapping[int, Sequence[Result]]], None] = lambda there: None,
) -> SweepOutcome:
    """Train what is missing of the points `labels`, of all for None. `home` is the checkout whose code runs;
    `make_data` makes one data set or raises.

    `program` is the command that trains one run, called with recipe file and folder; empty means `train.program`.
    `data_of` tells the digests of a recipe's data as they are now, by default a new `DataOf`.
    `on_begin` hears, for each run of the points that are asked for, its result lines, none for a run that is not done.
    Raises ValueError with one line for a sweep that cannot be planned, a folder that belongs to another sweep or in
    which one is at work, and results over other data; OSError if the results cannot be written in the end. What else
    goes wrong later is in the outcome.
    """
    out = out.absolute()
    runs = plan_runs(spec, base)
    asked = chosen_runs(runs, labels)
    refuse_foreign_folder(out, "sweep")
    with folder_locked(out, LOCK, "sweep", "wait for it, or give another folder with --out"):
        is_used = (out / RESULTS).exists() or (out / RECIPES).exists()
        claim(LocalFolder(out), SWEEP, spec, lambda asked: {"name": asked.name}, "sweep", is_used)
        with begin(FolderStore(out), life_id(os.environ, time.time(), token_bytes(5)), "sweep") as life:

            def begun(there: Mapping[int, Sequence[Result]]) -> None:
                # and never `at_work`: a run saves by itself, so nobody can tell from runs whether a life got further
                life.there(sum(map(bool, there.values())), "run")
                on_begin(there)

            outcome = _run(spec, runs, asked, out, home, stop, make_data, on_event, program, data_of, begun)
            life.there(outcome.done, "run")
            stopped = f"stopped on request: {stop.reason}" if outcome.exit_code == EXIT_AGAIN else ""
            life.ended(outcome.exit_code, stopped or outcome.problem() or "complete")
        return outcome


def _run(
    spec: SweepSpec,
    runs: Sequence[Run],
    asked: Sequence[Run],
    out: Path,
    home: Path,
    stop: StopFlag,
    make_data: Callable[[MakeSpec], None],
    on_event: Callable[[Event], None],
    program: Sequence[str],
    data_of: Callable[[BaseModel], Digests] | None,
    on_begin: Callable[[Mapping[int, Sequence[Result]]], None],
) -> SweepOutcome:
    started = time.monotonic()
    before = data_of or DataOf()
    names = {run.name for run in asked}
    numbers = [number for number, run in enumerate(runs) if run.name in names]
    there = {number: finished(runs[number], out, before) for number in numbers}
    num_before = sum(map(bool, there.values()))
    on_begin(there)
    now = before
    work: Summary | None = None
    for _ in range(2):  # what tunes, and then what has a chosen setting
        given_up = () if work is None else [one.unit for one in work.quarantined]
        todo = [number for number in _needed(runs, there) if not there[number] and number not in given_up]
        if not todo or (work is not None and (work.drained or work.error)):
            break
        for make in dict.fromkeys(_hashable(make) for number in todo for make in _needs(spec, runs[number])):
            if stop.requested:
                break
            make_data(MakeSpec.model_validate_json(make))
        if now is before:
            now = data_of or DataOf()  # what was missing or short before may have been made
        said = on_event if work is None else partial(_later, on_event, work.seconds)
        trained = _train(spec, runs, todo, out, home, stop, said, program, now)
        work = trained if work is None else work.then(trained)
        there = {number: finished(runs[number], out, now) for number in numbers}
    gather(runs, out, now)
    return SweepOutcome(
        name=spec.name,
        titles=[run.title for run in runs],
        asked=num_needed(asked),
        done=sum(bool(there[number]) for number in _needed(runs, there)),
        made=sum(map(bool, there.values())) - num_before,
        work=work,
        seconds=time.monotonic() - started,
        choices=choices(asked, [there[number] for number in numbers]),
    )


def _later(on_event: Callable[[Event], None], seconds: float, event: Event) -> None:
    """Of a second fan-out, as if it had begun with the first."""
    on_event(replace(event, at_s=event.at_s + seconds))


def _needed(runs: Sequence[Run], there: Mapping[int, Sequence[Result]]) -> list[int]:
    """Of the runs in `there`, by their numbers in the plan."""
    numbers = list(there)
    scores = scores_of({place: there[number] for place, number in enumerate(numbers)})
    return [numbers[place] for place in needed([runs[number] for number in numbers], scores)]


def _train(
    spec: SweepSpec,
    runs: Sequence[Run],
    todo: Sequence[int],
    out: Path,
    home: Path,
    stop: StopFlag,
    on_event: Callable[[Event], None],
    program: Sequence[str],
    data_of: Callable[[BaseModel], Digests],
) -> Summary:
    for run in runs:
        replace_file(out / RECIPES / f"{run.name}.yaml", dump_recipe(run.recipe).encode())
    for run in runs:
        finished(run, out, data_of)
    job = SweepJob(
        folder=str(out),
        home=str(home),
        start_in=str(Path.cwd()),  # a worker's own folder is a copy of the code, without data
        program=tuple(program),
        deadline_s=60 * spec.deadline_min,
        runs=tuple(
            RunJob(name=run.name, digest=run.digest, tests=run.tests, tuned=run.place.tuned is not None) for run in runs
        ),
    )
    # a run is long and has one folder: never start it twice because it is slower than the others
    cluster = spec.cluster.model_copy(update={"straggler_factor": 0.0})
    with EventLog(out / "logs" / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.jsonl") as log:

        def heard(event: Event) -> None:
            log(event)
            on_event(event)
            if event.kind == "unit_done":
                try:
                    gather(runs, out, data_of)
                except (OSError, ValueError) as error:  # the other runs go on, and the last gathering has the word
                    lost = f"the sweep's results were not gathered yet: {error}"
                    said = Event(kind="warning", at_s=event.at_s, message=lost, unit=event.unit)
                    log(said)
                    on_event(said)

        make_worker = partial(make_sweep_worker, job.model_dump(mode="json"))
        slow = f"see what its run printed in {out / 'logs'}, or raise cluster.stall_deadline_s"
        return fan_out(todo, make_worker, cluster, heard, stop, _threads_of(runs[0].recipe), slow)


def _needs(spec: SweepSpec, run: Run) -> tuple[MakeSpec, ...]:
    return tuple(make.of_seed(run.seed) for make in spec.points[run.place.point.label].make)


def _hashable(make: MakeSpec) -> str:
    return make.model_dump_json()


def _threads_of(recipe: BaseModel) -> int:
    threads = recipe.model_dump(mode="json").get("engine", {}).get("threads")
    return threads if isinstance(threads, int) and threads > 0 else 1
