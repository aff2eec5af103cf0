"""The actor that runs a worker in its own process.

In: a ``make_worker``, then units, one at a time. Out: a ``WorkerAnswer`` for each. On disk: what the worker writes.
An error of the work is a value in the outcome, so whatever Ray raises is a fault of Ray or of the machine. ``look`` and
``drop`` run in a second thread: they answer during a long model call, but not in a stopped or dead process.
"""

import functools
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import ray

from cluster.code import code_hash, library_versions
from cluster.fan_out.work import MakeWorker, Worker
from cluster.process.environment import set_allocator, set_compile_processes
from cluster.process.exit import Draining, NotAgain
from cluster.process.failure import describe, is_broken
from cluster.process.identity import ProcessId, this_process
from shards.disk.home import home
from shards.disk.record import JSON

LIBRARIES = ("ray", "torch", "numpy")


@dataclass(frozen=True)
class Hello:
    """Who a worker is and what it runs."""

    process: ProcessId
    node: str
    cwd: str
    threads: str
    versions: dict[str, str]  # code, python and LIBRARIES: all must equal the driver's


@dataclass(frozen=True)
class Look:
    """How far the current attempt is; ``attempt`` is None between two."""

    attempt: str | None
    beats: int
    done: int
    rejected: int
    under_way: float = 0.0


@dataclass(frozen=True)
class WorkerAnswer:
    """How ``load`` or an attempt ended."""

    kind: Literal["fine", "raised", "broken", "not again", "dropped"]
    cause: str
    result: Mapping[str, JSON]
    done: int
    rejected: int


@functools.cache
def running_versions() -> dict[str, str]:
    """Code, Python and libraries of this process. Read once: files that change later are not what was imported."""
    return {"code": code_hash(home())[:16], "python": platform.python_version(), **library_versions(LIBRARIES)}


class RayWorker:
    """The actor; the module says how it works. ``cores``: this worker's share of its node."""

    def __init__(self, cores: int) -> None:
        set_allocator(os.environ)
        set_compile_processes(os.environ, cores)
        self._worker: Worker | None = None
        self._look = Look(None, 0, 0, 0)  # always replaced as a whole, because the other thread reads it
        self._unwanted: set[str] = set()

    def hello(self) -> Hello:
        """Process, node, folder, threads and versions of this actor; works before ``load``."""
        return Hello(
            process=this_process(),
            node=ray.get_runtime_context().get_node_id(),
            cwd=os.getcwd(),
            threads=os.environ.get("OMP_NUM_THREADS", ""),
            versions=running_versions(),
        )

    def load(self, make_worker: MakeWorker) -> WorkerAnswer:
        """Build the worker; "fine", or "raised" with the cause."""
        try:
            self._worker = make_worker()
        except Exception as error:  # the driver gets the cause as a value
            return WorkerAnswer("raised", describe(error), {}, 0, 0)
        return WorkerAnswer("fine", "", {}, 0, 0)

    def run(self, unit: int, attempt: str) -> WorkerAnswer:
        """Make one unit; returns how it ended, whatever the worker raises."""
        assert self._worker is not None, "run comes after load"
        self._look = Look(attempt, 0, 0, 0)

        def beat(done: int, rejected: int, under_way: float = 0.0) -> None:
            self._look = Look(attempt, self._look.beats + 1, done, rejected, under_way)
            if attempt in self._unwanted:
                raise Draining("the run no longer wants this unit")

        try:
            result, kind, cause = self._worker(unit, attempt, beat), "fine", ""
        except Draining:
            result, kind, cause = {}, "dropped", ""
        except NotAgain as error:
            result, kind, cause = {}, "not again", str(error)
        except Exception as error:  # the driver gets the failure of this unit as a value
            result, kind, cause = {}, "broken" if is_broken(error) else "raised", describe(error)
        finally:
            self._unwanted.discard(attempt)
        look, self._look = self._look, Look(None, 0, 0, 0)
        return WorkerAnswer(kind, cause, dict(result), look.done, look.rejected)  # type: ignore[arg-type]

    def look(self) -> Look:
        """How far the current attempt is, as of its last beat."""
        return self._look

    def drop(self, attempt: str) -> None:
        """Stop the attempt at its next beat, if it is the current one."""
        if self._look.attempt == attempt:
            self._unwanted.add(attempt)
