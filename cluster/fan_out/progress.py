"""What a person sees of a run while it works.

In: events, as they happen. Out: on a terminal two live lines, with warnings above them; elsewhere (a batch job's log)
a plain line every ten seconds. On disk: nothing.
"""

import contextlib
import math
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cluster.fan_out.events import Event, Kind
from cluster.waiting import instead_of_waiting, waited_for
from shards.disk.safe_text import one_line

PLAIN_EVERY_S = 10.0
RATE_WINDOW_S = 60.0
WORTH_A_LINE: frozenset[Kind] = frozenset(
    {
        "worker_refused",
        "worker_lost",
        "worker_killed",
        "node_avoided",
        "unit_quarantined",
        "unit_rerun",
        "draining",
        "warning",
    }
)
MAX_LINE = 300


def duration(seconds: float) -> str:
    """``"42s"``, ``"3m12s"``, ``"5h03m"``, ``"2d04h"``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"


class Progress:
    """Shows each event it is called with. A context manager; give it as (part of) ``on_event``.

    ``num_units`` and ``num_images`` are what this life has to do, without what earlier lives have done. ``noun``
    says what is counted, where it is not images.
    """

    def __init__(
        self,
        num_units: int,
        num_images: int,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
        noun: str = "images",
    ) -> None:
        self._noun = noun
        self._num_units, self._num_images = num_units, num_images
        self._console = console or Console(file=sys.stderr)
        self._clock = clock
        self._settled_images = self._settled_rejected = 0
        self._units_done = self._failed = self._quarantined = self._workers = 0
        self._flying: dict[int, tuple[int, int, float]] = {}  # worker to (done, rejected, under way) of its unit
        self._ready: set[int] = set()
        self._history: deque[tuple[float, float]] = deque()  # time and images, from the first unit on
        self._started = self._said = self._heard = clock()
        self._live: Live | None = None
        self._instead = contextlib.ExitStack()

    def __call__(self, event: Event) -> None:
        self._count(event)
        if event.kind in WORTH_A_LINE and event.message:
            where = "" if event.unit is None else f"unit {event.unit}: "
            text = one_line(f"{event.kind}: {where}{event.message}", MAX_LINE)
            self._console.print(Text(text), highlight=False, soft_wrap=True)
        now = self._heard = self._clock()
        if event.kind == "unit_started" or self._history:
            self._remember(now)
        if self._live is None and now - self._said >= PLAIN_EVERY_S:
            self._said = now
            self._console.print(Text(self.line()), highlight=False, soft_wrap=True)

    def _count(self, event: Event) -> None:
        worker = -1 if event.worker is None else event.worker
        match event.kind:
            case "worker_ready":
                self._ready.add(worker)
            case "worker_lost" | "worker_killed" | "worker_refused":
                self._ready.discard(worker)
                self._flying.pop(worker, None)
            case "unit_started":
                self._flying[worker] = (0, 0, 0.0)
            case "unit_progress":
                self._flying[worker] = (event.done, event.rejected, event.under_way)
            case "unit_done":
                self._flying.pop(worker, None)
                self._units_done += 1
                self._settled_images += event.done
                self._settled_rejected += event.rejected
            case "unit_failed":
                self._flying.pop(worker, None)
                self._failed += 1
            case "unit_dropped":
                self._flying.pop(worker, None)
            case "unit_quarantined":
                self._quarantined += 1

    @property
    def images(self) -> int:
        """Images made so far in this life, those of unfinished units included."""
        return self._settled_images + sum(done for done, _, _ in list(self._flying.values()))

    @property
    def _reached(self) -> float:
        """The images so far, and what is made of the next ones: 16 that are a quarter made count 4."""
        return self.images + sum(part for _, _, part in list(self._flying.values()))

    def _remember(self, now: float) -> None:
        if not self._history or now - self._history[-1][0] >= 1.0:
            self._history.append((now, self._reached))
        while len(self._history) > 2 and now - self._history[1][0] > RATE_WINDOW_S:
            self._history.popleft()

    def images_per_s(self) -> float:
        """The rate over the last minute, or over the time since the last event but one if that is longer. 0 before the
        first unit is begun and in the second after it: what it takes to start is no work."""
        now = self._clock()
        now = self._heard if now - self._heard < PLAIN_EVERY_S else now  # a rate that falls between two events misleads
        since, reached = self._history[0] if self._history else (now, 0.0)
        return max(0.0, (self._reached - reached) / (now - since)) if now - since >= 1.0 else 0.0

    def line(self) -> str:
        """``"1200/7200 images · 15.3/s · 6m32s left · 2 workers · units 6/36 · 3 rejected"``; before the first worker
        is ready what is waited for."""
        if not self._ready and not self._history and (wait := waited_for()):
            return f"0/{self._num_images} {self._noun} · {wait}"
        rejected = self._settled_rejected + sum(bad for _, bad, _ in list(self._flying.values()))
        rate = self.images_per_s()
        parts = [f"{self.images}/{self._num_images} {self._noun}"]
        if rate < 1 and (under_way := math.ceil(self._reached - self.images)):  # where nothing else would move
            parts.append(f"{under_way} under way")
        if rate > 0:
            shown = f"{rate:.1f}/s" if rate >= 0.1 else f"{60 * rate:.2g}/min"
            left_s = (self._num_images - self._reached) / rate
            parts += [shown, f"{duration(max(left_s, float(self.images < self._num_images)))} left"]
        workers = "1 worker" if len(self._ready) == 1 else f"{len(self._ready)} workers"
        parts += [workers, f"units {self._units_done}/{self._num_units}", f"{rejected} rejected"]
        if self._failed:
            parts.append(f"attempts failed: {self._failed}")
        if self._quarantined:
            parts.append(f"units quarantined: {self._quarantined}")
        return " · ".join(parts)

    def _render(self) -> Table:
        bar = ProgressBar(total=max(1, self._num_images), completed=min(self.images, max(1, self._num_images)))
        rows = Table.grid()
        rows.add_row(bar)
        rows.add_row(Text(f"{self.line()} · {duration(self._clock() - self._started)}"))
        return rows

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._instead.enter_context(instead_of_waiting())
            self._live = Live(get_renderable=self._render, console=self._console, refresh_per_second=4)
            self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
            self._instead.close()
        else:
            self._console.print(Text(self.line()), highlight=False, soft_wrap=True)
