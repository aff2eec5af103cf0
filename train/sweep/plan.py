"""What a sweep asks for: points of recipe changes times seeds, times settings if it tunes, as a list of runs.

In: a `SweepSpec` (a YAML in recipes/sweeps/), the base recipe it changes. Out: `Run`s, each a whole recipe with a name
of its own. Pure: nothing is read or written.

A seed changes the training alone, unless `by_seed` gives it more: its draw of the real images, its synthetic images.

A run's name is the seed and the recipe's digest (`train.recipe.recipe_digest`: of what decides the result, not the kind
of engine, the threads, the cache, the checkpoints), and the fingerprint of the whole recipe where two points share a
digest. It says nothing of the point's place, so points may be put in, taken out and moved.
"""

import itertools
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cluster.fan_out.work import FanOutSpec
from cluster.recipes.mistake import RecipeError, mistakes
from cluster.recipes.overrides import lay_over
from shards.disk.address import BESIDE, LocalPath
from shards.disk.amounts import counted
from shards.disk.safe_text import clip, quoted
from train.evaluate.results import GridPlace, PointPlace, SweepPlace
from train.recipe import recipe_digest, whole_digest

NOT_TUNED = ("seed", "evaluate")  # what runs are compared by
MOST_SETTINGS = 1000
USUAL_SCALE = "6x"  # of a data set that a point needs
SEED = "{seed}"  # in a folder's name: the number of the seed
BY_SEED = [{"data.domains.0.subset": ["shots-20", "shots-20-draw-1"]}]


class MakeSpec(BaseModel):
    """A data set or a style token that a point needs: what `sixfold generate`, `retrieve`, `edit` or `invert` would be
    told."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: Annotated[LocalPath, BESIDE] = Field(
        description="of `sixfold generate`, `retrieve`, `edit` or `invert`, such as recipes/sandbox.yaml"
    )
    scale: str | None = Field(
        None, description=f"multiple of the real set; null = {USUAL_SCALE}; a style token has none", examples=["3x"]
    )
    out: str = Field(
        min_length=1,
        description="folder or URL of the data set, which the point's domains name as source; folder of the token, "
        "which a data set after it names as prompts.style_token; {seed} = the seed's number, where each has its own",
    )
    changes: Mapping[str, Any] = Field(
        default={}, description="recipe fields to replace, dotted", examples=[{"sampler.steps": 20}]
    )
    by_seed: Mapping[str, tuple[Any, ...]] = Field(
        default={},
        description="recipe field -> its values for the seeds 0, 1, ...; each seed then has a data set of its own",
        examples=[{"seed": [0, 1, 2, 3, 4]}],
    )

    @model_validator(mode="after")
    def _each_seed_has_its_folder(self) -> "MakeSpec":
        if self.by_seed and SEED not in self.out:
            raise ValueError(f"out: found {self.out!r} beside by_seed, expected {SEED} in it: each seed has its folder")
        if SEED in self.out and not self.by_seed:
            raise ValueError(
                f"out: found {SEED} in it and no by_seed, expected both: the data sets would be the same; "
                "add by_seed: {seed: [0, 1, ...]}"
            )
        _refuse_overlap(self.by_seed, dict.fromkeys(self.changes, "changes"), "by_seed")
        return self

    def of_seed(self, seed: int) -> "MakeSpec":
        """The data set of one seed."""
        own = own_of_seed(self.by_seed, seed)
        changes = {**self.changes, **own}
        return MakeSpec(recipe=self.recipe, scale=self.scale, out=self.out.replace(SEED, str(seed)), changes=changes)

    @property
    def overrides(self) -> list[str]:
        """As `cluster.recipes.load.load_recipe` takes them; JSON is YAML."""
        return [f"{path}={json.dumps(value)}" for path, value in self.changes.items()]


class PointSpec(BaseModel):
    """One point of the sweep."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    x: float | None = Field(None, description="place on the axis, if the sweep is a curve")
    line: str | None = Field(
        None,
        min_length=1,
        max_length=80,
        description="which of several lines of the curve the point is on; null = on each of them",
        examples=["synthetic"],
    )
    baseline: str | None = Field(
        None, description="label to compare this point with; null = the sweep's", examples=["0x"]
    )
    changes: Mapping[str, Any] = Field(
        default={}, description="fields of the base recipe to replace; a.0.b reaches into lists, a.0: null takes it out"
    )
    by_seed: Mapping[str, tuple[Any, ...]] = Field(
        default={}, description="likewise, a value for each seed: the first for seed 0", examples=BY_SEED
    )
    make: tuple[MakeSpec, ...] = Field((), description="data sets and style tokens to make first, in this order")


