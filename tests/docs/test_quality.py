"""The table of shortcuts: it is made from real images of the sandbox, and marks what nothing beats."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from docs.bench import conditions
from docs.bench.quality import EXACT, main, on_the_front

# diffusers' own, under NumPy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

REUSE = "deep layers every 2nd step"


def test_the_comparison_runs_and_shows_the_exact_path_beside_a_shortcut(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "work"
    arguments = ["--no-page", "--in-process", "--per-class=2", "--seeds=1", f"--only={REUSE}", f"--work={work}"]
    assert main(arguments) == 0
    rows = {line.split("|")[1].strip(" *"): line for line in capsys.readouterr().out.splitlines() if "x |" in line}
    assert list(rows) == [EXACT, REUSE]
    assert "| 0.0 | 1.00x |" in rows[EXACT], "no pixel apart from itself"
    assert "| 0.0 |" not in rows[REUSE].rpartition("%")[2], "a shortcut makes other images"
    assert main(arguments) == 0, "made once, shown again"
    capsys.readouterr()
    (tmp_path / "judge").write_bytes(conditions.JUDGE.read_bytes() + b"\0")
    monkeypatch.setattr(conditions, "JUDGE", tmp_path / "judge")
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    said = capsys.readouterr()
    assert said.err == (
        f"{work}: found results with other judge than today's; remove the folder to measure anew, or give another "
        "--work\n"
    )
    assert not said.out


def test_workers_of_their_own_find_recipe_and_models_from_any_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They import a copy of the code, which has neither beside it."""
    monkeypatch.chdir(tmp_path)
    assert main(["--no-page", "--per-class=2", "--seeds=1", f"--only={REUSE}", "--work=work"]) == 0
    assert len(list((tmp_path / "work").glob("0*.json"))) == 2
    assert Path.cwd() == tmp_path


@given(st.dictionaries(st.text(max_size=3), st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1))
def test_nothing_on_the_front_is_beaten_and_all_else_is(points: dict[str, tuple[float, ...]]) -> None:
    front = on_the_front(points)
    assert front
    for name, one in points.items():
        beaten = any(
            other != one and min(b - a for a, b in zip(one, other, strict=True)) >= 0 for other in points.values()
        )
        assert (name in front) is not beaten
