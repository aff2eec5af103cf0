"""The history of an output folder: its lives, what each found, how far it came and why it ended.

A *life* is one start of the program on the folder. In: a store, and what a life says of itself as it goes on. Out:
`Life`s in the order of their starts; whether a SLURM job goes on without getting further (`stuck`). On disk:
`_meta/lives/<number>-<life id>.json`, one small checked JSON file a life, written at its start, when it knows how much
is there, when its first unit or step begins, and at its end. The newest 1,000 are kept.

The number counts the starts, so the order needs no clock. A life whose file says no end was killed, or is still at
work. The history never harms a run: what cannot be written is left out, and a damaged file is passed over.
"""

import contextlib
import os
import re
import socket
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import groupby
from types import TracebackType
from typing import Protocol, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from cluster.process.exit import EXIT_AGAIN, EXIT_COMPLETE, EXIT_FAILED, EXIT_MISTAKE, Draining, RunFailed
from cluster.process.failure import error_line
from cluster.process.identity import ProcessId, alive, this_process
from shards.disk.amounts import counted, time_text
from shards.disk.checked_json import parse_checked, to_checked
from shards.disk.safe_text import one_line

LIVES = "_meta/lives"
KEPT = 1000  # lives of a folder
MOST_REMOVED = 100  # files, by one start
MAX_BYTES = 16_384  # of a life's file
MAX_REASON = 500  # characters
SLURM_VARIABLES = ("SLURM_JOB_ID", "SLURM_RESTART_COUNT", "SLURM_ARRAY_TASK_ID")  # which start of which job
_NAME = re.compile(r"([0-9]{6,9})-[0-9a-z-]{1,40}\.json")


class LifeStore(Protocol):
    """What the history needs of a store (`shards.disk.store`); names are relative, with slashes."""

    def read_bytes(self, name: str, at_most: int = ...) -> bytes:
        """The whole file. Raises FileNotFoundError, and OSError for one of more than `at_most` bytes."""

    def replace(self, name: str, data: bytes) -> None:
        """Write the file as a whole over what is there."""

    def delete(self, name: str) -> None:
        """Remove the file if it is there."""

    def list(self, prefix: str = "") -> list[str]:
        """The names of the files directly in the folder `prefix`, sorted."""


