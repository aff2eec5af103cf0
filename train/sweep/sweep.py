"""Sweeps: a grid of recipe changes times seeds, trained run by run, resumable at any point.

In: a `SweepSpec` (a YAML in recipes/sweeps/), the base recipe it changes, an output folder. Out: a `SweepOutcome`.
On disk:

    sweep.yaml                  what was asked, resolved
    recipes/<run>.yaml          the resolved recipe of each run
    <run>/                      as the training loop writes it; <run> is the point's number, the seed and the recipe's
                                digest, and the fingerprint of the whole recipe where two points share a digest
    logs/<run>-<attempt>.txt    what the run's process printed
    results.jsonl               the lines of all finished runs, with their place in the sweep; replaced as a whole
    sweep.lock                  held by the call at work: one at a time works in a folder

The recipe's digest (`train.recipe.recipe_digest`) is that of what decides the result: not the engine, the threads, the
cache, the checkpoints. A run is done when its own results hold, for this digest, a selected line for every test set. So
the same command continues a sweep, also with another engine, and a recipe that decides otherwise is another run in
another folder. Results over data that have changed since count for nothing and are in the way: the sweep is refused. A
point may name the data sets it needs; they are made (or found finished) before the first run, by a function that the
caller gives.

Runs go through `cluster.fan_out.fan_out`: a unit is one run, in a process of its own (see `sweep_worker.py`).
"""

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cluster.fan_out.events import Event, EventLog
from cluster.fan_out.fan_out import fan_out
from cluster.fan_out.work import FanOutSpec, Summary
from cluster.process.exit import EXIT_COMPLETE
from cluster.process.stop_flag import StopFlag
from cluster.recipes.load import dump_recipe, fingerprint
from cluster.recipes.mistake import RecipeError, first_mistake
from cluster.recipes.overrides import lay_over
from shards.disk.amounts import counted, time_text
from shards.disk.lock import folder_locked
from shards.disk.replace import replace_file
from shards.stream.index import load_index
from train.evaluate.results import RESULTS, PointPlace, Result, SweepPlace, read_results, write_results
from train.recipe import TrainRecipe, recipe_digest
from train.sweep.worker import RunJob, SweepJob, make_sweep_worker

LOCK = "sweep.lock"


class MakeSpec(BaseModel):
    """A data set that a point needs: what `sixfold generate` would be told."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: Path = Field(description="of the generator, such as recipes/sandbox.yaml")
    scale: str = Field("6x", description="multiple of the real set")
    out: str = Field(min_length=1, description="folder or URL of the data set; the point's domains name it as source")
    changes: Mapping[str, Any] = Field(default={}, description="recipe fields to replace, dotted")

    @property
    def overrides(self) -> list[str]:
        """As `cluster.recipes.load.load_recipe` takes them; JSON is YAML."""
        return [f"{path}={json.dumps(value)}" for path, value in self.changes.items()]


class PointSpec(BaseModel):
    """One point of the grid."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    x: float | None = Field(None, description="place on the axis, if the sweep is a curve")
    baseline: str | None = Field(None, description="label to compare this point with; null = the sweep's")
    changes: Mapping[str, Any] = Field(
        default={}, description="fields of the base recipe to replace; a.0.b reaches into lists, a.0: null takes it out"
    )
    make: tuple[MakeSpec, ...] = Field((), description="data sets to make first")


