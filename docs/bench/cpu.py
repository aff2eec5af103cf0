"""What the CPU side costs, beside the way people do it today: `make bench`, `make bench-retrieve` for retrieval, or
`python -m docs.bench.cpu --rows C1,C3`.

In: rows to measure (none = those of `make bench`). Out: their tables on standard output; exit 1 if a target is missed.
On disk: docs/data/bench_cpu.json and the tables of docs/BENCHMARKS.md; `--quick` runs everything in miniature and
writes nothing.

Run it on a machine that does nothing else, without other CPU load; about 30 minutes on two cores, of which C14 takes
seven and C16 ten, and 40 for retrieval.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from docs.bench import (
    captions,
    embeddings,
    encode,
    index,
    large_pool,
    makespan,
    overhead,
    page,
    pixels,
    planning,
    resume,
    sandbox_images,
    scan,
    set_distances,
)
from docs.bench.machine import facts
from docs.bench.measure import Result, Size

ROWS: dict[str, Callable[[Size], Result]] = {
    "C1": encode.measure,
    "C2": pixels.measure,
    "C3": overhead.measure,
    "C4": makespan.measure,
    "C6": resume.measure,
    "C7": planning.measure,
    "C8": embeddings.measure,
    "C9": captions.measure,
    "C10": scan.measure,
    "C11": index.measure,
    "C14": sandbox_images.measure,
    "C15": large_pool.measure,
    "C16": set_distances.measure,
}
RETRIEVAL = ("C9", "C10", "C11", "C15")
HOME = Path(__file__).resolve().parents[1]
NUMBERS = "data/bench_cpu.json"


def command_of(row: str) -> str:
    """What measures the row."""
    return "make bench-retrieve" if row in RETRIEVAL else "make bench"


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m docs.bench.cpu", description="Time the CPU side, side by side.")
    usual = ",".join(name for name in ROWS if name not in RETRIEVAL)
    parser.add_argument("--rows", default=usual, help=f"some of {','.join(ROWS)}; {usual} by default")
    parser.add_argument("--quick", action="store_true", help="everything in miniature; judges and writes nothing")
    parser.add_argument("--out", type=Path, help=f"folder of {page.PAGE} and {NUMBERS} (default: docs)")
    parser.add_argument("--scratch", type=Path, help="folder for what is written and timed (default: the system's)")
    chosen = parser.parse_args(arguments)
    begun = time.perf_counter()
    names = chosen.rows.split(",")
    unknown = [name for name in names if name not in ROWS]
    if unknown:
        parser.error(f"--rows: found {','.join(unknown)}, expected some of {','.join(ROWS)}")
    size = Size(chosen.quick, chosen.scratch)
    where = {"quick": chosen.quick, **facts(chosen.scratch or Path(tempfile.gettempdir()))}
    out = chosen.out or (None if chosen.quick else HOME)
    met = True
    for name in names:
        result = ROWS[name](size)
        print(page.section(name, result, where), end="\n\n", flush=True)
        if out is not None:  # after every row, so that an interrupted run keeps what it measured
            page.write(out, NUMBERS, command_of(name), {name: result}, where)
        print(f"({time.perf_counter() - begun:.0f} s since the start)", file=sys.stderr, flush=True)
        met &= all(verdict.met is not False for verdict in result.verdicts)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
