"""Counts right answers on labelled pictures: at top 1 and at top 5, by class, and at top 1 picture by picture.

In: scores of a model, labels, an `AnswerKey` that says which outputs are right. Out: `Counts`. On disk: nothing.

Every sample is counted exactly once, whatever the batch, the number of ranks and the threads: a rank reads each
world-th batch, padding is masked, and counts are integers, added over the ranks. So is the answer on each picture,
right or wrong, at its place in the set's index: two models that saw one set are compared picture by picture.

A label's place among the scores is the number of competing outputs with a higher score, plus those with an equal score
and a lower number. The label is right at top k if its place is below k. So ties have one outcome on every machine, and
a model that gives all classes the same score is right for class 0 only. Scores that are not finite are wrong, and are
counted apart.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

TOP = 5
WRONG, RIGHT = 1, 2  # answers; 0: not counted

Int64: TypeAlias = npt.NDArray[np.int64]
Int8: TypeAlias = npt.NDArray[np.int8]
Floats: TypeAlias = npt.NDArray[np.floating[Any]]
Pixels: TypeAlias = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class AnswerKey:
    """Of a set: which outputs compete, and which of them are right for each of its class ids."""

    accepted: Mapping[int, tuple[int, ...]]  # class id of the set -> outputs
    competes_C: npt.NDArray[np.bool_]

    @property
    def ids(self) -> tuple[int, ...]:
        """The class ids of the set for which some output is right, sorted."""
        return tuple(sorted(self.accepted))


@dataclass(frozen=True, eq=False)
class Counts:
    """The counts of one pass over a set. Arrays are by class, in the order of `ids`."""

    ids: tuple[int, ...]
    seen: Int64
    right: Int64  # at top 1
    right_top5: Int64
    not_finite: int
    left_out: int  # samples of classes that the model does not know
    # by sample, in the order of the set's index: RIGHT or WRONG at top 1, 0 if it was left out or is not read yet;
    # empty where a Task keeps no answers
    answers: Int8 = field(default_factory=lambda: np.zeros(0, np.int8))

    @staticmethod
    def none(ids: Sequence[int], num_samples: int) -> "Counts":
        """Counts of zero for a set of `num_samples`, to add to."""
        zeros = np.zeros(len(ids), np.int64)
        return Counts(tuple(ids), zeros, zeros, zeros, 0, 0, np.zeros(num_samples, np.int8))

    def placed(self, rows_N: Int64, num_samples: int) -> "Counts":
        """These counts of a batch, with its N answers at their rows in the index of a set of `num_samples`."""
        answers = np.zeros(num_samples, np.int8)
        answers[rows_N] = self.answers
        return replace(self, answers=answers)

    @property
    def n(self) -> int:
        """Samples counted, without those that were left out."""
        return int(self.seen.sum())

    @property
    def top1(self) -> float:
        """The share of samples that are right at top 1."""
        return int(self.right.sum()) / self.n

    @property
    def top5(self) -> float:
        """The share of samples that are right at top 5."""
        return int(self.right_top5.sum()) / self.n

    @property
    def right_pictures(self) -> npt.NDArray[np.bool_] | None:
        """Of the n samples that count, in the order of the set's index: which are right at top 1. None: not kept."""
        return self.answers[self.answers != 0] == RIGHT if len(self.answers) else None

    def as_array(self) -> Int64:
        """All counts and answers in one vector, so that ranks can add them up."""
        two = [self.not_finite, self.left_out]
        return np.concatenate([self.seen, self.right, self.right_top5, two, self.answers]).astype(np.int64)

    def from_array(self, array: Int64) -> "Counts":
        """The counts in a vector of `as_array`, for the same class ids."""
        end = 3 * len(self.ids)
        seen, right, right_top5 = array[:end].reshape(3, len(self.ids))
        two, answers = array[end : end + 2], array[end + 2 :]
        return Counts(self.ids, seen, right, right_top5, int(two[0]), int(two[1]), answers.astype(np.int8))

    def __add__(self, other: "Counts") -> "Counts":
        assert self.ids == other.ids, "counts of one set are added"
        return Counts(
            self.ids,
            self.seen + other.seen,
            self.right + other.right,
            self.right_top5 + other.right_top5,
            self.not_finite + other.not_finite,
            self.left_out + other.left_out,
            self.answers + other.answers,
        )


def count(scores_NC: Floats, labels_N: Int64, key: AnswerKey) -> Counts:
    """The counts of one batch: scores of N samples for C outputs, and labels, which are the set's class ids."""
    ids = np.array(key.ids, np.int64)
    known_N = np.isin(labels_N, ids)
    scores, labels = scores_NC[known_N], labels_N[known_N]
    finite = np.isfinite(scores[:, key.competes_C]).all(axis=1)
    competing = np.where(key.competes_C, scores, -np.inf)
    width = max(len(outputs) for outputs in key.accepted.values())
    # shorter rows are filled with their own first output: naming it twice changes nothing
    table = np.array([outputs + outputs[:1] * (width - len(outputs)) for _, outputs in sorted(key.accepted.items())])
    of_class = np.searchsorted(ids, labels)
    numbers = np.arange(scores.shape[1])
    place = np.full(len(labels), scores.shape[1])
    for column in range(width):
        output = table[of_class, column][:, None]
        own = np.take_along_axis(competing, output, axis=1)
        ahead = (competing > own) | ((competing == own) & (numbers < output) & key.competes_C)
        place = np.minimum(place, ahead.sum(axis=1))

    answers = np.zeros(len(labels_N), np.int8)
    answers[known_N] = np.where(finite & (place < 1), RIGHT, WRONG)

    def by_class(chosen: npt.NDArray[np.bool_]) -> Int64:
        return np.bincount(of_class[chosen], minlength=len(ids)).astype(np.int64)

    return Counts(
        key.ids,
        by_class(np.ones(len(labels), bool)),
        by_class(finite & (place < 1)),
        by_class(finite & (place < TOP)),
        int((~finite).sum()),
        int((~known_N).sum()),
        answers,
    )


class LabelledBatch(Protocol):
    """A batch of a test set, as `shards.stream` reads it."""

    @property
    def images(self) -> Pixels:
        """Pictures, N H W C."""

    @property
    def labels(self) -> Int64:
        """Class ids, N."""

    @property
    def valid(self) -> npt.NDArray[np.bool_]:
        """Which of the N are samples; the others are padding."""


def count_batches(
    batches: Iterable[LabelledBatch],
    scores: Callable[[Pixels], Sequence[Floats]],
    key: AnswerKey,
    num_samples: int,
    rank: int = 0,
    world: int = 1,
    num_ways: int = 1,
) -> list[Counts]:
    """The counts of one pass over a set of `num_samples`, for each of `num_ways` to score: `scores` gives, way by way,
    C numbers for each picture of a batch, padding included.

    `batches` are those that `shards.stream.read_all` gives to this rank: the batches rank, rank + world, ... of the
    set's index, equally wide, padded at the end.
    """
    totals = [Counts.none(key.ids, num_samples)] * num_ways
    for number, batch in enumerate(batches):
        rows = (number * world + rank) * len(batch.valid) + np.flatnonzero(batch.valid)
        labels = batch.labels[batch.valid].astype(np.int64)
        found = [count(one[batch.valid], labels, key).placed(rows, num_samples) for one in scores(batch.images)]
        totals = [total + one for total, one in zip(totals, found, strict=True)]
    return totals
