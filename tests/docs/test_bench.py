"""The benchmarks run: every row in miniature, and what is printed is what is written. No speed is judged here."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from docs.bench import large_pool, page, sandbox_images, scan, set_distances
from docs.bench.cpu import HOME, NUMBERS, RETRIEVAL, ROWS, command_of, main
from docs.bench.encode import photograph
from docs.bench.measure import Line, Result, Size, Timed, Verdict, alternate
from tests.support.tiny_pipelines import tiny_pipeline

# diffusers' own, under NumPy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

FACTS = {
    "date": "2026-01-02", "quick": False, "cores": 2, "cpu": "a processor", "memory_GiB": 24, "file_system": "ext4",
    "load": 0.1, "versions": {"Python": "3.11"},
}  # fmt: skip
OUT_OF_PROCESS = (
    "C10",
    "C11",
    "C14",
    "C15",
    "C16",
)  # each starts programs that load torch: tests of their own
IN_PROCESS = [row for row in ROWS if row not in OUT_OF_PROCESS]


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What `make bench` prints in miniature, and the folder it wrote to."""
    import contextlib
    import io

    # libraries that are installed beside ours greet on standard output when the first model is saved
    tiny_pipeline("sd", tmp_path_factory.mktemp("first"))
    out = tmp_path_factory.mktemp("docs")
    shutil.copy(HOME / page.PAGE, out)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(["--quick", "--rows", ",".join(IN_PROCESS), "--out", str(out)]) == 0, (
            "in miniature no target is judged"
        )
    return printed.getvalue(), out


@pytest.mark.parametrize("row", IN_PROCESS)
def test_every_row_runs_and_says_what_was_known_predicted_and_found(whole_run: tuple[str, Path], row: str) -> None:
    printed, out = whole_run
    known = json.loads((out / NUMBERS).read_text())[row]
    assert len(known["lines"]) >= 3, "ours, and others beside it"
    assert known["anchor"]
    assert known["predicted"]
    assert known["verdicts"]
    assert all(verdict["met"] is None for verdict in known["verdicts"])
    assert all(sample == sample for line in known["lines"] for some in line["figures"].values() for sample in some)
    assert f"### {row}: {known['title']}" in printed


def test_the_page_holds_what_was_printed_row_by_row(whole_run: tuple[str, Path]) -> None:
    printed, out = whole_run
    written = (out / page.PAGE).read_text()
    sections = re.findall(
        r"<!-- (C\d+): written by `make bench(?:-retrieve)?` -->\n(.*?)\n<!-- /\1 -->", written, re.DOTALL
    )
    assert [row for row, _ in sections] == [row for row in ROWS if row not in RETRIEVAL] + list(RETRIEVAL)
    assert printed.split() == " ".join(text for row, text in sections if row in IN_PROCESS).split()


def test_nothing_in_the_output_names_the_machine(whole_run: tuple[str, Path], tmp_path: Path) -> None:
    import getpass
    import socket
    import tempfile

    printed, out = whole_run
    everything = printed + (out / NUMBERS).read_text() + (out / page.PAGE).read_text()
    for name in (socket.gethostname(), str(HOME.parent), str(Path.home()) + "/", tempfile.gettempdir() + "/", str(out)):
        assert name not in everything
    assert not re.search(rf"\b{re.escape(getpass.getuser())}\b", everything)


def test_embeddings_are_compared_to_the_last_bit(whole_run: tuple[str, Path]) -> None:
    row = json.loads((whole_run[1] / NUMBERS).read_text())["C8"]
    equal = {verdict["target"]: verdict["found"] for verdict in row["verdicts"]}
    assert equal["asked for in another order: all equal"] == "32 of 32"
    assert equal["asked for in one call: all equal"] == "32 of 32"
    assert equal["made again, a batch of 5 by itself: all equal"] == "32 of 32"


@pytest.mark.torture  # four programs that load torch: 30 s of CPU
def test_the_sandbox_is_made_by_the_command_and_by_the_loops_from_the_same_prompts(tmp_path: Path) -> None:
    result = sandbox_images.measure(Size(True, tmp_path))
    assert [line.what for line in result.lines] == [
        "sixfold generate", "diffusers loop, batch 1, PNG files", "diffusers loop, batch 2, PNG files",
    ]  # fmt: skip
    assert all(sample > 0 for line in result.lines for some in line.figures.values() for sample in some)
    assert result.method.startswith("4 images of 64 px a repeat (2 at batch 1)")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.torture  # four programs that load torch or FAISS: 10 s of CPU
def test_the_exact_scan_and_faiss_find_the_same_rows(tmp_path: Path) -> None:
    result = scan.measure(Size(True, tmp_path))
    assert [line.what for line in result.lines] == list(scan.SIDES.values())
    assert result.verdicts[-1].found.endswith("100.000% of the rows at the same place")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.torture  # four programs of ours: 10 s of CPU
def test_a_large_pool_is_searched_as_a_small_one_and_removed(tmp_path: Path) -> None:
    result = large_pool.measure(Size(True, tmp_path))
    assert [line.what.split(",")[0] for line in result.lines] == 2 * list(large_pool.SEARCHES.values())
    assert list(tmp_path.iterdir()) == []


def test_distances_of_sets_are_those_of_the_peers(tmp_path: Path) -> None:
    found = set_distances.measure(Size(quick=True, scratch=tmp_path))
    frechet = [verdict.found for verdict in found.verdicts if "equal to torchmetrics" in verdict.target]
    assert len(frechet) == 1
    assert float(frechet[0]) <= 1e-6
    assert re.search(r"neighbours: ours and prdc's are \d\.\de", " ".join(found.notes))
    assert list(tmp_path.iterdir()) == []


