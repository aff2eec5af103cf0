"""The life of a run around its matter: hold the output, work off the units that are missing, say how it ended.

In: a store, units, what makes a worker. Out: a lease, the summary of the fan-out, a `MakeOutcome`. On disk:
`_meta/logs/<start>-<pid>.jsonl`; at the end `_meta/summary.json`, and the subset of a scale that is whole.
"""

import contextlib
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path

from cluster.fan_out.attempt import life_id
from cluster.fan_out.events import Event, EventLog
from cluster.fan_out.fan_out import fan_out
from cluster.fan_out.progress import Progress
from cluster.fan_out.work import FanOutSpec, MakeWorker, Summary
from cluster.process.lease import Lease
from cluster.process.stop_flag import StopFlag
from cluster.waiting import waited_for, waiting
from gen.make.outcome import MakeOutcome, outcome_of
from gen.make.plan import Plan
from gen.make.scale import Store, write_scale, write_summary
from shards.disk.amounts import counted
from shards.disk.layout import META, shard_name
from shards.disk.record import Record
from shards.disk.store import FolderStore
from shards.set.commit import recover
from shards.set.manifest import scan_records
from shards.set.quarantine import QUARANTINE


def set_torn_aside(store: Store, say: Callable[[str], None]) -> None:
    """What a crash left half-written goes to the quarantine, and is made again."""
    if torn := recover(store).set_aside:
        say(
            f"{counted(len(torn), 'damaged shard')} set aside in {store.url}/{QUARANTINE}, first "
            f"{shard_name(torn[0])}; those of this scale are made again"
        )


@contextlib.contextmanager
def held(store: Store, stop: StopFlag) -> Iterator[Lease]:
    """The output is this run's alone inside; it is asked to stop if it loses that. Raises LeaseHeld."""
    life = life_id(os.environ, time.time(), secrets.token_bytes(5))
    lock_folder = store.root if isinstance(store, FolderStore) else None
    with waiting(f"taking {store.url}"):  # another machine's lease that was left is watched for a while
        taken = Lease.take(store, life, stop.request, lock_folder=lock_folder)
    with taken as lease:
        lease.doing = waited_for
        yield lease


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


def settle(
    store: Store,
    plan: Plan,
    scale: Fraction,
    mark: str,
    before: Mapping[int, Record],
    work: Summary | None,
    started: float,
    when_short: str = MakeOutcome.when_short,
) -> MakeOutcome:
    """How a run ended, from the records that are there now. `before`: those at its start, `started` on
    `time.monotonic`, `when_short`: what to do about shards with too few images."""
    with waiting("reading what is there"):
        records = scan_records(store, mark)
    outcome = outcome_of(plan, scale, before, records, work, time.monotonic() - started, when_short)
    if outcome.done_units == outcome.asked_units:
        write_scale(store, plan, scale, records)
    write_summary(store, outcome.as_json())
    return outcome
