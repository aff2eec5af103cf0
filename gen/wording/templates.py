"""Templates: sentences with slots, and the combinations of template and words that a class uses; pure.

In: templates such as "{name}, {ink} ink on {paper} paper", the words of each slot but the name's, the run seed, a class
id. Out: distinct combinations of template and words, in an order of the class's own. On disk: templates.txt, the 80
that ship with the project, one a line.

Templates with the same slots form a family. In every prefix of a class's combinations, a family uses each of its
templates, and each word of each slot, equally often, within one.
"""

import hashlib
import math
import random
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import cycle
from pathlib import Path
from typing import TypeVar

from shards.disk.safe_text import quoted

_SLOT = re.compile(r"\{([a-z][a-z0-9_]*)\}")
_KEY = struct.Struct(">3q")

Item = TypeVar("Item")


def builtin_templates() -> tuple[str, ...]:
    """The 80 templates that ship with the project: ways of taking a photo, conditions, and renditions."""
    return tuple((Path(__file__).parent / "templates.txt").read_text(encoding="utf-8").splitlines())


@cache
def slots_of(template: str) -> tuple[str, ...]:
    """The names of a template's slots, in the order of their first use. Raises ValueError for any other brace."""
    if set("{}") & set(_SLOT.sub("", template)):
        raise ValueError(f"template {quoted(template, 80)}: found a stray brace, expected slots such as {{name}} only")
    return tuple(dict.fromkeys(_SLOT.findall(template)))


def fill(template: str, fillings: Mapping[str, str]) -> str:
    """The template with its slots filled. Each slot is replaced once, so braces in a filling stay as they are."""
    return _SLOT.sub(lambda slot: fillings[slot[1]], template)


@dataclass(frozen=True)
class _Family:
    """Templates that have the same slots, and the words of those slots."""

    templates: tuple[str, ...]
    slots: tuple[str, ...]
    words: tuple[tuple[str, ...], ...]

    @property
    def sizes(self) -> list[int]:
        """How many templates there are, then how many words each slot has."""
        return [len(self.templates), *map(len, self.words)]

    def draw(self, count: int, rng: random.Random) -> Iterator[tuple[str, dict[str, str]]]:
        """`count` distinct combinations, with templates and words used evenly."""
        for template, *picks in draw_evenly(self.sizes, count, rng):
            words = {slot: words[pick] for slot, words, pick in zip(self.slots, self.words, picks, strict=True)}
            yield self.templates[template], words


@dataclass(frozen=True)
class Wordings:
    """All templates of a recipe with the words of their slots."""

    families: tuple[_Family, ...]

    @staticmethod
    def of(templates: Sequence[str], parts: Mapping[str, Sequence[str]]) -> "Wordings":
        """The templates, sorted into families; `parts` holds the words of every slot but `name`."""
        by_slots: dict[tuple[str, ...], list[str]] = {}
        for template in templates:
            by_slots.setdefault(tuple(sorted(set(slots_of(template)) - {"name", "subject"})), []).append(template)
        families = [
            _Family(tuple(alike), slots, tuple(tuple(parts[slot]) for slot in slots))
            for slots, alike in by_slots.items()
        ]
        return Wordings(tuple(families))

    @property
    def num_combinations(self) -> int:
        """How many distinct combinations a class can have."""
        return sum(math.prod(family.sizes) for family in self.families)

    def draw(self, seed: int, class_id: int, count: int) -> Iterator[tuple[str, dict[str, str]]]:
        """`count` distinct combinations, as (template, word of each slot); fewer if there are no more.

        Families take turns, each as often as it has templates, until they are used up.
        """
        rng = class_rng(seed, class_id, 0)
        every_turn = [index for index, family in enumerate(self.families) for _ in family.templates]
        left = [math.prod(family.sizes) for family in self.families]
        turns: list[int] = []
        for turn in cycle(shuffled(every_turn, rng)):
            if len(turns) == count or not any(left):
                break
            if left[turn]:
                left[turn] -= 1
                turns.append(turn)
        draws = [
            family.draw(turns.count(index), class_rng(seed, class_id, index + 1))
            for index, family in enumerate(self.families)
        ]
        for turn in turns:
            yield next(draws[turn])


