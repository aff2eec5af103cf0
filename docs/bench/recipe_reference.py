"""Writes docs/recipes.md and recipes/schema/ from the recipes' models: `python -m docs.bench.recipe_reference`.

In: the models that recipes and lexicons are checked with, and those that ship. Out and on disk: docs/recipes.md, every
field with what it may be, its default, an example and its meaning; one JSON schema a kind, by which editors complete
and check YAML. A test compares both with the models.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from cluster.recipes.load import kind_of, plain_yaml
from gen.edit.recipe import EditRecipe
from gen.run.recipe import Recipe
from gen.wording.lexicon import Lexicon
from retrieve.run.recipe import RetrieveRecipe
from shards.disk.home import home
from train.recipe import TrainRecipe
from train.sweep.plan import SweepSpec

PAGE = home() / "docs" / "recipes.md"
SCHEMAS = home() / "recipes" / "schema"
KINDS: dict[str, type[BaseModel]] = {
    "generate": Recipe,
    "edit": EditRecipe,
    "retrieve": RetrieveRecipe,
    "train": TrainRecipe,
    "sweep": SweepSpec,
    "lexicon": Lexicon,
}
ABOUT = {
    "generate": "What `sixfold generate`, `plan`, `prompts` and `meanings` read. `sixfold init` writes one.",
    "edit": "What `sixfold edit` reads: a recipe of `generate` with the pictures to begin with, and what is done to "
    "them.",
    "retrieve": "What `sixfold retrieve` reads: the classes, the pool, how it is searched, what is kept.",
    "train": "What `sixfold train` reads. `log: wandb` needs `pip install wandb`, and its key in WANDB_API_KEY.",
    "sweep": "What `sixfold sweep` reads: a training recipe, and what changes from point to point.",
    "lexicon": "The words that prompts are made of without a language model; `prompts.lexicon` names the file. Two "
    "ship: `general` (gen/wording/lexicon.yaml) and `sandbox` (sandbox/lexicon.yaml).",
}
HEAD = """# Recipes

A run depends on one YAML file, its recipe. This page lists every field; it is written from the code.

* **A field on the command line**: `sixfold generate my.yaml sampler.steps=20`. Values are YAML. A number reaches into a
  list: `data.domains.1.subset=3x`; null takes the entry out: `data.domains.1=null`.
* **All mistakes come in one answer**, a line each, with file and line. Of a misspelt field it says the right one.
* **A relative path** is looked for beside the recipe, then in the folder where the command is called, then where
  sixfold lies (`recipes/` and `sandbox/` are there). The first that exists counts. Workers on other machines get the
  path that was found. Values on the command line, the changes of a sweep, and places that are written to (`llm.cache`,
  `data.cache.folder`, `out` of a sweep) are relative to the folder where the command is called.
* **What counts is the content, not the path.** A model, a class list, a lexicon, a table of prompts or a folder of real
  images may move, and the run goes on. With other bytes it is another run, which the output refuses.
* **Your editor** completes and checks fields if it has a YAML language server (in VS Code the extension "YAML"). The
  first line of a recipe names the schema: `# yaml-language-server: $schema=schema/generate.json`, with the path from
  your recipe to `recipes/schema/`. `sixfold init` writes this line.

* **Senses by hand** (`meanings.overrides`) are a YAML file of lines `name or id: phrase`: `crane: crane, the bird`.

