"""The actor of a rank: it holds the rank's cores and GPU, and runs its process under a supervisor.

In: the arguments of a Python program, its variables, the folder it starts in. Out: how the process does. On disk: its
output.
"""

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import psutil
import ray

from cluster.fan_out.ray_worker import running_versions
from cluster.process.failure import TEXT_BYTES, last_line, shown_line
from cluster.process.supervisor import start_supervised
from cluster.ranks.place import LOOPBACK, PORTS
from shards.disk.home import home
from shards.disk.safe_text import one_line

OF_OTHERS = ("SLURM_", "TORCHELASTIC_")  # variables of the job in which the Ray cluster was started, not of our ranks


@dataclass(frozen=True)
class NodePlace:
    """Where an actor runs, and which versions it has."""

    node: str
    address: str
    port: int  # free there now
    versions: dict[str, str]


@dataclass(frozen=True)
class Look:
    """What an actor knows of its process."""

    code: int | None  # None while it runs
    lines: tuple[str, ...]  # what rank 0 has printed on stderr since the last look
    said: str  # the last line, once it has ended


class RankHost:
    """The actor: holds one rank's cores and GPU, and runs its process under a supervisor."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._log: Path | None = None
        self._followed: BinaryIO | None = None  # rank 0's log, read as it is written
        self._half = b""  # the beginning of a line whose end is not written yet
        self._answer: BinaryIO = os.fdopen(os.memfd_create("answer"), "w+b")  # its stdout

    def place(self) -> NodePlace:
        """Node, address, a free port and versions; works before `start`."""
        node = ray.get_runtime_context().get_node_id()
        return NodePlace(node, ray.util.get_node_ip_address(), free_port(), running_versions())

    def start(self, arguments: Sequence[str], environment: Mapping[str, str], start_in: str, log: str) -> str:
        """Start the rank; returns why that failed, or ""."""
        own = {name: value for name, value in os.environ.items() if not name.startswith(OF_OTHERS)}
        if environment["MASTER_ADDR"] != LOOPBACK and (name := _interface(ray.util.get_node_ip_address())):
            own.setdefault("GLOO_SOCKET_IFNAME", name)  # by itself gloo takes what the host name resolves to
        self._log = Path(log)
        try:
            self._log.parent.mkdir(parents=True, exist_ok=True)
            with self._log.open("wb") as output:
                self._child = start_supervised(
                    [sys.executable, *arguments],
                    home(),
                    Path(start_in),
                    {**own, **environment},
                    self._answer,
                    output,
                )
        except OSError as error:
            return one_line(str(error))
        if environment["RANK"] == "0":
            self._followed = self._log.open("rb")
        return ""

    def look(self) -> Look:
        """How the process does; once it has ended, its last line goes into its log."""
        assert self._child is not None, "look comes after start"
        assert self._log is not None
        code = self._child.poll()
        lines = self._new_lines(code is not None)
        if code is None:
            return Look(None, lines, "")
        answer = last_line(self._answer)
        if answer:
            with self._log.open("ab") as log:
                log.write(f"{answer}\n".encode())
        elif code != 0:
            with self._log.open("rb") as log:
                answer = last_line(log)
        return Look(code, lines, answer)

    def _new_lines(self, to_the_end: bool) -> tuple[str, ...]:
        if self._followed is None:
            return ()
        *whole, self._half = (self._half + self._followed.read(TEXT_BYTES)).split(b"\n")
        while to_the_end and (more := self._followed.read(TEXT_BYTES)):
            *others, self._half = (self._half + more).split(b"\n")
            whole += others
        if to_the_end:
            whole, self._half = [*whole, self._half], b""
        return tuple(text for line in whole if (text := shown_line(line)))

    def send(self, number: int) -> None:
        """Send a signal to the rank: SIGKILL to its whole group, any other through the supervisor."""
        assert self._child is not None, "send comes after start"
        if number == signal.SIGKILL and self._child.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._child.pid, signal.SIGKILL)  # the supervisor cannot pass SIGKILL on
        else:
            self._child.send_signal(number)


def free_port() -> int:
    """A port that nobody listens on now. Raises OSError if there is none."""
    for port in random.sample(PORTS, 100):
        with contextlib.suppress(OSError), socket.create_server(("", port)):
            return port
    raise OSError(f"found no free port among 100 of {PORTS.start} to {PORTS.stop}")


def _interface(address: str) -> str | None:
    """The network interface that has this address."""
    for name, entries in psutil.net_if_addrs().items():
        if any(entry.address == address for entry in entries):
            return name
    return None
