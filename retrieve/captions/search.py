"""The search by caption: all queries in one pass over the captions.

In: clauses, a pool. Out: a row for each (class, row of the pool) whose caption the class's query matches; a caption
that matches three classes is there three times. On disk: only reads.

All needles are searched for at once (Aho-Corasick) in many captions at once, joined into one text; a match is then
given to its caption by the places where captions begin, and thrown away if it crosses an end.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain

import ahocorasick_rs
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from retrieve.captions.fold import SPACED, folded, without_runs
from retrieve.captions.queries import Clause
from retrieve.captions.spec import Semantics
from retrieve.pool.pool import KEPT, ROW, Part, Pool

CLASS_ID = "class_id"
SCHEMA = pa.schema([(CLASS_ID, pa.int32()), (ROW, pa.int64())])
TEXT_BYTES = 4 << 20  # searched at once: bounds the matches that are held
BORDER_BYTES = 4  # the longest character


class CaptionSearch:
    """The needles of all classes, ready to be searched for. Used by one thread at a time."""

    def __init__(self, clauses: Sequence[Clause], match: Semantics) -> None:
        self._match = match
        names = list(dict.fromkeys(needle for clause in clauses for needle in clause.needles))
        number = {needle: place for place, needle in enumerate(names)}
        longest = max((len(clause.needles) for clause in clauses), default=1)
        padded = [[number[one] for one in clause.needles] for clause in clauses]
        # a clause's needles, its first one again where it has fewer than the longest
        self._needles = np.array(
            [one + one[:1] * (longest - len(one)) for one in padded], np.int64
        ).reshape(-1, longest)  # fmt: skip
        self._class_ids = np.array([clause.class_id for clause in clauses], np.int32)
        around = " " if match == "phrase" else ""
        self._automaton = ahocorasick_rs.BytesAhoCorasick(
            [f"{around}{name}{around}".encode() for name in names],
            matchkind=ahocorasick_rs.MatchKind.Standard,
            implementation=ahocorasick_rs.Implementation.DFA,
        )
        self._num_needles = len(names)

    def find(self, captions: pa.Array) -> tuple[np.ndarray, np.ndarray]:
        """(class ids int32, places in `captions` int64): each pair once, ordered by place, then by class."""
        captions = pc.fill_null(captions, "")
        plain = pc.string_is_ascii(captions).to_numpy(zero_copy_only=False)
        found = [(np.empty(0, np.int64), np.empty(0, np.int64))]
        for places, texts in _split(captions, plain):
            spelt = texts if self._match == "phrase" else pc.ascii_lower(texts)
            if not plain[places[0]]:
                spelt = folded(texts, spaced=self._match == "phrase")
            found += [(needles, places[at]) for needles, at in self._hits(spelt)]
        needles, at = (np.concatenate(column) for column in zip(*found, strict=True))
        return self._classes(needles, at, len(captions))

    def _hits(self, texts: pa.Array) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(needles, places in `texts`) of all matches, a stretch of the texts at a time."""
        ends = np.cumsum(pc.binary_length(texts).to_numpy().astype(np.int64))
        first = 0
        while first < len(texts):
            done = ends[first - 1] if first else 0
            after = max(first + 1, int(np.searchsorted(ends, done + TEXT_BYTES, side="right")))
            stretch = texts.slice(first, after - first)
            text, begins, stops = self._joined(stretch, ends[first:after] - done)
            needles, starts, finishes = self._matches(text)
            pad = int(self._match == "phrase")  # the space on each side of a needle
            at = np.searchsorted(begins, starts + pad, side="right") - 1
            inside = finishes - pad <= stops[at]
            if self._match == "word":
                inside[inside] = _between_borders(text, begins[at], stops[at], starts, finishes, inside)
            yield needles[inside], at[inside] + first
            first = after

    def _joined(self, texts: pa.Array, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The texts as one (uint8), a space before, between and after them; where each begins and ends."""
        whole = pa.ListArray.from_arrays(pa.array([0, len(texts) + 2], pa.int32()), _edged(texts))
        data = memoryview(pc.binary_join(whole, " ")[0].as_buffer())
        stops = ends + np.arange(1, len(ends) + 1)
        begins = np.concatenate([[1], stops[:-1] + 1])
        if self._match != "phrase":
            return np.frombuffer(data, np.uint8), begins, stops
        return without_runs(np.frombuffer(bytes(data).translate(SPACED), np.uint8), begins, stops)

    def _matches(self, text: np.ndarray) -> np.ndarray:
        """(needles, starts, ends) of every occurrence, int64 (3, matches)."""
        found = self._automaton.find_matches_as_indexes(text.data, overlapping=True)
        return np.fromiter(chain.from_iterable(found), np.int64, 3 * len(found)).reshape(-1, 3).T

    def _classes(self, needles: np.ndarray, places: np.ndarray, num: int) -> tuple[np.ndarray, np.ndarray]:
        """Of each clause its rarest needle says where it may match; there the others are looked for."""
        hits = _sorted_once(needles * num + places)  # (needle, place), ordered
        counts = np.bincount(hits // max(num, 1), minlength=self._num_needles)
        firsts = np.cumsum(counts) - counts
        clauses = np.arange(len(self._needles))
        pivots = self._needles[clauses, counts[self._needles].argmin(axis=1)] if len(clauses) else clauses
        owner = np.repeat(clauses, counts[pivots])
        within = np.arange(len(owner)) - np.repeat(np.cumsum(counts[pivots]) - counts[pivots], counts[pivots])
        at = hits[firsts[pivots][owner] + within] % max(num, 1)
        for column in self._needles.T:
            wanted = column[owner] * num + at
            there = np.minimum(np.searchsorted(hits, wanted), len(hits) - 1)
            holds = hits[there] == wanted
            owner, at = owner[holds], at[holds]
        ids = self._class_ids[owner].astype(np.int64)
        order = _sorted_once(at << 31 | ids)  # ids are below 2**31
        return (order & (2**31 - 1)).astype(np.int32), order >> 31


def find_in_part(
    pool: Pool, part: Part, search: CaptionSearch, tell: Callable[[int], None] = lambda done: None
) -> pa.Table:
    """`class_id`, `row` of all matches among the rows of a part that may leave, ordered by row, then by class.

    A unit of work: a part by itself, read a batch at a time; `tell` hears how many rows are done. Raises ValueError if
    the captions are no text, and what `tell` raises.
    """
    found, done = [SCHEMA.empty_table()], 0
    for table in pool.scan(part, ["caption"]):
        seen = len(table)
        table = table.filter(table[KEPT])
        rows = table[ROW].to_numpy()
        first = 0
        for chunk in table["caption"].chunks:
            class_ids, places = search.find(chunk)
            found.append(pa.table([class_ids, rows[first + places]], schema=SCHEMA))
            first += len(chunk)
        done += seen
        tell(done)
    return pa.concat_tables(found)


def find_in_pool(
    pool: Pool, search: CaptionSearch, progress: Callable[[int, int], None] = lambda done, of: None
) -> Iterator[pa.Table]:
    """The matches of each part in turn. `progress` is told the rows that are done, and of how many."""
    for part in pool.parts:
        yield find_in_part(pool, part, search)
        progress(part.first_row + part.num_rows, pool.num_rows)


def _split(captions: pa.Array, plain: np.ndarray) -> Iterator[tuple[np.ndarray, pa.Array]]:
    """ASCII and other captions apart, each with its places; what is empty is left out."""
    for mask in (plain, ~plain):
        if mask.any():
            yield np.flatnonzero(mask), captions if mask.all() else captions.filter(pa.array(mask))


def _sorted_once(values: np.ndarray) -> np.ndarray:
    """Each value once, ascending; four times as fast as np.unique, which hashes."""
    values = np.sort(values)
    return values[np.concatenate([[True], values[1:] != values[:-1]])[: len(values)]]


def _edged(texts: pa.Array) -> pa.Array:
    """An empty text before and after, so that a join puts a separator there."""
    empty = pa.array([""], texts.type)
    return pa.concat_arrays([empty, texts, empty])


IS_WORD = np.array([one < 128 and chr(one).isalnum() for one in range(256)])


def _between_borders(
    text: np.ndarray, begins: np.ndarray, stops: np.ndarray, starts: np.ndarray, ends: np.ndarray, asked: np.ndarray
) -> np.ndarray:
    """bool, for each match that `asked` names: neither a letter nor a digit stands directly before or after it."""
    begins, stops, starts, ends = begins[asked], stops[asked], starts[asked], ends[asked]
    before, after = text[starts - 1], text[ends]  # a separator at the edges
    free = ~(IS_WORD[before] | IS_WORD[after])
    for place in np.flatnonzero(free & ((before >= 128) | (after >= 128))):
        start, end = starts[place], ends[place]
        left = text[max(begins[place], start - BORDER_BYTES) : start].tobytes().decode("utf-8", "ignore")[-1:]
        right = text[end : min(stops[place], end + BORDER_BYTES)].tobytes().decode("utf-8", "ignore")[:1]
        free[place] = not (left.isalnum() or right.isalnum())
    return free
