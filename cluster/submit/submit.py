"""The front door: one call, handed over to where it is to run, and found again from its output.

In: a `Call`, a `Target`, a `SiteSpec`. Out: what was done, in lines; states of jobs. On disk: what
`cluster.submit.book` says, and the job's script in its folder.

A receipt says of which kind its job is; `STATES`, `CANCELS` and `PRINTED` say who knows of that kind. It is there
before anything is sent, and goes only if it is certain that nothing was taken. A job that was seen to be over is not
asked for again: its server may be gone.
"""

import contextlib
import dataclasses
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from cluster.process.reach import why_no_head
from cluster.process.stop_flag import StopFlag
from cluster.recipes.site import SiteSpec
from cluster.submit import autoscaler, kubernetes, ray_job, slurm
from cluster.submit.book import JOBS, OVER, UNSURE, Book, Receipt
from cluster.submit.call import RANKS, Call, Target, whole
from cluster.submit.slurm_script import CANCELLED, IDS, mode_of, slurm_script
from cluster.submit.state import JobError, JobState
from shards.disk.address import local_root
from shards.disk.amounts import counted, size_text
from shards.disk.home import home
from shards.disk.replace import replace_file

Say = Callable[[str], None]
SCRIPT = "job.sh"
MANIFEST = "rayjob.yaml"
CLUSTER = "cluster.yaml"
HEAD_S = 5.0
TAIL_BYTES = 1 << 16
SHOWN_JOBS = 5  # the newest, of an output


@dataclass(frozen=True)
class Job:
    """A receipt, and what the other side says of it now."""

    receipt: Receipt
    states: tuple[JobState, ...]
    told: str  # one line about it
    unknown: bool = False  # nobody can be asked for it now

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
    root = local_root(call.out)
    folder = Path(f"out/jobs/{call.name}-NNNNN").absolute() if root is None else root / JOBS / "NNNNN"
    script = slurm_script(call, site, folder, Path.cwd(), own_program())
    lines = [whole(["sbatch", "--parsable", *options, str(folder / SCRIPT)]) for options in script.submissions]
    return "\n".join([f"would write {folder / SCRIPT}:", "", script.text, "would run:", *(f"  {one}" for one in lines)])


def submit_slurm(call: Call, site: SiteSpec, say: Say) -> Receipt:
    """Write the script into the output and hand it to SLURM. Raises JobError, and OSError for an output that cannot
    be written, ValueError if a job of this output is still there."""
    book = Book.of(call.out)
    _refuse_second(book, call)
    with _handing_over(book, call, "slurm") as receipt:
        folder = Path(receipt.folder)
        script = slurm_script(call, site, folder, Path.cwd(), own_program())
        replace_file(folder / SCRIPT, script.text.encode())
        book.keep(receipt)
        ids: list[str] = []
        for options in script.submissions:
            try:
                ids.append(slurm.submit(folder / SCRIPT, options, ids))
            except JobError as error:
                if not ids:
                    raise
                more = receipt.more if error.unclear else _without(receipt, UNSURE)
                book.keep(dataclasses.replace(receipt, ids=tuple(ids), more=more))
                told = f"{len(ids)} of {len(script.submissions)} arrays were taken, and their tasks work"
                raise JobError(f"{error}; {told}", unclear=True) from None
        receipt = dataclasses.replace(receipt, ids=tuple(ids), more=_without(receipt, UNSURE))
        book.keep(receipt)
    if why := slurm.why_never(ids[0]):
        slurm.cancel(ids)
        book.forget(receipt)
        raise JobError(f"SLURM would never start this job: {why}; it is taken back")
    machines = counted(site.nodes, "machine")
    spread = {
        "ray": f"{machines}, Ray over its machines",
        "array": f"{counted(site.tasks, 'task')} claiming units",
        "ranks": f"{machines}, ranks of one training",
    }
    say(f"job {', '.join(ids)}: {spread[mode_of(call, site)]}; logs in {folder}")
    return receipt


