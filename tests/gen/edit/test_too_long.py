"""Texts that are longer than what reads them: told for the editor's text encoder, refused for a CLIP judge."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from cluster.process.stop_flag import StopFlag
from gen.edit.attributes.draw import ClassAttributes
from gen.edit.recipe import AttributeEditSpec, EditRecipe
from gen.edit.run import run
from gen.edit.too_long import check_judged_texts, cut_line, longest_texts
from gen.prompts.prompts import PromptSpec, Sources, draw_table
from gen.prompts.table import PromptTable
from gen.wording.lexicon import load_lexicon
from shards.disk.home import home
from tests.support.alter_makers import CLASSES, attribute
from tests.support.small_edits import MODELS, NAMES, edit, recipe_of, write_classes, write_real

# diffusers' own, under NumPy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

LONG = "a photo of {name} on the table " + "in soft light from a window at the left " * 4
PLACES = [
    ClassAttributes(one, (tuple(attribute("background", name, None) for name in ("moss", "grass")),)) for one in NAMES
]
FIRST = {"background": "on {attribute}: {prompt}"}
CLIP = {"kind": "clip", "clip": {"model": str(MODELS / "clip")}, "budget": 2}


def recipe_with(folder: Path, **fields: Any) -> dict[str, Any]:
    how = {"kind": "attribute", "attributes": {"lexicon": "sandbox"}, "masks": {"order": ["otsu"]}, **fields}
    return recipe_of(write_real(folder / "real"), write_classes(folder / "classes.csv"), how)


def table_of(file: Path, *templates: str) -> PromptTable:
    spec = PromptSpec(kind="template", templates=templates)
    draw_table(CLASSES, {}, spec, 3, Sources(load_lexicon("general")), file)
    return PromptTable.load(file)


def test_an_attribute_behind_the_last_token_that_is_read_is_told(tmp_path: Path) -> None:
    recipe = EditRecipe.model_validate(recipe_with(tmp_path))
    assert cut_line(recipe, table_of(tmp_path / "short.parquet", "a {name}"), PLACES) is None
    line = cut_line(recipe, table_of(tmp_path / "long.parquet", "a {name}", LONG), PLACES)
    assert line is not None
    assert line.startswith("the attribute is cut off in the longest texts of 3 classes, such as 'a photo of ")
    assert "tokens, of which the text encoder reads 32; take shorter prompts, or set edit.form" in line


def test_an_attribute_that_stands_first_is_read_however_long_its_prompt_is(tmp_path: Path) -> None:
    body = recipe_with(tmp_path, form=FIRST, judge=CLIP)
    recipe, table = EditRecipe.model_validate(body), table_of(tmp_path / "long.parquet", LONG)
    assert cut_line(recipe, table, PLACES) is None
    assert isinstance(recipe.edit, AttributeEditSpec)
    check_judged_texts(recipe.edit, table, PLACES)


def test_a_clip_that_could_not_tell_attributes_apart_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    body = recipe_with(tmp_path, judge=CLIP)
    body["prompts"] = {"kind": "template", "templates": ["a {name}", LONG]}
    told = (
        r"^edit\.judge\.clip: found [0-9]+ tokens in \'a photo of .*, expected at most 32, for its end is not read and"
    )
    with pytest.raises(ValueError, match=told):
        edit(body, tmp_path / "out", 1)
    assert not list((tmp_path / "out").glob("*.tar"))


def test_a_run_says_that_attributes_are_cut_off(tmp_path: Path) -> None:
    body = recipe_with(tmp_path)
    body |= {
        "prompts": {"kind": "template", "templates": [LONG]},
        "source": {**body["source"], "per_class": 1},
        "sampler": {**body["sampler"], "steps": 2},
    }
    said: list[str] = []
    made = run(EditRecipe.model_validate(body), Fraction(1), str(tmp_path / "out"), home(), StopFlag(), say=said.append)
    assert made.exit_code == 0
    assert len([line for line in said if line.startswith("the attribute is cut off in the longest texts of 3")]) == 1


def test_the_longest_text_is_that_of_the_longest_prompt_and_the_longest_words(tmp_path: Path) -> None:
    table = table_of(tmp_path / "some.parquet", "{name}", "{name} and a few more words", "one {name}")
    words = ("moss", "a long row of old trees", "two words")
    places = [ClassAttributes(0, (tuple(attribute("background", name, None) for name in words),))]
    how = AttributeEditSpec.model_validate({"kind": "attribute", "masks": {"order": ["otsu"]}})
    [found] = longest_texts(how, how.words, table, places, lambda texts: [len(text.split()) for text in texts])
    assert (found.class_name, found.num_tokens) == ("zero", 6 + 1 + 6)
    assert found.text == "zero and a few more words on a long row of old trees"
