"""Finds out which runs of a sweep are done, on the data as they are now.

In: the runs of a plan, the sweep's folder. Out: their result lines, a description. On disk: the sweep's own
results.jsonl, replaced as a whole; indexes that are saved beside the data.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from cluster.recipes.load import is_of
from shards.disk.amounts import counted, time_text
from shards.stream.index import load_index
from shards.stream.spec import DomainSpec, StreamSpec
from train.evaluate.evaluate import VALIDATION, SetSpec
from train.evaluate.results import RESULTS, STAGES, Result, read_results, selected, validation_score, write_results
from train.recipe import TrainRecipe
from train.sweep.choice import needed, num_needed, scores_of, sweep_lines
from train.sweep.plan import USUAL_SCALE, Run, SweepSpec, changes_text


@dataclass(frozen=True)
class Digests:
    """Of the data sets that a recipe reads, by the names that result lines have for them."""

    domains: Mapping[str, str]
    sets: Mapping[str, str]  # validation and tests


class DataOf:
    """The digests of the data sets of recipes as they are now; each set is looked at once."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str | None, str], str | None] = {}

    def __call__(self, recipe: BaseModel) -> Digests:
        """A data set that cannot be read now is left out, and one that may grow: nothing is known of them."""
        if not isinstance(recipe, TrainRecipe):
            return Digests({}, {})
        sets = dict(recipe.evaluate.tests)
        if recipe.evaluate.validation is not None:
            sets[VALIDATION] = recipe.evaluate.validation
        return Digests(
            self._present({one.name: one for one in recipe.data.domains if not one.grow}, recipe.data),
            self._present(sets, recipe.data),
        )

    def _present(self, sets: Mapping[str, DomainSpec | SetSpec], data: StreamSpec) -> dict[str, str]:
        found: dict[str, str] = {}
        for name, one in sets.items():
            key = (one.source, one.subset, data.classes or data.domains[0].source)
            if key not in self._known:
                self._known[key] = None
                with contextlib.suppress(ValueError, OSError):
                    self._known[key] = load_index(one.source, one.subset, data.cache.folder, data.class_list).digest
            digest = self._known[key]
            if digest is not None:
                found[name] = digest
        return found


def finished(run: Run, folder: Path, data_of: Callable[[BaseModel], Digests]) -> list[Result]:
    """All result lines of a run, if it is done; else nothing. What its recipe says beside the digest is filled in as it
    says now: the place in the sweep, and the views of each set.

    Raises ValueError for lines over other data than there are now, and for views that do not divide a set.
    """
    lines = [line for line in read_results(folder / run.name / RESULTS).results if line.recipe == run.digest]
    there = {line.set for line in selected(lines)}
    if not lines or not there >= set(run.tests):
        return []
    if run.place.tuned is not None and validation_score(lines) is None:
        return []
    trained: list[tuple[BaseModel, Sequence[Result]]] = [(run.recipe, lines)]
    for name, stage in run.recipe.earlier.items() if isinstance(run.recipe, TrainRecipe) else ():
        trained.append((stage, read_results(folder / run.name / STAGES / name / RESULTS).results))
    for recipe, own in trained:
        now = data_of(recipe)
        for line in own:
            if line.selected:
                _refuse_other_data(run, line, {**now.domains, **{line.set: now.sets.get(line.set, "")}}, folder)
    return [line.model_copy(update={"sweep": run.place, "views": _views(run, line, folder)}) for line in lines]


def _views(run: Run, line: Result, folder: Path) -> int:
    """Pictures of each thing in the set of a line, as the recipe says: older lines say 1."""
    views = run.recipe.evaluate.views_of(line.role, line.set) if isinstance(run.recipe, TrainRecipe) else line.views
    if line.n % views:
        raise ValueError(
            f"{folder / run.name}: found {views} views of {line.set} in the recipe beside {line.n:,} pictures in its "
            "results, expected a divisor; correct evaluate.*.views"
        )
    return views


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
    """Points, runs and expected minutes of those among `runs`; reads what is done, changes nothing but indexes that are
    saved beside data.

    Raises ValueError for results over other data than there are now.
    """
    data_of = data_of or DataOf()
    lines = [f"sweep     {spec.name}, {len(spec.points)} points x {spec.seeds} seeds, baseline {spec.baseline}"]
    for field, values in spec.tune.items():
        lines.append(f"tune      {field}: {', '.join(map(str, values))}")
    if spec.tune:
        others = "" if spec.num_tune_seeds == spec.seeds else "; the other seeds have the best on validation"
        settings = f"{counted(spec.num_settings, 'setting')} for {counted(spec.num_tune_seeds, 'seed')} of each point"
        lines.append(f"          {settings}{others}")
    lines.extend(f"by seed   {line}" for line in _seeds_lines(spec.by_seed, spec.seeds))
    num_left = 0
    for label, point in spec.points.items():
        own = [run for run in runs if run.place.point.label == label]
        if not own:
            continue
        found = [finished(run, out, data_of) for run in own]
        done = sum(bool(found[number]) for number in needed(own, scores_of(dict(enumerate(found)))))
        num, num_left = num_needed(own), num_left + num_needed(own) - done
        changes = changes_text(point.changes) or "the base recipe"
        lines.append(f"point     {label}: {done} of {counted(num, 'run')} done; {changes}")
        lines.extend(f"  by seed {line}" for line in _seeds_lines(point.by_seed, spec.seeds))
        for make in point.make:
            scale = make.scale or (None if is_of(make.recipe, TrainRecipe) else USUAL_SCALE)
            lines.append(f"  needs   {make.out}: {make.recipe}" + (f" at {scale}" if scale else ""))
            lines.extend(f"    by seed {line}" for line in _seeds_lines(make.by_seed, spec.seeds))
    workers = spec.cluster.workers
    seconds = 60 * num_left * spec.minutes_each
    rate = ""
    if isinstance(workers, int) and workers > 1:
        rate = f", {time_text(seconds / workers)} with {workers} workers"
    lines.append(
        f"to train  {num_left} of {counted(num_needed(runs), 'run')}, about {time_text(seconds)} of one worker{rate}"
    )
    return "\n".join(lines)


def _seeds_lines(by_seed: Mapping[str, Sequence[object]], seeds: int) -> list[str]:
    """``["data.domains.0.subset: shots-20, shots-20-draw-1"]``, the values of seeds that are run."""
    return [f"{field}: {', '.join(map(str, values[:seeds]))}" for field, values in by_seed.items()]


def gather(runs: Sequence[Run], out: Path, data_of: Callable[[BaseModel], Digests]) -> int:
    """Write the sweep's own results from those of its finished runs; the number of these. Of a point that is
    tuned only those of the chosen setting are selected."""
    lines = [finished(run, out, data_of) for run in runs]
    if any(lines):
        write_results(out / RESULTS, sweep_lines(runs, lines))
    return sum(bool(found) for found in lines)
