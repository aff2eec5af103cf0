"""Recipes: reads a YAML file into a frozen pydantic model; knows no field of any of them.

The model classes live beside their owners. All mistakes are told at once, each with its line in the file
(`cluster.recipes.mistake`). `canonical_json` is what fingerprints are made of, and `with_defaults` lets what an earlier
version kept be compared with what is asked for now.
"""

import hashlib
import json
import math
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import to_jsonable_python

from cluster.recipes.beside import Twice, beside_recipe
from cluster.recipes.mistake import RecipeError, mistakes, model_in, short, sound_part
from cluster.recipes.overrides import COMMAND_LINE, read_override, set_at
from shards.disk.home import home
from shards.disk.regular import read_regular
from shards.disk.safe_text import has_secret, quoted, redact

MAX_RECIPE_BYTES = 300_000  # PyYAML reads 60 KB a second
MAX_DEPTH = 50
SHIPPED_NAMED = 6  # recipes that a message names

Model = TypeVar("Model", bound=BaseModel)
Json = dict[str, Any] | list[Any] | str | int | float | bool | None


def nothing_more(part: BaseModel) -> Sequence[str]:
    """For recipes that name nothing that may be missing."""
    return ()


def _nobody(line: str) -> None:
    """Hears what nobody asked for."""


def load_recipe(
    path: Path,
    model: type[Model],
    overrides: Sequence[str] = (),
    more_of: Callable[[Model], Sequence[str]] = nothing_more,
    say: Callable[[str], None] = _nobody,
) -> Model:
    """Read `path`, lay the overrides (`sampler.steps=20`, values in YAML) over it, validate.

    Where a relative path leads to nothing, it is looked for beside our code: so `recipes/sandbox.yaml` is found from
    any folder. Raises RecipeError: missing or oversized file, YAML that is not plain data (tags, aliases, duplicate
    keys), unknown keys, values that do not fit, overrides without `=`. All that does not fit is told in one answer.
    `more_of` is asked for that answer alone, not for a sound recipe: it gets the sound part of this one, as
    `cluster.recipes.mistake.sound_part` makes it, and says what is wrong with what that names, such as missing files.
    `say` hears of each path that leads to something beside the recipe and to something else in the caller's folder.
    """
    path = _shipped(path)
    try:
        return _load(path, model, overrides, more_of, say)
    except RecipeError as error:
        error.path, error.model = path, model
        raise


def _shipped(path: Path) -> Path:
    """The file beside our code, where the path leads to nothing and there is one."""
    beside = home() / path
    return beside if beside.is_file() and not path.exists() else path


def _load(
    path: Path,
    model: type[Model],
    overrides: Sequence[str],
    more_of: Callable[[Model], Sequence[str]],
    say: Callable[[str], None],
) -> Model:
    if path.is_dir():
        raise RecipeError(f"{path}: found a folder, expected a recipe; give a YAML file in it")
    if not path.is_file():
        root = next(root for root in (Path(), home()) if (root / "recipes").is_dir() or root == home())
        files = [file for file in sorted((root / "recipes").glob("**/*.yaml")) if is_of(file, model)]
        shipped = {file.stem: str(file.relative_to(root)) for file in files}
        near = get_close_matches(path.stem, shipped, n=1, cutoff=0.7)
        some = ", ".join(sorted(shipped.values())[:SHIPPED_NAMED]) or "your own"
        hint = f"did you mean {shipped[near[0]]}?" if near else f"give a YAML file, for example {some}"
        raise RecipeError(f"{path}: no such recipe; {hint}")
    if path.stat().st_size > MAX_RECIPE_BYTES:
        raise RecipeError(f"{path}: found {path.stat().st_size} bytes, expected at most {MAX_RECIPE_BYTES}")
    from shards.disk.layout import META  # pyarrow, which `--help` does not wait for

    folder = None if path.parent.name == META else path.parent  # what lies in there is the data set's, not the recipe's
    return parse_recipe(read_regular(path, MAX_RECIPE_BYTES), model, str(path), overrides, folder, more_of, say)


