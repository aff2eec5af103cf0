"""Changes to a recipe by dotted names: `sampler.steps=20` on a command line, `data.domains.1.quota: 3` in a sweep.

In: plain data of a recipe, and names with values. Out: the data with the values in their places. Fields that are not
there yet are made, so a misspelt one is named by the model that validates the data afterwards.
"""

import copy
import typing
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from pydantic import BaseModel

from cluster.recipes.mistake import RecipeError, fields_at

COMMAND_LINE = "command line"
Keys = tuple[str, ...]
FREE = ((str, Any), (str, tuple[Any, ...]))  # names and values of mappings whose names may be dotted


def read_override(text: str, model: type[BaseModel]) -> tuple[Keys, Any]:
    """``"sampler.steps=20"`` -> its place and value, which is YAML. Raises RecipeError."""
    key, equals, value = text.partition("=")
    place = place_of(key, model)
    if not equals or not all(place):
        raise RecipeError(f"{COMMAND_LINE}: found {text!r}, expected key.sub=value, for example sampler.steps=20")
    try:
        return place, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise RecipeError(
            f"{COMMAND_LINE}: `{key}`: {value!r} is not a YAML value ({error.__class__.__name__})"
        ) from None


def place_of(key: str, model: type[BaseModel]) -> Keys:
    """The names of a dotted key; below a field of free names and values (`changes.lr.warmup`), or lists of values
    (`tune.optim.lr`), the rest is one name."""
    parts = tuple(key.strip().split("."))
    for depth in range(1, len(parts)):
        field = fields_at(model, parts[: depth - 1]).get(parts[depth - 1])
        if field is not None and typing.get_args(field.annotation) in FREE:
            return (*parts[:depth], ".".join(parts[depth:]))
    return parts


def lay_over(data: Mapping[str, Any], changes: Mapping[str, Any], model: type[BaseModel], where: str) -> dict[str, Any]:
    """A copy of `data` with all `changes`, dotted name -> value; `where` begins what is said of one that cannot be."""
    result = copy.deepcopy(dict(data))
    for key, value in changes.items():
        set_at(result, place_of(key, model), copy.deepcopy(value), where)
    return result


def set_at(data: dict[str, Any], place: Sequence[str], value: Any, where: str) -> None:
    """Put `value` at its place in `data`; null takes an element out of a list. Raises RecipeError for a place below a
    plain value, or beyond a list."""
    inner: Any = data
    for depth, name in enumerate(place):
        at: Any = name
        if isinstance(inner, list):
            if not (name.isascii() and name.isdecimal() and int(name) < len(inner)):
                whole = ".".join(place[:depth])
                raise RecipeError(
                    f"{where}: `{'.'.join(place)}`: `{whole}` is a list of {len(inner)}; give a number below "
                    f"{len(inner)}, or all of it with `{whole}=[…]`"
                )
            at = int(name)
        elif not isinstance(inner, dict):
            raise RecipeError(
                f"{where}: `{'.'.join(place)}`: `{'.'.join(place[:depth])}` is a plain value, it has no fields below it"
            )
        if depth < len(place) - 1:
            if isinstance(inner, dict) and inner.get(at) is None:  # not given, or given as nothing
                inner[at] = {}
            inner = inner[at]
        elif isinstance(inner, list) and value is None:
            del inner[at]
        else:
            inner[at] = value
