"""C16: distances between two sets of 50,000 pictures, from features of 768 numbers, beside torchmetrics and prdc.

In: made-up features, two sets that overlap. Out: of each metric and side, in a process of its own, CPU seconds and peak
memory, and whether the sides found the same. On disk: the features, removed again.

prdc keeps whole matrices of distances in float64 (20 GB for 50,000 pictures), so it is measured with fewer.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from docs.bench.measure import Line, Result, Size
from shards.disk.home import home

SEED, DIM, SPECTRUM = 16, 768, -0.5
ROWS, PRDC_ROWS = 50_000, 10_000
MOST_BYTES = 2_000_000_000
PATIENCE_S = 1800.0
WHY_APART = {
    "kernel distance": "each side draws subsets of its own",
    "neighbours": "prdc compares distances as float32 has them",
}
CPU, MEMORY = "CPU s", "peak MB"


def measure(size: Size) -> Result:
    """Raises ValueError for a side that fails."""
    rows, fewer = (1200, 800) if size.quick else (ROWS, PRDC_ROWS)
    asked = [
        ("Frechet distance", "sixfold", rows),
        ("Frechet distance", "torchmetrics", rows),
        ("kernel distance", "sixfold", rows),
        ("kernel distance", "torchmetrics", rows),
        ("neighbours", "sixfold", fewer),
        ("neighbours", "prdc", fewer),
        ("neighbours", "sixfold", rows),
        ("CMMD", "sixfold", rows),
    ]
    if size.quick:  # enough for each kind of side
        asked = [one for one in asked if one[0] == "Frechet distance" or one[2] == fewer]
    with tempfile.TemporaryDirectory(dir=size.scratch) as scratch:
        folder = Path(scratch)
        _write(folder, rows)
        found = {one: _run(*one, folder) for one in asked}
    lines = [
        Line(f"{metric} of {num:,}, {side}", {CPU: (told["cpu_s"],), MEMORY: (told["peak_bytes"] / 1e6,)})
        for (metric, side, num), told in found.items()
    ]
    verdicts, notes = [], []
    for metric, peer, num in (one for one in asked if one[1] != "sixfold"):
        ours, theirs = found[metric, "sixfold", num], found[metric, peer, num]
        ratio = theirs["cpu_s"] / ours["cpu_s"]
        verdicts.append(size.judge(f"{metric}: at least as fast as {peer}", f"{ratio:.2f}x", ratio >= 1))
        apart = max(abs(a - b) / max(1.0, abs(b)) for a, b in zip(ours["found"], theirs["found"], strict=True))
        if metric == "Frechet distance":
            verdicts.append(size.judge(f"{metric}: equal to {peer} within 1e-6", f"{apart:.1e}", apart <= 1e-6))
        else:
            notes.append(f"{metric}: ours and {peer}'s are {apart:.1e} apart, {WHY_APART[metric]}.")
    most = max(told["peak_bytes"] for (_, side, _), told in found.items() if side == "sixfold")
    verdicts.append(size.judge("memory below 2 GB", f"{most / 1e9:.2f} GB", most < MOST_BYTES))
    return Result(
        title=f"distances between two sets of {rows:,} pictures, from features of {DIM} numbers",
        method="made-up features, two Gaussians whose spectra fall as a power law, one moved; float32; one thread; "
        "each side once, one after the other, in a process of its own. CPU time is that of the metric alone, peak "
        "memory that of the process, libraries and features (twice 154 MB) included. Kernel distance: 100 subsets of "
        "1,000. Neighbours: precision, recall, density and coverage with k = 5. torchmetrics is given features "
        "in batches of 1,000.",
        anchor="twice 59 GFLOP for the covariances, 0.5 TFLOP for the kernels of the subsets, 11.5 TFLOP for three "
        "matrices of all pairs",
        predicted="as fast as the others, in a tenth of prdc's memory",
        lines=lines,
        verdicts=verdicts,
        notes=notes,
    )


def _write(folder: Path, num_rows: int) -> None:
    rng = np.random.default_rng(SEED)
    spectrum = (1 + np.arange(DIM, dtype=np.float32)) ** np.float32(SPECTRUM)
    for name, moved, wider in (("real", 0.0, 1.0), ("made", 0.1, 1.1)):
        np.save(folder / f"{name}.npy", (rng.standard_normal((num_rows, DIM), np.float32) * wider + moved) * spectrum)


def _run(metric: str, side: str, num_rows: int, folder: Path) -> dict[str, Any]:
    module = [sys.executable, "-m", "docs.bench.set_distances_side", metric, side, str(folder), str(num_rows)]
    done = subprocess.run(
        [sys.executable, "-m", "docs.bench.child", *module],
        cwd=home(),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    if done.returncode:
        raise ValueError(f"{metric}, {side}: it ended with {done.returncode} ({done.stderr.strip()[-300:]})")
    told, used = (json.loads(line) for line in done.stdout.splitlines()[-2:])
    return {**told, "peak_bytes": used["peak_bytes"]}
