"""A recipe is one YAML file; what is wrong with it is one line that says where and what to do."""

from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, model_validator

from cluster.recipes.beside import default_place
from cluster.recipes.load import (
    RecipeError,
    canonical_json,
    differences,
    dump_recipe,
    fingerprint,
    kind_of,
    load_recipe,
    with_defaults,
)
from shards.disk.address import BESIDE, Beside, LocalPath


class Inner(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    steps: int = Field(12, ge=1, description="denoising steps")
    guidance: float = 2.0

    @model_validator(mode="after")
    def _guides(self) -> "Inner":
        if self.guidance > 50:
            raise ValueError(f"guidance: found {self.guidance:g}, expected less; lower it")
        return self


class Recipe(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str = Field(pattern="^[a-zü: #ï]+$", description="lower-case letters")
    sampler: Inner = Inner()
    words: dict[str, list[str]] = {}
    stages: tuple[Inner, ...] = ()
    named: dict[str, Inner] = {}
    batch: int | Literal["auto"] = "auto"


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return path


def test_a_recipe_is_read_with_defaults_and_overrides(tmp_path: Path) -> None:
    path = write(tmp_path, "name: a\nsampler:\n  steps: 5\n")
    recipe = load_recipe(path, Recipe, ["sampler.guidance=1e1", "words.ink=[red, blue]"])
    assert recipe == Recipe(name="a", sampler=Inner(steps=5, guidance=10), words={"ink": ["red", "blue"]})


@pytest.mark.parametrize(
    "value",
    [
        "s3://KEY:CANARY@bucket/x",
        "https://h.example/x?X-Amz-Signature=CANARY",
        "https://h.example/x?token=CANARY",
        "s3%3A%2F%2FKEY%3ACANARY%40bucket",
        "Authorization: Bearer CANARYCANARY",
    ],
)
def test_k1_a_key_is_refused_before_a_recipe_could_be_stored_with_it(value: str, tmp_path: Path) -> None:
    path = write(tmp_path, f"name: a\nwords:\n  ink:\n  - {value!r}\n")
    with pytest.raises(RecipeError, match=r"recipe.yaml:4: words\.ink\.0: found a key or a password in") as caught:
        load_recipe(path, Recipe)
    with pytest.raises(RecipeError, match=r"command line: words\.ink.*: found a key") as overridden:
        load_recipe(write(tmp_path, "name: a\n"), Recipe, [f"words.ink={value}"])
    assert "CANARY" not in str(caught.value) + str(overridden.value)


def test_an_override_reaches_into_a_list(tmp_path: Path) -> None:
    path = write(tmp_path, "name: a\nwords: {ink: [red, blue]}\nstages: [{steps: 1}, {steps: 2}]\n")
    recipe = load_recipe(path, Recipe, ["stages.1.steps=9", "words.ink.0=green"])
    assert [stage.steps for stage in recipe.stages] == [1, 9]
    assert recipe.words == {"ink": ["green", "blue"]}


def test_an_override_reaches_below_what_was_given_as_nothing(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, "name: a\nsampler: null\n"), Recipe, ["sampler.steps=9"])
    assert recipe.sampler.steps == 9


def test_the_resolved_copy_reads_back_to_the_same_recipe(tmp_path: Path) -> None:
    recipe = Recipe(name="ünï: #", sampler=Inner(steps=3), words={"ink": ["no", "1"]})
    assert load_recipe(write(tmp_path, dump_recipe(recipe)), Recipe) == recipe


@pytest.mark.parametrize(
    ("text", "overrides", "expected"),
    [
        ("name: a\nsampler:\n  stepz: 5\n", [], ":3: unknown key `sampler.stepz`; did you mean `steps`?"),
        ("nam: a\n", [], ":1: unknown key `nam`; did you mean `name`?"),
        ("name: a\nqqq: 1\n", [], "known here: name, sampler, words, stages, named, batch"),
        ("sampler: {}\n", [], "`name` is missing"),
        (
            "name: a\nsampler:\n  steps: many\n",
            [],
            ':3: `sampler.steps`: found "many", expected a whole number (denoising steps)',
        ),
        ("name: a\nsampler: {steps: 0}\n", [], "found 0, expected at least 1 (denoising steps)"),
        ("name: a\n", ["sampler.steps=2.5"], "command line: `sampler.steps`: found 2.5, expected a whole number"),
        ("name: My Data\n", [], ':1: `name`: found "My Data", expected lower-case letters'),
        (
            "name: a\nsampler: fast\n",
            [],
            ':2: `sampler`: found "fast", expected `key: value` lines below it: steps, gui',
        ),
        ("name: a\nwords: ink\n", [], ':2: `words`: found "ink", expected `key: value` lines'),
        ("name: a\nbatch: lots\n", [], ":2: `batch`: found \"lots\", expected a whole number or 'auto'"),
        ("name: a\nsampler: {guidance: 99}\n", [], ":2: sampler.guidance: found 99, expected less; lower it"),
        ("name: a\nsampler:\n  guidance: 99\n", [], ":3: sampler.guidance: found 99"),
        ("name: a\nsampler: {}\n", ["sampler.guidance=99"], "command line: sampler.guidance: found 99"),
        ("name: a\nname: b\n", [], ":2: not a plain YAML recipe: the key `name` stands twice"),
        ("name: &x a\nwords: {ink: [*x]}\n", [], ":2: not a plain YAML recipe: aliases (*name) are not used"),
        ("name: " + "[" * 250_000, [], ":1: not a plain YAML recipe: more than 50 levels"),
        ("- " * 100_000, [], ":1: not a plain YAML recipe: more than 50 levels"),
        ("name: a\n" * 40_000, [], "found 320000 bytes, expected at most 300000"),
        ("name: !!python/object/apply:os.system [id]\n", [], ":1: not a plain YAML recipe"),
        ("- a\n- b\n", [], "found a list, expected `key: value` lines"),
        ("", [], "found nothing, expected `key: value` lines"),
        ("hello", [], "found text, expected `key: value` lines"),
        ("name: [\n", [], "not a plain YAML recipe"),
        ("name: a\n", ["sampler.stepz=3"], "command line: unknown key `sampler.stepz`; did you mean `steps`?"),
        ("name: a\n", ["steps"], "expected key.sub=value"),
        ("name: a\n", ["name.sub=1"], "plain value"),
        ("name: a\n", ["sampler.steps=["], "is not a YAML value"),
        ("name: a\nstages: [{steps: 1}]\n", ["stages.1.steps=2"], "`stages` is a list of 1; give a number below 1, or"),
        ("name: a\nwords: {ink: [x]}\n", ["words.ink.last=y"], "or all of it with `words.ink=[…]`"),
        ("name: a\nstages: [{steps: 1}]\n", ["stages.0.stepz=2"], "command line: unknown key `stages.0.stepz`"),
        ("name: a\nstages: [{stepz: 1}]\n", [], "unknown key `stages.0.stepz`; did you mean `steps`?"),
        ("name: a\nnamed: {x: {qq: 1}}\n", [], "unknown key `named.x.qq`; known here: steps, guidance"),
    ],
)
def test_i4_a_mistake_is_one_line_with_its_place(
    tmp_path: Path, text: str, overrides: list[str], expected: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(tmp_path, text), Recipe, overrides)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_i4_all_mistakes_come_in_one_answer_each_with_its_place(tmp_path: Path) -> None:
    text = "nam: a\nsampler: {steps: 0}\nbatch: []\nqq: 1\nstages: [{guidance: 99}, {stepz: 3}]\n"
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(tmp_path, text), Recipe, ["sampler.guidance=much"])
    lines = str(caught.value).replace(str(tmp_path / "recipe.yaml"), "").split("\n")
    assert [line.partition("; ")[0] for line in lines] == [
        ":2: `sampler.steps`: found 0, expected at least 1 (denoising steps)",
        'command line: `sampler.guidance`: found "much", expected a number',
        ":5: stages.0.guidance: found 99, expected less",
        ":5: unknown key `stages.1.stepz`",
        ":3: `batch`: found [], expected a whole number or 'auto'",
        ":1: unknown key `nam`",
        ":4: unknown key `qq`",
    ], "a name that is misspelt is not missing as well"