def preview_job(call: Call, site: SiteSpec, address: str) -> str:
    """What a submission to a job server would send; touches nothing."""
    root = local_root(call.out)
    proof = None if root is None else root / JOBS / "NNNNN.json"
    package = ray_job.package_of(over_ray(call, site), site, proof)
    lines = [f"would send {counted(len(package.files), 'file')}, {size_text(package.num_bytes)}, to {address}, to run:"]
    return "\n".join([*lines, f"  {package.entrypoint}", *_to_see(package.must_see)])


def submit_job(call: Call, site: SiteSpec, address: str, say: Say) -> Receipt:
    """Send the program and the recipe to a job server. Raises JobError, and OSError for an output that cannot be
    written, ValueError if a job of this output is still there."""
    book = Book.of(call.out)
    _refuse_second(book, call)
    with _handing_over(book, call, "job", address) as receipt:
        root = local_root(call.out)
        proof = None if root is None else root / JOBS / f"{receipt.number:05d}.json"
        package = ray_job.package_of(over_ray(call, site), site, proof)
        for line in _to_see(package.must_see):
            say(line)
        book.keep(receipt)  # with the job's id, before there is one: nothing that was sent is without a receipt
        ray_job.submit(package, receipt, call, site)
    say(f"job {receipt.ids[0]}: {size_text(package.num_bytes)} sent to the job server at {address}")
    return receipt


def preview_k8s(call: Call, site: SiteSpec) -> str:
    """What a submission to Kubernetes would write and run; touches nothing."""
    text = kubernetes.manifest(over_ray(call, site), site, f"sixfold-{_short(call)}-NNNNNNNN")
    return f"{text}\nwould run: kubectl create -f {MANIFEST}"


def submit_k8s(call: Call, site: SiteSpec, say: Say) -> Receipt:
    """Write the manifest into the job's folder and hand it to Kubernetes. Raises JobError, and OSError for an
    output that cannot be written, ValueError if a job of this output is still there."""
    namespace = kubernetes.namespace_of(site)
    book = Book.of(call.out)
    _refuse_second(book, call)
    with _handing_over(book, call, "k8s", namespace) as receipt:
        file = Path(receipt.folder) / MANIFEST
        replace_file(file, kubernetes.manifest(over_ray(call, site), site, receipt.ids[0]).encode())
        if kubernetes.is_here():
            book.keep(receipt)
        kubernetes.submit(file)
    say(f"job {receipt.ids[0]}: {counted(site.nodes, 'machine')}, namespace {namespace}; {file}")
    return receipt


def ranks_of(call: Call, site: SiteSpec) -> int:
    """How many processes of a job train one model together."""
    return site.nodes * max(1, site.gpus_per_node) if call.verb == "train" else 1


def over_ray(call: Call, site: SiteSpec) -> Call:
    """The call, which starts the ranks over Ray if it is a training on more than one GPU."""
    ranks = ranks_of(call, site)
    if ranks == 1:
        return call
    return dataclasses.replace(call, arguments=(*call.arguments, RANKS, str(ranks)))


def write_cloud(call: Call, site: SiteSpec, say: Say, dry_run: bool) -> None:
    """Write the file of Ray's launcher into the folder where the command is called, and say what to do with it. Raises
    JobError, and ValueError if a file is there that says something else."""
    text = autoscaler.cluster_yaml(f"sixfold-{_short(call)}", site)
    file = Path(CLUSTER)
    if dry_run:
        say(text)
        return
    if file.exists() and file.read_text() != text:
        raise ValueError(f"{file.absolute()}: found a file that says something else, expected none; move it away")
    replace_file(file, text.encode())
    lines = autoscaler.commands(CLUSTER, whole(call.words))
    say("\n".join([f"written to {file.absolute()}; now run:", *(f"  {line}" for line in lines)]))


