"""Differences over seeds and pictures, and many of them at once: against experiments whose truth is known."""

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from train.evaluate.student import t_quantile
from train.report.statistics import (
    Estimate,
    difference_by_picture,
    effective_pictures,
    holm,
    paired_difference,
    wilson_interval,
)

NUM_EXPERIMENTS = 300


def runs(table_SN: np.ndarray) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]]:
    """Two models whose answers differ by -1, 0 and 1 as the table says."""
    return dict(enumerate(table_SN > 0)), dict(enumerate(table_SN < 0))


def ends(one: Estimate | None) -> tuple[float, float]:
    assert one is not None
    assert one.low is not None
    assert one.high is not None
    return one.low, one.high


@pytest.mark.parametrize(
    ("num_seeds", "num_pictures", "of_seeds", "of_pictures"),
    [(3, 150, 0.0, 0.0), (3, 150, 0.15, 1.0), (3, 150, 0.4, 0.0), (5, 60, 0.0, 1.0)],
)
def test_about_95_of_100_intervals_hold_the_truth_over_other_seeds_and_other_pictures(
    num_seeds, num_pictures, of_seeds, of_pictures
):
    """Answers differ where normal effects of seed, of picture and of both leave +-1.5, so the truth is known."""
    rng = np.random.default_rng(20)
    law = NormalDist(0.25, math.sqrt(1 + of_seeds**2 + of_pictures**2))
    truth, held, shown = 1 - law.cdf(1.5) - law.cdf(-1.5), 0, 0
    for _ in range(NUM_EXPERIMENTS):
        effect = rng.normal(0.25, of_seeds, (num_seeds, 1)) + rng.normal(0, of_pictures, num_pictures)
        effect = effect + rng.normal(size=effect.shape)
        found = difference_by_picture(*runs((effect > 1.5).astype(int) - (effect < -1.5)))
        low, high = ends(found)
        held += low <= truth <= high
        assert found is not None
        assert found.p is not None
        shown += found.p < 0.05
        assert (found.p < 0.05) == (low > 0 or high < 0)
    assert 0.91 <= held / NUM_EXPERIMENTS <= 0.99
    assert shown > 0


def test_where_all_seeds_answer_alike_it_is_the_normal_interval_of_one_proportion():
    one = np.random.default_rng(3).choice([-1, 0, 1], 4000, p=[0.1, 0.7, 0.2])
    half = 1.96 * one.std(ddof=1) / math.sqrt(len(one))
    low, high = ends(difference_by_picture(*runs(np.array([one] * 4))))
    assert (low, high) == pytest.approx((one.mean() - half, one.mean() + half), abs=0.06 * half)


def test_where_pictures_are_many_and_alike_it_is_students_interval_of_the_seeds():
    rng = np.random.default_rng(4)
    table = np.array([rng.random(200_000) < chance for chance in (0.10, 0.14, 0.18, 0.12, 0.16)]).astype(int)
    found, student = (
        difference_by_picture(*runs(table)),
        paired_difference(*({seed: float(bits.mean()) for seed, bits in side.items()} for side in runs(table))),
    )
    width, wanted = (high - low for low, high in (ends(found), ends(student)))
    assert width == pytest.approx(wanted, rel=0.05)  # draws of five seeds have shorter tails than normal ones
    assert sum(ends(found)) == pytest.approx(sum(ends(student)), abs=0.1 * wanted)
    assert found is not None
    assert student is not None
    assert found.values == pytest.approx(student.values)


def test_the_interval_depends_on_the_answers_and_on_nothing_else():
    rng = np.random.default_rng(5)
    table = rng.choice([-1, 0, 1], (4, 500))
    found = difference_by_picture(*runs(table))
    assert difference_by_picture(*runs(table[:, rng.permutation(500)])) == found
    assert difference_by_picture(*runs(table)) == found


def test_an_improvement_of_the_same_pictures_counts_more_than_one_of_others():
    """Both gain 40 of 2,000 pictures with each seed; that the one loses 200 others meanwhile makes it less sure."""
    steady = np.zeros((5, 2000), int)
    steady[:, :40] = 1
    restless = steady.copy()
    restless[:, 100:300], restless[:, 300:500] = 1, -1
    calm, loud = (difference_by_picture(*runs(table)) for table in (steady, restless))
    assert calm is not None
    assert loud is not None
    assert calm.value == pytest.approx(loud.value) == pytest.approx(0.02)
    assert calm.p is not None
    assert loud.p is not None
    assert calm.p < 1e-5 < 0.01 < loud.p
    student = paired_difference(dict.fromkeys(range(5), 0.72), dict.fromkeys(range(5), 0.7))
    assert student is not None
    assert student.p == 1.0  # equal gains have no spread over seeds to judge by


