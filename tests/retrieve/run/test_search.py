"""The search of a pool of made-up vectors, without pictures: what its scores and its tables decide."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.process.stop_flag import StopFlag
from gen.model.clip import Clip, ClipSpec
from retrieve.pool.embeddings import Embeddings
from retrieve.pool.pool import open_pool
from retrieve.run import search
from retrieve.run.recipe import RetrieveRecipe
from sandbox.world import CLASS_NAMES
from shards.disk.home import home
from shards.disk.store import FolderStore
from shards.labels.classes import load_classes
from tests.support.small_pool import write_table

CLIP = ClipSpec(model=str(home() / "sandbox" / "models" / "clip"), device="cpu")
ROWS = 60  # six a class


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    """float16 (rows, D), of length 1: around the text of the class that the caption names, and one of zeros."""
    texts = Clip.load(CLIP).embed_texts([f"{name}, the handwritten numeral" for name in CLASS_NAMES])
    noise = np.random.default_rng(0).normal(size=(ROWS, texts.shape[1])) / np.sqrt(texts.shape[1])
    found = np.repeat(texts, ROWS // len(texts), axis=0) + noise
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    found[7] = 0
    return found.astype(np.float16)


def write_pool(folder: Path, vectors: np.ndarray | None = None, **columns: Sequence[object]) -> Path:
    captions = [f"the {name} of row {row}" for row, name in enumerate(np.repeat(CLASS_NAMES, ROWS // 10))]
    write_table(folder / "0.parquet", caption=captions, **columns)
    if vectors is not None:
        (folder / "img_emb").mkdir()
        np.save(folder / "img_emb" / "0.npy", vectors)
    return folder


def searched(folder: Path) -> tuple[pa.Table, dict[str, int]]:
    """The candidates, and how many rows went for which reason."""
    has_vectors = (folder / "img_emb").exists()
    recipe = RetrieveRecipe.model_validate(
        {
            "name": "small",
            "classes": {"source": "sandbox", "per_class": 1},
            "lexicon": "sandbox",
            "meanings": {
                "choose": "given",
                "given": {name: f"{name}, the handwritten numeral" for name in CLASS_NAMES},
            },
            "pool": {"source": str(folder), "clip": CLIP.model_dump() if has_vectors else None},
            "search": {"captions": {"match": "word"}, "templates": ["{name}"]},
            "filter": {"top": 0.5 if has_vectors else None},
            "dedup": {"against": [], "near": None},
            "cluster": {"in_process": True},
        }
    )
    pool, store = open_pool(recipe.pool), FolderStore(folder)
    data, counts = search.search_pool(recipe, load_classes(recipe.classes), pool, store, None, StopFlag(), print)
    return pq.read_table(pa.BufferReader(data)), counts["reasons"]


@pytest.fixture(scope="module")
def candidates(vectors: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    """Of the pool with vectors of length 1: half of each class."""
    found, reasons = searched(write_pool(tmp_path_factory.mktemp("pool"), vectors))
    assert reasons == {"kept": 30, "low_score": 29, "no_score": 1}
    assert found["score"].to_numpy().max() < 1
    return found


def test_vectors_of_any_length_have_the_scores_of_their_directions(
    vectors: np.ndarray, candidates: pa.Table, tmp_path: Path
) -> None:
    lengths = (2.0 ** (np.arange(ROWS) % 5)).astype(np.float16)  # halves lose nothing by them
    assert searched(write_pool(tmp_path, vectors * lengths[:, None]))[0].equals(candidates)


def test_vectors_are_in_memory_a_step_at_a_time_and_decide_the_same(
    vectors: np.ndarray, candidates: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, take = [], Embeddings.take

    def noted(image: Embeddings, rows: np.ndarray) -> np.ndarray:
        asked.append(len(rows))
        return take(image, rows)

    monkeypatch.setattr(Embeddings, "take", noted)
    monkeypatch.setattr(search, "STEP", 8)
    found, _ = searched(write_pool(tmp_path, vectors))
    assert found.drop_columns("score").equals(candidates.drop_columns("score"))
    np.testing.assert_allclose(found["score"], candidates["score"], rtol=0, atol=1e-6)  # sums have another order
    assert asked == [8] * 7 + [4]


def test_rows_without_a_hash_are_no_duplicates_and_one_hash_in_two_spellings_is_one(tmp_path: Path) -> None:
    hashes = ["", "", "", "AB" * 32, "ab" * 32, "cd" * 32]
    found, reasons = searched(write_pool(tmp_path, sha256=hashes * 10))
    assert reasons == {"kept": 32, "duplicate": 28}  # three hashes less one, and each row without one
    assert sorted(set(found["sha256"].drop_null().to_pylist())) == ["ab" * 32, "cd" * 32]
    assert found["sha256"].null_count == 30
