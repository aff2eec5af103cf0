"""What is wrong with a recipe, a line a mistake for the person who wrote it; pure.

In: pydantic's `ValidationError`, the model and the data it refused. Out: of each mistake the place (a path of keys) and
a line: what was found, what was expected, or the nearest valid name. Knows no field of any recipe.

pydantic leaves out the checks of a model that has a mistake in a field, and all checks behind the first one that fails.
Here they are made up for, each on its own, on the fields that are sound: see `sound_part`.
"""

import contextlib
import difflib
import json
import re
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

SHORT = 60  # characters of a value in a message
SOME = 8  # fields in one
MAX_LISTED = 20  # mistakes in one answer
_SHOULD = re.compile(r"\b(Input|String|List|Tuple|Dictionary) should (be|have) ")
_ASIDE = re.compile(r"\bValue error, |, (unable to|got) .*| after validation, not \d+$")
_WORDS = {  # pydantic's words -> those of a person who writes YAML
    "a valid integer": "a whole number",
    "a valid number": "a number",
    "a valid string": "text",
    "a valid boolean": "true or false",
    "a valid list": "a list",
    "a valid tuple": "a list",
    "a valid dictionary": "`key: value` lines",
    "String should match": "expected text like the",
    "greater than or equal to": "at least",
    "less than or equal to": "at most",
    "greater than": "more than",
}


Place = tuple[str, ...]
Model = TypeVar("Model", bound=BaseModel)


class RecipeError(ValueError):
    """A line for each mistake, for the person who wrote the recipe; `path` and `model` are those of `load_recipe`."""

    path: Path | None = None
    model: type[BaseModel] | None = None

    @classmethod
    def of(cls, lines: Sequence[str]) -> "RecipeError":
        """All mistakes in one answer, each once; of very many the first ones, and how many more there are."""
        lines = list(dict.fromkeys(lines))  # two rules of a recipe may say the same of a field
        more = [f"and {len(lines) - MAX_LISTED} more mistakes"] if len(lines) > MAX_LISTED else []
        return cls("\n".join([*lines[:MAX_LISTED], *more]))


def mistakes(invalid: ValidationError, model: type[BaseModel], data: object) -> list[tuple[Place, str]]:
    """(place, line) of each mistake, as the fields are ordered. A key that a misspelt one stands for is not missing."""
    at: dict[Place, list[Any]] = {}  # of a union such as `int | "auto"` every part that did not fit has an error
    known: set[tuple[str, ...]] = set()
    for error in _told_once([*invalid.errors(include_url=False), *sound_part(model, data)[1]]):
        mark = (*map(str, error["loc"]), error["type"], str(error.get("ctx", {}).get("error")))
        if mark not in known:
            known.add(mark)
            at.setdefault(_place(data, error), []).append(error)
    misspelt = [place for place, errors in at.items() if errors[0]["type"] == "extra_forbidden"]
    meant = {(*place[:-1], name) for place in misspelt for name in _near(place, model)}
    found = []
    for place, errors in at.items():
        kind = errors[0]["type"]
        is_explained = kind == "too_short" and any(other[: len(place)] == place for other in at if other != place)
        if is_explained or (kind == "missing" and place in meant):  # an entry with a mistake does not count as one
            continue
        if kind != "value_error":
            found.append((place, _line(errors, place, model)))
            continue
        for error in errors:  # our own checks look at several fields and name the one to change
            if error["type"] == kind:
                line = _ours(str(error["ctx"]["error"]), ".".join(place), fields_at(model, place))
                named = tuple(line.partition(":")[0].split("."))
                found.append((named if named[-1] in fields_at(model, named[:-1]) else place, line))
    return found


def _told_once(errors: list[Any]) -> list[Any]:
    """Without the checks of a whole that find what a check of a part of it has found, in the same words."""
    texts = [(str(error.get("ctx", {}).get("error")), tuple(error["loc"])) for error in errors]
    return [
        error
        for error, (text, loc) in zip(errors, texts, strict=True)
        if error["type"] != "value_error"
        or not any(text == other and len(loc) < len(place) and place[: len(loc)] == loc for other, place in texts)
    ]


def sound_part(model: type[Model], data: object, loc: tuple[str | int, ...] = ()) -> tuple[Model, list[Any]]:
    """A `model` of the fields that are sound by themselves, and the errors of its other fields and of its checks.

    It is for checks of what is sound: a field that is not is missing, so whoever reads it gets an AttributeError. A
    check (a `model_validator` of mode "after") that reads one is left out. Errors have the form of pydantic's.
    """
    given = data if isinstance(data, Mapping) else {}
    values: dict[str, Any] = {}
    errors: list[Any] = []
    for name in (name for name in model.model_fields if name in given):
        with contextlib.suppress(_Unsound):
            values[name] = _sound_value(model.model_fields[name], given[name], (*loc, name), errors)
    part = model.model_construct(set(values), **values)
    for name in given.keys() - values.keys():
        part.__dict__.pop(name, None)  # pydantic has put the default there
    for name, check in model.__pydantic_decorators__.model_validators.items():
        if check.info.mode == "after":
            try:
                getattr(part, name)()
            except AttributeError:
                continue
            except ValueError as error:
                errors.append({"type": "value_error", "loc": loc, "ctx": {"error": error}})
    return part, errors


class _Unsound(Exception):
    """The value of a field does not fit; its errors were kept."""


