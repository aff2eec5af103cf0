"""Text of unknown origin is shown as it is, with nothing hidden and nothing taking effect."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.disk.safe_text import clip, markdown, visible
from tests.support.hostile_text import PAYLOADS

TEXTS = st.one_of(st.sampled_from(PAYLOADS), st.text(st.characters(codec=None)))


@given(TEXTS)
def test_nothing_invisible_and_no_line_break_is_left(text: str) -> None:
    for character in visible(text):
        category = unicodedata.category(character)
        assert category not in ("Cc", "Cs", "Zl", "Zp")
        assert category != "Cf" or character in "\u200c\u200d\u00ad"


@given(TEXTS)
def test_making_visible_twice_changes_nothing_more(text: str) -> None:
    assert visible(visible(text)) == visible(text)


@pytest.mark.parametrize("text", ["", "plain", "Zürich 北京 العربية", "👩\u200d👩\u200d👧", "a ⟨b⟩ <c>"])
def test_ordinary_text_of_any_language_stays_as_it_is(text: str) -> None:
    assert visible(text) == text


def test_a_hidden_character_is_named_by_its_number() -> None:
    assert visible("\u202egnp.exe") == "⟨U+202E⟩gnp.exe"
    assert visible("a\nb\x00\ud800") == "a⟨U+000A⟩b⟨U+0000⟩⟨U+D800⟩"


@given(TEXTS)
def test_markdown_keeps_every_sign_with_a_meaning_behind_a_backslash(text: str) -> None:
    escaped = markdown(text)
    plain = escaped.replace("\\\\", "")
    for sign in "`*_{}[]()<>#!|~&$:":
        assert plain.count(sign) == plain.count("\\" + sign)


def test_a_long_text_is_cut_and_says_how_long_it_was() -> None:
    assert clip("x" * 1_300, 10) == "xxxxxxxxxx… (1,300 characters)"
    assert clip("x" * 10, 10) == "x" * 10
