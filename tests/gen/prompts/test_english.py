"""What prompts of ImageNet-1k say: in places of their own kind, with the right article, in few words, and each once."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from random import Random

import pytest

from cluster.recipes.load import load_recipe
from gen.names.gloss import needed_gloss
from gen.prompts.diversity import measure_diversity
from gen.prompts.prompts import PromptSpec, Sources, draw_prompts, draw_table
from gen.prompts.strangers import find_strangers, place_lines
from gen.prompts.table import Prompt, PromptTable
from gen.run.recipe import Recipe
from gen.wording.lexicon import load_lexicon
from shards.disk.home import home
from shards.labels.classes import Class, ClassSpec, load_classes
from tests.gen.names.test_noun_phrase import WITH_AN, WITHOUT

SPEC = PromptSpec(kind="cd+sd", per_class=20)
SOURCES = Sources(load_lexicon("general"))


@cache
def imagenet() -> list[Class]:
    return load_classes(ClassSpec(source="imagenet-1k", per_class=1))


def meaning_of(one: Class) -> str | None:
    return needed_gloss(one, {"missile", "sunglasses"})


@cache
def sampled() -> list[tuple[Class, Prompt]]:
    """500 prompts: one each of 500 classes."""
    rng = Random(0)
    classes = rng.sample(imagenet(), 500)
    return [(one, rng.choice(draw_prompts(one, meaning_of(one), SPEC, 0, SOURCES).prompts)) for one in classes]


def faults() -> Iterator[str]:
    """Sampled prompts whose subject does not have the article that a reader gave the name."""
    for one, prompt in sampled():
        article = "" if one.id in WITHOUT else "an " if one.id in WITH_AN else "a "
        said = f" of {article}{prompt.meaning or one.name}"
        if said not in prompt.text or any(f" {double} " in prompt.text for double in ("a a", "a an", "an a", "an an")):
            yield prompt.text


def test_at_least_98_percent_of_500_prompts_have_the_right_article() -> None:
    assert len(list(faults())) <= 10


def test_no_prompt_has_more_than_25_words_or_says_a_thing_twice() -> None:
    for _, prompt in sampled():
        assert len(prompt.text.split()) <= 25, prompt.text
        assert ",," not in prompt.text
        assert "  " not in prompt.text
        assert len(set(prompt.words.values())) == len(prompt.words)


def test_an_explained_name_stands_between_commas() -> None:
    jay = draw_prompts(imagenet()[17], "jay, a bird", SPEC, 0, SOURCES).prompts
    assert all(" of a jay, a bird, " in prompt.text for prompt in jay)


def test_fewer_than_one_prompt_in_a_hundred_puts_a_class_into_a_place_of_another_kind(tmp_path: Path) -> None:
    classes = imagenet()[::10]
    meanings = {one.id: told for one in classes if (told := meaning_of(one))}
    draw_table(classes, meanings, SPEC, 0, SOURCES, tmp_path / "prompts.parquet")
    found = find_strangers(PromptTable.load(tmp_path / "prompts.parquet"), classes)
    assert found.num_prompts == 20 * len(classes)
    assert found.num_foreign < 0.01 * found.num_prompts
    assert found.num_placed > 0.7 * found.num_prompts


def test_strangers_are_counted_and_shown_whoever_wrote_the_prompts(tmp_path: Path) -> None:
    shark, bus = Class(3, "tiger shark", "n01491361", 1), Class(779, "school bus", "n04146614", 1)
    spec = PromptSpec(templates=("a photo of {subject} in a pine wood", "{subject} on a wet city street"))
    draw_table([shark, bus], {}, spec, 0, SOURCES, tmp_path / "prompts.parquet")
    found = find_strangers(PromptTable.load(tmp_path / "prompts.parquet"), [shark, bus])
    assert found.by_class == {3: 2}
    first, second = place_lines(found)
    assert first.startswith("class in a place of another kind: 2 of 4 prompts (50.0 %)")
    assert "class 3 (aquatic), 2 times" in second


def test_the_name_itself_is_no_place(tmp_path: Path) -> None:
    lily = Class(0, "forest lily", None, 1, kind="aquatic")
    draw_table([lily], {}, PromptSpec(templates=("{name}",)), 0, SOURCES, tmp_path / "prompts.parquet")
    assert find_strangers(PromptTable.load(tmp_path / "prompts.parquet"), [lily]).num_foreign == 0


@pytest.mark.parametrize("class_id", [3, 628, 980, 497, 817])
def test_the_places_that_were_once_wrong_are_right(class_id: int) -> None:
    """The tiger shark stood in a wood, the ocean liner on a showroom floor, the volcano in a large city."""
    said = {prompt.words["background"] for prompt in draw_prompts(imagenet()[class_id], None, SPEC, 0, SOURCES).prompts}
    assert not any(
        word in " ".join(said) for word in ("wood floor", "pine wood", "large city", "living room", "meadow")
    )


@pytest.mark.parametrize("name", ["imagenet-sd15-6x", "imagenet-sdxl-turbo-6x", "sandbox"])
def test_in_every_shipped_recipe_each_image_of_6x_has_a_prompt_of_its_own(name: str) -> None:
    recipe = load_recipe(home() / "recipes" / f"{name}.yaml", Recipe)
    most = max(one.count for one in load_classes(recipe.classes))
    assert recipe.prompts.per_class == 6 * most


def test_a_class_that_is_said_in_another_way_does_not_miss_its_name(tmp_path: Path) -> None:
    box = imagenet()[478]  # "cardboard box / carton"
    draw_table([box], {478: "cardboard box"}, SPEC, 0, SOURCES, tmp_path / "prompts.parquet")
    assert measure_diversity(PromptTable.load(tmp_path / "prompts.parquet"), seed=0).total("num_nameless") == 0
