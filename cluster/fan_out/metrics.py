"""Figures of a run for Prometheus, through the agent that Ray runs on every node.

In: events of a fan-out, lines of a training's log. Out: nothing. On disk: nothing. A node's agent answers at
`http://NODE:PORT/metrics`; the port is that of `ray start --metrics-export-port`, else a free one. There each name of
`METRICS` has `ray_` in front; docs/grafana.json shows them.

Nothing is done where no Ray session is open. A figure that cannot be given away is dropped, and the run goes on.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from cluster.fan_out.events import Event
from cluster.fan_out.work import FanOutSpec
from shards.disk.safe_text import visible

PREFIX = "ray_"  # Ray's own, before every name
MOST_REASONS = 50  # of rejected draws, each a series of its own; the rest counts as `OTHER`
OTHER = "other"
MAX_LABEL = 200  # characters
RUN = ("run",)


@dataclass(frozen=True)
class Metric:
    """One figure, and the labels that tell its series apart."""

    kind: Literal["counter", "gauge"]
    about: str
    labels: tuple[str, ...] = RUN


# `run` is the output of the run: a folder or an address.
METRICS: Mapping[str, Metric] = {
    "sixfold_images_total": Metric("counter", "images that passed the screen, those of units that fail later included"),
    "sixfold_rows_total": Metric("counter", "rows of a pool that were embedded, indexed or searched"),
    "sixfold_rejects_total": Metric("counter", "draws that were rejected, in finished units", ("run", "reason")),
    "sixfold_units_done_total": Metric("counter", "units that were finished"),
    "sixfold_units_failed_total": Metric("counter", "attempts at units that failed"),
    "sixfold_units_retried_total": Metric("counter", "attempts at units that had failed before"),
    "sixfold_units_rerun_total": Metric("counter", "units that were started twice because they were slow"),
    "sixfold_units_quarantined_total": Metric("counter", "units that failed too often and are left out"),
    "sixfold_workers_lost_total": Metric("counter", "workers that died or were killed"),
    "sixfold_workers": Metric("gauge", "workers that are ready or at work"),
    "sixfold_gpus": Metric("gauge", "GPUs that these workers reserve"),
    "sixfold_units_running": Metric("gauge", "units at work now"),
    "sixfold_units_left": Metric("gauge", "units that are neither finished nor left out: the queue, and those at work"),
    "sixfold_train_step": Metric("gauge", "steps that a training has made"),
    "sixfold_train_steps": Metric("gauge", "steps that were asked for"),
    "sixfold_train_loss": Metric("gauge", "loss of the last step that was logged"),
    "sixfold_train_images_total": Metric("counter", "images that all ranks have trained on"),
    "sixfold_train_seconds_total": Metric("counter", "seconds of training, evaluation and saving left out"),
    "sixfold_train_data_wait_seconds_total": Metric("counter", "of these, seconds that rank 0 waited for data"),
}


class Exporter(Protocol):
    """Takes figures. Neither call raises."""

    def add(self, name: str, value: float, labels: Mapping[str, str]) -> None:
        """Raise a counter of `METRICS`."""

    def set(self, name: str, value: float, labels: Mapping[str, str]) -> None:
        """Set a gauge of `METRICS`."""


class RayExporter:
    """Gives figures to Ray, while a session is open in this process."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}
        self._is_broken = False

    def add(self, name: str, value: float, labels: Mapping[str, str]) -> None:
        """Nothing for 0: Ray takes no such step of a counter."""
        if value > 0:
            self._do(lambda: self._metric(name).inc(value, tags=dict(labels)))

    def set(self, name: str, value: float, labels: Mapping[str, str]) -> None:
        """The last value counts."""
        self._do(lambda: self._metric(name).set(value, tags=dict(labels)))

    def _do(self, call: Callable[[], None]) -> None:
        if self._is_broken or not is_session_open():
            return
        try:
            call()
        except Exception:  # Ray's own classes, and what other versions of it raise: a figure is never worth a run
            self._is_broken = True

    def _metric(self, name: str) -> Any:
        if name not in self._made:
            from ray.util.metrics import Counter, Gauge

            metric = METRICS[name]
            kind = Counter if metric.kind == "counter" else Gauge
            self._made[name] = kind(name, metric.about, metric.labels)
        return self._made[name]


def run_label(run: str) -> dict[str, str]:
    """The label that tells the series of one run: the end of its folder or address."""
    return {"run": visible(run)[-MAX_LABEL:]}


