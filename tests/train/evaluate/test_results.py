"""Results and their statistics: lines that last, faults by name, intervals that others compute too."""

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.hostile_text import PAYLOADS
from tests.support.training_results import result
from train.evaluate.results import (
    MAX_LINE_BYTES,
    RESULTS,
    append_results,
    find_results,
    of_branches,
    packed,
    read_results,
    result_line,
    selected,
    write_results,
)
from train.evaluate.student import t_probability, t_quantile
from train.report.statistics import (
    mean,
    mean_interval,
    paired_difference,
    sample_std,
    wilson_interval,
)

# statistics


def test_the_spread_over_seeds_divides_by_one_less_than_their_number():
    assert mean([2.0, 4.0, 9.0]) == 5.0
    assert sample_std([2.0, 4.0, 9.0]) == pytest.approx(math.sqrt(13.0))
    assert sample_std([7.0]) is None


@pytest.mark.parametrize(
    ("degrees", "tabled"), [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (9, 2.262), (30, 2.042), (120, 1.980)]
)
def test_t_quantiles_are_those_of_the_printed_table(degrees, tabled):
    assert t_quantile(degrees) == pytest.approx(tabled, abs=5e-4)


def test_t_quantiles_and_probabilities_are_those_of_scipy():
    from scipy.stats import t

    for degrees in (*range(1, 41), 99, 100, 1000):
        assert t_quantile(degrees) == pytest.approx(t.ppf(0.975, degrees), rel=1e-10)
        for value in (0.0, 0.3, 1.0, 2.5, 8.0):
            assert t_probability(value, degrees) == pytest.approx(2 * t.cdf(value, degrees) - 1, abs=1e-12)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=12).filter(lambda values: np.std(values) > 1e-6))
@settings(max_examples=60, deadline=None)
def test_the_interval_of_a_mean_is_scipys(values):
    from scipy import stats

    found = mean_interval(values)
    low, high = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    assert (found.value, found.low, found.high) == pytest.approx((np.mean(values), low, high), abs=1e-9)
    assert found.n == len(values)


def test_one_seed_has_a_mean_and_no_interval():
    found = mean_interval([0.5])
    assert (found.value, found.low, found.high, found.n, found.shown) == (0.5, None, None, 1, False)


def test_differences_are_paired_by_seed_and_seeds_without_a_partner_are_left_out():
    from scipy import stats

    control = {1: 0.50, 2: 0.60, 3: 0.70, 4: 0.10}
    treated = {3: 0.73, 1: 0.52, 2: 0.61, 5: 0.99}
    found = paired_difference(treated, control)
    expected = stats.ttest_rel([0.52, 0.61, 0.73], [0.50, 0.60, 0.70]).confidence_interval(0.95)
    assert found is not None
    assert found.n == 3
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert paired_difference({1: 0.5}, {2: 0.5}) is None


def test_pairing_sees_a_difference_that_the_spread_of_seeds_hides():
    control = {seed: 0.5 + 0.1 * seed for seed in range(5)}
    treated = {seed: value + 0.01 + 0.001 * seed for seed, value in control.items()}
    found = paired_difference(treated, control)
    assert found is not None
    assert found.shown
    assert not mean_interval([*control.values()]).high < mean_interval([*treated.values()]).low  # type: ignore[operator]


