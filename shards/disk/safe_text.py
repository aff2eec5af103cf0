"""Text of unknown origin, made safe to look at; pure.

Comes in: any string (a prompt, a class name, an error, an address). Goes out: text whose every character can be seen.
Control characters, bidi overrides, zero-width and tag characters, private and unassigned ones and lone surrogates are
written as ``⟨U+202E⟩``, because they can reorder or hide what a person reads. Escaping for HTML is done by whoever
writes HTML.

    visible      the text, hidden characters shown
    one_line     on one line, at most so many characters, without secrets: errors, output of programs
    for_screen   lines, visible and without secrets: all that verbs print
    quoted       a value as it was found, between quotes, bounded: 'crane'
    clip         the beginning, and how long the text is
    markdown     text that Markdown renders as itself
    redact       the text without secrets and without user and query of addresses
"""

import re
import unicodedata
from collections.abc import Iterable
from urllib.parse import quote, unquote

LONGEST_LINE = 1500
# Joiners shape emoji and many scripts; without them ordinary words come out wrong.
_HARMLESS_FORMAT = frozenset("\u200c\u200d\u00ad")
_HIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()<>#!|~&$:])")
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,30}://[^\s'\"<>]+")
_ENCODED_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,30}%3A%2F%2F[^\s'\"<>&]+", re.I)
HIDDEN = "[secret]"
_FIELDS = (
    r"(?:x-(?:amz|goog)-(?:signature|credential|security-token)|(?:aws_?)?(?:secret_?)?access_?key(?:_?id)?|"
    r"(?:aws_?)?session_?token|(?:client_)?secret(?:_?key)?|api_?key|account_?key|(?:access_|auth_|id_|hf_)?token|sig|"
    r"signature|passw(?:or)?d)"
)
# of these no other meaning is likely, so they may have a prefix, blanks around their `=`, or a colon
_PLAIN_FIELDS = (
    r"(?:(?:[a-z0-9]{1,40}[_-]){0,6}(?:(?:secret[_-]?)?access[_-]?key(?:[_-]?id)?|(?:secret|api|account|private)[_-]?key|"
    r"client[_-]?secret|(?:session|access|auth|id)[_-]?token|passw(?:or)?d)|(?-i:(?:[A-Z0-9]{1,40}_){1,6}(?:TOKEN|SECRET)))"
)
_NO_VALUE = r"(?!\[secret\]|(?:an?|the|is|was|found|expected|none|null|true|false)\b)"
_PASSWORD = re.compile(
    r"(://|%3A%2F%2F)(?:(?!%3A|%40)[^\s/:@'\"]){0,200}(?::|%3A)(?:(?!%40)[^\s@'\"]){1,400}(?:@|%40)", re.I
)
_SECRETS = (
    re.compile(rf"(?:(?<![A-Za-z0-9_])|(?<=%3F)|(?<=%26))({_FIELDS}(?:=|%3D))(?!\[secret\])[^\s&'\"<>,;)\]}}%]+", re.I),
    re.compile(rf"((?<![A-Za-z0-9_-]){_PLAIN_FIELDS}[ \t]*(?:=|%3D)[ \t]*[\"']?){_NO_VALUE}[^\s&'\"<>,;)\]}}%]+", re.I),
    re.compile(rf"((?<![A-Za-z0-9_./-]){_PLAIN_FIELDS}[ \t]*:[ \t]*[\"']?){_NO_VALUE}[^\s&'\"<>,;)\]}}%]+", re.I),
    re.compile(rf"([\"'](?:{_FIELDS}|{_PLAIN_FIELDS})[\"']\s*:\s*[\"'])(?!\[secret\])[^\"']+", re.I),
    re.compile(
        r"(\b(?:Authorization|X-Api-Key)[\"']?\s*[:=]\s*[\"']?(?:(?:Bearer|Basic|Token)\s+)?)(?!\[secret\]|Bearer|Basic|Token)[^\s\"',]+",
        re.I,
    ),
    re.compile(r"(\bBearer\s+)(?!\[secret\])[A-Za-z0-9._~+/=-]{8,}"),
    re.compile(r"(\b)(?:(?:AKIA|ASIA)[A-Z0-9]{16}|hf_[A-Za-z0-9]{24,}|sk-[A-Za-z0-9_-]{20,})\b"),
    re.compile(r"(?<![^\s'\"(=<])()[^\s/:@'\"]{3,}:[^\s/:@'\"]{3,}(?=@[A-Za-z0-9])"),
)


def is_hidden(character: str) -> bool:
    """Whether one cannot see the character, or what it does to its neighbours."""
    return unicodedata.category(character) in _HIDDEN_CATEGORIES and character not in _HARMLESS_FORMAT


def visible(text: str) -> str:
    """``"a\\u202eb"`` -> ``"a⟨U+202E⟩b"``; printable text comes back as it is."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(f"⟨U+{ord(c):04X}⟩" if is_hidden(c) else c for c in text)


def one_line(text: str, limit: int = LONGEST_LINE) -> str:
    """At most ``limit`` characters of the text on one line: no colours of a terminal, single blanks, all visible, no
    secret."""
    return visible(redact(" ".join(_ANSI.sub("", text[: 10 * limit]).split())))[:limit]


def for_screen(text: str) -> str:
    """Lines for a terminal: every character visible, no secret; line ends stay."""
    return "\n".join(map(visible, redact(text).split("\n")))


def quoted(value: object, limit: int) -> str:
    """``'crane'``: a value as it was found, at most ``limit`` characters of it, on one line."""
    if not isinstance(value, str):
        return visible(repr(value))[:limit]
    return f"'{visible(value[:limit])[:limit]}{'…' if len(value) > limit else ''}'"


def clip(text: str, limit: int) -> str:
    """The first ``limit`` characters; if some are left off, the full length stands behind them."""
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text):,} characters)"


def markdown(text: str) -> str:
    """Text that Markdown shows as it is: visible, with every special character escaped, without HTML."""
    return _MARKDOWN.sub(r"\\\1", visible(text))


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """The text with no secret in it, and without user info, query and fragment in the addresses in it.

    Known by their form, also where `:`, `/`, `@`, `=` are percent-encoded: values of fields such as `token=`,
    `X-Amz-Signature=`, `WANDB_API_KEY=`, `password: ` and `"secret_key":`, what follows `Bearer` or `Authorization:`,
    keys of AWS, Hugging Face and OpenAI, and `user:password@`.
    """
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    text = _ADDRESS.sub(lambda match: _redact_address(match.group()), text)
    text = _ENCODED_ADDRESS.sub(lambda match: quote(_redact_address(unquote(match.group())), safe=""), text)
    for pattern in _SECRETS:
        text = pattern.sub(rf"\g<1>{HIDDEN}", text)
    return text


def has_secret(text: str) -> bool:
    """Whether a text that is going to be stored or shown holds a secret: a password in an address, a key, a token."""
    return any(pattern.search(text) for pattern in (_PASSWORD, *_SECRETS))


def _redact_address(address: str) -> str:
    scheme, _, rest = address.partition("://")
    rest = re.split("[?#]", rest)[0]
    plain = re.sub("%3A", ":", re.sub("%40", "@", rest, flags=re.I), flags=re.I)
    user, _, place = plain.rpartition("@")
    # a password may hold a slash; an '@' in a path without ':' before it is just a path
    if ":" not in user and "/" in user:
        return f"{scheme}://{rest}"
    return f"{scheme}://{place}"