def draw_evenly(sizes: Sequence[int], count: int, rng: random.Random) -> list[tuple[int, ...]]:
    """`count` distinct rows; in every prefix column s has each number of range(sizes[s]) equally often, within one.

    Each column is a chain of shuffles of its range, so it is even, and independent of the others. A row that occurs
    twice exchanges one entry with another row of the same shuffle. If more than half of all rows are asked for, such
    exchanges are hard to find, and the rows follow diagonals instead.
    """
    if 2 * count <= math.prod(sizes):
        rows = _chain_shuffles(sizes, count, rng)
        if rows is not None:
            return rows
    return _walk_diagonals(sizes, count, rng)


def _chain_shuffles(sizes: Sequence[int], count: int, rng: random.Random) -> list[tuple[int, ...]] | None:
    columns: list[list[int]] = []
    for size in sizes:
        columns.append([])
        while len(columns[-1]) < count:
            columns[-1] += shuffled(range(size), rng)
    rows = list(zip(*(column[:count] for column in columns), strict=True))
    seen: set[tuple[int, ...]] = set()
    for index in range(count):
        if rows[index] in seen and not _exchange(rows, index, sizes, columns, seen):
            return None
        seen.add(rows[index])
    return rows


def _exchange(
    rows: list[tuple[int, ...]],
    index: int,
    sizes: Sequence[int],
    columns: list[list[int]],
    seen: set[tuple[int, ...]],
) -> bool:
    """Make row `index` distinct: exchange one entry with a later row of the same shuffle. False if none helps."""
    for place, size in enumerate(sizes):
        column = columns[place]
        for other in range(index + 1, index - index % size + size):
            row = (*rows[index][:place], column[other], *rows[index][place + 1 :])
            if row not in seen:
                column[index], column[other] = column[other], column[index]
                rows[index] = row
                if other < len(rows):
                    rows[other] = tuple(column[other] for column in columns)
                return True
    return False


def _walk_diagonals(sizes: Sequence[int], count: int, rng: random.Random) -> list[tuple[int, ...]]:
    """From any row, steps of (1, 1, ...) visit lcm(sizes) rows before they return, and use every column evenly.

    The starts are one row of each coset of that step, so the diagonals together are all rows.
    """
    orders = [shuffled(range(size), rng) for size in sizes]
    period = math.lcm(*sizes)
    num_diagonals = math.prod(sizes) // period
    rows: list[tuple[int, ...]] = []
    for diagonal in shuffled(range(num_diagonals), rng):
        starts, lcm = [], 1
        for size in sizes:
            diagonal, start = divmod(diagonal, math.gcd(lcm, size))
            starts.append(start)
            lcm = math.lcm(lcm, size)
        for step in range(min(period, count - len(rows))):
            rows.append(tuple(order[(start + step) % len(order)] for order, start in zip(orders, starts, strict=True)))
        if len(rows) == count:
            break
    return rows


def class_rng(seed: int, class_id: int, salt: int) -> random.Random:
    """A random generator for one class and purpose. Call only `random()`: Python promises never to change it."""
    digest = hashlib.blake2b(_KEY.pack(seed, class_id, salt), digest_size=16, person=b"sixfold prompt").digest()
    return random.Random(int.from_bytes(digest, "big"))


def shuffled(items: Sequence[Item], rng: random.Random) -> list[Item]:
    """The items in random order, by `random()` alone, so that the order is the same in every version of Python."""
    keys = [rng.random() for _ in items]
    return [items[index] for index in sorted(range(len(items)), key=keys.__getitem__)]