def test_i4_of_very_many_mistakes_the_first_are_told_and_how_many_more(tmp_path: Path) -> None:
    text = "name: a\nstages:\n" + "- {steps: 0}\n" * 1000
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(tmp_path, text), Recipe)
    lines = str(caught.value).split("\n")
    assert len(lines) == 21
    assert lines[-1] == "and 980 more mistakes"


def test_a_mistake_that_two_rules_find_is_told_once():
    assert str(RecipeError.of(["edit.judge: found one", "edit.judge: found one", "seed: found -1"])) == (
        "edit.judge: found one\nseed: found -1"
    )


class Checked(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    low: int = 1
    high: int = 2
    word: str = "a"
    file: str | None = None

    @model_validator(mode="after")
    def _rises(self) -> "Checked":
        if self.low >= self.high:
            raise ValueError(f"high: found {self.high}, expected more than {self.low}")
        return self

    @model_validator(mode="after")
    def _is_short(self) -> "Checked":
        if len(self.word) > 3:
            raise ValueError(f"word: found {self.word}, expected three letters")
        return self


class Whole(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    one: Checked = Checked()
    several: tuple[Checked, ...] = ()
    named: dict[str, Checked] = {}
    length: int = 9

    @model_validator(mode="after")
    def _fits(self) -> "Whole":
        if self.one.low > self.length:
            raise ValueError(f"length: found {self.length}, expected at least one.low = {self.one.low}")
        return self


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name: a\none: {low: 5, word: long}\n", ["one.high: found 2", "one.word: found long"]),
        ("name: 3\none: {low: 20, high: 30}\n", ["`name`: found 3", "length: found 9"]),
        ("one: {low: 5, words: b}\n", ["unknown key `one.words`", "`name` is missing", "one.high: found 2"]),
        ("name: a\none: {low: x, word: long}\n", ['`one.low`: found "x"', "one.word: found long"]),
        ("name: a\nlength: [1]\none: {low: 20, high: 30}\n", ["`length`: found [1]"]),
        (
            "name: a\nseveral: [{low: 3}, {word: long, low: x}]\n",
            ["several.0.high", "`several.1.low`", "several.1.word"],
        ),
        ("name: a\nnamed: {x: {word: long, high: 0}}\n", ["named.x.high: found 0", "named.x.word: found long"]),
        ("name: a\none: {low: 3}\nseveral: {}\n", ["one.high: found 2", "`several`: found {}"]),
        ("name: a\none: null\nnamed: [1]\nseveral: [3]\n", ["`one`: found null", "`several.0`", "`named`: found [1]"]),
    ],
)
def test_i4_no_mistake_hides_another_one_and_none_is_guessed_from_a_field_that_is_wrong(
    text: str, told: list[str], tmp_path: Path
) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(tmp_path, text), Whole)
    lines = str(caught.value).split("\n")
    assert len(lines) == len(told), lines
    for words in told:
        assert sum(words in line for line in lines) == 1, (words, lines)


