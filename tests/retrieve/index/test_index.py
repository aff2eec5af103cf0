"""An index is opened only if it is whole and belongs to these vectors, and gives what the exact scan would rank."""

import os
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cluster.process.exit import Draining
from cluster.process.stop_flag import StopFlag
from retrieve.index.build import plan, run
from retrieve.index.index import Index, has_index, open_index
from retrieve.index.measure import recall_of
from retrieve.index.output import Setting
from retrieve.pool.embeddings import Embeddings, open_embeddings
from retrieve.scan.scan import exact_scan
from shards.disk.checked_json import parse_checked, to_checked
from shards.disk.regular import sha256_of
from tests.support.clustered_pool import DIM, MODEL_DIGEST, clustered, index_spec, unit, write_pool

ROWS = 2000
LISTS = "IVF16,RaBitQfs,Refine(SQ8)"


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return clustered(np.random.default_rng(5), ROWS)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, vectors: np.ndarray) -> Path:
    """A pool and its index; nobody changes them."""
    pool = write_pool(tmp_path_factory.mktemp("made") / "pool", vectors[:900], vectors[900:], zero_every=9)
    assert run(plan(index_spec(pool, factory=LISTS), None), StopFlag(), [].append).exit_code == 0
    return pool


@pytest.fixture
def pool(tmp_path: Path, made: Path) -> Path:
    """A copy that a test may damage."""
    for path in made.rglob("*"):
        if path.is_file() and not path.name.endswith(".lock"):
            target = tmp_path / "pool" / path.relative_to(made)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return tmp_path / "pool"


def embeddings_of(pool: Path) -> Embeddings:
    found = open_embeddings(pool, "image")
    assert found is not None
    return found


def opened(pool: Path, **fields: object) -> Index:
    return open_index(pool / "index", "image", embeddings_of(pool), **fields)  # type: ignore[arg-type]


def refused(pool: Path, line: str, **fields: object) -> None:
    with pytest.raises(ValueError, match=line) as error:
        opened(pool, **fields)
    assert "\n" not in str(error.value)


def change_record(pool: Path, **changes: object) -> None:
    path = pool / "index" / "_meta" / "index_image.json"
    body = parse_checked(path.read_bytes(), "x")
    body.pop("checksum")
    body["decides"].update({name: value for name, value in changes.items() if name in body["decides"]})
    body.update({name: value for name, value in changes.items() if name not in body["decides"]})
    path.write_bytes(to_checked(body))


def test_a_search_does_not_depend_on_what_else_is_asked_or_on_threads(made, vectors):
    index, queries = opened(made), unit(vectors[:700] + 0.1)
    whole = index.search(queries, 7)
    for some in (slice(0, 1), slice(250, 262), slice(699, 700)):
        part = index.search(queries[some], 7)
        assert np.array_equal(part.rows, whole.rows[some])
        assert np.array_equal(part.scores, whole.scores[some])
    two = replace(index, threads=2).search(queries, 7)
    assert np.array_equal(two.rows, whole.rows)
    assert (whole.num_rows, whole.num_unusable, whole.k) == (ROWS, len(range(0, ROWS, 9)), 7)


def test_a_search_of_all_lists_finds_what_the_scan_finds(made, vectors):
    index, queries = opened(made), unit(vectors[:40] + 0.1)
    found = index.search(queries, 10, setting=Setting(nprobe=16, k_factor=64, over=4))
    truth = exact_scan(embeddings_of(made), queries, 10)
    assert np.array_equal(found.rows, truth.rows)
    assert np.array_equal(found.scores, truth.scores)


def test_an_open_index_is_a_map_of_its_file_and_no_copy(made):
    index = opened(made)
    assert index.count
    assert str(made / "index" / "image.index") in Path("/proc/self/maps").read_text()


