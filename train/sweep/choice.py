"""Which run is the result of a point and seed: in a sweep that tunes, the one with the best score on validation.

In: the runs of a plan in their order, the result lines of those that are done. Out: numbers of runs, lines, sentences.
On disk: nothing. Results on tests are not looked at; of equal scores the first in the grid is taken. While a setting of
a point and seed is missing, nothing is chosen there: every point has the same number of tries.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from shards.disk.amounts import counted
from train.evaluate.results import Result, validation_score
from train.sweep.plan import Run

MOST_POINTS = 8  # in one sentence


def tries(runs: Sequence[Run]) -> list[list[int]]:
    """For each point and seed the numbers of its runs, in the order of the grid; a single one if nothing is tuned."""
    found: dict[tuple[int, int], list[int]] = defaultdict(list)
    for number, run in enumerate(runs):
        found[run.place.point.number, run.seed].append(number)
    return list(found.values())


def best(scores: Mapping[int, float | None], of: Sequence[int]) -> int | None:
    """The number with the highest score, the first of equals; None while one has no score. One alone needs none."""
    if len(of) == 1:
        return of[0]
    known = {number: score for number in of if (score := scores.get(number)) is not None}
    return max(known, key=known.__getitem__) if len(known) == len(of) else None


def chosen(runs: Sequence[Run], lines: Sequence[Sequence[Result]]) -> list[int]:
    """The runs that are the results of their points and seeds; `lines` are those of each run, none until it is done."""
    done = [of for of in tries(runs) if all(lines[number] for number in of)]
    scores = {number: validation_score(lines[number]) for of in done for number in of}
    return [number for of in done if (number := best(scores, of)) is not None]


def sweep_lines(runs: Sequence[Run], lines: Sequence[Sequence[Result]]) -> list[Result]:
    """All lines as the sweep keeps them: only those of chosen runs are selected, so a report counts no other."""
    results = set(chosen(runs, lines))
    return [
        line if number in results else line.model_copy(update={"selected": False})
        for number, found in enumerate(lines)
        for line in found
    ]


def choices(runs: Sequence[Run], lines: Sequence[Sequence[Result]]) -> list[str]:
    """For people: what was chosen how often, and where the grid should be wider. Nothing for a sweep without `tune`."""
    places = [run.place.tuned for run in runs]
    tuned = next((place for place in places if place is not None), None)
    if tuned is None:
        return []
    results = [runs[number] for number in chosen(runs, lines)]
    number = len(tries(runs))
    said = [
        f"tuned: {len(results)} of {counted(number, 'result')} there, each the best of "
        f"{counted(tuned.num_settings, 'setting')} on validation"
    ]
    if not results:
        return said
    how_often = []
    for field, values in tuned.grid.items():
        count = Counter(_value(run, field) for run in results)
        how_often.append(f"{field} " + ", ".join(f"{value} ({count[str(value)]})" for value in values))
    said.append(f"chosen: {'; '.join(how_often)}")
    for field, values in tuned.grid.items():
        said.extend(_at_ends(results, field, values))
    return said


def _value(run: Run, field: str) -> str:
    return "" if run.place.tuned is None else str(run.place.tuned.settings[field])


def _at_ends(results: Sequence[Run], field: str, values: Sequence[object]) -> list[str]:
    """A sentence for each end of the values that most seeds of some point have chosen. Words have no ends."""
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) < 2 or len(numbers) < len(values):
        return []
    by_point: dict[str, list[str]] = defaultdict(list)
    for run in results:
        by_point[run.place.point.label].append(_value(run, field))
    said = []
    for word, end in (("smallest", min(numbers)), ("largest", max(numbers))):
        points = [label for label, own in by_point.items() if 2 * own.count(str(end)) > len(own)]
        if points:
            more = f" and {len(points) - MOST_POINTS} more" if len(points) > MOST_POINTS else ""
            said.append(
                f"the best {field} is the {word} ({end}) for most seeds of {', '.join(points[:MOST_POINTS])}{more}: "
                "widen the grid"
            )
    return said
