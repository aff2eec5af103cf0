"""Rows that never leave a pool: those on a list, and those that their table calls unsafe.

In: lists of URLs and of sha256 hashes, one on a line; rows of the pool by role. Out: which rows are kept. On disk: only
reads. It is asked before anything of a row is shown, fetched or decoded.
"""

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
NSFW = "NSFW"  # LAION's word; UNSURE stays, as in Unmet Promise
HASH_DIGITS = 64


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

    def kept(self, rows: pa.Table) -> np.ndarray:
        """bool, a value a row: whether it may leave. `rows` has those columns of `ROLES` that the pool has, by role."""
        kept = np.ones(len(rows), bool)
        for role, values in ((name, rows[name]) for name in ROLES if name in rows.column_names):
            if role == "nsfw" and _is_text(values):
                kept &= ~_true(pc.equal(pc.utf8_upper(values), NSFW))
            elif role in ("nsfw", "punsafe"):
                kept &= ~_true(pc.greater(pc.cast(values, pa.float64()), self.unsafe_above))
            elif role == "status" and _is_text(values):
                kept &= _true(pc.equal(values, SUCCESS))
            elif role == "url" and self.urls and _is_text(values):
                kept &= ~_true(pc.is_in(values, pa.array(sorted(self.urls), values.type)))
            elif role == "sha256" and self.hashes and _is_text(values):
                kept &= ~_true(pc.is_in(pc.utf8_lower(values), pa.array(sorted(self.hashes), values.type)))
        return kept


def _lines(path: Path) -> Iterable[str]:
    try:
        return read_regular(path).decode("utf-8").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{path}: found bytes that are no text, expected a list in UTF-8") from None
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}; check pool.block") from None


def _is_text(values: pa.ChunkedArray) -> bool:
    return pa.types.is_string(values.type) or pa.types.is_large_string(values.type)


def _true(mask: pa.ChunkedArray) -> np.ndarray:
    return np.asarray(pc.fill_null(mask, False).to_numpy())