class SweepSpec(BaseModel):
    """The points and how they are worked off."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$", description="lower-case letters, digits, dashes")
    base: Annotated[LocalPath, BESIDE] = Field(description="the training recipe that every point starts from")
    seeds: int = Field(5, ge=1, le=1000, description="runs of a point: seeds 0, 1, ... replace the recipe's")
    baseline: str = Field(description="label of the point that the others are compared with")
    verdict: tuple[str, ...] = Field(
        (),
        description="labels of the points that a report's verdict is about, each against its baseline; none = of each "
        "line of a curve the point with the largest x, otherwise the last point; comparisons stay the same",
        examples=[["3x", "6x"]],
    )
    changes: Mapping[str, Any] = Field(default={}, description="recipe fields that all points replace")
    by_seed: Mapping[str, tuple[Any, ...]] = Field(
        default={},
        description="recipe field -> its values for the seeds 0, 1, ...; a point that sets the field, or one above it, "
        "has its own",
        examples=BY_SEED,
    )
    tune: Mapping[str, tuple[Any, ...]] = Field(
        default={},
        description="recipe field -> values, each with each for every point; the best on validation counts",
        examples=[{"optim.lr": [0.001, 0.003, 0.01]}],
    )
    tune_seeds: int = Field(
        2,
        ge=1,
        description="the first so many seeds are trained with all settings; the best in their mean is the point's",
    )
    points: Mapping[str, PointSpec] = Field(min_length=2, max_length=1000, description="label -> point, in order")
    minutes_each: float = Field(gt=0, description="of one run, as the author expects; for estimates only")
    deadline_min: float = Field(600.0, gt=0, description="a run that takes longer is ended and counts as failed")
    cluster: FanOutSpec = FanOutSpec()

    @model_validator(mode="after")
    def _baseline_is_a_point(self) -> "SweepSpec":
        if self.baseline not in self.points:
            raise ValueError(f"baseline: found {self.baseline!r}, expected one of {', '.join(self.points)[:200]}")
        return self

    @model_validator(mode="after")
    def _baselines_of_points_are_points(self) -> "SweepSpec":
        for label, point in self.points.items():
            if point.baseline is not None and point.baseline not in self.points:
                raise ValueError(f"points.{label}.baseline: found {point.baseline!r}, expected the label of a point")
        return self

    @model_validator(mode="after")
    def _verdict_is_about_points_with_a_baseline(self) -> "SweepSpec":
        for label in self.verdict:
            if label not in self.points:
                raise ValueError(f"verdict: found {label!r}, expected some of {', '.join(self.points)[:200]}")
            if self.baseline_of(label) == label:
                raise ValueError(
                    f"verdict: found {label!r}, which others are compared with, expected points with another baseline"
                )
        return self

    @model_validator(mode="after")
    def _labels_are_bounded(self) -> "SweepSpec":
        if any(not 1 <= len(label) <= 80 for label in self.points):
            raise ValueError("points: found a label that is empty or longer than 80 characters; shorten it")
        return self

    @model_validator(mode="after")
    def _values_differ(self) -> "SweepSpec":
        for field, values in self.tune.items():
            shown = [json.dumps(value) for value in values]
            if not values or len(set(shown)) < len(shown):
                listed = clip(", ".join(shown), 200)
                raise ValueError(f"tune.{field}: found [{listed}], expected a list of different values")
        if self.num_settings > MOST_SETTINGS:
            raise ValueError(
                f"tune: found {self.num_settings:,} settings for each point, expected at most "
                f"{MOST_SETTINGS:,}; take values out"
            )
        return self

    @model_validator(mode="after")
    def _each_seed_has_a_value(self) -> "SweepSpec":
        """More values than seeds may be there: a sweep with fewer seeds takes the first ones."""
        places = {"by_seed": (self.by_seed, self.changes)}
        makes: dict[str, Mapping[str, tuple[Any, ...]]] = {}
        for label, point in self.points.items():
            places[f"points.{label}.by_seed"] = (point.by_seed, point.changes)
            makes |= {f"points.{label}.make.{number}.by_seed": one.by_seed for number, one in enumerate(point.make)}
        for where, (by_seed, changes) in places.items():
            for field in by_seed:
                if field.partition(".")[0] in NOT_TUNED:
                    raise ValueError(
                        f"{where}.{field}: found a field that runs are compared by, expected one of the training"
                    )
            _refuse_overlap(by_seed, dict.fromkeys(changes, where.removesuffix("by_seed") + "changes"), where)
        for where, by_seed in {**{where: own for where, (own, _) in places.items()}, **makes}.items():
            for field, values in by_seed.items():
                if len(values) < self.seeds:
                    raise ValueError(
                        f"{where}.{field}: found {counted(len(values), 'value')} beside {counted(self.seeds, 'seed')}, "
                        f"expected one for each; add some, or set seeds: {len(values) or 1}"
                    )
        return self

    @model_validator(mode="after")
    def _tuned_fields_are_free(self) -> "SweepSpec":
        """Every point has the same grid: what is tuned cannot be set for one of them."""
        set_by = {**dict.fromkeys(self.changes, "changes"), **dict.fromkeys(self.by_seed, "by_seed")}
        for label, point in self.points.items():
            set_by |= dict.fromkeys(point.changes, f"points.{label}.changes")
            set_by |= dict.fromkeys(point.by_seed, f"points.{label}.by_seed")
        for field in self.tune:
            if field.partition(".")[0] in NOT_TUNED:
                raise ValueError(f"tune.{field}: found a field that runs are compared by, expected one of the training")
        _refuse_overlap(self.tune, set_by, "tune")
        return self

    def baseline_of(self, label: str) -> str:
        """The label of the point that the point `label` is compared with."""
        return self.points[label].baseline or self.baseline

    @property
    def num_tune_seeds(self) -> int:
        """The seeds that are trained with all settings."""
        return min(self.tune_seeds, self.seeds)

    @property
    def num_settings(self) -> int:
        """Runs of a point and of a seed that tunes."""
        return math.prod(len(values) for values in self.tune.values())

    @property
    def grid(self) -> Iterator[dict[str, Any]]:
        """The settings in their order, the last field varying first; one without any if nothing is tuned."""
        for values in itertools.product(*self.tune.values()):
            yield dict(zip(self.tune, values, strict=True))


def _refuse_overlap(fields: Iterable[str], set_by: Mapping[str, str], what: str) -> None:
    """Raises ValueError for one of the fields that lies above, at or below another, or one of `set_by`: field ->
    where that stands."""
    known = dict(set_by)
    for field in fields:
        for other, where in known.items():
            if is_within(other, field) or is_within(field, other):
                raise ValueError(
                    f"{what}.{field}: found it in {where} too (`{clip(other, 80)}`), expected it in one place; take "
                    "one of them out"
                )
        known[field] = what


def is_within(field: str, other: str) -> bool:
    """Whether a dotted field is the other one, or lies below it."""
    return f"{field}.".startswith(f"{other}.")


def own_of_seed(by_seed: Mapping[str, tuple[Any, ...]], seed: int) -> dict[str, Any]:
    """The fields of one seed; the first of each list is that of seed 0."""
    return {field: values[seed] for field, values in by_seed.items()}


@dataclass(frozen=True)
class Run:
    """One training: its place in the sweep and its whole recipe."""

    name: str
    place: SweepPlace
    varied: Mapping[str, Any]  # the changes of its point alone, and its settings
    seed: int
    recipe: BaseModel
    digest: str  # of what decides, as its result lines have it
    tests: tuple[str, ...]

    @property
    def title(self) -> str:
        """For people: `6x, seed 1 (data.domains.1.subset=6x)`."""
        varied = changes_text(self.varied)
        return f"{self.place.point.label}, seed {self.seed}" + (f" ({varied})" if varied else "")


def plan_runs(spec: SweepSpec, base: BaseModel) -> list[Run]:
    """All runs, seeds of the first point first, the settings of a seed together; a sweep that tunes needs only some of
    them (`train.sweep.choice`). The base's model validates each
    changed recipe; `seed` and `evaluate.tests` are the two fields that a sweep must find in it, `evaluate.validation`
    where it tunes. Raises RecipeError for a point that makes no valid recipe."""
    model = type(base)
    runs: list[Run] = []
    for number, (label, point) in enumerate(spec.points.items()):
        where = f"sweep {spec.name}, point {label}"
        place = PointPlace(
            label=label,
            number=number,
            x=point.x,
            line=point.line,
            baseline=spec.baseline_of(label),
            verdict=label in spec.verdict if spec.verdict else None,
            changes={**spec.changes, **point.changes},
        )
        set_here = (*point.changes, *point.by_seed)
        shared = {name: own for name, own in spec.by_seed.items() if not any(is_within(name, one) for one in set_here)}
        for seed, settings in itertools.product(range(spec.seeds), list(spec.grid)):
            for_all, here = own_of_seed(shared, seed), own_of_seed(point.by_seed, seed)
            changes = {**spec.changes, **for_all, **point.changes, **here, **settings, "seed": seed}
            changed = lay_over(base.model_dump(mode="json"), changes, model, where)
            try:
                recipe = model.model_validate(changed)
            except ValidationError as invalid:
                found = mistakes(invalid, model, changed)
                raise RecipeError.of([f"{where}: {line}" for _, line in found]) from None
            digest = recipe_digest(recipe)
            tuned = GridPlace(settings=settings, grid=spec.tune, seeds=spec.num_tune_seeds) if spec.tune else None
            runs.append(
                Run(
                    name=f"s{seed:03d}-{digest[:12]}",
                    place=SweepPlace(name=spec.name, point=place, tuned=tuned, by_seed={**for_all, **here}),
                    varied={**point.changes, **settings},
                    seed=seed,
                    recipe=recipe,
                    digest=digest,
                    tests=_tests_of(recipe, where),
                )
            )
            if spec.tune:
                _refuse_without_validation(recipe, where)
    _refuse_twins(spec, runs)
    return _apart(runs)


def labels_in(text: str, labels: Sequence[str]) -> list[str]:
    """The labels in a list with commas between, which may be parts of a label too: ``"0x, 3x, 1800 steps"``. What is no
    label is returned as it stands."""
    known = {", ".join(part.strip() for part in label.split(",")): label for label in labels}
    most = max((label.count(",") for label in labels), default=0) + 1
    parts = [part.strip() for part in text.split(",")]
    found = []
    while parts:
        taken = next((n for n in range(most, 1, -1) if ", ".join(parts[:n]) in known), 1)
        name = ", ".join(parts[:taken])
        found.append(known.get(name, name))
        parts = parts[taken:]
    return found


def chosen_runs(runs: Sequence[Run], labels: Sequence[str] | None) -> list[Run]:
    """The runs of these points, all of them for None. Raises ValueError for a label that no point has."""
    known = list(dict.fromkeys(run.place.point.label for run in runs))
    for label in labels or ():
        if label not in known:
            some = clip(", ".join(known), 400)
            raise ValueError(f"points: found {quoted(label, 80)}, expected some of {some}, with commas between")
    return [run for run in runs if labels is None or run.place.point.label in labels]


def _tests_of(recipe: BaseModel, where: str) -> tuple[str, ...]:
    tests = recipe.model_dump(mode="json").get("evaluate", {}).get("tests", {})
    if not tests:
        raise RecipeError(f"{where}: found no test set, expected some under `evaluate.tests`: a sweep compares tests")
    return tuple(tests)


def _refuse_without_validation(recipe: BaseModel, where: str) -> None:
    if recipe.model_dump(mode="json").get("evaluate", {}).get("validation") is None:
        raise RecipeError(
            f"{where}: found `tune` and no `evaluate.validation`, expected a validation set: it chooses among the "
            "settings, since a test set must not"
        )


def _refuse_twins(spec: SweepSpec, runs: Sequence[Run]) -> None:
    """Two points with one recipe would compare a thing with itself."""
    seen: dict[str, Run] = {}
    for run in runs:
        other = seen.setdefault(whole_digest(run.recipe), run)
        if other is not run:
            one, two = other.place.point.label, run.place.point.label
            at = (
                f"the points {one} and {two}"
                if one != two
                else f"two settings of `tune`, {other.title} and {run.title}"
            )
            raise RecipeError(
                f"sweep {spec.name}: found the same recipe at {at}, expected different ones; change one of them"
            )


def _apart(runs: Sequence[Run]) -> list[Run]:
    """Points that differ only in the engine, or in what else decides nothing, do not meet when they change places."""
    count = Counter(run.digest for run in runs)
    return [
        run if count[run.digest] == 1 else replace(run, name=f"{run.name}-{whole_digest(run.recipe)[:12]}")
        for run in runs
    ]


def changes_text(changes: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={_short(value)}" for name, value in changes.items())


def _short(value: object) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 60 else text[:57] + "..."
