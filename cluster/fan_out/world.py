"""What a simulated cluster is like, and how a run on it came out.

In: nothing. Out: ``World`` and ``SimulatedRun``, for `cluster.fan_out.simulate`. On disk: nothing.
"""

from dataclasses import dataclass

from cluster.fan_out.events import Event
from cluster.fan_out.work import Summary


@dataclass(frozen=True, kw_only=True)
class World:
    """What is simulated. The defaults are the reference setting of the benchmark; times are in seconds, and 0 of what
    limits or disturbs means: there is none of it."""

    num_units: int
    num_workers: int = 64
    speeds: tuple[float, ...] = ()  # of the workers, in turn; none: drawn with the two shares below
    unit_s: float = 167.0  # 1000 images at 6 images/s
    start_s: float = 120.0  # of a worker, once its model is read
    starts_s: tuple[float, ...] = ()  # the same, of one after the other, in turn; none: start_s for all
    speed_spread: float = 0.05
    slow_workers: float = 0.05  # this share of the workers runs at half speed
    crawling: float = 0.0  # this share of the attempts takes CRAWL times as long
    num_kills: int = 0  # SIGKILLs of random workers at work, spread evenly in time
    num_node_losses: int = 0  # of random nodes; each comes back after start_s
    workers_per_node: int = 8
    mtbf_s: float = 0.0  # each worker dies after this time on average, whatever it does
    preempt_s: float = 0.0  # each node is taken away after this time on average
    away_s: float = 1800.0  # until such a node is back
    life_s: float = 0.0  # the time limit of an allocation
    queue_s: float = 0.0  # from the end of one to the start of the next
    unit_bytes: float = 0.0  # that a unit writes at its end
    model_bytes: float = 0.0  # that each worker reads when it starts
    storage_bytes_per_s: float = 0.0  # for all workers together
    link_bytes_per_s: float = 0.0  # at most, for one of them
    driver_unit_s: float = 0.0  # the driver's time for a unit, from giving it away to the log
    driver_look_s: float = 0.0  # for asking a worker how far it is
    driver_turn_s: float = 0.0  # for a worker in a turn of the driver, in which it takes the answers that are there
    driver_start_s: float = 0.0  # for starting a worker
    poison: frozenset[int] = frozenset()  # units that kill their worker
    beat_s: float = 10.0
    tick_s: float = 1.0  # between two looks of the schedule at the time
    seed: int = 0


@dataclass
class Spent:
    """Seconds of all workers together, by what they did."""

    starting_s: float = 0.0  # reading and loading the model
    making_s: float = 0.0  # units that count
    storing_s: float = 0.0
    hearing_s: float = 0.0  # done, and the driver did not know yet
    lost_s: float = 0.0  # on attempts that a kill, a lost node or the end of an allocation ended
    doubled_s: float = 0.0  # on attempts of units that another attempt finished


@dataclass
class SimulatedRun:
    """How a simulated run ended: ``makespan_s / ideal_s`` is the figure of the benchmark."""

    makespan_s: float
    ideal_s: float
    lost_work_s: list[float]  # for each attempt that was ended from outside: how long its worker had worked on it
    spent: Spent
    num_lives: int
    queued_s: float  # between lives
    bytes_moved: float
    most_transfers: int  # at once
    driver_load: float  # of the driver's time; near 1 units wait for it
    most_in_flight: int
    summary: Summary  # of all lives
    events: list[Event]