def test_the_sides_take_turns_and_the_first_turn_is_not_measured(tmp_path: Path) -> None:
    turns: list[str] = []

    def side(name: str) -> int:
        turns.append(name)
        return 10

    timed = alternate({"a": lambda folder: side("a"), "b": lambda folder: side("b")}, Size(False, tmp_path))
    assert "".join(turns) == "ab" * 6
    assert [len(samples) for one in timed.values() for samples in (one.cpu_ms, one.wall_ms)] == [5] * 4
    assert list(tmp_path.iterdir()) == [], "every folder is removed again"


def test_cpu_time_counts_all_threads_and_finished_children(tmp_path: Path) -> None:
    import subprocess
    import sys

    def child(folder: Path) -> int:
        subprocess.run([sys.executable, "-c", "import time\nwhile time.process_time() < 0.3: pass"], check=True)
        return 1

    (timed,) = alternate({"child": child}, Size(True, tmp_path)).values()
    assert timed.cpu_ms[0] >= 300


def test_a_missed_target_is_printed_as_missed_and_the_exit_code_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(HOME / page.PAGE, tmp_path)
    monkeypatch.setitem(ROWS, "C1", lambda size: _result(size.judge("at most 1", "2", met=False)))
    assert main(["--rows", "C1", "--out", str(tmp_path)]) == 1
    assert "| at most 1 | 2 | **missed** |" in capsys.readouterr().out
    assert "| at most 1 | 2 | **missed** |" in (tmp_path / page.PAGE).read_text()


def test_a_row_that_is_measured_again_leaves_the_others_as_they_are(tmp_path: Path) -> None:
    shutil.copy(HOME / page.PAGE, tmp_path)
    first, second = _result(Verdict("t", "first", True)), _result(Verdict("t", "second", True))
    page.write(tmp_path, NUMBERS, command_of("C1"), {"C1": first, "C4": first}, FACTS)
    page.write(tmp_path, NUMBERS, command_of("C1"), {"C14": first}, FACTS)
    page.write(tmp_path, NUMBERS, command_of("C1"), {"C4": second}, FACTS)
    known = json.loads((tmp_path / NUMBERS).read_text())
    found = {row: one["verdicts"][0]["found"] for row, one in known.items()}
    assert list(found.items()) == [("C1", "first"), ("C4", "second"), ("C14", "first")]
    text = (tmp_path / page.PAGE).read_text()
    assert "| t | first | yes |" in text
    assert "| t | second | yes |" in text
    assert text.count("| t |") == 3


def test_a_cell_is_median_least_and_most_and_a_ratio_is_taken_repeat_by_repeat() -> None:
    lines = [Line("ours", {"ms": (1.0, 2.0, 4.0)}), Line("theirs", {"ms": (10.0, 40.0, 80.0)})]
    result = Result("t", "m", "a", "p", lines, ratio_of="ms")
    ours, theirs = page.table(result)[2:]
    assert ours == "| ours | 2.000 (1.000 - 4.000) | 1 |"
    assert theirs == "| theirs | 40.0 (10.0 - 80.0) | 20.0x (10.0 - 20.0) |"


def test_a_single_sample_is_never_called_a_median_and_a_verdict_of_one_says_so() -> None:
    verdict, one, five = Verdict("at least as fast", "1.01x", True), (1.0,), (1.0,) * 5
    cases = [
        ((one, one), "none. A cell is one sample", "yes, one sample"),
        ((five, one), "the median of 5 samples, with the least and the most in brackets; a cell", "yes, one sample on"),
        ((five, five), "the median of 5 samples, with the least and the most in brackets.", "yes |"),
    ]
    for sides, repeats, met in cases:
        lines = [Line("a side", {"ms": samples}) for samples in sides]
        told = page.section("C1", Result("t", "m", "a", "p", lines, None, [verdict]), FACTS)
        assert repeats in told
        assert f"| at least as fast | 1.01x | {met}" in told
        assert ("median" in told) == (sides != (one, one))


@pytest.mark.parametrize("numbers", sorted((HOME / "data").glob("bench_*.json")), ids=lambda file: file.name)
def test_the_page_says_what_its_samples_say(numbers: Path) -> None:
    told = (HOME / page.PAGE).read_text()
    for row, (result, facts) in page.read(numbers).items():
        assert page.section(row, result, facts) in told, f"run `python -m docs.bench.page` after a change ({row})"


def test_an_unknown_row_is_refused_with_the_names_of_all(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--rows", "C99"])
    assert f"found C99, expected some of {','.join(ROWS)}" in capsys.readouterr().err


def test_a_page_without_marks_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / page.PAGE).write_text("nothing\n")
    with pytest.raises(ValueError, match="found no marks for row C1"):
        page.write(tmp_path, NUMBERS, command_of("C1"), {"C1": _result(Verdict("t", "f", True))}, FACTS)


def test_the_photographs_are_the_same_every_time_and_look_like_photographs() -> None:
    """Neither flat nor white noise: neighbours are far more alike than pixels from anywhere, and edges exist."""
    image = photograph(3)
    assert np.array_equal(image, photograph(3))
    assert not np.array_equal(image, photograph(4))
    gray = image.astype(float).mean(axis=-1)
    across = np.abs(np.diff(gray, axis=1))
    anywhere = np.abs(np.diff(np.random.default_rng(0).permuted(gray, axis=None).ravel()))
    assert gray.std() > 30
    assert across.mean() < anywhere.mean() / 2
    assert across.max() > 60


def _result(verdict: Verdict) -> Result:
    timed = Timed((1.0, 1.0), (2.0, 2.0))
    return Result("a title", "a method", "an anchor", "a guess", [Line("ours", {"ms": timed.cpu_ms})], "ms", [verdict])
