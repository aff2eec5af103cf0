"""WordNet: the senses of a noun from the files as they are installed, and phrases made of them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gen.names.gloss import own_gloss
from gen.names.wordnet import (
    MAX_GLOSS_WORDS,
    Sense,
    WordNet,
    definition_of_id,
    open_wordnet,
    phrase,
    sense_of_id,
    senses_of,
)
from shards.disk.home import home
from shards.labels.classes import ClassSpec, load_classes
from tests.support.hostile_text import PAYLOADS

FOLDER = Path("/usr/share/wordnet")  # of Debian's package
HEADER = "".join(f"  {number} A small file in the format of the real one.  \n" for number in range(1, 4))
# words, definition; the second column of the real file and the pointers are as there
SENSES = [
    (("crane",), "a bird that wades; feeds in marshes"),
    (("crane", "lifting_crane"), 'lifts heavy loads (on ships too); "the crane swung round"'),
    (("sunglasses", "dark_glasses"), "spectacles against the glare of the sun"),
    (("school_bus",), "a bus for pupils"),
    (("tench",), '"no definition, only an example"'),
    (("gentleman",), "a polite man"),
]


def write_wordnet(folder: Path, senses: list[tuple[tuple[str, ...], str]]) -> WordNet:
    """Both files, with every number that the real ones have."""
    folder.mkdir(exist_ok=True)
    data = HEADER
    offsets: dict[str, list[str]] = {}
    for words, gloss in senses:
        offset = f"{len(data.encode()):08d}"
        for word in words:
            offsets.setdefault(word.lower(), []).append(offset)
        names = " ".join(f"{word} {number}" for number, word in enumerate(words))
        data += f"{offset} 05 n {len(words):02x} {names} 002 @ 00000001 n 0000 #m 00000002 n 0000 | {gloss}  \n"
    index = HEADER + "".join(
        f"{word} n {len(places)} 2 @ #m {len(places)} 0 {' '.join(places)}  \n"
        for word, places in sorted(offsets.items())
    )
    (folder / "data.noun").write_text(data, encoding="utf-8")
    (folder / "index.noun").write_text(index, encoding="utf-8")
    found = open_wordnet(folder)
    assert found is not None
    return found


@pytest.fixture
def wordnet(tmp_path: Path) -> WordNet:
    return write_wordnet(tmp_path / "wordnet", SENSES)


def test_a_noun_has_its_senses_in_the_order_of_the_index(wordnet: WordNet) -> None:
    first, second = senses_of("Crane", wordnet)
    assert first.words == ("crane",)
    assert second.words == ("crane", "lifting crane")
    assert second.gloss == 'lifts heavy loads (on ships too); "the crane swung round"'
    assert sense_of_id(first.wordnet_id, wordnet) == first


def test_names_of_several_words_and_plurals_are_found(wordnet: WordNet) -> None:
    assert [sense.words[0] for sense in senses_of("School  Bus", wordnet)] == ["school bus"]
    assert senses_of("school buses", wordnet) == senses_of("school bus", wordnet)
    assert senses_of("cranes", wordnet) == senses_of("crane", wordnet)
    assert senses_of("gentlemen", wordnet) == senses_of("gentleman", wordnet)
    assert [sense.words[0] for sense in senses_of("sunglasses", wordnet)] == ["sunglasses"]


def test_what_wordnet_does_not_know_has_no_sense(wordnet: WordNet, tmp_path: Path) -> None:
    for name in ("heron", "cran", "rane", "crane n", "s", "", *PAYLOADS):
        assert senses_of(name, wordnet) == ()
    for wordnet_id in ("n00000000", "n99999999", "n00000010", "02012849", "v00000010", ""):
        assert sense_of_id(wordnet_id, wordnet) is None
    assert open_wordnet(tmp_path / "nothing") is None


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    one = write_wordnet(tmp_path / "one", SENSES)
    other = write_wordnet(tmp_path / "other", [*SENSES[1:], SENSES[0]])
    with pytest.raises(ValueError, match=r"other/data\.noun: found no sense at byte [0-9]+"):
        senses_of("tench", WordNet(one.index, other.data, other.where))
    broken = WordNet(one.index.replace(b"tench n 1 2", b"tench n x 2"), one.data, one.where)
    with pytest.raises(ValueError, match="found a broken line for 'tench'"):
        senses_of("tench", broken)
    cut = WordNet(one.index, one.data[: len(one.data) // 2], one.where)
    with pytest.raises(ValueError, match="install both again"):
        senses_of("gentleman", cut)


def test_a_phrase_is_the_name_and_the_first_statement_as_a_noun_with_its_article() -> None:
    assert phrase("crane", "a bird that wades; feeds in marshes") == "crane, a bird that wades"
    assert (
        phrase("crane", "large long-necked wading bird of marshes")
        == "crane, a large long-necked wading bird of marshes"
    )
    assert phrase("crane", '(zoology) a bird; "a crane; a heron"') == "crane, a bird"
    assert phrase("oboe", "any of various instruments of wood") == "oboe, an instrument of wood"
    assert phrase("tench", '"only an example"') == "tench"


def test_a_long_definition_ends_with_a_clause_or_is_not_used() -> None:
    many = " ".join(f"w{number}" for number in range(MAX_GLOSS_WORDS))
    assert phrase("x", f"{many} w") == "x"
    assert phrase("x", "small bird having a very long bill and two very long legs") == "x, a small bird"
    assert phrase("x", "squash with a long usually straight neck and a yellow skin") == "x, a squash"
    assert phrase("x", "brown, white, black, red, green, yellow, grey or blue bird") == "x"


@given(st.text(max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_gloss_makes_one_line_of_bounded_length(gloss: str) -> None:
    made = phrase("name", gloss)
    assert made == "name" or made.startswith("name, ")
    assert "\n" not in made
    assert len(made.split()) <= MAX_GLOSS_WORDS + 2  # the name and an article


# the definitions that timm ships

# What may follow where a definition is cut: the beginning of a clause, and nothing that belongs to the noun.
MAY_FOLLOW = frozenset(
    re.findall(
        "[a-z]+",
        "that which who whose when where with without having used for from consisting containing similar related "
        "worn resembling characterized designed bearing such seen distinguished usually especially often chiefly "
        "native found as",
    )
)
# A preposition may follow a noun that says what it is, but not "a breed".
PREPOSITIONS = {"of", "in", "on", "at", "by"}
SAYS_NOTHING = {"breed", "kind", "type", "piece", "variety", "member", "pair", "part", "set", "group", "number", "form"}
BEFORE = re.compile(
    r"^\s*(?:(?:any|one) of (?:the |a )?(?:various |several |numerous |many |certain |different )?(?:kinds of )?|"
    r"an? |the )"
)


def test_no_phrase_of_an_imagenet_class_is_cut_in_mid_phrase() -> None:
    """A checker of its own: it counts words, and looks at what stands behind the last one in the definition."""
    num_phrases = 0
    for one in load_classes(ClassSpec(source="imagenet-1k", per_class=1)):
        definition = re.sub(r"\([^()]*\)", " ", definition_of_id(one.wordnet_id or "") or "").split(";")[0]
        told = BEFORE.sub("", definition).split()
        made = phrase(one.name, definition)
        if made == one.name:
            continue
        num_phrases += 1
        said = re.sub("^an? ", "", made.removeprefix(f"{one.name}, ")).split()
        rest = told[len(said) :]
        may_follow = MAY_FOLLOW if said[-1] in SAYS_NOTHING else MAY_FOLLOW | PREPOSITIONS
        ends = not rest or told[len(said) - 1].endswith((":", ",")) or rest[0].strip(",") in may_follow
        assert ends, f"{made} | {rest}"
    assert num_phrases > 800


def test_two_classes_with_one_name_have_two_phrases() -> None:
    classes = load_classes(ClassSpec(source="imagenet-1k", per_class=1))
    phrases = {one.id: own_gloss(one) for one in classes}
    assert phrases[657] != phrases[744]
    assert phrases[836] != phrases[837]
    assert definition_of_id("n00000000") is None


def test_reading_the_definitions_imports_no_model_library() -> None:
    program = (
        "import sys\nfrom gen.names.wordnet import definition_of_id\nassert definition_of_id('n02012849')\n"
        "assert not {'timm', 'torch', 'torchvision'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=200, cwd=home())


# the real files


@pytest.mark.skipif(not (FOLDER / "data.noun").is_file(), reason="Debian's wordnet-base is not installed")
def test_the_installed_wordnet_knows_the_senses_of_crane_and_every_id_of_imagenet() -> None:
    wordnet = open_wordnet(FOLDER)
    assert wordnet is not None
    senses = senses_of("crane", wordnet)
    assert {"n02012849", "n03126707"} <= {sense.wordnet_id for sense in senses}
    for one in load_classes(ClassSpec(source="imagenet-1k", per_class=1)):
        found = sense_of_id(one.wordnet_id or "", wordnet)
        assert isinstance(found, Sense)
        assert phrase("x", found.gloss) == phrase("x", definition_of_id(one.wordnet_id or "") or "")
