"""A Ray cluster of one machine with a job server on a free port, for tests of what is sent there.

In: a folder for its files. Out: a `JobServer`: the address, the token. Its processes end with the block.
"""

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

START_S = 120.0


@dataclass(frozen=True)
class JobServer:
    address: str  # of the job server
    token: str
    head: str  # host:port
    environment: Mapping[str, str]  # of whoever talks to the cluster, the token in it
    temp: Path


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextlib.contextmanager
def job_server(num_cpus: int = 2) -> Iterator[JobServer]:
    """A head that asks for a token. Its folder has a short name: Ray's sockets lie in it."""
    token, port, gcs = secrets.token_hex(32), free_port(), free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "RAY_worker_niceness": "0"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"  # where jobs find `python`
    with tempfile.TemporaryDirectory(prefix="sf-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        options = ["--head", f"--port={gcs}", "--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1"]
        options += [f"--dashboard-port={port}", f"--ray-client-server-port={free_port()}", f"--temp-dir={folder}"]
        options += ["--dashboard-agent-listen-port=0", "--min-worker-port=0", "--max-worker-port=0"]
        options += [f"--num-cpus={num_cpus}", "--object-store-memory=100000000", "--disable-usage-stats", "--block"]
        ray = subprocess.Popen(
            [sys.executable, "-m", "ray.scripts.scripts", "start", *options],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=(Path(folder) / "said").open("wb"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            address = f"http://127.0.0.1:{port}"
            _wait_for(address, ray, Path(folder) / "said")
            yield JobServer(address, token, f"127.0.0.1:{gcs}", environment, Path(folder))
        finally:
            end_session(ray)


def end_session(leader: "subprocess.Popen[bytes]") -> None:
    """End a process, and all that it has started."""
    for _ in range(3):  # one may have been starting another
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in psutil.Process(leader.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader.pid, signal.SIGKILL)
    leader.wait(timeout=30)


def _wait_for(address: str, ray: "subprocess.Popen[bytes]", said: Path) -> None:
    deadline = time.monotonic() + START_S
    while True:
        assert ray.poll() is None, said.read_text()
        try:
            urllib.request.urlopen(f"{address}/api/version", timeout=5).close()
            return
        except urllib.error.HTTPError:  # it asks for the token
            return
        except OSError:
            assert time.monotonic() < deadline, said.read_text()
            time.sleep(0.2)
