"""A pool of a few rows, written as others write theirs."""

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from retrieve.pool.pool import Pool, open_pool
from retrieve.pool.spec import PoolSpec
from shards.disk.jpeg import encode_jpeg


def write_table(path: Path, **columns: Sequence[object]) -> None:
    """A parquet file, row groups of three rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({name: list(values) for name, values in columns.items()}), path, row_group_size=3)


def write_vectors(path: Path, vectors: np.ndarray) -> None:
    """Of length 1, in half precision."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16))


def write_tar(path: Path, shades: dict[str, int]) -> dict[str, bytes]:
    """One grey picture a key with its caption; the bytes of the pictures."""
    pictures = {}
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for key, shade in shades.items():
            pictures[key] = encode_jpeg(np.full((16, 16, 3), shade, np.uint8), source_type=None)
            for suffix, data in ((".jpg", pictures[key]), (".txt", b"grey")):
                member = tarfile.TarInfo(key + suffix)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return pictures


def pool_of(folder: Path, **fields: object) -> Pool:
    """The pool in a folder."""
    return open_pool(PoolSpec.model_validate({"source": str(folder), **fields}))