def test_i4_what_a_recipe_names_is_looked_up_as_far_as_its_mistakes_let_it(tmp_path: Path) -> None:
    asked: list[Whole] = []

    def missing(part: Whole) -> list[str]:
        asked.append(part)
        return [f"one.file: found no {part.one.file}"]

    path = write(tmp_path, "name: 3\none: {low: 5, file: words.txt}\nseveral: [{high: x}]\n")
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, Whole, more_of=missing)
    assert str(caught.value).split("\n")[-1] == "one.file: found no words.txt"
    (part,) = asked
    assert (part.one.low, part.several[0].low, part.length) == (5, 1, 9)
    for read in (lambda: part.name, lambda: part.several[0].high):
        with pytest.raises(AttributeError):
            read()
    assert load_recipe(write(tmp_path, "name: a\n"), Whole, more_of=missing).name == "a"
    assert len(asked) == 1, "a sound recipe is looked up by the one who runs it"


class Reads(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    source: Annotated[str, Beside(frozenset({"shipped"}))] = ""
    folder: str = ""
    weights: Annotated[LocalPath | None, BESIDE] = None


class Paths(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    one: Reads = Reads()
    several: tuple[Reads, ...] = ()
    named: dict[str, Reads] = {}


def test_what_a_recipe_reads_is_found_beside_it_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside, caller = tmp_path / "project", tmp_path / "elsewhere"
    for folder in (beside / "photos", beside / "shipped", caller / "photos", caller / "others"):
        folder.mkdir(parents=True)
    monkeypatch.chdir(caller)
    path = write(
        beside,
        "one: {source: photos, folder: photos, weights: photos}\n"
        "several: [{source: others}, {source: shipped}, {source: 's3://bucket/photos'}]\n"
        "named: {a: {source: photos}, source: {source: photos}}\n",
    )
    read = load_recipe(path, Paths)
    assert (read.one.source, read.one.weights) == (str(beside / "photos"), beside / "photos")
    assert read.one.folder == "photos", "what is written to stays where the caller is"
    assert [one.source for one in read.several] == ["others", "shipped", "s3://bucket/photos"]
    assert {name: one.source for name, one in read.named.items()} == dict.fromkeys(
        ("a", "source"), str(beside / "photos")
    )
    monkeypatch.chdir(beside)
    assert load_recipe(Path("recipe.yaml"), Paths).one.source == "photos", "as it is written, where it is called"
    over = load_recipe(path, Paths, ["one.source=others"])
    assert over.one.source == "others", "the command line speaks of the caller's folder"


def test_what_is_in_two_places_is_told_with_the_one_that_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside, caller = tmp_path / "project", tmp_path / "elsewhere"
    for folder in (beside / "both", caller / "both", beside / "mine", caller / "theirs", tmp_path / "same"):
        folder.mkdir(parents=True)
    for folder in (beside, caller):
        (folder / "link").symlink_to(tmp_path / "same")
    monkeypatch.chdir(caller)
    text = (
        "one: {source: both}\nseveral: [{source: mine}, {source: both}]\nnamed: {a: {source: theirs, weights: link}}\n"
    )
    path = write(beside, text)
    told: list[str] = []
    load_recipe(path, Paths, say=told.append)
    assert [line.partition(":")[0] for line in told] == ["one.source", "several.1.source"]
    for line in told:
        assert f"takes {beside / 'both'}, not {caller / 'both'}; give the whole path" in line
    told.clear()
    load_recipe(path, Paths, ["one.source=both", "several.1.source=mine"], say=told.append)
    assert told == [], "the command line says which one is meant"
    monkeypatch.chdir(beside)
    load_recipe(Path("recipe.yaml"), Paths, say=told.append)
    assert told == [], "one folder is one place"


def test_a_run_writes_where_the_next_recipe_beside_it_would_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside, caller = tmp_path / "project", tmp_path / "elsewhere"
    for folder in (beside, caller):
        folder.mkdir()
    path = write(beside, "one: {source: out/birds}\n")
    monkeypatch.chdir(caller)
    for there, place in ((None, "out/birds"), (caller, "out/birds"), (beside, str(beside / "out/birds"))):
        if there is not None:
            (there / "out/birds").mkdir(parents=True)
        said, note = default_place(path, "out/birds")
        assert said == place == load_recipe(path, Paths).one.source
        assert (note is None) == (there is not beside)
    assert note is not None
    assert f"takes {beside / 'out/birds'}, not {caller / 'out/birds'}" in note
    monkeypatch.chdir(beside)
    assert default_place(Path("recipe.yaml"), "out/birds") == ("out/birds", None)


@pytest.mark.parametrize("value", ["3", "[photos]", "{a: photos}", "''", "'~nobody-here/x'", "'s3:/b/x'", "'\\0'"])
def test_a_value_that_is_no_path_is_left_to_the_check_of_its_field(value: str, tmp_path: Path) -> None:
    path = write(tmp_path, f"one: {{source: {value}}}\nseveral: {value}\n")
    with pytest.raises(RecipeError, match="several"):
        load_recipe(path, Paths)


def test_a_shipped_recipe_is_found_from_any_folder_and_ones_own_of_that_name_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Sections(BaseModel):
        classes: dict[str, str]

    monkeypatch.chdir(tmp_path)
    path = Path("recipes/sandbox.yaml")
    assert load_recipe(path, Sections).classes["source"] == "sandbox"
    with pytest.raises(RecipeError, match=r"no such recipe; did you mean recipes/sandbox\.yaml"):
        load_recipe(Path("sandbox.yml"), Sections)
    path.parent.mkdir()
    path.write_text("nonsense: 1")
    with pytest.raises(RecipeError, match=r"recipes/sandbox\.yaml: .*classes"):
        load_recipe(path, Sections)


def test_a_missing_recipe_names_what_is_there_of_its_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "recipes" / "sweeps").mkdir(parents=True)
    (tmp_path / "recipes" / "digits.yaml").write_text("name: a\nsampler: {}\n")
    (tmp_path / "recipes" / "sweeps" / "scale.yaml").write_text("name: b\n")
    (tmp_path / "recipes" / "another.yaml").write_text("name: c\ngrid: 3\n")
    (tmp_path / "recipes" / "torn.yaml").write_text("name: [")
    (tmp_path / "recipes" / "empty.yaml").touch()
    monkeypatch.chdir(tmp_path)
    for typed, hint in [
        ("none.yaml", r"give a YAML file, for example recipes/digits\.yaml, recipes/sweeps/scale\.yaml"),
        ("digits.yml", r"did you mean recipes/digits\.yaml\?"),
        ("scale", r"did you mean recipes/sweeps/scale\.yaml\?"),
        ("another.yml", r"give a YAML file, for example recipes/digits\.yaml, recipes/sweeps/scale\.yaml"),
    ]:
        with pytest.raises(RecipeError, match=f"no such recipe; {hint}$"):
            load_recipe(Path(typed), Recipe)
    with pytest.raises(RecipeError, match=r"no such recipe; give a YAML file, for example recipes/another\.yaml$"):
        load_recipe(Path("none.yaml"), Other)
    with pytest.raises(RecipeError, match="recipes: found a folder, expected a recipe"):
        load_recipe(Path("recipes"), Recipe)


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(), PLAIN, max_size=5))
def test_a_fingerprint_does_not_depend_on_the_order_of_keys(value: dict) -> None:
    assert fingerprint(value) == fingerprint(dict(reversed(value.items())))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1: "a"}, {"a": object()}, (1, 2), b"x"])
