"""What runs on a machine of a SLURM job: Ray's head or worker, and the program itself; or one rank, or one task.

In: how the work is spread, the folder where the machines of this life meet, the program's words, SLURM's variables.
Out: the program's exit code. On disk, in that folder: `address` (where Ray's head or the first rank is), `over` (the
exit code of the first process), `cause` (of another one that failed by itself); read: `stop`, which the job's script
writes. On the machine: Ray's own files in a private folder below `scratch`, removed at the end.

`srun` tells the highest code of all processes, which need not be the one that counts, so the script takes the one in
`over`; if the first process ended because another one failed, the one in `cause`.

Every job has ports and folders of its own, so two jobs may share a machine. Ray's processes get no signal of ours: the
program is asked to stop, ends its units, and only then they end.
"""

import contextlib
import math
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cluster.console import warn
from cluster.process.exit import EXIT_AGAIN, EXIT_COMPLETE, EXIT_FAILED, EXIT_FOLLOWED
from cluster.process.identity import ProcessId, session_members, start_ticks, this_place
from cluster.process.lives import lives_of, stuck
from cluster.process.private_folder import make_private_folder
from cluster.process.supervisor import end_with_parent
from cluster.process.writers import writers_of
from cluster.submit.slurm_script import CAUSE, OVER, STOP, Mode
from cluster.waiting import waiting
from shards.disk.replace import replace_file
from shards.disk.store import open_for_reading

ADDRESS = "address"
LOOK_S = 0.5
ASK_AGAIN_S = 5.0
MEET_S = 600.0  # for the head to start, and for its address to be seen on a shared file system
STUCK_AFTER = 3  # starts of a job that got no further
END_S = 10.0  # for processes that were killed
STARTS = 3  # of Ray on one machine, if it dies under way
OBJECT_STORE_BYTES = 100_000_000  # pixels never travel through Ray


@dataclass(frozen=True)
class Place:
    """Which machine of which life of a job this is."""

    node: int
    first: bool  # of all processes of the step
    cores: int

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> "Place":
        """Raises ValueError outside of a step of SLURM."""
        missing = [name for name in ("SLURM_JOB_ID", "SLURM_NODEID") if not environ.get(name, "").isdecimal()]
        if missing:
            raise ValueError(
                f"environment: found no {' and no '.join(missing)}, expected a step of SLURM; this verb is for the "
                "scripts that `sixfold submit` writes"
            )
        cores = environ.get("SLURM_CPUS_ON_NODE", "")
        number = int(cores) if cores.isdecimal() else len(os.sched_getaffinity(0))
        first = environ.get("SLURM_PROCID", "0") == "0"
        return cls(int(environ["SLURM_NODEID"]), first, max(1, number))


def run_node(
    mode: Mode, meeting: Path, scratch: Path, out: str, program: Sequence[str], environ: Mapping[str, str]
) -> int:
    """Run this machine's part until the work is over; the exit code. `out`: what the program writes, whose history
    tells whether another start would get further. Raises ValueError outside of a step of SLURM, or where the folder is
    not seen, TimeoutError if the machines do not meet."""
    place = Place.of(environ)
    if not meeting.is_dir():  # made anew in a container, it would go with it, and so would all that the program writes
        raise ValueError(
            f"{meeting}: found no such folder, expected the job's, which its script has made; all machines, and the "
            "container, must see it and the output (cluster.site.container.mounts)"
        )
    stop = _Stop(meeting / STOP)
    code = EXIT_FAILED
    with _hears_nothing():
        try:
            code = _run_part(mode, place, meeting, scratch, program, environ, stop)
            if code == EXIT_AGAIN and place.first and (advice := _why_not_again(out, meeting.parent)):
                warn(advice)
                code = EXIT_FAILED
        finally:
            _tell_script(meeting, place, code)
    return code