class SweepSpec(BaseModel):
    """The grid and how it is worked off."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$", description="lower-case letters, digits, dashes")
    base: Path = Field(description="the training recipe that every point starts from")
    seeds: int = Field(5, ge=1, le=1000, description="runs of a point: seeds 0, 1, ... replace the recipe's")
    baseline: str = Field(description="label of the point that the others are compared with")
    changes: Mapping[str, Any] = Field(default={}, description="recipe fields that all points replace")
    points: Mapping[str, PointSpec] = Field(min_length=2, max_length=1000, description="label -> point, in order")
    minutes_each: float = Field(gt=0, description="of one run, as the author expects; for estimates only")
    deadline_min: float = Field(600.0, gt=0, description="a run that takes longer is ended and counts as failed")
    cluster: FanOutSpec = FanOutSpec()

    @model_validator(mode="after")
    def _labels_fit(self) -> "SweepSpec":
        if self.baseline not in self.points:
            raise ValueError(f"baseline: found {self.baseline!r}, expected one of {', '.join(self.points)[:200]}")
        for label, point in self.points.items():
            if point.baseline is not None and point.baseline not in self.points:
                raise ValueError(f"points.{label}.baseline: found {point.baseline!r}, expected the label of a point")
        if any(not 1 <= len(label) <= 80 for label in self.points):
            raise ValueError("points: found a label that is empty or longer than 80 characters; shorten it")
        return self


@dataclass(frozen=True)
class Run:
    """One training: its place in the sweep and its whole recipe."""

    name: str
    place: SweepPlace
    varied: Mapping[str, Any]  # the changes of its point alone
    seed: int
    recipe: BaseModel
    digest: str  # of what decides, as its result lines have it
    tests: tuple[str, ...]

    @property
    def title(self) -> str:
        """For people: `6x, seed 1 (data.domains.1.subset=6x)`."""
        varied = _changes_text(self.varied)
        return f"{self.place.point.label}, seed {self.seed}" + (f" ({varied})" if varied else "")


@dataclass(frozen=True)
class Digests:
    """Of the data sets that a recipe reads, by the names that result lines have for them."""

    domains: Mapping[str, str]
    sets: Mapping[str, str]  # validation and tests


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

    @property
    def exit_code(self) -> int:
        """The code that `sixfold sweep` ends with."""
        return EXIT_COMPLETE if self.work is None else self.work.exit_code

    def sentence(self) -> str:
        """The outcome for people; a second line says what is missing."""
        there = f"sweep {self.name}: {self.done} of {counted(self.asked, 'run')} done"
        if self.work is None:
            return f"{there}; nothing was left to train"
        there += f"; this call trained {self.made} in {time_text(self.seconds)}"
        if self.work.error:
            return f"{there}\nnot complete: {self.work.error}"
        if self.work.drained:
            return f"{there}\nnot complete: stopped on request; run the same command again to continue"
        if self.work.quarantined:
            first = self.work.quarantined[0]
            return (
                f"{there}\nnot complete: gave up {counted(len(self.work.quarantined), 'run')} "
                f"({self.titles[first.unit]}: {first.cause}); run the same command again to try once more"
            )
        return there


# planning


def plan_runs(spec: SweepSpec, base: BaseModel) -> list[Run]:
    """All runs, seeds of the first point first. The base's model validates each changed recipe; `seed` and
    `evaluate.tests` are the two fields that a sweep must find in it."""
    model = type(base)
    runs: list[Run] = []
    for number, (label, point) in enumerate(spec.points.items()):
        for seed in range(spec.seeds):
            where = f"sweep {spec.name}, point {label}"
            changes = {**spec.changes, **point.changes, "seed": seed}
            changed = lay_over(base.model_dump(mode="json"), changes, model, where)
            try:
                recipe = model.model_validate(changed)
            except ValidationError as invalid:
                raise RecipeError(f"{where}: {first_mistake(invalid, model, changed)[1]}") from None
            digest = recipe_digest(recipe)
            place = PointPlace(
                label=label,
                number=number,
                x=point.x,
                baseline=point.baseline or spec.baseline,
                changes={**spec.changes, **point.changes},
            )
            runs.append(
                Run(
                    name=f"{number:03d}-s{seed:03d}-{digest[:12]}",
                    place=SweepPlace(name=spec.name, point=place),
                    varied=point.changes,
                    seed=seed,
                    recipe=recipe,
                    digest=digest,
                    tests=_tests_of(recipe, where),
                )
            )
    _refuse_twins(spec, runs)
    return _apart(runs)


def _tests_of(recipe: BaseModel, where: str) -> tuple[str, ...]:
    tests = recipe.model_dump(mode="json").get("evaluate", {}).get("tests", {})
    if not tests:
        raise RecipeError(f"{where}: found no test set, expected some under `evaluate.tests`: a sweep compares tests")
    return tuple(tests)


def _refuse_twins(spec: SweepSpec, runs: Sequence[Run]) -> None:
    """Two points with one recipe would compare a thing with itself."""
    seen: dict[str, Run] = {}
    for run in runs:
        other = seen.setdefault(_whole(run), run)
        if other is not run:
            raise RecipeError(
                f"sweep {spec.name}: found the same recipe at the points {other.place.point.label} and "
                f"{run.place.point.label}, expected different ones; change one of them"
            )


def _apart(runs: Sequence[Run]) -> list[Run]:
    """Points that differ only in the engine, or in what else decides nothing, do not meet when they change places."""
    count = Counter(run.digest for run in runs)
    return [run if count[run.digest] == 1 else replace(run, name=f"{run.name}-{_whole(run)[:12]}") for run in runs]


def _whole(run: Run) -> str:
    return fingerprint(run.recipe.model_dump(mode="json"))


class DataOf:
    """The digests of the data sets of recipes as they are now; each set is looked at once."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str | None], str | None] = {}

    def __call__(self, recipe: BaseModel) -> Digests:
        """A data set that cannot be read now is left out, and one that may grow: nothing is known of them."""
        if not isinstance(recipe, TrainRecipe):
            return Digests({}, {})
        cache = recipe.data.cache.folder
        sets = dict(recipe.evaluate.tests)
        if recipe.evaluate.validation is not None:
            sets["validation"] = recipe.evaluate.validation
        return Digests(
            self._present({one.name: (one.source, one.subset) for one in recipe.data.domains if not one.grow}, cache),
            self._present({name: (one.source, one.subset) for name, one in sets.items()}, cache),
        )

    def _present(self, sets: Mapping[str, tuple[str, str | None]], cache: Path | None) -> dict[str, str]:
        for one in sets.values():
            if one not in self._known:
                try:
                    self._known[one] = load_index(*one, cache).digest
                except (ValueError, OSError):
                    self._known[one] = None
        return {name: digest for name, one in sets.items() if (digest := self._known[one]) is not None}


