"""The life of a run around its matter: hold the output, work off the units that are missing, say how it ended.

In: a store, units, what makes a worker. Out: the output, held; the summary of the fan-out, a `MakeOutcome`. On disk:
`_meta/logs/<start>-<pid>.jsonl`, of an object store in the cache folder of this machine instead, because a log is
appended to; `_meta/lives/<number>-<life>.json`; at the end `_meta/summary.json`, and the subset of a scale that is
whole. `cluster.process.writers` says what shows others that the run works.
"""

import contextlib
import itertools
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from cluster.fan_out.attempt import base36, life_id, submission_id
from cluster.fan_out.claims import Claims
from cluster.fan_out.events import Event, EventLog
from cluster.fan_out.fan_out import fan_out
from cluster.fan_out.metrics import RunMetrics
from cluster.fan_out.progress import Progress
from cluster.fan_out.work import FanOutSpec, MakeWorker, Summary
from cluster.process.exit import EXIT_AGAIN, Draining
from cluster.process.lease import Lease, LeaseHeld, last_holder
from cluster.process.lives import LifeFile, begin
from cluster.process.stop_flag import StopFlag
from cluster.process.writers import sharers, take_alone
from cluster.waiting import waited_for, waiting
from gen.make.outcome import NO_ADVICE, MakeOutcome, outcome_of
from gen.make.plan import Plan
from gen.make.scale import Store, write_scale
from gen.make.shared import make_beside_others
from shards.disk.amounts import counted
from shards.disk.layout import META, record_name, shard_name
from shards.disk.machine_cache import cache_folder
from shards.disk.record import Record
from shards.disk.store import FolderStore
from shards.set.commit import recover
from shards.set.manifest import scan, scan_records
from shards.set.quarantine import QUARANTINE
from shards.set.rebuild import rebuild_tables
from shards.set.status import write_summary

FROZEN_S = 900.0  # without a beat, a run that opens the output is waited for no longer
LOOK_S = 1.0


def set_torn_aside(store: Store, say: Callable[[str], None], keep: str = "") -> None:
    """What a crash left half-written goes to the quarantine, and is made again; but a table that its tar alone gives is
    written again. `keep`: what to do instead of setting anything aside; raises ValueError with it then."""
    if rebuilt := rebuild_tables(store, scan(store).problems):
        say(f"{counted(len(rebuilt), 'table')} written again from the tars, first that of shard {rebuilt[0]:05d}")
    if keep and (problems := scan(store).problems):
        raise ValueError(f"{next(iter(problems.values()))}; {keep}")
    if torn := recover(store, lives=[one.life for one in sharers(store)]).set_aside:
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
    beside: contextlib.ExitStack  # what shows that the run works beside others, until its end

    def ended(self, exit_code: int, problem: str) -> None:
        """For the history: how the run ended, and what is wrong if it is not complete."""
        stopped = f"stopped on request: {self.stop.reason}" if exit_code == EXIT_AGAIN else ""
        self.life.ended(exit_code, stopped or problem or "complete")


@contextlib.contextmanager
def held(store: Store, stop: StopFlag, verb: str, shared: bool = False) -> Iterator[Held]:
    """The output is this run's alone inside; it is asked to stop if it loses that. `verb`: the command, for the
    history of the output. Raises LeaseHeld.

    `shared`: it is, until `work_off`, which lets others in; one that comes while another run opens the output waits, as
    long as that one's heart beats. Raises ValueError for a shared output whose store keeps no two writers apart,
    Draining on a stop while it waits.
    """
    if shared and store.single_writer:
        raise ValueError(
            f"{store.url}: found --single-writer and cluster.shared, expected one of them: runs that share an output "
            "need a store that keeps writers apart"
        )
    life = life_id(os.environ, time.time(), secrets.token_bytes(5))
    with waiting(f"taking {store.url}"):  # another machine's lease that was left is watched for a while
        taken = _taken_in_turn(store, life, stop) if shared else _taken_alone(store, life, stop)
    with taken as lease, begin(store, life, verb) as lived, contextlib.ExitStack() as beside:
        lease.doing = waited_for
        yield Held(lease, lived, stop, beside)