def _sound_value(field: FieldInfo, value: Any, loc: tuple[str | int, ...], errors: list[Any]) -> Any:
    """The value as the model holds it. Raises _Unsound."""
    inner, origin = model_in(field.annotation, value), typing.get_origin(field.annotation)

    def one(item: Any, key: str | int | None = None) -> BaseModel:
        if inner is None or not isinstance(item, Mapping):
            raise _Unsound
        part, found = sound_part(inner, item, loc if key is None else (*loc, key))
        errors.extend(found)
        return part

    if inner is not None and origin in (list, tuple) and isinstance(value, list):
        return tuple(one(item, number) for number, item in enumerate(value))
    if inner is not None and origin in (dict, Mapping) and isinstance(value, Mapping):
        return {key: one(item, key) for key, item in value.items()}
    if inner is not None and value is not None:
        return one(value)
    try:
        kind: Any = Annotated[(field.annotation, *field.metadata, "")]  # an annotation needs one at least
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as invalid:
        errors.extend({**error, "loc": (*loc, *error["loc"])} for error in invalid.errors(include_url=False))
        raise _Unsound from None


def fields_at(model: type[BaseModel], place: Sequence[str]) -> Mapping[str, FieldInfo]:
    """The fields of the model that stands at `place`, of one of several models those of all; a list's or mapping's own
    part of the path is passed over."""
    is_inside = False  # a list or a mapping of models: the next part is a number or a free name
    at: list[type[BaseModel]] = [model]
    for part in place:
        if is_inside:
            is_inside = False
            continue
        fields = [one.model_fields[part] for one in at if part in one.model_fields]
        if not fields:
            return {}
        at = [inner for field in fields for inner in _models_in(field.annotation)]
        is_inside = typing.get_origin(fields[0].annotation) in (list, tuple, dict, Mapping)
    return {name: field for one in reversed(at) for name, field in one.model_fields.items()}


def model_in(annotation: object, data: object = None) -> type[BaseModel] | None:
    """The model in the annotation of a field: `Spec`, `Spec | None`, `tuple[Spec, ...]`, `Mapping[str, Spec]`.

    Of several, as in `Perturb | Alter`, the one whose words of one field `data` have (`kind: perturb`), else the first.
    """
    models = _models_in(annotation)
    if len(models) > 1 and isinstance(data, Mapping):
        return next((one for one in models if _is_told(one, data)), models[0])
    return models[0] if models else None


def _models_in(annotation: object) -> list[type[BaseModel]]:
    options = [annotation, *typing.get_args(annotation)]
    return [one for one in options if isinstance(one, type) and issubclass(one, BaseModel)]


def _is_told(model: type[BaseModel], data: Mapping[str, object]) -> bool:
    """Whether the fields that must be one of some words are."""
    words = {
        name: typing.get_args(field.annotation)
        for name, field in model.model_fields.items()
        if field.is_required() and typing.get_origin(field.annotation) is typing.Literal
    }
    return bool(words) and all(data.get(name) in allowed for name, allowed in words.items())


def in_plain_words(message: str) -> str:
    """What pydantic says, in words for a person who knows no Python: ``"expected a whole number"``."""
    text = _ASIDE.sub("", _SHOULD.sub("expected ", message))
    for words, plain in _WORDS.items():
        text = text.replace(words, plain)
    return text


def short(value: object) -> str:
    """A value as JSON, cut at `SHORT` characters, for a message."""
    text = json.dumps(value, ensure_ascii=True, default=str)
    return text if len(text) <= SHORT else text[: SHORT - 3] + "..."


def _place(data: Any, error: Any) -> Place:
    """The error's path as far as the data go: behind a union pydantic puts the name of the part that did not fit, or
    the word of the data by which it chose a part."""
    place: list[str] = []
    for part in error["loc"]:
        is_key = isinstance(data, Mapping) and part in data
        is_number = isinstance(data, list | tuple) and isinstance(part, int) and part < len(data)
        if not is_key and not is_number:
            if isinstance(data, Mapping) and part in data.values():
                continue
            break
        data = data[part]
        place.append(str(part))
    return (*place, str(error["loc"][-1])) if error["type"] == "missing" else tuple(place)


def _line(errors: Sequence[Any], place: Place, model: type[BaseModel]) -> str:
    name, kind = ".".join(place), errors[0]["type"]
    if kind == "extra_forbidden":
        near = _near(place, model)
        hint = f"did you mean `{near[0]}`?" if near else f"known here: {', '.join(fields_at(model, place[:-1]))}"
        return f"unknown key `{name}`; {hint}"
    field = fields_at(model, place[:-1]).get(place[-1]) if place else None
    meaning = (field and field.description) or ""
    about = f" ({meaning})" if meaning else ""
    if kind == "missing":
        return f"`{name}` is missing{about}; add it"
    found = f"`{name}`: found {short(errors[0]['input'])}, expected"
    if kind == "model_type":
        fields = list(fields_at(model, place))
        more = ", ..." if len(fields) > SOME else ""
        return f"{found} `key: value` lines below it: {', '.join(fields[:SOME])}{more}"
    if kind == "string_pattern_mismatch" and meaning:
        return f"{found} {meaning}"
    wanted = dict.fromkeys(in_plain_words(error["msg"]).removeprefix("expected ") for error in errors)
    return f"{found} {' or '.join(wanted)}{about}"


def _near(place: Place, model: type[BaseModel]) -> list[str]:
    """The field that a misspelt key stands for, if one is near."""
    return difflib.get_close_matches(place[-1], list(fields_at(model, place[:-1])), n=1, cutoff=0.5)


def _ours(message: str, name: str, fields: Mapping[str, FieldInfo]) -> str:
    if not name or message.startswith(f"{name}."):
        return message
    if message.partition(":")[0] in fields:
        return f"{name}.{message}"
    return f"`{name}`: {message[:1].lower()}{message[1:]}"
