"""What the verdict of a report is about: the points that the sweep names, never a baseline, whatever stands last."""

import json
from pathlib import Path

import pytest

from tests.train.report.test_report import N, line, report_of, text_of
from train.evaluate.results import RESULTS, Result, read_results, result_line
from train.report.comparison import compare
from train.report.words import results_table, verdict_points, verdicts

LABELS = ("0x, short", "6x, short", "0x, long", "6x, long", "0x, long, other statistics")


def lengths(named: tuple[str, ...] | None) -> list[Result]:
    """Two lengths of a training, and a control behind them; `named`: what the sweep says the verdict is about."""
    found = []
    for number, label in enumerate(LABELS):
        for seed, noise in enumerate((0, 3, -2)):
            right = (700 if label.startswith("0x") else 760) + 10 * number + noise * (number + 1)
            one = line(label, number, seed, right, baseline=f"0x, {'short' if 'short' in label else 'long'}")
            assert one.sweep is not None
            point = one.sweep.point.model_copy(update={"verdict": label in named if named is not None else None})
            found.append(one.model_copy(update={"sweep": one.sweep.model_copy(update={"point": point})}))
    return found


def about(results: list[Result]) -> list[list[str]]:
    """The labels of the points of the verdict, sweep by sweep."""
    return [[row.label for row in verdict_points(sweep)] for sweep in compare(results).sweeps]


def test_a_verdict_is_about_the_points_that_the_sweep_names_and_not_about_the_control_behind_them(tmp_path: Path):
    results = lengths(("6x, short", "6x, long"))
    [sweep] = compare(results).sweeps
    assert [one.text.split(" adds ")[0] for one in verdicts(sweep)] == ["6x, short", "6x, long"]
    text = text_of(report_of(tmp_path, results))
    assert "6x, short over 0x, short" in text
    assert "6x, long over 0x, long" in text
    assert "other statistics over" not in text
    assert "6x, short against 0x, short on real-test" in text, "the classes too are those of a point of the verdict"


def test_what_the_verdict_is_about_changes_no_comparison_and_no_p_value():
    tables = {results_table(compare(lengths(named))) for named in (None, ("6x, short",), ("6x, long",))}
    assert len(tables) == 1


def test_both_branches_of_a_named_point_have_the_verdict_in_their_table():
    main = lengths(("6x, short",))
    six = [one for one in main if one.run.startswith("6x")]
    other = [one.model_copy(update={"branch": "synthetic", "top1": (round(one.top1 * N) + 9) / N}) for one in six]
    assert about([*main, *other]) == [["6x, short"], ["6x, short, BN of synthetic"]]


def test_a_named_point_on_a_curve_has_the_verdict_instead_of_the_one_with_the_largest_x():
    def at(named: bool | None) -> list[Result]:
        place = {"name": "lambda", "point": {"label": "", "number": 0, "baseline": "1"}}
        found = []
        for number, x in enumerate((0.5, 1.0, 2.0, 4.0)):
            told = None if named is None else x == 2.0
            point = {"label": f"{x:g}", "number": number, "x": x, "baseline": "1", "verdict": told}
            for seed in range(3):
                fields = result_line(line(f"{x:g}", number, seed, 700 + number + seed, x))
                found.append(Result.model_validate({**json.loads(fields), "sweep": {**place, "point": point}}))
        return found

    assert about(at(None)) == [["4"]]
    assert about(at(True)) == [["2"]]


def test_a_named_point_without_results_leaves_no_verdict_rather_than_one_about_another_point(tmp_path: Path):
    results = [one for one in lengths(("6x, long",)) if not one.run.startswith("6x, long")]
    assert about(results) == [[]]
    assert "Nothing to compare yet." in text_of(report_of(tmp_path, results))


@pytest.mark.parametrize("x", [None, 1.0])
def test_a_baseline_that_stands_last_is_never_what_the_verdict_is_about(x: float | None):
    places = {"6x": 0.0 if x else None, "5x": 0.5 if x else None, "0x": x}
    results = [
        line(label, number, seed, 700 + 10 * number + seed, at)
        for number, (label, at) in enumerate(places.items())
        for seed in range(3)
    ]
    assert about(results) == [["5x"]]


def test_lines_of_before_are_read_and_keep_the_rule_of_before(tmp_path: Path):
    """They have no such field."""
    lines = [json.loads(result_line(one)) for one in lengths(None)]
    for one in lines:
        assert one["sweep"]["point"].pop("verdict") is None
    (tmp_path / RESULTS).write_text("".join(json.dumps(one) + "\n" for one in lines))
    found = read_results(tmp_path / RESULTS)
    assert found.problems == ()
    assert about(list(found.results)) == [["0x, long, other statistics"]]


def test_a_line_of_two_points_is_dotted_since_nothing_is_known_between_them(tmp_path: Path):
    def drawn(*scales: int) -> list[str]:
        results = [
            line(f"{scale}x", number, seed, 600 + 9 * scale + seed, float(scale))
            for number, scale in enumerate(scales)
            for seed in range(3)
        ]
        return report_of(tmp_path / str(len(scales)), results).values("polyline", "class")

    assert drawn(0, 6) == ["mean sparse"]
    assert drawn(0, 3, 6) == ["mean"]
