"""docs/recipes.md and the JSON schemas are what the models of the recipes say."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from docs.bench.recipe_reference import KINDS, PAGE, SCHEMAS, reference, rows, schema_of, shipped
from shards.disk.home import home

RECIPES = [(kind, file) for kind in KINDS if kind != "lexicon" for file in shipped(kind)]
NAMES = [str(file.relative_to(home())) for _, file in RECIPES]


def test_the_page_lists_every_field_as_the_models_have_it() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference(), "run `python -m docs.bench.recipe_reference`"


@pytest.mark.parametrize("kind", KINDS)
def test_the_schema_of_a_kind_is_that_of_its_model(kind: str) -> None:
    content = (SCHEMAS / f"{kind}.json").read_text(encoding="utf-8")
    assert content == schema_of(kind), "run `python -m docs.bench.recipe_reference`"
    jsonschema.Draft202012Validator.check_schema(json.loads(content))


def test_every_field_has_a_meaning_and_an_example_or_a_default() -> None:
    empty = {"", "`null`", "`{}`", "`[]`", "empty text"}
    assert [place for place, meaning, shown in rows() if not meaning or shown in empty] == []


def test_all_recipes_that_ship_are_of_some_kind() -> None:
    assert sorted(file for _, file in RECIPES) == sorted((home() / "recipes").glob("**/*.yaml"))


@pytest.mark.parametrize(("kind", "file"), RECIPES, ids=NAMES)
def test_an_editor_finds_the_schema_of_a_shipped_recipe_which_fits_it(kind: str, file: Path) -> None:
    first, rest = file.read_text(encoding="utf-8").split("\n", 1)
    schema = file.parent / first.removeprefix("# yaml-language-server: $schema=")
    assert schema.resolve() == SCHEMAS / f"{kind}.json"
    recipe = yaml.safe_load(rest)
    validator = jsonschema.Draft202012Validator(json.loads(schema.read_text(encoding="utf-8")))
    assert [error.message for error in validator.iter_errors(recipe)] == []
    recipe["nmae"] = "x"
    assert [error.validator for error in validator.iter_errors(recipe)] == ["additionalProperties"]