def parse_recipe(
    content: bytes,
    model: type[Model],
    path: str,
    overrides: Sequence[str] = (),
    folder: Path | None = None,
    more_of: Callable[[Model], Sequence[str]] = nothing_more,
    say: Callable[[str], None] = _nobody,
) -> Model:
    """As `load_recipe`, for content that was read already; `path` names it in messages, `folder` is the one beside
    whose files its relative paths are looked for."""
    try:
        data, lines = plain_yaml(content)
        where = {loc: f"{path}:{line}" for loc, line in lines}
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise RecipeError(f"{path}:{line}: not a plain YAML recipe: {error.problem}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not a plain YAML recipe: {str(error).splitlines()[0]}") from None
    if not isinstance(data, dict):
        found = "nothing" if data is None else "a list" if isinstance(data, list) else "text"
        raise RecipeError(f"{path}: found {found}, expected `key: value` lines, as in recipes/sandbox.yaml")
    twice: Twice = {}
    data = data if folder is None else beside_recipe(data, model, folder, twice)
    for override in overrides:
        loc, value = read_override(override, model)
        set_at(data, loc, value, COMMAND_LINE)
        where |= {loc[: depth + 1]: COMMAND_LINE for depth in range(len(loc)) if loc[: depth + 1] not in where}
        where[loc] = COMMAND_LINE
        twice = {place: line for place, line in twice.items() if place[: len(loc)] != loc}
    for both in twice.values():
        say(both)
    _refuse_secrets(data, (), where, path)
    try:
        return model.model_validate(data)
    except ValidationError as invalid:
        told = [f"{_place_of(loc, where, path)}: {line}" for loc, line in mistakes(invalid, model, data)]
        raise RecipeError.of([*told, *more_of(sound_part(model, data)[0])]) from None


def _refuse_secrets(value: Any, loc: tuple[str, ...], where: Mapping[tuple[str, ...], str], path: str) -> None:
    """Raises RecipeError, which does not show it, for a key or a password: a recipe is stored beside what it makes."""
    if isinstance(value, str) and has_secret(value):
        place = f"{_place_of(loc, where, path)}: {'.'.join(loc)}"
        raise RecipeError(
            f"{place}: found a key or a password in {quoted(redact(value), 80)}, "
            "expected none, for recipes are stored; keys come from the environment"
        )
    if isinstance(value, Mapping):
        value = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, list):
        value = [(str(at), item) for at, item in enumerate(value)]
    else:
        return
    for name, item in value:
        _refuse_secrets(item, (*loc, name), where, path)


def kind_of(path: Path, kinds: Mapping[str, type[BaseModel]]) -> str | None:
    """The name in `kinds` whose model knows most of the file's top-level keys, the first of equals; the file is found
    as by `load_recipe`.

    None for a file that has no such keys: it cannot be read, or is no mapping.
    """
    keys = _keys_of(path)
    if keys is None:
        return None
    return max(kinds, key=lambda name: len(keys & kinds[name].model_fields.keys()))


def is_of(path: Path, model: type[BaseModel]) -> bool:
    """Whether the file has the keys that the model asks for, and none that it refuses."""
    keys, known = _keys_of(path) or set(), model.model_fields
    is_known = model.model_config.get("extra") != "forbid" or keys <= known.keys()
    return is_known and keys >= {name for name, field in known.items() if field.is_required()}


def _keys_of(path: Path) -> set[str] | None:
    """The file's top-level keys; None for one that cannot be read, or is no mapping."""
    try:
        data, _ = plain_yaml(read_regular(_shipped(path), MAX_RECIPE_BYTES))
    except (OSError, ValueError, yaml.YAMLError):
        return None
    return {str(key) for key in data} if isinstance(data, dict) else None


