"""Figures of a training for Prometheus: counted from its log, each life once, and told by Ray's agent."""

import json
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import pytest

from cluster.fan_out.metrics import METRICS
from cluster.recipes.load import dump_recipe
from tests.support import warm
from tests.support.ray_head import ray_head, scraped
from tests.support.small_training import small_recipe, write_sets
from train.session.figures import LoggedFigures
from train.session.logs import LOG


class Kept:
    """An exporter that keeps what it is given."""

    def __init__(self) -> None:
        self.counters: dict[str, float] = defaultdict(float)
        self.gauges: dict[str, float] = {}

    def add(self, name: str, value: float, labels: Mapping[str, str]) -> None:
        assert METRICS[name].kind == "counter"
        self.counters[name] += value

    def set(self, name: str, value: float, labels: Mapping[str, str]) -> None:
        assert METRICS[name].kind == "gauge"
        self.gauges[name] = value


def write(folder: Path, *rows: Mapping[str, object] | bytes) -> None:
    with (folder / LOG).open("ab") as file:
        for row in rows:
            file.write(row if isinstance(row, bytes) else json.dumps(row).encode() + b"\n")


def step(number: int, **changes: object) -> dict[str, object]:
    return {
        **{"kind": "train", "step": number, "loss": 1.5, "images": 8 * number, "seconds": 2.0 * number},
        **{"wait_s": 0.5 * number},
        **changes,
    }


def test_a_log_becomes_steps_and_seconds_and_images(tmp_path: Path) -> None:
    kept = Kept()
    figures = LoggedFigures(tmp_path, 100, kept)
    figures.look()
    assert kept.gauges == {}, "there is no log yet"
    write(tmp_path, {"kind": "started", "step": 0}, step(1), step(4))
    figures.look()
    write(tmp_path, step(10))
    figures.look()
    figures.look()
    assert kept.gauges == {"sixfold_train_step": 10, "sixfold_train_steps": 100, "sixfold_train_loss": 1.5}
    assert kept.counters == {
        "sixfold_train_images_total": 80,
        "sixfold_train_seconds_total": 20.0,
        "sixfold_train_data_wait_seconds_total": 5.0,
    }


def test_what_earlier_lives_have_logged_is_not_counted_again(tmp_path: Path) -> None:
    write(tmp_path, step(1), step(50))
    kept = Kept()
    figures = LoggedFigures(tmp_path, 100, kept)
    write(tmp_path, step(40))
    figures.look()
    assert sum(kept.counters.values()) == 0, "where it goes on from"
    write(tmp_path, step(45))
    figures.look()
    assert kept.counters["sixfold_train_images_total"] == 40


def test_a_line_that_is_half_written_is_read_when_it_is_whole(tmp_path: Path) -> None:
    kept = Kept()
    figures = LoggedFigures(tmp_path, 100, kept)
    line = json.dumps(step(3)).encode() + b"\n"
    write(tmp_path, line[:20])
    figures.look()
    assert kept.gauges == {}
    write(tmp_path, line[20:])
    figures.look()
    assert kept.gauges["sixfold_train_step"] == 3


@pytest.mark.parametrize(
    "damage",
    [
        *(b"{\n", b"[]\n", b"\xff\n", b"[" * 9999 + b"\n"),
        *(b'{"kind": "train"}\n', b'{"kind": "train", "step": "x", "seconds": null}\n'),
    ],
)
def test_a_damaged_line_and_a_loss_that_is_no_number_are_left_out(tmp_path: Path, damage: bytes) -> None:
    kept = Kept()
    figures = LoggedFigures(tmp_path, 100, kept)
    write(tmp_path, step(1), damage, step(2, loss="nan"))
    figures.look()
    assert (kept.gauges["sixfold_train_step"], kept.gauges["sixfold_train_loss"]) == (2, 1.5)
    assert kept.counters["sixfold_train_images_total"] == 16


@pytest.mark.timeout(600)
def test_the_agent_of_a_users_cluster_tells_prometheus_how_a_training_waits_for_data(tmp_path: Path) -> None:
    write_sets(tmp_path)
    (tmp_path / "recipe.yaml").write_text(dump_recipe(small_recipe(tmp_path)))
    words = ["-m", "sixfold", "train", str(tmp_path / "recipe.yaml"), "--ranks", "1", "--out", str(tmp_path / "run")]
    with ray_head() as head:
        command = warm.start(words, tmp_path, head.environment)
        assert command.wait(300) == 0, command.said()
        deadline = time.monotonic() + 60
        while not (found := scraped(head.metrics) or {}).get("ray_sixfold_train_data_wait_seconds_total"):
            assert time.monotonic() < deadline, found
            time.sleep(0.5)
    assert [value for _, value in found["ray_sixfold_train_images_total"]] == [6 * 16]
    assert [value for _, value in found["ray_sixfold_train_steps"]] == [6]
    [(_, wait_s)], [(_, all_s)] = (
        found[f"ray_sixfold_train_{name}_total"] for name in ("data_wait_seconds", "seconds")
    )
    assert 0 < wait_s <= all_s
