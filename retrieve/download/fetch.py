"""One slice of URLs through img2dataset: one call of the program, watched to its end.

In: addresses that were judged, a gate. Out: a `Slice`: of each URL the bytes, or img2dataset's status and error. On
disk: a folder below the system's temporary one (urls.parquet, out/, log.txt), gone when the call ends, however it ends;
what it fetched can be read as long as the `Slice` lives. The log of a call that failed is kept where the caller says.

The program leads a session of its own. It is killed with all its processes when the call is given up, at the deadline,
and when this process dies (`cluster.process.supervisor`, `retrieve/download/leash`).
"""

import contextlib
import hashlib
import math
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.process.failure import last_line
from cluster.process.identity import ProcessId, session_members, start_ticks, this_place
from cluster.process.supervisor import start_supervised
from retrieve.download.gate import Gate
from retrieve.download.program import LISTED, OUT, PLACE, command_of, environment_of
from retrieve.download.spec import DownloadSpec
from shards.disk.home import home
from shards.disk.layout import SUCCESS
from shards.disk.regular import open_regular
from shards.disk.safe_text import one_line
from shards.disk.store import FolderStore
from shards.stream.foreign_tars import pictures_of

POLL_S = 0.25
START_S = 120.0  # that the program may need beside its requests
HOPS = 2  # requests that an address may need on average, redirects and all
END_S = 10.0  # for what was killed to be gone
MAX_LOG = 1 << 20  # bytes that are kept of a log
MAX_ERROR = 300
FOLDER = "sixfold-download"


@dataclass(frozen=True)
class Fetched:
    """What became of one URL."""

    status: str  # success, or img2dataset's word: failed_to_download
    error: str | None
    tar: int = 0  # which of the slice's
    offset: int = 0
    size: int = 0


class Slice:
    """The answers to the URLs of a call, by their places in it. Any thread may read."""

    def __init__(self, rows: Sequence[Fetched], tars: Sequence[BinaryIO]) -> None:
        self.rows = rows
        self._tars = tars  # open files without a name: they go when this object does

    def read(self, place: int) -> bytes:
        """The bytes of a success, as the host sent them. Raises OSError."""
        row = self.rows[place]
        data = os.pread(self._tars[row.tar].fileno(), row.size, row.offset)
        if len(data) != row.size:
            raise OSError(f"found {len(data):,} bytes of a fetched picture, expected {row.size:,}")
        return data


def fetch(
    urls: Sequence[str],
    spec: DownloadSpec,
    program: Path,
    gate: Gate,
    alive: Callable[[float], None],
    log_folder: Path,
) -> Slice:
    """`alive` hears the share that is done, and may raise to give the call up. At least one URL.

    Raises RuntimeError, which names the log, if the program fails or does not end in time; OSError for a full disk.
    """
    with _scratch() as folder:
        table = pa.table({PLACE: pa.array(range(len(urls)), pa.int32()), "url": pa.array(urls, pa.string())})
        pq.write_table(table, folder / LISTED)
        log = folder / "log.txt"
        try:
            code = _run(folder, log, len(urls), spec, program, gate, alive)
            if code != 0:
                raise RuntimeError(f"img2dataset ended with code {code} ({_said(log)})")
            return _results(folder / OUT, len(urls), log)
        except RuntimeError as error:
            raise RuntimeError(f"{error}; its output is in {_keep(log, log_folder)}") from None


def deadline_s(spec: DownloadSpec, num_urls: int) -> float:
    """For a whole call: every host may take the time that the gate allows."""
    rounds = math.ceil(num_urls / (spec.threads * spec.processes))
    return START_S + rounds * HOPS * (1 + spec.retries) * (2 * spec.timeout_s + 1)


def quiet_s(spec: DownloadSpec) -> float:
    """Without a request that ends: longer than the program's start, and than any request."""
    return START_S + 4 * spec.timeout_s


