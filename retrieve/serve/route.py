"""How the nearest vectors of a query are found: the one place where a server chooses.

In: the vectors of a pool, an index of them if there is one, queries. Out: `Nearest`. On disk: only reads.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from retrieve.index.index import Index, has_index, open_index
from retrieve.index.output import FOLDER
from retrieve.pool.embeddings import MODALITIES, Embeddings, Modality
from retrieve.pool.pool import Pool
from retrieve.scan.nearest import Nearest
from retrieve.scan.scan import Kept, exact_scan
from shards.disk.address import file_path

AUTO, NONE = "auto", "none"  # the index beside the vectors if there is one; the exact scan


def open_indexes(pool: Pool, index: str, model_digest: str) -> dict[Modality, Index]:
    """`index`: AUTO, NONE or a folder. Raises ValueError for an index of other vectors or another model, for a damaged
    one, and for a folder that has none."""
    if index == NONE:
        return {}
    folder = file_path(pool.spec.embeddings or pool.spec.source) / FOLDER if index == AUTO else Path(index)
    found: dict[Modality, Index] = {}
    for modality in MODALITIES:
        embeddings = pool.embeddings(modality)
        if embeddings is not None and has_index(folder, modality):
            found[modality] = open_index(folder, modality, embeddings, model_digest=model_digest)
    if not found and index != AUTO:
        raise ValueError(f"--index {index}: found no index of `sixfold index` for this pool; build it, or give `none`")
    return found


def nearest_rows(
    embeddings: Embeddings,
    index: Index | None,
    queries_QD: np.ndarray,
    k: int,
    kept: Kept,
    tick: Callable[[], None],
) -> Nearest:
    """The k nearest of each query among the rows that may leave: by the index, or by a scan of all vectors. `tick` is
    called after each file of a scan, and ends the search by what it raises."""
    if index is not None:
        return index.search(queries_QD, k, kept=kept)
    return exact_scan(embeddings, queries_QD, k, kept=kept, progress=lambda done, of: tick())
