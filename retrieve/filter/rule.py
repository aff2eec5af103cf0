"""Which candidates stay, and why the others go; pure: arrays in, a word for each candidate out.

In: candidates, of a data set or of a pool before anything is fetched, and a rule. Out: for each the word `KEPT`, or the
first of these reasons that holds, and of duplicates which one was preferred. On disk: nothing.

    no_score        its picture could not be read, or it has no vector
    low_score       its CLIP score is below the threshold of its class
    in_test_set     it is too like a picture of a test set
    duplicate       another one of the same bytes was preferred
    near_duplicate  another one of its group of near-duplicates was preferred
    over_cap        its class has enough

The threshold of a class is the strongest that is given: the share of its best, its own, the common one. All scores
count for the share, as in Unmet Promise, where test-set copies go after it too. Of a group the best score stays, then
the lowest id. The cap is the last, so that a class is as full as it can be; of equal scores at its edge the lowest ids
stay, so no class has more. At the edge of a share all equal scores stay.

Source: Unmet Promise (arXiv 2406.05184), its program clip_filter_and_dedup.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

KEPT = "kept"
NO_SCORE, LOW_SCORE, IN_TEST_SET = "no_score", "low_score", "in_test_set"
DUPLICATE, NEAR_DUPLICATE, OVER_CAP = "duplicate", "near_duplicate", "over_cap"
REASONS = (NO_SCORE, LOW_SCORE, IN_TEST_SET, DUPLICATE, NEAR_DUPLICATE, OVER_CAP)
LOWEST = 0.2  # Unmet Promise's common threshold, for CLIP ViT-B/16


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What is asked of the candidates. A threshold for what they do not have (scores, similarities) asks nothing."""

    top: float | None = None  # share of the best of a class: above 0 to 1, or per cent above 1 to 100
    by_class: Mapping[int, float] = field(default_factory=dict)  # class id -> lowest score that stays
    lowest: float | None = None  # the same for all classes
    cap: int | None = None  # samples of a class
    test_above: float | None = None  # similarity to a test image above which a candidate goes

    def __post_init__(self) -> None:
        if self.top is not None and not 0 < self.top <= 100:
            raise ValueError(
                f"top: found {self.top:g}, expected a share above 0 and up to 1, or per cent up to 100, such as 0.3"
            )
        if self.cap is not None and self.cap < 1:
            raise ValueError(f"cap: found {self.cap}, expected at least one sample a class")
        lowest = [("score", value) for value in (self.lowest, *self.by_class.values())]
        for name, value in (*lowest, ("similarity to a test image", self.test_above)):
            if value is not None and not -1 <= value <= 1:
                raise ValueError(f"{name}: found {value:g}, expected a cosine from -1 to 1")

    @property
    def per_cent(self) -> float | None:
        """`top` in per cent; 1 is all, 1.5 is one and a half per cent."""
        return None if self.top is None else self.top if self.top > 1 else 100 * self.top


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidates:
    """N candidates; what is None is not asked about."""

    ids: NDArray[np.str_] | NDArray[np.int64]  # each once: uids, or rows of a pool
    classes: NDArray[np.int64]
    scores: NDArray[np.floating] | None = None  # cosine with the text of its class; NaN: no picture
    test_similarity: NDArray[np.floating] | None = None  # the largest over all test images
    same: NDArray[np.int64] | None = None  # equal numbers: the same bytes
    near: NDArray[np.int64] | None = None  # equal numbers: one group of near-duplicates

    def __post_init__(self) -> None:
        columns = (self.classes, self.scores, self.test_similarity, self.same, self.near)
        lengths = {len(one) for one in columns if one is not None}
        if lengths != {len(self.ids)}:
            raise ValueError(f"candidates: found columns of {sorted(lengths)} rows, expected {len(self.ids)} in each")


@dataclass(frozen=True, eq=False)
class Decision:
    """What becomes of N candidates."""

    reasons: NDArray[np.str_]  # `KEPT`, or why not
    instead: NDArray[np.int64]  # of duplicates the place of the one that was preferred; -1 for all others

    @property
    def kept(self) -> NDArray[np.bool_]:
        """Whether each stays."""
        return np.asarray(self.reasons == KEPT)


def decide(candidates: Candidates, rule: Rule) -> Decision:
    """The order of the candidates changes nothing. One that was preferred stays too, unless its class is full."""
    num = len(candidates.ids)
    words = np.full(num, KEPT, "<U16")
    instead = np.full(num, -1, np.int64)
    id_rank = np.empty(num, np.int64)
    id_rank[np.argsort(candidates.ids, kind="stable")] = np.arange(num)
    strength = np.zeros(num)
    if candidates.scores is not None:
        scores = candidates.scores.astype(np.float64)
        unknown = np.isnan(scores)
        words[unknown] = NO_SCORE
        known = np.flatnonzero(~unknown)
        lowest = thresholds(scores[known], candidates.classes[known], rule)
        words[known[scores[known] < lowest]] = LOW_SCORE
        strength = np.where(unknown, -np.inf, scores)
    if candidates.test_similarity is not None and rule.test_above is not None:
        words[(words == KEPT) & (candidates.test_similarity > rule.test_above)] = IN_TEST_SET
    for groups, word in ((candidates.same, DUPLICATE), (candidates.near, NEAR_DUPLICATE)):
        if groups is not None:
            late, first = _after_first(words == KEPT, groups, strength, id_rank, 1)
            words[late], instead[late] = word, first
    if rule.cap is not None:
        late, _ = _after_first(words == KEPT, candidates.classes, strength, id_rank, rule.cap)
        words[late] = OVER_CAP
    return Decision(words, instead)


def thresholds(scores: NDArray[np.float64], classes: NDArray[np.int64], rule: Rule) -> NDArray[np.float64]:
    """For each candidate the lowest score with which it stays; -inf if the rule has none for its class.

    The share p keeps score >= the percentile 100 - p of the scores of the class, interpolated linearly.
    """
    per_cent = rule.per_cent
    if per_cent is None:
        common = -np.inf if rule.lowest is None else rule.lowest
        return np.array([rule.by_class.get(int(one), common) for one in classes], np.float64)
    lowest = np.empty(len(scores))
    for one in np.unique(classes):
        mine = classes == one
        lowest[mine] = np.percentile(scores[mine], 100 - per_cent)
    return lowest


def _after_first(
    is_open: NDArray[np.bool_],
    groups: NDArray[np.int64],
    strength: NDArray[np.float64],
    id_rank: NDArray[np.int64],
    most: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(places of the open candidates that come after the first `most` of their group, the first of each's group)."""
    rows = np.flatnonzero(is_open)
    order = rows[np.lexsort((id_rank[rows], -strength[rows], groups[rows]))]
    _, starts, sizes = np.unique(groups[order], return_index=True, return_counts=True)
    is_late = np.arange(len(order)) - np.repeat(starts, sizes) >= most
    return order[is_late], np.repeat(order[starts], sizes)[is_late]
