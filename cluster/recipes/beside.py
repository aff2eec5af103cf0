"""Relative paths in a recipe: what lies beside the recipe is found from any folder.

In: plain data of a recipe file, the model that will validate them, the file's folder. Out: the data, in which a
relative path leads beside the recipe if something is there, else to the caller's folder; the paths that lead to
something in both. On disk: nothing is read. A field says by the mark `shards.disk.address.BESIDE` that it names what
the run reads. What a run writes by default is found by the same rule, so that what one run has made is what the next
one goes on with or reads: `default_place`. `named_here` lists what a loaded recipe names on this machine, for whoever
runs it on another one.
"""

import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from cluster.recipes.mistake import model_in
from shards.disk.address import Beside, file_path, is_remote, places_of, shown
from shards.disk.safe_text import quoted

Twice = dict[tuple[str, ...], str]  # place of a field -> a line: what it leads to is in both folders


def beside_recipe(
    data: Any, model: type[BaseModel], folder: Path, twice: Twice | None = None, loc: tuple[str, ...] = ()
) -> Any:
    """A copy of `data` with the paths that were found; what does not fit the model stays, for the one who validates.

    `twice` gets the paths that lead to something beside the recipe and to something else in the caller's folder.
    """
    twice = {} if twice is None else twice
    if not isinstance(data, Mapping):
        return data
    found = dict(data)
    for name, field in model.model_fields.items():
        if name not in found:
            continue
        mark = next((item for item in field.metadata if isinstance(item, Beside)), None)
        inner = model_in(field.annotation, found[name])
        if mark is not None:
            found[name] = _path(found[name], mark, folder, twice, (*loc, name))
        elif inner is not None:
            is_named = typing.get_origin(field.annotation) in (dict, Mapping)
            found[name] = _below(found[name], inner, folder, is_named, twice, (*loc, name))
    return found


def default_place(recipe: Path, place: str) -> tuple[str, str | None]:
    """Where a run writes that was told no place, and a line if it might be another one: `place` beside the recipe if
    something is there, else in the caller's folder."""
    here = recipe.parent / place
    if not here.exists():
        return place, None
    return str(here), _in_both("out", place, here)


def named_here(recipe: BaseModel, place: tuple[str, ...] = ()) -> Iterator[tuple[str, str, Path]]:
    """Of what a loaded recipe reads: dotted name of the field, its value, and the file or folder of this machine that
    is meant. Addresses, names of models and words that stand for something that ships with us are left out."""
    for name, field in type(recipe).model_fields.items():
        marks = [item for item in (*field.metadata, *_inner_marks(field.annotation)) if isinstance(item, Beside)]
        yield from _named_in(getattr(recipe, name), marks, (*place, name))


def _named_in(value: Any, marks: list[Beside], place: tuple[str, ...]) -> Iterator[tuple[str, str, Path]]:
    if isinstance(value, BaseModel):
        yield from named_here(value, place)
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from _named_in(item, marks, (*place, str(name)))
    elif isinstance(value, (list, tuple)):
        for at, item in enumerate(value):
            yield from _named_in(item, marks, (*place, str(at)))
    elif marks and isinstance(value, (str, Path)) and not any(value in mark.names for mark in marks):
        text = str(value)
        if text and not is_remote(text) and (found := next((one for one in places_of(text) if one.exists()), None)):
            yield ".".join(place), text, found.absolute()


def _inner_marks(annotation: Any) -> Iterator[Any]:
    """Those of the parts of a union, and of the entries of a list."""
    for part in typing.get_args(annotation):
        yield from getattr(part, "__metadata__", ())
        yield from _inner_marks(part)


def _below(value: Any, model: type[BaseModel], folder: Path, is_named: bool, twice: Twice, loc: tuple[str, ...]) -> Any:
    """The same for a model in a field, for a list of them, and for names with one each."""
    if isinstance(value, list):
        return [beside_recipe(item, model, folder, twice, (*loc, str(at))) for at, item in enumerate(value)]
    if is_named and isinstance(value, Mapping):
        return {name: beside_recipe(item, model, folder, twice, (*loc, str(name))) for name, item in value.items()}
    return beside_recipe(value, model, folder, twice, loc)


def _path(value: Any, mark: Beside, folder: Path, twice: Twice, loc: tuple[str, ...]) -> Any:
    if not isinstance(value, str) or not value or value in mark.names:
        return value
    try:
        here = None if is_remote(value) else folder / file_path(value)  # an absolute path stays what it is
        if here is None or not here.exists():
            return value
        if (line := _in_both(".".join(loc), value, here)) is not None:
            twice[loc] = line
        return str(here)
    except (ValueError, OSError):  # whoever reads the field says what is wrong with it
        return value


def _in_both(what: str, value: str, here: Path) -> str | None:
    """The line about a path that leads to `here` and to something else in the caller's folder; None if it does not."""
    there = file_path(value)
    if there.is_absolute() or not there.exists() or there.samefile(here):
        return None
    return (
        f"{what}: {quoted(value, 120)} is beside the recipe and in this folder; takes {shown(str(here.absolute()))}, "
        f"not {shown(str(there.absolute()))}; give the whole path of the other one if you mean that"
    )
