"""A folder that belongs to a recipe: the first run claims it, and later runs must have the same recipe.

In: a recipe, a function that gives the part of it that decides the result, a folder or an object store. Out: nothing,
or a ValueError with the list of differences. On disk: one file with the resolved recipe; the owner gives its name
(`recipe.yaml`, `sweep.yaml`). A data set keeps more than its recipe in `_meta/run.json`: it writes that file itself and
compares with `changes`.

The other fields (threads, engine, how many checkpoints are kept) may change from run to run. If the file comes from a
version that did not know a field yet, the field counts as its default.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel

from cluster.recipes.load import Model, differences, dump_recipe, parse_recipe, with_defaults
from shards.disk.replace import replace_file

MAX_LISTED = 20  # differences in one message


class Folder(Protocol):
    """Where the file is: a `LocalFolder`, or a store of `shards.disk.store`."""

    @property
    def url(self) -> str:
        """The folder's address, for people."""

    def read_bytes(self, name: str) -> bytes:
        """The whole file. Raises FileNotFoundError."""

    def replace(self, name: str, data: bytes) -> None:
        """Write the file as a whole over what is there."""


class LocalFolder:
    """A folder on this machine; unlike a `FolderStore` it puts nothing else into the folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.url = str(path)

    def read_bytes(self, name: str) -> bytes:
        """The whole file. Raises FileNotFoundError."""
        return (self.path / name).read_bytes()

    def replace(self, name: str, data: bytes) -> None:
        """Write the file as a whole over what is there."""
        replace_file(self.path / name, data)


def claim(
    folder: Folder, file: str, recipe: Model, decides: Callable[[Model], Mapping[str, Any]], what: str, is_used: bool
) -> None:
    """Claim the folder, or go on in it, and write this run's recipe into `file`. No other process may write there.

    `decides` gives the part of a recipe that must stay the same, as plain data. `what` names the owner ("training").
    `is_used`: whether a run has made anything there. If none has, the folder is free, whatever its file says: a recipe
    that failed at once can be mended. Raises ValueError if the folder belongs to another recipe, RecipeError if its
    file cannot be read.
    """
    if is_used:
        try:
            content = folder.read_bytes(file)
        except FileNotFoundError:
            pass
        else:
            before = parse_recipe(content, type(recipe), f"{folder.url}/{file}")
            refuse_other(decides(before), decides(recipe), type(recipe), folder.url, what)
    folder.replace(file, dump_recipe(recipe).encode())


def refuse_other(
    before: Mapping[str, Any], now: Mapping[str, Any], model: type[BaseModel], where: str, what: str
) -> None:
    """Raises ValueError with the list of differences unless both ask for the same; see `changes`."""
    changed = changes(before, now, model)
    if changed:
        raise ValueError(
            f"{where}: found a {what} with another recipe ({listing(changed)}); use that recipe, or another folder"
        )


def changes(before: Mapping[str, Any], now: Mapping[str, Any], model: type[BaseModel]) -> list[str]:
    """A line for each field in which the two differ. Both are plain data of `model`, whole or in part."""
    return differences(with_defaults(before, now, model), dict(now))


def listing(lines: Sequence[str]) -> str:
    """The first lines, and how many more there are."""
    more = f"; and {len(lines) - MAX_LISTED} more" if len(lines) > MAX_LISTED else ""
    return "; ".join(lines[:MAX_LISTED]) + more