def _run(
    folder: Path,
    log: Path,
    num_urls: int,
    spec: DownloadSpec,
    program: Path,
    gate: Gate,
    alive: Callable[[float], None],
) -> int:
    """The program's exit code."""
    before, limit_s = gate.num_done, deadline_s(spec, num_urls)
    with log.open("wb") as output:
        child = start_supervised(
            command_of(program, spec, num_urls),
            home(),
            folder,
            environment_of(gate.url, folder, os.environ),
            output,
            subprocess.STDOUT,
        )
    leader = ProcessId(this_place(), child.pid, start_ticks(child.pid) or 0)
    num_done, changed = before, time.monotonic()
    ends = changed + limit_s
    try:
        while (now := time.monotonic()) < ends:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return child.wait(timeout=POLL_S)
            if gate.num_done != num_done:
                num_done, changed = gate.num_done, now
            if now > changed + quiet_s(spec):  # a process of its pool that was killed is waited for without end
                raise RuntimeError(f"img2dataset did nothing for {quiet_s(spec):.0f} s ({_said(log)})")
            alive(min(0.99, (num_done - before) / num_urls))
        raise RuntimeError(f"img2dataset did not end within {limit_s:.0f} s ({_said(log)})")
    finally:
        _end(child, leader)


def _end(child: "subprocess.Popen[bytes]", leader: ProcessId) -> None:
    """No process of the program's session lives on behind this."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait(timeout=30)
    until = time.monotonic() + END_S
    while session_members(leader) and time.monotonic() < until:
        time.sleep(0.02)


def _results(out: Path, num_urls: int, log: Path) -> Slice:
    """Raises RuntimeError if a URL is without a row: img2dataset leaves out what it could not write."""
    rows: dict[int, Fetched] = {}
    tars: list[BinaryIO] = []
    for path in sorted(out.glob("*.parquet")):
        told = pq.read_table(path, columns=[PLACE, "key", "status", "error_message"]).to_pylist()
        tar = path.with_suffix(".tar")
        members = {}
        if any(row["status"] == SUCCESS for row in told):
            members = pictures_of(FolderStore(out, read_only=True), tar.name, tar.stat().st_size)
            tars.append(os.fdopen(open_regular(tar), "rb", buffering=0))
        for row in told:
            if row["status"] != SUCCESS:
                error = one_line(str(row["error_message"]), MAX_ERROR)
                rows[row[PLACE]] = Fetched(str(row["status"]), error)
            elif (member := members.get(row["key"])) is not None:
                rows[row[PLACE]] = Fetched(SUCCESS, None, len(tars) - 1, member.offset, member.size)
    if rows.keys() != set(range(num_urls)):
        raise RuntimeError(f"img2dataset wrote {len(rows):,} of {num_urls:,} rows, as on a full disk ({_said(log)})")
    return Slice([rows[place] for place in range(num_urls)], tars)


def _said(log: Path) -> str:
    with log.open("rb") as file:
        return last_line(file)[:MAX_ERROR] or "it printed nothing"


def _keep(log: Path, folder: Path) -> Path:
    """The end of the log, where it outlives the call."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / f"img2dataset-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}-{time.monotonic_ns() % 10**9}.txt"
    with log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - MAX_LOG))
        kept.write_bytes(file.read())
    return kept


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    """A folder of this process, whose name says so: the next process removes those of processes that were killed."""
    root = Path(tempfile.gettempdir())
    place = hashlib.sha256(this_place().encode()).hexdigest()[:12]
    for left in root.glob(f"{FOLDER}-{place}-*-*-*"):
        pid, started = left.name.split("-")[3:5]
        if not (pid.isdecimal() and started.isdecimal()) or start_ticks(int(pid)) != int(started):
            shutil.rmtree(left, ignore_errors=True)
    mine = f"{FOLDER}-{place}-{os.getpid()}-{start_ticks(os.getpid())}-"
    folder = Path(tempfile.mkdtemp(prefix=mine, dir=root))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
