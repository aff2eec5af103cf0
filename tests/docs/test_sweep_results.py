"""The part of docs/RESULTS.md that sweeps write: what several of them share, tables without speeds, curves."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from docs.bench import sweep_results
from docs.bench.same_runs import other_bytes, same_trainings, shared
from tests.train.report.test_report import line
from train.evaluate.results import RESULTS, Result, append_results, packed

N = 40
SEEDS = range(3)


def trained(
    sweep: str, label: str, digest: str, draw: int = 0, recipe: str = "e", subset: str = "", **changes: Any
) -> list[Result]:
    """The lines of one point; another `draw`: other pictures are right; `subset`: that it trains on, of set 1."""
    found = []
    for seed in SEEDS:
        bits = np.random.default_rng([draw, seed]).random(N) < 0.7
        right = int(bits.sum())
        one = line(label, 0, seed, right, n=N, baseline=label, sweep=sweep, **changes)
        fields = {
            "right_pictures": packed(bits),
            "data": {"real": "cd" * 32, "synthetic": digest * 32, "real-test": "ab" * 32},
            "recipe": f"{recipe}{seed:063x}",
        }
        if subset:
            assert one.sweep is not None
            point = one.sweep.point.model_copy(update={"changes": {"optim.lr": draw, "data.domains.1.subset": subset}})
            fields["sweep"] = one.sweep.model_copy(update={"point": point}).model_dump()
        found.append(Result.model_validate({**one.model_dump(), **fields}))
    return found


def test_points_with_the_same_data_and_the_same_pictures_right_are_told_to_be_the_same_trainings() -> None:
    results = [
        *trained("shots", "20 shots", "aa"),
        *trained("steps", "0x, 900 steps", "aa", recipe="f"),  # a folder of another name
        *trained("steps", "1x, 900 steps", "aa", draw=1),
        *trained("headline", "0x", "bb"),
    ]
    assert same_trainings(results) == [[("shots", "20 shots"), ("steps", "0x, 900 steps")]]
    assert "| Real images of a class | 20 shots |\n| Scale and length of the training | 0x, 900 steps |" in "".join(
        shared(results)
    )
    without = [one.model_copy(update={"right_pictures": None}) for one in results]
    assert same_trainings(without) == []


def test_points_of_one_sweep_alone_and_points_with_other_seeds_are_not_called_the_same() -> None:
    assert same_trainings([*trained("steps", "a", "aa"), *trained("steps", "b", "aa")]) == []
    assert same_trainings([*trained("steps", "a", "aa"), *trained("shots", "b", "aa")[:2]]) == []


def test_a_set_of_one_folder_and_subset_with_other_bytes_is_named_with_the_sweeps_that_have_them() -> None:
    control = trained("control", "6x synthetic", "aa", subset="6x")
    results = [
        *control,
        *trained("steps", "6x, 900 steps", "bb", draw=1, subset="6x"),
        *trained("headline", "6x", "bb")[:1],  # from a folder of its own, with the bytes of another one
        *trained("headline", "6x", "cc")[1:],
    ]
    [(name, cells)] = other_bytes(results)
    assert name == "synthetic 6x"
    assert cells == {"control": "aa" * 6, "steps": "bb" * 6, "headline": "bb" * 6 + " (seed 0)"}
    assert other_bytes([*control, *trained("steps", "3x", "bb", subset="3x")]) == []
    assert shared(control) == []


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A page of results with nothing on it, beside an empty folder of data."""
    (tmp_path / "data").mkdir()
    path = tmp_path / "RESULTS.md"
    path.write_text(f"before\n{sweep_results.BEGIN}\n{sweep_results.END}\nbehind\n")
    for name, place in {"PAGE": path, "DATA": tmp_path / "data", "KEPT": tmp_path / "data" / "sweeps"}.items():
        monkeypatch.setattr(sweep_results, name, place)
    return path


def written(folder: Path, results: Sequence[Result]) -> Path:
    append_results(folder / RESULTS, results)
    return folder


def test_the_page_has_what_sweeps_share_above_its_tables_and_no_speeds_which_are_those_of_other_machines(
    page: Path, tmp_path: Path
) -> None:
    results = [*trained("shots", "20 shots", "aa"), *trained("steps", "0x, 900 steps", "aa")]
    sweep_results.write([written(tmp_path / "out", results)])
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("behind\n")
    assert text.index("are the same trainings") < text.index("### Real images of a class")
    assert "20 shots \\(baseline\\) | 3 |" in text
    assert "images/s" not in text + (page.parent / "data" / "report.html").read_text()
    again = sweep_results.write([])
    assert again in text, "what was kept gives the same page"


def test_a_curve_of_two_points_is_dotted(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.axes import Axes

    styles: list[str] = []
    plot = Axes.plot

    def watched(self: Axes, *given: Any, **how: Any) -> Any:
        styles.append(given[2])
        return plot(self, *given, **how)

    monkeypatch.setattr(Axes, "plot", watched)
    results = [*trained("scale", "0x", "aa", x=0.0), *trained("scale", "6x", "aa", draw=1, x=6.0)]
    sweep_results.write([written(tmp_path / "out", results)])
    assert [style for style in styles if style != "."] == ["o:"]
