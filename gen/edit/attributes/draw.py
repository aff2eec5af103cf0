"""Draws: which attribute each edit of a source image gets; pure.

In: the attributes of a class, the run seed, the source's place among the sources of its class, the number of the draw.
Out: one `Attribute`. On disk: nothing.

Draw k of a source is a function of (seed, class, source, k) alone, so more draws or more sources change none.

Cells take turns: a cell is one kind of attribute on one side, and draw k of source s is of cell (s + k) mod C. Sides
alternate, infeasible first: every prefix of a class's samples has both half and half, within one, and whole folds of an
odd number have one infeasible more.

Within a cell of A attributes, a source gets each once before any a second time. All sources of a class together use
each about equally often: the sources are cut into blocks of A, and a block is a Latin square. Its first row is a
shuffle, and the next rows are shifted by 0..A-1 in bit-reversed order, so that a part of a block is spread, too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from gen.edit.attributes.attribute import Attribute
from gen.wording.templates import class_rng, shuffled

# The salt of a shuffle has room for 16 cells, 16 streams and 2^48 blocks; prompts use small salts.
_SALT, _CELL, _STREAM = 1 << 60, 1 << 52, 1 << 48
MAX_CELLS = 16


@dataclass(frozen=True)
class ClassAttributes:
    """What the edits of a class are drawn from."""

    class_id: int
    cells: tuple[tuple[Attribute, ...], ...]  # one a kind and side, none empty; in the order of their turns

    def __post_init__(self) -> None:
        if not 1 <= len(self.cells) <= MAX_CELLS or not all(self.cells):
            sizes = ", ".join(str(len(cell)) for cell in self.cells) or "none"
            raise ValueError(
                f"attributes of class {self.class_id}: found cells of {sizes}, expected 1 to {MAX_CELLS} of them, none "
                "empty; gather them again"
            )


def draw_attributes(of: ClassAttributes, seed: int, source: int, count: int) -> list[Attribute]:
    """The attributes of draws 0..count-1 of a source (`draw_attribute`)."""
    return [draw_attribute(of, seed, source, draw) for draw in range(count)]


def draw_attribute(of: ClassAttributes, seed: int, source: int, draw: int) -> Attribute:
    """The attribute of one edit.

    `source`: the source's place, from 0, among the sources of its class, in an order that does not change. `draw`: the
    number of the edit, from 0.
    """
    if source < 0 or draw < 0:
        raise ValueError(f"found source {source} and draw {draw}, expected numbers from 0")
    num_cells = len(of.cells)
    cell, stream = (source + draw) % num_cells, source % num_cells
    attributes = of.cells[cell]
    block, column = divmod(source // num_cells, len(attributes))
    order = _order(len(attributes), seed, of.class_id, _SALT + _CELL * cell + _STREAM * stream + block)
    shift = _shifts(len(attributes))[draw // num_cells % len(attributes)]
    return attributes[order[(column + shift) % len(attributes)]]


def most_apart(of: ClassAttributes) -> int:
    """How far apart the uses of two attributes of one cell can be, in any prefix of a class's samples.

    The samples stand in order of draw and then source, or of source and then draw. For each cell that takes turns, the
    bound is 1 + the bits of A - 1: 7 for 40 attributes of one kind and side, however many images there are.
    """
    return len(of.cells) * max(1 + (len(attributes) - 1).bit_length() for attributes in of.cells)


@lru_cache(maxsize=4096)
def _order(size: int, seed: int, class_id: int, salt: int) -> Sequence[int]:
    return tuple(shuffled(range(size), class_rng(seed, class_id, salt)))


@lru_cache(maxsize=512)
def _shifts(size: int) -> Sequence[int]:
    """0..size-1 by their bits from the last to the first: 0, 4, 2, 6, 1, 5, 3, 7. Every stretch of it is spread out."""
    num_bits = (size - 1).bit_length()
    return tuple(sorted(range(size), key=lambda number: f"{number:0{num_bits}b}"[::-1]))
