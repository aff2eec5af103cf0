"""A Ray cluster to run on: the one that ``RAY_ADDRESS`` names, or one started on this machine for this run.

In: a ``FanOutSpec`` and the environment. Out: a ``Session``. On disk, for a cluster of our own: a private folder
(mode 0700) in the system's temporary folder, with Ray's session files and the access token (0600). It is removed at the
end; folders of drivers that died are removed at the next start.

A cluster of our own asks for a token, has no dashboard, sends no usage statistics, and has a small object store,
because pixels never travel. Its processes end with the driver, also after SIGKILL: Ray binds them to it.
"""

import contextlib
import functools
import logging
import os
import re
import secrets
import shlex
import shutil
import sys
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from pathlib import Path

import ray

from cluster.code import write_archive
from cluster.fan_out.ray_worker import running_versions
from cluster.fan_out.work import FanOutSpec
from cluster.process.environment import named_cluster
from cluster.process.exit import Draining
from cluster.process.machine import usable_cores
from cluster.process.private_folder import make_private_folder, temporary_root
from cluster.process.reach import why_no_head
from cluster.process.stop_flag import StopFlag
from cluster.waiting import waiting
from shards.disk.home import home
from shards.disk.safe_text import one_line

OBJECT_STORE_BYTES = 80 * 2**20  # Ray's minimum is 75 MiB
UNSAFE = re.compile(r"RAY_DATA_.*(UNSAFE|CLOUDPICKLE).*")  # opt-ins to unpickling data
TOKEN_VARIABLES = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
NUM_START_TRIES = 2
HEAD_S = 10.0  # for a cluster's head to answer; it may be starting too
MORE_STARTS = 2  # worker processes that may be starting at once, beyond the cores: one that died counts for a minute


class ClusterError(RuntimeError):
    """There is no cluster to run on; the message is one line and says what to do."""


@dataclass(frozen=True)
class Session:
    """A connected cluster. ``versions``: code and libraries of the driver; the workers must have the same."""

    ours: bool  # started by this process, which also ends it
    versions: dict[str, str]


def runtime_env(threads: int) -> dict[str, object]:
    """Ray's runtime environment of the workers: the code that runs here, their number of threads, their GPUs.

    The code is their `working_dir`, so Ray does not show them the driver's folder, where a user's own `train.py` may
    lie. A worker that reserves no GPU sees none; without the variable Ray 2.60 shows it all GPUs of the driver.
    """
    number = str(threads)
    pinned = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), number)
    return {
        "working_dir": str(_code_archive()),
        "env_vars": {**pinned, "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1"},
    }


@functools.cache
def _code_archive() -> Path:
    """What runs here, for the workers. Made once a process: files that change later are not what was imported."""
    archive = private_folder() / "code.zip"
    write_archive(home(), archive)
    return archive


@contextlib.contextmanager
def ray_session(
    spec: FanOutSpec, threads: int, stop: StopFlag, instead: str = "run with cluster.in_process=true"
) -> Iterator[Session]:
    """Join or start a cluster, and leave or end it afterwards. Inside another session it is that session.

    `instead`: how to run without Ray, for the error if Ray does not start. Raises ClusterError, or Draining after a
    stop request while it waits for the cluster's head.
    """
    if ray.is_initialized():
        yield Session(ours=False, versions=running_versions())
        return
    prepare_environment(os.environ)
    tame_ray()
    address = named_cluster(os.environ)
    if address.startswith("ray://"):
        raise ClusterError(
            f"RAY_ADDRESS: found {address!r}, expected host:port of the cluster's head; "
            "run on a node of the cluster, or submit this command with `ray job submit`"
        )
    with _joined(address, threads, stop) if address else _started(spec, threads, instead) as session:
        yield session


def prepare_environment(environ: MutableMapping[str, str]) -> None:
    """For this process and its children: no usage statistics, workers of normal priority, unsafe switches removed."""
    environ["RAY_USAGE_STATS_ENABLED"] = "0"
    environ["RAY_DISABLE_IMPORT_WARNING"] = "1"
    environ["RAY_OVERRIDE_JOB_RUNTIME_ENV"] = "1"  # inside `ray job submit` workers get our code, not the job's folder
    # with Ray's default of 15 a worker gets 3 % of a core that another process uses
    environ.setdefault("RAY_worker_niceness", "0")
    for name in [name for name in environ if UNSAFE.fullmatch(name)]:
        del environ[name]


def tame_ray() -> None:
    """Stop Ray from printing, from taking SIGTERM over, and from starting workers as `uv run` would.

    Our events say what matters; our stop flag hears signals; workers run in the environment that the driver runs in.
    Ray prints about 1 kB for every worker that dies, also for those we kill, and has no setting against it. The
    variable against its `uv run` is read when Ray is imported, which may be before us.
    """
    logging.getLogger("ray").setLevel(logging.ERROR)
    ray._private.worker.print_to_stdstream = lambda data, ignore_prefix: None
    ray._private.utils.set_sigterm_handler = lambda handler: None
    ray._private.ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV = False


@contextlib.contextmanager
def _joined(address: str, threads: int, stop: StopFlag) -> Iterator[Session]:
    token = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    with contextlib.suppress(OSError):  # of another owner, or mounted read-only: it serves all the same
        if token.is_file() and token.stat().st_mode & 0o077:
            token.chmod(0o600)  # Ray writes it readable for everyone
    try:
        head = ray._private.services.canonicalize_bootstrap_address_or_die(address)  # "auto": the cluster of this node
        with waiting(f"joining the Ray cluster at {address}"):
            if wrong := why_no_head(head, HEAD_S, os.environ, stop):
                raise ConnectionError(wrong)
            ray.init(address=address, log_to_driver=False, configure_logging=False, runtime_env=runtime_env(threads))
    except Exception as error:  # Ray raises a dozen types here; each means that there is no cluster to use
        if stop.requested:
            raise Draining(f"stopped on request ({stop.reason})") from error
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
    folder = private_folder()
    before = {name: os.environ.pop(name, None) for name in TOKEN_VARIABLES}
    # Ray turns token mode on for a cluster that it starts, unless a variable says otherwise
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(folder / "token")
    try:
        with waiting("starting Ray on this machine"):
            _start(spec, folder, threads, instead)
        assert os.environ.get("RAY_AUTH_MODE") == "token", "a cluster of our own must ask for its token"
        yield Session(ours=True, versions=running_versions())
    finally:
        ray.shutdown()
        shutil.rmtree(folder / "r", ignore_errors=True)  # what stays is removed at the next start
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _start(spec: FanOutSpec, folder: Path, threads: int, instead: str) -> None:
    cores = usable_cores()
    if spec.workers != "auto":  # as many workers as asked for, even if they share cores
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
                # Ray pastes it into a line for bash
                runtime_env={**runtime_env(threads), "py_executable": shlex.quote(sys.executable)},
                _system_config={
                    "worker_maximum_startup_concurrency": cores + MORE_STARTS,
                    # Ray would wait, without end and deaf to signals, for workers that we do not use
                    "prestart_worker_first_driver": False,
                },
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


@functools.cache
def private_folder() -> Path:
    """This process's folder, with the token. Made once a process, because Ray caches the token it has read."""
    folder = make_private_folder(temporary_root())
    descriptor = os.open(folder / "token", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32))
    return folder
