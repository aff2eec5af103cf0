"""Whether Ray can start workers and go on, by its processes and logs on this machine.

In: the cluster that this process has joined or started. Out: what broke, in a line. On disk, read only: the logs of
Ray's session, for a cluster of our own.

Ray itself says too little, too late: a worker process that ends before it has begun is noticed after a minute and tried
five times, and a lost raylet is only a node that is missing.
"""

import re
from pathlib import Path
from typing import Any

import psutil
import ray

from cluster.process.failure import last_line
from shards.disk.safe_text import one_line

NEEDED = ("raylet", "gcs_server")
STARTED = re.compile(rb"Started worker process with pid (\d+) worker_id=([0-9a-f]+)")
MAX_WORDS = 300


class RayHealth:
    """Made after `ray.init`; ask it again and again."""

    def __init__(self) -> None:
        node: Any = ray._private.worker._global_node  # what Ray knows of its own processes
        self._node = node
        self._here = ray.get_runtime_context().get_node_id()
        self._logs = Path(node.get_logs_dir_path())
        self._is_ours = bool(node.all_processes)  # their logs are here, and their process ids are of this machine
        self._read_bytes = 0
        self._starting: dict[int, str] = {}  # process id: Ray's name of the worker

    def broken(self) -> str:
        """Why this process can use the cluster no longer; "" if it can."""
        for name, process in self._node.dead_processes():
            if name in NEEDED:
                return (
                    f"Ray's {name} on this machine (pid {process.pid}) has ended{self._words(f'{name}.err')}; "
                    "run the same command again"
                )
        if not self._is_ours and not any(node["NodeID"] == self._here and node["Alive"] for node in ray.nodes()):
            return (
                "this machine is no longer a node of the cluster (its raylet has ended, or does not answer); start Ray "
                "on it again, then run the same command again"
            )
        return ""

    def died_at_start(self) -> list[str]:
        """A line for each worker process that has ended before it had begun, since the last call.

        From its beginning on Ray reports how it ends. Always empty for a cluster of others.
        """
        if not self._is_ours:
            return []
        self._read_log()
        died = []
        for pid, worker in list(self._starting.items()):
            if any(self._logs.glob(f"python-core-worker-{worker}_*")):
                del self._starting[pid]
            elif not _runs(pid):
                del self._starting[pid]
                died.append(f"its process (pid {pid}) ended before it had begun{self._words('raylet.err')}")
        return died

    def _read_log(self) -> None:
        try:
            with (self._logs / "raylet.out").open("rb") as log:
                log.seek(self._read_bytes)
                text = log.read()
        except OSError:  # not written yet
            return
        whole = text[: text.rfind(b"\n") + 1]
        self._read_bytes += len(whole)
        self._starting |= {int(pid): worker.decode() for pid, worker in STARTED.findall(whole)}

    def _words(self, log: str) -> str:
        """The last words of that log, for a sentence."""
        try:
            with (self._logs / log).open("rb") as file:
                words = last_line(file)
        except OSError:
            return ""
        return f" ({one_line(words, MAX_WORDS)})" if words else ""


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