def dump_recipe(recipe: BaseModel) -> str:
    """The resolved recipe as YAML that `load_recipe` reads back to an equal model."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)


def canonical_json(value: Json) -> bytes:
    """One spelling for one value, on every machine; refuses (TypeError, ValueError) what it cannot write exactly."""

    def check(item: Any) -> None:
        if isinstance(item, dict):
            for key, sub in item.items():
                if not isinstance(key, str):
                    raise TypeError(f"canonical JSON: found the key {key!r}, expected text")
                check(sub)
        elif isinstance(item, list):
            for sub in item:
                check(sub)
        elif isinstance(item, float) and not math.isfinite(item):
            raise ValueError(f"canonical JSON: found {item}, expected a finite number")
        elif not (item is None or isinstance(item, (str, bool, int, float))):
            raise TypeError(f"canonical JSON: found {type(item).__name__}, expected plain JSON data")

    check(value)
    return json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":"), allow_nan=False).encode()


def fingerprint(value: Json) -> str:
    """Hex sha256 of the canonical JSON."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def differences(old: Json, new: Json) -> list[str]:
    """`sampler.steps: 12 before, 20 now` for every leaf that is not equal, in reading order."""

    def walk(a: Any, b: Any, name: str) -> Iterator[str]:
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            for key in dict.fromkeys([*a, *b]):
                yield from walk(a.get(key), b.get(key), f"{name}.{key}" if name else key)
        elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
            for index, (one, other) in enumerate(zip(a, b, strict=True)):
                yield from walk(one, other, f"{name}.{index}")
        elif a != b:
            yield f"{name}: {short(a)} before, {short(b)} now"

    return list(walk(old, new, ""))


def with_defaults(old: Mapping[str, Any], new: Mapping[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    """`old`, kept by an earlier version of `model`, with each field that only `new` knows at its default.

    Both are plain JSON that `model` dumped, whole or in part. A field without a default stays missing.
    """
    filled = dict(old)
    for name, field in model.model_fields.items():
        if name in old and name in new:
            filled[name] = _filled(old[name], new[name], field.annotation)
        elif name in new and not field.is_required():
            default = to_jsonable_python(field.get_default(call_default_factory=True))
            if model_in(field.annotation) and isinstance(default, dict) and isinstance(new[name], Mapping):
                default = {key: value for key, value in default.items() if key in new[name]}
            filled[name] = default
    return filled


def _filled(old: Any, new: Any, annotation: object) -> Any:
    model = model_in(annotation, new)
    if model is None:
        return old
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [with_defaults(one, other, model) for one, other in zip(old, new, strict=True)]
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        return old
    if typing.get_origin(annotation) in (dict, Mapping):
        return {name: _filled(value, new.get(name), model) for name, value in old.items()}
    return with_defaults(old, new, model)


class _PlainLoader(yaml.SafeLoader):
    """PyYAML's safe loader without what would take all memory or hours: aliases, and a level for each character."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """One value. Raises yaml.MarkedYAMLError."""
        mark = self.peek_event().start_mark
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem="aliases (*name) are not used in recipes", problem_mark=mark)
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise yaml.MarkedYAMLError(problem=f"more than {MAX_DEPTH} levels", problem_mark=mark)
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node


def plain_yaml(content: bytes) -> tuple[Any, list[tuple[tuple[str, ...], int]]]:
    """The data in YAML, and of every key its place and line number (from 1).

    Raises yaml.YAMLError or UnicodeDecodeError for what is no plain data: tags, aliases, a key twice, more than
    `MAX_DEPTH` levels.
    """
    loader = _PlainLoader(content.decode("utf-8"))
    try:
        node = loader.get_single_node()
        lines = _lines(node)
        return None if node is None else loader.construct_document(node), lines
    finally:
        loader.dispose()


def _lines(root: yaml.Node | None) -> list[tuple[tuple[str, ...], int]]:
    """Line number (from 1) of every key; refuses duplicate keys."""
    found: list[tuple[tuple[str, ...], int]] = []

    def walk(node: yaml.Node | None, loc: tuple[str, ...]) -> None:
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, value in node.value:
                name = str(key.value)
                if name in seen:
                    raise yaml.MarkedYAMLError(problem=f"the key `{name}` stands twice", problem_mark=key.start_mark)
                seen.add(name)
                found.append(((*loc, name), key.start_mark.line + 1))
                walk(value, (*loc, name))
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                found.append(((*loc, str(index)), value.start_mark.line + 1))
                walk(value, (*loc, str(index)))

    walk(root, ())
    return found


def _place_of(loc: tuple[str, ...], where: Mapping[tuple[str, ...], str], path: str) -> str:
    """File and line of a value, or of what it is in."""
    return next((where[loc[:n]] for n in range(len(loc), 0, -1) if loc[:n] in where), path)
