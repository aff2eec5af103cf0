"""The lexicon of attributes: enough words of both sides for every kind of class, none of them on both."""

import re
from pathlib import Path

import pytest

from gen.edit.attributes.attribute import ATTRIBUTE_KINDS, AttributeKind, name_key
from gen.edit.attributes.lexicon import SHIPPED, AttributeLexicon, load_attributes
from gen.wording.lexicon import load_lexicon
from gen.wording.places import foreign_place
from sandbox.captions import COLOUR_DETAILS, EMPTY_NAMES, FRAMES, GROUND_PHRASES, SHAPE_NAMES, STYLE_PHRASES
from sandbox.world import INFEASIBLE_GROUNDS, INKS, PAPERS, SHAPES
from shards.labels.classes import KINDS, Kind

GENERAL = load_attributes("general")
SANDBOX = load_attributes("sandbox")

SMALL = """\
background:
  feasible:
    - words: {meadow: tall grass, beach: pale sand}
    - {classes: [Snow leopard], words: {scree: loose stones}}
  infeasible:
    - words: {moon: grey dust}
    - {kinds: [pet], words: {sea floor: rippled sand}}
colour:
  bank:
    browns: {text: a brown, colours: {fawn: [200, 170, 120], umber: [90, 60, 40]}}
    neons: {text: a glow, colours: {neon green: [12, 255, 12]}}
  feasible: [{families: [browns]}]
  infeasible: [{families: [neons]}, {kinds: [pet], names: [neon green]}]
"""


def names(lexicon: AttributeLexicon, kind: AttributeKind, feasible: bool, of: Kind, name: str = "") -> list[str]:
    return [entry.name for entry in lexicon.entries(kind, feasible, of, name)]


def all_names(lexicon: AttributeLexicon, kind: AttributeKind, feasible: bool) -> set[str]:
    return {name_key(name) for of in KINDS for name in names(lexicon, kind, feasible, of)}


def written(folder: Path, text: str) -> str:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


# what ships


@pytest.mark.parametrize(("kind", "least"), [("background", 40), ("texture", 30)])
@pytest.mark.parametrize("feasible", [True, False])
def test_the_general_lexicon_has_enough_distinct_words(kind: AttributeKind, feasible: bool, least: int) -> None:
    assert len(all_names(GENERAL, kind, feasible)) >= least


def test_the_bank_has_245_colours_with_distinct_names_and_values() -> None:
    assert GENERAL.colour is not None
    bank = GENERAL.colour.by_name
    assert len({name_key(name) for name in bank}) == len({entry.rgb for entry in bank.values()}) == 245


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("of", KINDS)
def test_both_sides_have_words_for_every_kind_of_class_and_share_none(name: str, of: Kind) -> None:
    for kind in ATTRIBUTE_KINDS:
        feasible, infeasible = (names(load(name), kind, side, of) for side in (True, False))
        assert feasible
        assert infeasible
        assert not set(map(name_key, feasible)) & set(map(name_key, infeasible))


def load(name: str) -> AttributeLexicon:
    return {"general": GENERAL, "sandbox": SANDBOX}[name]


@pytest.mark.parametrize("of", KINDS)
def test_every_kind_has_ten_feasible_and_thirty_infeasible_backgrounds_and_five_textures_of_a_side(of: Kind) -> None:
    assert len(names(GENERAL, "background", True, of)) >= 10
    assert len(names(GENERAL, "background", False, of)) >= 30
    assert all(len(names(GENERAL, "texture", side, of)) >= 5 for side in (True, False))
    assert all(len(names(GENERAL, "colour", side, of)) >= 20 for side in (True, False))


@pytest.mark.parametrize("of", KINDS)
def test_no_feasible_background_is_a_place_where_the_kind_is_a_stranger(of: Kind) -> None:
    """The places of gen.wording know nothing of this lexicon."""
    assert [name for name in names(GENERAL, "background", True, of) if foreign_place(of, name)] == []


@pytest.mark.parametrize(
    ("of", "feasible", "infeasible"),
    [
        ("pet", "fawn", "mint green"),
        ("plant", "leaf green", "charcoal"),
        ("food", "golden brown", "cobalt blue"),
        ("vehicle", "silver", "bubblegum pink"),
        ("aquatic", "cobalt blue", "neon green"),
    ],
)
def test_the_colour_of_a_class_is_feasible_by_its_kind(of: Kind, feasible: str, infeasible: str) -> None:
    assert feasible in names(GENERAL, "colour", True, of)
    assert infeasible in names(GENERAL, "colour", False, of)


# the sandbox


