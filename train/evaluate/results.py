"""Results: one line of JSON for each evaluation of a run, appended and never changed.

In: `Result`s of evaluations. Out: `Result`s read back, and a line about each that could not be read. On disk:
`results.jsonl` in the run's own folder, canonical JSON, written by one call and synced before the next step. A last
line that was cut short by a power loss is reported and skipped; the next line begins after it.

A line keeps which pictures were right, one bit each (`packed`): 8.4 kB for 50,000 pictures. They stand in the order of
the set's index (`data` has its digest), so the bits of two lines about one set belong to the same pictures.
"""

import base64
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cluster.recipes.load import canonical_json
from shards.disk.replace import replace_file, sync_folder
from shards.disk.safe_text import clip

RESULTS = "results.jsonl"
STAGES = "stages"  # in the folder of a training: a folder for each of its earlier stages
START = "start"  # what a training began with, among the names of its stages
SWEEP = "sweep.yaml"  # in the folder of a sweep, which holds those of its trainings
PROBE = "linear probe"  # the branch of results by a probe on the features of an adapted CLIP
MAX_LINE_BYTES = 4_000_000  # 100,000 classes and 1,000,000 pictures take 2.2 MB
MAX_PROBLEMS = 20

Role = Literal["validation", "test"]
Key: TypeAlias = tuple[str, str, int, str, str, int, str, tuple[tuple[str, str], ...]]


class PointPlace(BaseModel):
    """Which point of a sweep a run belongs to."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    label: str = Field(min_length=1, max_length=80, description="such as 6x")
    number: int = Field(ge=0, description="place among the points of the sweep")
    x: float | None = Field(None, description="place on the axis of a curve, if the sweep is one")
    line: str | None = Field(None, min_length=1, max_length=80, description="of the curve's lines; null = of all")
    baseline: str = Field(description="label of the point that the others are compared with")
    verdict: bool | None = Field(
        None, description="whether the sweep says that a report's verdict is about this point; null = it says nothing"
    )
    changes: Mapping[str, Any] = Field(default={}, description="recipe fields of this point, dotted")


class GridPlace(BaseModel):
    """The settings of a run in a sweep that tunes, and all that were tried: the same for each point."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    settings: Mapping[str, Any] = Field(description="recipe fields of this run, dotted")
    grid: Mapping[str, tuple[Any, ...]] = Field(description="dotted field -> values tried, each with each")
    seeds: int | None = Field(
        None,
        ge=1,
        description="the first so many seeds were trained with all settings, and the best in their mean is that of the "
        "point; null = each seed has its own best",
    )

    @property
    def num_settings(self) -> int:
        """How many were tried for each point."""
        return math.prod(len(values) for values in self.grid.values())

    @property
    def over_seeds(self) -> str:
        """For sentences: whose scores on validation chose."""
        if self.seeds is None:
            return ""
        return " with the first seed" if self.seeds == 1 else f" in the mean of the first {self.seeds} seeds"


