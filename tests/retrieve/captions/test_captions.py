"""Search by caption: three meanings of "the caption names the class", checked against SQLite and plain Python."""

import contextlib
import random
import re
import sqlite3

import pyarrow as pa
import pytest
from pydantic import ValidationError

from retrieve.captions import search as search_file
from retrieve.captions.queries import clauses_of
from retrieve.captions.search import SCHEMA, CaptionSearch, find_in_part, find_in_pool
from retrieve.captions.spec import CaptionSpec
from shards.labels.classes import Class
from shards.labels.task import usual_queries
from tests.support.small_pool import pool_of, write_table


def classes_of(*names):
    return [Class(number, name, None, 1) for number, name in enumerate(names)]


def search_of(names, **fields):
    spec = CaptionSpec.model_validate(fields)
    return CaptionSearch(clauses_of(classes_of(*names), spec), spec.match)


def pairs(captions, names, **fields):
    """{(caption, name)} of all matches."""
    ids, places = search_of(names, **fields).find(pa.array(captions, pa.string()))
    found = [(captions[place], names[number]) for number, place in zip(ids.tolist(), places.tolist(), strict=True)]
    assert len(found) == len(set(zip(ids.tolist(), places.tolist(), strict=True))), "each pair is told once"
    return set(found)


def matches(caption, name, **fields):
    return bool(pairs([caption], [name], **fields))


@pytest.mark.parametrize(
    ("name", "caption", "is_hit"),
    [
        ("pink primrose", "A Pink PRIMROSE flower", True),
        ("pink primrose", "primrose that is pink", True),
        ("pink primrose", "pinkish primrosebud", False),
        ("pink primrose", "a primrose", False),
        ("707-320", "boeing 707-320 on runway", True),
        ("707-320", "the 707 series 320 flight", False),
        ("707-320", "Boeing 707/320, 1960", True),
        ("f/a-18", "An F/A-18 over the sea", True),
        ("f/a-18", "18 a f", False),
        ("colt's foot", "a colt’s foot by the road", True),
        ("colt's foot", "the foot of the colt", False),
    ],
)
def test_a_phrase_is_what_the_released_full_text_search_answers(name, caption, is_hit):
    assert matches(caption, name) is is_hit


def test_a_query_is_the_recipe_s_own_then_the_words_of_the_meaning_then_that_of_the_list_then_the_name():
    classes = classes_of("crane", "lotus", "rose", "kite")
    usual, meanings = usual_queries("flowers102", ["lotus", "rose"]), {0: "crane, a large bird", 2: "rose (a flower)"}
    spec = CaptionSpec.model_validate({"text": "meaning", "queries": {"kite": [["kite", "sky"], "kites"]}})
    found = {one: [] for one in range(4)}
    for clause in clauses_of(classes, spec, usual, meanings):
        found[clause.class_id].append(clause.needles)
    assert found == {
        0: [("crane", "large", "bird")],
        1: [("lotus", "flower")],
        2: [("rose", "flower")],
        3: [("kite", "sky"), ("kites",)],
    }
    by_name = clauses_of(classes, CaptionSpec(), usual, meanings)
    assert [clause.needles for clause in by_name] == [("crane",), ("lotus", "flower"), ("rose", "flower"), ("kite",)]


@pytest.mark.parametrize(
    ("caption", "word", "substring"),
    [
        ("a crane", True, True),
        ("CRANES!", False, True),
        ("the crane-driver", True, True),
        ("crane_driver", True, True),
        ("crane2", False, True),
        ("écrane", False, True),
        ("“crane”", True, True),
        ("cra ne", False, False),
        ("鶴crane", False, True),
        ("鶴 crane—鶴", True, True),
    ],
)
def test_a_word_stands_between_borders_and_a_substring_anywhere(caption, word, substring):
    assert matches(caption, "Crane", match="word") is word
    assert matches(caption, "Crane", match="substring") is substring


