"""Which candidates stay: the counts of the published program, ties, the order of reasons."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieve.filter.rule import KEPT, OVER_CAP, Candidates, Rule, decide, thresholds

# kept at 30 % of n = 1..20 distinct scores
PUBLISHED = [1, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 6, 6, 6]

scored = st.lists(st.tuples(st.integers(0, 3), st.integers(-8, 8)), min_size=1, max_size=60)  # class, score * 8


def candidates(scores, classes=None, **columns):
    num = len(scores)
    columns.setdefault("ids", np.arange(num))
    return Candidates(
        scores=np.array(scores, np.float32),
        classes=np.zeros(num, np.int64) if classes is None else np.array(classes, np.int64),
        **columns,
    )


def words(scores, rule, classes=None, **columns):
    return decide(candidates(scores, classes, **columns), rule).reasons.tolist()


@pytest.mark.parametrize(("num", "kept"), [*enumerate(PUBLISHED, start=1), (50, 15), (100, 30), (1000, 300)])
@pytest.mark.parametrize("top", [0.3, 30])
def test_the_best_30_per_cent_are_as_many_as_the_published_program_keeps(num, kept, top):
    scores = np.random.default_rng(num).permutation(num) / num
    assert words(scores, Rule(top=top)).count(KEPT) == kept


def test_of_1000_samples_of_a_class_a_cap_of_100_keeps_the_best_100():
    scores = np.random.default_rng(0).permutation(1000) / 1000
    stay = decide(candidates(scores), Rule(top=0.3, cap=100)).kept
    assert sorted(np.flatnonzero(stay)) == sorted(np.argsort(-scores)[:100])


@pytest.mark.parametrize(("num", "cap"), [(7, 3), (1000, 999), (13, 1), (3, 8), (5, 5)])
def test_a_cap_keeps_what_the_published_percentile_of_it_keeps(num, cap):
    scores = np.random.default_rng(num).permutation(num) / num
    published = scores >= np.percentile(scores, 100 - 100 * min(1, cap / num))
    assert decide(candidates(scores), Rule(cap=cap)).kept.tolist() == published.tolist()


def test_a_share_of_one_is_all_and_above_one_it_is_per_cent():
    scores = np.arange(200) / 200
    assert [words(scores, Rule(top=top)).count(KEPT) for top in (1, 100, 1.5, 0.015)] == [200, 200, 3, 3]


@pytest.mark.parametrize("top", [0, -0.3, 100.1, float("nan")])
def test_a_share_that_is_none_is_refused(top):
    with pytest.raises(ValueError, match=r"top: found .*expected a share above 0"):
        Rule(top=top)


@given(scored, st.floats(0.01, 1), st.floats(0.01, 1))
@settings(max_examples=200, deadline=None)
def test_a_larger_share_keeps_all_that_a_smaller_one_keeps(rows, one, two):
    classes, scores = zip(*rows, strict=True)
    small, large = (decide(candidates(np.array(scores) / 8, classes), Rule(top=top)).kept for top in sorted([one, two]))
    assert not (small & ~large).any()


@given(scored, st.integers(1, 9), st.one_of(st.none(), st.floats(0.01, 1)))
@settings(max_examples=200, deadline=None)
def test_no_class_ever_has_more_than_the_cap_and_each_has_what_there_is(rows, cap, top):
    classes, scores = zip(*rows, strict=True)
    found = np.array(words(np.array(scores) / 8, Rule(top=top, cap=cap), classes))
    for one in set(classes):
        mine = found[np.array(classes) == one]
        assert (mine == KEPT).sum() == min(cap, np.isin(mine, (KEPT, OVER_CAP)).sum())


@given(scored, st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_the_order_of_the_candidates_changes_nothing(rows, random):
    order = list(range(len(rows)))
    random.shuffle(order)
    rule = Rule(top=0.6, cap=3, test_above=0.5)

    def decided(places):
        found = decide(
            candidates(
                [rows[at][1] / 8 for at in places],
                [rows[at][0] for at in places],
                ids=np.array([f"{at:03d}" for at in places]),
                same=np.array([at // 2 for at in places]),
                near=np.array([at // 5 for at in places]),
                test_similarity=np.array([at % 7 / 7 for at in places]),
            ),
            rule,
        )
        instead = [None if one < 0 else places[one] for one in found.instead]
        return dict(zip(places, zip(found.reasons.tolist(), instead, strict=True), strict=True))

    assert decided(order) == decided(range(len(rows)))


def test_equal_scores_all_stay_at_the_edge_of_a_share_and_the_lowest_ids_at_that_of_a_cap():
    scores = [0.5, 0.5, 0.5, 0.5, 0.1]
    ids = np.array(["d", "b", "c", "a", "e"])
    assert words(scores, Rule(top=0.2), ids=ids).count(KEPT) == 4
    assert words(scores, Rule(cap=2), ids=ids) == [OVER_CAP, KEPT, OVER_CAP, KEPT, OVER_CAP]


def test_a_class_of_one_stays_under_every_share_and_a_cap_above_its_size_changes_nothing():
    assert words([0.01, 0.5, 0.6], Rule(top=0.01, cap=9), [0, 1, 1]) == [KEPT, "low_score", KEPT]


def test_the_strongest_threshold_wins_the_share_then_that_of_the_class_then_the_common_one():
    scores, classes = np.array([0.1, 0.3, 0.1, 0.3]), np.array([0, 0, 1, 1])
    rule = Rule(by_class={1: 0.05}, lowest=0.2)
    assert thresholds(scores, classes, rule).tolist() == [0.2, 0.2, 0.05, 0.05]
    assert thresholds(scores, classes, Rule(top=1, by_class={1: 0.9}, lowest=0.9)).tolist() == [0.1] * 4
    assert thresholds(scores, classes, Rule()).tolist() == [-np.inf] * 4


def test_a_score_of_exactly_the_threshold_stays_and_a_likeness_of_exactly_the_threshold_too():
    assert words([0.25, 0.2], Rule(lowest=0.25)) == [KEPT, "low_score"]
    near = np.array([0.604169, 0.60417])
    assert words([0.5, 0.5], Rule(test_above=0.604169), test_similarity=near) == [KEPT, "in_test_set"]


def test_who_has_no_score_goes_and_counts_for_no_share():
    assert words([np.nan, 0.1, 0.2, 0.3, 0.4], Rule(top=0.5)) == ["no_score", "low_score", "low_score", KEPT, KEPT]


def test_of_a_group_the_best_score_stays_then_the_lowest_id_and_the_others_name_it():
    found = decide(
        candidates([0.2, 0.4, 0.4, 0.3], ids=np.array(["a", "c", "b", "d"]), near=np.array([0, 0, 0, 3])), Rule()
    )
    assert found.reasons.tolist() == ["near_duplicate", "near_duplicate", KEPT, KEPT]
    assert found.instead.tolist() == [2, 2, -1, -1]


def test_a_copy_of_a_test_image_takes_no_place_of_its_class_and_stands_for_no_duplicate():
    found = words(
        [0.9, 0.8, 0.7, 0.6],
        Rule(test_above=0.5, cap=2),
        test_similarity=np.array([0.99, 0, 0, 0]),
        near=np.array([0, 0, 2, 3]),
    )
    assert found == ["in_test_set", KEPT, KEPT, OVER_CAP]


def test_columns_of_other_lengths_are_refused():
    with pytest.raises(ValueError, match=r"columns of \[2, 3\] rows, expected 2"):
        candidates([0.1, 0.2], near=np.arange(3))
