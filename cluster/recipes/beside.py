"""Relative paths in a recipe: what lies beside the recipe is found from any folder.

In: plain data of a recipe file, the model that will validate them, the file's folder. Out: the data, in which a
relative path leads beside the recipe if something is there. On disk: nothing is read. A field says by the mark
`shards.disk.address.BESIDE` that it names what the run reads.
"""

import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from cluster.recipes.mistake import model_in
from shards.disk.address import Beside, file_path, is_remote


def beside_recipe(data: Any, model: type[BaseModel], folder: Path) -> Any:
    """A copy of `data` with the paths that were found; what does not fit the model stays, for the one who validates."""
    if not isinstance(data, Mapping):
        return data
    found = dict(data)
    for name, field in model.model_fields.items():
        if name not in found:
            continue
        mark = next((item for item in field.metadata if isinstance(item, Beside)), None)
        inner = model_in(field.annotation)
        if mark is not None:
            found[name] = _path(found[name], mark, folder)
        elif inner is not None:
            found[name] = _below(found[name], inner, folder, typing.get_origin(field.annotation) in (dict, Mapping))
    return found


def _below(value: Any, model: type[BaseModel], folder: Path, is_named: bool) -> Any:
    """The same for a model in a field, for a list of them, and for names with one each."""
    if isinstance(value, list):
        return [beside_recipe(item, model, folder) for item in value]
    if is_named and isinstance(value, Mapping):
        return {name: beside_recipe(item, model, folder) for name, item in value.items()}
    return beside_recipe(value, model, folder)


def _path(value: Any, mark: Beside, folder: Path) -> Any:
    if not isinstance(value, str) or not value or value in mark.names:
        return value
    try:
        here = None if is_remote(value) else folder / file_path(value)  # an absolute path stays what it is
        return str(here) if here is not None and here.exists() else value
    except (ValueError, OSError):  # whoever reads the field says what is wrong with it
        return value
