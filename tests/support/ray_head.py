"""A Ray cluster of one node as a user starts it, `ray start --head`: own ports, own folder, own token, no dashboard."""

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from cluster.ranks.host import free_port

START_S = 120.0


@dataclass(frozen=True)
class Head:
    """How to reach it."""

    environment: dict[str, str]  # of a command that joins it
    metrics: str  # the address that Prometheus would ask


@contextlib.contextmanager
def ray_head() -> Iterator[Head]:
    folder = Path(tempfile.mkdtemp(prefix="head-", dir="/tmp"))  # short: Ray puts sockets below it
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    port, metrics, *others = (str(free_port()) for _ in range(3))
    environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_USAGE_STATS_ENABLED": "0"}
    command = [
        *(str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--include-dashboard=false"),
        *(f"--port={port}", f"--metrics-export-port={metrics}", f"--ray-client-server-port={others[0]}"),
        *(f"--temp-dir={folder / 'r'}", "--num-cpus=1", "--num-gpus=0", "--object-store-memory=80000000"),
    ]
    with (folder / "out").open("wb") as out:
        head = subprocess.Popen(command, stdout=out, stderr=out, env={**os.environ, **environment})
    try:
        address = f"http://127.0.0.1:{metrics}/metrics"
        deadline = time.monotonic() + START_S
        while scraped(address) is None:
            assert head.poll() is None, (folder / "out").read_text()
            assert time.monotonic() < deadline, (folder / "out").read_text()
            time.sleep(0.5)
        yield Head({**environment, "RAY_ADDRESS": f"127.0.0.1:{port}"}, address)
    finally:
        _end(head, folder)
        shutil.rmtree(folder, ignore_errors=True)


def scraped(address: str) -> dict[str, list[tuple[str, float]]] | None:
    """Name -> (labels as text, value) of each series with `sixfold` in its name; None if nobody answers."""
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            text = answer.read().decode()
    except (urllib.error.URLError, OSError):
        return None
    found: dict[str, list[tuple[str, float]]] = {}
    for line in text.splitlines():
        if "sixfold" in line and not line.startswith("#"):
            name, _, rest = line.partition("{")
            labels, _, value = rest.rpartition("} ")
            found.setdefault(name, []).append((labels, float(value)))
    return found


def _end(head: "subprocess.Popen[bytes]", folder: Path) -> None:
    """Also of what the head has started: each has the folder's name in its command."""
    ours = [one for one in psutil.process_iter(["cmdline"]) if str(folder) in " ".join(one.info["cmdline"] or [])]
    head.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        head.wait(20)
    for one in ours:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    head.wait(20)
