"""Templates: sentences with slots, and the order in which a class uses them; pure.

In: templates such as "{name}, {ink} ink on {paper} paper", the words of each slot but `name`, the run seed, a class id.
Out: every combination of template and words exactly once, in an order of the class's own. On disk: templates.txt, the
80 that ship with the project, one a line.

Where all templates have the same slots, every prefix of that order uses each template, and each word of each slot,
within one of equally often. It walks diagonals: over lists of m1, m2, ... items the step (1, 1, ...) visits
lcm(m1, m2, ...) combinations before it returns, and uses all items of each list evenly on the way; the other
combinations are shifted copies of that walk. Each class shuffles its lists and its shifts, by hashes, so that no change
of a library's random numbers moves a prompt.
"""

import hashlib
import math
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

_SLOT = re.compile(r"\{([a-z][a-z0-9_]*)\}")
_KEY = struct.Struct(">4q")


def builtin_templates() -> tuple[str, ...]:
    """The 80 templates that ship with the project: ways of taking a photo, conditions, and renditions."""
    return tuple((Path(__file__).parent / "templates.txt").read_text(encoding="utf-8").splitlines())


@cache
def slots_of(template: str) -> tuple[str, ...]:
    """Slot names in order of first use. Raises ValueError for a brace that belongs to no slot."""
    if set("{}") & set(_SLOT.sub("", template)):
        raise ValueError(f"template {ascii(template)[:80]}: found a stray brace, expected slots such as {{name}} only")
    return tuple(dict.fromkeys(_SLOT.findall(template)))


def fill(template: str, fillings: Mapping[str, str]) -> str:
    """Each slot is replaced once; what is filled in is never looked at again, so braces in a name stay braces."""
    return _SLOT.sub(lambda slot: fillings[slot[1]], template)


@dataclass(frozen=True)
class _Family:
    """Templates that have the same slots, and the words of those slots. Dimension 0 is the template."""

    templates: tuple[str, ...]
    slots: tuple[str, ...]
    words: tuple[tuple[str, ...], ...]

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        return (len(self.templates), *(len(words) for words in self.words))

    @cached_property
    def period(self) -> int:
        """Combinations on one diagonal."""
        return math.lcm(*self.sizes)

    @property
    def num_diagonals(self) -> int:
        return math.prod(self.sizes) // self.period

    def shifts(self, diagonal: int) -> list[int]:
        """Where diagonal number 0 .. num_diagonals - 1 starts: one start from each coset of the step (1, 1, ...)."""
        starts, lcm = [], 1
        for size in self.sizes:
            diagonal, start = divmod(diagonal, math.gcd(lcm, size))
            starts.append(start)
            lcm = math.lcm(lcm, size)
        return starts

    def draw(self, seed: int, class_id: int, salt: int) -> Iterator[tuple[str, dict[str, str]]]:
        """All combinations, (template, word of each slot), in the class's own order."""
        orders = [_shuffled(size, seed, class_id, salt + (index << 32)) for index, size in enumerate(self.sizes)]
        count = self.num_diagonals
        offset, stride = _hash(seed, class_id, salt, -1) % count, _hash(seed, class_id, salt, -2) % count
        while math.gcd(stride, count) != 1:
            stride += 1
        for number in range(count):
            shifts = self.shifts((offset + number * stride) % count)
            for step in range(self.period):
                template, *picks = (
                    order[(shift + step) % len(order)] for order, shift in zip(orders, shifts, strict=True)
                )
                words = {slot: words[pick] for slot, words, pick in zip(self.slots, self.words, picks, strict=True)}
                yield self.templates[template], words


def _hash(seed: int, class_id: int, salt: int, index: int) -> int:
    message = _KEY.pack(seed, class_id, salt, index)
    return int.from_bytes(hashlib.blake2b(message, digest_size=8, person=b"sixfold prompt").digest(), "big")


def _shuffled(size: int, seed: int, class_id: int, salt: int) -> list[int]:
    return sorted(range(size), key=lambda index: _hash(seed, class_id, salt, index))


@dataclass(frozen=True)
class Wordings:
    """All templates of a recipe with the words of their slots."""

    families: tuple[_Family, ...]

    @staticmethod
    def of(templates: Sequence[str], parts: Mapping[str, Sequence[str]]) -> "Wordings":
        """`parts` holds the words of every slot but `name`."""
        by_slots: dict[tuple[str, ...], list[str]] = {}
        for template in templates:
            by_slots.setdefault(tuple(sorted(set(slots_of(template)) - {"name"})), []).append(template)
        families = [
            _Family(tuple(alike), slots, tuple(tuple(parts[slot]) for slot in slots))
            for slots, alike in by_slots.items()
        ]
        return Wordings(tuple(families))

    @property
    def num_combinations(self) -> int:
        return sum(math.prod(family.sizes) for family in self.families)

    def draw(self, seed: int, class_id: int) -> Iterator[tuple[str, dict[str, str]]]:
        """Every combination once, as (template, word of each slot).

        Families take turns, as often as each has templates, until they are used up.
        """
        draws = [family.draw(seed, class_id, salt) for salt, family in enumerate(self.families, 1)]
        turns = [index for index, family in enumerate(self.families) for _ in family.templates]
        if len(draws) > 1:
            turns = [turns[place] for place in _shuffled(len(turns), seed, class_id, 0)]
        done: set[int] = set()
        while len(done) < len(draws):
            for turn in turns:
                drawn = next(draws[turn], None)
                if drawn is None:
                    done.add(turn)
                else:
                    yield drawn
