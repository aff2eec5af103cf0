"""What streaming costs, beside the ways people do it today: `make bench-stream`, or `python -m docs.bench.stream`.

In: where the pictures are kept (made once: 20,000 take four minutes and 2 GB), how many, how many rounds. Out: the
table as Markdown on standard output; exit 1 if a target is missed. On disk: docs/data/bench_stream.json, every sample
of the run, and the table of docs/BENCHMARKS.md; `--quick` runs everything in miniature and writes nothing unless told
where.

Run it on a machine that does nothing else; about 25 minutes on two cores, the pictures included.
"""

import argparse
import importlib.metadata
import sys
from collections.abc import Sequence
from pathlib import Path

from docs.bench import page, streaming, tiles
from docs.bench.machine import facts
from docs.bench.streaming import Plan

HOME = Path(__file__).resolve().parents[1]
NUMBERS, COMMAND = "data/bench_stream.json", "make bench-stream"
LIBRARIES = ("opencv-python-headless", "torchvision")


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m docs.bench.stream", description="Time streaming, side by side.")
    parser.add_argument("--pictures", type=Path, default=Path("out/bench-stream"), help="folder of the pictures")
    parser.add_argument("--count", type=int, default=20_000, help="how many pictures (default: 20000)")
    parser.add_argument("--rounds", type=int, default=5, help="how often each side runs (default: 5)")
    parser.add_argument("--litdata-python", type=Path, help="interpreter of an environment that has litdata")
    parser.add_argument("--quick", action="store_true", help="200 pictures, one round; judges nothing")
    parser.add_argument("--out", type=Path, help=f"folder of {page.PAGE} and {NUMBERS} (default: docs)")
    chosen = parser.parse_args(arguments)
    count, rounds = (200, 1) if chosen.quick else (chosen.count, chosen.rounds)
    folder: Path = chosen.pictures / str(count)
    tiles.make_tiles(folder, count, per_shard=100 if chosen.quick else 1000)
    where = {"quick": chosen.quick, **facts(folder)}
    where["versions"] |= {name: importlib.metadata.version(name) for name in LIBRARIES}
    result = streaming.measure(Plan(folder, count, rounds, chosen.quick, chosen.litdata_python))
    print(page.section("S1", result, where), flush=True)
    out = chosen.out or (None if chosen.quick else HOME)
    if out is not None:
        page.write(out, NUMBERS, COMMAND, {"S1": result}, where)
    return 0 if all(verdict.met is not False for verdict in result.verdicts) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
