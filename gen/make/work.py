"""Work off the units of a run that are missing: fan out, log, progress.

In: units, what makes a worker, a store. Out: the summary of the fan-out. On disk: `_meta/logs/<start>-<pid>.jsonl`.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path

from cluster.fan_out.events import Event, EventLog
from cluster.fan_out.fan_out import fan_out
from cluster.fan_out.progress import Progress
from cluster.fan_out.work import FanOutSpec, MakeWorker, Summary
from cluster.process.lease import Lease
from cluster.process.stop_flag import StopFlag
from gen.make.scale import Store
from shards.disk.amounts import counted
from shards.disk.layout import META, shard_name
from shards.disk.store import FolderStore
from shards.set.commit import recover
from shards.set.quarantine import QUARANTINE


def set_torn_aside(store: Store, say: Callable[[str], None]) -> None:
    """What a crash left half-written goes to the quarantine, and is made again."""
    if torn := recover(store).set_aside:
        say(
            f"{counted(len(torn), 'damaged shard')} set aside in {store.url}/{QUARANTINE}, first "
            f"{shard_name(torn[0])}; those of this scale are made again"
        )


def work_off(
    todo: list[int],
    num_items: int,
    make_worker: MakeWorker,
    spec: FanOutSpec,
    store: Store,
    stop: StopFlag,
    lease: Lease | None,
    threads: int,
    when_slow: str,
    noun: str = "images",
) -> Summary:
    """Fan the missing units out, with a log and a progress display, whose line the lease shows to others. `num_items`
    of `noun` are in them."""
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.jsonl"
    log_file = Path("out/logs") / name
    if isinstance(store, FolderStore):
        log_file = store.path_to_write(f"{META}/logs/{name}")
    with EventLog(log_file) as log, Progress(len(todo), num_items, noun=noun) as progress:
        if lease is not None:
            lease.doing = progress.line

        def on_event(event: Event) -> None:
            log(event)
            progress(event)

        return fan_out(todo, make_worker, spec, on_event, stop, threads, when_slow)
