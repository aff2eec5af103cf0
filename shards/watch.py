"""How far the run in a folder is, once or again and again: what `sixfold status` shows.

In: a store. Out: its `Status`. On disk: only reads.
"""

import contextlib
import time
from collections.abc import Sequence

from cluster.console import say
from cluster.process.lease import PATIENCE_S, Holder
from cluster.process.lives import Life, lives_of, told
from cluster.process.writers import told_writers, writers_of
from shards.disk.data_set import is_data_set
from shards.disk.safe_text import visible
from shards.disk.store import Store
from shards.set.status import Status, status_of

LIVES_SHOWN = 5
MAKE_SHARDS = ("generate", "edit", "retrieve")  # the verbs whose folders `status_of` knows
WATCH_S = 3.0  # between two looks at a run; ten times as long as a look takes, if that is more


def look(store: Store) -> tuple[Status, list[Holder]]:
    """The state, and who writes there."""
    writers = writers_of(store)
    found = lives_of(store, LIVES_SHOWN)
    lives = told(found, {one.life for one in writers})
    words, doing = told_writers(writers), next((one.doing for one in writers if one.doing), "")
    if found and found[-1].verb not in MAKE_SHARDS and not is_data_set(store):
        return _history(found[-1], lives, words, doing), writers
    return status_of(store, words, doing, lives), writers


def watch(store: Store) -> Status:
    """Show the state until nobody writes: redrawn on a terminal, else a line where something has changed. The last one.

    A writer on another machine has ended when its heart has not beaten for a while of our clock.
    """
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(stderr=True)
    said, beats = "", dict[str, tuple[int, float]]()  # of a life: its heartbeat, and since when it is that
    with contextlib.ExitStack() as shown:
        live = None
        if console.is_terminal:
            live = shown.enter_context(Live(console=console, transient=True, auto_refresh=False))
        while True:
            began = time.monotonic()
            state, writers = look(store)
            now = time.monotonic()
            beats |= {w.life: (w.heartbeat, now) for w in writers if beats.get(w.life, (-1, now))[0] != w.heartbeat}
            if not any(one.is_here or now - beats[one.life][1] <= PATIENCE_S for one in writers):
                return state
            if live is not None:
                live.update(Text(state.text), refresh=True)
            elif state.line != said:
                said = state.line
                say(said, err=True)
            time.sleep(max(WATCH_S, 10 * (now - began)))


def _history(last: Life, lives: Sequence[str], writers: str | None, doing: str) -> Status:
    """Of a folder without shards: a training, a sweep, embeddings, an index."""
    rows = [("life", line) for line in lives]
    if writers is not None:
        rows += [("writer", writers), *([("this call", doing)] if doing else [])]
    text = "\n".join(f"{name:<10}{visible(line)}" for name, line in rows)
    return Status(text, visible(rows[-1][1]), last.end is not None and last.end.exit_code == 0)