def test_f7_more_than_there_is_nothing_at_all_and_wrong_queries_are_bounded_and_clean(made, vectors):
    index = opened(made)
    usable = ROWS - len(range(0, ROWS, 9))
    found = index.search(vectors[1:4], 10**9)
    assert found.rows.shape == found.scores.shape == (3, ROWS)
    assert ((found.rows >= 0).sum(axis=1) == usable).all()
    assert np.isneginf(found.scores[:, usable:]).all()
    assert all(len(set(row.tolist())) == usable + 1 for row in found.rows)  # each once, and -1
    none = index.search(np.empty((0, DIM), np.float32), 5)
    assert none.rows.shape == (0, 5)
    for queries, k, line in (
        (vectors[:2], 0, "k: found 0, expected at least 1"),
        (np.ones((2, 7), "f4"), 5, "found vectors of 32 numbers for queries"),
        (3 * vectors[:2], 5, "query 0: found a vector of length 3"),
        (np.full((1, DIM), np.nan, "f4"), 5, "query 0: found a vector of length nan"),
    ):
        with pytest.raises(ValueError, match=line):
            index.search(queries, k)


def test_only_rows_that_are_kept_are_found_as_in_the_scan(made, vectors):
    index, queries = opened(made), unit(vectors[1:30] + 0.05)

    def kept(first: int, num: int) -> np.ndarray:
        return np.arange(first, first + num) % 50 == 1

    wide = replace(index, setting=Setting(nprobe=16, k_factor=32, over=4))
    truth = exact_scan(embeddings_of(made), queries, 20, kept=kept)
    found = wide.search(queries, 20, kept=kept)
    assert np.isin(found.rows % 50, [1]).all()
    assert recall_of(found, truth) > 0.97
    assert (index.search(queries, 20, kept=lambda first, num: np.zeros(num, bool)).rows == -1).all()


