"""A Ray cluster of several nodes on this machine, each from a `ray start` of its own, that a test takes apart."""

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Self

from cluster.process.identity import ProcessId, session_members, start_ticks, this_place
from cluster.ranks.host import free_port

START_S = 120.0


class Nodes:
    """A context manager. The head has no cores for workers; every other node has one, and there are `num` at first."""

    def __init__(self, num: int = 2) -> None:
        self._num = num
        self.folder = Path(tempfile.mkdtemp(prefix="rn-", dir="/tmp"))  # short: Ray puts sockets below it
        self._port = free_port()
        self._token = secrets.token_hex(32)
        self._started = 0
        self._head: ProcessId | None = None
        self.others: list[ProcessId] = []

    @property
    def environment(self) -> dict[str, str]:
        """Of a driver. It gives a head that is gone up after seconds, not after a minute."""
        return {
            "RAY_ADDRESS": f"127.0.0.1:{self._port}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self._token,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_gcs_rpc_server_reconnect_timeout_s": "5",
        }

    def __enter__(self) -> Self:
        self.start_head()
        for _ in range(self._num):
            self.add()
        return self

    def __exit__(self, *exc: object) -> None:
        self.kill_head()
        while self.others:
            self.kill(0)
        shutil.rmtree(self.folder, ignore_errors=True)

    def start_head(self) -> None:
        self._head = self._start(
            "--head", f"--port={self._port}", "--num-cpus=0", "--num-gpus=0", "--include-dashboard=false",
            f"--ray-client-server-port={free_port()}",
        )  # fmt: skip

    def add(self, num_cpus: int = 1, num_gpus: int = 0) -> None:
        words = [f"--address=127.0.0.1:{self._port}", f"--num-cpus={num_cpus}", f"--num-gpus={num_gpus}"]
        self.others.append(self._start(*words))

    def kill_head(self) -> None:
        """With SIGKILL, and everything that it has started."""
        assert self._head is not None
        _kill(self._head)

    def kill(self, place: int) -> None:
        """One of the other nodes, with its workers."""
        _kill(self.others.pop(place))

    def _start(self, *words: str) -> ProcessId:
        self._started += 1
        folder = self.folder / str(self._started)
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *words]
        command += [f"--temp-dir={folder}", "--min-worker-port=0", "--max-worker-port=0"]
        command += ["--object-store-memory=80000000", "--disable-usage-stats"]
        log = self.folder / f"{self._started}.log"
        with log.open("wb") as out:
            child = subprocess.Popen(
                command, env={**os.environ, **self.environment}, stdout=out, stderr=out, start_new_session=True
            )
        deadline = time.monotonic() + START_S
        while b"Ray runtime started" not in log.read_bytes():
            assert child.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        return ProcessId(this_place(), child.pid, start_ticks(child.pid) or 0)


def _kill(leader: ProcessId) -> None:
    for _ in range(3):  # one may have been starting another
        for process in session_members(leader):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(leader.pid, 0)
        time.sleep(0.1)
