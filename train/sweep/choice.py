"""Which runs a sweep needs and which are its results: in a sweep that tunes, one setting for each point.

In: the runs of a plan in their order, and the scores on validation of those that are done. Out: numbers of runs,
lines, sentences. On disk: nothing.

The first seeds of a point (`SweepSpec.tune_seeds`) are trained with every setting of the grid. The setting with the
best mean score of these seeds is that of the point: its other seeds are trained with it alone. Results on tests are
not looked at; of equal scores the first in the grid is taken. While one of these runs is missing, nothing is chosen for
the point: every point has the same number of tries.
"""

import json
import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from shards.disk.amounts import counted
from train.evaluate.results import Result, validation_score
from train.sweep.plan import Run

MOST_POINTS = 8  # in one sentence
Scores = Mapping[int, float | None]  # of the runs that are done; None: without validation


def best_settings(runs: Sequence[Run], scores: Scores) -> dict[int, str]:
    """Number of a point -> its setting, of the points whose grid is trained; a sweep that does not tune has none."""
    tried: dict[int, dict[str, list[float | None]]] = defaultdict(lambda: defaultdict(list))
    for number, run in enumerate(runs):
        if _tunes(run):
            tried[run.place.point.number][_setting(run)].append(scores.get(number))
    found = {}
    for point, by_setting in tried.items():
        means = {
            setting: statistics.fmean(known)
            for setting, own in by_setting.items()
            if len(known := [score for score in own if score is not None]) == len(own)
        }
        if len(means) == len(by_setting):
            found[point] = max(means, key=means.__getitem__)
    return found


def needed(runs: Sequence[Run], scores: Scores) -> list[int]:
    """The runs to train, as far as that is known: all without a grid; else those of the first seeds, and of the others
    those with the point's setting."""
    best = best_settings(runs, scores)
    return [number for number, run in enumerate(runs) if _tunes(run) or _is_of_setting(run, best)]


def num_needed(runs: Sequence[Run]) -> int:
    """How many runs the sweep has in the end."""
    other_seeds = {(run.place.point.number, run.seed) for run in runs if run.place.tuned and not _tunes(run)}
    return len(other_seeds) + sum(run.place.tuned is None or _tunes(run) for run in runs)


def chosen(runs: Sequence[Run], scores: Scores) -> list[int]:
    """The runs that are the results of their points and seeds."""
    best = best_settings(runs, scores)
    return [number for number, run in enumerate(runs) if number in scores and _is_of_setting(run, best)]


def scores_of(lines: Mapping[int, Sequence[Result]]) -> dict[int, float | None]:
    """The scores of the runs that are done; `lines` are those of each run, none until it is done."""
    return {number: validation_score(own) for number, own in lines.items() if own}


def sweep_lines(runs: Sequence[Run], lines: Sequence[Sequence[Result]]) -> list[Result]:
    """All lines as the sweep keeps them: only those of chosen runs are selected, so a report counts no other."""
    results = set(chosen(runs, scores_of(dict(enumerate(lines)))))
    return [
        line if number in results else line.model_copy(update={"selected": False})
        for number, found in enumerate(lines)
        for line in found
    ]


def choices(runs: Sequence[Run], lines: Sequence[Sequence[Result]]) -> list[str]:
    """For people: what was chosen how often, and where the grid should be wider. Nothing for a sweep without `tune`."""
    tuned = next((run.place.tuned for run in runs if run.place.tuned is not None), None)
    if tuned is None:
        return []
    best = best_settings(runs, scores_of(dict(enumerate(lines))))
    labels = {run.place.point.number: run.place.point.label for run in runs}
    said = [
        f"tuned: {len(best)} of {counted(len(labels), 'point')}, each with the best of "
        f"{counted(tuned.num_settings, 'setting')} on validation{tuned.over_seeds}"
    ]
    if not best:
        return said
    values_of = {labels[point]: json.loads(setting) for point, setting in best.items()}
    how_often = []
    for field, values in tuned.grid.items():
        count = Counter(json.dumps(own[field]) for own in values_of.values())
        how_often.append(f"{field} " + ", ".join(f"{value} ({count[json.dumps(value)]})" for value in values))
    said.append(f"chosen: {'; '.join(how_often)}")
    for field, values in tuned.grid.items():
        said.extend(_at_ends({label: own[field] for label, own in values_of.items()}, field, values))
    return said


def _tunes(run: Run) -> bool:
    """Whether the run is there to choose a setting, or may be the result of its seed too."""
    tuned = run.place.tuned
    return tuned is not None and tuned.seeds is not None and run.seed < tuned.seeds


def _setting(run: Run) -> str:
    return "" if run.place.tuned is None else json.dumps(dict(run.place.tuned.settings))


def _is_of_setting(run: Run, best: Mapping[int, str]) -> bool:
    return run.place.tuned is None or best.get(run.place.point.number) == _setting(run)


def _at_ends(chosen_by: Mapping[str, object], field: str, values: Sequence[object]) -> list[str]:
    """A sentence for each end of the values that some point has chosen. Words have no ends."""
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) < 2 or len(numbers) < len(values):
        return []
    said = []
    for word, end in (("smallest", min(numbers)), ("largest", max(numbers))):
        points = [label for label, value in chosen_by.items() if value == end]
        if points:
            more = f" and {len(points) - MOST_POINTS} more" if len(points) > MOST_POINTS else ""
            said.append(
                f"the best {field} is the {word} ({end}) for {', '.join(points[:MOST_POINTS])}{more}: widen the grid"
            )
    return said