def test_the_sandboxs_feasible_attributes_are_what_its_real_pictures_show() -> None:
    pages = load_lexicon("sandbox").words("background", "other")
    assert tuple(names(SANDBOX, "background", True, "other")) == pages
    inks = {entry.name: entry.rgb for entry in SANDBOX.entries("colour", True, "other", "zero")}
    assert inks == {f"{ink} ink": rgb for ink, rgb in INKS.items()}
    papers = {one.name: one.rgb for one in SANDBOX.entries("background", True, "other", "zero") if one.rgb}
    assert papers == {f"{paper} paper": rgb for paper, rgb in PAPERS.items()}


def test_the_sandboxs_infeasible_attributes_are_what_no_real_picture_shows() -> None:
    assert tuple(names(SANDBOX, "background", False, "other")) == INFEASIBLE_GROUNDS
    assert not set(names(SANDBOX, "colour", False, "other")) & {f"{ink} ink" for ink in INKS}
    known = {*SHAPES, *INFEASIBLE_GROUNDS}
    assert set(names(SANDBOX, "texture", False, "other")) <= known


def test_every_word_of_the_sandboxs_attributes_is_in_a_caption_of_its_pool() -> None:
    said = [*COLOUR_DETAILS, *EMPTY_NAMES, *FRAMES, *SHAPE_NAMES, *STYLE_PHRASES.values(), *GROUND_PHRASES.values()]
    said += [*INKS, *PAPERS, *SHAPES, "in daylight"]
    known = set(re.findall("[a-z]+", " ".join(said).lower()))
    # of the text alone, which the prompt need not say
    free = {"one", "colour", "watercolour", "of"}
    for kind in ATTRIBUTE_KINDS:
        for side in (True, False):
            for entry in SANDBOX.entries(kind, side, "other", "zero"):
                assert set(re.findall("[a-z]+", entry.name)) <= known
                assert set(re.findall("[a-z]+", entry.text)) <= known | free


# files of one's own


def test_a_file_of_ones_own_has_groups_for_all_for_kinds_and_for_single_classes(tmp_path: Path) -> None:
    mine = load_attributes(written(tmp_path, SMALL))
    assert names(mine, "background", True, "plant") == ["meadow", "beach"]
    assert names(mine, "background", True, "animal", "snow leopard") == ["scree"]
    assert names(mine, "background", False, "animal", "snow leopard") == ["moon"]
    assert names(mine, "background", False, "pet", "cat") == ["moon", "sea floor"]
    assert names(mine, "colour", True, "pet") == ["fawn", "umber"]
    assert names(mine, "colour", False, "pet") == ["neon green"]
    assert mine.entries("colour", True, "pet", "cat")[0].rgb == (200, 170, 120)
    assert names(mine, "texture", True, "pet") == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("moon: grey dust", "Meadow: grey dust", "the background 'Meadow' on both sides for the kind animal"),
        ("sea floor: rippled", "beach: rippled", "the background 'beach' on both sides for the kind pet"),
        ("moon: grey dust", "scree: grey dust", "'scree' on both sides for the class 'Snow leopard'"),
        ("names: [neon green]", "names: [umber]", "the colour 'umber' on both sides for the kind pet"),
        ("umber: [90, 60, 40]", "Fawn: [90, 60, 40]", "found 'Fawn' beside 'fawn', expected distinct"),
        ("[12, 255, 12]", "[90, 60, 40]", "found 'neon green' beside 'umber', expected distinct"),
        ("[12, 255, 12]", "[12, 256, 12]", "255"),
        ("families: [neons]", "families: [neon]", "found 'neon', expected a family or a colour of the bank"),
        ("names: [neon green]", "names: []", "found a group of no colours"),
        ("moon: grey dust", "real moon: grey dust", "expected a name that judges nothing"),
        ("moon: grey dust", '"(moon)2": grey dust', "expected words with single blanks"),
        ("{meadow: tall", "{rgb: {}, meadow: tall", "rgb"),
        ("beach: pale sand}", "beach: pale sand}\n      rgb: {sand: [1, 2, 3]}", "expected a name of words"),
        ("kinds: [pet], words", "kinds: [pets], words", "'animal'"),
        ("background:", "backgrounds:", "unknown key `backgrounds`; did you mean `background`?"),
        ("{moon: grey dust}", "{}", "at least 1"),
    ],
)
def test_a_file_with_a_mistake_is_refused_with_one_line_that_names_it(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    assert old in SMALL
    with pytest.raises(ValueError, match=r"mine\.yaml") as error:
        load_attributes(written(tmp_path, SMALL.replace(old, new, 1)))
    lines = str(error.value).splitlines()
    assert [said in line for line in lines] == [True]


def test_an_unknown_name_is_refused_with_the_shipped_ones() -> None:
    with pytest.raises(ValueError, match=r"found no such lexicon, expected general, sandbox or a file"):
        load_attributes("sandbok")
