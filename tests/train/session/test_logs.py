"""What a training says: lines that are kept or counted, numbers for W&B, the pace at the terminal."""

import json
import sys
from pathlib import Path

import pytest

from shards.stream.stream import Replaced
from train.session.logs import MAX_REPLACED, Pace, ReplacedLog, RunLog

DIGEST = "0123456789abcdef" * 4
FAKE_WANDB = """
calls = []


class Run:
    summary = {}

    def log(self, numbers, step):
        calls.append(("log", numbers, step))

    def finish(self):
        calls.append(("finish",))


def init(project, name, dir, resume, id):
    calls.append(("init", project, name, dir, resume, id))
    return Run()
"""


def bad(step: int) -> Replaced:
    return Replaced(step, 1, 0, "real", "00001.tar", "00000000000000ff", "damaged", "cut short")


# log.jsonl


def test_a_number_that_is_not_finite_is_text(tmp_path: Path) -> None:
    with RunLog(tmp_path, "none", DIGEST, clock=lambda: 12.3456) as log:
        log.line("train", 3, loss=float("nan"), parts=[float("inf"), 1.5])
    (line,) = (tmp_path / "log.jsonl").read_text().splitlines()
    assert json.loads(line) == {"time": 12.346, "kind": "train", "step": 3, "loss": "nan", "parts": ["inf", 1.5]}


def test_d7_lines_for_which_there_is_no_room_are_counted_and_the_training_goes_on(tmp_path: Path) -> None:
    """A limit on the size of files cuts the second line in two."""
    import subprocess

    program = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from train.session.logs import RunLog\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "with RunLog(Path(sys.argv[1]), 'none', '') as log:\n"
        "    log.line('one', 1)\n"
        "    limit = (Path(sys.argv[1]) / 'log.jsonl').stat().st_size + 9\n"
        "    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))\n"
        "    for step in (2, 3):\n"
        "        log.line('two', step)\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))\n"
        "    log.line('three', 4)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stderr.count("log.jsonl: a line was lost") == 1
    first, torn, lost, last = (tmp_path / "log.jsonl").read_text().splitlines()
    assert json.loads(first)["kind"] == "one"
    assert len(torn) == 9
    assert json.loads(lost) == {"kind": "lost", "lines": 2}
    assert json.loads(last)["kind"] == "three"


def test_wandb_gets_the_numbers_of_a_run_named_by_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wandb.py").write_text(FAKE_WANDB)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    with RunLog(tmp_path / "run", "wandb", DIGEST) as log:
        log.line("train", 7, loss=0.5, domain="real", skipped=0)
    calls = sys.modules["wandb"].calls
    monkeypatch.delitem(sys.modules, "wandb")
    assert calls == [
        ("init", "sixfold", "run", str(tmp_path / "run"), "allow", calls[0][-1]),
        ("log", {"train/loss": 0.5, "train/skipped": 0}, 7),
        ("finish",),
    ]


def test_no_two_trainings_share_a_run_of_wandb_and_one_that_goes_on_keeps_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stages of two runs of a sweep have one name and one recipe."""
    (tmp_path / "wandb.py").write_text(FAKE_WANDB)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.chdir(tmp_path)
    places = ["sweep/a", "sweep/b", "sweep/a/stages/first", "sweep/b/stages/first", "other/a", "other/a/stages/first"]
    for place in [*places, *map(str, map(tmp_path.joinpath, places))]:  # relative, then absolute
        RunLog(Path(place), "wandb", DIGEST).__exit__(None, None, None)
    RunLog(Path(places[0]), "wandb", DIGEST[::-1]).__exit__(None, None, None)
    calls = [call for call in sys.modules["wandb"].calls if call[0] == "init"]
    monkeypatch.delitem(sys.modules, "wandb")
    ids = [call[-1] for call in calls]
    assert ids[: len(places)] == ids[len(places) : -1]
    assert len(set(ids)) == len(places) + 1
    assert not [one for one in ids if set(one) & set("/\\#?%:")]
    assert [call[2] for call in calls[:4]] == ["a", "b", "a/first", "b/first"]


def test_wandb_keeps_what_is_measured_at_the_end_for_each_set_though_its_step_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It drops what is logged for a step before its last one, and the chosen step is such a one."""
    (tmp_path / "wandb.py").write_text(FAKE_WANDB)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    with RunLog(tmp_path / "run", "wandb", DIGEST) as log:
        log.line("train", 900, loss=0.5)
        log.line("test", 600, set="real-test", top1=0.92)
        log.line("test", 600, set="sketch", top1=0.6)
        log.line("leep", 0, of="start", leep=-1.5)
    calls, summary = sys.modules["wandb"].calls, sys.modules["wandb"].Run.summary
    monkeypatch.delitem(sys.modules, "wandb")
    assert [call for call in calls if call[0] == "log"] == [("log", {"train/loss": 0.5}, 900)]
    assert summary == {
        **{"test/real-test/top1": 0.92, "test/real-test/step": 600, "test/sketch/top1": 0.6, "test/sketch/step": 600},
        **{"leep/start/leep": -1.5, "leep/start/step": 0},
    }


