"""How the nearest vectors of a query are found: by an index that is there, or by a scan of all.

In: the vectors of a pool, what was said of an index, queries. Out: `Nearest`. On disk: only reads.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np

from cluster.process.machine import usable_cores
from retrieve.index.index import Index, has_index, open_index
from retrieve.index.output import FOLDER
from retrieve.pool.embeddings import MODALITIES, Modality
from retrieve.pool.pool import Pool
from retrieve.scan.nearest import Nearest
from retrieve.scan.scan import Kept, exact_scan
from shards.disk.address import file_path

Named = Path | Literal["auto", "none"]  # auto: the index beside the vectors, where there is one


def open_indexes(pool: Pool, named: Named, model_digest: str) -> dict[Modality, Index]:
    """The indexes that are used; a modality without one is scanned. Raises ValueError for a folder that was named and
    has none, and for an index that is damaged, or of other vectors, or of another model."""
    if named == "none":
        return {}
    folder = file_path(pool.spec.embeddings or pool.spec.source) / FOLDER if named == "auto" else Path(named)
    found: dict[Modality, Index] = {}
    for modality in MODALITIES:
        embeddings = pool.embeddings(modality)
        if embeddings is not None and has_index(folder, modality):
            found[modality] = open_index(
                folder, modality, embeddings, model_digest=model_digest, threads=usable_cores()
            )
    if not found and named != "auto":
        raise ValueError(f"--index {folder}: found no index of `sixfold index`, expected one; build it, or take `none`")
    return found


def route_text(index: Index | None) -> str:
    """For people."""
    if index is None or index.record is None:
        return "the exact scan"
    return f"an index ({index.record.decides.factory}, recall@10 {index.record.measured.recall:.3f})"


def nearest_rows(
    pool: Pool,
    modality: Modality,
    index: Index | None,
    queries_QD: np.ndarray,
    k: int,
    kept: Kept,
    tick: Callable[[], None],
) -> Nearest:
    """The k nearest of each query among the rows that may leave. `tick` is called before a search by index, and
    after each block of a scan; it ends the search by what it raises."""
    if index is not None:
        return index.search(queries_QD, k, kept, go_on=tick)
    embeddings = pool.embeddings(modality)
    assert embeddings is not None
    return exact_scan(embeddings, queries_QD, k, kept=kept, progress=lambda done, of: tick())
