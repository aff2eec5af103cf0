"""Which classes a model takes for which: counts of one pass over a set, and what a page shows of them.

In: scores and labels, batch after batch, and the `AnswerKey` of the set. Out: a `Confusion`: of each class, how often
which output came first. On disk: nothing. It is sparse: 1,000 classes of 50 pictures need 50,000 numbers at most.

The first output is that of `train.evaluate.evaluate.count`: of equal scores the lower output. Pictures whose scores are
not finite have no answer here.
"""

import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from shards.disk.safe_text import visible
from train.evaluate.counts import AnswerKey, Counts, Floats, Int64

MAX_PAIRS = 40  # on a page
MAX_MATRIX = 30  # rows and columns; more cannot be read
LONGEST_ROW, LONGEST_COLUMN = 30, 22  # characters of a name beside and above the square
COLUMN_LETTER_PX = 6.0  # wide, about; the names above the columns lean by 55 degrees: sine 0.82, cosine 0.57
OTHERS = "any other"  # what stands above the last column


@dataclass(frozen=True)
class Pair:
    """Pictures of a class that were taken for another."""

    class_id: int  # of the set
    output: int
    count: int
    of: int  # pictures of the class with an answer


@dataclass(eq=False)
class Confusion:
    """The first output of every picture, by class."""

    key: AnswerKey
    first: Counter[tuple[int, int]] = field(default_factory=Counter)  # (class id of the set, output) -> pictures

    def add(self, scores_NC: Floats, labels_N: Int64) -> None:
        """Count one batch."""
        known = np.isin(labels_N, np.array(self.key.ids, np.int64))
        scores, labels = scores_NC[known], labels_N[known]
        finite = np.isfinite(scores[:, self.key.competes_C]).all(axis=1)
        best = np.where(self.key.competes_C, scores, -np.inf)[finite].argmax(axis=1)
        self.first.update(zip(labels[finite].tolist(), best.tolist(), strict=True))

    @property
    def answered(self) -> Counter[int]:
        """Class id -> pictures with an answer."""
        found: Counter[int] = Counter()
        for (class_id, _), count in self.first.items():
            found[class_id] += count
        return found

    def wrong(self) -> list[Pair]:
        """Every pair that was confused, the most frequent first."""
        of = self.answered
        pairs = [
            Pair(class_id, output, count, of[class_id])
            for (class_id, output), count in self.first.items()
            if output not in self.key.accepted[class_id]
        ]
        return sorted(pairs, key=lambda pair: (-pair.count, -pair.count / pair.of, pair.class_id, pair.output))


# what a page shows


@dataclass(frozen=True)
class Cell:
    """How often one output came first for the pictures of a row."""

    at: int  # column; the last one stands for all other outputs
    count: int
    share: float  # of the row's pictures
    tone: str
    what: str


@dataclass(frozen=True)
class MatrixRow:
    name: str
    cells: tuple[Cell, ...]

    @property
    def label(self) -> str:
        """The name as it stands beside the square."""
        return _label(self.name, LONGEST_ROW)


@dataclass(frozen=True)
class Matrix:
    """A square of classes; `num` of the `of` that the set has."""

    rows: tuple[MatrixRow, ...]
    columns: tuple[str, ...]
    num: int
    of: int

    @property
    def labels(self) -> tuple[str, ...]:
        """What stands above the columns, the one for all other outputs included."""
        return *(_label(name, LONGEST_COLUMN) for name in self.columns), OTHERS

    @property
    def left_px(self) -> int:
        """Where the cells begin, beside the longest name of a row."""
        return 24 + 7 * max(_width(row.label) for row in self.rows)

    @property
    def top_px(self) -> int:
        """Where the rows begin, below the longest name of a column, which leans."""
        return 16 + round(COLUMN_LETTER_PX * 0.82 * self._longest_column)

    @property
    def right_px(self) -> int:
        """Room beside the last column for the longest name, which leans over it."""
        return 12 + round(COLUMN_LETTER_PX * 0.57 * self._longest_column)

    @property
    def _longest_column(self) -> int:
        return max(map(_width, self.labels))


@dataclass(frozen=True)
class PairRow:
    name: str
    taken_for: str
    count: int
    of: int
    percent: float


@dataclass(frozen=True)
class ClassRow:
    """One class of a set; shares in per cent."""

    name: str
    seen: int
    right: int
    top1: float
    top5: float


Name = Callable[[int], str]


def _width(label: str) -> int:
    """In letters; those of East Asian scripts are twice as wide."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in label)


def _label(name: str, longest: int) -> str:
    """``"a class with … (12)"``: a long name without its middle, because its end tells it from others."""
    name = visible(name)
    return name if len(name) <= longest else f"{name[: longest - 7]}…{name[-6:]}"


def matrix_of(confusion: Confusion, row_name: Name, output_name: Name) -> Matrix:
    """The square of the classes that are confused most, in the order of their ids."""
    ids, of, accepted = _most_confused(confusion), confusion.answered, confusion.key.accepted
    columns = list(dict.fromkeys(accepted[class_id][0] for class_id in ids))  # two classes may have one output
    rows = []
    for class_id in ids:
        counts = [confusion.first[class_id, output] for output in columns]
        counts.append(of[class_id] - sum(counts))
        cells = tuple(
            Cell(
                at,
                count,
                round(count / of[class_id], 3),
                "good" if at < len(columns) and columns[at] in accepted[class_id] else "lost",
                output_name(columns[at]) if at < len(columns) else OTHERS,
            )
            for at, count in enumerate(counts)
            if count
        )
        rows.append(MatrixRow(row_name(class_id), cells))
    return Matrix(tuple(rows), tuple(map(output_name, columns)), len(ids), len(confusion.key.ids))


def _most_confused(confusion: Confusion) -> tuple[int, ...]:
    ids = confusion.key.ids
    if len(ids) <= MAX_MATRIX:
        return ids
    owner = {outputs[0]: class_id for class_id, outputs in confusion.key.accepted.items()}
    involved: Counter[int] = Counter()
    for pair in confusion.wrong():
        involved[pair.class_id] += pair.count
        if pair.output in owner:
            involved[owner[pair.output]] += pair.count
    return tuple(sorted(class_id for class_id, _ in involved.most_common(MAX_MATRIX)))


def pair_rows(confusion: Confusion, row_name: Name, output_name: Name) -> tuple[list[PairRow], int]:
    """The most confused pairs, and how many there are."""
    wrong = confusion.wrong()
    rows = [
        PairRow(
            row_name(pair.class_id),
            output_name(pair.output),
            pair.count,
            pair.of,
            round(100 * pair.count / pair.of, 1),
        )
        for pair in wrong[:MAX_PAIRS]
    ]
    return rows, len(wrong)


def worst_first(counts: Counts, names: Mapping[int, str]) -> list[ClassRow]:
    """The classes that have pictures, the lowest share first."""
    by_class = zip(counts.ids, counts.seen.tolist(), counts.right.tolist(), counts.right_top5.tolist(), strict=True)
    rows = [
        ClassRow(names[class_id], seen, right, round(100 * right / seen, 1), round(100 * five / seen, 1))
        for class_id, seen, right, five in by_class
        if seen
    ]
    return sorted(rows, key=lambda row: (row.top1, row.name))
