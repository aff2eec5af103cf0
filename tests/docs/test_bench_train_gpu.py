"""The benchmark of training steps runs: every row with tiny networks on the CPU, and both sides do the same work.

No speed is judged here.
"""

import contextlib
import dataclasses
import io
import json
import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from docs.bench import train_gpu as bench_train_gpu
from docs.bench.device import Verdict
from docs.bench.train_gpu import (
    AUX,
    AUX_GROUPS,
    COMMAND,
    HOME,
    MARK,
    NUMBERS,
    OURS,
    PAGE,
    ROWS,
    SIDES,
    TABLES,
    TIMM,
    WINDOWS,
    Bench,
    Line,
    Result,
    Row,
    Setting,
    Side,
    Target,
    in_small,
    main,
    measure,
    our_side,
    read,
    section,
    synthetic,
    teraflop,
    timm_side,
    write,
)
from train.model.aux_bn import aux_layers

torch.set_num_threads(1)
CPU = torch.device("cpu")
MARKS = f"<!-- {MARK}: written by `{COMMAND}` -->", f"<!-- /{MARK} -->"


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What `--dry` prints, and the folder it wrote to; about 10 s."""
    out = tmp_path_factory.mktemp("docs")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(["--dry", "--out", str(out)]) == 0, "in miniature no speed is judged"
    return printed.getvalue(), out


@pytest.mark.parametrize("row", ROWS)
def test_every_side_of_every_row_runs_in_miniature_with_finite_figures(whole_run: tuple[str, Path], row: str) -> None:
    found = json.loads((whole_run[1] / NUMBERS).read_text())[row]
    assert [line["what"] for line in found["lines"]] == list(ROWS[row].sides)
    assert all(len(line["figures"]["images/s"]) == WINDOWS for line in found["lines"])
    samples = [one for line in found["lines"] for some in line["figures"].values() for one in some]
    assert all(math.isfinite(one) and one > 0 for one in samples)
    losses = [one for some in found["details"]["losses"].values() for one in some]
    assert all(0 < one < 2 * math.log(1000) + 5 for one in losses)
    assert [verdict["met"] for verdict in found["verdicts"]] == [None] * len(ROWS[row].targets)


def test_what_is_kept_is_what_was_printed(whole_run: tuple[str, Path]) -> None:
    printed, out = whole_run
    text = (out / TABLES).read_text()
    sections = printed.rstrip("\n").split("\n\n### ")
    assert len(sections) == len(ROWS)
    assert all(one in text for one in sections)
    assert text.count("In miniature: no figure says anything.") == len(ROWS)


def test_nothing_in_the_output_names_the_machine(whole_run: tuple[str, Path]) -> None:
    import socket
    import tempfile

    printed, out = whole_run
    everything = printed + (out / NUMBERS).read_text() + (out / TABLES).read_text()
    for name in (socket.gethostname(), str(HOME.parent), str(Path.home()) + "/", tempfile.gettempdir() + "/", str(out)):
        assert name not in everything


def test_it_runs_where_nothing_but_torch_timm_numpy_and_pydantic_is_installed(tmp_path: Path) -> None:
    program = f"""