def _tell_script(meeting: Path, place: Place, code: int) -> None:
    """Write down how this process ended, if that may be how the job did."""
    file = meeting / (OVER if place.first else CAUSE)
    if not place.first and (code in (EXIT_COMPLETE, EXIT_AGAIN, EXIT_FOLLOWED) or file.exists()):
        return
    try:
        replace_file(file, str(code).encode())
    except OSError as error:  # the script then takes what srun says
        warn(f"{file}: cannot be written ({error.strerror or error}); all machines of the job must see its folder")


def _why_not_again(out: str, job: Path) -> str:
    """Why the job is not to be queued again; "" if it may be. `job`: its folder, where each start has one of its own,
    also those of the jobs that it goes on from."""
    chain = {folder.name.partition("-")[0] for folder in job.iterdir()}
    store = open_for_reading(out)
    if not stuck(lives_of(store), chain, STUCK_AFTER, {one.life for one in writers_of(store)}):
        return ""
    return (
        f"{out}: the last {STUCK_AFTER} starts of this job got no further, so the time limit is shorter than one shard "
        "or one checkpoint takes; raise cluster.site.time, or lower shards.samples_per_shard in a new output, or "
        "checkpoint.every_min of a training"
    )


def _run_part(
    mode: Mode,
    place: Place,
    meeting: Path,
    scratch: Path,
    program: Sequence[str],
    environ: Mapping[str, str],
    stop: "_Stop",
) -> int:
    if mode != "ray":
        met = _where_ranks_meet(place, meeting, environ) if mode == "ranks" else {}
        return EXIT_FOLLOWED if met is None else _run_program(program, {**environ, **met}, stop, ray=None)
    folder = make_private_folder(scratch)
    try:
        if place.first:
            return _lead(place, folder, meeting, program, environ, stop)
        return _follow(place, folder, meeting, environ)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Stop:
    """Whether the script has asked for an end; the file system is asked, not a signal."""

    def __init__(self, file: Path) -> None:
        self._file = file

    @property
    def asked(self) -> bool:
        return self._file.exists()


@contextlib.contextmanager
def _hears_nothing() -> Iterator[None]:
    """SLURM signals every process of a step; the program ends by itself then, and this one waits for it."""
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run_program(program: Sequence[str], environ: Mapping[str, str], stop: _Stop, ray: "_Ray | None") -> int:
    """The program to its end. It is asked to stop when the script was warned, or when Ray has ended here; and again,
    because a program that is still being loaded hears nothing."""
    child = subprocess.Popen(program, env=dict(environ), preexec_fn=_deaf_at_first)
    asked_at = -math.inf
    while (code := child.poll()) is None:
        is_asked = stop.asked or (ray is not None and not ray.lives)
        if is_asked and time.monotonic() > asked_at + ASK_AGAIN_S:
            asked_at = time.monotonic()
            child.send_signal(signal.SIGUSR1)
        time.sleep(LOOK_S)
    return code if code >= 0 else 128 - code


def _deaf_at_first() -> None:
    """Runs in a child before its program starts: until the program listens, SIGUSR1 must not end it."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    end_with_parent()


def _where_ranks_meet(place: Place, meeting: Path, environ: Mapping[str, str]) -> dict[str, str] | None:
    """The address of the first rank, for all of them: SLURM's name of a machine need not be one that a network knows.
    What the site's own lines have set stays. None if the first rank has ended already."""
    if environ.get("SLURM_STEP_NUM_NODES", "1") == "1" or "MASTER_ADDR" in environ:
        return {}
    file = meeting / ADDRESS
    if place.first:
        replace_file(file, f"{_own_address()} {_free_port()}".encode())
    address = _read_within(file, meeting / OVER, MEET_S)
    if address is None:
        return None
    host, _, port = address.partition(" ")
    return {"MASTER_ADDR": host, "MASTER_PORT": port}


