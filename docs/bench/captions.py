"""C9: search by caption: all class names in all captions, beside what people search with today.

In: made-up captions and ImageNet's class names. Out: captions a CPU second of our three meanings of "names the class",
of pyahocorasick (caption by caption), of SQLite's full-text search with the building of its index, of Python's `re`;
whether they find the same. On disk: nothing.

pyahocorasick is no dependency: without it its line is missing, and the table says so.
"""

import contextlib
import importlib.util
import random
import re
import sqlite3
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pyarrow as pa

from docs.bench.measure import Line, Result, Side, Size, Verdict, alternate
from retrieve.captions.queries import clauses_of
from retrieve.captions.search import CaptionSearch
from retrieve.captions.spec import CaptionSpec, Semantics
from retrieve.pool.pool import BATCH_ROWS
from shards.labels.classes import Class, ClassSpec, load_classes

SEED = 9
FEW = 49  # `re` sees one caption of so many
PER_CAPTION, FTS, RE = "pyahocorasick, caption by caption", "SQLite FTS5, index and queries", "Python re, alternation"
Pairs = set[tuple[int, int]]  # (caption, class)


def measure(size: Size) -> Result:
    num = 40 * FEW if size.quick else 500_000
    classes = distinct_names()
    captions = captions_of(num, classes)
    table = pa.array(captions)
    found: dict[str, Pairs] = {}
    sides = {_ours(match): _search(table, classes, match, found) for match in ("substring", "word", "phrase")}
    peer = _peer(captions, classes, found)
    sides |= {PER_CAPTION: peer} if peer is not None else {}
    sides |= {FTS: _full_text(captions, classes, found), RE: _alternation(captions[::FEW], classes, found)}
    timed = alternate(sides, size)
    rates = {name: tuple(1e-3 / ms for ms in one.cpu_ms) for name, one in timed.items()}
    middle = {name: statistics.median(rate) for name, rate in rates.items()}
    ours = {match: _ours(match) for match in ("substring", "phrase")}
    seen = {caption for caption, _ in found[ours["substring"]] if caption % FEW == 0}
    verdicts = [
        *_beside_peer(size, middle, found),
        size.judge(
            "as phrases: the pairs that FTS5 finds",
            f"{len(found[ours['phrase']]):,} and {len(found[FTS]):,}",
            found[ours["phrase"]] == found[FTS],
        ),
        size.judge(
            "as substrings: the captions in which `re` finds a name",
            f"{len(seen):,} and {len(found[RE]):,}",
            seen == {place for place, _ in found[RE]},
        ),
    ]
    megabytes = sum(len(one.encode()) for one in captions) / 1e6
    return Result(
        title=f"{len(classes)} class names in {num:,} captions",
        method=f"made-up captions of {megabytes / num * 1e6:.0f} bytes on average, {megabytes:.1f} MB, one in nine not "
        "ASCII; one thread. FTS5 builds its index in memory and answers one query a class. `re` sees one caption in "
        f"{FEW}, one alternation of all names.",
        anchor="pyahocorasick 0.84 M captions/s a core, ahocorasick_rs over one text 4.3 M, FTS5 0.25 M to build; "
        "LAION-2B has 2.3 billion captions, longer ones",
        predicted="3 M captions/s as substrings, 2 M as phrases",
        lines=[
            Line(name, {"M captions/CPU s": rate, "matches, thousands": (len(found[name]) / 1e3,)})
            for name, rate in rates.items()
        ],
        ratio_of="M captions/CPU s",
        verdicts=verdicts,
    )


def _beside_peer(size: Size, middle: dict[str, float], found: dict[str, Pairs]) -> list[Verdict]:
    if PER_CAPTION not in middle:
        return [Verdict("at least twice pyahocorasick", "it is not installed: nothing to compare with", None)]
    name = _ours("substring")
    ratio = middle[name] / middle[PER_CAPTION]
    return [
        size.judge("as substrings: at least twice pyahocorasick", f"{ratio:.2f}x", ratio >= 2),
        size.judge(
            "as substrings: the pairs that pyahocorasick finds",
            f"{len(found[name]):,} and {len(found[PER_CAPTION]):,}",
            found[name] == found[PER_CAPTION],
        ),
    ]


