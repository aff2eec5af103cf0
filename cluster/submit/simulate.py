"""What a run would take on so many GPUs: the simulated cluster, asked in the units that people know.

In: a `Setting` (GPUs, images, rates, faults, storage). Out: a `Forecast`: makespan beside the ideal one, GPU-hours,
work lost, load on storage and driver, and what limits the run. On disk: nothing.

The decisions are those of a real run, and so is what its driver costs, which `python -m docs.bench.scaling` measures.
docs/SCALING.md shows how near forecasts come to real runs, and forecasts for up to 16,384 GPUs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

from cluster.fan_out.simulate import simulate
from cluster.fan_out.work import FanOutSpec, look_every_s
from cluster.fan_out.world import SimulatedRun, World
from shards.disk.amounts import counted, size_text, time_text
from shards.disk.layout import MAX_ROWS_PER_SHARD, MAX_SHARDS
from shards.disk.record import JSON

# CPU seconds of the driver, measured by `python -m docs.bench.scaling` and rounded up
DRIVER_UNIT_S, DRIVER_LOOK_S, DRIVER_TURN_S, DRIVER_START_S = 0.001, 0.0003, 4e-6, 0.02
UNITS = (100, 250, 500, 1000, 2500, 5000, 10_000)  # sizes that are compared
MAX_UNITS = 1_000_000  # that are simulated for a comparison: a minute each
MAX_GPUS = 100_000
ALIKE = 1.005  # makespans this near are told apart by nobody; the larger unit is better then
TICKS = 50  # of the schedule's clock a unit; stragglers are found that exactly


BOUNDS: dict[str, tuple[float, float]] = {
    "gpus": (1, MAX_GPUS),
    "images": (1, 10**12),
    "images_per_s": (1e-4, 1e6),
    "unit": (1, MAX_ROWS_PER_SHARD),
    "unit_s": (0, 1e6),
    "gpus_per_node": (1, 1024),
    "start_s": (0, 1e6),
    "spread": (0, 0.5),
    "slow": (0, 1),
    "stragglers": (0, 0.5),
    "mtbf_h": (0, 1e9),
    "preempt_h": (0, 1e9),
    "away_min": (0, 1e6),
    "limit_h": (0, 1e6),
    "queue_h": (0, 1e6),
    "seed": (0, 2**31),
}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is asked. 0 of what limits or disturbs means: there is none of it."""

    gpus: int
    images: int
    images_per_s: float = 6.0  # of one GPU
    unit: int = 1000  # images of a shard
    unit_s: float = 1.0  # what a shard takes beside its images: prompts, commit
    gpus_per_node: int = 8
    start_s: float = 120.0  # from a worker's process to its first unit, without reading the model
    model_bytes: float = 0.0
    image_bytes: float = 35e3
    storage_bytes_per_s: float = 0.0
    link_bytes_per_s: float = 1e9  # the most that one GPU's worker gets of it
    spread: float = 0.05  # of the GPUs' speeds
    slow: float = 0.05  # share of them at half speed
    stragglers: float = 0.001  # share of the attempts that take 20 times as long
    mtbf_h: float = 50_000.0  # of a GPU; 50,700 hours in the 54 days of Llama 3 405B's training
    preempt_h: float = 0.0  # of a node
    away_min: float = 30.0
    limit_h: float = 0.0  # of an allocation
    queue_h: float = 0.0  # between two
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            low, high = BOUNDS.get(name, (0, 1e15))
            if not low <= value <= high:
                raise ValueError(f"{_option(name)}: found {value:g}, expected {_plain(low)} to {_plain(high)}")

    @property
    def num_units(self) -> int:
        """Shards, the last of which may be smaller; here it is not."""
        return -(-self.images // self.unit)

    def world(self) -> World:
        """The same for the simulator."""
        unit_s = self.unit / self.images_per_s + self.unit_s
        return World(
            num_units=self.num_units,
            num_workers=self.gpus,
            unit_s=unit_s,
            start_s=self.start_s,
            speed_spread=self.spread,
            slow_workers=self.slow,
            crawling=self.stragglers,
            workers_per_node=self.gpus_per_node,
            mtbf_s=3600 * self.mtbf_h,
            preempt_s=3600 * self.preempt_h,
            away_s=60 * self.away_min,
            life_s=3600 * self.limit_h,
            queue_s=3600 * self.queue_h,
            unit_bytes=self.unit * self.image_bytes,
            model_bytes=self.model_bytes,
            storage_bytes_per_s=self.storage_bytes_per_s,
            link_bytes_per_s=self.link_bytes_per_s,
            driver_unit_s=DRIVER_UNIT_S,
            driver_look_s=DRIVER_LOOK_S,
            driver_turn_s=DRIVER_TURN_S,
            driver_start_s=DRIVER_START_S,
            tick_s=max(1.0, unit_s / TICKS),
            seed=self.seed,
        )


@dataclass(frozen=True)
class Forecast:
    """How one setting came out: the world whose makespan is the median of several."""

    setting: Setting
    run: SimulatedRun
    makespans_s: tuple[float, ...]  # of all worlds, the shortest first

    @property
    def ideal_s(self) -> float:
        """With every GPU at work on images from its start to the end; nothing dies, nothing is waited for."""
        start_s, world = self.setting.start_s, self.setting.world()
        images_share = self.setting.unit / self.setting.images_per_s / world.unit_s
        return start_s + (self.run.ideal_s - start_s) * images_share

    @property
    def ratio(self) -> float:
        """Makespan over ideal."""
        return self.run.makespan_s / self.ideal_s

    @property
    def gpu_hours(self) -> float:
        """That are paid for: all GPUs, while there is an allocation."""
        return self.setting.gpus * (self.run.makespan_s - self.run.queued_s) / 3600

    @property
    def storage_load(self) -> float:
        """Bytes that were moved, of those that could have been."""
        could = self.setting.storage_bytes_per_s * (self.run.makespan_s - self.run.queued_s)
        return self.run.bytes_moved / could if could else 0.0

    @property
    def shares(self) -> dict[str, float]:
        """Of the paid time, what the GPUs did; `waiting` is the rest: for the last units, for nodes, for a place."""
        spent, paid = self.run.spent, 3600 * self.gpu_hours
        known = {
            "making": spent.making_s / paid,
            "starting": spent.starting_s / paid,
            "storing": spent.storing_s / paid,
            "hearing": spent.hearing_s / paid,
            "lost": spent.lost_s / paid,
            "doubled": spent.doubled_s / paid,
        }
        return {**known, "waiting": max(0.0, 1 - sum(known.values()))}

    def limits(self) -> list[str]:
        """What breaks, or nearly does, and what to do; what ends or forbids the run comes first."""
        setting, shares, lines = self.setting, self.shares, []
        if self.run.summary.error is not None:
            lines.append(f"the run ends with {self.run.summary.done:,} units done: {self.run.summary.error}")
        if self.run.summary.quarantined:
            lines.append(f"{counted(len(self.run.summary.quarantined), 'unit')} failed too often and would be left out")
        if setting.num_units > MAX_SHARDS:
            lines.append(
                f"{setting.num_units:,} shards, a data set holds {MAX_SHARDS:,}: raise --unit to "
                f"{-(-setting.images // MAX_SHARDS):,} or more (at most {MAX_ROWS_PER_SHARD:,} over shards.max_draws), "
                "or make several sets"
            )
        each = setting.num_units / setting.gpus
        if each < 50:
            lines.append(f"{each:.3g} units a GPU: the last ones leave GPUs idle; lower --unit")
        if self.storage_load > 0.7 or shares["storing"] > 0.05:
            lines.append("the storage: shards wait to be written; ask for more bandwidth, or write to several stores")
        if shares["starting"] > 0.05:
            reading = self.run.most_transfers * setting.model_bytes / max(setting.storage_bytes_per_s, 1.0)
            slow = setting.model_bytes and setting.storage_bytes_per_s and reading > setting.start_s
            todo = "copy the model to each node first" if slow else "make longer runs, or keep compiled code"
            lines.append(f"starting takes {shares['starting']:.0%} of the GPUs' time; {todo}")
        if self.run.driver_load > 0.7 or shares["hearing"] > 0.02:
            lines.append("the driver: it hears of units late; raise --unit, or run several drivers, a set each")
        return lines

    def as_json(self) -> dict[str, JSON]:
        """All figures, for scripts."""
        run = self.run
        return {
            "setting": {one.name: getattr(self.setting, one.name) for one in fields(self.setting)},
            "units": self.setting.num_units,
            "makespan_s": round(run.makespan_s, 1),
            "makespans_s": [round(seconds, 1) for seconds in self.makespans_s],
            "ideal_s": round(self.ideal_s, 1),
            "ratio": round(self.ratio, 4),
            "gpu_hours": round(self.gpu_hours, 1),
            "shares": {name: round(share, 5) for name, share in self.shares.items()},
            "attempts_lost": len(run.lost_work_s),
            "lost_gpu_hours": round(run.spent.lost_s / 3600, 2),
            "units_started_twice": run.summary.rerun,
            "units_given_up": len(run.summary.quarantined),
            "allocations": run.num_lives,
            "queued_s": round(run.queued_s, 1),
            "bytes_moved": round(run.bytes_moved),
            "storage_load": round(self.storage_load, 4),
            "most_transfers": run.most_transfers,
            "driver_load": round(run.driver_load, 4),
            "looked_at_every_s": look_every_s(self.setting.gpus),
            "error": run.summary.error,
            "limits": self.limits(),
        }


def foresee(setting: Setting, worlds: int = 1, on_done: Callable[[int], None] = lambda done: None) -> Forecast:
    """Simulate one setting in `worlds` worlds, each with a seed of its own; `on_done` is told how many units are done
    in all of them."""
    runs = []
    for number in range(worlds):
        world = replace(setting, seed=setting.seed + number).world()
        before = number * setting.num_units
        runs.append(simulate(world, FanOutSpec(), False, _after(before, on_done)))
    runs.sort(key=lambda run: (run.summary.error is not None, run.makespan_s))
    return Forecast(setting, runs[(worlds - 1) // 2], tuple(run.makespan_s for run in runs))


def _after(before: int, on_done: Callable[[int], None]) -> Callable[[int, int], None]:
    return lambda done, _: on_done(before + done)


def other_units(setting: Setting) -> list[int]:
    """The unit sizes worth a comparison: those whose shards fit in a data set, if any do, and into a minute."""
    sizes = [unit for unit in UNITS if unit != setting.unit and setting.images // unit <= MAX_UNITS]
    fitting = [unit for unit in sizes if replace(setting, unit=unit).num_units <= MAX_SHARDS]
    return fitting or sizes


def best(forecasts: Sequence[Forecast]) -> Forecast:
    """The shortest; of those that nobody can tell from it the one with the largest units, hence the fewest files."""
    whole = [one for one in forecasts if one.run.summary.error is None] or list(forecasts)
    shortest = min(one.run.makespan_s for one in whole)
    return max(
        (one for one in whole if one.run.makespan_s <= ALIKE * shortest), key=lambda forecast: forecast.setting.unit
    )


def describe(forecast: Forecast, others: Sequence[Forecast] = ()) -> str:
    """A short table for people."""
    setting, run, shares = forecast.setting, forecast.run, forecast.shares
    rows = [
        (
            "run",
            f"{counted(setting.images, 'image')} in {counted(setting.num_units, 'unit')} of {setting.unit:,}, on "
            f"{counted(setting.gpus, 'GPU')} of {setting.images_per_s:g} images/s",
        ),
        ("makespan", _makespan_text(forecast)),
        (
            "GPU-hours",
            f"{forecast.gpu_hours:,.{0 if forecast.gpu_hours >= 10 else 1}f}: "
            + ", ".join(_percent(name, one) for name, one in shares.items()),
        ),
        (
            "lost",
            f"{counted(len(run.lost_work_s), 'attempt')}, {time_text(run.spent.lost_s)} of a GPU; "
            f"{counted(run.summary.rerun, 'straggler')} started twice",
        ),
        ("storage", _storage_text(forecast)),
        (
            "driver",
            f"{run.driver_load:.0%} of its time; it looks at each worker every {look_every_s(setting.gpus):g} s",
        ),
    ]
    if setting.limit_h:
        queued = f", {time_text(run.queued_s)} queued between them" if run.queued_s else ""
        rows.append(("lives", f"{counted(run.num_lives, 'allocation')}{queued}"))
    if others:
        every = sorted([forecast, *others], key=lambda one: one.setting.unit)
        sizes = [f"{one.setting.unit:,} ({time_text(one.run.makespan_s)})" for one in every]
        rows.append(("unit", f"best {best(every).setting.unit:,}; of {', '.join(sizes)}"))
    rows += [("limit", line) for line in forecast.limits()]
    return "\n".join(f"{name:<10}{text}" for name, text in rows)


def _makespan_text(forecast: Forecast) -> str:
    least, most = (time_text(seconds) for seconds in (forecast.makespans_s[0], forecast.makespans_s[-1]))
    told = f"{time_text(forecast.run.makespan_s)}; ideal {time_text(forecast.ideal_s)}, ratio {forecast.ratio:.3f}"
    if len(forecast.makespans_s) == 1:
        return told
    return f"{told}; {counted(len(forecast.makespans_s), 'world')}, {least} to {most}"


def _storage_text(forecast: Forecast) -> str:
    run, setting = forecast.run, forecast.setting
    moved = f"{size_text(run.bytes_moved)} moved, at most {counted(run.most_transfers, 'worker')} at once"
    if not setting.storage_bytes_per_s:
        return f"{moved}; no limit for all together"
    return f"{moved}; {forecast.storage_load:.1%} of {size_text(setting.storage_bytes_per_s)}/s"


def _percent(name: str, share: float) -> str:
    return f"{name} {100 * share:.3g} %" if share >= 0.0005 or not share else f"{name} < 0.05 %"


def _plain(number: float) -> str:
    return f"{number:,.0f}" if number == int(number) else f"{number:g}"


def _option(name: str) -> str:
    """The option of the command line that sets the field."""
    words = {"_h": "-hours", "_min": "-minutes", "_bytes_per_s": "", "_bytes": ""}
    for end, instead in words.items():
        if name.endswith(end):
            name = name.removesuffix(end) + instead
            break
    return f"--{name.replace('_', '-')}"
