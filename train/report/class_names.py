"""What the classes of a sweep are called: as the exports of its own runs say; pure.

In: what `model.json` and `recipe.yaml` of runs hold, checked here, since it comes from files. Out: class id -> name. On
disk: nothing. Two sweeps on one page may be about other classes, and the ids of a set with a label map are its own.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from train.report.comparison import Sweep

ClassNames = Mapping[int, str]


def names_in(model: Mapping[str, Any]) -> ClassNames:
    """Output -> name, of a `model.json`."""
    found = model.get("class_names")
    listed = enumerate(found) if isinstance(found, list) else found.items() if isinstance(found, dict) else ()
    return {int(key): name for key, name in listed if str(key).isdecimal() and isinstance(name, str)}


def names_of(
    sweep: Sweep, by_run: Mapping[str, ClassNames], recipes: Mapping[str, Sequence[Mapping[str, Any]]]
) -> ClassNames:
    """Class id -> name on the sweep's first set: as its own runs say, or as all do if those say nothing; none for a set
    with a label map.

    `by_run`: names by the digest of a run's recipe, or by the run's name where it says no digest; `recipes`: by the
    run's name.
    """
    runs = [run for row in sweep.rows for cell in row.cells.values() for run in cell.runs]
    if any(_has_own_ids(recipe, sweep.sets[0]) for run in runs for recipe in recipes.get(run.run, ())):
        return {}
    own = [by_run[key] for run in runs for key in (run.recipe, run.run) if key in by_run]
    return _together(own) or _together(by_run.values())


def _together(parts: Iterable[ClassNames]) -> ClassNames:
    """Of two names for an id the first."""
    found: dict[int, str] = {}
    for part in parts:
        found = {**part, **found}
    return found


def _has_own_ids(recipe: Mapping[str, Any], name: str) -> bool:
    """Whether the test set of this name has a label map."""
    found: Any = recipe
    for key in ("evaluate", "tests", name, "labels"):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found is not None
