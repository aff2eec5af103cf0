"""`sixfold simulate`: forecasts in the units people know, and mistakes in one line."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import sixfold
from cluster.submit.simulate import Setting, best, describe, foresee, other_units
from shards.disk.checked_json import to_checked
from shards.disk.store import open_store
from shards.set.status import SUMMARY
from tests.support.small_data_set import write_data_set

SMALL = ("simulate", "--gpus", "4", "--images", "8k", "--unit", "100", "--worlds", "1")


def says(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of `sixfold ARGUMENTS`."""
    monkeypatch.setattr(sys, "argv", ["sixfold", *arguments])
    with pytest.raises(SystemExit) as ended:
        sixfold.main()
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err


def test_a_forecast_is_a_short_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    code, told, _ = says(monkeypatch, capsys, *SMALL, "--storage", "5GB/s", "--model", "2GB")
    assert code == 0
    rows = [line.split()[0] for line in told.splitlines()]
    assert rows[:7] == ["run", "makespan", "GPU-hours", "lost", "storage", "driver", "unit"]
    assert "8,000 images in 80 units of 100, on 4 GPUs of 6 images/s" in told
    assert "of 5.0 GB/s" in told
    assert max(map(len, told.splitlines())) < 200


def test_the_same_command_tells_the_same_and_another_seed_another(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = (*SMALL, "--no-other-units", "--mtbf-hours", "0.5")
    told = [says(monkeypatch, capsys, *asked, *more)[1] for more in ((), (), ("--seed", "1"))]
    assert told[0] == told[1]
    assert told[1] != told[2]


def test_json_has_every_figure(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    code, told, _ = says(
        monkeypatch, capsys, *SMALL, "--json", "--limit-hours", "0.1", "--queue-hours", "1", "--mtbf-hours", "1"
    )
    found = json.loads(told)
    assert code == 0
    assert found["units"] == 80
    assert found["allocations"] >= 2
    assert found["queued_s"] == 3600 * (found["allocations"] - 1)
    assert found["ratio"] == pytest.approx(found["makespan_s"] / found["ideal_s"], rel=1e-3)
    assert sum(found["shares"].values()) == pytest.approx(1, abs=0.001)
    assert found["lost_gpu_hours"] > 0
    assert found["best_unit"] in (100, 250, 500, 1000, 2500, 5000, 10_000)


def test_the_rates_of_a_set_that_was_made_are_taken_from_its_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "set"
    write_data_set(out, num_shards=4, num_slots=20)
    open_store(str(out)).replace(SUMMARY, to_checked({"asked": {"units": 4}, "work": {"start_s": 33.0}}))
    asked = ("simulate", "--gpus", "4", "--images", "8k", "--from", str(out), "--json", "--no-other-units")
    code, told, err = says(monkeypatch, capsys, *asked, "--images-per-s", "2.5", "--compile-s", "10")
    found = json.loads(told)["setting"]
    assert code == 0
    assert found["unit"] == 20
    assert found["start_s"] == 43.0
    assert found["images_per_s"] == 2.5, "what is given counts more"
    assert found["image_bytes"] > 100
    assert "images/s of a worker, by 4 shards" in err


def test_a_run_that_would_not_end_is_told_with_its_cause_and_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = (*SMALL, "--no-other-units", "--model", "900GB", "--storage", "1GB/s")
    code, told, _ = says(monkeypatch, capsys, *asked)
    assert code == 3
    assert "limit     the run ends with 0 units done: no worker could be started on any node" in told
    assert "start_deadline_s" in told


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--images", "many"), "number: found 'many', expected one such as 300k, 7.7M, 1B or 12,000"),
        (("--gpus", "0"), "--gpus: found 0, expected 1 to 100,000"),
        (("--unit", "20000"), "--unit: found 20000, expected 1 to 10,000"),
        (("--images-per-s", "0"), "--images-per-s: found 0, expected 0.0001 to 1,000,000"),
        (("--storage", "fast"), "size: found 'fast', expected a number with kB, MB, GB or TB, such as 4GB"),
        (("--mtbf-hours", "-1"), "--mtbf-hours: found -1, expected 0 to 1,000,000,000"),
        (("--away-minutes", "-1"), "--away-minutes: found -1, expected 0 to 1,000,000"),
        (("--spread", "nan"), "--spread: found nan, expected 0 to 0.5"),
        (("--queue-hours", "inf"), "--queue-hours: found inf, expected 0 to 1,000,000"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_was_expected(
    arguments: tuple[str, str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, told, err = says(monkeypatch, capsys, *SMALL, *arguments)
    assert code == 2
    assert told == ""
    assert err == f"sixfold: {said}\n"


def test_a_set_with_too_few_shards_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_data_set(tmp_path / "set", num_shards=1)
    code, _, err = says(monkeypatch, capsys, *SMALL, "--from", str(tmp_path / "set"))
    assert code == 2
    assert "found fewer than 3 shards with images" in err
    assert "give --images-per-s instead" in err


def test_a_set_that_would_have_too_many_shards_says_which_units_fit() -> None:
    setting = Setting(gpus=2000, images=300_000, unit=1, images_per_s=1e4, unit_s=0.0)
    [line] = [line for line in foresee(setting).limits() if "a data set holds" in line]
    assert line.startswith("300,000 shards, a data set holds 100,000: raise --unit to 3 or more (at most 10,000 over")


def test_only_units_whose_shards_fit_are_compared_and_of_equals_the_largest_is_best() -> None:
    setting = Setting(gpus=64, images=100_000_000)
    assert other_units(setting) == [2500, 5000, 10_000]
    run = foresee(replace(setting, images=10_000, gpus=2))
    again = replace(run, setting=replace(run.setting, unit=2500))
    assert best([run, again]).setting.unit == 2500


def test_what_limits_a_run_is_named() -> None:
    few = foresee(Setting(gpus=64, images=64_000))
    assert "units a GPU: the last ones leave GPUs idle; lower --unit" in describe(few)
    narrow = foresee(Setting(gpus=64, images=640_000, storage_bytes_per_s=5e6))
    assert any(line.startswith("the storage: shards wait to be written") for line in narrow.limits())
    busy = foresee(Setting(gpus=2000, images=2_000_000, unit=10, unit_s=0.0, stragglers=0.0))
    assert any(line.startswith("the driver: it hears of units late") for line in busy.limits())