@pytest.mark.parametrize("n", [1, 7, 100, 5000])
def test_the_interval_of_a_proportion_is_scipys_wilson(n):
    from scipy.stats import binomtest

    for right in sorted({0, 1, n // 3, n - 1, n} & set(range(n + 1))):
        found = wilson_interval(right, n)
        expected = binomtest(right, n).proportion_ci(method="wilson")
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_numbers_that_cannot_be_averaged_are_refused_in_one_line():
    for call in (lambda: mean([]), lambda: mean([0.5, math.nan]), lambda: wilson_interval(3, 2), lambda: t_quantile(0)):
        with pytest.raises(ValueError, match=r"found .* expected") as caught:
            call()
        assert "\n" not in str(caught.value)


def test_about_95_of_100_intervals_hold_the_truth():
    seed = random.randrange(10**9)
    print("seed", seed)
    rng = np.random.default_rng(seed)
    draws = rng.normal(0.7, 0.02, size=(4000, 5)).tolist()
    found = [mean_interval(draw) for draw in draws]
    held = sum(one.low <= 0.7 <= one.high for one in found if one.low is not None and one.high is not None)
    assert abs(held / 4000 - 0.95) < 0.02  # 5.8 standard deviations


# lines


def test_what_is_appended_is_read_back_in_order(tmp_path):
    lines = [result(seed=seed, step=step) for seed in (0, 1) for step in (10, 20)]
    for line in lines:
        append_results(tmp_path / "run" / RESULTS, [line])
    assert read_results(tmp_path / "run" / RESULTS).results == tuple(lines)
    assert read_results(tmp_path / "nothing" / RESULTS).results == ()


def test_a_line_is_canonical_json_and_the_same_for_the_same_result():
    line = result_line(result())
    assert line == result_line(result())
    again = json.dumps(json.loads(line), sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode() + b"\n"
    assert line == again
    assert line.count(b"\n") == 1


def test_a_torn_last_line_is_named_skipped_and_never_glued_to_the_next(tmp_path):
    path = tmp_path / RESULTS
    first, second, third = (result(step=step) for step in (1, 2, 3))
    append_results(path, [first])
    torn = result_line(second)
    for cut in range(1, len(torn), 97):
        path.write_bytes(result_line(first) + torn[:cut])
        found = read_results(path)
        assert found.results == (first,)
        assert len(found.problems) == 1
        assert f"{path}:2" in found.problems[0]
        append_results(path, [third])
        found = read_results(path)
        assert found.results == (first, third)
        assert len(found.problems) == 1


def test_a_line_that_contradicts_itself_is_named_and_left_out(tmp_path):
    path = tmp_path / RESULTS
    good = json.loads(result_line(result()))
    bad = [{**good, "n": good["n"] + 1}, {**good, "top1": 0.99}, {**good, "top5": 0.0}, {**good, "surprise": 1}]
    path.write_bytes(b"".join(json.dumps(one).encode() + b"\n" for one in [*bad, good]))
    found = read_results(path)
    assert found.results == (result(),)
    assert len(found.problems) == len(bad)
    assert all("\n" not in problem for problem in found.problems)


@given(st.lists(st.booleans(), min_size=1, max_size=70))
@settings(max_examples=60, deadline=None)
def test_which_pictures_were_right_comes_back_in_order(bits):
    line = result(sum(bits), len(bits), 1, right_pictures=packed(np.array(bits)))
    again = type(line).model_validate_json(result_line(line))
    assert again.right_bits is not None
    assert again.right_bits.tolist() == bits
    assert result(sum(bits), len(bits), 1).right_bits is None


@pytest.mark.parametrize(
    ("bits", "words"),
    [
        ("4A==", "found 1 bytes of right_pictures beside n 10, expected 2"),
        ("4AA=A", "not base64"),
        ("ü", "not base64"),
        ("", "found 0 bytes of right_pictures beside n 10, expected 2"),
        ("8AA=", "found 4 bits of right_pictures, expected 3 among the first n"),
        ("wCA=", "found 3 bits of right_pictures, expected 3 among the first n"),  # the third in the filling
    ],
)
def test_bits_that_do_not_fit_the_counts_are_named_and_left_out(tmp_path, bits, words):
    good = json.loads(result_line(result(3, 10, 1, right_pictures="4AA=")))
    (tmp_path / RESULTS).write_text(json.dumps(good) + "\n" + json.dumps({**good, "right_pictures": bits}) + "\n")
    found = read_results(tmp_path / RESULTS)
    assert len(found.results) == 1
    [problem] = found.problems
    assert words in problem


def test_a_line_of_100_000_classes_and_a_million_pictures_can_be_read(tmp_path):
    right = np.random.default_rng(0).random((100_000, 10)) < 0.5
    counts = {number: (int(num), 10) for number, num in enumerate(right.sum(axis=1))}
    line = result(int(right.sum()), 1_000_000, 1, per_class=counts, right_pictures=packed(right.ravel()))
    assert len(result_line(line)) < MAX_LINE_BYTES * 0.6
    write_results(tmp_path / RESULTS, [line])
    assert read_results(tmp_path / RESULTS).results == (line,)


def test_a_resumed_run_that_evaluates_a_step_again_counts_once(tmp_path):
    path = tmp_path / RESULTS
    append_results(path, [result(step=10), result(step=20), result(step=10, time=99.0)])
    assert [(one.step, one.time) for one in read_results(path).results] == [(20, 1.0), (10, 99.0)]


def test_two_runs_with_different_seeds_never_overwrite_each_other(tmp_path):
    for seed in (0, 1):
        append_results(tmp_path / f"run-s{seed}" / RESULTS, [result(seed=seed, run=f"run-s{seed}")])
    assert sorted(one.seed for one in find_results([tmp_path]).results) == [0, 1]


def test_the_gathered_line_of_a_sweep_stands_for_the_runs_own(tmp_path):
    place = {"name": "scale", "point": {"label": "6x", "number": 1, "x": 6, "baseline": "0x"}}
    append_results(tmp_path / "6x-s0" / RESULTS, [result(run="6x-s0")])
    write_results(tmp_path / RESULTS, [result(run="6x-s0", sweep=place)])
    [found] = find_results([tmp_path, tmp_path / "6x-s0"]).results
    assert found.sweep is not None
    assert found.sweep.point.label == "6x"


@pytest.mark.parametrize("has_plan", [True, False])
def test_the_stages_of_a_sweeps_runs_are_no_results_of_theirs_and_those_of_other_trainings_are(tmp_path, has_plan):
    """A sweep whose first run is at work has a plan; one that was copied without it has results."""
    point = {"label": "bridged", "number": 0, "baseline": "bridged"}
    stage = result(run="run/synthetic", recipe="cd" * 32)
    for place in ("sweep/run", "alone"):
        append_results(tmp_path / place / RESULTS, [result()])
        append_results(tmp_path / place / "stages" / "synthetic" / RESULTS, [stage])
    if has_plan:
        (tmp_path / "sweep" / "sweep.yaml").write_text("name: transfer\n")
    else:
        write_results(tmp_path / "sweep" / RESULTS, [result(sweep={"name": "transfer", "point": point})])
    assert [one.run for one in find_results([tmp_path / "sweep"]).results] == ["run-s0"]
    assert [one.run for one in find_results([tmp_path / "alone"]).results] == ["run-s0", "run/synthetic"]


def test_a_run_that_two_sweeps_share_counts_in_both(tmp_path):
    """Their first points are the same recipe, so the runs have one name."""
    for name in ("scale", "control"):
        point = {"label": "0x", "number": 0, "baseline": "0x"}
        write_results(tmp_path / name / RESULTS, [result(sweep={"name": name, "point": point})])
        write_results(tmp_path / name / "0x-s0" / RESULTS, [result()])
    found = find_results([tmp_path]).results
    assert sorted(one.sweep.name for one in found) == ["control", "scale"]


def test_two_runs_of_one_name_over_other_data_are_both_kept_and_named(tmp_path):
    for folder, digest in (("a", "aa" * 32), ("b", "bb" * 32)):
        append_results(tmp_path / folder / "run" / RESULTS, [result(run="run", data={"real": digest})])
    found = find_results([tmp_path])
    assert [one.data["real"][:2] for one in found.results] == ["aa", "bb"]
    [problem] = found.problems
    assert problem.startswith(f"{tmp_path / 'b' / 'run' / RESULTS}: found run run on real-test with other data than in")
    assert str(tmp_path / "a" / "run" / RESULTS) in problem


@pytest.mark.parametrize("is_in_sweep", [True, False])
def test_runs_of_two_sweeps_may_have_other_data_and_those_beside_a_sweep_are_named(tmp_path, is_in_sweep):
    """No comparison mixes two sweeps; a run of none stands beside all others."""
    for name, digest in (("first", "aa" * 32), ("second", "bb" * 32)):
        place = {"name": name, "point": {"label": "6x", "number": 0, "baseline": "6x"}}
        sweep = {"sweep": place} if name == "first" or is_in_sweep else {}
        write_results(tmp_path / name / RESULTS, [result(run="run", data={"real": digest}, **sweep)])
    found = find_results([tmp_path])
    assert [one.data["real"][:2] for one in found.results] == ["aa", "bb"]
    assert len(found.problems) == (0 if is_in_sweep else 1)


def test_two_sets_of_one_name_in_one_folder_are_named_with_what_helps(tmp_path):
    """As versions wrote them that took the last part of an address for the name of a set."""
    append_results(tmp_path / RESULTS, [result(data={"real-test": digest * 32}) for digest in ("aa", "bb")])
    found = find_results([tmp_path])
    assert len(found.results) == 2
    [problem] = found.problems
    assert "both called real-test" in problem
    assert "measure them again with `sixfold evaluate` into a new folder" in problem
    assert "give one of the folders another name" not in problem


def test_only_selected_tests_are_the_result_of_a_run():
    lines = [
        result(step=1, selected=False),
        result(step=2, selected=True),
        result(step=2, set="val", role="validation", selected=True),
    ]
    assert selected(lines) == [lines[1]]
    assert selected(lines, "validation") == [lines[2]]


def test_any_text_in_a_line_comes_back_as_it_was(tmp_path):
    path = tmp_path / RESULTS
    lines = [result(run=text, set=text, step=number) for number, text in enumerate(PAYLOADS)]
    append_results(path, lines)
    assert read_results(path).results == tuple(lines)
    assert len(path.read_bytes().splitlines()) == len(lines)


def test_a_line_without_end_does_not_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("train.evaluate.results.MAX_LINE_BYTES", 2_000)
    path = tmp_path / RESULTS
    path.write_bytes(b"x" * 50_000 + b"\n" + result_line(result()))
    found = read_results(path)
    assert found.results == (result(),)
    assert "longer than 2000 bytes" in found.problems[0]


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="found no such folder"):
        find_results([tmp_path / "nowhere"])


def test_a_result_of_each_branch_is_kept_and_the_exported_one_is_the_runs(tmp_path):
    lines = [result(30), result(33, branch="synthetic")]
    append_results(tmp_path / RESULTS, lines)
    found = read_results(tmp_path / RESULTS).results
    assert [(one.branch, one.top1) for one in found] == [(None, 30 / 40), ("synthetic", 33 / 40)]
    assert [one.branch for one in selected(found)] == [None]
    assert [one.branch for one in of_branches(found)] == ["synthetic"]
    assert len(find_results([tmp_path]).results) == 2
    assert not find_results([tmp_path]).problems
