"""A Ray cluster to run on: the one ``RAY_ADDRESS`` names, or one started here for this run and ended with it.

In: a ``FanOutSpec`` and the environment. Out: a ``Session``. On disk, for a cluster of our own: a private folder
(mode 0700) in the system's temporary folder with Ray's session files and the access token (0600); removed at the end,
and those of dead drivers at the next start.

A cluster of our own listens with token authentication, has no dashboard, sends no usage statistics, and has a small
object store, because pixels never travel. Its processes die with the driver (Ray binds them to it), also by SIGKILL.
"""

import atexit
import contextlib
import dataclasses
import functools
import json
import logging
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from pathlib import Path

import psutil
import ray

from cluster.fan_out.ray_worker import running_versions
from cluster.fan_out.work import FanOutSpec
from cluster.process.environment import named_cluster
from cluster.process.identity import ProcessId, alive, this_place, this_process
from shards.disk.home import home
from shards.disk.safe_text import one_line

OBJECT_STORE_BYTES = 80 * 2**20  # Ray's minimum is 75 MiB
# what workers never need; .gitignore is honoured too
EXCLUDES = (".venv", ".git", "/out", "/data", "/tests", "/docs", "*.log", "__pycache__", ".*_cache", ".hypothesis")
UNSAFE = re.compile(r"RAY_DATA_.*(UNSAFE|CLOUDPICKLE).*")  # opt-ins to unpickling data
FOLDER = "sixfold-"
TOKEN_VARIABLES = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
NUM_START_TRIES = 2


class ClusterError(RuntimeError):
    """No cluster can be had. One line for people."""


@dataclass(frozen=True)
class Session:
    """A connected cluster. ``versions``: what the driver runs and what was sent to the workers."""

    ours: bool  # started by this process, which also ends it
    versions: dict[str, str]


def usable_cores() -> int:
    """Cores this process may use: affinity, physical cores, and the cgroup's CPU quota, whichever is least."""
    cores = len(os.sched_getaffinity(0))
    cores = min(cores, psutil.cpu_count(logical=False) or cores)
    with contextlib.suppress(OSError, ValueError):  # no cgroup v2, or "max": no quota
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        cores = min(cores, int(quota) // int(period))
    return max(1, cores)


def runtime_env(threads: int) -> dict[str, object]:
    """The checkout as the workers' code, threads pinned before anything numerical is imported, and only their GPUs.

    A worker that reserves no GPU sees none; by itself Ray 2.60 would leave it all that the driver sees.
    """
    number = str(threads)
    pinned = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), number)
    return {
        "working_dir": str(home()),
        "excludes": list(EXCLUDES),
        "env_vars": {**pinned, "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1"},
    }


@contextlib.contextmanager
def ray_session(spec: FanOutSpec, threads: int, instead: str = "run with cluster.in_process=true") -> Iterator[Session]:
    """Connect or start, and undo it at the end. Inside another session it is that session. `instead`: the way without
    Ray, for the message that it does not start here."""
    if ray.is_initialized():
        yield Session(ours=False, versions=running_versions())
        return
    prepare_environment(os.environ)
    be_quiet()
    address = named_cluster(os.environ)
    if address.startswith("ray://"):
        raise ClusterError(
            f"RAY_ADDRESS: found {address!r}, expected host:port of the cluster's head; "
            "run on a node of the cluster, or submit this command with `ray job submit`"
        )
    with _joined(address, threads) if address else _started(spec, threads, instead) as session:
        yield session


def prepare_environment(environ: MutableMapping[str, str]) -> None:
    """No usage statistics, workers of normal priority, Ray Data's unsafe switches off, here and in all our children."""
    environ["RAY_USAGE_STATS_ENABLED"] = "0"
    environ["RAY_DISABLE_IMPORT_WARNING"] = "1"
    # Ray's default of 15 leaves a worker 3 % of a core that anything else wants
    environ.setdefault("RAY_worker_niceness", "0")
    for name in [name for name in environ if UNSAFE.fullmatch(name)]:
        del environ[name]