class SweepPlace(BaseModel):
    """The sweep of a run, and its point in it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    point: PointPlace
    tuned: GridPlace | None = Field(None, description="null = nothing was tuned")
    by_seed: Mapping[str, Any] = Field(default={}, description="recipe fields that the run's seed has of its own")


class Result(BaseModel):
    """One evaluation of one run on one set."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    run: str = Field(min_length=1, description="name of the run's folder")
    recipe: str = Field(pattern=r"^[0-9a-f]{64}$", description="train.recipe.recipe_digest")
    sweep: SweepPlace | None = None
    seed: int
    step: int = Field(ge=0)
    set: str = Field(min_length=1, description="name of the set in the recipe")
    role: Role
    branch: str | None = Field(
        None,
        max_length=80,
        description=f"domain whose batch normalisation was used, or {PROBE!r}; null = the model as it is exported",
    )
    n: int = Field(ge=1, description="samples, each counted once")
    top1: float = Field(ge=0, le=1)
    top5: float = Field(ge=0, le=1)
    score: float | None = Field(
        None,
        ge=0,
        le=1,
        description="of the Task, higher is better: on validation it chooses the checkpoint, and in a sweep that tunes "
        "the settings; 0 if it was not finite; null = top1, as in older lines and those of branches",
    )
    per_class: Mapping[int, tuple[int, int]] = Field(description="class id of the set -> (right at top 1, samples)")
    right_pictures: str | None = Field(
        None,
        description="which of the n samples are right at top 1: one bit each in the order of the set's index, those of "
        "classes that the model does not know left out; the first is the highest bit, zeros fill the last byte; "
        "base64; null = not kept, as in older lines",
    )
    views: int = Field(1, ge=1, description="pictures of each thing; the set shows all once before any of them again")
    not_finite: int = Field(0, ge=0, description="samples whose scores were not finite; they count as wrong")
    left_out: int = Field(0, ge=0, description="samples of classes that the model does not know; not part of n")
    weights: Literal["ema", "last"]
    data: Mapping[str, str] = Field(description="domain or set -> digest of its index")
    code: str = Field(description="hash of the code that ran")
    versions: Mapping[str, str]
    images_seen: int = Field(ge=0)
    images_per_s: float = Field(ge=0, le=1e15, description="of training up to here, over all ranks")
    wait_share: float = Field(ge=0, le=1, description="share of the training time spent waiting for data")
    bn_groups: int | None = Field(
        None,
        ge=1,
        description="groups of a step that share batch statistics, as ranks and engine.accumulate make it in the life "
        "that wrote the line; null = the training takes none, or an older line",
    )
    leep: Mapping[str, float] | None = Field(
        None,
        description="LEEP on the pictures of the last stage's first domain, in nats, of the weights that the training "
        "began with (start) and of each earlier stage's result, by its name; null = not measured, as in older lines",
    )
    selected: bool = Field(
        description="whether these weights are the run's result; among a sweep's lines, that of its point and seed"
    )
    time: float = Field(description="seconds since 1970, UTC")

    @model_validator(mode="after")
    def _counts_agree(self) -> "Result":
        right = sum(pair[0] for pair in self.per_class.values())
        seen = sum(pair[1] for pair in self.per_class.values())
        if any(not 0 <= pair[0] <= pair[1] for pair in self.per_class.values()) or seen != self.n:
            raise ValueError(f"found per_class counts of {seen} samples beside n {self.n}, expected them to agree")
        if abs(self.top1 * self.n - right) > 1e-6 * self.n or self.top5 < self.top1 - 1e-9:
            raise ValueError(
                f"found top1 {self.top1} and top5 {self.top5} beside {right} of {self.n} right, expected agreement"
            )
        if self.n % self.views:
            raise ValueError(f"found {self.views} views beside n {self.n}, expected a divisor of it")
        if self.right_pictures is not None:
            try:
                raw = base64.b64decode(self.right_pictures, validate=True)
            except ValueError as error:
                raise ValueError(
                    f"found right_pictures that are not base64 ({error}), expected a bit a picture"
                ) from None
            if len(raw) != -(-self.n // 8):
                raise ValueError(
                    f"found {len(raw)} bytes of right_pictures beside n {self.n}, expected {-(-self.n // 8)}"
                )
            bits = int.from_bytes(raw)
            if bits.bit_count() != right or bits & ((1 << -self.n % 8) - 1):
                raise ValueError(f"found {bits.bit_count()} bits of right_pictures, expected {right} among the first n")
        return self

    @property
    def right_bits(self) -> npt.NDArray[np.bool_] | None:
        """`right_pictures` as an array of n; None if they were not kept."""
        if self.right_pictures is None:
            return None
        raw = np.frombuffer(base64.b64decode(self.right_pictures), np.uint8)
        return np.unpackbits(raw, count=self.n).astype(np.bool_)

    @property
    def chosen_by(self) -> float:
        """What validation chooses by, among the steps of a run and among the runs of a sweep."""
        return self.top1 if self.score is None else self.score

    @property
    def key(self) -> Key:
        """What identifies a measurement: of two lines with the same key the later counts, as after a resume.

        Lines about other data are other measurements, even if run and recipe have the same names.
        """
        data = tuple(sorted(self.data.items()))
        return (self.run, self.recipe, self.seed, self.set, self.branch or "", self.step, self.weights, data)


def packed(right_N: npt.NDArray[np.bool_]) -> str:
    """One bit a picture in base64, as `Result.right_pictures` holds them."""
    return base64.b64encode(np.packbits(right_N).tobytes()).decode()


@dataclass(frozen=True)
class Found:
    """The results in a file; ``problems`` has one line for each line that is not a result."""

    results: tuple[Result, ...]
    problems: tuple[str, ...]


def result_line(result: Result) -> bytes:
    """The line as it stands in the file; the same result gives the same bytes."""
    return canonical_json(result.model_dump(mode="json")) + b"\n"


def append_results(path: Path, results: Sequence[Result]) -> None:
    """Append lines with one write and return when they are on disk. Raises OSError if they are not, completely."""
    data = b"".join(result_line(result) for result in results)
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(path, os.O_CREAT | os.O_APPEND | os.O_RDWR | os.O_CLOEXEC, 0o644)
    try:
        size = os.fstat(fd).st_size
        if size and os.pread(fd, 1, size - 1) != b"\n":
            data = b"\n" + data  # a torn line stays a line of its own
        if os.write(fd, data) != len(data):
            raise OSError(f"{path}: the disk took only a part of the results; free space and run the same command")
        os.fsync(fd)
    finally:
        os.close(fd)
    sync_folder(path.parent)


def write_results(path: Path, results: Sequence[Result]) -> None:
    """Replace a file as a whole: the results that a sweep gathers from its runs."""
    replace_file(path, b"".join(map(result_line, results)))


def read_results(path: Path) -> Found:
    """All lines of a file, oldest first; a missing file has none. A later line replaces an earlier one of equal key."""
    results: dict[Key, Result] = {}
    problems: list[str] = []
    num_bad = 0
    if not path.exists():
        return Found((), ())
    with path.open("rb") as file:
        number = 0
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            if line == b"\n":
                continue
            try:
                if not line.endswith(b"\n"):
                    size = f"longer than {MAX_LINE_BYTES} bytes" if len(line) > MAX_LINE_BYTES else "torn"
                    while line and not line.endswith(b"\n"):
                        line = file.readline(MAX_LINE_BYTES + 1)
                    raise ValueError(f"a line that is {size}")
                result = Result.model_validate_json(line)
            except ValueError as error:
                num_bad += 1
                problems.append(f"{path}:{number}: {_reason(error)}; it is left out")
                continue
            results.pop(result.key, None)
            results[result.key] = result
    if num_bad > MAX_PROBLEMS:
        problems = [*problems[:MAX_PROBLEMS], f"{path}: and {num_bad - MAX_PROBLEMS} more lines like these"]
    return Found(tuple(results.values()), tuple(problems))


def _reason(error: ValueError) -> str:
    if not isinstance(error, ValidationError):
        return f"found {error}, expected a whole result"
    first = error.errors(include_url=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        return "found a line that is not JSON (torn while it was written?), expected a result"
    where = ".".join(str(part) for part in first["loc"])
    return " ".join(f"found a line that is not a result ({where}: {first['msg']})".split())[:300]


def _is_of_stage_in_sweep(path: Path) -> bool:
    """Of `<sweep>/<run>/stages/<name>/results.jsonl`; the sweep may be there with its results alone."""
    above = path.absolute().parents
    if len(above) < 4 or above[1].name != STAGES:
        return False
    sweep = above[3]
    return (sweep / SWEEP).is_file() or any(line.sweep for line in read_results(sweep / RESULTS).results)


def find_results(folders: Iterable[Path]) -> Found:
    """Every `results.jsonl` in or below the folders, in sorted order; equal lines in two files count once.

    A sweep gathers the lines of its runs in a file of its own, with the place in the sweep filled in: such a line
    replaces the plain one of the run. A run that two sweeps have counts in both. The earlier stages of a sweep's runs
    are no results of theirs, and left out. Two runs of one name and recipe over other data are both kept, and named,
    unless they are of two sweeps, which no comparison mixes.
    """
    results: dict[tuple[Key, str | None], Result] = {}
    in_sweeps: set[Key] = set()
    problems: list[str] = []
    places: dict[tuple[object, ...], tuple[Path, Key, str | None]] = {}
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(f"{folder}: found no such folder, expected one that `sixfold train` or `sweep` wrote")
        for path in sorted(folder.rglob(RESULTS)):
            if _is_of_stage_in_sweep(path):
                continue
            found = read_results(path)
            problems.extend(found.problems)
            for result in found.results:
                if result.sweep is not None:
                    in_sweeps.add(result.key)
                    results.pop((result.key, None), None)
                    results.setdefault((result.key, result.sweep.name), result)
                elif result.key not in in_sweeps:
                    results[result.key, None] = result
                name = None if result.sweep is None else result.sweep.name
                other, key, its_name = places.setdefault(result.key[:-1], (path, result.key, name))
                if key == result.key or not result.selected or result.role != "test" or result.branch:
                    continue
                if name and its_name and name != its_name:
                    continue  # two sweeps are compared within themselves
                if other == path:
                    problems.append(
                        f"{path}: found run {clip(result.run, 60)} on two sets, or on two states of one, that are both "
                        f"called {clip(result.set, 60)}; both count, measure them again with `sixfold evaluate` into a "
                        "new folder, where their names differ"
                    )
                else:
                    problems.append(
                        f"{path}: found run {clip(result.run, 60)} on {clip(result.set, 60)} with other data than in "
                        f"{other}; both are counted as runs of their own, give one of the folders another name"
                    )
    return Found(tuple(results.values()), tuple(problems))


def selected(results: Iterable[Result], role: Role = "test") -> list[Result]:
    """The results of runs: evaluations of the selected weights as they are exported, in the order given."""
    return [result for result in results if result.selected and result.role == role and result.branch is None]


def validation_score(results: Iterable[Result]) -> float | None:
    """The score of a run's selected weights on the validation set, from the lines of this run; None without one."""
    found = selected(results, "validation")
    return found[-1].chosen_by if found else None


def by_branch(name: str) -> str:
    """How a branch measured, for people."""
    return f"by a {PROBE}" if name == PROBE else f"with the batch normalisation of {name}"


def of_branches(results: Iterable[Result]) -> list[Result]:
    """Evaluations of the selected weights on test sets with an auxiliary batch normalisation, in the order given."""
    return [result for result in results if result.selected and result.role == "test" and result.branch is not None]
