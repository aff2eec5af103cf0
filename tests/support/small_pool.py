"""A pool of a few rows, written as others write theirs."""

import io
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gen.make.refill import ShardSpec, UnitJob
from retrieve.make.rows import RetrieveJob
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
    """One grey picture a key; the bytes of the pictures."""
    pictures = {
        key: encode_jpeg(np.full((16, 16, 3), shade, np.uint8), source_type=None) for key, shade in shades.items()
    }
    write_tar_of(path, pictures)
    return pictures


def write_tar_of(path: Path, pictures: Mapping[str, bytes]) -> None:
    """Key -> bytes of a picture; each has a caption beside it."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for key, picture in pictures.items():
            for suffix, data in ((".jpg", picture), (".txt", b"grey")):
                member = tarfile.TarInfo(key + suffix)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def pool_of(folder: Path, **fields: object) -> Pool:
    """The pool in a folder."""
    return open_pool(PoolSpec.model_validate({"source": str(folder), **fields}))


def retrieve_job(num_per_class: dict[int, int], most_folds: int, max_draws: int = 3, **fields: object) -> RetrieveJob:
    """A job whose pool and output the fields name."""
    unit = UnitJob(
        out=str(fields.pop("out", "nowhere")),
        fingerprint="0" * 64,
        shards=ShardSpec(samples_per_shard=4, max_draws=max_draws),
    )
    told = {"seed": 0, "pool": {"source": "nowhere"}, "size_px": None, "licence": None, **fields}
    names = {class_id: f"class {class_id}" for class_id in num_per_class}
    return RetrieveJob.model_validate(
        {"unit": unit, "num_per_class": num_per_class, "class_names": names, "most_folds": most_folds, **told}
    )
