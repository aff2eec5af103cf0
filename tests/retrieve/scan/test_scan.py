"""The exact scan finds what brute force finds, to the last bit, however the work is cut."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieve.pool.embeddings import open_embeddings
from retrieve.scan.nearest import Nearest, merge, pack, unpack
from retrieve.scan.scan import exact_scan, scan_part

ROUGH = ["float32", "bfloat16"]


def write(folder, *files):
    """Files of vectors as they are; the embeddings."""
    (folder / "img_emb").mkdir(exist_ok=True)
    for number, vectors in enumerate(files):
        np.save(folder / "img_emb" / f"img_emb_{number:02d}.npy", vectors)
    return open_embeddings(folder, "image")


def unit(rng, *shape):
    vectors = rng.normal(size=shape)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def brute_force(queries, vectors, k):
    """(scores, rows) in float64 rounded to float32: greater first, of equal ones the lower row first."""
    exact = vectors.astype(np.float64) @ queries.astype(np.float64).T
    scores = exact.T.astype(np.float32)
    rows = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, rows, axis=1), rows


def assert_same(found, scores, rows):
    assert np.array_equal(found.rows, rows)
    np.testing.assert_array_max_ulp(found.scores, scores, 1)  # sums of doubles in another order


def seeded():
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    return np.random.default_rng(seed)


@pytest.mark.parametrize("rough", [*ROUGH, None])
@pytest.mark.parametrize("stored", [np.float16, np.float32])
@pytest.mark.parametrize("k", [1, 10, 300, 5000])
def test_it_finds_what_brute_force_finds_over_all_files(tmp_path, rough, stored, k):
    rng = seeded()
    vectors = unit(rng, 3000, 64).astype(stored)
    queries = unit(rng, 37, 64).astype(np.float32)
    embeddings = write(tmp_path, vectors[:1000], vectors[1000:1001], vectors[1001:])
    found = exact_scan(embeddings, queries, k, block_rows=512, rough=rough)
    assert_same(found, *brute_force(queries, vectors, k))
    assert found.scores.dtype == np.float32
    assert found.rows.dtype == np.int64
    assert (found.num_rows, found.num_unusable) == (3000, 0)
    single = np.sort(queries @ vectors.astype(np.float32).T, axis=1)[:, ::-1][:, :k]
    np.testing.assert_allclose(found.scores, single, atol=1e-5)  # NumPy's own float32


def test_vectors_that_lie_close_together_are_told_apart(tmp_path):
    """All within what half precision can tell: rough scores say nothing, the true ones decide."""
    rng = seeded()
    vectors = unit(rng, 1, 32) + 1e-3 * rng.normal(size=(4000, 32))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    queries = vectors[rng.integers(0, 4000, 9)]
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    for rough in ROUGH:
        found = exact_scan(write(tmp_path, vectors), queries, 20, block_rows=700, rough=rough)
        assert_same(found, *brute_force(queries, vectors, 20))


def test_of_equal_vectors_the_lower_row_comes_first(tmp_path):
    rng = seeded()
    few = unit(rng, 5, 16).astype(np.float16)
    vectors = few[rng.integers(0, 5, 2000)]
    queries = unit(rng, 8, 16).astype(np.float32)
    for rough in ROUGH:
        found = exact_scan(write(tmp_path, vectors[:900], vectors[900:]), queries, 70, block_rows=256, rough=rough)
        assert_same(found, *brute_force(queries, vectors, 70))


def test_blocks_files_other_queries_and_number_formats_change_no_bit(tmp_path):
    rng = seeded()
    vectors = unit(rng, 2000, 48).astype(np.float16)
    queries = unit(rng, 1100, 48).astype(np.float32)  # more than are looked at at once
    whole = exact_scan(write(tmp_path, vectors), queries, 15)
    for rough, block_rows, some in (("bfloat16", 100, 1100), ("bfloat16", 4096, 1), ("float32", 333, 20)):
        found = exact_scan(write(tmp_path, vectors), queries[:some], 15, block_rows=block_rows, rough=rough)
        assert found.scores.tobytes() == whole.scores[:some].tobytes()
        assert found.rows.tobytes() == whole.rows[:some].tobytes()


def test_a_block_may_be_a_single_row(tmp_path):
    rng = seeded()
    vectors = unit(rng, 40, 8).astype(np.float16)
    queries = unit(rng, 3, 8).astype(np.float32)
    found = exact_scan(write(tmp_path, vectors), queries, 5, block_rows=1)
    assert_same(found, *brute_force(queries, vectors, 5))


def test_parts_merge_to_the_scan_in_any_order_and_may_begin_with_what_is_known(tmp_path):
    rng = seeded()
    vectors = unit(rng, 1200, 24).astype(np.float16)
    queries = unit(rng, 10, 24).astype(np.float32)
    embeddings = write(tmp_path, vectors[:50], vectors[50:600], vectors[600:])
    whole = exact_scan(embeddings, queries, 100)
    parts = [scan_part(file, queries, 100) for file in embeddings.files]
    assert [one.scores.shape for one in parts] == [(10, 50), (10, 100), (10, 100)]
    for order in ([0, 1, 2], [2, 0, 1], [1, 2, 0]):
        assert_same(merge([parts[place] for place in order]), whole.scores, whole.rows)
    known = scan_part(embeddings.files[2], queries, 100, at_least_Q=whole.scores[:, -1])
    merged = merge([parts[0], known, parts[1]])
    assert_same(merged, whole.scores, whole.rows)
    assert (known.rows == -1).any()


def test_zero_and_broken_vectors_are_counted_and_never_found(tmp_path):
    rng = seeded()
    vectors = unit(rng, 300, 16).astype(np.float16)
    vectors[5] = 0
    vectors[6, 3] = np.nan
    vectors[7, 3] = np.inf
    vectors[8] = 60000
    queries = unit(rng, 4, 16).astype(np.float32)
    for rough in ROUGH:
        found = exact_scan(write(tmp_path, vectors), queries, 300, block_rows=64, rough=rough)
        assert (found.num_rows, found.num_unusable) == (300, 4)
        assert sorted(found.rows[0, :-4]) == [row for row in range(300) if row not in (5, 6, 7, 8)]
        assert (found.rows[:, -4:] == -1).all()
        assert np.isneginf(found.scores[:, -4:]).all()
        few = exact_scan(write(tmp_path, vectors), queries, 20, block_rows=64, rough=rough)
        assert np.array_equal(few.rows, found.rows[:, :20])


def test_rows_that_may_not_leave_are_never_found(tmp_path):
    rng = seeded()
    vectors = unit(rng, 900, 16).astype(np.float16)
    queries = unit(rng, 6, 16).astype(np.float32)
    allowed = rng.random(900) < 0.3
    allowed[256:512] = False  # a whole block
    embeddings = write(tmp_path, vectors[:300], vectors[300:])
    found = exact_scan(embeddings, queries, 40, block_rows=128, kept=lambda first, num: allowed[first : first + num])
    scores, rows = brute_force(queries, vectors[allowed], 40)
    assert_same(found, scores, np.flatnonzero(allowed)[rows])
    nothing = exact_scan(embeddings, queries, 40, kept=lambda first, num: np.zeros(num, bool))
    assert (nothing.rows == -1).all()


def test_more_asked_for_than_there_is_and_nothing_asked_for_end_cleanly(tmp_path):
    vectors = np.eye(4, dtype=np.float16)
    embeddings = write(tmp_path, vectors[:0], vectors[:1], vectors[1:1], vectors[1:])
    queries = np.eye(4, dtype=np.float32)[:2]
    found = exact_scan(embeddings, queries, 10**12)
    assert found.rows.tolist() == [[0, 1, 2, 3], [1, 0, 2, 3]]
    assert found.scores[0].tolist() == [1, 0, 0, 0]
    none = exact_scan(embeddings, queries[:0], 3)
    assert (none.scores.shape, none.rows.shape, none.num_rows) == ((0, 3), (0, 3), 4)


@pytest.mark.parametrize(
    ("queries", "k", "said"),
    [
        (np.eye(3), 1, r"found vectors of 4 numbers for queries \[3, 3\], expected queries \(any, 4\)"),
        (np.ones(4), 1, r"for queries \[4\]"),
        (np.eye(4), 0, "k: found 0, expected at least 1"),
        (np.eye(4) * [1, 1, 2, 1], 1, "query 2: found a vector of length 2, expected 1"),
        (np.eye(4) * [1, 0, 1, 1], 1, "query 1: found a vector of length 0, expected 1"),
        (np.full((1, 4), np.nan), 1, "query 0: found a vector of length nan"),
    ],
)
def test_what_cannot_be_asked_is_named_with_one_line(tmp_path, queries, k, said):
    embeddings = write(tmp_path, np.eye(4, dtype=np.float16))
    with pytest.raises(ValueError, match=said) as error:
        exact_scan(embeddings, queries.astype(np.float32), k)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="block_rows: found 0"):
        exact_scan(embeddings, np.eye(4, dtype=np.float32), 1, block_rows=0)
    with pytest.raises(ValueError, match="rough: found float16 on a CPU"):
        exact_scan(embeddings, np.eye(4, dtype=np.float32), 1, rough="float16")


def test_progress_tells_the_rows_that_are_done(tmp_path):
    told = []
    embeddings = write(tmp_path, np.eye(4, dtype=np.float16), np.eye(4, dtype=np.float16)[:2])
    exact_scan(embeddings, np.eye(4, dtype=np.float32), 1, progress=lambda done, of: told.append((done, of)))
    assert told == [(4, 6), (6, 6)]


def test_progress_is_told_after_each_block_also_where_no_row_may_be_found(tmp_path):
    told = []
    embeddings = write(tmp_path, np.eye(4, dtype=np.float16), np.eye(4, dtype=np.float16)[:2])
    exact_scan(
        embeddings,
        np.eye(4, dtype=np.float32),
        1,
        block_rows=2,
        kept=lambda first, num: np.full(num, first >= 2),
        progress=lambda done, of: told.append(done),
    )
    assert told == [2, 4, 6]


def nearest_of(k, scores, rows, width):
    """Sorted as a part is; what is missing is filled up."""
    order = sorted(zip(scores, rows, strict=True), key=lambda pair: (-pair[0], pair[1]))[:width]
    order += [(-np.inf, -1)] * (width - len(order))
    return Nearest(
        k,
        np.array([[score for score, _ in order]], np.float32).reshape(1, width),
        np.array([[row for _, row in order]], np.int64).reshape(1, width),
        len(scores),
        0,
    )


@given(
    k=st.integers(1, 6),
    files=st.lists(
        st.lists(st.sampled_from([-1.0, -0.5, 0.0, 0.25, 1.0]), max_size=6), min_size=1, max_size=5
    ),
    data=st.data(),
)  # fmt: skip
def test_merging_is_associative_and_in_any_order(k, files, data):
    first, parts = 0, []
    for scores in files:
        missing = data.draw(st.integers(0, 2))  # vectors that could not be found
        width = min(k, len(scores) + missing)
        parts.append(nearest_of(k, scores, range(first, first + len(scores)), width))
        first += len(scores)
    every = [score for scores in files for score in scores]
    wanted = nearest_of(k, every, range(len(every)), min(k, sum(one.rows.shape[1] for one in parts)))
    order = data.draw(st.permutations(parts))
    cut = data.draw(st.integers(0, len(order) - 1))
    halves = [merge(half) for half in (order[:cut], order[cut:]) if half]
    for found in (merge(order), merge(halves)):
        assert found.rows.tolist() == wanted.rows.tolist()
        assert found.scores.tolist() == wanted.scores.tolist()
        assert found.num_rows == len(every)


def test_parts_of_other_queries_do_not_merge():
    one = nearest_of(3, [1.0], [0], 1)
    with pytest.raises(ValueError, match="expected one or more of one kind"):
        merge([one, nearest_of(4, [1.0], [0], 1)])
    with pytest.raises(ValueError, match="expected one or more"):
        merge([])


@given(
    st.lists(
        st.tuples(st.floats(-(2.0**100), 2.0**100, width=32), st.integers(0, 2**32 - 1)), min_size=1, max_size=20
    )
)  # fmt: skip
def test_a_score_and_a_row_in_one_number_keep_their_order_and_come_out_again(pairs):
    scores = np.array([score for score, _ in pairs], np.float32)
    rows = np.array([row for _, row in pairs], np.int64)
    packed = pack(scores, rows)
    again_scores, again_rows = unpack(packed)
    assert np.array_equal(again_scores, scores)
    assert np.array_equal(again_rows, rows)
    by_number = np.argsort(packed)[::-1]
    assert [(-scores[one], rows[one]) for one in by_number] == sorted(
        zip((-scores).tolist(), rows.tolist(), strict=True)
    )
    assert (packed > 0).all()