def test_a_fingerprint_refuses_what_it_cannot_write_exactly(value: object) -> None:
    with pytest.raises((TypeError, ValueError), match="canonical JSON"):
        canonical_json(value)  # type: ignore[arg-type]


def test_differences_name_every_changed_leaf() -> None:
    old = {"seed": 0, "sampler": {"steps": 12, "dtype": "fp32"}}
    new = {"seed": 1, "sampler": {"steps": 12, "dtype": "bf16", "batch": 8}}
    assert differences(old, new) == [
        "seed: 0 before, 1 now",
        'sampler.dtype: "fp32" before, "bf16" now',
        "sampler.batch: null before, 8 now",
    ]


def test_differences_within_a_list_name_the_entry() -> None:
    domains = [{"name": "real", "subset": "shots-20"}, {"name": "synthetic", "subset": "6x"}]
    now = [domains[0], {"name": "synthetic", "subset": "3x"}]
    assert differences({"domains": domains}, {"domains": now}) == ['domains.1.subset: "6x" before, "3x" now']
    assert differences({"words": ["a"]}, {"words": ["a", "b"]}) == ['words: ["a"] before, ["a", "b"] now']


def test_fields_that_an_earlier_version_did_not_know_are_at_their_defaults() -> None:
    now = Recipe(name="a", stages=(Inner(), Inner()), named={"x": Inner(steps=3)}).model_dump(mode="json")
    old = {"name": "a", "stages": [{"steps": 12}, {}], "named": {"x": {"steps": 3}}, "gone": 1}
    assert with_defaults(old, now, Recipe) == {**now, "gone": 1}
    changed = Recipe(name="a", batch=7, stages=(Inner(guidance=3), Inner())).model_dump(mode="json")
    assert differences(with_defaults({"name": "a", "stages": [{}, {}]}, changed, Recipe), changed) == [
        "stages.0.guidance: 2.0 before, 3.0 now",
        'batch: "auto" before, 7 now',
    ]


def test_a_field_without_a_default_is_a_difference_and_one_that_is_left_out_is_none() -> None:
    assert with_defaults({}, {"name": "a", "sampler": {"steps": 12}}, Recipe) == {"sampler": {"steps": 12}}


class Other(BaseModel):
    name: str
    grid: int
    seeds: int = 1


def test_the_kind_of_a_recipe_is_told_by_its_keys(tmp_path: Path) -> None:
    kinds: dict[str, type[BaseModel]] = {"mine": Recipe, "other": Other}
    assert kind_of(write(tmp_path, "name: a\ngrid: {no: int}\nqq: 1\n"), kinds) == "other"
    assert kind_of(write(tmp_path, "name: a\nsampler: 3\n"), kinds) == "mine"
    assert kind_of(write(tmp_path, "name: a\n"), kinds) == "mine", "the first of equals"
    assert kind_of(write(tmp_path, "- a\n"), kinds) is None
    assert kind_of(write(tmp_path, "a: ["), kinds) is None
    assert kind_of(tmp_path / "nowhere", kinds) is None


def test_the_kind_of_a_recipe_that_ships_is_told_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert kind_of(Path("recipes/sandbox.yaml"), {"other": Other, "mine": Recipe}) == "mine"
