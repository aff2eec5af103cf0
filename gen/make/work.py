"""The life of a run around its matter: hold the output, work off the units that are missing, say how it ended.

In: a store, units, what makes a worker. Out: a lease, the summary of the fan-out, a `MakeOutcome`. On disk:
`_meta/logs/<start>-<pid>.jsonl`; at the end `_meta/summary.json`, and the subset of a scale that is whole.
"""

import contextlib
import itertools
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

from cluster.fan_out.attempt import life_id
from cluster.fan_out.claims import Claims
from cluster.fan_out.events import Event, EventLog
from cluster.fan_out.fan_out import fan_out
from cluster.fan_out.progress import Progress
from cluster.fan_out.work import FanOutSpec, MakeWorker, Quarantined, Summary
from cluster.process.lease import Lease, LeaseHeld
from cluster.process.stop_flag import StopFlag
from cluster.waiting import waited_for, waiting
from gen.make.outcome import MakeOutcome, outcome_of
from gen.make.plan import Plan
from gen.make.scale import Store, write_scale, write_summary
from shards.disk.amounts import counted
from shards.disk.layout import META, record_name, shard_name
from shards.disk.record import Record
from shards.disk.store import FolderStore
from shards.set.commit import recover
from shards.set.manifest import scan_records
from shards.set.quarantine import QUARANTINE

OPENS_S = 900.0  # for another run that shares the output to open it: to choose meanings, to draw prompts
LOOK_S = 1.0


def set_torn_aside(store: Store, say: Callable[[str], None]) -> None:
    """What a crash left half-written goes to the quarantine, and is made again."""
    if torn := recover(store).set_aside:
        say(
            f"{counted(len(torn), 'damaged shard')} set aside in {store.url}/{QUARANTINE}, first "
            f"{shard_name(torn[0])}; those of this scale are made again"
        )


@contextlib.contextmanager
def held(store: Store, stop: StopFlag, shared: bool = False) -> Iterator[Lease]:
    """The output is this run's alone inside; it is asked to stop if it loses that. Raises LeaseHeld.

    `shared`: it is, until `work_off`, which lets others in; one that comes while another run opens the output waits.
    """
    life = life_id(os.environ, time.time(), secrets.token_bytes(5))
    with waiting(f"taking {store.url}"):  # another machine's lease that was left is watched for a while
        taken = _taken(store, life, stop, OPENS_S if shared else 0.0)
    with taken as lease:
        lease.doing = waited_for
        yield lease


def _taken(store: Store, life: str, stop: StopFlag, within_s: float) -> Lease:
    lock_folder = store.root if isinstance(store, FolderStore) else None
    deadline = time.monotonic() + within_s
    while True:
        try:
            return Lease.take(store, life, stop.request, lock_folder=lock_folder)
        except LeaseHeld:
            if stop.requested or time.monotonic() > deadline:
                raise
        time.sleep(LOOK_S)


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

        if spec.shared and lease is not None:
            lease.release()  # others may open the output now
            return _with_others(todo, make_worker, spec, on_event, store, stop, threads, when_slow)
        return fan_out(todo, make_worker, spec, on_event, stop, threads, when_slow)


def _with_others(
    todo: Sequence[int],
    make_worker: MakeWorker,
    spec: FanOutSpec,
    on_event: Callable[[Event], None],
    store: Store,
    stop: StopFlag,
    threads: int,
    when_slow: str,
) -> Summary:
    """Claim units beside other runs until all are done: what a run that ended has left is taken over."""
    life = life_id(os.environ, time.time(), secrets.token_bytes(5))
    claims = Claims(store, life, spec.attempts, lambda unit: store.exists(record_name(unit)))
    summary: Summary | None = None
    began = time.monotonic()
    with claims.joined(stop.request):
        missing = list(todo)
        while True:
            units = claims.take(missing)
            first = next(units, None)
            if first is not None:
                this = fan_out(itertools.chain([first], units), make_worker, spec, on_event, stop, threads, when_slow)
                summary = this if summary is None else summary.then(this)
                if this.error is not None or this.drained:
                    return summary
            failed = {one.unit for one in summary.quarantined} if summary is not None else set()
            missing = claims.wait([unit for unit in missing if unit not in failed], stop)
            if not missing or stop.requested:
                return _ended(summary, claims.left, bool(missing), time.monotonic() - began)


def _ended(summary: Summary | None, left: Mapping[int, int], stopped: bool, seconds: float) -> Summary:
    """The summary of a run that claimed units; `left`: those that no run takes any more."""
    nothing = Summary(0, (), 0, 0, 0, 0, 0, 0, seconds)
    given_up = tuple(
        Quarantined(unit, number, f"{counted(number, 'run')} ended while they made it") for unit, number in left.items()
    )
    whole = nothing if summary is None else summary
    return replace(whole, quarantined=(*whole.quarantined, *given_up), drained=stopped, seconds=seconds)


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
