"""What a sweep holds fixed beside what it compares, and how many labels it used: sentences for a report; pure.

In: a `Sweep`, all results, the recipes of runs as they were read, a function that counts the pictures of a data set.
Out: a `Fixed`. On disk: nothing. A gain is one over the baseline as it was trained, so the page says how that was.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from train.evaluate.results import GridPlace, Result
from train.report.comparison import Sweep

MADE = ("synthetic", "edited", "retrieved")  # domains whose pictures nobody labelled
MOST = 10**12  # of any number here; larger ones are no count

Count = Callable[[str, str | None], int | None]  # address and subset of a data set -> pictures, None: not known


@dataclass(frozen=True)
class Fixed:
    """One sentence each."""

    work: str  # steps and pictures a step
    tuning: str
    seeds: str  # what a seed changes
    labels: str

    @property
    def text(self) -> str:
        """All of it."""
        return f"{self.work} {self.tuning} {self.seeds} {self.labels}"


def held_fixed(
    sweep: Sweep, results: Iterable[Result], recipes: Mapping[str, Sequence[Mapping[str, Any]]], count: Count
) -> Fixed:
    """`recipes`: name of a run -> what its recipe.yaml holds, checked here, since it comes from a file."""
    runs = {run.run: run for row in sweep.rows for cell in row.cells.values() for run in cell.runs}
    read = [recipe for name in runs for recipe in recipes.get(name, ())]
    steps = {_steps(one) for one in read}
    counted = [run for run in runs.values() if 0 < run.step <= MOST and 0 <= run.images_seen <= MOST]
    batches = {round(run.images_seen / run.step) for run in counted}
    return Fixed(
        f"{_same('steps', _numbers(steps))}; {_same('images a step', batches)}.",
        _tuning([run.sweep.tuned if run.sweep else None for run in runs.values()]),
        _seeds([run.sweep.by_seed if run.sweep else {} for run in runs.values()]),
        _labels(read, {one.n for one in results if one.role == "validation" and one.run in runs}, count),
    )


def _tuning(places: Sequence[GridPlace | None]) -> str:
    tuned = [place for place in places if place is not None]
    if not tuned:
        return (
            "No setting was tuned, neither for the baseline nor for the others: all have those of the sweep's recipe."
        )
    fields = ", ".join(sorted({field for place in tuned for field in place.grid}))
    budget = _range({place.num_settings for place in tuned})
    over = {place.over_seeds for place in tuned}
    best = f"the best of {budget} settings of {fields} on validation{over.pop() if len(over) == 1 else ''}"
    if len(tuned) < len(places):
        some = f"{len(tuned):,} of {len(places):,} runs"
        return f"Of {some} {best} was taken, the others were not tuned: do not compare the two kinds."
    each = "point" if all(place.seeds for place in tuned) else "point and seed"
    return f"Every {each}, the baseline included, has {best}."


def _seeds(own: Sequence[Mapping[str, Any]]) -> str:
    """What an interval over seeds holds for."""
    fields = list(dict.fromkeys(field for one in own for field in one))
    if not fields:
        return "A seed changes the training alone: the images are the same for all seeds."
    return f"Each seed has its own {', '.join(fields)}, so intervals over seeds hold for these too."


def _steps(recipe: Mapping[str, Any]) -> int | None:
    """Of all stages together; of one that does not say, those of the recipe."""
    total = 0
    for stage in [recipe, *_before(recipe)]:
        own = stage.get("schedule", recipe.get("schedule")) if isinstance(stage, dict) else None
        number = own.get("steps") if isinstance(own, dict) else None
        if not isinstance(number, int):
            return None
        total += number
    return total


def _numbers(found: Iterable[object]) -> set[int]:
    return {one for one in found if isinstance(one, int) and 0 <= one <= MOST}


def _same(what: str, values: set[int]) -> str:
    """ "900 steps at all points"."""
    if not values:
        return f"{what}: not known"
    return f"{_range(values)} {what}" + (" at all points" if len(values) == 1 else ", not the same at all points")


def _range(values: set[int]) -> str:
    few = f"{min(values):,}"
    return few if len(values) == 1 else f"{few} to {max(values):,}"


def _labels(recipes: Sequence[Mapping[str, Any]], validation: set[int], count: Count) -> str:
    """Pictures that choose the checkpoint are labelled too."""
    numbers = [_labelled(recipe, count) for recipe in recipes]
    known = {number for number in numbers if number is not None}
    is_known = bool(known) and None not in numbers
    trained = f"{_range(known)} to train" if is_known else "those to train on cannot be counted here"
    chosen = f"{_range(validation)} to choose the checkpoint" if validation else "none to choose the checkpoint"
    return f"Labelled real pictures of a run: {trained} + {chosen}."


def _labelled(recipe: Mapping[str, Any], count: Count) -> int | None:
    """The pictures of the domains that people labelled, in all stages; None if one of them cannot be counted."""
    places: dict[tuple[str, str | None], None] = {}
    for number, part in enumerate([recipe, *_before(recipe)]):
        data = part.get("data") if isinstance(part, dict) else None
        domains = data.get("domains") if isinstance(data, dict) else None
        if number == 0 and not isinstance(domains, list):
            return None
        for domain in domains if isinstance(domains, list) else ():
            if not isinstance(domain, dict) or not isinstance(source := domain.get("source"), str):
                return None
            subset = domain.get("subset")
            if domain.get("name") not in MADE:
                places[source, subset if isinstance(subset, str) else None] = None
    numbers = [count(source, subset) for source, subset in places]
    return None if None in numbers else sum(number for number in numbers if number is not None)


def _before(recipe: Mapping[str, Any]) -> list[Any]:
    """Its earlier stages."""
    before = recipe.get("before", [])
    return before if isinstance(before, list) else [None]
