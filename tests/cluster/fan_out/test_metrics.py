"""Figures for Prometheus: what a run counts, under which names, and what Ray's agent says of it over HTTP."""

import re
import sys
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import pytest

from cluster.fan_out import metrics
from cluster.fan_out.events import Event, Kind
from cluster.fan_out.metrics import METRICS, MOST_REASONS, OTHER, PREFIX, RayExporter, RunMetrics
from cluster.fan_out.work import FanOutSpec
from tests.support import warm
from tests.support.ray_head import ray_head, scraped

SPEC = FanOutSpec(gpus_per_worker=0.5)


class Kept:
    """An exporter that keeps what it is given."""

    def __init__(self) -> None:
        self.counters: dict[tuple[str, str], float] = defaultdict(float)
        self.gauges: dict[str, float] = {}

    def add(self, name: str, value: float, labels: Mapping[str, str]) -> None:
        assert METRICS[name].kind == "counter"
        assert set(labels) == set(METRICS[name].labels)
        assert value >= 0, "a counter never falls"
        self.counters[name, labels.get("reason", "")] += value

    def set(self, name: str, value: float, labels: Mapping[str, str]) -> None:
        assert METRICS[name].kind == "gauge"
        assert set(labels) == set(METRICS[name].labels)
        self.gauges[name] = value

    def count(self, name: str, reason: str = "") -> float:
        return self.counters[f"sixfold_{name}_total", reason]


class Run:
    """A fan-out that a test tells what happens."""

    def __init__(
        self, num_units: int = 3, spec: FanOutSpec = SPEC, noun: str = "images", has_gpus: bool = True
    ) -> None:
        self.kept = Kept()
        self.metrics = RunMetrics("s3://bucket/set", num_units, spec, noun, self.kept, lambda: has_gpus)

    def tell(self, kind: Kind, **fields: object) -> None:
        self.metrics(Event(kind=kind, at_s=0.0, **fields))  # type: ignore[arg-type]


def test_images_are_counted_as_they_are_made_and_rejects_by_reason_when_the_unit_is_done() -> None:
    run = Run()
    run.tell("worker_ready", worker=0)
    run.tell("unit_started", worker=0, unit=7)
    run.tell("unit_progress", worker=0, unit=7, done=3, rejected=1)
    assert (run.kept.count("images"), run.kept.count("rejects", "blank")) == (3, 0)
    run.tell("unit_progress", worker=0, unit=7, done=8, rejected=2)
    run.tell("unit_done", worker=0, unit=7, done=10, rejected=3, data={"rejected": {"blank": 2, "flagged": 1}})
    assert run.kept.count("images") == 10
    assert (run.kept.count("rejects", "blank"), run.kept.count("rejects", "flagged")) == (2, 1)
    assert (run.kept.count("units_done"), run.kept.gauges["sixfold_units_left"]) == (1, 2)


def test_a_unit_that_is_made_again_counts_again_because_a_gpu_made_it() -> None:
    run = Run()
    for worker, failed in ((0, True), (1, False)):
        run.tell("unit_started", worker=worker, unit=7)
        run.tell("unit_progress", worker=worker, unit=7, done=4)
        run.tell("unit_failed" if failed else "unit_done", worker=worker, unit=7, done=4)
    assert run.kept.count("images") == 8
    assert (run.kept.count("units_failed"), run.kept.count("units_retried"), run.kept.count("units_done")) == (1, 1, 1)


def test_workers_gpus_and_the_queue_are_told_as_they_are_now() -> None:
    run = Run(num_units=5)
    for worker in range(3):
        run.tell("worker_ready", worker=worker)
        run.tell("unit_started", worker=worker, unit=worker)
    gauges = run.kept.gauges
    assert (gauges["sixfold_workers"], gauges["sixfold_gpus"], gauges["sixfold_units_running"]) == (3, 1.5, 3)
    run.tell("worker_lost", worker=1)
    run.tell("unit_failed", worker=1, unit=1)
    run.tell("unit_quarantined", unit=1)
    run.tell("worker_refused", worker=4)
    run.tell("unit_rerun", unit=2)
    assert (gauges["sixfold_workers"], gauges["sixfold_gpus"], gauges["sixfold_units_running"]) == (2, 1.0, 2)
    assert gauges["sixfold_units_left"] == 4
    assert (run.kept.count("workers_lost"), run.kept.count("units_quarantined")) == (1, 1)
    assert run.kept.count("units_rerun") == 1


@pytest.mark.parametrize(("has_gpus", "expected"), [(True, 1), (False, 0)])
def test_a_worker_that_takes_gpus_by_itself_has_one_where_there_are_some(has_gpus: bool, expected: int) -> None:
    run = Run(spec=FanOutSpec(), has_gpus=has_gpus)
    run.tell("worker_ready", worker=0)
    assert run.kept.gauges["sixfold_gpus"] == expected


