"""C11 and C12: an index of embeddings, beside autofaiss and the libraries of graphs: `python -m docs.bench.index`.

In: made-up vectors around centres, or those of a pool (`--pool out/pool`). Out: of each side, in a process and an
environment of its own, CPU seconds of the build, bytes a vector, recall@10, queries a CPU second at recall >= .95. On
disk: the vectors and the indexes, removed again; `.peers/` with the environments of the others (`docs.bench.peers`).

A side that is not done after ten minutes is stopped. `make bench-retrieve` takes 50,000 vectors; more:

    python -m docs.bench.index --rows 200000
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from docs.bench import page
from docs.bench.index_side import SIDES
from docs.bench.machine import facts
from docs.bench.measure import Line, Result, Size, Verdict
from docs.bench.peers import python_of
from retrieve.pool.embeddings import Embeddings, open_embeddings
from retrieve.scan.scan import exact_scan
from shards.disk.home import home

SEED, DIM, K, NUM_CENTRES, SPECTRUM = 11, 512, 10, 1000, -0.3
NUM_QUERIES = 1000
BYTES_A_VECTOR = 700
RECALL = 0.95
FILE_ROWS = 100_000
SEARCH_S = 1.0  # CPU time of the searches of a setting
PATIENCE_S = 600.0  # then a side is stopped; autofaiss tunes for longer
ENVIRONMENTS = {"autofaiss-free": "autofaiss", "usearch16": "usearch"}
BUILD, WEIGHT, RATE, BEST = "build CPU s", "bytes a vector", "queries/CPU s at recall .95", "best recall@10"


def measure(
    size: Size,
    num_rows: int = 50_000,
    sides: Sequence[str] = tuple(SIDES),
    pool: Path | None = None,
    search_s: float = SEARCH_S,
) -> Result:
    """`pool` None: made-up vectors; `search_s`: CPU seconds that each setting of a side is asked for. Raises ValueError
    for a side whose environment cannot be made."""
    num_rows, num_queries = (1500, 50) if size.quick else (num_rows, NUM_QUERIES)
    with tempfile.TemporaryDirectory(dir=size.scratch) as scratch:
        folder = Path(scratch)
        num_rows, dim, what = _write(folder, num_rows, pool, num_queries)
        found = {side: _run(side, folder, 0.01 if size.quick else search_s) for side in sides}
    lines, notes = [], []
    for side, told in found.items():
        if told["stopped"]:
            lines.append(Line(f"{side}, stopped: not done", {BUILD: (told["build_s"],)}))
            continue
        name = f"{side} {told['version']}, {told['kind']}" if side != "sixfold" else f"sixfold, {told['kind']}"
        best = max(point["recall"] for point in told["points"])
        good = [point for point in told["points"] if point["recall"] >= RECALL]
        fastest = max(good, key=lambda point: point["rate"]) if good else None
        lines.append(
            Line(
                name,
                {
                    BUILD: (told["build_s"],),
                    WEIGHT: (told["bytes"] / num_rows,),
                    RATE: (fastest["rate"] if fastest else 0.0,),
                    BEST: (best,),
                },
            )
        )
        curve = "; ".join(f"{one['setting']}: {one['recall']:.3f}, {one['rate']:,.0f}/s" for one in told["points"])
        notes.append(f"{side}: {curve}" + (f"; tuning {told['tuning_s']:.1f} CPU s" if "tuning_s" in told else ""))
    return Result(
        title=f"an index of {num_rows:,} vectors of {dim} numbers, {K} neighbours, {num_queries:,} queries",
        method=f"{what}; one thread; each side once, in a process of its own; graphs have 16 links and 128 candidates "
        f"while they are built; sixfold and autofaiss may use {BYTES_A_VECTOR} bytes a vector, autofaiss-free as many "
        "as its graph needs. Build time includes learning and saving; of autofaiss its tuning too, which it does not "
        "tell apart. Of the settings that reach the recall the fastest counts; 0: none does.",
        anchor="at 100,000 vectors: 3 s and 608 bytes for RaBitQ with a byte a number, 51 s for autofaiss, which took "
        "a graph; queries/s a core at .95: 5,450 of FAISS' HNSW, 4,400 of hnswlib, 2,960 of voyager, 2,160 of usearch",
        predicted="built more than 10 times faster than autofaiss; graphs answer more queries",
        lines=lines,
        ratio_of=BUILD,
        verdicts=_verdicts(size, found, num_rows),
        notes=notes,
    )


def _verdicts(size: Size, found: dict[str, Any], num_rows: int) -> list[Verdict]:
    if "sixfold" not in found or found["sixfold"]["stopped"]:
        return []
    ours = found["sixfold"]
    best, weight = max(point["recall"] for point in ours["points"]), ours["bytes"] / num_rows
    verdicts = [
        size.judge(
            f"recall@10 of at least .95 in at most {BYTES_A_VECTOR} bytes a vector",
            f"{best:.3f}, {weight:.0f} bytes",
            best >= RECALL and weight <= BYTES_A_VECTOR,
        )
    ]
    for peer in ("autofaiss", "autofaiss-free"):
        if peer in found:
            ratio = found[peer]["build_s"] / ours["build_s"]
            more = "more than " if found[peer]["stopped"] else ""
            target = f"built at least 10 times faster than {peer}"
            verdicts.append(size.judge(target, f"{more}{ratio:.1f}x", ratio >= 10))
    return verdicts


def _write(folder: Path, num_rows: int, pool: Path | None, num_queries: int) -> tuple[int, int, str]:
    """The vectors as a pool and as one matrix, queries, truth; (rows, numbers, what they are)."""
    rng = np.random.default_rng(SEED)
    if pool is None:
        vectors, queries = _made_up(num_rows, num_queries, rng)
        what = f"made-up vectors around {NUM_CENTRES:,} centres whose spectrum falls as a power law"
    else:
        vectors = _usable(_opened(pool, "image"))
        texts = open_embeddings(pool, "text")
        if texts is not None:
            queries = _usable(texts)
            queries = queries[rng.permutation(len(queries))[:num_queries]]
            what = f"the pictures of {pool.name}, and captions as queries"
        else:
            queries = vectors[rng.permutation(len(vectors))[:num_queries]]
            queries = _unit(queries + 0.5 * _unit(rng.standard_normal(queries.shape, np.float32)))
            what = f"the pictures of {pool.name}, and the same moved by 0.5 as queries"
    (folder / "img_emb").mkdir()
    for number, start in enumerate(range(0, len(vectors), FILE_ROWS)):
        np.save(folder / "img_emb" / f"img_emb_{number:03d}.npy", vectors[start : start + FILE_ROWS].astype(np.float16))
    pq.write_table(pa.table({"caption": pa.array([""] * len(vectors))}), folder / "0.parquet")
    stored = _opened(folder, "image")
    np.save(folder / "vectors.npy", vectors.astype(np.float16).astype(np.float32))
    np.save(folder / "queries.npy", queries)
    np.save(folder / "truth.npy", exact_scan(stored, queries, K).rows)
    return len(vectors), vectors.shape[1], what


def _made_up(num_rows: int, num_queries: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    spectrum = (1 + np.arange(DIM, dtype=np.float32)) ** np.float32(SPECTRUM)
    centres = rng.standard_normal((NUM_CENTRES, DIM), np.float32)

    def around(num: int) -> np.ndarray:
        mine = centres[rng.integers(0, NUM_CENTRES, num)]
        return _unit((mine + rng.standard_normal((num, DIM), np.float32)) * spectrum)

    return np.concatenate([around(num) for num in _pieces(num_rows)]), around(num_queries)


def _pieces(num_rows: int) -> list[int]:
    return [min(FILE_ROWS, num_rows - start) for start in range(0, num_rows, FILE_ROWS)]


def _unit(vectors: np.ndarray) -> np.ndarray:
    unit: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit.astype(np.float32)


def _usable(embeddings: Embeddings) -> np.ndarray:
    vectors = embeddings.take(np.arange(embeddings.num_rows))
    return _unit(vectors[vectors.any(axis=1)])


def _opened(folder: Path, modality: Any) -> Embeddings:
    found = open_embeddings(folder, modality)
    if found is None:
        raise ValueError(f"{folder}: found no {modality} vectors; make them with `sixfold embed`")
    return found


def _run(side: str, folder: Path, search_s: float) -> dict[str, Any]:
    python = Path(sys.executable) if side == "sixfold" else python_of(ENVIRONMENTS.get(side, side))
    program = str(home() / "docs" / "bench" / "index_side.py")
    command = [str(python), program, side, str(folder), str(BYTES_A_VECTOR), str(search_s)]
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    try:
        done = subprocess.run(
            command, cwd=folder, env=clean, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
    except subprocess.TimeoutExpired:
        return {"stopped": True, "build_s": PATIENCE_S}
    if done.returncode:
        raise ValueError(f"{side}: it ended with {done.returncode} ({done.stderr.strip()[-300:]})")
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {"stopped": False, **told}


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m docs.bench.index", description="Time indexes, side by side.")
    parser.add_argument("--rows", type=int, default=50_000, help="made-up vectors (default: 50000)")
    parser.add_argument("--sides", default=",".join(SIDES), help=f"some of {','.join(SIDES)}; all by default")
    parser.add_argument("--pool", type=Path, help="a pool whose pictures' vectors are indexed instead")
    parser.add_argument("--seconds", type=float, default=SEARCH_S, help="that each setting is asked for (default: 1)")
    parser.add_argument("--quick", action="store_true", help="in miniature; judges nothing")
    parser.add_argument("--scratch", type=Path, help="folder for vectors and indexes (default: the system's)")
    chosen = parser.parse_args(arguments)
    sides = chosen.sides.split(",")
    if unknown := [side for side in sides if side not in SIDES]:
        parser.error(f"--sides: found {','.join(unknown)}, expected some of {','.join(SIDES)}")
    result = measure(Size(chosen.quick, chosen.scratch), chosen.rows, sides, chosen.pool, chosen.seconds)
    where = {"quick": chosen.quick, **facts(chosen.scratch or Path(tempfile.gettempdir()))}
    print(page.section("C11", result, where))
    return 0 if all(verdict.met is not False for verdict in result.verdicts) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
