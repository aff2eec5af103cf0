"""A pool of made-up vectors around centres, some of them zeros, with a table of captions."""

from pathlib import Path

import numpy as np

from retrieve.index.spec import IndexSpec
from shards.disk.checked_json import to_checked
from tests.support.small_pool import write_table

DIM = 32
MODEL_DIGEST = "a" * 64


def unit(vectors: np.ndarray) -> np.ndarray:
    """Of length 1, float32."""
    whole: np.ndarray = (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)
    return whole


def clustered(rng: np.random.Generator, num: int, dim: int = DIM, centres: int = 30) -> np.ndarray:
    """float32 (num, dim), of length 1."""
    places = rng.normal(size=(centres, dim))
    return unit(places[rng.integers(0, centres, num)] + 0.7 * rng.normal(size=(num, dim)))


def write_pool(folder: Path, *files: np.ndarray, modality: str = "image", zero_every: int = 0) -> Path:
    """A file of vectors for each array, and a table of as many rows; every so many rows are zeros."""
    name = {"image": "img_emb", "text": "text_emb"}[modality]
    (folder / name).mkdir(parents=True, exist_ok=True)
    at = 0
    for number, vectors in enumerate(files):
        halves = vectors.astype(np.float16)
        if zero_every:
            halves[(np.arange(at, at + len(halves)) % zero_every) == 0] = 0
        np.save(folder / name / f"{name}_{number:02d}.npy", halves)
        at += len(halves)
    write_table(folder / "0.parquet", caption=[f"caption {row}" for row in range(at)])
    about = {"model": "a made-up model", "model_digest": MODEL_DIGEST, "modalities": {modality: {}}}
    (folder / "embeddings.json").write_bytes(to_checked(about))
    return folder


def index_spec(folder: Path, **fields: object) -> IndexSpec:
    """A build in this process."""
    plain: dict[str, object] = {"pool": {"source": str(folder)}, "cluster": {"in_process": True, "attempts": 1}}
    return IndexSpec.model_validate({"queries": 50, **plain, **fields})