def finished(run: Run, folder: Path, data_of: Callable[[BaseModel], Digests]) -> list[Result]:
    """All result lines of a run with its place filled in, if it is done; else nothing.

    Raises ValueError for lines over other data than there are now.
    """
    lines = [line for line in read_results(folder / run.name / RESULTS).results if line.recipe == run.digest]
    there = {line.set for line in lines if line.selected and line.role == "test"}
    if not lines or not there >= set(run.tests):
        return []
    now = data_of(run.recipe)
    for line in lines:
        if line.selected:
            _refuse_other_data(run, line, {**now.domains, **{line.set: now.sets.get(line.set, "")}}, folder)
    return [line.model_copy(update={"sweep": run.place}) for line in lines]


def _refuse_other_data(run: Run, line: Result, now: Mapping[str, str], folder: Path) -> None:
    for name, digest in line.data.items():
        if now.get(name) and now[name] != digest:
            raise ValueError(
                f"{folder / run.name}: found results over other data than there are now ({name}: digest {digest[:12]}, "
                f"now {now[name][:12]}), expected the same for all runs of a sweep; give another folder with --out, or "
                "move this one away"
            )


def describe_sweep(
    spec: SweepSpec, runs: Sequence[Run], out: Path, data_of: Callable[[BaseModel], Digests] | None = None
) -> str:
    """Points, runs and expected minutes; reads what is done, changes nothing but indexes that are saved beside data.

    Raises ValueError for results over other data than there are now.
    """
    data_of = data_of or DataOf()
    lines = [f"sweep     {spec.name}, {len(spec.points)} points x {spec.seeds} seeds, baseline {spec.baseline}"]
    num_left = 0
    for label, point in spec.points.items():
        own = [run for run in runs if run.place.point.label == label]
        done = sum(bool(finished(run, out, data_of)) for run in own)
        num_left += len(own) - done
        changes = _changes_text(point.changes) or "the base recipe"
        lines.append(f"point     {label}: {done} of {counted(len(own), 'run')} done; {changes}")
        lines.extend(f"  needs   {make.out}: {make.recipe} at {make.scale}" for make in point.make)
    workers = spec.cluster.workers
    seconds = 60 * num_left * spec.minutes_each
    rate = ""
    if isinstance(workers, int) and workers > 1:
        rate = f", {time_text(seconds / workers)} with {workers} workers"
    lines.append(f"to train  {num_left} of {counted(len(runs), 'run')}, about {time_text(seconds)} of one worker{rate}")
    return "\n".join(lines)


