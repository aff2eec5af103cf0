"""A look at an index of others in a process of its own: `python -m retrieve.index.probe FILE`.

In: a file of FAISS. Out: one line of JSON: vectors, numbers of a vector, metric. On disk: only reads. The process may
use little more memory than the file is large, and has a deadline: a file that was made to crash FAISS, to fill the
memory or never to end takes this process with it and not the one that asks.
"""

import json
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from shards.disk.checked_json import plain_json
from shards.disk.home import home
from shards.disk.safe_text import for_screen

MEMORY_BYTES = 4 << 30  # beside the file, for the libraries and a search
FILE_TIMES = 3  # the file mapped, and what is copied of it
DEADLINE_S = 600
MOST_OUTPUT = 10_000


@dataclass(frozen=True)
class Told:
    """What an index of others says of itself, after one search went well."""

    dim: int
    count: int
    inner_product: bool


def foreign_flags() -> int:
    """How files of others are opened: mapped, and lists in a file of their own only if that lies beside the index."""
    import faiss

    return int(faiss.IO_FLAG_MMAP | faiss.IO_FLAG_ONDISK_SAME_DIR)


def probed(path: Path) -> Told:
    """Raises ValueError in one line if the file cannot be read, or one search in it fails."""
    command = [sys.executable, "-m", "retrieve.index.probe", str(path.absolute())]
    bad = f"{path}: FAISS cannot read it"
    try:
        done = subprocess.run(command, cwd=home(), capture_output=True, timeout=DEADLINE_S, check=False)
    except subprocess.TimeoutExpired:
        raise ValueError(f"{bad} within {DEADLINE_S} s; fetch the index again") from None
    if done.returncode:
        last = done.stderr.decode("utf-8", "replace").strip()[-MOST_OUTPUT:].splitlines()[-1:]
        why = f"signal {-done.returncode}" if done.returncode < 0 else for_screen(" ".join(last))[:200]
        raise ValueError(f"{bad} ({why}); fetch the index again")
    told = plain_json(done.stdout[-MOST_OUTPUT:].splitlines()[-1])
    return Told(int(told["dim"]), int(told["count"]), bool(told["inner_product"]))


def main(path: str) -> None:
    size = Path(path).stat().st_size
    limit = FILE_TIMES * size + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    import faiss
    import numpy as np

    faiss.omp_set_num_threads(1)
    try:
        index = faiss.read_index(path, foreign_flags())
        index.search(np.ones((1, index.d), np.float32), 1)
    except (RuntimeError, MemoryError) as error:
        sys.exit(" ".join(str(error).split())[-300:])
    facts = {
        "dim": int(index.d),
        "count": int(index.ntotal),
        "inner_product": index.metric_type == faiss.METRIC_INNER_PRODUCT,
    }
    print(for_screen(json.dumps(facts)))


if __name__ == "__main__":
    main(sys.argv[1])
