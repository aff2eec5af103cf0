"""What a recipe names and what is wrong with it: told at once, by a plan as by a run."""

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

import sixfold
from cluster.recipes.load import load_recipe
from gen.prompts.prompts import Sources, draw_prompts
from gen.prompts.too_long import length_of
from gen.prompts.write import meanings_only
from gen.run.recipe import Recipe, missing_of, usable_classes
from gen.sampler.spec import check_sampler
from gen.wording.lexicon import load_lexicon
from shards.disk.home import home
from shards.labels.classes import load_classes

RECIPE = home() / "recipes" / "sandbox.yaml"


def refused(*overrides: str) -> list[str]:
    with pytest.raises(ValueError) as caught:
        usable_classes(load_recipe(RECIPE, Recipe, overrides, missing_of), has_prompts=False)
    return str(caught.value).split("\n")


def told_once(lines: list[str], *words: str) -> None:
    assert len(lines) == len(words), lines
    for one in words:
        assert sum(one in line for line in lines) == 1, (one, lines)


def test_i4_wrong_fields_fields_that_do_not_fit_and_missing_files_come_in_one_answer() -> None:
    lines = refused(
        *("sampler.stepz=3", "sampler.scheduler=fast", "sampler.size_px=63", "seed=-1", "sampler.model=no-model"),
        *("prompts.lexicon=words.yaml", "prompts.kind=cd", "prompts.per_class=null", "classes.source=birds.csv"),
        *("meanings.real=FOLDER", "meanings.clip.model=no-clip", "sampler.guidance=1", "prompts.negative=text"),
    )
    told_once(
        lines,
        *("unknown key `sampler.stepz`", "sampler.scheduler: found 'fast'", "sampler.size_px: found 63", "`seed`"),
        *("no-model", "words.yaml", "prompts.per_class: found none", "birds.csv", "FOLDER", "no-clip"),
        "prompts.negative: has no effect",
    )


def test_i4_what_cannot_be_looked_up_is_left_out() -> None:
    told_once(
        refused("sampler.model=[]", "classes.limit=none", "prompts.file=no.parquet"),
        *("`sampler.model`", "`classes.limit`", "prompts.file: found no file 'no.parquet'"),
    )
    told_once(refused("sampler=3", "prompts=3", "meanings.real=3"), "`sampler`", "`prompts`", "`meanings.real`")


TEMPLATE = ("prompts.kind=template", "prompts.per_class=null", "meanings={choose: none}")


def texts(source: str, *overrides: str) -> list[str]:
    """The prompts of the first class."""
    recipe = load_recipe(RECIPE, Recipe, [f"classes={{source: {source}, per_class: 20}}", *TEMPLATE, *overrides])
    first = load_classes(recipe.classes)[0]
    drawn = draw_prompts(first, None, recipe.prompts, recipe.seed, Sources(load_lexicon("general")))
    return sorted(prompt.text for prompt in drawn.prompts)


def test_a_shipped_task_has_the_templates_of_its_own_where_the_recipe_gives_none() -> None:
    assert texts("flowers102") == ["a photo of a pink primrose, a type of flower."]
    assert texts("dtd")[:2] == ["a photo of a banded object.", "a photo of a banded pattern."]
    assert texts("pets", 'prompts.templates=["{subject} at home"]') == ["an Abyssinian at home"]
    assert len(texts("sandbox")) == 80
    again = load_recipe(RECIPE, Recipe, ["classes={source: dtd}", *TEMPLATE])
    assert Recipe.model_validate(again.model_dump(mode="json")) == again, "they stand in the recipe that a run keeps"


def test_other_kinds_of_prompts_know_nothing_of_a_tasks_templates() -> None:
    for kind in ("cd+sd", "name"):
        recipe = load_recipe(
            RECIPE, Recipe, ["classes={source: dtd}", "meanings={choose: none}", f"prompts.kind={kind}"]
        )
        assert recipe.prompts.templates is None


def test_all_senses_by_hand_that_name_no_class_are_refused_with_the_nearest_names() -> None:
    given = 'meanings.given={sevn: a digit, giraffe: the animal, 4711: x, one: "one, by hand", "3": "three, so"}'
    (line,) = refused(given)
    for words in ("'sevn' (did you mean 'seven'?)", "'giraffe'", "4711", "expected names or ids of classes"):
        assert words in line
    assert "'one'" not in line
    (many,) = refused(f"meanings.given={{{', '.join(f'qq{number}: x' for number in range(30))}}}")
    assert " and 22 more, expected" in many
    cut = load_recipe(RECIPE, Recipe, ["classes.limit=2", 'meanings.given={nine: "nine, by hand"}'])
    assert len(usable_classes(cut, has_prompts=False)) == 2, "a list that is cut still has the class"


