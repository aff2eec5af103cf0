"""The types of the fan-out: what a worker is, how a recipe asks for workers, how a run ended.

In: nothing. Out: the protocols ``Beat`` and ``Worker``, the recipe's ``FanOutSpec``, and ``Summary``. On disk: nothing.
Uses neither Ray nor files nor clocks, so the scheduler, both drivers and the command line share it.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cluster.process.exit import EXIT_AGAIN, EXIT_COMPLETE, EXIT_FAILED, EXIT_INCOMPLETE
from cluster.recipes.site import SiteSpec
from shards.disk.record import JSON

LOOK_EVERY_S = 0.5  # the driver asks each worker how far it is
MAX_LOOKS_PER_S = 1000  # of all workers together: an answer takes 0.3 ms of the driver's time (docs/SCALING.md)


def look_every_s(num_workers: int) -> float:
    """How often the driver asks a worker how far it is: more rarely if there are thousands."""
    return max(LOOK_EVERY_S, num_workers / MAX_LOOKS_PER_S)


class Beat(Protocol):
    """A worker's sign of progress."""

    def __call__(self, done: int, rejected: int, under_way: float = 0.0) -> None:
        """Report that the unit has ``done`` good and ``rejected`` bad images so far, and how much of the next ones is
        made, in images: 16 that are a quarter made count 4. Raises Draining to stop it."""


class Worker(Protocol):
    """Makes units, one at a time; lives as long as its process."""

    def __call__(self, unit: int, attempt: str, beat: Beat) -> Mapping[str, JSON]:
        """Make one unit. Returns a small JSON object (counts, names), never data.

        May be called twice for one unit, even on two machines at once: so the worker must publish exclusively.
        ``attempt`` is unique for each call, over all restarts of the run.
        """


MakeWorker: TypeAlias = Callable[[], Worker]


class FanOutSpec(BaseModel):
    """How work is spread: the ``cluster:`` part of a recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    workers: int | Literal["auto"] = Field("auto", description="processes; auto: all GPUs, else all usable cores")
    cpus_per_worker: int = Field(1, ge=1, description="cores each worker reserves")
    gpus_per_worker: float | Literal["auto"] = Field("auto", description="GPUs each reserves; auto: 1 where GPUs exist")
    start_deadline_s: float = Field(1200, gt=0, description="a worker must have loaded its model within this time")
    stall_deadline_s: float = Field(600, gt=0, description="a worker without a beat for this long is killed")
    attempts: int = Field(3, ge=1, description="a unit that failed this often is quarantined")
    give_up_after: int = Field(10, ge=1, description="this many quarantined units with no success between end the run")
    straggler_factor: float = Field(4.0, ge=0, description="run a unit twice after this many medians; 0 = never")
    drain_s: float = Field(10.0, gt=0, description="a stop request is carried out within this time")
    in_process: bool = Field(False, description="one worker in this process, without Ray")
    shared: bool = Field(
        False, description="other runs write the same output at the same time; each shard is claimed by one of them"
    )
    site: SiteSpec | None = Field(
        None,
        description="for `sixfold submit`: what jobs of a SLURM site need, over what ~/.config/sixfold/site.yaml says",
        examples=[{"partition": "gpu", "nodes": 4, "gpus_per_node": 8}],
    )

    @property
    def gpus_used(self) -> int | None:
        """How many GPUs of one machine the workers would use at most; None: all it has."""
        if self.in_process:
            return 1
        share = 1.0 if self.gpus_per_worker == "auto" else self.gpus_per_worker
        if self.workers == "auto":
            return None if share else 0
        return math.ceil(self.workers * share)

    @model_validator(mode="after")
    def _workers_are_some(self) -> "FanOutSpec":
        if self.workers != "auto" and self.workers < 1:
            raise ValueError(f"cluster.workers: found {self.workers}, expected auto or at least 1")
        return self

    @model_validator(mode="after")
    def _gpus_are_no_debt(self) -> "FanOutSpec":
        if self.gpus_per_worker != "auto" and self.gpus_per_worker < 0:
            raise ValueError(f"cluster.gpus_per_worker: found {self.gpus_per_worker}, expected auto or at least 0")
        return self

    @model_validator(mode="after")
    def _stragglers_are_slow(self) -> "FanOutSpec":
        if 0 < self.straggler_factor < 1.5:
            raise ValueError(
                f"cluster.straggler_factor: found {self.straggler_factor}, expected 0 (never) or at least 1.5"
            )
        return self


@dataclass(frozen=True)
class Quarantined:
    """A unit that failed too often and is left out, with the last cause."""

    unit: int
    failures: int
    cause: str


@dataclass(frozen=True)
class Summary:
    """How a run ended. Counts are of this life only; ``error`` says why it could not go on, if so."""

    done: int
    quarantined: tuple[Quarantined, ...]
    retried: int
    rerun: int
    workers_started: int
    workers_lost: int
    images: int
    rejected: int
    seconds: float
    start_s: float = 0.0  # of them, until the first unit was begun
    drained: bool = False
    error: str | None = None

    def then(self, later: "Summary") -> "Summary":
        """Both as one: `later` began where this one ended."""
        return Summary(
            done=self.done + later.done,
            quarantined=(*self.quarantined, *later.quarantined),
            retried=self.retried + later.retried,
            rerun=self.rerun + later.rerun,
            workers_started=self.workers_started + later.workers_started,
            workers_lost=self.workers_lost + later.workers_lost,
            images=self.images + later.images,
            rejected=self.rejected + later.rejected,
            seconds=self.seconds + later.seconds,
            start_s=self.start_s + later.start_s,
            drained=later.drained,
            error=later.error,
        )

    @property
    def exit_code(self) -> int:
        """The code of `cluster.process.exit` that the program ends with."""
        if self.error is not None:
            return EXIT_FAILED
        if self.drained:
            return EXIT_AGAIN
        return EXIT_INCOMPLETE if self.quarantined else EXIT_COMPLETE

    def as_json(self) -> dict[str, JSON]:
        """The summary as it stands in logs and in ``summary.json``."""
        return {
            "units": {"done": self.done, "quarantined": len(self.quarantined)},
            "quarantined": [{"unit": q.unit, "failures": q.failures, "cause": q.cause} for q in self.quarantined],
            "retried": self.retried,
            "rerun": self.rerun,
            "workers": {"started": self.workers_started, "lost": self.workers_lost},
            "images": self.images,
            "rejected": self.rejected,
            "seconds": round(self.seconds, 3),
            "start_s": round(self.start_s, 3),
            "drained": self.drained,
            "error": self.error,
            "exit_code": self.exit_code,
        }
