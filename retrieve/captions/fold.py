"""Captions made comparable: case, accents and, for tokens, everything between words.

In: an arrow array of captions, or a query. Out: the same in one spelling, UTF-8. On disk: nothing.

Case does not count, nor do accents of Latin letters: A = a, Café = cafe. The rule is that of SQLite's tokenizer
unicode61, which the released code of Unmet Promise searched with: lower case letter by letter (so ß is not ss), accents
of Latin letters only (so Cyrillic й is not и). `spaced` also makes one space of everything that is no letter, digit or
mark. Texts may change their length: places in a folded text are none in the original.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

ACCENTS = r"(\p{Latin})\p{Mn}+"
BETWEEN_TOKENS = r"[^\p{L}\p{N}\p{M}\p{Co}]+"
# byte for byte: a letter in lower case, a digit, a byte of a longer character, or a space
SPACED = bytes(one if one >= 128 else ord(chr(one).lower()) if chr(one).isalnum() else ord(" ") for one in range(256))


def folded(captions: pa.Array, spaced: bool = False) -> pa.Array:
    """string array of the same length, null stays null. `spaced`: runs of what is between tokens become one space."""
    try:
        plain = pc.utf8_normalize(captions, form="NFD")
    except pa.ArrowInvalid:  # bytes that are no text: other people's tables have them
        repaired = [None if one is None else one.decode("utf-8", "replace") for one in _bytes(captions)]
        plain = pc.utf8_normalize(pa.array(repaired, pa.string()), form="NFD")
    plain = pc.utf8_normalize(pc.replace_substring_regex(plain, ACCENTS, r"\1"), form="NFC")
    if spaced:
        plain = pc.replace_substring_regex(plain, BETWEEN_TOKENS, " ")
    return pc.utf8_lower(plain)


def folded_texts(texts: Sequence[str]) -> list[str]:
    """Of queries."""
    return [str(one) for one in folded(pa.array(texts, pa.string()))]


def tokens_of(texts: Sequence[str]) -> list[list[str]]:
    """Of each text its words of letters, digits and marks, folded."""
    return [str(one).split() for one in folded(pa.array(texts, pa.string()), spaced=True)]


def _bytes(captions: pa.Array) -> list[bytes | None]:
    found: list[bytes | None] = captions.cast(pa.binary()).to_pylist()
    return found


def without_runs(text: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`text` (uint8) with one space for every run of spaces, and where `starts` and `ends` have gone to."""
    is_space = text == ord(" ")
    drop = np.flatnonzero(is_space[1:] & is_space[:-1]) + 1
    if not len(drop):
        return text, starts, ends
    return np.delete(text, drop), starts - np.searchsorted(drop, starts), ends - np.searchsorted(drop, ends)