def refuse_shared(spec: FanOutSpec, verb: str) -> None:
    """Raises ValueError if other runs are to make the same output: this verb cannot share it."""
    if spec.shared:
        raise ValueError(f"cluster.shared: found true, expected false: `sixfold {verb}` does not share its output")


def _taken_alone(store: Store, life: str, stop: StopFlag) -> Lease:
    return take_alone(store, life, stop.request, lock_folder=_lock_folder(store))


def _taken_in_turn(store: Store, life: str, stop: StopFlag) -> Lease:
    """Of runs that share an output one opens it at a time. Opening may take hours: the first one searches the pool."""
    beat: object = None
    beat_at = time.monotonic()
    while True:
        try:
            return Lease.take(store, life, stop.request, lock_folder=_lock_folder(store))
        except LeaseHeld as held:
            now = last_holder(store)
            seen = now and (now.generation, now.heartbeat)
            if seen != beat:
                beat, beat_at = seen, time.monotonic()
            if stop.requested:
                raise Draining(f"stopped on request while another run opened {store.url}: {stop.reason}") from None
            if time.monotonic() - beat_at > FROZEN_S:
                raise LeaseHeld(f"{held}; its heart has not beaten for {FROZEN_S:.0f} s") from None
        time.sleep(LOOK_S)


def _lock_folder(store: Store) -> Path | None:
    return store.root if isinstance(store, FolderStore) else None


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
    say: Callable[[str], None] = print,
) -> Summary:
    """Fan the missing units out, with a log, figures for Prometheus, and a progress display, whose line the lease shows
    to others. `num_items` of `noun` are in them. `shared`: other runs may open the output from now on, and make some of
    the units. `say` hears where the log is, if it is not in the output."""
    with EventLog(_log_file(store, say)) as log, Progress(len(todo), num_items, noun=noun) as progress:
        figures = RunMetrics(store.url, len(todo), spec, noun)
        if hold is not None:
            hold.lease.doing = progress.line

        claims: Claims | None = None

        def on_event(event: Event) -> None:
            log(event)
            progress(event)
            figures(event)
            if event.kind == "unit_started" and hold is not None:
                hold.life.at_work()
                if claims is not None and event.unit is not None:
                    claims.begun(event.unit)

        def work(units: Iterable[int], its_life: str = "") -> Summary:
            return fan_out(units, make_worker, spec, on_event, stop, threads, when_slow, its_life)

        if hold is None or not shared:
            return work(todo)
        life = hold.life.life.life
        submission = submission_id(os.environ, life)
        claims = Claims(store, life, submission, spec.attempts, lambda unit: store.exists(record_name(unit)))
        hold.beside.enter_context(claims.joined(stop.request)).doing = progress.line  # before the other lease is free
        hold.lease.release()
        rounds = itertools.count(1)
        return make_beside_others(todo, lambda units: work(units, f"{life}-{base36(next(rounds))}"), claims, stop)


def _log_file(store: Store, say: Callable[[str], None]) -> Path:
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.jsonl"
    if isinstance(store, FolderStore):
        return store.path_to_write(f"{META}/logs/{name}")
    file = cache_folder(os.environ, "logs", say) / name
    say(f"the log of this run is {file}")
    return file


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
    lasting: Mapping[str, str] = NO_ADVICE,
) -> MakeOutcome:
    """How a run ended, from the records that are there now. `before`: those at its start, `started` on
    `time.monotonic`, `when_short`, `lasting`: what to do about shards with too few images, as `outcome_of` has it."""
    with waiting("reading what is there"):
        records = scan_records(store, mark)
    outcome = outcome_of(plan, scale, before, records, work, time.monotonic() - started, when_short, lasting)
    if outcome.done_units == outcome.asked_units:
        write_scale(store, plan, scale, records)
    write_summary(store, outcome.as_json())
    hold.life.there(len(records), "shard")
    hold.ended(outcome.exit_code, outcome.problem())
    return outcome