[generate](#generate), [edit](#edit), [retrieve](#retrieve), [train](#train), [sweep](#sweep), and [lexicons](#lexicon),
which recipes name. In the tables "required" means that there is no default. `[0]` stands for the number of a list's
entry, `NAME` for a name of your choice.
"""
MAX_EXAMPLE = 60
STAGE = "before[0]."  # its parts have the fields of the recipe's
Schema = Mapping[str, Any]
Fields = list[tuple[str, Schema, bool]]  # place, schema, whether it must be given


def schema_of(kind: str) -> str:
    """The JSON schema of a kind of recipe, as its file has it."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **KINDS[kind].model_json_schema()}
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def reference() -> str:
    """docs/recipes.md."""
    lines = [HEAD]
    for kind, model in KINDS.items():
        schema = model.model_json_schema()
        examples = list(_examples(kind))
        lines += [f"## {kind}", "", ABOUT[kind], ""]
        for part, about, fields in _parts(schema):
            lines += [f"### {part}" if part else "### at the top", ""]
            lines += [about, ""] if about and part else []
            lines += ["| field | what it may be | default | example | meaning |", "|---|---|---|---|---|"]
            for place, field, is_required in fields:
                meaning = field.get("description") or _about(field, schema)
                default = "required" if is_required else _default(field, schema)
                example = _example(place, field, examples)
                row = (f"`{place}`", _words(field, schema), default, example, meaning)
                lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |")
            lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def rows() -> Iterator[tuple[str, str, str]]:
    """(kind and place, meaning, example or default) of every field that is no part of its own."""
    for kind, model in KINDS.items():
        schema, examples = model.model_json_schema(), list(_examples(kind))
        for _, _, fields in _parts(schema):
            for place, field, is_required in fields:
                if _model_in(field, schema)[0] is not None:
                    continue
                shown = _example(place, field, examples)
                if not shown and not is_required:
                    shown = _default(field, schema)
                yield f"{kind}: {place}", field.get("description") or _about(field, schema), shown


def _parts(schema: Schema) -> Iterator[tuple[str, str, Fields]]:
    """(heading, sentence, fields) of the recipe and of each model in it, in the order of the fields. A field that may
    be one of several models has a part for each."""
    waiting: list[tuple[str, str, Schema]] = [("", "", schema)]
    while waiting:
        part, heading, model = waiting.pop(0)
        fields: Fields = []
        inner: list[tuple[str, str, Schema]] = []
        for name, field in model["properties"].items():
            place = f"{part}.{name}" if part else name
            below, suffix = _model_in(field, schema)
            if below is not None:
                inner.append((place + suffix, place + suffix, below))
            for option in field.get("oneOf", ()):
                chosen = _resolved(option, schema)
                by = field["discriminator"]["propertyName"]
                inner.append((place, f"{place}, {by}: {chosen['properties'][by]['const']}", chosen))
            fields.append((place, field, name in model.get("required", ())))
        yield heading, _first_sentence(model.get("description", "")), fields
        waiting = [*inner, *waiting]


def _model_in(field: Schema, schema: Schema) -> tuple[Schema | None, str]:
    """The model that stands in a field, and how its place goes on: nothing, `[]` or `.NAME`."""
    for option in [field, *field.get("anyOf", ())]:
        for inner, suffix in (
            (option, ""),
            (option.get("items", {}), "[0]"),
            (option.get("additionalProperties", {}), ".NAME"),
            (_items(option.get("additionalProperties")), ".NAME[0]"),
        ):
            if isinstance(inner, Mapping) and "properties" in (model := _resolved(inner, schema)):
                return model, suffix
    return None, ""


def _items(field: object) -> Schema:
    return field.get("items", {}) if isinstance(field, Mapping) else {}


def _resolved(field: Schema, schema: Schema) -> Schema:
    return schema["$defs"][field["$ref"].rpartition("/")[2]] if "$ref" in field else field


def _words(field: Schema, schema: Schema) -> str:
    """What a value may be, in words."""
    if "oneOf" in field:
        return "fields of one of the parts below"
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(_words(option, schema) for option in field["anyOf"]))
    if "$ref" in field:
        return "fields below" if "properties" in _resolved(field, schema) else "any value"
    if "enum" in field:
        return ", ".join(f"`{json.dumps(value) if not isinstance(value, str) else value}`" for value in field["enum"])
    if "const" in field:
        return f"`{field['const']}`"
    kind = field.get("type")
    if kind == "array":
        if "prefixItems" in field:
            return f"list of {len(field['prefixItems'])}: {_words(field['prefixItems'][0], schema)}"
        return f"list of {_words(field.get('items', {}), schema)}"
    if kind == "object":
        inner = field.get("additionalProperties")
        return f"names with {_words(inner, schema)}" if isinstance(inner, Mapping) else "names with values"
    word = {
        "integer": "whole number",
        "number": "number",
        "boolean": "`true`, `false`",
        "string": "text",
        "null": "`null`",
    }
    return word.get(str(kind), "any value") + _range(field)