def test_without_wandb_the_way_out_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match=r"pip install wandb`, or set log: tensorboard"):
        RunLog(tmp_path, "wandb", DIGEST)


# TensorBoard


def test_tensorboard_tells_apart_what_is_measured_on_several_sets(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with RunLog(tmp_path, "tensorboard", DIGEST) as log:
        log.line("validation", 600, top1=0.95, top1_synthetic=0.9)
        for name, top1 in {"real-test": 0.92, "sketch": 0.6}.items():
            log.line("test", 600, set=name, top1=top1)
        for name, nats in {"start": -1.5, "synthetic": -0.5}.items():
            log.line("leep", 0, of=name, leep=nats)
        log.line("leep", 0, of="second", reason="it has no classifier")
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    found = {tag: [(one.step, round(one.value, 3)) for one in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert found == {
        "validation/top1": [(600, 0.95)],
        "validation/top1_synthetic": [(600, 0.9)],
        "test/real-test/top1": [(600, 0.92)],
        "test/sketch/top1": [(600, 0.6)],
        "leep/start/leep": [(0, -1.5)],
        "leep/synthetic/leep": [(0, -0.5)],
    }


# replaced-<rank>.jsonl


def test_d6_samples_that_a_rank_could_not_read_are_named_over_all_its_lives(tmp_path: Path) -> None:
    for steps in ([1, 2], [], [3]):
        with ReplacedLog(tmp_path, 5) as log:
            log.add(bad(step) for step in steps)
    rows = [json.loads(line) for line in (tmp_path / "replaced-5.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert (rows[0]["tar"], rows[0]["uid"], rows[0]["detail"]) == ("00001.tar", "00000000000000ff", "cut short")


def test_a_rank_that_reads_everything_leaves_no_file(tmp_path: Path) -> None:
    with ReplacedLog(tmp_path, 0) as log:
        log.add([])
    assert list(tmp_path.iterdir()) == []


def test_only_so_many_samples_are_named_and_the_last_line_says_how_many_more(tmp_path: Path) -> None:
    with ReplacedLog(tmp_path, 0) as log:
        log.add(bad(step) for step in range(MAX_REPLACED - 1))
    with ReplacedLog(tmp_path, 0) as log:
        log.add(bad(step) for step in range(4))
    lines = (tmp_path / "replaced-0.jsonl").read_text().splitlines()
    assert len(lines) == MAX_REPLACED + 1
    assert json.loads(lines[-1]) == {"more": 3}


def test_a_file_of_names_that_cannot_be_read_does_not_end_a_training(tmp_path: Path) -> None:
    (tmp_path / "replaced-0.jsonl").mkdir()
    with ReplacedLog(tmp_path, 0) as log:
        log.add([bad(1)])


# the pace


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_pace_is_said_every_ten_seconds() -> None:
    clock = Clock()
    pace = Pace(1000, 32, 0, 0.0, clock)
    clock.now += 9
    assert pace.line(9, 2.0, 1.0) is None
    clock.now += 1
    assert pace.line(10, 2.0, 1.0) == ("step 10/1000 · loss 2.000 · 32 images/s · 10% waiting for data · 16m30s left")
    assert pace.line(11, 2.0, 1.0) is None


def test_what_earlier_lives_waited_is_not_this_ones(tmp_path: Path) -> None:
    clock = Clock()
    pace = Pace(1000, 32, 500, 600.0, clock)
    clock.now += 12
    line = pace.line(524, 1.0, 603.0)
    assert line is not None
    assert "64 images/s · 25% waiting for data" in line


def test_the_pace_is_that_of_the_last_minute() -> None:
    clock = Clock()
    pace = Pace(10_000, 10, 0, 0.0, clock)
    clock.now += 61
    assert pace.line(61, 1.0, 61.0) is not None
    clock.now += 20
    line = pace.line(261, 1.0, 61.0)
    assert line is not None
    assert "100 images/s · 0% waiting for data" in line
