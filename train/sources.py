"""What a training reads, looked up before torch is loaded: where it is, and what of it a training would refuse.

In: a `TrainRecipe`, or the sound part of one with mistakes. Out: a `LookedUp`. On disk, read only and little of it: the
records of a data set, its list of classes, names of class folders. Object stores are opened and not read; what takes
long (`train.evaluate.data_check`) comes later.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import pyarrow.compute as pc

from gen.invert.spec import check_invert
from shards.disk.address import one_spelling
from shards.disk.data_set import is_data_set, is_image_folder, kind_of_place, no_data_set
from shards.disk.layout import SUCCESS
from shards.disk.store import FolderStore, open_for_reading
from shards.set.manifest import read_subset, read_table, scan_records, subset_path
from shards.set.status import refuse_unfinished
from shards.stream.hugging_face import hugging_face_files
from shards.stream.index import own_classes_of
from shards.stream.spec import DomainSpec
from train.evaluate.data_check import CLASSES, extra_outputs, listed_classes, refuse_few_outputs
from train.evaluate.evaluate import EvaluateSpec, SetSpec, read_label_map
from train.model.classifiers import ModelSpec, refuse_head_of_nothing, weights_of
from train.model.clip import ClipTrainSpec, check_size
from train.recipe import TrainRecipe

_SCALE = re.compile(r"[0-9.]+x")  # subsets that have every class

T = TypeVar("T")


@dataclass(frozen=True)
class LookedUp:
    """What was found of all that a recipe names."""

    places: tuple[str, ...]  # a line for each source: the field, the path or URL
    refused: tuple[str, ...]  # a line for each thing that a training would refuse
    note: str | None  # about outputs that no class has, if the classes are known


@dataclass(frozen=True)
class _Source:
    field: str
    source: str
    subset: str | None
    grow: bool = False
    first: str = ""  # source of the first domain beside it, whose classes have their own ids
    num_classes: int | None = None  # outputs of an earlier stage that has its own


def look_up(
    recipe: TrainRecipe,
    check_name: Callable[[ModelSpec], object] | None = None,
    finished: Collection[str] = (),
) -> LookedUp:
    """Look for all that the recipe names, its stages too, but for those that are `finished`. `check_name` raises
    ValueError for a model that is not known; without it nobody asks, since the list of models takes seconds to load.

    `recipe` may be the sound part of one (`cluster.recipes.mistake.sound_part`): then it looks for what that has.
    """
    places: list[str] = []
    refused: list[str] = []

    def tried(check: Callable[[], T], field: str = "") -> T | None:
        try:
            return check()
        except AttributeError:  # of a part
            return None
        except ValueError as error:
            line = " ".join(str(error).split())
            refused.append(line if line.startswith(field) else f"{field}: {line}")
            return None

    model: ModelSpec | None = getattr(recipe, "model", None)
    highest: list[int] = []
    is_known = True
    for one in _domains(recipe, finished):
        line = tried(partial(_place_of, one), one.field)
        ids, is_whole = (line and tried(partial(_class_ids, one, recipe), one.field)) or ([], False)
        places += [line] if line else []
        if model is not None and ids:
            tried(partial(refuse_few_outputs, one.num_classes or model.num_classes, ids[-1], one.field))
        if not one.field.startswith("before."):
            is_known = is_known and is_whole
            highest += ids[-1:]
    for one, spec in _sets(recipe, finished):
        line = tried(partial(_place_of, one), one.field)
        places += [line] if line else []
        if (labels := getattr(spec, "labels", None)) is not None:
            tried(partial(read_label_map, labels), f"{one.field}.labels")
    clip: ClipTrainSpec | None = getattr(recipe, "clip", None)
    if clip is not None:
        tried(lambda: check_size(clip, recipe.data.size_px), "clip")
    if (invert := getattr(recipe, "invert", None)) is not None:
        tried(partial(check_invert, invert), "invert")
    note = None
    if model is not None:
        tried(partial(weights_of, model))
        if not getattr(recipe, "before", ()):
            tried(partial(refuse_head_of_nothing, model))
        if check_name is not None:
            tried(partial(check_name, model))
        if is_known and highest and not refused:
            note = extra_outputs(model.num_classes, max(highest))
    return LookedUp(tuple(places), tuple(refused), note)


def _stages(recipe: TrainRecipe, finished: Collection[str]) -> Iterator[tuple[str, TrainRecipe, Mapping[str, Any]]]:
    """Earlier stages: where each stands, its whole recipe, and what it has of its own. None of a recipe with mistakes
    that they share, which are told anyway."""
    try:
        stages = list(zip(recipe.before, recipe.earlier.values(), strict=True))
    except (AttributeError, KeyError, ValueError):
        return
    for number, (stage, whole) in enumerate(stages):
        if stage.name not in finished:
            yield f"before.{number}.", whole, stage.given


def _domains(recipe: TrainRecipe, finished: Collection[str]) -> Iterator[_Source]:
    yield from _domains_of("", recipe, None)
    for where, whole, own in _stages(recipe, finished):
        if "domains" in own.get("data", {}):
            yield from _domains_of(where, whole, whole.classifier.num_classes)


def _domains_of(where: str, recipe: TrainRecipe, outputs: int | None) -> Iterator[_Source]:
    domains: Sequence[DomainSpec] = getattr(getattr(recipe, "data", None), "domains", ())
    for one in domains:
        if {"name", "source", "subset", "grow"} <= vars(one).keys():
            first = getattr(domains[0], "source", "")
            yield _Source(f"{where}data.domains.{one.name}", one.source, one.subset, one.grow, first, outputs)


def _sets(recipe: TrainRecipe, finished: Collection[str]) -> Iterator[tuple[_Source, SetSpec]]:
    yield from _sets_of("", getattr(recipe, "evaluate", None))
    for where, whole, own in _stages(recipe, finished):
        evaluate = own.get("evaluate", {})
        fields = [*(evaluate.keys() & {"validation"}), *(f"tests.{name}" for name in evaluate.get("tests", {}))]
        named = {f"{where}evaluate.{field}" for field in fields}
        for one, spec in _sets_of(where, whole.evaluate):
            if one.field in named:
                yield one, spec


def _sets_of(where: str, spec: EvaluateSpec | None) -> Iterator[tuple[_Source, SetSpec]]:
    named = {f"evaluate.tests.{name}": one for name, one in getattr(spec, "tests", {}).items()}
    for field, one in {"evaluate.validation": getattr(spec, "validation", None), **named}.items():
        if one is not None and {"source", "subset"} <= vars(one).keys():
            yield _Source(f"{where}{field}", one.source, one.subset), one


def _place_of(one: _Source) -> str:
    """The line about it. Raises ValueError for a source that is not there, or not finished, or has nothing to read."""
    line = f"{one.field}: {one_spelling(one.source)}" + (f", subset {one.subset}" if one.subset else "")
    store = open_for_reading(one.source)
    if not isinstance(store, FolderStore):
        return line
    if one.subset is None and not one.grow:
        refuse_unfinished(one.source, one.field)
    expected = None if one.grow or not is_data_set(store) else one.subset
    if expected is not None and not store.exists(f"{subset_path(expected)}.json"):
        read_subset(store, expected)  # which says what is there instead
    is_there = kind_of_place(store) in ("data set", "tars") or is_image_folder(store)
    if not is_there and hugging_face_files(store, one.subset) is None:
        raise no_data_set(store)
    return line


def _class_ids(one: _Source, recipe: TrainRecipe) -> tuple[list[int], bool]:
    """Ids of classes, rising, and whether these are all; none where only reading everything would tell."""
    store = open_for_reading(one.source)
    if not isinstance(store, FolderStore):
        return [], False
    if not is_data_set(store):
        has_own_ids = recipe.data.classes is None and one.source == one.first
        own = own_classes_of(one.source, one.subset) if has_own_ids else None
        return ([], False) if own is None else (sorted(entry.id for entry in own), True)
    if one.subset is not None and not _SCALE.fullmatch(one.subset):
        return [], False
    if store.exists(CLASSES):
        ids = sorted(listed_classes(store))
        return ids, bool(ids)
    records = scan_records(store)
    if not records:  # a domain that grows, and has not begun
        return [], False
    table = read_table(store, {shard: records[shard] for shard in sorted(records)[-1:]}, ["class_id", "status"])
    read = table.filter(pc.equal(table["status"], SUCCESS))["class_id"]
    return sorted(set(read.to_pylist())), False
