"""Rows that never leave a pool: those on a list, and those that their table calls unsafe.

In: lists of URLs and of sha256 hashes, one on a line; rows of the pool by role, bytes of pictures. Out: which rows are
kept, which pictures are on a list. On disk: only reads. It is asked before anything of a row is shown, fetched or
decoded.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from shards.disk.layout import SUCCESS
from shards.disk.regular import read_regular
from shards.disk.safe_text import quoted

ROLES = ("url", "sha256", "nsfw", "punsafe", "status")  # the columns that decide
UNSAFE = ("NSFW", "TRUE")  # LAION's word, and that of a yes or no; UNSURE stays, as in Unmet Promise
HASH_DIGITS = 64
ENCODING = "utf-8-sig"  # of a list: editors of Windows write a byte order mark, which is no part of the first line


@dataclass(frozen=True)
class Blocks:
    """What is asked of each row."""

    urls: frozenset[str]
    hashes: frozenset[str]
    unsafe_above: float

    @staticmethod
    def read(files: Sequence[Path], unsafe_above: float) -> "Blocks":
        """Empty lines and lines that begin with `#` say nothing. Raises ValueError for a line that is neither an
        address nor a sha256."""
        urls, hashes = set(), set()
        for path in files:
            for number, line in enumerate(_lines(path), start=1):
                text = line.strip()
                if not text or text.startswith("#"):
                    continue
                if "://" in text:
                    urls.add(text)
                elif len(text) == HASH_DIGITS and all(one in "0123456789abcdefABCDEF" for one in text):
                    hashes.add(text.lower())
                else:
                    raise ValueError(
                        f"{path}: line {number}: found {quoted(text, 80)}, expected an address or a sha256 of "
                        f"{HASH_DIGITS} hexadecimal digits"
                    )
        return Blocks(frozenset(urls), frozenset(hashes), unsafe_above)

    @property
    def deciding(self) -> tuple[str, ...]:
        """The roles that are asked: addresses and hashes only if some are on a list."""
        asked = {"url": bool(self.urls), "sha256": bool(self.hashes)}
        return tuple(role for role in ROLES if asked.get(role, True))

    def kept(self, rows: pa.Table) -> np.ndarray:
        """bool, a value a row: whether it may leave. `rows` has those columns of `deciding` that the pool has, by role
        and in the type of the role (`retrieve.pool.columns`)."""
        kept = np.ones(len(rows), bool)
        for role, values in ((name, rows[name]) for name in self.deciding if name in rows.column_names):
            if role == "nsfw":
                kept &= ~_among(values, [word for word in values.unique().to_pylist() if self._is_unsafe(word)])
            elif role == "punsafe":
                kept &= ~_true(pc.greater(values, self.unsafe_above))
            elif role == "status":
                kept &= _true(pc.equal(values, SUCCESS))
            elif role == "url":
                kept &= ~_among(values, sorted(self.urls))
            else:
                kept &= ~_among(values, sorted(self.hashes))
        return kept

    def holds(self, picture: bytes) -> bool:
        """Whether the hash of these bytes is on a list: asked where a picture is read, for tables that say no hash."""
        return bool(self.hashes) and hashlib.sha256(picture).hexdigest() in self.hashes

    def _is_unsafe(self, word: str | None) -> bool:
        """What a column `nsfw` says: a word, or a probability as `punsafe` has it."""
        if word is None or word.upper() in UNSAFE:
            return word is not None
        try:
            return float(word) > self.unsafe_above
        except ValueError:
            return False


def _lines(path: Path) -> Iterable[str]:
    try:
        return read_regular(path).decode(ENCODING).splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{path}: found bytes that are no text, expected a list in UTF-8") from None
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}; check pool.block") from None


def _among(values: pa.ChunkedArray, texts: Sequence[str]) -> np.ndarray:
    return _true(pc.is_in(values, pa.array(texts, pa.string())))


def _true(mask: pa.ChunkedArray) -> np.ndarray:
    return np.asarray(pc.fill_null(mask, False).to_numpy())
