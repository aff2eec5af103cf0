"""The actor that runs a worker in its own process.

In: a ``make_worker`` and then units, one at a time. Out: outcomes as small tuples: errors of the work are values, so
whatever Ray raises is a fault of the machinery. ``look`` and ``drop`` run in a second thread: a worker deep in a model
call still answers; a stopped or dead process does not, and that is the sign.
"""

import functools
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import ray

from cluster.code import code_hash, library_versions
from cluster.fan_out.work import JSON, MakeWorker, Worker
from cluster.process.environment import set_allocator, set_compile_processes
from cluster.process.exit import Draining
from cluster.process.failure import describe, is_broken
from cluster.process.identity import ProcessId, this_process
from shards.disk.home import home

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
    """How far the current attempt is."""

    attempt: str | None
    beats: int
    done: int
    rejected: int


@dataclass(frozen=True)
class Outcome:
    """How ``load`` or an attempt ended."""

    kind: Literal["fine", "raised", "broken", "dropped"]
    cause: str
    result: Mapping[str, JSON]
    done: int
    rejected: int


@functools.cache
def running_versions() -> dict[str, str]:
    """What this process runs; as of the first call, for what an editor saves later is not what was imported."""
    return {"code": code_hash(home())[:16], "python": platform.python_version(), **library_versions(LIBRARIES)}


class RayWorker:
    """See the module. ``cores``: this worker's share of its node."""

    def __init__(self, cores: int) -> None:
        set_allocator(os.environ)
        set_compile_processes(os.environ, cores)
        self._worker: Worker | None = None
        self._look = Look(None, 0, 0, 0)  # replaced whole, so the other thread sees no mixture
        self._unwanted: set[str] = set()

    def hello(self) -> Hello:
        return Hello(
            process=this_process(),
            node=ray.get_runtime_context().get_node_id(),
            cwd=os.getcwd(),
            threads=os.environ.get("OMP_NUM_THREADS", ""),
            versions=running_versions(),
        )

    def load(self, make_worker: MakeWorker) -> Outcome:
        try:
            self._worker = make_worker()
        except Exception as error:  # a value for the driver: the cause why no worker starts here
            return Outcome("raised", describe(error), {}, 0, 0)
        return Outcome("fine", "", {}, 0, 0)

    def run(self, unit: int, attempt: str) -> Outcome:
        assert self._worker is not None, "run comes after load"
        self._look = Look(attempt, 0, 0, 0)

        def beat(done: int, rejected: int) -> None:
            self._look = Look(attempt, self._look.beats + 1, done, rejected)
            if attempt in self._unwanted:
                raise Draining("the run no longer wants this unit")

        try:
            result, kind, cause = self._worker(unit, attempt, beat), "fine", ""
        except Draining:
            result, kind, cause = {}, "dropped", ""
        except Exception as error:  # a value for the driver: a failure of this unit
            result, kind, cause = {}, "broken" if is_broken(error) else "raised", describe(error)
        finally:
            self._unwanted.discard(attempt)
        look, self._look = self._look, Look(None, 0, 0, 0)
        return Outcome(kind, cause, dict(result), look.done, look.rejected)  # type: ignore[arg-type]

    def look(self) -> Look:
        return self._look

    def drop(self, attempt: str) -> None:
        if self._look.attempt == attempt:
            self._unwanted.add(attempt)