def is_session_open() -> bool:
    """Whether this process is connected to a Ray cluster; does not import Ray."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def has_gpus() -> bool:
    """Whether a living node of the cluster has a whole GPU: then `auto` means one for each worker."""
    if not is_session_open():
        return False
    import ray

    return any(node["Alive"] and node["Resources"].get("GPU", 0) >= 1 for node in ray.nodes())


@dataclass
class _Unit:
    """What was told of the unit that a worker makes."""

    unit: int | None
    done: int = 0


@dataclass
class RunMetrics:
    """The figures of a fan-out; give it each event, as to `Progress`.

    `run` names the output. `num_units`: how many this life has to do. `noun`: what is counted, images or rows.
    `ask_gpus`: whether the cluster has GPUs; asked once, when a worker is ready.
    """

    run: str
    num_units: int
    spec: FanOutSpec
    noun: str = "images"
    exporter: Exporter = field(default_factory=RayExporter)
    ask_gpus: Callable[[], bool] = has_gpus

    def __post_init__(self) -> None:
        assert f"sixfold_{self.noun}_total" in METRICS, self.noun
        self._labels = run_label(self.run)
        self._ready: set[int] = set()
        self._flying: dict[int, _Unit] = {}
        self._failed: set[int] = set()  # units that are going to be tried again
        self._reasons: set[str] = set()
        self._left = self.num_units
        self._gpus_each: float | None = None

    def __call__(self, event: Event) -> None:
        """Count what happened."""
        if self.spec.in_process:
            return
        worker = -1 if event.worker is None else event.worker
        match event.kind:
            case "worker_ready":
                self._ready.add(worker)
                self._tell_state()
            case "worker_lost" | "worker_killed" | "worker_refused":
                self._ready.discard(worker)
                self._flying.pop(worker, None)
                if event.kind != "worker_refused":
                    self._add("sixfold_workers_lost_total")
                self._tell_state()
            case "unit_started":
                self._flying[worker] = _Unit(event.unit)
                if event.unit in self._failed:
                    self._add("sixfold_units_retried_total")
                self._tell_state()
            case "unit_progress":
                self._count(worker, event)
            case "unit_done":
                self._count(worker, event)
                self._flying.pop(worker, None)
                self._settle(event)
                self._add("sixfold_units_done_total")
                self._count_rejects(event)
                self._tell_state()
            case "unit_failed":
                self._flying.pop(worker, None)
                self._add("sixfold_units_failed_total")
                if event.unit is not None:
                    self._failed.add(event.unit)
                self._tell_state()
            case "unit_dropped":
                self._flying.pop(worker, None)
                self._tell_state()
            case "unit_rerun":
                self._add("sixfold_units_rerun_total")
            case "unit_quarantined":
                self._settle(event)
                self._add("sixfold_units_quarantined_total")
                self._tell_state()

    def _settle(self, event: Event) -> None:
        self._left -= 1
        if event.unit is not None:
            self._failed.discard(event.unit)

    def _count(self, worker: int, event: Event) -> None:
        """What was made since the last event of this unit."""
        told = self._flying.setdefault(worker, _Unit(event.unit))
        self._add(f"sixfold_{self.noun}_total", event.done - told.done)
        told.done = max(told.done, event.done)

    def _count_rejects(self, event: Event) -> None:
        """By reason where the unit's result says it, as those of `gen.make` do."""
        found = event.data.get("rejected")
        by_reason = found if isinstance(found, Mapping) else {OTHER: event.rejected}
        for reason, number in by_reason.items():
            if isinstance(number, int) and number > 0:
                name = visible(str(reason))[:MAX_LABEL]
                if len(self._reasons) < MOST_REASONS:
                    self._reasons.add(name)
                name = name if name in self._reasons else OTHER
                self.exporter.add("sixfold_rejects_total", number, {**self._labels, "reason": name})

    def _tell_state(self) -> None:
        for name, value in (
            ("sixfold_workers", len(self._ready)),
            ("sixfold_gpus", len(self._ready) * self._gpus()),
            ("sixfold_units_running", len(self._flying)),
            ("sixfold_units_left", self._left),
        ):
            self.exporter.set(name, value, self._labels)

    def _gpus(self) -> float:
        """Of a worker."""
        if self._gpus_each is None:
            asked = self.spec.gpus_per_worker
            self._gpus_each = asked if asked != "auto" else float(self._asked_gpus())
        return self._gpus_each

    def _asked_gpus(self) -> bool:
        try:
            return self.ask_gpus()
        except Exception:  # as in `RayExporter._do`
            return False

    def _add(self, name: str, value: float = 1) -> None:
        self.exporter.add(name, value, self._labels)
