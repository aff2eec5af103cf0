"""One side of C10 in a process of its own: `python -m docs.bench.scan_side SIDE FOLDER K`.

In: the embeddings and `queries.npy` of a folder. Out: one line of JSON: CPU seconds of the search, the memory of the
process at its start and at its peak, what was found. On disk: only reads.
"""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np

from docs.bench.measure import cpu_seconds
from retrieve.pool.embeddings import Embeddings, open_embeddings
from retrieve.scan.scan import exact_scan

Found = tuple[np.ndarray, np.ndarray]  # scores, rows
Search = Callable[[], Found]
WARM_ROWS = 100
BLOCK_ROWS = 8192


def main(side: str, folder: Path, k: int) -> None:
    _start(side)
    start_bytes = memory("VmRSS")
    embeddings = open_embeddings(folder, "image")
    assert embeddings is not None
    search = SIDES[side](embeddings, np.load(folder / "queries.npy"), k)
    begun = cpu_seconds()
    scores, rows = search()
    cpu_s = cpu_seconds() - begun
    facts = {"cpu_s": cpu_s, "start_bytes": start_bytes, "peak_bytes": memory("VmHWM")}
    print(json.dumps({**facts, "rows": rows.tolist(), "scores": scores.tolist()}))


def _start(side: str) -> None:
    """Loads the side's library, on one thread, and lets it build what it builds at its first use."""
    if side == "faiss":
        import faiss

        faiss.omp_set_num_threads(1)
    else:
        import torch

        torch.set_num_threads(1)
        warm = torch.ones(WARM_ROWS, WARM_ROWS)
        (warm @ warm + (warm.bfloat16() @ warm.bfloat16()).float()).topk(1)


def memory(name: Literal["VmRSS", "VmHWM"]) -> int:
    """Bytes of this process: now, or at their peak."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    assert found is not None
    return int(found[1]) * 1024


def _ours(embeddings: Embeddings, queries: np.ndarray, k: int) -> Search:
    def run() -> Found:
        found = exact_scan(embeddings, queries, k)
        return found.scores, found.rows

    return run


def _ours_in_float32(embeddings: Embeddings, queries: np.ndarray, k: int) -> Search:
    def run() -> Found:
        found = exact_scan(embeddings, queries, k, rough="float32")
        return found.scores, found.rows

    return run


def _faiss(embeddings: Embeddings, queries: np.ndarray, k: int) -> Search:
    import faiss

    index = faiss.IndexFlatIP(embeddings.dim)
    index.codes.resize(embeddings.num_rows * index.code_size)  # room for all: else its array doubles as it grows
    index.codes.resize(0)
    for _, block in embeddings.blocks(BLOCK_ROWS):
        index.add(block.astype(np.float32))

    def run() -> Found:
        scores, rows = index.search(queries, k)
        return scores, rows

    return run


def _torch(embeddings: Embeddings, queries: np.ndarray, k: int) -> Search:
    import torch

    asked = torch.from_numpy(queries)

    def run() -> Found:
        scores = torch.full((len(asked), k), -torch.inf)
        rows = torch.full((len(asked), k), -1)
        for first, block in embeddings.blocks(BLOCK_ROWS):
            best = (asked @ torch.from_numpy(block.astype(np.float32)).T).topk(min(k, len(block)), dim=1)
            scores, place = torch.cat([scores, best.values], 1).topk(k, dim=1)
            rows = torch.cat([rows, best.indices + first], 1).gather(1, place)
        return scores.numpy(), rows.numpy()

    return run


SIDES: dict[str, Callable[[Embeddings, np.ndarray, int], Search]] = {
    "sixfold": _ours,
    "sixfold32": _ours_in_float32,
    "faiss": _faiss,
    "torch": _torch,
}

if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
