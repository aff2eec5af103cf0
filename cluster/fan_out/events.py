"""What happened in a run, as events, and the log that keeps them.

In: ``Event``s. Out: nothing. On disk: one JSON object per line, appended, never rewritten.

An event is always one line, because JSON escapes control characters. Messages are bounded. A message that repeats
is left out after a while. Values that look secret are replaced. A full disk never stops the run: events that could not
be written are counted, and the count is logged when the disk has room again.
"""

import json
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal, TypeAlias

from shards.disk.record import JSON
from shards.disk.safe_text import clip, redact

Kind: TypeAlias = Literal[
    "run_started",
    "worker_started",
    "worker_ready",
    "worker_refused",
    "worker_lost",
    "worker_killed",
    "node_avoided",
    "unit_started",
    "unit_progress",
    "unit_done",
    "unit_failed",
    "unit_rerun",
    "unit_dropped",
    "unit_quarantined",
    "draining",
    "warning",
    "run_ended",
]
QUIET: frozenset[Kind] = frozenset({"unit_progress"})  # for displays only: a log of them would be long
MAX_MESSAGE = 2000
MAX_LINE = 16_000
FOLD_AFTER = 5

SECRET_NAME = re.compile(r"(?i)key|token|secret|passw|credential")
NUMBERS = re.compile(r"\d+")


@dataclass(frozen=True, kw_only=True)
class Event:
    """One thing that happened, ``at_s`` seconds after the start of the run."""

    kind: Kind
    at_s: float
    message: str = ""
    unit: int | None = None
    attempt: str | None = None
    worker: int | None = None
    node: str | None = None
    done: int = 0  # images of the unit so far
    rejected: int = 0
    under_way: float = 0.0  # of the next images, in images; for displays only
    data: Mapping[str, JSON] = field(default_factory=dict)  # a unit's result, a run's summary


def secrets_of(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Values that must never be written: those of variables whose names say key, token, secret or password.

    The longest come first. Values below 8 characters (``1``, ``true``) are not secrets: messages are full of them.
    """
    values = {value for name, value in environ.items() if SECRET_NAME.search(name) and len(value) >= 8}
    return tuple(sorted(values, key=lambda value: (-len(value), value)))


def clean(value: JSON, secrets: tuple[str, ...]) -> JSON:
    """``value`` with every string in it redacted, and cut at ``MAX_MESSAGE`` characters."""
    if isinstance(value, str):
        return clip(redact(value, secrets), MAX_MESSAGE).encode("utf-8", "backslashreplace").decode()
    if isinstance(value, Mapping):
        return {str(key): clean(item, secrets) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [clean(item, secrets) for item in value]
    return value


def event_json(event: Event, secrets: tuple[str, ...]) -> dict[str, JSON]:
    """The event as a row of the log, with secrets redacted; fields that say nothing are left out."""
    row: dict[str, JSON] = {"kind": event.kind, "at_s": round(event.at_s, 3)}
    for name in ("unit", "attempt", "worker", "node"):
        if (value := getattr(event, name)) is not None:
            row[name] = value
    if event.done or event.rejected:
        row["done"], row["rejected"] = event.done, event.rejected
    if event.message:
        row["message"] = clean(event.message, secrets)
    if event.data:
        row["data"] = clean(event.data, secrets)
    return row


class EventLog:
    """Appends each event it is called with to ``path``. A context manager; give it as (part of) ``on_event``."""

    def __init__(self, path: Path, environ: Mapping[str, str] = os.environ, wall: Callable[[], float] = time.time):
        self._path = path
        self._secrets = secrets_of(environ)
        self._wall = wall
        self._file: IO[bytes] | None = None
        self._seen: dict[tuple[str, str], int] = {}
        self.lost = 0  # events that could not be written
        self.folded = 0  # repeats that were left out

    def __call__(self, event: Event) -> None:
        if event.kind in QUIET or self._is_repeat(event):
            return
        row = {"time": round(self._wall(), 3)} | event_json(event, self._secrets)
        line = json.dumps(row, allow_nan=False, default=str)
        if len(line) > MAX_LINE:
            line = json.dumps({**row, "message": f"{len(line)} bytes, too long to log", "data": {}})
        self._write(line)

    def _is_repeat(self, event: Event) -> bool:
        """True from the sixth event on that differs from an earlier one only in its numbers."""
        if not event.message or event.kind in ("unit_quarantined", "run_ended"):
            return False
        shape = (event.kind, NUMBERS.sub("#", event.message[:MAX_MESSAGE]))
        count = self._seen[shape] = self._seen.get(shape, 0) + 1
        if len(self._seen) > 1000:  # too many different messages: start again, rather than grow
            self._seen.clear()
        if count > FOLD_AFTER and count & (count - 1):  # the 8th, 16th, 32nd … still show that it goes on
            self.folded += 1
            return True
        return False

    def _write(self, line: str) -> None:
        try:
            if self._file is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self._path.open("ab", buffering=0)
            if self.lost:
                self._put({"kind": "warning", "message": f"{self.lost} events were lost: the log disk took none"})
                self.lost = 0
            self._put(line)
        except OSError:
            # a full disk must not stop the work; lost events are counted, and reported later
            self.lost += 1
            self._close()

    def _put(self, line: str | dict[str, str]) -> None:
        assert self._file is not None
        text = line if isinstance(line, str) else json.dumps({"time": round(self._wall(), 3), **line})
        data = text.encode() + b"\n"
        if self._file.write(data) != len(data):
            raise OSError("short write to the log")

    def _close(self) -> None:
        if self._file is not None:
            try:
                self._file.close()
            except OSError:
                self.lost += 0  # the failed write has been counted
            self._file = None

    def __enter__(self) -> "EventLog":
        return self

    def __exit__(self, *exc: object) -> None:
        if self.folded:
            self._write(
                json.dumps(
                    {"time": round(self._wall(), 3), "kind": "warning", "message": f"{self.folded} repeats folded"}
                )
            )
        self._close()
