"""Prompts: texts for a generator, and the table they are kept in."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from random import Random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from gen.prompts.meanings import MeaningSpec, choose_meanings
from gen.prompts.prompts import PromptSpec, Sources, count_prompts, draw_prompts, draw_table
from gen.prompts.table import BASE_SCHEMA, Prompt, PromptTable
from gen.wording.lexicon import load_lexicon
from gen.wording.parts import MAX_TEXT_BYTES, PARTS, Wording
from gen.wording.templates import builtin_templates, draw_evenly, slots_of
from shards.disk.home import home
from shards.labels.classes import Class, ClassSpec, clean_name, load_classes

REPO = home()
TWO = Class(2, "two", None, 20)
GENERAL = Sources(load_lexicon("general"))
INKS = ("red", "blue", "green", "black", "violet", "brown", "teal", "gold")
PAPERS = ("white", "cream", "grey", "pink", "mint")
LIGHTS = ("window light", "lamp light", "dim light")
STYLES = ("photo", "chalk", "neon", "stencil")
SLOTS = PromptSpec(
    templates=("{name}, {ink} ink on {paper} paper, {light}, {style}", "{style}: {name} in {ink} on {paper}, {light}"),
    parts={"ink": INKS, "paper": PAPERS, "light": LIGHTS, "style": STYLES},
    per_class=120,
)


def texts_of(spec: PromptSpec, one: Class = TWO, seed: int = 0) -> list[str]:
    return [prompt.text for prompt in draw(one, spec, seed)]


def draw(one: Class, spec: PromptSpec, seed: int = 0, meaning: str | None = None) -> list[Prompt]:
    return draw_prompts(one, meaning, spec, seed, GENERAL).prompts


def write(
    path: Path, classes: list[Class], spec: PromptSpec, seed: int = 0, meanings: dict[int, str] | None = None
) -> None:
    draw_table(classes, meanings or {}, spec, seed, GENERAL, path)


def table_of(
    path: Path, classes: list[Class], spec: PromptSpec, seed: int = 0, meanings: dict[int, str] | None = None
) -> PromptTable:
    write(path, classes, spec, seed, meanings)
    return PromptTable.load(path)


def spread(used: Sequence[object], choices: Sequence[object]) -> int:
    counts = [used.count(choice) for choice in choices]
    return max(counts) - min(counts)


# drawing


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(0, 10**6), st.floats(0, 1))
@settings(max_examples=150, deadline=None)
def test_rows_are_distinct_and_every_prefix_uses_each_column_evenly(sizes, seed, share):
    available = int(np.prod(sizes))
    count = min(round(share * available), 400)
    rows = draw_evenly(sizes, count, Random(seed))
    assert len(rows) == len(set(rows)) == count
    for place, size in enumerate(sizes):
        used = [0] * size
        for row in rows:
            used[row[place]] += 1
            assert max(used) - min(used) <= 1


@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_all_rows_asked_for_is_all_rows_there_are(sizes, seed):
    rows = draw_evenly(sizes, int(np.prod(sizes)), Random(seed))
    assert set(rows) == set(np.ndindex(*sizes))


def test_a_class_uses_every_word_and_template_within_one_of_equally_often():
    prompts = draw(TWO, SLOTS)
    for number in (7, 40, 119, 120):
        contexts = [prompt.words for prompt in prompts[:number]]
        for slot, words in (("ink", INKS), ("paper", PAPERS), ("light", LIGHTS)):
            assert spread([context[slot] for context in contexts], words) <= 1
        assert spread([prompt.words["style"] for prompt in prompts[:number]], STYLES) <= 1
        assert spread(["ink on" in prompt.text for prompt in prompts[:number]], (True, False)) <= 1


def test_words_of_different_slots_are_not_tied_to_each_other():
    """Walking all lists in step would pair each ink with few papers; drawn independently most of 40 pairs occur."""
    contexts = [prompt.words for prompt in draw(TWO, SLOTS)]
    assert len({(context["ink"], context["paper"]) for context in contexts}) >= 34


def test_classes_start_with_different_prompts_and_seeds_change_them():
    spec = PromptSpec()
    firsts = {texts_of(spec, Class(i, "tench", None, 1))[0] for i in range(50)}
    assert len(firsts) >= 30
    assert texts_of(spec, seed=0) != texts_of(spec, seed=1)
    assert sorted(texts_of(spec, seed=0)) == sorted(texts_of(spec, seed=1))


def test_templates_with_different_slots_take_turns_until_each_is_used_up():
    spec = PromptSpec(templates=("{name}", "a {name}", "{name} in {ink}"), parts={"ink": ("red", "blue", "teal")})
    texts = texts_of(spec)
    assert sorted(texts) == ["a two", "two", "two in blue", "two in red", "two in teal"]
    assert sum(" in " in text for text in texts[:3]) == 1


def test_texts_that_come_out_the_same_are_drawn_once():
    spec = PromptSpec(templates=("{name} {ink}", "{name} big {ink}"), parts={"ink": ("big red", "red", "tall")})
    assert sorted(texts_of(spec)) == ["two big big red", "two big red", "two big tall", "two red", "two tall"]
    assert len(set(texts_of(spec.model_copy(update={"per_class": 5})))) == 5
    with pytest.raises(ValueError, match=r"class 2.*found 5 distinct texts, expected 6"):
        texts_of(spec.model_copy(update={"per_class": 6}))


def test_more_combinations_than_a_class_may_have_must_be_limited():
    many = tuple(f"word{i}" for i in range(101))
    with pytest.raises(ValueError, match=r"10201 combinations.*set prompts\.per_class"):
        texts_of(PromptSpec(templates=("{name} {a} {b}",), parts={"a": many, "b": many}))


# texts


def test_the_eighty_templates_are_distinct_and_have_one_slot():
    templates = builtin_templates()
    assert len(templates) == len(set(templates)) == 80
    assert all(slots_of(template) in (("name",), ("subject",)) and template.count("{") == 1 for template in templates)
    assert all(template == template.strip() and template.isascii() for template in templates)


def test_the_bare_name_is_one_prompt():
    (prompt,) = draw(TWO, PromptSpec(kind="name", negative="blurry"))
    assert prompt == Prompt(2, 0, "two", None, "name", "{name}", "two", "blurry", {})


def test_a_meaning_takes_the_place_of_the_name_and_is_kept(tmp_path):
    classes = [Class(134, "crane", None, 5), Class(517, "crane", None, 5), Class(3, "tiger", None, 5)]
    meanings = {134: "crane, the bird", 517: "crane, the machine"}
    table = table_of(tmp_path / "prompts.parquet", classes, PromptSpec(kind="name"), meanings=meanings)
    assert [table.prompt(class_id, 0).text for class_id in (3, 134, 517)] == [
        "tiger",
        "crane, the bird",
        "crane, the machine",
    ]
    assert [table.prompt(class_id, 0).meaning for class_id in (3, 134, 517)] == [
        None,
        "crane, the bird",
        "crane, the machine",
    ]
    assert table.prompt(134, 0).class_name == "crane"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"templates": ("a photo",)}, "expected the slot {name}"),
        ({"templates": ("{name} {nme}",)}, "slot {nme}.*did you mean {name}"),
        ({"templates": ("{name} {light}",)}, "add its words as prompts.parts.light"),
        ({"templates": ("{name} {ikn}",), "parts": {"ink": ("red",)}}, "did you mean {ink}"),
        ({"templates": ("{name} {0.__class__}",)}, "stray brace"),
        ({"templates": ("{name} {name!r}",)}, "stray brace"),
        ({"templates": ("{{name}} {name}",)}, "stray brace"),
        ({"templates": ("{name}", "{name}")}, "twice"),
        ({"templates": ()}, "at least 1"),
        ({"templates": ("{name}", " ")}, "empty text"),
        ({"parts": {"ink": ("red",)}}, "'ink', expected a slot that a template uses"),
        ({"templates": ("{name}",), "parts": {"name": ("red",)}}, "'name', expected a slot"),
        ({"templates": ("{name} {ink}",), "parts": {"ink": ()}}, "empty list"),
        ({"templates": ("{name} {ink}",), "parts": {"ink": ("red", "red")}}, "'red' twice"),
        ({"templates": ("{name} {ink}",), "parts": {"ink": ("\ud800",)}}, "lone surrogate"),
        ({"kind": "name", "templates": ("{name}",)}, "beside kind: name"),
        ({"kind": "names"}, "'name', 'template', 'caption'"),
        ({"per_class": 0}, "greater than or equal to 1"),
        ({"per_class": 10_001}, "less than or equal to 10000"),
        ({"negative": "a\0b"}, "NUL"),
        ({"template": ("{name}",)}, "Extra inputs"),
        ({"templates": ("{name} {text}",), "parts": {"text": ("red",)}}, "another name than a column"),
        ({"kind": "cd"}, "per_class: found none"),
        ({"kind": "cd+sd", "per_class": 5, "style_share": 1.5}, "less than or equal to 1"),
        ({"kind": "cd", "per_class": 5, "parts": {"ink": ("red",)}}, "beside kind: cd"),
    ],
)
def test_a_spec_that_cannot_work_is_refused_when_it_is_read(fields, words):
    with pytest.raises(ValidationError, match=words):
        PromptSpec(**fields)


def test_e10_odd_texts_are_kept_exactly_or_refused_by_name(tmp_path):
    kept = [
        "日本語 の 鶴",
        "طائر الكركي",
        "👩‍🚀 astronaut",
        "e\u0301 combining",
        "a\u202eb reversed",
        "line\nbreak\tand tab",
        "{ink} {0.__class__} %s ${jndi:ldap://x}",
        "<script>alert(1)</script>",
        "../../etc/passwd",
        "x" * (MAX_TEXT_BYTES - 2),
    ]
    classes = [Class(index, f"class {index}", None, 1) for index in range(len(kept))]
    spec = PromptSpec(templates=("a {name}",))
    table = table_of(tmp_path / "prompts.parquet", classes, spec, meanings=dict(enumerate(kept)))
    assert [table.prompt(index, 0).text for index in range(len(kept))] == [f"a {text}" for text in kept]
    assert [table.prompt(index, 0).meaning for index in range(len(kept))] == kept

    for text, words in [
        ("", "empty text"),
        (" \t", "empty text"),
        ("a\0b", "NUL"),
        ("\ud800", "lone surrogate"),
        ("x" * 100_000, "100000 bytes, expected at most 8192"),
        ("x" * (MAX_TEXT_BYTES + 1), r"class 3 \(class 3\): found a text of 8193 bytes"),
    ]:
        refused = tmp_path / "refused.parquet"
        with pytest.raises(ValueError, match=words) as caught:
            write(refused, classes, PromptSpec(templates=("{name}",)), meanings={3: text})
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 400
        assert not refused.exists()


@given(st.text(max_size=60), st.sampled_from(["{name}", "a {name}, {ink}", "{ink}{name}{ink}"]))
@settings(max_examples=100, deadline=None)
def test_what_is_filled_in_is_never_looked_at_again(name, template):
    try:
        name = clean_name(name, "here")
    except ValueError:
        return
    spec = PromptSpec(templates=(template,), parts={"ink": ("{name}",)} if "ink" in template else {})
    (text,) = texts_of(spec, Class(0, name, None, 1))
    before, _, after = template.partition("{name}")
    assert text == before.replace("{ink}", "{name}") + name + after.replace("{ink}", "{name}")


def test_e11_two_classes_with_one_name_keep_two_ids_and_all_their_prompts(tmp_path):
    twins = [Class(836, "sunglasses", None, 1), Class(837, "sunglasses", None, 1)]
    table = table_of(tmp_path / "prompts.parquet", twins, PromptSpec())
    assert table.num_per_class() == {836: 80, 837: 80}
    texts = [{table.prompt(class_id, number).text for number in range(80)} for class_id in (836, 837)]
    assert texts[0] == texts[1]
    assert len(texts[0]) == 80


# the file


def test_the_table_has_the_columns_of_its_schema_sorted_by_class_and_prompt(tmp_path):
    path = tmp_path / "prompts.parquet"
    write(path, [Class(7, "seven", None, 1), TWO], SLOTS)
    table = pq.read_table(path)
    assert table.schema.names == [*BASE_SCHEMA.names, "ink", "paper", "light", "style"]
    assert table["class_id"].to_pylist() == [2] * 120 + [7] * 120
    assert table["prompt_id"].to_pylist() == list(range(120)) * 2
    row = table.to_pylist()[0]
    assert all(word in row["text"] for word in (row["ink"], row["paper"], row["light"], row["style"], "two"))
    assert [path.name for path in tmp_path.iterdir()] == ["prompts.parquet"]


def test_e6_the_same_recipe_writes_the_same_bytes_in_every_process(tmp_path):
    program = (
        "import sys; from pathlib import Path\n"
        "from shards.labels.classes import ClassSpec, load_classes\n"
        "from gen.wording.lexicon import load_lexicon\n"
        "from gen.prompts.prompts import PromptSpec, Sources, draw_table\n"
        "parts = {'b': tuple('xyz'), 'a': tuple('pqrst')}\n"
        "spec = PromptSpec(templates=('{name} {a} {b}',), parts=parts, per_class=7)\n"
        "sources = Sources(load_lexicon('general'))\n"
        "draw_table(load_classes(ClassSpec(source='sandbox')), {}, spec, 5, sources, Path(sys.argv[1]))\n"
    )
    files = [tmp_path / "one", tmp_path / "two"]
    for file, hash_seed in zip(files, ["0", "777"], strict=True):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        subprocess.run([sys.executable, "-c", program, str(file)], cwd=REPO, env=environment, check=True, timeout=200)
    assert files[0].read_bytes() == files[1].read_bytes()


def test_e8_the_choice_of_prompts_never_changes_between_versions():
    """A change here would silently change every image of a run that is continued."""
    assert texts_of(PromptSpec())[:3] == [
        "two, backlit, with a bright rim of light",
        "a low-poly 3D model of two",
        "a black-and-white photograph of two",
    ]
    assert texts_of(SLOTS)[:2] == [
        "two, brown ink on grey paper, dim light, neon",
        "chalk: two in violet on cream, lamp light",
    ]


def test_a_table_of_many_row_groups_reads_back_whole_and_from_bytes(tmp_path):
    many = tuple(f"w{i}" for i in range(60))
    spec = PromptSpec(templates=("{name} {a} {b}",), parts={"a": many, "b": many}, per_class=2000)
    classes = [Class(index * 3, f"class {index}", None, 1) for index in range(20)]
    path = tmp_path / "prompts.parquet"
    write(path, classes, spec)
    assert pq.ParquetFile(path).num_row_groups == 3
    table = PromptTable.load(path.read_bytes())
    assert len(table) == 40_000
    assert table.num_per_class() == {index * 3: 2000 for index in range(20)}
    rows = pq.read_table(path).to_pylist()
    for row in (0, 16_383, 16_384, 39_999):
        words = {slot: rows[row].pop(slot) for slot in ("a", "b")}
        assert table.prompt(rows[row]["class_id"], rows[row]["prompt_id"]) == Prompt(**rows[row], words=words)
    for class_id, prompt_id in [(0, 2000), (0, -1), (1, 0)]:
        with pytest.raises(KeyError):
            table.prompt(class_id, prompt_id)


def test_a_damaged_or_foreign_table_is_refused_with_what_to_do(tmp_path):
    path = tmp_path / "prompts.parquet"
    write(path, [TWO], PromptSpec())
    whole, table = path.read_bytes(), pq.read_table(path)

    def refuse(words: str) -> None:
        with pytest.raises(ValueError, match=words) as caught:
            PromptTable.load(path)
        assert "sixfold prompts" in str(caught.value)
        assert "\n" not in str(caught.value)

    path.write_bytes(whole[: len(whole) // 2])
    refuse("damaged table")
    path.write_bytes(b"")
    refuse("damaged table")
    path.unlink()
    refuse("no prompt table")
    pq.write_table(table.drop_columns(["negative"]), path)
    refuse("found the columns")
    pq.write_table(table.take(pa.array([1, 0, 2])), path)
    refuse("out of order or missing")
    pq.write_table(table.slice(1), path)
    refuse("out of order or missing")
    pq.write_table(table.slice(0, 0), path)
    refuse("out of order or missing")
    pq.write_table(with_column(table, "text", [b"\xff"] * len(table), pa.binary()), path)
    refuse("found binary in the column text, expected string")


def with_column(table: pa.Table, name: str, values: Sequence[object], kind: pa.DataType) -> pa.Table:
    place = table.schema.get_field_index(name)
    return table.set_column(place, pa.field(name, kind), pa.array(values, kind))


def test_a_table_of_another_program_says_the_same(tmp_path):
    """pandas 3 writes large_string, polars string_view, others 64-bit ids; a column without a value has no type."""
    path = tmp_path / "prompts.parquet"
    write(path, [TWO], SLOTS)
    ours, table = PromptTable.load(path), pq.read_table(path)
    for text in (pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())):
        kinds = {pa.string(): text, pa.int32(): pa.int64()}
        fields = [field.with_type(kinds.get(field.type, field.type)) for field in table.schema]
        pq.write_table(with_column(table.cast(pa.schema(fields)), "meaning", [None] * 120, pa.null()), path)
        theirs = PromptTable.load(path)
        assert [theirs.prompt(2, number) for number in range(120)] == [ours.prompt(2, number) for number in range(120)]
        assert theirs.negatives() == {""}


@pytest.mark.parametrize(
    ("name", "values", "kind", "words"),
    [
        ("text", [None, "a", "b"], pa.string(), "found a null in the column text"),
        ("text", [1, 2, 3], pa.int64(), "found int64 in the column text, expected string"),
        ("text", ["a", " ", "b"], pa.string(), "column text: found an empty text"),
        ("text", ["a", "b\0", "b"], pa.string(), "column text: found a NUL"),
        ("text", ["a", "b", "c" * (MAX_TEXT_BYTES + 1)], pa.string(), "column text: found a text of 8193 bytes"),
        ("class_name", ["", "", ""], pa.string(), "column class_name: found an empty text"),
        ("negative", [None] * 3, pa.string(), "found a null in the column negative"),
        ("class_id", ["2", "2", "2"], pa.string(), "found string in the column class_id, expected int32"),
        ("class_id", [2, 2, None], pa.int32(), "found a null in the column class_id"),
        ("class_id", [2**40] * 3, pa.int64(), "damaged table"),
    ],
)
def test_what_no_prompt_can_say_is_refused_by_its_column(name, values, kind, words, tmp_path):
    path = tmp_path / "prompts.parquet"
    write(path, [TWO], PromptSpec(per_class=3))
    pq.write_table(with_column(pq.read_table(path), name, values, kind), path)
    with pytest.raises(ValueError, match=words) as caught:
        PromptTable.load(path)
    assert "\n" not in str(caught.value)


def test_few_bytes_that_stand_for_more_than_the_memory_holds_are_refused(tmp_path, monkeypatch):
    """One text of a megabyte, 64 times; the limit is lowered, because 512 MB take long."""
    monkeypatch.setattr("shards.disk.parquet.MAX_TABLE_BYTES", 32 << 20)
    path = tmp_path / "prompts.parquet"
    write(path, [TWO], PromptSpec(templates=("{name} {a} {b}",), parts=dict.fromkeys("ab", INKS), per_class=64))
    table = pq.read_table(path)
    for kind in (pa.string(), pa.large_string()):
        pq.write_table(with_column(table, "text", ["x" * (1 << 20)] * 64, kind), path)
        assert path.stat().st_size < 2 << 20
        with pytest.raises(ValueError, match=r"found 64 rows of 6[0-9,]+ bytes, expected at most"):
            PromptTable.load(path)


def test_a_failed_write_leaves_the_table_that_was_there(tmp_path):
    path = tmp_path / "prompts.parquet"
    write(path, [TWO], PromptSpec())
    before = path.read_bytes()
    with pytest.raises(ValueError, match="distinct texts"):
        write(path, [TWO], PromptSpec(per_class=81))
    assert path.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["prompts.parquet"]


# kinds, and what every kind owes

CRANE = Class(134, "crane", "n02012849", 5)
KINDS = ["name", "template", "caption", "cd", "sd", "cd+sd"]


def spec_of(kind: str, count: int = 40) -> PromptSpec:
    return PromptSpec(kind=kind, per_class=1 if kind == "name" else count)  # type: ignore[arg-type]


@pytest.mark.parametrize("meaning", [None, "crane, the bird"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_works_with_and_without_a_meaning_and_each_row_rebuilds_its_text(tmp_path, kind, meaning):
    table = table_of(tmp_path / "p", [TWO, CRANE], spec_of(kind), meanings={134: meaning} if meaning else {})
    for class_id in (2, 134):
        rows = [table.prompt(class_id, number) for number in range(table.num_per_class()[class_id])]
        assert len(rows) == len({row.text for row in rows}) == spec_of(kind).per_class
        for row in rows:
            assert Wording(row.form, row.words).text(row.meaning or row.class_name) == row.text
            assert row.class_id == class_id
            assert row.class_name == {2: "two", 134: "crane"}[class_id]
            assert row.meaning == (meaning if class_id == 134 else None)
            assert (row.meaning or row.class_name) in row.text or row.kind == "caption"


@pytest.mark.parametrize(
    ("kind", "num_styled"), [("cd", 0), ("sd", 60), ("cd+sd", 30), ("caption", 0), ("template", 0)]
)
def test_the_kinds_and_styles_of_rows_are_those_that_were_asked_for(kind, num_styled):
    rows = draw(CRANE, spec_of(kind, 60))
    assert sum(row.kind == "sd" for row in rows) == sum("style" in row.words for row in rows) == num_styled
    assert {row.kind for row in rows} <= set(kind.split("+"))
    if num_styled:
        assert spread([row.words.get("style") for row in rows], GENERAL.lexicon.styles) <= 1


@given(st.integers(1, 80), st.floats(0, 1))
@settings(max_examples=40, deadline=None)
def test_every_prefix_of_a_class_holds_its_share_of_styles_within_one(count, share):
    rows = draw(CRANE, PromptSpec(kind="cd+sd", per_class=count, style_share=share))
    styled = [row.kind == "sd" for row in rows]
    assert sum(styled) == round(share * count)
    for number in range(1, count + 1):
        assert abs(sum(styled[:number]) - sum(styled) * number / count) < 1


def test_styles_are_used_evenly_over_classes_too(tmp_path):
    classes = [Class(number, f"class {number}", None, 1) for number in range(7)]
    write(tmp_path / "p", classes, PromptSpec(kind="cd+sd", per_class=50))
    used = [style for style in pq.read_table(tmp_path / "p")["style"].to_pylist() if style]
    assert len(used) == 7 * 25
    assert spread(used, GENERAL.lexicon.styles) <= 1


def test_parts_have_columns_of_their_own(tmp_path):
    write(tmp_path / "p", [CRANE], spec_of("cd+sd"))
    assert pq.read_schema(tmp_path / "p").names == [*BASE_SCHEMA.names, *PARTS]


@pytest.mark.parametrize("kind", KINDS)
def test_prompts_are_counted_as_they_are_drawn_without_asking_any_model(tmp_path, kind):
    table = table_of(tmp_path / "p", [TWO, CRANE], spec_of(kind))
    assert count_prompts([TWO, CRANE], spec_of(kind), 0) == table.num_per_class()
    from_file = PromptSpec(file=str(tmp_path / "p"))
    assert count_prompts([TWO, CRANE], from_file, 0) == table.num_per_class()


def test_a_finished_table_of_other_classes_is_refused(tmp_path):
    table = table_of(tmp_path / "p", [TWO, CRANE], spec_of("cd"))
    with pytest.raises(ValueError, match=r"expected the 1 of the recipe; they differ in 134"):
        table.check_classes([TWO])
    with pytest.raises(ValueError, match=r"found 'crane' as class 134, expected 'heron'"):
        table.check_classes([TWO, Class(134, "heron", None, 1)])


def test_all_classes_without_enough_prompts_are_named_and_no_table_is_left(tmp_path):
    classes = [Class(number, f"class {number}", None, 1) for number in range(9)]
    spec = PromptSpec(kind="cd", per_class=9000, lexicon="sandbox")
    with pytest.raises(ValueError, match=r"class 0 .*class 4 .*and 4 more classes") as caught:
        draw_table(classes, {}, spec, 0, Sources(load_lexicon("sandbox")), tmp_path / "p")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_e11_imagenets_equal_names_keep_two_ids_and_with_meanings_differ():
    classes = {one.id: one for one in load_classes(ClassSpec(source="imagenet-1k", per_class=1))}
    assert len(classes) == 1000
    chosen = {
        one.class_id: one
        for one in choose_meanings(list(classes.values()), MeaningSpec(choose="clip"), GENERAL.lexicon, None, 0)
    }
    for first, second in ((657, 744), (836, 837)):
        assert classes[first].name == classes[second].name
        texts = [
            {row.text for row in draw(classes[one], spec_of("cd"), meaning=chosen[one].phrase)}
            for one in (first, second)
        ]
        assert not texts[0] & texts[1]
    assert all(draw(one, spec_of("cd+sd", 6)) for one in classes.values())