@contextlib.contextmanager
def _handing_over(book: Book, call: Call, kind: str, where: str = "") -> Iterator[Receipt]:
    """A receipt to keep before anything is sent, with the id that we choose where we do. If handing over fails, it is
    given back, unless the job is there, or may be there, all the same: the answer may have been lost, or not waited
    for."""
    receipt = book.begin(call, kind, where)
    if kind == "slurm":
        receipt = dataclasses.replace(receipt, more={**receipt.more, UNSURE: "yes"})
    else:
        receipt = dataclasses.replace(receipt, ids=(f"sixfold-{_short(call)}-{receipt.more['by'][:8]}",))
    try:
        yield receipt
    except BaseException as error:
        is_refusal = isinstance(error, JobError) and not error.unclear
        is_kept = any(one.number == receipt.number for one in book.receipts())
        if not is_kept or (is_refusal and not _is_there(receipt)):
            book.forget(receipt)
        raise


def _without(receipt: Receipt, name: str) -> dict[str, str]:
    return {key: value for key, value in receipt.more.items() if key != name}


def _is_there(receipt: Receipt) -> bool:
    """Whether a job is known there of which we heard a refusal."""
    with contextlib.suppress(JobError):
        return bool(STATES[receipt.kind](receipt))
    return False


def _to_see(places: tuple[str, ...]) -> list[str]:
    return [f"the cluster's machines must see, at the same place: {', '.join(places)}"] if places else []


def _short(call: Call) -> str:
    """A piece of a name that Ray and Kubernetes take."""
    return re.sub(r"[^a-z0-9]+", "-", call.name.lower())[:24].strip("-")


def _refuse_second(book: Book, call: Call) -> None:
    """Raises ValueError if a job of this output is still there, JobError if nobody can tell. Writes down which are
    over."""
    for job in jobs_of(book):
        if job.unknown:
            raise JobError(f"{call.out}: {job.told}; {_if_over(book, job)} and submit again")
        if job.lives:
            raise ValueError(
                f"{call.out}: {job.told}; wait for it, or end it with `{whole(['sixfold', 'cancel', call.out])}`"
            )
        if not _is_known_over(job.receipt):
            over = {**job.receipt.more, OVER: str(len(_written_ids(job.receipt)))}
            book.keep(dataclasses.replace(job.receipt, more=over))


def _if_over(book: Book, job: Job) -> str:
    return f"if it is over, remove {book.place(job.receipt)}"


def _is_known_over(receipt: Receipt) -> bool:
    """Whether all its jobs that are known now were seen to be over."""
    return receipt.more.get(OVER) == str(len(_written_ids(receipt)))


def job_of(receipt: Receipt) -> Job:
    """The job of a receipt, with its state. Raises JobError."""
    states = () if _is_known_over(receipt) else STATES[receipt.kind](receipt)
    return Job(receipt, states, _told(receipt, states))


def jobs_of(book: Book, most: int | None = None) -> Iterator[Job]:
    """The jobs of an output, or its newest ones, oldest first. Who could not be asked for one is not asked for another.
    Raises ValueError for a damaged receipt."""
    receipts = _known(book)
    silent: dict[tuple[str, str], JobError] = {}
    for receipt in receipts if most is None else receipts[-most:]:
        who = receipt.kind, receipt.where
        try:
            if who in silent and not _is_known_over(receipt):
                raise silent[who]
            job = job_of(receipt)
        except JobError as error:
            silent[who] = error
            job = Job(receipt, (), f"{_named(receipt)} cannot be asked for here ({error})", unknown=True)
        yield job


def _known(book: Book) -> list[Receipt]:
    """A later version may know other kinds."""
    return [receipt for receipt in book.receipts() if receipt.kind in STATES]


def told_jobs(out: str) -> list[str]:
    """A line for each of the newest jobs of an output, for people; that one cannot be asked for is one."""
    return [job.told for job in jobs_of(Book.of(out), SHOWN_JOBS)]


