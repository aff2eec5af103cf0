"""Figures of a training for Prometheus, from its log.

In: the log that rank 0 writes, read when rank 0 has said something to the process that started the ranks over Ray. Out:
the `sixfold_train_…` of cluster.fan_out.metrics. On disk: only reads. A rank itself knows nothing of Ray.
"""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster.fan_out.metrics import Exporter, RayExporter, run_label
from shards.disk.checked_json import plain_json
from train.session.logs import LOG

MAX_BYTES = 1 << 20  # of the log, that one look reads; what is more comes with the next
GAUGES = {"step": "sixfold_train_step", "loss": "sixfold_train_loss"}
COUNTERS = {
    "images": "sixfold_train_images_total",
    "seconds": "sixfold_train_seconds_total",
    "wait_s": "sixfold_train_data_wait_seconds_total",
}


class LoggedFigures:
    """What the lines of this life say; those of earlier lives are not counted again."""

    def __init__(self, folder: Path, steps: int, exporter: Exporter | None = None) -> None:
        """`folder`: of the training, before it begins; `steps`: that were asked for."""
        self._path = folder / LOG
        self._exporter = exporter or RayExporter()
        self._labels = run_label(str(folder))
        self._steps = steps
        self._read = self._size()
        # counters of the log go over all lives; of a training that goes on the first line only says where it stands
        self._last: dict[str, float] = {} if self._read else dict.fromkeys(COUNTERS, 0.0)

    def look(self) -> None:
        """Give away what was logged since the last look. Never raises: a figure is not worth a training."""
        with contextlib.suppress(OSError):
            with self._path.open("rb") as file:
                file.seek(self._read)
                whole, end, _ = file.read(MAX_BYTES).rpartition(b"\n")
            self._read += len(whole) + len(end)
            for line in whole.splitlines():
                with contextlib.suppress(ValueError):  # a line that was cut when the disk was full
                    row = plain_json(line)
                    if isinstance(row, Mapping) and row.get("kind") == "train":
                        self._tell(row)

    def _tell(self, row: Mapping[str, Any]) -> None:
        self._exporter.set("sixfold_train_steps", self._steps, self._labels)
        for field, name in GAUGES.items():
            if isinstance(value := row.get(field), (int, float)):  # a loss that is not finite is text
                self._exporter.set(name, value, self._labels)
        for field, name in COUNTERS.items():
            if isinstance(value := row.get(field), (int, float)):
                self._exporter.add(name, value - self._last.get(field, value), self._labels)
                self._last[field] = value

    def _size(self) -> int:
        try:
            return self._path.stat().st_size
        except OSError:
            return 0