def test_words_and_substrings_are_the_text_as_it_is_written():
    assert matches("a T-Shirt", "t-shirt", match="word")
    assert not matches("a t shirt", "t-shirt", match="word")
    assert not matches("primrose that is pink", "pink primrose", match="substring")


@pytest.mark.parametrize("match", ["phrase", "word", "substring"])
@pytest.mark.parametrize(
    ("name", "caption", "is_hit"),
    [
        ("café", "CAFE table", True),
        ("cafe", "the Cafe\u0301s’ café", True),
        ("straße", "Straße 5", True),
        ("straße", "STRASSE 5", False),
        ("ЗМЕЙ", "воздушный змей", True),
        ("змеи", "воздушный змей", False),
        ("kelvin", "\u212aelvin", True),  # the sign is longer than the letter
    ],
)
def test_case_and_latin_accents_do_not_count_whatever_they_do_to_the_length(match, name, caption, is_hit):
    for before in ("", "İİİ ", "\u212a, "):
        assert matches(before + caption, name, match=match) is is_hit


@pytest.mark.parametrize("match", ["phrase", "word", "substring"])
def test_no_match_crosses_from_one_caption_into_the_next(match):
    captions = ["a black", "bear", "", " a black ", " bear ", None, "black bear"]
    ids, places = search_of(["black bear", "a b"], match=match).find(pa.array(captions))
    assert places[ids == 0].tolist() == [6]


def test_a_caption_that_names_two_classes_is_told_for_both_also_where_names_overlap():
    captions = ["a black bear sees a crane", "crane"]
    for match in ("phrase", "word", "substring"):
        names = ["bear", "black bear", "crane", "crane"]  # ImageNet has two classes of one name
        ids, places = search_of(names, match=match).find(pa.array(captions))
        assert list(zip(places.tolist(), ids.tolist(), strict=True)) == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 2), (1, 3)]


def test_an_override_says_what_must_stand_together_and_what_stands_for_the_class():
    queries = {
        "rose": [["rose", "flower"]],
        "colt's foot": ["colt's foot", "coltsfoot"],
        "c": ["c texture", ["a", "b"]],
    }
    captions = ["a rose", "flower of a rose", "coltsfoot", "foot", "c", "fine C-texture", "texture c", "b a", "a"]
    found = pairs(captions, list(queries), queries=queries)
    assert found == {
        ("flower of a rose", "rose"),
        ("coltsfoot", "colt's foot"),
        ("fine C-texture", "c"),
        ("b a", "c"),
    }


def test_a_class_with_nothing_to_search_for_and_an_override_of_no_class_are_named():
    with pytest.raises(ValueError, match=r"class 1 \('&'\): found nothing to search for in '&'"):
        search_of(["a", "&"])
    assert matches("R&D", "&", match="substring")
    with pytest.raises(ValueError, match=r"class 0 \('a'\): found nothing to search for in '--'"):
        search_of(["a"], queries={"a": [["b", "--"]]})
    with pytest.raises(ValueError, match=r"found 'rosee', expected the name of a class; did you mean 'rose'"):
        search_of(["rose"], queries={"rosee": ["rose"]})
    for nothing in ([], [[]], [""]):
        with pytest.raises(ValidationError):
            search_of(["rose"], queries={"rose": nothing})


# What both sides agree on: ASCII and Latin letters of one mark. Left out is what SQLite 3.40 treats in its own way:
# NUL (its end of a text), marks of other scripts, letters that Unicode added after version 6.1.
LETTERS = "abAB12éÉñßøж"
BETWEEN = [" ", " ", " ", "-", "/", "'", ".", "  ", "“", " — ", "\n", "_", "&"]


def random_text(rng, most):
    words = ["".join(rng.choices(LETTERS, k=rng.randint(1, 2))) for _ in range(rng.randint(1, most))]
    return "".join(word + rng.choice(BETWEEN) for word in words[:-1]) + words[-1]


def full_text_query(name):
    """As the released code asks: a phrase if the name has - or /, else all words; each quoted, so that it parses."""
    words = [name] if "-" in name or "/" in name else name.split()
    return " ".join('"{}"'.format(word.replace('"', '""')) for word in words if any(map(str.isalnum, word)))