def cancel_jobs(out: str, say: Say) -> int:
    """End what was submitted for an output and is not over; how many jobs that were. Raises ValueError if nothing ever
    was submitted, JobError for what could not be ended, after all others."""
    receipts_of(out)
    book, ended, left = Book.of(out), 0, []
    for job in jobs_of(book):
        if job.unknown:
            left.append(f"{job.told}; {_if_over(book, job)}")
        elif job.lives:
            try:
                CANCELS[job.receipt.kind](job.receipt)
            except JobError as error:
                left.append(f"{job.told}, and could not be cancelled ({error})")
            else:
                say(f"cancelled {job.told}")
                ended += 1
    if left:
        raise JobError("; ".join(left))
    return ended


def receipts_of(out: str) -> list[Receipt]:
    """What was submitted for an output, oldest first. Raises ValueError if nothing ever was."""
    found = _known(Book.of(out))
    if not found:
        raise ValueError(f"{out}: found no job, expected one that `sixfold submit` has sent; check the folder")
    return found


def tails(receipt: Receipt, lines: int) -> dict[str, tuple[str, int]]:
    """The last lines of each log of a job, by its name, and where that ends."""
    if receipt.kind in PRINTED:
        text = PRINTED[receipt.kind](receipt)
        return {"": ("\n".join(text.splitlines()[-lines:]), len(text))} if text else {}
    return {path.name: tail(path, lines) for path in logs_of(receipt)}


def printed_since(receipt: Receipt, ends: Mapping[str, int]) -> dict[str, tuple[str, int]]:
    """What each log of a job has beyond its end of before, and where it ends now."""
    if receipt.kind in PRINTED:
        text = PRINTED[receipt.kind](receipt)
        return {"": (text[ends.get("", 0) :], len(text))}
    found = {}
    for path in logs_of(receipt):
        with path.open("rb") as file:
            file.seek(ends.get(path.name, 0))
            text = file.read().decode(errors="replace")
            found[path.name] = (text, file.tell())
    return found


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


def _written_ids(receipt: Receipt) -> list[str]:
    """With the ids of jobs that a job has submitted for itself."""
    folder = Path(receipt.folder) / IDS
    more = [path.name for path in folder.iterdir()] if receipt.kind == "slurm" and folder.is_dir() else []
    return list(dict.fromkeys([*receipt.ids, *sorted(more)]))


def _slurm_ids(receipt: Receipt) -> list[str]:
    """All ids that SLURM may know. Raises JobError."""
    found = _written_ids(receipt)
    if UNSURE in receipt.more:
        found += slurm.ids_of(Path(receipt.folder) / SCRIPT)
    return [one for one in dict.fromkeys(found) if one.isdecimal()]


def _slurm_states(receipt: Receipt) -> tuple[JobState, ...]:
    return tuple(slurm.states(_slurm_ids(receipt)))


def _cancel_slurm(receipt: Receipt) -> None:
    ids, folder = _slurm_ids(receipt), Path(receipt.folder) / CANCELLED
    with contextlib.suppress(OSError):  # a job that was warned a moment ago sees it and does not queue itself again
        folder.mkdir(parents=True, exist_ok=True)
        for one in ids:
            (folder / one).touch()
    slurm.cancel(ids)


STATES: dict[str, Callable[[Receipt], tuple[JobState, ...]]] = {
    "slurm": _slurm_states,
    "job": ray_job.states,
    "k8s": kubernetes.states,
}
CANCELS: dict[str, Callable[[Receipt], None]] = {
    "slurm": _cancel_slurm,
    "job": ray_job.cancel,
    "k8s": kubernetes.cancel,
}
PRINTED: dict[str, Callable[[Receipt], str]] = {"job": ray_job.printed, "k8s": kubernetes.printed}  # others: log files


def _named(receipt: Receipt) -> str:
    ids = ", ".join(receipt.ids) or f"without a known number ({receipt.folder}/{SCRIPT})"
    owners = {"slurm": "SLURM", "job": f"Ray at {receipt.where}", "k8s": f"Kubernetes, namespace {receipt.where},"}
    return f"job {ids} of {owners[receipt.kind]}"


def _told(receipt: Receipt, states: tuple[JobState, ...]) -> str:
    name = _named(receipt)
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
