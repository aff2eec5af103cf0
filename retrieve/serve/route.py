"""How the nearest vectors of a query are found: the one place where a server chooses.

In: the vectors of a pool, queries. Out: `Nearest`. On disk: only reads.
"""

from collections.abc import Callable

import numpy as np

from retrieve.pool.embeddings import Embeddings
from retrieve.scan.nearest import Nearest
from retrieve.scan.scan import Kept, exact_scan


def nearest_rows(
    embeddings: Embeddings, queries_QD: np.ndarray, k: int, kept: Kept, tick: Callable[[], None]
) -> Nearest:
    """The k nearest of each query among the rows that may leave, by a scan of all vectors. `tick` is called after each
    file, and ends the search by what it raises."""
    return exact_scan(embeddings, queries_QD, k, kept=kept, progress=lambda done, of: tick())
