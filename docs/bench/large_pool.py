"""C15: a pool of 20 million rows beside one of a million: is memory flat, is the rate the same?

In: made-up vectors of length 1 in half precision, made-up captions, ImageNet's class names. Out: rows a CPU second and
memory of the exact scan and of the search by caption, each in a process of its own. On disk: the pool, 22 GB, removed
again; `python -m docs.bench.large_pool FOLDER` is the process that searches captions, and prints one line of JSON.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from docs.bench.captions import captions_of, distinct_names
from docs.bench.measure import Line, Result, Size, cpu_seconds
from docs.bench.scan_side import memory
from retrieve.captions.queries import clauses_of
from retrieve.captions.search import CaptionSearch, find_in_pool
from retrieve.captions.spec import CaptionSpec
from retrieve.pool.pool import open_pool
from retrieve.pool.spec import PoolSpec
from shards.disk.home import home

SEED, DIM, K, NUM_QUERIES = 15, 512, 10, 100
DEADLINE_S = 1800
SEARCHES = {"scan": "exact scan", "captions": "search by caption"}


def measure(size: Size) -> Result:
    rows_per_file, few, many = (500, 2, 8) if size.quick else (100_000, 10, 200)
    lines: dict[tuple[str, int], Line] = {}
    found: dict[tuple[str, int], dict[str, float]] = {}
    with tempfile.TemporaryDirectory(dir=size.scratch) as scratch:
        folder = Path(scratch)
        _write(folder, 0, few, rows_per_file)
        for num_files in (few, many):
            _write(folder, few if num_files == many else num_files, num_files, rows_per_file)
            num_rows = num_files * rows_per_file
            for name, words in SEARCHES.items():
                runs = [_run(name, folder) for _ in range(1 if size.quick or num_files == many else 3)]
                rates = tuple(num_rows / run["cpu_s"] / 1e6 for run in runs)
                above = tuple((run["peak_bytes"] - run["start_bytes"]) / 1e6 for run in runs)
                lines[name, num_files] = Line(
                    f"{words}, {num_rows / 1e6:g} M rows", {"M rows/CPU s": rates, "MB above the start": above}
                )
                found[name, num_files] = {"rate": statistics.median(rates), "above": statistics.median(above)}
    rate = {name: found[name, many]["rate"] / found[name, few]["rate"] for name in SEARCHES}
    above = {name: found[name, many]["above"] / max(found[name, few]["above"], 1e-9) for name in SEARCHES}
    verdicts = []
    for name, words in SEARCHES.items():
        verdicts.append(size.judge(f"{words}: at least 0.9 of the rate", f"{rate[name]:.2f}x", rate[name] >= 0.9))
        verdicts.append(size.judge(f"{words}: at most 1.1 of the memory", f"{above[name]:.2f}x", above[name] <= 1.1))
    return Result(
        title=f"{many * rows_per_file / 1e6:g} million rows beside {few * rows_per_file / 1e6:g} million",
        method=f"{rows_per_file:,} rows a file, vectors of {DIM} random numbers in half precision, {NUM_QUERIES} "
        f"queries, k = {K}; captions as in C9, the same in each file, all class names as words; one thread.",
        anchor="the scan holds one block, the search by caption one batch, whatever the pool's size",
        predicted="memory and rates within 10 per cent of those of a million rows",
        lines=list(lines.values()),
        verdicts=verdicts,
    )


def _write(folder: Path, begin: int, end: int, num_rows: int) -> None:
    """Files `begin` to `end` of the pool, and the queries with the first of them."""
    (folder / "img_emb").mkdir(exist_ok=True)
    (folder / "metadata").mkdir(exist_ok=True)
    captions = pa.array(captions_of(num_rows, distinct_names()))
    for number in range(begin, end):
        rng = np.random.default_rng((SEED, number))
        vectors = _unit(rng.standard_normal((num_rows, DIM), np.float32))
        np.save(folder / "img_emb" / f"img_emb_{number:03d}.npy", vectors.astype(np.float16))
        table = pa.table(
            {"caption": captions, "url": [f"https://example.org/{number}/{row}" for row in range(num_rows)]}
        )
        pq.write_table(table, folder / "metadata" / f"metadata_{number:03d}.parquet")
    if not begin:
        rng = np.random.default_rng(SEED)
        np.save(folder / "queries.npy", _unit(rng.standard_normal((NUM_QUERIES, DIM), np.float32)))


def _unit(vectors: np.ndarray) -> np.ndarray:
    unit: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def _run(search: str, folder: Path) -> dict[str, float]:
    module = (
        ["docs.bench.scan_side", "sixfold", str(folder), str(K)]
        if search == "scan"
        else ["docs.bench.large_pool", str(folder)]
    )
    done = subprocess.run(
        [sys.executable, "-m", *module], cwd=home(), capture_output=True, text=True, check=True, timeout=DEADLINE_S
    )
    facts: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return facts


def main(folder: Path) -> None:
    """The search by caption, in this process."""
    start_bytes = memory("VmRSS")
    classes = distinct_names()
    search = CaptionSearch(clauses_of(classes, CaptionSpec(match="word")), "word")
    pool = open_pool(PoolSpec(source=folder), with_vectors=False)
    begun = cpu_seconds()
    matches = sum(table.num_rows for table in find_in_pool(pool, search))
    cpu_s = cpu_seconds() - begun
    print(json.dumps({"cpu_s": cpu_s, "start_bytes": start_bytes, "peak_bytes": memory("VmHWM"), "matches": matches}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
