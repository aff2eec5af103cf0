"""Evaluation: the accuracy of a model on labelled sets, and the choice of the checkpoint that is the result.

In: scores of a model (`train.evaluate.measure`), sets of labelled pictures (see
`shards.stream.index`). Out: `Counts` for each set (`train.evaluate.counts`), as `Result` lines through
`train.evaluate.results`. On disk: nothing is written; the label map of a set is a JSON file.

`select` chooses the result of a run. It takes validation results only, so a test set never chooses.
"""

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from shards.disk.address import BESIDE, LocalPath
from shards.disk.checked_json import plain_json
from shards.disk.regular import read_regular
from shards.disk.safe_text import quoted
from shards.set.status import refuse_unfinished
from shards.stream.index import ClassList, load_index, own_classes
from shards.stream.spec import SOURCE
from train.evaluate.counts import AnswerKey, Counts
from train.evaluate.data_check import Opened, refuse_shared
from train.evaluate.results import Result, Role, SweepPlace, packed

if TYPE_CHECKING:
    from torch import nn

MAX_MAP_BYTES = 10_000_000
VALIDATION = "validation"  # what results call the set that chooses


class SetSpec(BaseModel):
    """A set of labelled pictures and which of the model's outputs compete on it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: Annotated[str, BESIDE] = Field(min_length=1, description=SOURCE)
    subset: str | None = Field(None, description="a subset's name such as 2x, or a split; null = all", examples=["2x"])
    classes: Literal["all", "own"] | tuple[int, ...] = Field(
        "all",
        description="outputs that compete: all; own: of the classes in the set (ImageNet-R, -A); or their numbers",
    )
    labels: Annotated[LocalPath | None, BESIDE] = Field(
        None,
        description="JSON file, class id of the set -> output or list of outputs (ObjectNet); null = the same ids",
        examples=["objectnet.json"],
    )
    views: int = Field(
        1,
        ge=1,
        le=10_000,
        description="pictures of each thing: the set shows all its things once before any of them again; intervals are "
        "for other things then",
    )


class EvaluateSpec(BaseModel):
    """The `evaluate` part of a recipe: the sets, and when they are measured."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    every_epochs: int = Field(1, ge=1, description="epochs between two evaluations on the validation set")
    batch: int = Field(64, ge=1, description="pictures in one evaluation batch of a rank")
    crop_pct: float = Field(0.875, gt=0, le=1, description="side of the centre that is shown / short side")
    validation: SetSpec | None = Field(None, description="chooses the checkpoint; null = the last one is the result")
    tests: Mapping[str, SetSpec] = Field(default={}, description="name -> set; measured once, on the chosen checkpoint")
    leep: bool = Field(
        False,
        description="measure LEEP of model.pretrained on the first domain before the first step, in two passes; of a "
        "training in stages it is measured in any case",
    )

    @model_validator(mode="after")
    def _no_test_is_called_validation(self) -> "EvaluateSpec":
        if VALIDATION in self.tests:
            raise ValueError(
                f"evaluate.tests.{VALIDATION}: found a test set of this name, which results have for the set that "
                "chooses the checkpoint, expected another name; rename it, or move it to evaluate.validation"
            )
        return self

    @model_validator(mode="after")
    def _tests_are_not_validation(self) -> "EvaluateSpec":
        if self.validation is not None:
            for name, test in self.tests.items():
                if (test.source, test.subset) == (self.validation.source, self.validation.subset):
                    raise ValueError(
                        f"evaluate.tests.{name}: found the validation set, expected pictures that choose nothing; "
                        "give another set"
                    )
        return self

    def views_of(self, role: Role, name: str) -> int:
        """Pictures of each thing in the set of that name; 1 for a set that is not of this recipe."""
        spec = self.validation if role == "validation" else self.tests.get(name)
        return 1 if spec is None else spec.views


# which outputs are right