def test_phrases_are_found_in_the_captions_in_which_sqlite_finds_them():
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    captions = list({random_text(rng, 6) for _ in range(3000)})
    names = list({random_text(rng, 3) for _ in range(300)})
    with contextlib.closing(sqlite3.connect(":memory:")) as database:
        database.execute("CREATE VIRTUAL TABLE samples USING fts5(caption, tokenize='unicode61')")
        database.executemany("INSERT INTO samples VALUES (?)", [(one,) for one in captions])
        find = "SELECT caption FROM samples WHERE samples MATCH ?"
        known = {(row, name) for name in names for (row,) in database.execute(find, (full_text_query(name),))}
    assert len(known) > 1000
    assert pairs(captions, names) == known


@pytest.mark.parametrize("match", ["word", "substring"])
def test_words_and_substrings_are_found_where_plain_python_finds_them(match):
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    captions = list({random_text(rng, 6) for _ in range(2000)})
    names = list({random_text(rng, 2) for _ in range(200)})

    def plain(text):
        return text.lower().replace("é", "e").replace("ñ", "n")

    around = r"(?<![^\W_]){}(?![^\W_])" if match == "word" else "{}"
    known = {
        (caption, name)
        for name in names
        for caption in captions
        if re.search(around.format(re.escape(plain(name))), plain(caption))
    }
    assert len(known) > 1000
    assert pairs(captions, names, match=match) == known


@pytest.mark.parametrize("bytes_at_once", [1, 50, 1 << 20])
def test_how_much_is_searched_at_once_changes_nothing(monkeypatch, bytes_at_once):
    monkeypatch.setattr(search_file, "TEXT_BYTES", bytes_at_once)
    captions = ["a crane " * 20, "", "two", "crane", "é crane", "x" * 90]
    ids, places = search_of(["crane", "two"]).find(pa.array(captions))
    assert list(zip(places.tolist(), ids.tolist(), strict=True)) == [(0, 0), (2, 1), (3, 0), (4, 0)]


def test_captions_that_are_no_text_are_searched_as_far_as_they_are():
    broken = pa.array([b"a crane \xff\xfe", b"\xffcrane\xe9", b"crane \xc3\xa9"]).view(pa.string())
    for match in ("phrase", "word", "substring"):
        _, places = search_of(["crane"], match=match).find(broken)
        assert places.tolist() == [0, 1, 2]


def test_a_part_gives_rows_of_the_pool_and_only_those_that_may_leave(tmp_path):
    write_table(tmp_path / "0.parquet", TEXT=["crane", "die"], NSFW=["UNLIKELY", "UNLIKELY"])
    texts = ["a die", None, "a crane", "crane die", "crane", "x", "die"]
    write_table(tmp_path / "1.parquet", TEXT=texts, NSFW=["NSFW", "UNSURE", None, "UNLIKELY", "NSFW", "UNSURE", None])
    pool, search, told = pool_of(tmp_path), search_of(["die", "crane"]), []
    second = find_in_part(pool, pool.parts[1], search)
    assert second.schema == SCHEMA
    assert second.to_pylist() == [
        {"class_id": 1, "row": 4},
        {"class_id": 0, "row": 5},
        {"class_id": 1, "row": 5},
        {"class_id": 0, "row": 8},
    ]
    every = pa.concat_tables(find_in_pool(pool, search, lambda done, of: told.append((done, of))))
    assert every["row"].to_pylist() == [0, 1, 4, 5, 5, 8]
    assert told == [(2, 9), (9, 9)]


def test_captions_that_are_numbers_are_named(tmp_path):
    write_table(tmp_path / "0.parquet", caption=[1, 2])
    pool = pool_of(tmp_path)
    with pytest.raises(ValueError, match=r"0.parquet: column 'caption': found int64 for caption, expected texts"):
        find_in_part(pool, pool.parts[0], search_of(["a"]))
