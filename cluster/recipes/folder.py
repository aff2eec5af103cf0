"""A folder that belongs to a recipe: the first run claims it, and every later one must ask for the same.

In: a recipe, what of it decides the result, the folder or the object store. Out: nothing, or a refusal with the list of
differences. On disk: one file, whose name the owner gives (`recipe.yaml`, `sweep.yaml`): the recipe, resolved. An owner
that keeps more than the recipe (the data set's `_meta/run.json`) writes its file itself and compares with `changes`.

What does not decide (threads, engine, how long something is kept) may change from run to run. A field that the version
behind the file did not know yet is no difference while it stands at its default.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel

from cluster.recipes.load import Model, differences, dump_recipe, parse_recipe, with_defaults
from shards.disk.replace import replace_file

MAX_LISTED = 20  # differences in one message


class Folder(Protocol):
    """Where the file lies: a `LocalFolder`, or any store of `shards.disk.store`."""

    @property
    def url(self) -> str: ...  # for people
    def read_bytes(self, name: str) -> bytes: ...  # FileNotFoundError
    def replace(self, name: str, data: bytes) -> None: ...  # whole or not at all


class LocalFolder:
    """A folder that keeps nothing but what its owner puts there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.url = str(path)

    def read_bytes(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def replace(self, name: str, data: bytes) -> None:
        replace_file(self.path / name, data)


def claim(
    folder: Folder, file: str, recipe: Model, decides: Callable[[Model], Mapping[str, Any]], what: str, is_used: bool
) -> None:
    """Make the folder the recipe's; the file then says how this run works. The caller alone writes there meanwhile.

    `what` says what lies there ("training"); `decides` gives the part of a recipe that must stay, as plain data.
    `is_used`: whether anything is there that a run made; a recipe that failed before that owns nothing, and the mended
    one takes its place. Raises ValueError if the folder belongs to another recipe, RecipeError if its file cannot be
    read.
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
    """A line for each field in which the two differ. Both are plain data that `model` dumped, whole or in part."""
    return differences(with_defaults(before, now, model), dict(now))


def listing(lines: Sequence[str]) -> str:
    """The first lines, and how many more there are."""
    more = f"; and {len(lines) - MAX_LISTED} more" if len(lines) > MAX_LISTED else ""
    return "; ".join(lines[:MAX_LISTED]) + more