def test_a_sense_of_a_class_behind_the_limit_is_no_misspelling_of_one_before_it(tmp_path: Path) -> None:
    """Of ImageNet's first 186 classes the last is the Norfolk Terrier, and the next is the Norwich Terrier."""
    file = tmp_path / "by-hand.yaml"
    for where, what in (("given", '{"Norwich Terrier": a dog}'), ("overrides", str(file))):
        file.write_text("Norwich Terrier: a dog\n")
        how = [
            "classes={source: imagenet-1k, per_class: 1, limit: 186}",
            f"meanings={{choose: given, {where}: {what}}}",
        ]
        cut = load_recipe(RECIPE, Recipe, [*TEMPLATE[:2], *how])
        assert len(usable_classes(cut, has_prompts=False)) == 186
        found = meanings_only(cut, load_classes(cut.classes), print)
        assert {one.phrase for one in found} == {None}
        file.write_text("Norwch Terrier: a dog\n")
    with pytest.raises(ValueError, match="did you mean 'Norwich Terrier'"):
        usable_classes(cut, has_prompts=False)


def test_a_name_of_two_classes_needs_an_id_also_where_the_limit_leaves_one_of_them() -> None:
    how = ["classes={source: imagenet-1k, per_class: 1, limit: 700}", "meanings={choose: given, given: {missile: x}}"]
    cut = load_recipe(RECIPE, Recipe, [*TEMPLATE[:2], *how])
    with pytest.raises(ValueError, match=r"names the classes \[657, 744\], expected an id"):
        usable_classes(cut, has_prompts=False)


def test_a_sense_of_a_class_that_is_not_looked_at_is_no_misspelling_of_one_that_is() -> None:
    """A dry run looks at the prompts of twenty of a hundred aircraft; 777-300 is among them, 737-300 is not."""
    how = ["classes={source: fgvc-aircraft, per_class: 1}", 'meanings={choose: given, given: {"737-300": a Boeing}}']
    recipe = load_recipe(RECIPE, Recipe, [*TEMPLATE[:2], *how])
    found = length_of(recipe, load_classes(recipe.classes), check_sampler(recipe.sampler).path)
    assert found is not None
    assert found.num_seen > 0


def say(*arguments: str) -> tuple[int, str, list[str]]:
    done = CliRunner().invoke(sixfold.command_line(), [*arguments])
    error = done.exception
    return (2 if isinstance(error, ValueError) else done.exit_code), done.stdout, str(error or "").split("\n")


@pytest.mark.parametrize("verb", [["generate", "--dry-run"], ["plan"], ["plan", "--dry-run"]], ids=" ".join)
def test_a_plan_is_shown_and_what_a_run_would_refuse_is_refused(
    verb: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, told, lines = say(verb[0], str(RECIPE), *verb[1:], "sampler.model=no-model", "meanings.real=FOLDER")
    assert code == 2
    told_once(lines, "no-model", "meanings.real: found no folder 'FOLDER'")
    assert "\nshards   24 of at most" in told
    assert say(verb[0], str(RECIPE), *verb[1:])[0] == 0
    assert not list(tmp_path.iterdir())


def test_generate_says_where_it_writes_and_goes_on_beside_the_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    class Asked(Exception):
        pass

    def asked(recipe: object, scale: object, out: str, *_: object) -> None:
        seen.append(out)
        raise Asked

    monkeypatch.setattr("gen.run.run.run", asked)
    (tmp_path / "project").mkdir()
    recipe = yaml.safe_load(RECIPE.read_text())
    (tmp_path / "project" / "birds.yaml").write_text(yaml.safe_dump(recipe | {"name": "birds"}))
    monkeypatch.chdir(tmp_path)

    def generate(*more: str) -> str:
        done = CliRunner().invoke(sixfold.command_line(), ["generate", "project/birds.yaml", *more])
        return done.output

    assert f"output: {tmp_path / 'out/birds'}\n" in generate()
    assert f"\noutput   {tmp_path / 'out/birds'}\n" in generate("--dry-run")
    (tmp_path / "project/out/birds").mkdir(parents=True)
    assert f"output: {tmp_path / 'project/out/birds'}\n" in generate()
    (tmp_path / "out/birds").mkdir(parents=True)
    said = generate()
    assert f"takes {tmp_path / 'project/out/birds'}, not {tmp_path / 'out/birds'}" in said
    assert f"output: {tmp_path / 'x'}\n" in generate("--out", "x")
    assert seen == ["out/birds", "project/out/birds", "project/out/birds", "x"]