def _ours(match: Semantics) -> str:
    return f"sixfold, as {match}s"


def distinct_names() -> list[Class]:
    """ImageNet's classes, one a name: peers keep a name once."""
    classes = load_classes(ClassSpec(source="imagenet-1k", per_class=1))
    return list({one.name.lower(): one for one in classes}.values())


def captions_of(num: int, classes: Sequence[Class]) -> list[str]:
    """Words of Python's manual; one caption in five names a class, one in nine has a letter beyond ASCII."""
    rng = random.Random(SEED)
    words = re.findall(r"[a-z]{2,}", " ".join(topics.values()))
    captions = []
    for place in range(num):
        first = rng.randrange(len(words) - 9)
        said = words[first : first + rng.randint(5, 9)]
        if place % 5 == 0:
            said.insert(rng.randrange(len(said)), rng.choice(classes).name)
        if place % 9 == 0:
            said.insert(rng.randrange(len(said)), "décor –")
        captions.append(" ".join(said).capitalize())
    return captions


def _search(captions: pa.Array, classes: Sequence[Class], match: Semantics, found: dict[str, Pairs]) -> Side:
    def run(folder: Path) -> int:
        search = CaptionSearch(clauses_of(classes, CaptionSpec(match=match)), match)
        parts = []
        for first in range(0, len(captions), BATCH_ROWS):
            ids, places = search.find(captions.slice(first, BATCH_ROWS))
            parts.append((places + first, ids))
        if _ours(match) not in found:  # in the turn that is not measured
            found[_ours(match)] = {
                pair for places, ids in parts for pair in zip(places.tolist(), ids.tolist(), strict=True)
            }
        return len(captions)

    return run


def _peer(captions: Sequence[str], classes: Sequence[Class], found: dict[str, Pairs]) -> Side | None:
    """Keeps what was found as lists of pairs, as a program would that writes them down."""
    if importlib.util.find_spec("ahocorasick") is None:
        return None
    library: Any = importlib.import_module("ahocorasick")

    def run(folder: Path) -> int:
        automaton = library.Automaton()
        for one in classes:
            automaton.add_word(one.name.lower(), one.id)
        automaton.make_automaton()
        pairs: list[tuple[int, int]] = []
        for place, caption in enumerate(captions):
            seen = {class_id for _, class_id in automaton.iter(caption.lower())}
            pairs.extend((place, class_id) for class_id in seen)
        found.setdefault(PER_CAPTION, set(pairs))
        return len(captions)

    return run


def _full_text(captions: Sequence[str], classes: Sequence[Class], found: dict[str, Pairs]) -> Side:
    def run(folder: Path) -> int:
        with contextlib.closing(sqlite3.connect(":memory:")) as database:
            database.execute("CREATE VIRTUAL TABLE samples USING fts5(caption)")
            database.executemany("INSERT INTO samples(rowid, caption) VALUES (?, ?)", enumerate(captions))
            find = "SELECT rowid FROM samples WHERE samples MATCH ?"
            pairs = [(row, one.id) for one in classes for (row,) in database.execute(find, (_match(one.name),))]
        found.setdefault(FTS, set(pairs))
        return len(captions)

    return run


def _match(name: str) -> str:
    """As the released code of Unmet Promise asks; quoted, so that every name parses."""
    words = [name] if "-" in name or "/" in name else name.split()
    return " ".join('"{}"'.format(word.replace('"', '""')) for word in words)


def _alternation(captions: Sequence[str], classes: Sequence[Class], found: dict[str, Pairs]) -> Side:
    search: Callable[[str], Any] = re.compile("|".join(re.escape(one.name.lower()) for one in classes)).search

    def run(folder: Path) -> int:
        places = [place for place, caption in enumerate(captions) if search(caption.lower())]
        found.setdefault(RE, {(place * FEW, 0) for place in places})
        return len(captions)

    return run
