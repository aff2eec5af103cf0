"""Child processes that begin warm: forked from a process that has imported the heavy libraries.

A child runs `sixfold` or another module as its own process would, and may be stopped and killed like one. But it starts
in milliseconds: torch, diffusers, DeepSpeed and our packages take six to nine seconds of a core to import. The process
that forks has run nothing, so no thread is lost in the fork. There is one for all the workers of a run of tests; it
starts when the first child is asked for and ends with the run.

Tests of a command line, of an import or of Python's hash seed need a process of their own instead.

In: what `python` would be called with, an environment and a folder. Out: a `Child`.
"""

import atexit
import contextlib
import fcntl
import gc
import importlib
import json
import os
import runpy
import select
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shards.disk.home import home

PRELOADED = [
    *("torch", "torchvision", "diffusers", "transformers", "timm", "deepspeed", "sixfold"),
    *("gen.run.run", "gen.sampler.sampler", "gen.make.regenerate", "gen.prompts.write", "shards.views.gallery"),
    *("train.run", "train.program", "train.sweep.run"),
]
START_S = 120.0
LONGEST = 200_000  # bytes of a message: arguments and an environment


class Child:
    """A running program; the methods are those of `subprocess.Popen` that tests need."""

    def __init__(self, connection: socket.socket, out: int, err: int) -> None:
        self._connection = connection
        self._out, self._err = out, err
        self._reading = threading.Lock()
        self.returncode: int | None = None
        self.pid = int(self._heard())

    def _heard(self) -> str:
        said = self._connection.recv(64)
        if not said:
            raise RuntimeError("the process that starts warm children has ended")
        return said.decode()

    def poll(self) -> int | None:
        """The exit code, negative for the signal that ended it; None while it runs. Any thread may ask."""
        with contextlib.suppress(TimeoutError):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float) -> int:
        """The exit code. Raises TimeoutError after `timeout` seconds."""
        if self.returncode is None and not select.select([self._connection], [], [], timeout)[0]:
            raise TimeoutError(f"process {self.pid} still runs after {timeout} s; it said: {self.said()[-2000:]}")
        with self._reading:
            if self.returncode is None:
                self.returncode = int(self._heard())
        return self.returncode

    def communicate(self, timeout: float) -> tuple[str, str]:
        """What it wrote to standard output and standard error, when it has ended."""
        self.wait(timeout)
        return self.out(), self.err()

    def out(self) -> str:
        """All it has written to standard output so far."""
        return _text(self._out)

    def err(self) -> str:
        """All it has written to standard error so far."""
        return _text(self._err)

    def said(self) -> str:
        """Both, one behind the other."""
        return self.out() + self.err()

    def send_signal(self, number: int) -> None:
        """As `os.kill`; nothing if it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def __del__(self) -> None:
        for descriptor in (self._out, self._err):
            os.close(descriptor)


def _text(descriptor: int) -> str:
    size = os.fstat(descriptor).st_size
    return os.pread(descriptor, size, 0).decode("utf-8", "replace")


def start(words: Sequence[str], folder: Path | None = None, environment: Mapping[str, str] | None = None) -> Child:
    """`python words`, begun in `folder` (the repository) with `environment` laid over this process's.

    The words begin with `-m` and a module or with `-c` and a program. One thread computes, as with `OMP_NUM_THREADS=1`.
    """
    kind, what, *arguments = words
    out, err = (os.memfd_create(name) for name in ("out", "err"))
    request = {
        "kind": kind,
        "what": what,
        "arguments": arguments,
        "folder": str(folder or home()),
        "environment": {**os.environ, **(environment or {})},
    }
    connection = _connect()
    socket.send_fds(connection, [json.dumps(request).encode()], [out, err])
    connection.settimeout(START_S)
    return Child(connection, out, err)


def _connect() -> socket.socket:
    """To the process that forks; started if it does not run."""
    run = os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()
    address = f"{tempfile.gettempdir()}/sixfold-tests-{os.getuid()}-{run}"
    with open(f"{address}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
            connection.connect(address)
            return connection
        server = subprocess.Popen(
            [sys.executable, "-P", "-m", "tests.support.warm", address, str(run)],
            stdin=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(home())},
        )
        deadline = time.monotonic() + START_S
        while True:
            with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
                connection.connect(address)
                return connection
            assert server.poll() is None, "the process that starts warm children ended"
            assert time.monotonic() < deadline, "the process that starts warm children did not begin in time"
            time.sleep(0.05)


def serve(address: str, run: int) -> None:
    """Fork a child for each request, and tell who asked its process id and its exit code; until process `run` ends."""
    for module in PRELOADED:
        importlib.import_module(module)
    gc.freeze()
    woken, wakes = os.pipe()
    for descriptor in (woken, wakes):
        os.set_blocking(descriptor, False)
    signal.set_wakeup_fd(wakes)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(address)
    listening.bind(address)
    listening.listen(64)
    ends = os.pidfd_open(run)
    ready = selectors.DefaultSelector()
    for one in (woken, listening.fileno(), ends):
        ready.register(one, selectors.EVENT_READ)
    asked: dict[int, socket.socket] = {}
    while True:
        events = {key.fd for key, _ in ready.select()}
        if ends in events:
            break
        if listening.fileno() in events:
            connection, _ = listening.accept()
            request, files, _, _ = socket.recv_fds(connection, LONGEST, 2)
            pid = os.fork()
            if pid == 0:
                for mine in (listening, connection):
                    mine.close()
                for other in asked.values():
                    other.close()
                _become(json.loads(request), files)
            for descriptor in files:
                os.close(descriptor)
            asked[pid] = connection
            connection.send(str(pid).encode())
        if woken in events:
            os.read(woken, 4096)
            _tell_ends(asked)
    for pid in asked:
        os.kill(pid, signal.SIGKILL)
    for name in (address, f"{address}.lock"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


def _tell_ends(asked: dict[int, socket.socket]) -> None:
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            connection = asked.pop(pid)
            with contextlib.suppress(BrokenPipeError):
                connection.send(str(os.waitstatus_to_exitcode(status)).encode())
            connection.close()


def _become(request: dict[str, Any], files: Sequence[int]) -> None:
    """In the child: run the program and end as an interpreter ends, but for taking apart what was inherited: that
    alone takes half a second."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number, descriptor in enumerate(files, start=1):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(request["environment"])
    time.tzset()
    os.chdir(request["folder"])
    code: object = 1
    try:
        _run(request["kind"], request["what"], request["arguments"])
        code = 0
    except SystemExit as ended:
        code = ended.code or 0
        if not isinstance(code, int):
            print(code, file=sys.stderr)
            code = 1
    except BaseException:
        traceback.print_exc()
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(code)


def _run(kind: str, what: str, arguments: Sequence[str]) -> None:
    sys.argv = [what if kind == "-m" else "-c", *arguments]
    if kind == "-m":
        sys.modules.pop(what, None)
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
