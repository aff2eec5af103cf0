"""C10: exact search by embedding, beside FAISS' exact index and a loop of torch.

In: made-up embeddings of length 1, in half precision, as clip-retrieval writes them. Out: GFLOP a CPU second and peak
memory of each side, each in a process of its own; whether they find the same rows. On disk: the embeddings, removed
again.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from docs.bench.measure import Line, Result, Size
from shards.disk.home import home

SEED, DIM, K, NUM_CLUSTERS = 10, 512, 10, 1000
REPEATS = 3
DEADLINE_S = 900
SIDES = {
    "sixfold": "sixfold",
    "sixfold32": "sixfold, told to use float32",
    "faiss": "FAISS IndexFlatIP",
    "torch": "torch, float32 blocks and topk",
}


def measure(size: Size) -> Result:
    num_files, num_rows, num_queries = (2, 2000, 20) if size.quick else (20, 100_000, 500)
    with tempfile.TemporaryDirectory(dir=size.scratch) as scratch:
        _write(Path(scratch), num_files, num_rows, num_queries)
        runs: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
        for _ in range(1 if size.quick else REPEATS):
            for side, some in runs.items():  # in turn, and never two at once: FAISS holds 4 GB
                some.append(_run(side, Path(scratch)))
    flop = 2e-9 * num_files * num_rows * num_queries * DIM
    lines = [
        Line(
            SIDES[side],
            {
                "GFLOP/CPU s": tuple(flop / one["cpu_s"] for one in some),
                "MB above the start": tuple((one["peak_bytes"] - one["start_bytes"]) / 1e6 for one in some),
                "peak MB": tuple(one["peak_bytes"] / 1e6 for one in some),
            },
        )
        for side, some in runs.items()
    ]
    middle = {
        side: {name: statistics.median(samples) for name, samples in line.figures.items()}
        for side, line in zip(SIDES, lines, strict=True)
    }
    speed = middle["sixfold"]["GFLOP/CPU s"] / middle["faiss"]["GFLOP/CPU s"]
    memory = middle["sixfold"]["MB above the start"] / middle["faiss"]["MB above the start"]
    ours, theirs = (np.array(runs[side][0]["rows"]) for side in ("sixfold", "faiss"))
    wanted = np.array(runs["sixfold"][0]["scores"]), np.array(runs["faiss"][0]["scores"])
    off = float(np.abs(wanted[0] - wanted[1]).max())
    return Result(
        title=f"the {K} nearest of {num_files * num_rows:,} vectors for {num_queries} queries",
        method=f"vectors of {DIM} numbers around {NUM_CLUSTERS:,} centres, float16 in {num_files} files, "
        f"{2e-9 * num_files * num_rows * DIM:.1f} GB; k = {K}, one thread. GFLOP are those of the plain product, "
        "whatever a side computes; CPU time is that of the search alone: reading is in ours and torch's, filling the "
        "index is not in FAISS', which has room for all rows before the first. The start is the process with its "
        "libraries, before it opens anything.",
        anchor="50 to 85 GFLOP/s a core of FAISS' Flat, less beside other programs",
        predicted="above 100 GFLOP/s where the processor has AMX, as FAISS elsewhere; 100 MB",
        lines=lines,
        ratio_of="GFLOP/CPU s",
        verdicts=[
            size.judge("at least 0.8 of FAISS' speed", f"{speed:.2f}x", speed >= 0.8),
            size.judge("at most a tenth of FAISS' memory, above the start", f"{memory:.3f}x", memory <= 0.1),
            size.judge(
                "the scores that FAISS finds, within 1e-6",
                f"off by at most {off:.1e}; {(ours == theirs).mean():.3%} of the rows at the same place",
                off <= 1e-6,
            ),
        ],
    )


def _write(folder: Path, num_files: int, num_rows: int, num_queries: int) -> None:
    rng = np.random.default_rng(SEED)
    centres = rng.standard_normal((NUM_CLUSTERS, DIM), np.float32)
    (folder / "img_emb").mkdir()
    for number in range(num_files):
        np.save(folder / "img_emb" / f"img_emb_{number:02d}.npy", _around(centres, num_rows, rng).astype(np.float16))
    np.save(folder / "queries.npy", _around(centres, num_queries, rng))


def _around(centres: np.ndarray, num: int, rng: np.random.Generator) -> np.ndarray:
    vectors = centres[rng.integers(0, len(centres), num)] + rng.standard_normal((num, DIM), np.float32)
    unit: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def _run(side: str, folder: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "docs.bench.scan_side", side, str(folder), str(K)]
    done = subprocess.run(command, cwd=home(), capture_output=True, text=True, check=True, timeout=DEADLINE_S)
    facts: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return facts