def _changes_text(changes: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={_short(value)}" for name, value in changes.items())


def _short(value: object) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 60 else text[:57] + "..."


# running


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
) -> SweepOutcome:
    """Train what is missing. `home` is the checkout whose code runs; `make_data` makes one data set or raises.

    `program` is the command that trains one run, called with recipe file and folder; empty means
    `train.session.program`. `data_of` tells the digests of a recipe's data as they are now, by default a new `DataOf`.
    Raises ValueError with one line for a sweep that cannot be planned, a folder in which another sweep is at work, and
    results over other data; OSError if the results cannot be written in the end. What else goes wrong later is in the
    outcome.
    """
    out = out.absolute()
    runs = plan_runs(spec, base)
    with folder_locked(out, LOCK, "sweep", "wait for it, or give another folder with --out"):
        return _run(spec, runs, out, home, stop, make_data, on_event, program, data_of)


def _run(
    spec: SweepSpec,
    runs: Sequence[Run],
    out: Path,
    home: Path,
    stop: StopFlag,
    make_data: Callable[[MakeSpec], None],
    on_event: Callable[[Event], None],
    program: Sequence[str],
    data_of: Callable[[BaseModel], Digests] | None,
) -> SweepOutcome:
    started = time.monotonic()
    before = data_of or DataOf()
    todo = [number for number, run in enumerate(runs) if not finished(run, out, before)]
    work = None
    if todo:
        for make in dict.fromkeys(_hashable(make) for number in todo for make in _needs(spec, runs[number])):
            if stop.requested:
                break
            make_data(MakeSpec.model_validate_json(make))
        _write_plan(spec, runs, out)
        after = data_of or DataOf()  # what was missing or short before may have been made
        for run in runs:
            finished(run, out, after)
        job = SweepJob(
            folder=str(out),
            home=str(home),
            start_in=str(Path.cwd()),  # a worker's own folder is a copy of the code, without data
            program=tuple(program),
            deadline_s=60 * spec.deadline_min,
            runs=tuple(RunJob(name=run.name, digest=run.digest, tests=run.tests) for run in runs),
        )
        # a run is long and has one folder: never start it twice because it is slower than the others
        cluster = spec.cluster.model_copy(update={"straggler_factor": 0.0})
        with EventLog(out / "logs" / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.jsonl") as log:

            def heard(event: Event) -> None:
                log(event)
                on_event(event)
                if event.kind == "unit_done":
                    try:
                        gather(runs, out, after)
                    except (OSError, ValueError) as error:  # the other runs go on, and the last gathering has the word
                        lost = f"the sweep's results were not gathered yet: {error}"
                        said = Event(kind="warning", at_s=event.at_s, message=lost, unit=event.unit)
                        log(said)
                        on_event(said)

            make_worker = partial(make_sweep_worker, job.model_dump(mode="json"))
            work = fan_out(todo, make_worker, cluster, heard, stop, _threads_of(runs[0].recipe))
    done = gather(runs, out, after if todo else before)
    return SweepOutcome(
        name=spec.name,
        titles=[run.title for run in runs],
        asked=len(runs),
        done=done,
        made=done - (len(runs) - len(todo)),
        work=work,
        seconds=time.monotonic() - started,
    )


def gather(runs: Sequence[Run], out: Path, data_of: Callable[[BaseModel], Digests]) -> int:
    """Write the sweep's own results from those of its finished runs; the number of these."""
    lines = [finished(run, out, data_of) for run in runs]
    if any(lines):
        write_results(out / RESULTS, [line for found in lines for line in found])
    return sum(bool(found) for found in lines)


def _needs(spec: SweepSpec, run: Run) -> tuple[MakeSpec, ...]:
    return spec.points[run.place.point.label].make


def _hashable(make: MakeSpec) -> str:
    return make.model_dump_json()


def _write_plan(spec: SweepSpec, runs: Sequence[Run], out: Path) -> None:
    files = {"sweep.yaml": dump_recipe(spec)} | {f"recipes/{run.name}.yaml": dump_recipe(run.recipe) for run in runs}
    for name, text in files.items():
        replace_file(out / name, text.encode())


def _threads_of(recipe: BaseModel) -> int:
    threads = recipe.model_dump(mode="json").get("engine", {}).get("threads")
    return threads if isinstance(threads, int) and threads > 0 else 1