def answer_key(
    spec: SetSpec, present: Iterable[int], num_outputs: int, label_map: Mapping[int, tuple[int, ...]] | None
) -> AnswerKey:
    """The key of a set that has the class ids `present`. Raises ValueError for an id without an output."""
    ids = sorted(set(present))
    if label_map is None:
        accepted: dict[int, tuple[int, ...]] = {class_id: (class_id,) for class_id in ids}
    else:
        accepted = {class_id: label_map[class_id] for class_id in ids if label_map.get(class_id)}
    if not accepted:
        raise ValueError(f"{spec.source}: found no sample of a class that the model knows, expected some")
    for class_id, outputs in accepted.items():
        for output in outputs:
            if not 0 <= output < num_outputs:
                raise ValueError(
                    f"{spec.source}: found class id {class_id} for output {output}, expected 0..{num_outputs - 1}; "
                    "give a label map as `labels`, or train with more classes (model.num_classes)"
                )
    if spec.classes == "all":
        competing = set(range(num_outputs))
    elif spec.classes == "own":
        competing = {output for outputs in accepted.values() for output in outputs}
    else:
        competing = set(spec.classes)
    competes_C = np.zeros(num_outputs, bool)
    for output in sorted(competing):
        if not 0 <= output < num_outputs:
            raise ValueError(
                f"{spec.source}: found output {output} among `classes`, expected 0..{num_outputs - 1}; remove it"
            )
        competes_C[output] = True
    hopeless = [class_id for class_id, outputs in accepted.items() if not competing.intersection(outputs)]
    if hopeless:
        raise ValueError(
            f"{spec.source}: found samples of class {hopeless[0]}, whose outputs do not compete; add them to `classes`"
        )
    kept = {
        class_id: tuple(o for o in sorted(set(outputs)) if o in competing) for class_id, outputs in accepted.items()
    }
    return AnswerKey(kept, competes_C)


def read_label_map(path: Path) -> dict[int, tuple[int, ...]]:
    """The label map in a JSON file: class id of the set -> outputs. Raises ValueError if it is something else."""
    advice = f"{path}: expected a JSON object of class id -> output or list of outputs"
    try:
        data = plain_json(read_regular(path, MAX_MAP_BYTES))
    except OSError as error:
        raise ValueError(f"{advice}, found {type(error).__name__}: {str(error.strerror)[:80]}") from None
    except ValueError as error:
        raise ValueError(f"{advice}, found {type(error).__name__}: {str(error)[:80]}") from None
    if not isinstance(data, dict):
        raise ValueError(f"{advice}, found {type(data).__name__}")
    found: dict[int, tuple[int, ...]] = {}
    for key, value in data.items():
        outputs = value if isinstance(value, list) else [value]
        if not (key.isascii() and key.isdecimal()) or not all(type(output) is int for output in outputs):
            raise ValueError(f"{advice}, found {quoted(key, 40)}: {quoted(value, 40)}")
        found[int(key)] = tuple(outputs)
    return found


# sets of pictures


@dataclass(frozen=True, eq=False)
class OpenSet:
    """A set of a recipe that was opened: it exists, and the model has outputs for it."""

    name: str
    role: Role
    spec: SetSpec
    key: AnswerKey
    opened: Opened

    @property
    def digest(self) -> str:
        """The digest of its index."""
        return self.opened.index.digest

    @property
    def n(self) -> int:
        """How many samples it has, those of unknown classes included."""
        return len(self.opened.index)


def open_set(
    name: str,
    role: Role,
    spec: SetSpec,
    num_outputs: int,
    cache: Path | None = None,
    class_list: ClassList = own_classes,
) -> OpenSet:
    """Open a set. Raises ValueError if it is missing or not finished, or if the model has no outputs for it."""
    field = f"evaluate.{role}" + (f"s.{name}" if role == "test" else "")
    if spec.subset is None:
        refuse_unfinished(spec.source, field)
    index = load_index(spec.source, spec.subset, cache, class_list)
    label_map = None if spec.labels is None else read_label_map(spec.labels)
    key = answer_key(spec, np.unique(index.label).tolist(), num_outputs, label_map)
    if len(index) % spec.views:
        raise ValueError(
            f"{field}.views: found {spec.views} beside {len(index):,} pictures, expected a divisor: pictures of a thing"
        )
    return OpenSet(name, role, spec, key, Opened(field, spec.source, index, has_own_ids=spec.labels is not None))