def test_fewer_than_three_seeds_and_a_single_picture_have_the_seeds_alone():
    two = difference_by_picture(*runs(np.ones((2, 50), int)))
    assert two is not None
    assert (two.value, two.is_over_pictures) == (1.0, False)
    assert difference_by_picture({0: np.ones(3, bool)}, {1: np.ones(3, bool)}) is None
    one = difference_by_picture(*runs(np.array([[1], [0], [1]])))
    assert one is not None
    assert not one.is_over_pictures
    with pytest.raises(ValueError, match=r"found \[3, 4\] pictures, expected as many in all runs"):
        difference_by_picture({0: np.ones(3, bool)}, {0: np.ones(4, bool)})


def test_about_95_of_100_intervals_hold_the_truth_where_each_thing_is_seen_four_times():
    """The effect of a thing is shared by its views; counted as pictures of their own, they would promise too much."""
    rng = np.random.default_rng(21)
    law, views, things = NormalDist(0.25, math.sqrt(2)), 4, 60
    truth = 1 - law.cdf(1.5) - law.cdf(-1.5)
    held = {1: 0, views: 0}
    for _ in range(NUM_EXPERIMENTS):
        effect = 0.25 + np.tile(rng.normal(0, 1, things), views) + rng.normal(size=(5, things * views))
        model, base = runs((effect > 1.5).astype(int) - (effect < -1.5))
        for told in held:
            low, high = ends(difference_by_picture(model, base, told))
            held[told] += low <= truth <= high
    assert 0.91 <= held[views] / NUM_EXPERIMENTS <= 0.99
    assert held[1] / NUM_EXPERIMENTS < 0.88


def test_an_accuracy_over_views_is_as_certain_as_over_so_many_independent_pictures():
    rng = np.random.default_rng(22)
    things = rng.random(600) < 0.7
    alike, apart = np.tile(things, 4), rng.random(2400) < 0.7
    assert effective_pictures(alike, 4) == pytest.approx(600, rel=0.01)
    assert effective_pictures(apart, 4) == pytest.approx(2400, rel=0.15)
    assert effective_pictures(np.ones(8, bool), 4) == 2
    wide, narrow = (wilson_interval(int(alike.sum()), 2400, size) for size in (600.0, None))
    assert ends(wide)[0] < ends(narrow)[0] < ends(narrow)[1] < ends(wide)[1]
    with pytest.raises(ValueError, match=r"found \[10\] pictures, expected a multiple of 4 views"):
        difference_by_picture(*runs(np.ones((3, 10), int)), 4)


def test_models_that_differ_nowhere_or_everywhere_have_no_spread_and_no_p():
    for table in (np.zeros((3, 20), int), np.ones((3, 20), int)):
        found = difference_by_picture(*runs(table))
        assert found is not None
        assert (found.p, found.shown) == (1.0, False)


def test_the_p_value_over_seeds_is_that_of_scipys_test():
    stats = pytest.importorskip("scipy.stats")
    gains = [0.011, 0.018, 0.004, 0.009]
    found = paired_difference(dict(enumerate(gains)), dict.fromkeys(range(4), 0.0))
    assert found is not None
    assert found.p == pytest.approx(stats.ttest_1samp(gains, 0).pvalue, rel=1e-9)
    assert t_quantile(3) == pytest.approx(3.182446)


# many comparisons


def test_holms_correction_is_that_of_an_example_by_hand():
    """0.01 x 4 and 0.013 x 3 are below 0.05, 0.03 x 2 is not, and 0.04 is not asked any more."""
    assert holm([0.03, 0.01, 0.04, 0.013]) == pytest.approx([0.06, 0.04, 0.06, 0.04])
    assert holm([]) == []
    assert holm([0.7, 0.6]) == [1.0, 1.0]


@given(st.lists(st.floats(0, 1), max_size=30))
@settings(max_examples=200, deadline=None)
def test_holm_rejects_no_more_than_without_correction_and_no_less_than_bonferroni(p_values):
    for before, after in zip(p_values, holm(p_values), strict=True):
        assert before <= after <= min(1.0, len(p_values) * before)
    assert holm(sorted(p_values)) == sorted(holm(p_values))


def test_without_any_difference_holm_shows_one_in_at_most_5_of_100_reports():
    rng = np.random.default_rng(6)
    wrong = sum(min(holm(rng.random(12).tolist())) <= 0.05 for _ in range(2000))
    assert wrong / 2000 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 2000)
    assert wrong