class _Plain(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")  # a later version may say more


class Amount(_Plain):
    """So much of what a run makes: 12 shards, 340 steps."""

    number: int = Field(ge=0)
    noun: str = Field(max_length=40)  # of one of them, as `counted` takes it

    def __str__(self) -> str:
        return counted(self.number, self.noun)


class SlurmStart(_Plain):
    """Which start of which SLURM job a life is."""

    job: str = Field(max_length=12)
    restarts: int  # of the job before it: 0 for the first
    array_task: int | None = None


class End(_Plain):
    """How a life ended."""

    at: AwareDatetime
    seconds: float  # from its start to its end
    exit_code: int
    reason: str = Field(max_length=MAX_REASON)
    there: Amount | None = None  # at its end, as far as it knew


class Life(_Plain):
    """What the history says of one life."""

    number: int  # of starts on this folder, this one included
    life: str = Field(max_length=40)  # its id, see cluster.fan_out.attempt
    verb: str = Field(max_length=40)
    host: str = Field(max_length=255)
    process: ProcessId
    began: AwareDatetime
    slurm: SlurmStart | None = None
    before: Amount | None = None  # what was there at its start; None: it ended before it knew
    start_s: float | None = None  # from its start to its first unit or step; None: it began none
    end: End | None = None  # None: it was killed, or is at work


class LifeFile:
    """The file of the life that is being lived; a context manager, whose end is the end of the life.

    An exception that leaves the block is its reason, unless `ended` has told another one.
    """

    def __init__(self, store: LifeStore, life: Life, clock: Callable[[], float], wall: Callable[[], float]) -> None:
        self._store, self._clock, self._wall = store, clock, wall
        self._began = clock()
        self._there: Amount | None = None
        self._told: tuple[int, str] | None = None
        self.life = life
        self._write()

    def there(self, number: int, noun: str) -> None:
        """So much is there now. What is told first was there at the start, what is told last at the end."""
        self._there = Amount(number=number, noun=noun)
        if self.life.before is None:
            self._write(before=self._there)

    def at_work(self) -> None:
        """A unit or step begins; only the first one matters."""
        if self.life.start_s is None:
            self._write(start_s=round(self._clock() - self._began, 3))

    def ended(self, exit_code: int, reason: str) -> None:
        """How the life is going to end."""
        self._told = exit_code, reason

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        code, reason = self._told or (_end_by(error) if error is not None else (EXIT_COMPLETE, "complete"))
        self._write(
            end=End(
                at=_utc(self._wall()),
                seconds=round(self._clock() - self._began, 3),
                exit_code=code,
                reason=one_line(reason, MAX_REASON),
                there=self._there,
            )
        )

    def _write(self, **said: object) -> None:
        self.life = self.life.model_copy(update=said)
        with contextlib.suppress(Exception):  # whatever a store raises when it is full or away: the run finds out
            self._store.replace(f"{LIVES}/{self.life.number:06d}-{self.life.life}.json", _bytes_of(self.life))


def begin(
    store: LifeStore,
    life: str,
    verb: str,
    environ: Mapping[str, str] = os.environ,
    clock: Callable[[], float] = time.monotonic,
    wall: Callable[[], float] = time.time,
) -> LifeFile:
    """Write down that a life begins; `life`: its id, `verb`: the command. Removes the oldest beyond `KEPT`."""
    names: list[str] = []
    with contextlib.suppress(Exception):  # as in `LifeFile._write`
        names = _names(store)
        for name in names[: -KEPT + 1][:MOST_REMOVED]:
            store.delete(name)
    number = 1 + (_number(names[-1]) if names else 0)
    began = Life(
        number=number,
        life=life,
        verb=verb,
        host=socket.gethostname(),
        process=this_process(),
        began=_utc(wall()),
        slurm=slurm_start(environ),
    )
    return LifeFile(store, began, clock, wall)


def slurm_start(environ: Mapping[str, str]) -> SlurmStart | None:
    """Which start of which job this process is; None outside of SLURM."""
    job, *others = (environ.get(name, "") for name in SLURM_VARIABLES)
    if not (job.isascii() and job.isdecimal() and len(job) <= 12):
        return None
    restarts, task = map(_whole, others)
    return SlurmStart(job=job, restarts=restarts or 0, array_task=task)


def lives_of(store: LifeStore, newest: int = KEPT) -> list[Life]:
    """The lives of a folder in the order of their starts, at most so many; damaged files are passed over."""
    found = []
    for name in _names(store)[-newest:] if newest > 0 else []:
        with contextlib.suppress(ValueError, OSError):  # pydantic's own errors are ValueErrors
            life = Life.model_validate(parse_checked(store.read_bytes(name, MAX_BYTES), name))
            found.append(life.model_copy(update={"number": _number(name)}))
    return found


def stuck(lives: Sequence[Life], jobs: Collection[str], k: int = 3, at_work: Collection[str] = ()) -> bool:
    """Whether the last `k` starts of a SLURM job got no further: the time limit is shorter than one unit.

    `lives`: of one folder, in order, those of other jobs included. `jobs`: the job's id, or those of the jobs that were
    submitted one after the other in its place. A start is all lives of one id and restart count. It got
    further if one of its lives ended complete, or if more was there at a life's end, or at the start of the next life,
    than at its own start. What is counted as another thing than before (shards after parts of a search) is more.

    A start counts if one of its lives tells how much was there at its start and had time to work: it began a unit or
    step; or it began none and lived longer than the longest start of this folder that is known. So a job that is
    preempted while it loads its model is never called stuck for that, and neither is a life that is still at work:
    the last one, and those whose ids are in `at_work`, such as the other tasks of an array.
    """
    longest = max((life.start_s for life in lives if life.start_s is not None), default=None)
    turns: list[bool] = []  # of the starts that count: whether it got further
    own = [(place, life) for place, life in enumerate(lives) if life.slurm is not None and life.slurm.job in jobs]
    for _, turn in groupby(own, key=lambda one: one[1].slurm and (one[1].slurm.job, one[1].slurm.restarts)):
        judged = [
            _got_further(life, lives[place + 1 :])
            for place, life in turn
            if not (life.end is None and life.life in at_work) and _had_time(life, lives[place + 1 :], longest)
        ]
        known = [further for further in judged if further is not None]
        if known:
            turns.append(any(known))
    return k > 0 and len(turns) >= k and not any(turns[-k:])


def _had_time(life: Life, later: Collection[Life], longest_start_s: float | None) -> bool:
    if life.end is None and not later:  # it may be at work
        return False
    if life.start_s is not None:
        return True
    return life.end is not None and longest_start_s is not None and life.end.seconds > longest_start_s


def _got_further(life: Life, later: Iterable[Life]) -> bool | None:
    """None if nobody can tell."""
    if life.end is not None and life.end.exit_code == EXIT_COMPLETE:
        return True
    after = [next((one.before for one in later if one.before is not None), None)]
    if life.end is not None:
        after.append(life.end.there)
    before, known = life.before, [amount for amount in after if amount is not None]
    if before is None or not known:
        return None
    return any(amount.noun != before.noun or amount.number > before.number for amount in known)


def told(lives: Sequence[Life], at_work: Collection[str] = ()) -> list[str]:
    """A line a life, for people; `at_work`: the ids of the lives that write to the folder now."""
    return [_line(life, life.life in at_work or alive(life.process)) for life in lives]


def _line(life: Life, is_at_work: bool) -> str:
    slurm = life.slurm
    job = "" if slurm is None else f", job {slurm.job}" + (f" restart {slurm.restarts}" if slurm.restarts else "")
    task = "" if slurm is None or slurm.array_task is None else f" task {slurm.array_task}"
    line = f"{life.began:%Y-%m-%d %H:%M} UTC {life.verb} on {life.host}{job}{task}: "
    before = "" if life.before is None else f"{life.before} there, "
    end = life.end
    if end is None:
        return line + before + ("at work" if is_at_work else "killed, it could not say why")
    if end.there is not None and end.there != life.before:
        before = f"from {life.before} to {end.there}, "
    return f"{line}{before}ended after {time_text(end.seconds)} with {end.exit_code}: {end.reason}"


def _end_by(error: BaseException) -> tuple[int, str]:
    """Exit code and reason of a life that an exception ends, as the command line ends with them."""
    if isinstance(error, Draining):
        return EXIT_AGAIN, str(error)
    if isinstance(error, RunFailed):
        return error.code, str(error)
    ours = type(error).__module__.startswith("cluster.")
    if ours or isinstance(error, (ValueError, OSError, ImportError)):
        return EXIT_MISTAKE, str(error) or type(error).__name__
    return EXIT_FAILED, error_line(error)


def _bytes_of(life: Life) -> bytes:
    return to_checked(life.model_dump(mode="json"))


def _names(store: LifeStore) -> list[str]:
    """In the order of the starts."""
    names = [name for name in store.list(f"{LIVES}/") if _NAME.fullmatch(name.rpartition("/")[2])]
    return sorted(names, key=lambda name: (_number(name), name))


def _number(name: str) -> int:
    return int(name.rpartition("/")[2].partition("-")[0])


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _whole(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 9 else None
