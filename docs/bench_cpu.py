"""What the CPU side costs, beside the way people do it today: `make bench`, or `python -m docs.bench_cpu C7`.

In: the names of measures (none = all). Out: a table on standard output: our median, the other way's median, their
ratio, the target. On disk: nothing that stays. Every figure is the median of RUNS runs of a fresh process on one core,
the two sides in turn, so that a busy machine slows both.
"""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

RUNS = 3
DEADLINE_S = 300
HOME = Path(__file__).parent.parent


@dataclass(frozen=True)
class Row:
    """One line of the table; rates are better when larger, seconds and bytes when smaller."""

    measure: str  # C7
    what: str
    ours: str
    theirs: str
    ratio: str
    target: str
    met: bool


@dataclass(frozen=True)
class Cost:
    """Medians of one program."""

    items: int
    seconds: float  # CPU time
    peak_bytes: int


def measure(*programs: str) -> list[Cost]:
    """Run programs, in turn, that set `start` after their imports and `items` at their end, and take medians."""
    epilogue = (
        "\nimport json, resource"
        "\nprint(json.dumps([items, time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]))"
    )
    results: list[list[tuple[int, float, int]]] = [[] for _ in programs]
    for _ in range(RUNS):
        for program, result in zip(programs, results, strict=True):
            run = subprocess.run(
                [sys.executable, "-c", program + epilogue],
                cwd=HOME,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                capture_output=True,
                check=True,
                timeout=DEADLINE_S,
            )
            items, seconds, peak_kib = json.loads(run.stdout)
            result.append((items, seconds, peak_kib * 1024))
    return [
        Cost(result[0][0], statistics.median(r[1] for r in result), round(statistics.median(r[2] for r in result)))
        for result in results
    ]


_COUNTS = """
import time
start = time.process_time()
total = 1281167
counts = {c: total * (c + 1) // 1000 - total * c // 1000 for c in range(1000)}
"""

# The usual way: a list of every (class, prompt, seed), shuffled, cut into shards. One fold only: six would take 0.9 GB.
_LISTED = (
    "import random\n"
    + _COUNTS
    + """
random.seed(0)
samples = [(c, j % 80, random.getrandbits(63)) for c, n in counts.items() for j in range(n)]
random.shuffle(samples)
items = sum(len(samples[first : first + 1000]) for first in range(0, len(samples), 1000))
"""
)

_PLANNED = (
    "from fractions import Fraction\nfrom gen.plan import Plan\n"
    + _COUNTS
    + """
plan = Plan(counts, dict.fromkeys(counts, 80), 0, 1000)
items = sum(len(plan.unit(shard)) for shard in plan.units(Fraction(6)))
"""
)

_SEEDED = (
    "from fractions import Fraction\nfrom gen.plan import Plan, sample_seed\n"
    + _COUNTS
    + """
plan = Plan(counts, dict.fromkeys(counts, 80), 0, 1000)
items = 0
for shard in plan.units(Fraction(1)):
    unit = plan.unit(shard)
    for who in zip(unit.class_ids.tolist(), unit.prompt_ids.tolist(), unit.replicates.tolist()):
        sample_seed(0, *who, 0)
    items += len(unit)
"""
)

_ONE_UNIT = (
    "from gen.plan import Plan\n"
    + _COUNTS
    + """
plan = Plan(counts, dict.fromkeys(counts, 80), 0, 1000)
plan.unit(0)
start, items = time.process_time(), 0
for shard in range(7691, 0, -77):
    plan.unit(shard)
    items += 1
"""
)


def planning() -> list[Row]:
    """C7: from class counts to the samples of every shard."""
    planned, seeded, unit, listed = measure(_PLANNED, _SEEDED, _ONE_UNIT, _LISTED)
    rows = []
    for what, cost in (("plan ImageNet-1k 6x", planned), ("plan 1x, and hash the noise seed of each sample", seeded)):
        ours, theirs = cost.items / cost.seconds, listed.items / listed.seconds
        rows.append(
            Row(
                "C7",
                f"{what} ({cost.items:,} samples)",
                f"{ours / 1e6:.2f} M samples/s",
                f"{theirs / 1e6:.2f} M samples/s (list of 1x, shuffled, cut)",
                f"{ours / theirs:.2f}x",
                "1 M samples/s a core",
                ours >= 1e6,
            )
        )
    both = (
        f"{planned.seconds:.1f} s, {planned.peak_bytes / 1e6:.0f} MB",
        f"{listed.seconds:.1f} s, {listed.peak_bytes / 1e6:.0f} MB (1x only)",
    )
    met = planned.seconds < 10 and planned.peak_bytes < 500e6
    share = f"{planned.peak_bytes / listed.peak_bytes:.2f}x the memory"
    rows.append(Row("C7", "the whole plan of 6x: time and memory", *both, share, "10 s, 500 MB", met))
    one = unit.seconds / unit.items
    rows.append(
        Row(
            "C7",
            "any one shard of 6x, alone",
            f"{one * 1e3:.2f} ms",
            f"{listed.seconds * 1e3:.0f} ms (the whole list)",
            f"{one / listed.seconds:.5f}x",
            "-",
            True,
        )
    )
    return rows


MEASURES: dict[str, Callable[[], list[Row]]] = {"C7": planning}


def main(names: Sequence[str]) -> int:
    unknown = [name for name in names if name not in MEASURES]
    if unknown:
        print(f"found {' '.join(unknown)}, expected some of: {' '.join(MEASURES)}", file=sys.stderr)
        return 2
    print("| # | measure | ours | the usual way | ratio | target | met |\n|---|---|---|---|---|---|---|")
    met = True
    for name in names or MEASURES:
        for row in MEASURES[name]():
            cells = (row.measure, row.what, row.ours, row.theirs, row.ratio, row.target, "yes" if row.met else "NO")
            print(f"| {' | '.join(cells)} |", flush=True)
            met &= row.met
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