def test_rows_are_counted_as_rows() -> None:
    run = Run(noun="rows")
    run.tell("unit_started", worker=0, unit=0)
    run.tell("unit_done", worker=0, unit=0, done=1000, data={"rows": 1000})
    assert (run.kept.count("rows"), run.kept.count("images")) == (1000, 0)


def test_a_unit_whose_result_gives_no_reasons_has_other_rejects() -> None:
    run = Run()
    run.tell("unit_done", worker=0, unit=0, done=5, rejected=2)
    assert run.kept.count("rejects", OTHER) == 2


def test_however_many_reasons_a_worker_gives_there_are_a_bounded_number_of_series() -> None:
    run = Run()
    reasons = {f"reason {number}\n": 1 for number in range(1000)}
    run.tell("unit_done", worker=0, unit=0, done=5, rejected=1000, data={"rejected": {**reasons, "odd": "text"}})
    seen = {reason for name, reason in run.kept.counters if name == "sixfold_rejects_total"}
    assert len(seen) == MOST_REASONS + 1
    assert run.kept.count("rejects", OTHER) == 1000 - MOST_REASONS
    assert all(reason.isprintable() for reason in seen)


def test_a_run_in_this_process_tells_nothing() -> None:
    run = Run(spec=FanOutSpec(in_process=True))
    run.tell("worker_ready", worker=0)
    run.tell("unit_done", worker=0, unit=0, done=5)
    assert (run.kept.gauges, dict(run.kept.counters)) == ({}, {})


def test_without_a_session_nothing_is_exported_and_ray_is_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    exporter = RayExporter()
    exporter.add("sixfold_images_total", 1, {"run": "x"})
    exporter.set("sixfold_workers", 1, {"run": "x"})
    assert not metrics.has_gpus()
    assert "ray" not in sys.modules


def test_an_exporter_that_fails_is_not_asked_again_and_harms_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray.util.metrics

    asked = []

    def fail(name: str, about: str, labels: tuple[str, ...]) -> None:
        asked.append(name)
        raise RuntimeError("no agent")

    monkeypatch.setattr(metrics, "is_session_open", lambda: True)
    monkeypatch.setattr(ray.util.metrics, "Counter", fail)
    run = RunMetrics("out", 1, SPEC)
    for _ in range(3):
        run(Event(kind="unit_done", at_s=0.0, worker=0, unit=0, done=5))
    assert asked == ["sixfold_images_total"]


def test_names_keep_the_conventions_of_prometheus() -> None:
    for name, metric in METRICS.items():
        assert re.fullmatch(r"sixfold_[a-z]+(_[a-z]+)*", name)
        assert name.endswith("_total") == (metric.kind == "counter")
        assert not re.search(r"_(ms|minutes|hours|kb|mb|percent)(_|$)", name), "base units"
        assert metric.about


DRIVER = """
import functools, sys
from pathlib import Path
from cluster.fan_out.work import FanOutSpec
from cluster.process.stop_flag import StopFlag
from gen.make.work import held, work_off
from shards.disk.store import open_store
from tests.support import workers
store = open_store(sys.argv[1])
spec = FanOutSpec(workers=1, gpus_per_worker=0, attempts=3)
with StopFlag() as stop, held(store, stop, "generate") as hold:
    make = functools.partial(workers.misbehaving, Path(sys.argv[2]), {1: "broken once"})
    work = work_off(list(range(3)), 30, make, spec, store, stop, hold, 1, "wait")
sys.exit(work.exit_code)
"""


@pytest.mark.timeout(400)
def test_the_agent_of_a_users_cluster_tells_prometheus_what_a_run_did(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with ray_head() as head:
        driver = warm.start(["-c", DRIVER, str(out), str(tmp_path)], environment=head.environment)
        assert driver.wait(200) == 0, driver.said()
        expected = {
            **{"images_total": 30, "units_done_total": 3, "units_failed_total": 1, "units_retried_total": 1},
            **{"workers_lost_total": 1, "units_left": 0, "units_running": 0, "gpus": 0},
        }
        wanted = {f"{PREFIX}sixfold_{name}": value for name, value in expected.items()}
        deadline = time.monotonic() + 60
        found: dict[str, float] = {}
        while not wanted.items() <= found.items():
            assert time.monotonic() < deadline, f"found {found}, expected {wanted}"
            time.sleep(0.5)
            for name, series in (scraped(head.metrics) or {}).items():
                assert all(f'run="{out}"' in labels for labels, _ in series)
                found[name] = sum(value for _, value in series)
        assert found.keys() <= {f"{PREFIX}{name}" for name in METRICS}
