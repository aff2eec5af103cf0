"""The life of a run around its matter: hold the output, work off the units that are missing, say how it ended.

In: a store, units, what makes a worker. Out: the output, held; the summary of the fan-out, a `MakeOutcome`. On disk:
`_meta/logs/<start>-<pid>.jsonl`, `_meta/lives/<number>-<life>.json`; at the end `_meta/summary.json`, and the subset of
a scale that is whole.
"""

import contextlib
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from cluster.fan_out.attempt import life_id
from cluster.fan_out.events import Event, EventLog
from cluster.fan_out.fan_out import fan_out
from cluster.fan_out.metrics import RunMetrics
from cluster.fan_out.progress import Progress
from cluster.fan_out.work import FanOutSpec, MakeWorker, Summary
from cluster.process.exit import EXIT_AGAIN
from cluster.process.lease import Lease, LeaseHeld
from cluster.process.lives import LifeFile, begin
from cluster.process.stop_flag import StopFlag
from cluster.waiting import waited_for, waiting
from gen.make.outcome import MakeOutcome, outcome_of
from gen.make.plan import Plan
from gen.make.scale import Store, write_scale, write_summary
from gen.make.shared import make_beside_others
from shards.disk.amounts import counted
from shards.disk.layout import META, shard_name
from shards.disk.record import Record
from shards.disk.store import FolderStore
from shards.set.commit import recover
from shards.set.manifest import scan, scan_records
from shards.set.quarantine import QUARANTINE
from shards.set.rebuild import rebuild_tables

OPENS_S = 900.0  # for another run that shares the output to open it: to choose meanings, to draw prompts
LOOK_S = 1.0


def set_torn_aside(store: Store, say: Callable[[str], None], keep: str = "") -> None:
    """What a crash left half-written goes to the quarantine, and is made again; but a table that its tar alone gives is
    written again. `keep`: what to do instead of setting anything aside; raises ValueError with it then."""
    if rebuilt := rebuild_tables(store, scan(store).problems):
        say(f"{counted(len(rebuilt), 'table')} written again from the tars, first that of shard {rebuilt[0]:05d}")
    if keep and (problems := scan(store).problems):
        raise ValueError(f"{next(iter(problems.values()))}; {keep}")
    if torn := recover(store).set_aside:
        say(
            f"{counted(len(torn), 'damaged shard')} set aside in {store.url}/{QUARANTINE}, first "
            f"{shard_name(torn[0])}; those of this scale are made again"
        )


@dataclass(frozen=True)
class Held:
    """An output that one run has to itself: its lease, and its place in the history of the output."""

    lease: Lease
    life: LifeFile
    stop: StopFlag

    def ended(self, exit_code: int, problem: str) -> None:
        """For the history: how the run ended, and what is wrong if it is not complete."""
        stopped = f"stopped on request: {self.stop.reason}" if exit_code == EXIT_AGAIN else ""
        self.life.ended(exit_code, stopped or problem or "complete")


@contextlib.contextmanager
def held(store: Store, stop: StopFlag, verb: str, shared: bool = False) -> Iterator[Held]:
    """The output is this run's alone inside; it is asked to stop if it loses that. `verb`: the command, for the
    history of the output. Raises LeaseHeld.

    `shared`: it is, until `work_off`, which lets others in; one that comes while another run opens the output waits.
    Raises ValueError for a shared output whose store keeps no two writers apart.
    """
    if shared and store.single_writer:
        raise ValueError(
            f"{store.url}: found --single-writer and cluster.shared, expected one of them: runs that share an output "
            "need a store that keeps writers apart"
        )
    life = life_id(os.environ, time.time(), secrets.token_bytes(5))
    with waiting(f"taking {store.url}"):  # another machine's lease that was left is watched for a while
        taken = _taken(store, life, stop, OPENS_S if shared else 0.0)
    with taken as lease, begin(store, life, verb) as lived:
        lease.doing = waited_for
        yield Held(lease, lived, stop)


def refuse_shared(spec: FanOutSpec, verb: str) -> None:
    """Raises ValueError if other runs are to make the same output: this verb cannot share it."""
    if spec.shared:
        raise ValueError(f"cluster.shared: found true, expected false: `sixfold {verb}` does not share its output")


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
    hold: Held | None,
    threads: int,
    when_slow: str,
    noun: str = "images",
    shared: bool = False,
) -> Summary:
    """Fan the missing units out, with a log, figures for Prometheus, and a progress display, whose line the lease shows
    to others. `num_items` of `noun` are in them. `shared`: other runs may open the output from now on, and make some of
    the units."""
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.jsonl"
    log_file = Path("out/logs") / name
    if isinstance(store, FolderStore):
        log_file = store.path_to_write(f"{META}/logs/{name}")
    with EventLog(log_file) as log, Progress(len(todo), num_items, noun=noun) as progress:
        figures = RunMetrics(store.url, len(todo), spec, noun)
        if hold is not None:
            hold.lease.doing = progress.line

        def on_event(event: Event) -> None:
            log(event)
            progress(event)
            figures(event)
            if event.kind == "unit_started" and hold is not None:
                hold.life.at_work()

        def work(units: Iterable[int]) -> Summary:
            return fan_out(units, make_worker, spec, on_event, stop, threads, when_slow)

        if hold is None or not shared:
            return work(todo)
        hold.lease.release()
        return make_beside_others(todo, work, store, hold.life.life.life, spec.attempts, stop)


def settle(
    store: Store,
    hold: Held,
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
    hold.life.there(len(records), "shard")
    hold.ended(outcome.exit_code, outcome.problem())
    return outcome
