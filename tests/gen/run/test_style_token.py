"""A learned style token in a generation: its word stands in every prompt, its rows make the images, and both are part
of what the images depend on."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gen.invert.files import write_style_token
from gen.invert.spec import InvertSpec, pinned_generator
from gen.model.folder import ModelError
from gen.model.style_token import Word, open_style_token
from gen.prompts.prompts import PromptSpec, Sources, draw_prompts
from gen.prompts.table import PROMPT_TABLE, PromptTable
from gen.prompts.too_long import length_of
from gen.run.recipe import Recipe, identity, read_recipe
from gen.run.remake import regenerate_images
from gen.sampler.spec import check_sampler, sampler_digest
from gen.wording.lexicon import load_lexicon
from gen.wording.parts import Wording
from shards.disk.home import home
from shards.disk.store import open_for_reading
from shards.labels.classes import Class, load_classes
from shards.set.manifest import read_table, scan_records
from tests.gen.run.test_run import HERE, files_of, generate
from tests.support.tiny_pipelines import tiny_pipeline

WIDTH = 128  # of the sandbox's text encoder
GENERATOR = "sandbox/models/generator"
PLAIN = "meanings.choose=none"
ALL = (Word(word="<style>", classes=None, ids=None),)


def write_token(folder: Path, words: tuple[Word, ...] = ALL, vectors: int = 1, **changes: Any) -> Path:
    """A token whose learned rows are random and whose untrained ones are others."""
    spec = pinned_generator(InvertSpec.model_validate({"model": GENERATOR, "vectors": vectors, **changes}))
    drawn = np.random.default_rng(0).normal(size=(2, len(words), vectors, WIDTH)).astype(np.float32)
    learned, untrained = ({"text_encoder": rows} for rows in drawn)
    write_style_token(folder, spec, "sd", words, learned, untrained, {"step": 3})
    return folder


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_token(tmp_path_factory.mktemp("token") / "style")


def recipe(*overrides: str) -> Recipe:
    return read_recipe(home() / "recipes" / "sandbox.yaml", [PLAIN, *overrides])


def test_images_depend_on_the_rows_and_are_made_again_to_the_same_bytes(token: Path, tmp_path: Path) -> None:
    said, form = f"prompts.style_token={token}", 'prompts.style_form="{prompt}, {token}"'
    runs = {"plain": (), "learned": (said, form), "untrained": (said, form, "prompts.style_rows=untrained")}
    made = {}
    for name, overrides in runs.items():
        assert generate(tmp_path / name, "0.05", HERE, PLAIN, *overrides).exit_code == 0
        made[name] = files_of(tmp_path / name)["00000.tar"]
    assert len(set(made.values())) == 3
    store = open_for_reading(str(tmp_path / "learned"))
    assert all(one.same_bytes for one in regenerate_images(store, 3, seed=0))
    for row in read_table(store, scan_records(store)).to_pylist():
        assert row["caption"].endswith(", <style>")
    write_token(tmp_path / "other", vectors=2)
    with pytest.raises(ValueError, match="was made by another recipe"):
        generate(tmp_path / "learned", "0.05", HERE, PLAIN, f"prompts.style_token={tmp_path / 'other'}", form)
    shutil.copytree(token, tmp_path / "moved")
    outcome = generate(tmp_path / "learned", "0.05", HERE, PLAIN, f"prompts.style_token={tmp_path / 'moved'}", form)
    assert outcome.exit_code == 0, "the same token elsewhere"


def test_every_kind_of_prompt_says_the_word_and_can_be_put_together_again(token: Path) -> None:
    one = Class(3, "three", None, 5)
    for kind in ("name", "template", "caption", "cd", "sd", "cd+sd"):
        few = {} if kind == "name" else {"per_class": 6}
        spec = PromptSpec.model_validate({"kind": kind, "lexicon": "sandbox", "style_token": str(token), **few})
        plain = spec.model_copy(update={"style_token": None})
        drawn = draw_prompts(one, None, spec, 0, Sources(load_lexicon("sandbox"))).prompts
        bare = draw_prompts(one, None, plain, 0, Sources(load_lexicon("sandbox"))).prompts
        for prompt, without in zip(drawn, bare, strict=True):
            assert prompt.text == f"{without.text} in the style of <style>"
            assert prompt.words["token"] == "<style>"
            assert Wording(prompt.form, prompt.words).text("three") == prompt.text


def test_a_template_may_say_where_the_word_stands(token: Path) -> None:
    spec = PromptSpec(templates=("a {token} {name}", "a {name}"), style_token=str(token))
    texts = {one.text for one in draw_prompts(Class(3, "three", None, 5), None, spec, 0, sources()).prompts}
    assert texts == {"a <style> three", "a three in the style of <style>"}


def sources() -> Sources:
    return Sources(load_lexicon("general"))


def test_each_class_says_its_own_word_where_there_are_several(tmp_path: Path) -> None:
    words = tuple(
        Word(word=f"<style-{number}>", classes=(name,), ids=(number,))
        for number, name in enumerate(("hen", "crane", "crane"))
    )
    spec = PromptSpec(templates=("a {name}",), style_token=str(write_token(tmp_path / "token", words)))
    for class_id, name, word in ((0, "hen", 0), (1, "crane", 1), (2, "crane", 2)):
        (prompt,) = draw_prompts(Class(class_id, name, None, 5), None, spec, 0, sources()).prompts
        assert prompt.text.endswith(f"<style-{word}>")
    with pytest.raises(ValueError, match="found no word for the class 'duck' among 3") as error:
        draw_prompts(Class(0, "duck", None, 5), None, spec, 0, sources())
    assert "\n" not in str(error.value)


def test_the_prompt_table_stays_readable(token: Path, tmp_path: Path) -> None:
    overrides = [f"prompts.style_token={token}", "prompts.kind=name", "prompts.per_class=null"]
    assert generate(tmp_path / "out", "0.05", HERE, PLAIN, *overrides).exit_code == 0
    table = PromptTable.load(tmp_path / "out" / PROMPT_TABLE)
    assert table.prompt(3, 0).text == "three in the style of <style>"


def test_a_recipe_without_a_token_has_the_identity_it_had(token: Path) -> None:
    plain = identity(recipe())
    assert not {"style_token", "style_rows", "style_form"} & {*plain["prompts"], *plain["sampler"]}
    styled = identity(recipe(f"prompts.style_token={token}"))
    assert styled["model_digest"] != plain["model_digest"]
    untrained = identity(recipe(f"prompts.style_token={token}", "prompts.style_rows=untrained"))
    assert len({one["prompts"]["style_token"] for one in (styled, untrained)}) == 2


def test_the_tokens_of_every_vector_count_against_the_encoders_limit(tmp_path: Path) -> None:
    classes = load_classes(recipe().classes)
    template = 'prompts.templates=["a picture of {name}, in black ink on white paper, under a lamp, bright, sharp"]'
    lengths = []
    for vectors in (1, 8):
        folder = write_token(tmp_path / f"of-{vectors}", vectors=vectors)
        asked = recipe(
            "prompts.kind=template", "prompts.per_class=null", template, f"prompts.style_token={folder}",
            'prompts.style_form="{prompt}, {token}"',
        )  # fmt: skip
        found = length_of(asked, classes, check_sampler(asked.sampler).path)
        assert found is not None
        lengths.append(found)
    assert (lengths[0].num_cut, lengths[0].line) == (0, None)
    assert lengths[1].num_cut == lengths[1].num_seen > 0


def test_a_token_of_another_model_is_refused_before_loading(token: Path, tmp_path: Path) -> None:
    tiny = tiny_pipeline("sd", tmp_path / "tiny")
    other = recipe().sampler.model_copy(update={"model": str(tiny), "style_token": str(token), "size_px": 64})
    with pytest.raises(ModelError, match="text encoders of width 128, expected sd and 32"):
        check_sampler(other)
    copied = shutil.copytree(home() / GENERATOR, tmp_path / "copied")
    scheduler = copied / "scheduler" / "scheduler_config.json"
    scheduler.write_text(scheduler.read_text().replace('"steps_offset": 1', '"steps_offset": 0'))
    with pytest.raises(ModelError, match="found a token that was learned with other weights") as error:
        check_sampler(other.model_copy(update={"model": str(copied)}))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (lambda folder: (folder / "token.json").unlink(), "found a folder without token.json"),
        (lambda folder: (folder / "learned_embeds.safetensors").unlink(), "found no file, expected the one that"),
        (lambda folder: (folder / "learned_embeds.safetensors").write_bytes(b"x"), "found another file, expected the"),
        (lambda folder: (folder / "token.json").write_text("{}"), "found a bad field words"),
    ],
)
def test_a_damaged_token_is_one_line(token: Path, tmp_path: Path, damage: Any, line: str) -> None:
    folder = shutil.copytree(token, tmp_path / "token")
    damage(folder)
    with pytest.raises(ModelError, match=line) as error:
        open_style_token(folder)
    assert "\n" not in str(error.value)
    with pytest.raises(ModelError):
        sampler_digest(recipe().sampler.model_copy(update={"style_token": str(folder)}))


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ('prompts.style_form="{prompt}"', r"style_form: found .*, expected the slots \{prompt\} and \{token\}"),
        ("prompts.style_rows=untrained", "style_rows: found untrained without a style_token"),
        ('prompts.style_form="{prompt}, {token}"', "style_form: found {prompt}, {token} without a style_token"),
        ("sampler.style_token=out/style", "sampler.style_token: found 'out/style', expected what prompts say"),
    ],
)
def test_a_style_that_cannot_be_said_is_refused(override: str, line: str) -> None:
    with pytest.raises(ValueError, match=line):
        recipe(override)


def test_the_sampler_says_of_the_token_what_the_prompts_say_as_a_stored_recipe_does(token: Path) -> None:
    said = f"prompts.style_token={token}"
    stored = recipe(said)
    assert (stored.sampler.style_token, stored.sampler.style_rows) == (str(token), "learned")
    assert Recipe.model_validate(stored.model_dump(mode="json")) == stored
    assert Recipe.model_validate(recipe().model_dump(mode="json")) == recipe()
    with pytest.raises(ValueError, match=r"sampler.style_rows: found 'untrained', .*set prompts\.style_rows"):
        recipe(said, "sampler.style_rows=untrained")
    with pytest.raises(ValueError, match=r"sampler.style_token: found .*elsewhere.*set prompts\.style_token"):
        recipe(said, "sampler.style_token=elsewhere")