def test_f2_a_damaged_or_a_cut_index_is_refused_before_it_is_read(pool, monkeypatch):
    import faiss

    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    monkeypatch.setattr(faiss, "read_index", lambda *_: pytest.fail("it was read"))
    path = pool / "index" / "image.index"
    whole = path.read_bytes()
    for _ in range(50):
        changed = bytearray(whole)
        changed[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        path.write_bytes(changed)
        refused(pool, "image.index: found other bytes than its record says: a damaged index; build it again")
    for size in (0, 1, rng.randrange(len(whole)), len(whole) - 1):
        path.write_bytes(whole[:size])
        refused(pool, r"image.index: found [\d,]+ bytes, expected [\d,]+: a cut index; build it again")
    path.unlink()
    refused(pool, "image.index: found no file, expected the index that its record names; build it again")
    os.mkfifo(path)
    refused(pool, "image.index: found no regular file, expected an index")


def test_f2_a_damaged_index_is_built_again_to_the_same_bytes_as_its_line_says(pool):
    path = pool / "index" / "image.index"
    whole = path.read_bytes()
    for again, recall in ((False, 0.95), (True, 0.95), (False, 0.6)):
        changed = bytearray(whole)
        changed[len(whole) // 2] ^= 1
        path.write_bytes(changed)
        refused(pool, "a damaged index; build it again with `sixfold index`")
        said: list[str] = []
        spec = index_spec(pool, factory=LISTS, recall=recall)
        assert run(plan(spec, None, again), StopFlag(), said.append).exit_code == 0
        assert "image.index: found other bytes than its record says: a damaged index; it is built again" in said[0]
        assert path.read_bytes() == whole
        assert opened(pool).record is not None


def test_a_stop_is_heard_while_the_bytes_of_an_index_are_checked(pool):
    stop, whole = StopFlag(), (pool / "index" / "image.index").read_bytes()
    stop.request("SIGTERM")
    with pytest.raises(Draining, match=r"stopped on request \(SIGTERM\)"):
        opened(pool, go_on=stop.go_on)
    with pytest.raises(Draining, match=r"stopped on request \(SIGTERM\)"):
        run(plan(index_spec(pool, factory=LISTS), None), stop, [].append)
    assert (pool / "index" / "image.index").read_bytes() == whole


def test_f2_a_changed_record_is_made_again_as_its_line_says(pool):
    path = pool / "index" / "_meta" / "index_image.json"
    whole = (pool / "index" / "image.index").read_bytes()
    path.write_bytes(path.read_bytes().replace(b'"metric": "inner', b'"metric": "outer'))
    line = r"than its checksum says.*; delete it and run `sixfold index --replace`"
    refused(pool, line)
    with pytest.raises(ValueError, match=line):
        plan(index_spec(pool, factory=LISTS), None, again=True)
    path.unlink()
    assert run(plan(index_spec(pool, factory=LISTS), None, again=True), StopFlag(), [].append).exit_code == 0
    assert (pool / "index" / "image.index").read_bytes() == whole
    assert opened(pool).record is not None


@pytest.mark.torture
def test_f2_a_thousand_mutated_indexes_are_refused_by_their_hash(pool):
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    path = pool / "index" / "image.index"
    whole = path.read_bytes()
    for _ in range(1000):
        changed = bytearray(whole)
        for _ in range(rng.randint(1, 8)):
            changed[rng.randrange(len(whole))] = rng.randrange(256)
        path.write_bytes(changed if rng.random() < 0.7 else changed[: rng.randrange(len(whole))])
        if path.read_bytes() != whole:
            refused(pool, "a damaged index|a cut index")


@pytest.mark.torture
def test_f2_mutated_indexes_of_others_never_harm_the_process_that_asks(pool):
    """A process with little memory reads them first: what it survives is read, what it does not is one line."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    (pool / "index" / "_meta" / "index_image.json").unlink()
    path = pool / "index" / "image.index"
    whole = path.read_bytes()
    said: list[str] = []
    for _ in range(40):
        changed = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            changed[rng.randrange(400)] = rng.randrange(256)  # where sizes stand
        path.write_bytes(changed)
        try:
            opened(pool, trusted=True)
        except ValueError as error:
            said.append(str(error))
    assert len(said) > 5
    assert not any("\n" in line for line in said)


def test_f3_an_index_of_other_vectors_of_the_same_shape_is_refused(pool, vectors):
    write_pool(pool, vectors[900:1800], np.concatenate([vectors[:900], vectors[1800:]]), zero_every=9)
    refused(pool, "an index of other vectors than the pool's, whose rows it would mix up; build it again")


def test_f3_an_index_and_the_record_of_another_build_are_refused(pool, vectors):
    other = write_pool(pool.parent / "other", vectors[::-1])
    assert run(plan(index_spec(other, factory=LISTS), None), StopFlag(), [].append).exit_code == 0
    (pool / "index" / "image.index").write_bytes((other / "index" / "image.index").read_bytes())
    refused(pool, "a damaged index|a cut index")


def test_f4_another_width_metric_model_or_half_a_pool_is_refused(pool, vectors):
    refused(pool, r"by the model a made-up model \(digest aaaaaaaaaaaa\), expected", model_digest="b" * 64)
    assert opened(pool, model_digest=MODEL_DIGEST).record is not None
    write_pool(pool, vectors[:900])
    (pool / "img_emb" / "img_emb_01.npy").unlink()
    refused(pool, "found an index of 2,000 rows for a pool of 900: half a pool; build it again")
    write_pool(pool, vectors[:900, :16], vectors[900:, :16])
    refused(pool, "found an index of vectors of 32 numbers, expected 16 as the pool's are")
    write_pool(pool, vectors[:900], vectors[900:], zero_every=9)
    assert opened(pool).count == ROWS - len(range(0, ROWS, 9))
    change_record(pool, metric="l2")
    refused(pool, "found an index by l2, expected inner_product")
    change_record(pool, metric="inner_product", count=7)
    assert opened(pool).record is not None  # the files say how many there are
    change_record(pool, modality="text")
    refused(pool, "found an index of text vectors, expected image")


def test_a_record_that_is_none_or_leads_elsewhere_is_refused(pool):
    path = pool / "index" / "_meta" / "index_image.json"
    body = parse_checked(path.read_bytes(), "x")
    path.write_bytes(path.read_bytes().replace(b'"metric": "inner', b'"metric": "outer'))
    refused(pool, "found other content than its checksum says")
    path.write_bytes(b"{}")
    refused(pool, "index_image.json: found no record of an index")
    change = {**{name: value for name, value in body.items() if name != "checksum"}}
    change["files"][0]["name"] = "../../elsewhere"
    path.write_bytes(to_checked(change))
    refused(pool, "index_image.json: found a file outside of its folder")
    path.write_bytes(b"[" * 100_000)
    refused(pool, "no whole JSON text")


def test_without_an_index_the_line_says_how_to_build_one(tmp_path, vectors):
    pool = write_pool(tmp_path, vectors)
    refused(pool, "found no image index; build one with `sixfold index --modality image`")
    assert not has_index(pool / "index", "image")


# indexes of others


def foreign(folder: Path, name: str, factory: str, vectors: np.ndarray, metric: str = "INNER_PRODUCT") -> Path:
    """As autofaiss and clip-retrieval write it: all rows, in their order, without a record."""
    import faiss

    index = faiss.index_factory(vectors.shape[1], factory, getattr(faiss, f"METRIC_{metric}"))
    index.train(vectors)
    index.add(vectors)
    if faiss.try_extract_index_ivf(index):
        faiss.extract_index_ivf(index).nprobe = 8
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    faiss.write_index(index, str(folder / name))
    return folder / name


@pytest.mark.parametrize(
    ("name", "factory"),
    [("knn.index", "HNSW15"), ("image.index", "IVF16,PQ16x4fs"), ("image.index/populated.index", "IVF16,Flat")],
)
def test_an_index_of_others_is_read_by_its_hash_or_if_it_is_trusted(tmp_path, vectors, name, factory):
    pool = write_pool(tmp_path, vectors)
    path = foreign(pool / "index", name, factory, vectors)
    refused(pool, "found an index without a record of ours; give its sha256, or say that it is trusted")
    refused(pool, "found sha256 [0-9a-f]{12}, expected 000000000000", sha256="0" * 64)
    queries = unit(vectors[:30] + 0.02)
    truth = exact_scan(embeddings_of(pool), queries, 10)
    for index in (opened(pool, trusted=True), opened(pool, sha256=sha256_of(path))):
        found = index.search(queries, 10)
        assert recall_of(found, truth) > 0.8
        assert np.array_equal(found.scores[found.rows == truth.rows], truth.scores[found.rows == truth.rows])


def test_an_index_of_others_for_another_pool_is_refused(tmp_path, vectors):
    pool = write_pool(tmp_path, vectors)
    foreign(pool / "index", "knn.index", "Flat", vectors[:100])
    refused(pool, "found an index of 100 vectors for a pool of 2,000 rows", trusted=True)
    foreign(pool / "index", "knn.index", "Flat", np.ascontiguousarray(vectors[:, :8]))
    refused(pool, "found an index of vectors of 8 numbers, expected 32", trusted=True)
    foreign(pool / "index", "knn.index", "Flat", vectors, "L2")
    refused(pool, "found an index of another metric, expected inner products", trusted=True)


def test_f2_an_index_that_would_fill_the_memory_is_stopped_in_a_process_of_its_own(tmp_path, vectors):
    pool = write_pool(tmp_path, vectors)
    path = foreign(pool / "index", "knn.index", "Flat", vectors)
    changed = bytearray(path.read_bytes())
    place = (
        changed.index((ROWS * DIM * 4).to_bytes(8, "little"))
        if (ROWS * DIM * 4).to_bytes(8, "little") in changed
        else 37
    )
    changed[place : place + 8] = (2**40).to_bytes(8, "little")
    path.write_bytes(changed)
    refused(pool, "knn.index: FAISS cannot read it", trusted=True)
    path.write_bytes(b"no index at all")
    refused(pool, "knn.index: FAISS cannot read it", trusted=True)
