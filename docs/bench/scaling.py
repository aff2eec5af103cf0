"""How near simulated fan-outs come to real ones, and what they say of 16,384 GPUs: `python -m docs.bench.scaling`.

In: parts to run (none = all). Out: their tables on standard output; exit 1 if a target is missed. On disk:
docs/data/scaling.json with every sample, docs/data/scaling.png, and the tables of docs/SCALING.md; `--quick` runs
everything in miniature and writes nothing but with `--out`.

`driver` and `real` start Ray on this machine; their workers sleep. `large` only computes, half an hour on one core.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cluster.fan_out.ray_session import ray_session
from cluster.fan_out.work import LOOK_EVERY_S, FanOutSpec, look_every_s
from cluster.process.stop_flag import StopFlag
from cluster.submit.simulate import DRIVER_LOOK_S, DRIVER_START_S, DRIVER_TURN_S, DRIVER_UNIT_S, Setting, foresee
from docs.bench import driver_cost, fan_out_runs, page, scaling_picture
from docs.bench.driver_cost import DriverCost
from docs.bench.machine import facts
from shards.disk.amounts import size_text, time_text
from shards.disk.layout import MAX_SHARDS

HOME = Path(__file__).resolve().parents[1]
PAGE, NUMBERS, PICTURE = "SCALING.md", "data/scaling.json", "data/scaling.png"
COMMAND = "python -m docs.bench.scaling"
REPEATS, REAL_REPEATS = 3, 2
MAX_MS_A_UNIT, MAX_GROWN_BYTES, MIN_EFFICIENCY, MAX_ERROR = 5.0, 16 * 2**20, 0.95, 0.10

GPUS = (64, 256, 1024, 4096, 16_384)
IMAGES = (7_700_000, 77_000_000, 1_000_000_000)
UNITS = (250, 1000, 2500, 10_000)
# a parallel file system of a site; the model of 5 GB is copied to each node once, so a worker reads an eighth of it
SITE: dict[str, Any] = {"storage_bytes_per_s": 20e9, "model_bytes": 5e9 / 8}
FAULTS: dict[str, dict[str, Any]] = {
    "nothing fails": {"mtbf_h": 0, "stragglers": 0},
    "a GPU fails every 50,000 hours, stragglers": {},
    "a GPU fails every 5,000 hours": {"mtbf_h": 5000},
    "a GPU fails every 500 hours": {"mtbf_h": 500},
    "a node is lost every 24 hours, for 30 minutes": {"preempt_h": 24},
    "a node is lost every 3 hours, for 30 minutes": {"preempt_h": 3},
    "allocations of 1 hour": {"limit_h": 1},
}
Rows = list[dict[str, Any]]


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog=COMMAND, description="Simulated fan-outs beside real ones, and large ones.")
    parser.add_argument("--parts", default=",".join(PARTS), help="some of %(default)s")
    parser.add_argument("--quick", action="store_true", help="everything in miniature; judges and writes nothing")
    parser.add_argument(
        "--again", action="store_true", help="measure nothing; write tables and picture from the numbers"
    )
    parser.add_argument("--out", type=Path, help=f"folder of {PAGE} and {NUMBERS} (default: docs)")
    parser.add_argument("--scratch", type=Path, help="folder for what workers write (default: the system's)")
    chosen = parser.parse_args(arguments)
    if chosen.again:
        known = json.loads((HOME / NUMBERS).read_text(encoding="utf-8"))
        for name, found in known.items():
            write(HOME, name, found["rows"], found)
        return 0
    names = chosen.parts.split(",")
    if unknown := [name for name in names if name not in PARTS]:
        parser.error(f"--parts: found {','.join(unknown)}, expected some of {','.join(PARTS)}")
    out, met = chosen.out or (None if chosen.quick else HOME), True
    where = {"quick": chosen.quick, **facts(chosen.scratch or Path(tempfile.gettempdir()))}
    for name in names:
        rows = PARTS[name][0](chosen.quick, chosen.scratch)
        met &= PARTS[name][1](rows)[1] or chosen.quick
        print(f"## {name}\n\n{section(name, rows, where)}\n", flush=True)
        if out is not None:
            write(out, name, rows, where)
    return 0 if met else 1


def section(name: str, rows: Rows, where: Mapping[str, Any]) -> str:
    """One part in Markdown, for the terminal and for the page alike."""
    told = f"*Where:* {where['date']}, {where['cores']} cores of {where['cpu']}, shared with other programs."
    return f"{PARTS[name][1](rows)[0]}\n\n{told}"


def write(out: Path, name: str, rows: Rows, where: Mapping[str, Any]) -> None:
    """Replace this part in the page and among the numbers; draw the picture once all parts are there."""
    numbers = out / NUMBERS
    numbers.parent.mkdir(exist_ok=True)
    known = json.loads(numbers.read_text(encoding="utf-8")) if numbers.exists() else {}
    known[name] = {**{key: where[key] for key in ("quick", "date", "cores", "cpu", "load", "versions")}, "rows": rows}
    numbers.write_text(json.dumps(known, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    before = (out / PAGE).read_text(encoding="utf-8")
    told = page.replaced(before, name, COMMAND, section(name, rows, where), PAGE)
    (out / PAGE).write_text(told, encoding="utf-8")
    if known.keys() >= {"real", "large", "units"}:
        scaling_picture.draw({part: known[part]["rows"] for part in known}, out / PICTURE)


# ---------------------------------------------------------------------- the driver


def measure_driver(quick: bool, scratch: Path | None) -> Rows:
    with StopFlag() as stop, ray_session(FanOutSpec(workers=2, gpus_per_worker=0), 1, stop):
        return [asdict(one) for one in driver_cost.measure(200 if quick else 10_000, 1 if quick else REPEATS)]


def tell_driver(rows: Rows) -> tuple[str, bool]:
    def spread(name: str, factor: float) -> str:
        return page.spread(tuple(factor * row[name] for row in rows))

    lines = [
        "| the driver pays | CPU time | taken by the simulation |",
        "|---|---:|---:|",
        f"| for a unit, from giving it away to the log | {spread('unit_s', 1e3)} ms | {1e3 * DRIVER_UNIT_S:g} ms |",
        f"| for asking one worker how far it is | {spread('look_s', 1e3)} ms | {1e3 * DRIVER_LOOK_S:g} ms |",
        f"| for a worker in each of its turns | {spread('turn_s', 1e6)} µs | {1e6 * DRIVER_TURN_S:g} µs |",
        f"| for starting a worker | {spread('start_s', 1e3)} ms | {1e3 * DRIVER_START_S:g} ms |",
    ]
    unit_ms = statistics.median(1e3 * row["unit_s"] for row in rows)
    grown = statistics.median(row["grown_bytes"] for row in rows)
    verdicts = [
        ("at most 5 ms of the driver's time for an empty unit", f"{unit_ms:.2f} ms", unit_ms <= MAX_MS_A_UNIT),
        (
            "memory flat from the first fifth of the units to the last one: at most 16 MiB more",
            size_text(max(0.0, grown)),
            grown <= MAX_GROWN_BYTES,
        ),
    ]
    about = (
        f"*How:* {len(rows)} times {rows[0]['num_units']:,} empty units on Ray with two workers, which took "
        f"{spread('wall_unit_s', 1e3)} ms a unit of wall time; CPU time of the driver's process, all threads. A look "
        "is one of 2,000 that are asked at once. A turn is what `ray.wait` takes for an answer that is not there yet, "
        f"twice, and the schedule's tick for {driver_cost.MANY:,} workers. Starts: eight at once, until each has "
        "said who it is."
    )
    return "\n".join([*lines, "", *_judged(verdicts), "", about]), all(met for _, _, met in verdicts)


# ---------------------------------------------------------------------- real runs


def measure_real(quick: bool, scratch: Path | None) -> Rows:
    cost = DriverCost(DRIVER_UNIT_S, DRIVER_LOOK_S, DRIVER_TURN_S, DRIVER_START_S, 0.0, 0, 0)
    rows: Rows = []
    with StopFlag() as stop, ray_session(FanOutSpec(workers=2, gpus_per_worker=0), 1, stop):
        for repeat in range(1 if quick else REAL_REPEATS):
            for case in fan_out_runs.QUICK if quick else fan_out_runs.CASES:
                compared = fan_out_runs.compare(case, cost, scratch, repeat)
                rows.append(
                    {
                        "what": case.what,
                        "unit_s": case.unit_s,
                        "life_s": case.life_s,
                        "bare_s": case.bare_s,
                        "error": compared.error,
                        **asdict(compared),
                    }
                )
                print(f"{case.what}: {compared}", file=sys.stderr, flush=True)
    return rows


def tell_real(rows: Rows) -> tuple[str, bool]:
    lines = [
        "| two workers | real, s | simulated, s | simulation over real | work beside bare loops | lost by a kill |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    efficiency = []
    for what in dict.fromkeys(row["what"] for row in rows):
        own = [row for row in rows if row["what"] == what]
        kills = sum(row["kills"] for row in own)
        is_calm = not kills and not own[0]["life_s"]
        beside = tuple(row["bare_s"] / row["work_s"] for row in own)
        efficiency += beside if is_calm and own[0]["unit_s"] >= 1 else ()
        cells = [
            what,
            page.spread(tuple(row["real_s"] for row in own)),
            page.spread(tuple(row["simulated_s"] for row in own)),
            page.spread(tuple(1 + row["error"] for row in own)),
            page.spread(beside) if is_calm else "",
            f"at most {max(row['most_units_lost'] for row in own)} unit, {kills} kills" if kills else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    cases = [
        [row["error"] for row in rows if row["what"] == what] for what in dict.fromkeys(row["what"] for row in rows)
    ]
    median = max(abs(statistics.median(errors)) for errors in cases)
    worst = max(abs(row["error"]) for row in rows)
    loss = max(row["most_units_lost"] for row in rows)
    least = min(efficiency, default=1.0)
    verdicts = [
        (
            "the simulation is within 10 % of each line's median real run",
            f"{median:.1%} at most; the worst single run {worst:.1%}",
            median <= MAX_ERROR,
        ),
        (
            "units of 1 s and more: at least 0.95 of bare loops, starts apart",
            f"{least:.3f} at least",
            least >= MIN_EFFICIENCY,
        ),
        ("a kill loses at most 1 unit", f"{loss}", loss <= 1),
    ]
    starts = page.spread(tuple(row["start_s"] for row in rows))
    about = (
        f"*How:* `fan_out` on Ray with two workers that sleep; each line {len(rows) // len(lines[2:])} times. A start "
        f"took {starts} s on average; each simulated world gets the starts of its real run, one after the other, and "
        "the number of kills that hit a worker. All else it is told before: units, speeds, time limit. Simulated is "
        f"the median of {fan_out_runs.SEEDS} worlds. Kills are SIGKILLs of random workers at random times. Bare loops: "
        "the best split of the units over two loops that do nothing else, computed."
    )
    return "\n".join([*lines, "", *_judged(verdicts), "", about]), all(met for _, _, met in verdicts)


# ---------------------------------------------------------------------- large runs


def measure_large(quick: bool, scratch: Path | None) -> Rows:
    gpus, images = ((8, 16), (20_000,)) if quick else (GPUS, IMAGES)
    units = {total: 1000 if total < 1000 * MAX_SHARDS else 10_000 for total in images}  # as many shards as a set holds
    return [_foreseen(gpus=num, images=total, unit=units[total], **SITE) for total in images for num in gpus]


def measure_units(quick: bool, scratch: Path | None) -> Rows:
    gpus, images, units = ((8,), 20_000, (100, 1000)) if quick else (GPUS, IMAGES[1], UNITS)
    rows = [_foreseen(gpus=num, images=images, unit=unit, **SITE) for num in gpus for unit in units]
    return rows


def measure_faults(quick: bool, scratch: Path | None) -> Rows:
    gpus, images = (16, 20_000) if quick else (1024, IMAGES[1])
    return [{"what": what, **_foreseen(gpus=gpus, images=images, **{**SITE, **more})} for what, more in FAULTS.items()]


def measure_limits(quick: bool, scratch: Path | None) -> Rows:
    images = 20_000 if quick else IMAGES[1]
    rows: Rows = []
    for num in (8, 16) if quick else GPUS:
        every = _foreseen(gpus=num, images=images, **{**SITE, "model_bytes": 5e9})
        rows.append({"what": "each worker reads the model", **every})
        narrow = _foreseen(gpus=num, images=images, **{**SITE, "storage_bytes_per_s": 1e9, "model_bytes": 0.0})
        rows.append({"what": "storage of 1 GB/s", **narrow})
    return rows


def _foreseen(**setting: Any) -> dict[str, Any]:
    begun, asked = time.process_time(), Setting(**setting)
    found = dict(foresee(asked, worlds=3 if asked.num_units <= 10_000 else 1).as_json())
    print(f"{setting}: {found['ratio']} ({time.process_time() - begun:.0f} s)", file=sys.stderr, flush=True)
    return found


def tell_large(rows: Rows) -> tuple[str, bool]:
    lines = [
        "| images | units of | GPUs | makespan | ideal | ratio | GPU-hours | making | starting | storing | hearing "
        "| lost | twice | waiting | driver | storage |",
        f"|---:|---:|{'---:|' * 14}",
    ]
    for row in rows:
        shares = [f"{100 * row['shares'][name]:.1f} %" for name in _SHARES]
        cells = [
            *(f"{row['setting'][name]:,}" for name in ("images", "unit", "gpus")), time_text(row["makespan_s"]),
            time_text(row["ideal_s"]), f"{row['ratio']:.3f}", f"{row['gpu_hours']:,.0f}", *shares,
            f"{row['driver_load']:.0%}", f"{row['storage_load']:.1%}",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    first = rows[0]
    ratio = first["ratio"]
    target = f"{first['setting']['gpus']} GPUs, {first['setting']['images']:,} images: at most 1.03 of the ideal"
    return "\n".join([*lines, "", *_judged([(target, f"{ratio:.3f}", ratio <= 1.03)])]), ratio <= 1.03


def tell_units(rows: Rows) -> tuple[str, bool]:
    blocks = []
    for images in dict.fromkeys(row["setting"]["images"] for row in rows):
        own = [row for row in rows if row["setting"]["images"] == images]
        units = sorted({row["setting"]["unit"] for row in own})
        lines = [
            f"| {images:,} images, GPUs | " + " | ".join(f"units of {unit:,}" for unit in units) + " |",
            f"|---:|{'---:|' * len(units)}",
        ]
        for gpus in dict.fromkeys(row["setting"]["gpus"] for row in own):
            of = {row["setting"]["unit"]: row for row in own if row["setting"]["gpus"] == gpus}
            least = min(row["makespan_s"] for row in of.values())
            cells = [
                f"**{of[unit]['ratio']:.3f}**" if of[unit]["makespan_s"] == least else f"{of[unit]['ratio']:.3f}"
                for unit in units
            ]
            lines.append(f"| {gpus:,} | {' | '.join(cells)} |")
        many = [unit for unit in units if -(-images // unit) > MAX_SHARDS]
        note = (
            f"Units of {', '.join(f'{unit:,}' for unit in many)} make more shards than a data set holds."
            if many
            else ""
        )
        blocks.append("\n".join([*lines, *(["", note] if note else [])]))
    return "\n\n".join(blocks), True


def tell_faults(rows: Rows) -> tuple[str, bool]:
    lines = [
        "| | makespan | ratio | attempts lost | GPU time lost | started twice | allocations |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        cells = [
            row["what"], time_text(row["makespan_s"]), f"{row['ratio']:.3f}", f"{row['attempts_lost']:,}",
            f"{100 * row['shares']['lost']:.2f} %", f"{row['units_started_twice']:,}", f"{row['allocations']}",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines), True


def tell_limits(rows: Rows) -> tuple[str, bool]:
    lines = [
        "| GPUs | each worker reads 5 GB from 20 GB/s | storage of 1 GB/s, no model read | looks a second, before and "
        "now | driver's time for looks, before and now |",
        "|---:|---|---|---:|---:|",
    ]
    for gpus in dict.fromkeys(row["setting"]["gpus"] for row in rows):
        model, narrow = (row for row in rows if row["setting"]["gpus"] == gpus)
        before, now = gpus / LOOK_EVERY_S, gpus / look_every_s(gpus)
        cells = [
            f"{gpus:,}", _came_out(model), _came_out(narrow), f"{before:,.0f}, {now:,.0f}",
            f"{before * DRIVER_LOOK_S:.0%}, {now * DRIVER_LOOK_S:.0%}",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines), True


def _came_out(row: dict[str, Any]) -> str:
    if row["error"] is not None:
        return f"**ends after {time_text(row['makespan_s'])}**: {row['error'].partition(';')[0]}"
    share = row["shares"]
    return (
        f"ratio {row['ratio']:.3f}; starting {share['starting']:.1%}, storing {share['storing']:.1%}, storage at "
        f"{row['storage_load']:.0%}"
    )


_SHARES = ("making", "starting", "storing", "hearing", "lost", "doubled", "waiting")


def _judged(verdicts: Sequence[tuple[str, str, bool]]) -> list[str]:
    rows = [f"| {target} | {found} | {'yes' if met else '**missed**'} |" for target, found, met in verdicts]
    return ["| target | came out | met |", "|---|---|---|", *rows]


PARTS: dict[str, tuple[Callable[[bool, Path | None], Rows], Callable[[Rows], tuple[str, bool]]]] = {
    "driver": (measure_driver, tell_driver),
    "real": (measure_real, tell_real),
    "large": (measure_large, tell_large),
    "units": (measure_units, tell_units),
    "faults": (measure_faults, tell_faults),
    "limits": (measure_limits, tell_limits),
}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
