"""Text of unknown origin is shown as it is, with nothing hidden and nothing taking effect."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.disk.safe_text import clip, for_screen, has_secret, markdown, one_line, quoted, redact, visible
from tests.support.hostile_text import PAYLOADS

TEXTS = st.one_of(st.sampled_from(PAYLOADS), st.text(st.characters(codec=None)))


@given(TEXTS)
def test_nothing_invisible_and_no_line_break_is_left(text: str) -> None:
    for character in visible(text):
        category = unicodedata.category(character)
        assert category not in ("Cc", "Cs", "Co", "Cn", "Zl", "Zp")
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


@given(TEXTS, st.integers(1, 60))
def test_an_error_is_one_bounded_line_and_a_value_stands_between_quotes(text: str, limit: int) -> None:
    line, value = one_line(text, limit), quoted(text, limit)
    assert visible(line) == line
    assert len(line) <= limit
    assert visible(value) == value
    assert value[0] == value[-1] == "'"
    assert len(value) <= limit + 3


def test_a_line_has_no_colours_and_single_blanks_and_a_value_is_shown_as_it_was_found() -> None:
    assert one_line("\x1b[31mno\n  room\x1b[0m\t\u202e", 100) == "no room ⟨U+202E⟩"
    assert one_line("x" * 2_000) == "x" * 1_500
    assert quoted("a\nb", 20) == "'a⟨U+000A⟩b'"
    assert quoted("crane bird", 5) == "'crane…'"
    assert quoted({"id": [1, "\u202e"]}, 40) == "{'id': [1, '\\u202e']}"


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("s3://bucket/x", "s3://bucket/x"),
        ("s3://key:CANARY@bucket/x", "s3://bucket/x"),
        ("https://h/x?X-Amz-Signature=CANARY&y=1", "https://h/x"),
        ("https://u:CANARY@h/x#CANARY and more", "https://h/x and more"),
        ("see 'https://h?t=CANARY' and s3://k:CANARY@b", "see 'https://h' and s3://b"),
        ("https://u:CANARY/x@h/y", None),
        ("no address", "no address"),
        ("see https://example.org/a/b.", "see https://example.org/a/b."),
        ("s3://me:CANARY@bucket/a?b=c d", "s3://bucket/a d"),
    ],
)
def test_k1_no_message_holds_user_info_or_query(text: str, clean: str | None) -> None:
    if clean is not None:
        assert redact(text) == clean
    assert "CANARY" not in redact(text)


@pytest.mark.parametrize(
    "text",
    [
        'Invalid bucket name "KEY:CANARY@bucket": Bucket name must match',
        "s3%3A%2F%2FKEY%3ACANARY%40bucket%2Fx",
        "GET /x?a=1&X-Amz-Signature=CANARY&b=2 failed",
        "X-Amz-Security-Token%3DCANARY%26x",
        "https%3A%2F%2Fh%2Fx%3Fsig%3DCANARY",
        "headers: {'Authorization': 'Bearer CANARY', 'Host': 'h'}",
        "Authorization: Basic CANARY",
        "{'aws_secret_access_key': 'CANARY'}",
        '{"token": "CANARY"}',
        "aws_session_token=CANARY",
        "token=CANARY, expired",
        "password=CANARY",
        "WANDB_API_KEY=CANARY",
        "export MY_OWN_WANDB_API_KEY='CANARY'; next",
        "GITHUB_TOKEN=CANARY",
        "aws_secret_access_key = CANARY",
        "aws_access_key_id\t=\tCANARY",
        "password: CANARY",
        "db_password : 'CANARY'",
        "api-key: CANARY",
        "Client-Secret: CANARY",
        "{'wandb_api_key': 'CANARY and CANARY'}",
        "https%3A%2F%2Fh and wandb_api_key%3DCANARY",
    ],
)
def test_k1_a_secret_in_a_librarys_words_is_known_by_its_form(text: str) -> None:
    assert has_secret(text)
    for shown in (redact(text), one_line(text), for_screen(f"first\n{text}\nlast")):
        assert "CANARY" not in shown
        assert redact(shown) == shown, "what was redacted stays as it is"


@pytest.mark.parametrize(
    "text",
    [
        "max_tokens=5, 3 tokens: a b c",
        "found token: crane",
        "see https://example.org/a/b and s3://bucket/a at 12:30:45",
        "unit.py:88 < plan.py:12",
        "crane, the bird (Grus grus): 'signature'",
        "seed=3 key=000120034",
        "prompts.style_token=out/token",
        "/etc/passwd: permission denied",
        "llm.api_key: found none, expected the name of a variable",
        "password: expected a text",
        "refused for a key or a password: a recipe is stored",
        "a monkey = an animal, keyboard: black",
        "the secret: a garden; token = crane",
        "private key",
    ],
)
def test_words_that_only_sound_like_a_secret_stay(text: str) -> None:
    assert not has_secret(text)
    assert redact(text) == text


def test_keys_are_known_by_their_form_where_no_word_stands_before_them() -> None:
    for key in ("AKIAIOSFODNN7EXAMPLE", "hf_" + "aB3" * 10, "sk-" + "aB3" * 10):
        assert redact(f"found {key}, expected a name") == "found [secret], expected a name"


@given(TEXTS)
def test_lines_for_a_screen_are_lines_of_visible_text(text: str) -> None:
    for line in for_screen(text).split("\n"):
        assert visible(line) == line


def test_k1_a_secret_is_replaced_wherever_it_stands() -> None:
    assert redact("Bearer CANARY at s3://CANARY@b/x", ["CANARY"]) == "Bearer [secret] at s3://b/x"
