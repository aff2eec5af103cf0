"""What a command waits for, told with the seconds as they pass: nobody looks at a silent screen.

In: a few words on what is being done. Out, on standard error: on a terminal one live line, which is gone when the wait
is over; elsewhere (the log of a batch job) a plain line when a wait has taken a second, then at 10, 20, 40 … seconds,
and at the end of a long one how long it was. On disk: nothing.

Waits may be nested; the innermost is told. A display of its own (a bar) takes the live line's place with
`instead_of_waiting`.
"""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from shards.disk.amounts import time_text
from shards.disk.safe_text import for_screen, one_line

if TYPE_CHECKING:
    from rich.live import Live
    from rich.spinner import Spinner

LIVE_S = 0.4  # when a wait is told on a terminal
LINES_S = (1.0, 10.0)  # elsewhere, when lines are due; from the last on after twice the time
LONG_S = 5.0  # the end of such a wait is told too
LOOK_S = 0.1
MAX_WORDS = 200
MARK = "sixfold …"  # how such lines begin; those of errors and warnings begin with `sixfold:`

Words: TypeAlias = str | Callable[[], str]


@dataclass(eq=False)
class _Wait:
    words: Words
    since: float
    due_s: float  # when it is told next
    has_line: bool = False  # elsewhere than on a terminal

    @property
    def told(self) -> str:
        """Its words of this moment."""
        return self.words if isinstance(self.words, str) else self.words()

    def text(self, now: float) -> str:
        waited_s = now - self.since
        return one_line(f"{self.told} ({time_text(waited_s)})" if waited_s >= 1.0 else self.told, MAX_WORDS)


class _Teller:
    """The waits of this process, and the thread that tells them; it lives while there are any."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._waits: list[_Wait] = []
        self._displays = 0  # that take the live line's place
        self._thread: threading.Thread | None = None
        self._live: tuple[Live, Spinner] | None = None

    def begin(self, words: Words) -> _Wait:
        with self._lock:
            wait = _Wait(words, time.monotonic(), LINES_S[0])
            self._waits.append(wait)
            if self._thread is None:
                self._thread = threading.Thread(target=self._tell_until_none, name="waiting", daemon=True)
                self._thread.start()
        return wait

    def end(self, wait: _Wait, is_done: bool) -> None:
        with self._lock:
            self._waits.remove(wait)
            self._clear()
            waited_s = time.monotonic() - wait.since
            if is_done and wait.has_line and waited_s >= LONG_S:
                with contextlib.suppress(OSError, ValueError):
                    self._line(one_line(f"{wait.told}: done after {time_text(waited_s)}", MAX_WORDS))

    def hold(self, more: int) -> None:
        with self._lock:
            self._displays += more
            self._clear()

    def now(self) -> str:
        with self._lock:
            return self._waits[-1].text(time.monotonic()) if self._waits else ""

    def _tell_until_none(self) -> None:
        while True:
            with self._lock:
                if not self._waits:
                    self._thread = None
                    return
                with contextlib.suppress(OSError, ValueError):  # standard error is closed: nobody listens
                    self._tell(self._waits[-1], time.monotonic())
            time.sleep(LOOK_S)

    def _tell(self, wait: _Wait, now: float) -> None:
        waited_s = now - wait.since
        if sys.stderr.isatty():
            if waited_s >= LIVE_S and not self._displays:
                self._show(wait.text(now))
        elif waited_s >= wait.due_s:
            self._line(wait.text(now))
            wait.has_line = True
            wait.due_s = next((line_s for line_s in LINES_S if line_s > waited_s), LINES_S[-1])
            while wait.due_s <= waited_s:
                wait.due_s *= 2

    @staticmethod
    def _line(text: str) -> None:
        print(for_screen(f"{MARK} {text}"), file=sys.stderr, flush=True)

    def _show(self, text: str) -> None:
        from rich.console import Console
        from rich.live import Live
        from rich.spinner import Spinner
        from rich.text import Text

        if self._live is None:
            spinner = Spinner("dots", Text(text))
            # what is printed meanwhile stands above the line, unless it goes to a file
            to_screen = sys.stdout.isatty()
            live = Live(spinner, console=Console(stderr=True), transient=True, redirect_stdout=to_screen)
            self._live = live, spinner
            live.start()
        else:
            self._live[1].update(text=Text(text))

    def _clear(self) -> None:
        if self._live is not None:
            self._live[0].stop()
            self._live = None


_TELLER = _Teller()


@contextlib.contextmanager
def waiting(words: Words) -> Iterator[None]:
    """Tell that this is being done, for as long as the block takes. A function gives the words anew for each line."""
    wait = _TELLER.begin(words)
    is_done = False
    try:
        yield
        is_done = True
    finally:
        _TELLER.end(wait, is_done)


@contextlib.contextmanager
def instead_of_waiting() -> Iterator[None]:
    """No live line while another display is on the terminal; that one may show `waited_for`."""
    _TELLER.hold(1)
    try:
        yield
    finally:
        _TELLER.hold(-1)


def waited_for() -> str:
    """What the innermost wait is for, with its seconds: "starting Ray (5 s)"; "" if nothing is waited for."""
    return _TELLER.now()