import sys
known = {{"torch", "torchvision", "timm", "numpy", "pydantic"}}
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name in ("ray", "deepspeed", "cv2", "simplejpeg", "webdataset", "pyarrow", "transformers", "diffusers",
                    "yaml", "rich", "psutil", "open_clip", "typer"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
from docs.bench.train_gpu import main
sys.exit(main(["--dry", "--rows", "T2", "--out", {str(tmp_path)!r}]))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=HOME.parent, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert list(read(tmp_path)) == ["T2"]


@pytest.mark.parametrize("row", ["T1", "T2"])
def test_our_step_and_timms_take_the_same_weights_to_the_same_place(bench: Bench, row: str) -> None:
    """So neither side does less than the other: same network, loss, optimiser, weight decay."""
    setting = dataclasses.replace(in_small(ROWS[row]).setting, dtype="fp32", channels_last=False, drop_path=0.0)
    ours, theirs = our_side(bench, setting, (setting.batch,)), timm_side(bench, setting)
    start = {name: one.clone() for name, one in ours.model.state_dict().items()}
    assert all(torch.equal(start[name], one) for name, one in theirs.model.state_dict().items())
    pictures, labels = synthetic(bench, setting)
    for place in (0, 1, 0):
        losses = [side.step(pictures[place], labels[place])() for side in (ours, theirs)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    for name, one in theirs.model.state_dict().items():
        moved = (one - start[name]).double().norm()
        assert (ours.model.state_dict()[name] - one).double().norm() <= 1e-2 * moved + 1e-6, name


def test_the_sides_with_auxiliary_bn_split_the_whole_batch_and_only_they_do(bench: Bench) -> None:
    setting = in_small(ROWS["T1"]).setting
    quotas = {
        name: {layer.quotas for layer in aux_layers(SIDES[name](bench, setting).model).values()}
        for name in ROWS["T1"].sides
    }
    assert quotas == {OURS: set(), TIMM: set(), AUX: {(32, 32)}, AUX_GROUPS: {(16, 16)}}


def test_counted_arithmetic_is_that_of_the_published_networks() -> None:
    """4.09 and 4.46 G multiply-adds forward, and twice that back."""
    assert 1e3 * teraflop("resnet50", 224) == pytest.approx(3 * 2 * 4.089, rel=1e-3)
    assert 1e3 * teraflop("convnext_tiny", 224) == pytest.approx(3 * 2 * 4.456, rel=1e-3)


# what is measured, by sides that take as long as they are told


class Clock:
    def __init__(self) -> None:
        self.s = 0.0

    def __call__(self) -> float:
        return self.s


def painted(clock: Clock, seconds: Sequence[float], turns: list[str], name: str) -> Callable[[Bench, Setting], Side]:
    """A side whose steps take so long, one after another; the last again and again."""
    left = iter(seconds)
    last = seconds[-1]

    def step(pictures: Tensor, labels: Tensor) -> Callable[[], float]:
        turns.append(name)
        clock.s += next(left, last)
        return lambda: 1.0

    return lambda bench, setting: Side(nn.Identity(), step)


SETTING = in_small(ROWS["T1"]).setting
PAIR = Row(SETTING, ("a", "b"), (Target("b", "a", 0.97, "b costs at most 3 %"),), need_s=10, budget_s=1000)


def test_sides_take_turns_in_five_windows_after_a_step_that_is_not_timed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, turns = Clock(), list[str]()
    monkeypatch.setitem(SIDES, "a", painted(clock, [50.0, *[0.25] * 4], turns, "a"))
    monkeypatch.setitem(SIDES, "b", painted(clock, [80.0, *[0.5] * 4], turns, "b"))
    bench = judging(clock)
    result = measure(bench, "T9", PAIR)
    assert "".join(turns) == "aaaaabbbbb" + "aaabbb" * WINDOWS, "windows of two steps, a second of the slower side"
    a, b = result.lines
    assert (a.figures["images/s"], b.figures["images/s"]) == ((256.0,) * 5, (128.0,) * 5)
    assert (a.figures["first step s"], a.figures["warm-up s"]) == ((50.0,), (1.0,))
    assert "| b | 128 (128 - 128) |" in section("T9", result)
    assert section("T9", result).count("| 2x (2 - 2) |") == 1
    assert result.verdicts == [Verdict("b costs at most 3 %", "0.500x a", False)]


def test_a_side_for_which_no_time_is_left_is_named_and_the_others_have_their_figures(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    monkeypatch.setitem(SIDES, "a", painted(clock, [600.0, 0.1], [], "a"))
    monkeypatch.setitem(SIDES, "b", painted(clock, [600.0, 0.1], [], "b"))
    bench = judging(clock)
    result = measure(bench, "T9", PAIR)
    assert "| b: not run: time (400 s were left; run it with --rows) |" in section("T9", result)
    assert len(result.lines[0].figures["images/s"]) == WINDOWS
    assert not result.whole
    assert result.verdicts == [Verdict("b costs at most 3 %", "no figure for: b", None)]


def test_a_row_whose_windows_outlast_the_time_says_so_in_every_line(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    for name in PAIR.sides:
        monkeypatch.setitem(SIDES, name, painted(clock, [1.0] * 8 + [200.0], [], name))
    bench = judging(clock)
    result = measure(bench, "T9", PAIR)
    assert [line.not_run for line in result.lines] == ["not run: time (0 s were left; run it with --rows)"] * 2


def test_a_row_that_is_not_begun_names_its_sides_and_the_reason() -> None:
    clock = Clock()
    bench = judging(clock, deadline=9.0)
    result = measure(bench, "T9", PAIR)
    assert [line.not_run for line in result.lines] == ["not run: time (9 s were left and 10 wanted; --rows T9)"] * 2
    assert result.verdicts == [Verdict("b costs at most 3 %", "no figure", None)]


def test_a_batch_that_does_not_fit_is_halved_for_all_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, made = Clock(), list[tuple[str, int]]()

    def make(name: str, fits: int) -> Callable[[Bench, Setting], Side]:
        def side(bench: Bench, setting: Setting) -> Side:
            made.append((name, setting.batch))
            if setting.batch > fits:
                raise torch.OutOfMemoryError("full")
            return painted(clock, [0.1], [], name)(bench, setting)

        return side

    monkeypatch.setitem(SIDES, "a", make("a", 256))
    monkeypatch.setitem(SIDES, "b", make("b", 64))
    row = dataclasses.replace(PAIR, setting=dataclasses.replace(SETTING, batch=256))
    bench = judging(clock)
    assert ", batch 64, " in measure(bench, "T9", row).title
    assert made == [("a", 256), ("b", 256), ("a", 128), ("b", 128), ("a", 64), ("b", 64)]
    monkeypatch.setitem(SIDES, "b", make("b", 8))
    lines = measure(bench, "T9", row).lines
    assert [line.not_run for line in lines] == ["FAILED, OutOfMemoryError: full"] * 2


@pytest.mark.parametrize("good_steps", [0, 3, 8])
def test_a_side_with_a_loss_that_is_not_finite_is_not_measured_and_the_other_goes_on(
    monkeypatch: pytest.MonkeyPatch, good_steps: int
) -> None:
    clock = Clock()
    left = iter([1.0] * good_steps)

    def step(pictures: Tensor, labels: Tensor) -> Callable[[], float]:
        loss = next(left, math.nan)
        clock.s += 0.1
        return lambda: loss

    bad = Side(nn.Identity(), step)
    monkeypatch.setitem(SIDES, "a", lambda bench, setting: bad)
    monkeypatch.setitem(SIDES, "b", painted(clock, [0.1], [], "b"))
    bench = judging(clock)
    a, b = measure(bench, "T9", PAIR).lines
    assert a.not_run is not None
    assert a.not_run.startswith("FAILED, ValueError: found a loss of nan")
    assert b.not_run is None
    assert len(b.figures["images/s"]) == WINDOWS


def test_our_own_step_that_skips_counts_as_not_finite(bench: Bench) -> None:
    side = our_side(bench, SETTING, (SETTING.batch,))
    pictures, labels = synthetic(bench, SETTING)
    assert math.isnan(side.step(pictures[0] * math.inf, labels[0])())


# what is written


def a_result(title: str, met: bool | None = None, not_run: str | None = None) -> Result:
    where = {
        "date": "2026-01-01",
        "device": "a GPU",
        "cores": 2,
        "versions": {"torch": "2"},
        "ceilings": {"matmul TFLOP/s": (1.0,)},
        "dry": False,
    }
    figures = {} if not_run else {"images/s": (4.0, 2.0, 1.0)}
    lines = [Line("ours", figures, not_run), Line("theirs", {"images/s": (2.0, 0.5, 0.125)})]
    return Result(title, lines, [Verdict("a target", "1", met)], where=where)


def test_other_rows_keep_what_their_own_last_run_said(tmp_path: Path) -> None:
    write(tmp_path, {"T1": a_result("first"), "T3": a_result("third")})
    write(tmp_path, {"T2": a_result("second"), "T3": a_result("third anew")})
    assert [(name, one.title) for name, one in read(tmp_path).items()] == [
        ("T1", "first"),
        ("T2", "second"),
        ("T3", "third anew"),
    ]
    text = (tmp_path / TABLES).read_text()
    assert text.index("### T1: first") < text.index("### T2: second") < text.index("### T3: third anew")
    assert "| ours | 2 (1 - 4) | 1 |" in text
    assert "| theirs | 0.5 (0.125 - 2) | 4x (2 - 8) |" in text


def test_a_run_elsewhere_is_taken_over_into_the_marked_part_of_the_page(tmp_path: Path) -> None:
    home, away = tmp_path / "docs", tmp_path / "away"
    home.mkdir()
    (home / PAGE).write_text(f"before\n{MARKS[0]}\nold\n{MARKS[1]}\nafter\n")
    write(away, {"T1": a_result("first")})
    assert main(["--from", str(away), "--out", str(home)]) == 0
    page = (home / PAGE).read_text()
    assert page.startswith(f"before\n{MARKS[0]}\n### T1: first\n")
    assert "\n*Where:* 2026-01-01, a GPU, 2 CPU cores; torch 2. Ceilings: matmul TFLOP/s 1.\n" in page
    assert page.endswith(f"\n{MARKS[1]}\nafter\n")
    assert sorted(path.name for path in home.iterdir()) == [PAGE, NUMBERS]
    with pytest.raises(SystemExit):
        main(["--from", str(tmp_path), "--out", str(home)])


def test_the_page_has_the_place_for_the_tables() -> None:
    page = (HOME / PAGE).read_text()
    assert page.count(MARKS[0]) == page.count(MARKS[1]) == 1


@pytest.mark.parametrize(
    ("met", "not_run", "code"), [(None, None, 0), (True, None, 0), (False, None, 1), (True, "not run: time", 1)]
)
def test_the_exit_code_tells_of_a_missed_target_and_of_a_side_that_was_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, met: bool | None, not_run: str | None, code: int
) -> None:
    monkeypatch.setattr(bench_train_gpu, "measure", lambda bench, name, row: a_result("a", met, not_run))
    assert main(["--dry", "--rows", "T1", "--out", str(tmp_path)]) == code


def test_an_interrupted_run_keeps_the_rows_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(bench: Bench, name: str, row: Row) -> Result:
        if name == "T3":
            raise KeyboardInterrupt
        return a_result(name)

    monkeypatch.setattr(bench_train_gpu, "measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        main(["--dry", "--out", str(tmp_path)])
    assert list(read(tmp_path)) == ["T1", "T2"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [NUMBERS, TABLES]


def test_an_unknown_row_is_refused_with_the_names_of_all(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--dry", "--rows", "T1,T99"])
    assert f"found T99, expected some of {','.join(ROWS)}" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_what_can_be_run(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--rows", "T1"])
    assert "torch sees no GPU here; run with --dry" in capsys.readouterr().err


@pytest.fixture
def bench() -> Bench:
    return judging(Clock())


def judging(clock: Callable[[], float], deadline: float = math.inf) -> Bench:
    """On the CPU, but with targets that are judged."""
    return Bench(dry=False, device=CPU, deadline=deadline, matmul_tflops=1.0, clock=clock)