def _range(field: Schema) -> str:
    bounds = [
        f"{words} {field[key]:g}" if isinstance(field[key], float) else f"{words} {field[key]:,}"
        for key, words in (
            ("minimum", "at least"),
            ("exclusiveMinimum", "above"),
            ("maximum", "at most"),
            ("exclusiveMaximum", "below"),
        )
        if key in field
    ]
    return f", {' and '.join(bounds)}" if bounds else ""


def _default(field: Schema, schema: Schema) -> str:
    below, suffix = _model_in(field, schema)
    if below is not None and not suffix and field.get("default", {}) is not None:
        return "as below"
    value = field.get("default")
    return f"`{json.dumps(value, ensure_ascii=False)}`" if value not in ("",) else "empty text"


def _example(place: str, field: Schema, examples: Sequence[tuple[str, str]]) -> str:
    """The value of the first shipped recipe that has one, else that of the field's own; of a stage's field, else that
    of the recipe's."""
    if "const" in field:
        return f"`{field['const']}`"
    pattern = re.escape(place).replace(r"\[0\]", r"\.\d+").replace("NAME", r"[^.]+")
    own = [f"`{_yaml(value)}`" for value in field.get("examples", ())]
    found = next((value for at, value in examples if re.fullmatch(pattern, at)), own[0] if own else "")
    in_recipe = place.removeprefix(STAGE)
    return _example(in_recipe, field, examples) if not found and in_recipe != place else found


def _about(field: Schema, schema: Schema) -> str:
    below, _ = _model_in(field, schema)
    return _first_sentence(below.get("description", "")) if below is not None else ""


def _first_sentence(text: str) -> str:
    return " ".join(text.split("\n\n")[0].split())


def _examples(kind: str) -> Iterator[tuple[str, str]]:
    """(place, value) of each short value in the recipes that ship, and in those of the kind whose fields it has too."""
    for file in [*shipped(kind), *(shipped("generate") if kind == "edit" else ())]:
        data, _ = plain_yaml(file.read_bytes())
        for place, value in _leaves(data, ""):
            text = _yaml(value)
            if len(text) > MAX_EXAMPLE and isinstance(value, list):
                text = f"{_yaml(value[:1])[:-1]}, ...]"
            if value is not None and len(text) <= MAX_EXAMPLE:
                yield place, f"`{text}`"


def shipped(kind: str) -> list[Path]:
    """The recipes of a kind that ship with sixfold, those of the sandbox first."""
    if kind == "lexicon":
        return [home() / "sandbox" / "lexicon.yaml", home() / "gen" / "wording" / "lexicon.yaml"]
    files = sorted((home() / "recipes").glob("**/*.yaml"), key=lambda file: (not file.name.startswith("sandbox"), file))
    return [file for file in files if kind_of(file, KINDS) == kind]


def _leaves(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    if place:
        yield place, value
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _leaves(inner, f"{place}.{name}" if place else str(name))
    elif isinstance(value, list):
        for at, inner in enumerate(value):
            yield from _leaves(inner, f"{place}.{at}")


def _yaml(value: Any) -> str:
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)


def main() -> None:
    """Write the page and the schemas."""
    PAGE.write_text(reference(), encoding="utf-8")
    SCHEMAS.mkdir(exist_ok=True)
    for kind in KINDS:
        (SCHEMAS / f"{kind}.json").write_text(schema_of(kind), encoding="utf-8")


if __name__ == "__main__":
    main()