def _own_address() -> str:
    """How other machines reach this one: the address that its own packets would have. Nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one, contextlib.suppress(OSError):  # no way out of here
        one.connect(("192.0.2.1", 9))  # of no machine (RFC 5737)
        return str(one.getsockname()[0])
    return socket.gethostbyname(socket.gethostname())


def _lead(
    place: Place, folder: Path, meeting: Path, program: Sequence[str], environ: Mapping[str, str], stop: _Stop
) -> int:
    with waiting("starting Ray on the job's first machine"):
        head, address = _start_head(place, folder, environ)
    with head:
        replace_file(meeting / ADDRESS, address.encode())
        return _run_program(program, {**environ, "RAY_ADDRESS": address}, stop, head)


def _follow(place: Place, folder: Path, meeting: Path, environ: Mapping[str, str]) -> int:
    """Ray on another machine, for as long as the program runs on the first."""
    over = meeting / OVER
    with waiting("waiting for Ray on the job's first machine"):
        address = _read_within(meeting / ADDRESS, over, MEET_S)
    for _ in range(STARTS):
        if address is None or over.exists():
            return 0
        with _Ray(["--address", address], place, folder, environ) as ray:
            while ray.lives and not over.exists():
                time.sleep(LOOK_S)
    if over.exists():
        return 0
    warn(f"Ray ended {STARTS} times on machine {place.node} of the job, expected it to run until the work is over")
    return EXIT_AGAIN


def _read_within(file: Path, over: Path, seconds: float) -> str | None:
    """The file's text; None if all is over before it is there. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if over.exists():
            return None
        with contextlib.suppress(FileNotFoundError):
            return file.read_text()
        time.sleep(LOOK_S)
    raise TimeoutError(
        f"{file}: found nothing after {seconds:.0f} s, expected the address of the job's first machine; its folder "
        "must be seen by all its machines"
    )


def _start_head(place: Place, folder: Path, environ: Mapping[str, str]) -> tuple["_Ray", str]:
    """Ray's head on a free port, and its address."""
    for attempt in range(STARTS):
        words = ["--head", "--port=0", "--include-dashboard=false", f"--ray-client-server-port={_free_port()}"]
        head = _Ray(words, place, folder, environ)
        known = head.folder / "ray_current_cluster"
        deadline = time.monotonic() + MEET_S
        while head.lives and time.monotonic() < deadline:
            with contextlib.suppress(FileNotFoundError):
                if address := known.read_text().strip():
                    return head, address
            time.sleep(LOOK_S)
        head.end()
        warn(f"Ray did not start here, try {attempt + 1} of {STARTS}")
    raise TimeoutError(
        f"{folder}: Ray did not start in {STARTS} tries; look at the lines above, at free memory and at /dev/shm"
    )


def _free_port() -> int:
    """A port that is free now; Ray's client server, which we do not use, would take 10001 on every machine."""
    with socket.socket() as one:
        one.bind(("", 0))
        return int(one.getsockname()[1])


class _Ray:
    """Ray's processes on this machine, in a session of their own; a context manager that ends them."""

    def __init__(self, what: Sequence[str], place: Place, folder: Path, environ: Mapping[str, str]) -> None:
        self.folder = folder / secrets.token_hex(2)  # Ray makes it world-writable; the one around it is ours alone
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", *what, "--block", "--disable-usage-stats"]
        command += [
            f"--num-cpus={place.cores}",
            f"--temp-dir={self.folder}",
            f"--object-store-memory={OBJECT_STORE_BYTES}",
        ]
        command += ["--min-worker-port=0", "--max-worker-port=0", "--dashboard-agent-listen-port=0"]
        self._process = subprocess.Popen(
            command,
            env={**environ, "RAY_worker_niceness": environ.get("RAY_worker_niceness", "0")},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=end_with_parent,
        )
        self._leader = ProcessId(this_place(), self._process.pid, start_ticks(self._process.pid) or 0)

    @property
    def lives(self) -> bool:
        """Whether Ray runs here."""
        return self._process.poll() is None

    def end(self) -> None:
        """End it at once: it holds nothing that is needed, and asked politely it takes half a minute."""
        for _ in range(2):  # one may have been starting another
            for process in session_members(self._leader):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):  # the next round, or SLURM itself, ends it
                self._process.wait(END_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.end()
