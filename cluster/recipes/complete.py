"""What the Tab key offers for a recipe: files, the dotted names of fields, and values of fields with few of them.

In: what was typed so far, and the model of the recipe. Out: words that begin so. On disk, read only: names of files.
"""

import itertools
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from cluster.recipes.mistake import fields_at, model_in
from shards.disk.home import home

SHIPPED = "recipes"


def recipe_files(typed: str) -> list[str]:
    """YAML files and folders of the working folder, then recipes that ship here and are found from any folder."""
    return list(dict.fromkeys([*_files(Path(), typed), *(one for one in _files(home(), typed) if _ships(one))]))


def _ships(name: str) -> bool:
    return name.partition("/")[0] == SHIPPED


def _files(root: Path, typed: str) -> Iterator[str]:
    folder, slash, start = typed.rpartition("/")
    try:
        there = sorted((root / (folder + slash)).iterdir())
    except OSError:
        return
    for path in there:
        if path.name.startswith(start) and not path.name.startswith("."):
            if path.is_dir():
                yield f"{folder}{slash}{path.name}/"
            elif path.suffix in (".yaml", ".yml"):
                yield f"{folder}{slash}{path.name}"


def override_words(typed: str, before: str, model: type[BaseModel]) -> list[str]:
    """`sampler.st` -> `sampler.steps=`; `sampler.dtype=b` -> `sampler.dtype=bf16`. `before` is the word before: a
    shell that splits words at `=` (bash) asks with the key there and the value here."""
    if fields_at(model, before.split(".")[:-1]).get(before.rpartition(".")[2]) is not None:
        return [value for value in _values(before, model) if value.startswith(typed)]
    key, equals, value = typed.partition("=")
    if equals:
        return [f"{key}={one}" for one in _values(key, model) if one.startswith(value)]
    *place, start = key.split(".")
    words = []
    for name, field in _inner(model, place).items():
        if name.startswith(start):
            goes_on = model_in(field) is not None
            words.append(".".join([*place, name]) + ("." if goes_on else "="))
    return words


def _inner(model: type[BaseModel], place: list[str]) -> Mapping[str, object]:
    """Name -> annotation of what stands at `place`: the fields of a model, the first numbers of a list of them."""
    many = fields_at(model, place[:-1]).get(place[-1]) if place else None
    if many is not None and typing.get_origin(many.annotation) in (list, tuple):
        return dict.fromkeys("0123", many.annotation) if model_in(many.annotation) else {}
    if many is not None and typing.get_origin(many.annotation) in (dict, Mapping):
        return {}  # names that the author gives
    return {name: field.annotation for name, field in fields_at(model, place).items()}


def _values(key: str, model: type[BaseModel]) -> list[str]:
    *place, name = key.split(".")
    field = fields_at(model, place).get(name)
    return [] if field is None else list(_choices(field.annotation))


def _choices(annotation: object) -> Iterator[str]:
    if annotation is bool:
        yield from ("true", "false")
    elif typing.get_origin(annotation) is Literal:
        yield from map(str, typing.get_args(annotation))
    else:
        yield from itertools.chain.from_iterable(map(_choices, typing.get_args(annotation)))
