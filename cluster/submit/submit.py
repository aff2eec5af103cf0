"""The front door: one call, handed over to where it is to run, and found again from its output.

In: a `Call`, a `Target`, a `SiteSpec`. Out: what was done, in lines; states of jobs. On disk: what
`cluster.submit.book` says, and the job's script in its folder.
"""

import dataclasses
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cluster.process.reach import why_no_head
from cluster.process.stop_flag import StopFlag
from cluster.recipes.site import SiteSpec
from cluster.submit import slurm
from cluster.submit.book import Book, Receipt
from cluster.submit.call import Call, Target, whole
from cluster.submit.slurm_script import IDS, mode_of, slurm_script
from shards.disk.amounts import counted
from shards.disk.home import home
from shards.disk.replace import replace_file

Say = Callable[[str], None]
SCRIPT = "job.sh"
HEAD_S = 5.0
TAIL_BYTES = 1 << 16
SHOWN_JOBS = 5  # the newest, of an output


@dataclass(frozen=True)
class Job:
    """A receipt, and what the other side says of it now."""

    receipt: Receipt
    states: tuple[slurm.JobState, ...]
    told: str  # one line about it

    @property
    def lives(self) -> bool:
        """Whether it runs, or will."""
        return any(state.lives for state in self.states)


def own_program() -> tuple[str, ...]:
    """How this program is started again: by the same Python, from the same folder."""
    return (sys.executable, str(home() / "sixfold.py"))


def run_here(call: Call, target: Target) -> None:
    """Become the call itself: on this machine, or as the driver on a Ray cluster that this machine is a node of. Does
    not return. Raises ValueError if no head answers there."""
    environ = {**os.environ}
    if target.kind == "ray":
        with StopFlag() as stop:
            wrong = why_no_head(target.address, HEAD_S, environ, stop)
        if wrong:
            raise ValueError(
                f"--to {target}: {wrong}; give the address of the cluster's head, as `ray start --head` printed it, "
                "and run this on a machine of the cluster; from elsewhere use --to job:http://HOST:8265"
            )
        environ["RAY_ADDRESS"] = target.address
    else:
        environ["RAY_ADDRESS"] = "local"
    os.execve(own_program()[0], [*own_program(), *call.words], environ)


def preview_slurm(call: Call, site: SiteSpec) -> str:
    """What a submission to SLURM would write and run; touches nothing."""
    folder = Path(call.out).absolute() / "_meta/jobs/NNNNN"
    script = slurm_script(call, site, folder, Path.cwd(), own_program())
    lines = [whole(["sbatch", "--parsable", *options, str(folder / SCRIPT)]) for options in script.submissions]
    return "\n".join([f"would write {folder / SCRIPT}:", "", script.text, "would run:", *(f"  {one}" for one in lines)])


def submit_slurm(call: Call, site: SiteSpec, say: Say) -> Receipt:
    """Write the script into the output and hand it to SLURM. Raises SlurmError, and OSError for an output that cannot
    be written, ValueError if a job of this output is still there."""
    book = Book.of(call.out)
    for job in jobs_of(book):
        if job.receipt.kind == "slurm" and job.lives:
            raise ValueError(
                f"{call.out}: {job.told}; wait for it, or end it with `{whole(['sixfold', 'cancel', call.out])}`"
            )
    receipt = book.begin(call, "slurm")
    folder = Path(receipt.folder)
    script = slurm_script(call, site, folder, Path.cwd(), own_program())
    ids: list[str] = []
    try:
        replace_file(folder / SCRIPT, script.text.encode())
        for options in script.submissions:
            try:
                ids.append(slurm.submit(folder / SCRIPT, options))
            except slurm.SlurmError as error:
                if not ids:
                    raise
                told = f"{len(ids)} of {len(script.submissions)} arrays were taken, and their tasks work"
                raise slurm.SlurmError(f"{error}; {told}") from None
        if why := slurm.why_never(ids[0]):
            slurm.cancel(ids)
            ids.clear()
            raise slurm.SlurmError(f"SLURM would never start this job: {why}; it is taken back")
    finally:
        receipt = dataclasses.replace(receipt, ids=tuple(ids))
        if ids:
            book.keep(receipt)
        else:
            book.forget(receipt)
    spread = {"ray": "Ray over its machines", "array": "tasks that claim units", "ranks": "ranks of one training"}
    say(f"job {', '.join(ids)}: {counted(site.nodes, 'machine')}, {spread[mode_of(call, site)]}; logs in {folder}")
    return receipt


def jobs_of(book: Book) -> Iterator[Job]:
    """The jobs of an output, oldest first, with their states. Raises SlurmError, ValueError for a damaged receipt."""
    for receipt in book.receipts():
        if receipt.kind == "slurm":
            ids = _all_ids(receipt)
            states = tuple(state for found in slurm.states(ids).values() for state in found)
            yield Job(receipt, states, _told(receipt, states))


def told_jobs(out: str) -> list[str]:
    """A line for each of the newest jobs of an output, for people; that they cannot be asked for is one."""
    book = Book.of(out)
    if not book.receipts():
        return []
    try:
        return [job.told for job in jobs_of(book)][-SHOWN_JOBS:]
    except slurm.SlurmError as error:
        newest = book.receipts()[-1]
        return [f"{', '.join(newest.ids)} of SLURM cannot be asked for here ({error})"]


def cancel_jobs(out: str, say: Say) -> int:
    """End what was submitted for an output and is not over; how many jobs that were."""
    ended = 0
    for job in jobs_of(Book.of(out)):
        if job.lives:
            slurm.cancel(_all_ids(job.receipt))
            say(f"cancelled {job.told}")
            ended += 1
    return ended


def logs_of(receipt: Receipt) -> list[Path]:
    """The log files of a job, the oldest first."""
    folder = Path(receipt.folder)
    found = folder.glob("*.log") if folder.is_dir() else ()
    return sorted(found, key=lambda path: (path.stat().st_mtime_ns, path.name))


def tail(path: Path, lines: int) -> tuple[str, int]:
    """The last lines of a log, and where it ends."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - TAIL_BYTES))
        text = file.read().decode(errors="replace")
    return "\n".join(text.splitlines()[-lines:]), size


def _all_ids(receipt: Receipt) -> list[str]:
    """With the ids of jobs that a job has submitted for itself."""
    ids = list(receipt.ids)
    file = Path(receipt.folder) / IDS
    if file.is_file():
        ids += [line for line in file.read_text().split() if line.isdecimal() and line not in ids]
    return list(dict.fromkeys(ids))


def _told(receipt: Receipt, states: tuple[slurm.JobState, ...]) -> str:
    name = f"job {', '.join(receipt.ids)} of SLURM"
    if not states:
        return f"{name} is over"
    if len(states) == 1:
        one = states[0]
        restarts = f", queued again {counted(one.restarts, 'time')}" if one.restarts else ""
        return f"{name} is {one.state.lower()}{f' ({one.reason})' if one.reason else ''}{restarts}"
    counts: dict[str, int] = {}
    for one in states:
        counts[one.state.lower()] = counts.get(one.state.lower(), 0) + 1
    return f"{name}: " + ", ".join(f"{number:,} {state}" for state, number in sorted(counts.items()))