def be_quiet() -> None:
    """Keep Ray's paragraphs off the terminal: what matters comes as events.

    Ray prints about 1 kB for every worker that dies, also for those killed on purpose, and has no switch for it.
    """
    logging.getLogger("ray").setLevel(logging.ERROR)
    ray._private.worker.print_to_stdstream = lambda data, ignore_prefix: None


@contextlib.contextmanager
def _joined(address: str, threads: int) -> Iterator[Session]:
    token = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    if token.is_file() and token.stat().st_mode & 0o077:
        token.chmod(0o600)  # Ray writes it readable for everyone
    try:
        ray.init(address=address, log_to_driver=False, configure_logging=False, runtime_env=runtime_env(threads))
    except Exception as error:  # Ray raises a dozen types here, all meaning that there is no cluster for us
        raise ClusterError(
            f"RAY_ADDRESS={address}: cannot join ({one_line(str(error))}); "
            "start the cluster, correct the address or the token, or unset RAY_ADDRESS to run on this machine"
        ) from error
    try:
        yield Session(ours=False, versions=running_versions())
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _started(spec: FanOutSpec, threads: int, instead: str) -> Iterator[Session]:
    remove_dead_folders(temporary_root())
    folder = private_folder()
    before = {name: os.environ.pop(name, None) for name in TOKEN_VARIABLES}
    # Ray turns token mode on by itself for a cluster it starts, provided that nothing says otherwise
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(folder / "token")
    try:
        _start(spec, folder, threads, instead)
        assert os.environ.get("RAY_AUTH_MODE") == "token", "a cluster of our own must ask for its token"
        yield Session(ours=True, versions=running_versions())
    finally:
        ray.shutdown()
        shutil.rmtree(folder / "r", ignore_errors=True)  # left-overs are swept at the next start
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _start(spec: FanOutSpec, folder: Path, threads: int, instead: str) -> None:
    cores = usable_cores()
    if spec.workers != "auto":  # an explicit number is meant, even if it shares cores
        cores = max(cores, spec.workers * spec.cpus_per_worker)
    for attempt in range(NUM_START_TRIES):
        try:
            ray.init(
                address="local",
                num_cpus=cores,
                num_gpus=0 if spec.gpus_per_worker == 0 else None,
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                log_to_driver=False,
                configure_logging=False,
                runtime_env=runtime_env(threads),
                _temp_dir=str(folder / "r"),  # Ray makes this one world-writable; its parent is private
            )
            return
        except Exception as error:  # a bare Exception is what Ray raises when its processes are not up within 30 s
            ray.shutdown()
            if attempt + 1 == NUM_START_TRIES:
                raise ClusterError(
                    f"cannot start Ray on this machine ({one_line(str(error))}); look at its load, at free memory and "
                    f"at /dev/shm, or {instead}"
                ) from error


def temporary_root() -> Path:
    """The system's temporary folder, or /tmp where its name is too long.

    Ray puts Unix sockets about 65 bytes below our folder, and a socket's path has at most 107.
    """
    usual = tempfile.gettempdir()
    return Path(usual if len(usual) <= 20 else "/tmp")


@functools.cache
def private_folder() -> Path:
    """This process's folder with its token; one for the life of the process, because Ray caches the token it read."""
    folder = Path(tempfile.mkdtemp(prefix=FOLDER, dir=temporary_root()))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / "owner.json").write_text(json.dumps(dataclasses.asdict(this_process())))
    descriptor = os.open(folder / "token", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32))
    return folder


def remove_dead_folders(where: Path) -> None:
    """Remove the private folders of drivers that have died here."""
    for folder in where.glob(f"{FOLDER}*"):
        try:
            owner = ProcessId(**json.loads((folder / "owner.json").read_text()))
        except (OSError, ValueError, TypeError):  # someone else's, or one that is just being made
            continue
        if owner.place == this_place() and not alive(owner):
            shutil.rmtree(folder, ignore_errors=True)  # a race with another sweeper is no fault