def open_sets(
    spec: EvaluateSpec,
    num_outputs: int,
    cache: Path | None = None,
    domains: Sequence[Opened] = (),
    class_list: ClassList = own_classes,
) -> list[OpenSet]:
    """The validation set, if there is one, then the test sets.

    Raises ValueError for a set that is missing or does not fit, for a sample that is both in the validation set and in
    a test set, and for a sample of either that is trained on, hence in one of `domains`.
    """
    wanted: list[tuple[str, Role, SetSpec]] = [(name, "test", one) for name, one in spec.tests.items()]
    if spec.validation is not None:
        wanted.insert(0, (VALIDATION, "validation", spec.validation))
    found: list[OpenSet] = []
    for name, role, wish in wanted:
        one = open_set(name, role, wish, num_outputs, cache, class_list)
        if role == "test" and found and found[0].role == "validation":
            refuse_shared(one.opened, found[0].opened, "a test set must not choose the checkpoint")
        for domain in domains:
            refuse_shared(one.opened, domain, "a model must not be tested on pictures it was trained on")
        found.append(one)
    return found


@contextlib.contextmanager
def evaluating(model: "nn.Module") -> Iterator[None]:
    """Put the model into evaluation mode; afterwards every module is as it was, frozen ones included."""
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, was in before:
            module.training = was


# lines


@dataclass(frozen=True)
class RunFacts:
    """What all result lines of a run have in common."""

    run: str
    recipe: str  # fingerprint
    seed: int
    data: Mapping[str, str]
    code: str
    versions: Mapping[str, str]
    sweep: SweepPlace | None = None
    leep: Mapping[str, float] = field(default_factory=dict)
    bn_groups: int | None = None


@dataclass(frozen=True)
class Moment:
    """When in its training a model was evaluated, and with which weights."""

    step: int
    weights: Literal["ema", "last"]
    images_seen: int
    images_per_s: float
    wait_share: float
    time: float


def make_result(
    facts: RunFacts,
    moment: Moment,
    name: str,
    role: Role,
    counts: Counts,
    selected: bool,
    branch: str | None = None,
    views: int = 1,
    score: float | None = None,
) -> Result:
    """The result line of one evaluation; `selected`: of the checkpoint that is the run's result; `score`: of the Task,
    None = top-1."""
    per_class = {
        class_id: (int(right), int(seen))
        for class_id, right, seen in zip(counts.ids, counts.right, counts.seen, strict=True)
        if seen
    }
    return Result(
        run=facts.run,
        recipe=facts.recipe,
        sweep=facts.sweep,
        seed=facts.seed,
        step=moment.step,
        set=name,
        role=role,
        branch=branch,
        n=counts.n,
        top1=counts.top1,
        top5=counts.top5,
        score=score if score is None or math.isfinite(score) else 0.0,
        per_class=per_class,
        right_pictures=None if counts.right_pictures is None else packed(counts.right_pictures),
        views=views,
        not_finite=counts.not_finite,
        left_out=counts.left_out,
        weights=moment.weights,
        data=facts.data,
        code=facts.code,
        versions=facts.versions,
        images_seen=moment.images_seen,
        images_per_s=moment.images_per_s,
        wait_share=moment.wait_share,
        bn_groups=facts.bn_groups,
        leep=facts.leep or None,
        selected=selected,
        time=moment.time,
    )


# choosing


@dataclass(frozen=True)
class Validation:
    """The score on the validation set at one step; nothing else may choose a checkpoint."""

    step: int
    score: float  # higher is better

    @staticmethod
    def of(result: Result) -> "Validation":
        """The validation result in a line. Raises ValueError for a line of a test set, which must not choose."""
        if result.role != "validation":
            raise ValueError(
                f"step {result.step}: found a result on the test set {quoted(result.set, 60)}, expected validation; "
                "a checkpoint that was chosen by a test set has no test result"
            )
        return Validation(result.step, result.chosen_by)


def select(history: Sequence[Validation]) -> int:
    """The step with the best score on the validation set, the earliest of equals. Raises ValueError without one."""
    best = None
    for one in history:
        if not isinstance(one, Validation):
            raise TypeError(f"select: found {type(one).__name__}, expected Validation")
        if math.isfinite(one.score) and (best is None or (one.score, -one.step) > (best.score, -best.step)):
            best = one
    if best is None:
        raise ValueError("select: found no validation result with a finite score, expected at least one")
    return best.step
