"""Which index is chosen: a table, and laws; what it is said to weigh is what FAISS writes."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieve.index.choice import choose, lists_of, parse_factory

GB = 1e9


@pytest.mark.parametrize(
    ("num", "memory", "purpose", "factory"),
    [
        (1, 1 * GB, "auto", "IDMap2,Flat"),
        (10_000, 1 * GB, "auto", "IDMap2,Flat"),
        (10_000, 1 * GB, "speed", "IDMap2,Flat"),
        (400_000, 4 * GB, "exact", "IDMap2,Flat"),
        (400_000, 4 * GB, "speed", "IDMap2,HNSW16"),
        (400_000, 1 * GB, "speed", "IVF1024,RaBitQfs,Refine(SQ8)"),  # the graph needs 1.3 GB
        (400_000, 4 * GB, "auto", "IVF1024,RaBitQfs,Refine(SQ8)"),
        (40_000, 1 * GB, "auto", "IVF512,RaBitQfs,Refine(SQ8)"),
        (10_000_000, 400 * GB, "speed", "IVF8192,RaBitQfs,Refine(SQ8)"),  # a graph of so many takes hours
        (1_000_000, 0.87 * GB, "auto", "IVF2048,SQ8"),
        (1_000_000, 0.2 * GB, "auto", "IVF2048,RaBitQfs"),
        (413_000_000, 64 * GB, "auto", "IVF32768_HNSW32,RaBitQfs"),
        (413_000_000, 32 * GB, "auto", "OPQ64_768,IVF32768_HNSW32,PQ64"),
        (413_000_000, 16 * GB, "auto", "OPQ16_768,IVF32768_HNSW32,PQ16"),
        (2_320_000_000, 640 * GB, "auto", "IVF131072_HNSW32,RaBitQfs"),
        (2_320_000_000, 170 * GB, "auto", "OPQ64_768,IVF131072_HNSW32,PQ64"),
    ],
)
def test_the_choice_for_vectors_of_768_numbers(num: int, memory: float, purpose: str, factory: str) -> None:
    chosen = choose(num, 768, memory, purpose)  # type: ignore[arg-type]
    assert chosen.factory == factory
    assert chosen.fits


@given(
    st.integers(1, 10**10),
    st.sampled_from([8, 30, 64, 512, 768, 1024, 1280]),
    st.floats(1e3, 1e13),
    st.sampled_from(["auto", "exact", "speed"]),
)
def test_what_is_chosen_fits_the_memory_or_one_line_says_that_none_does(num, dim, memory, purpose):
    chosen = choose(num, dim, memory, purpose)
    kind = parse_factory(chosen.factory, dim)
    assert chosen.bytes_per_vector == kind.bytes_per_vector(num, dim)
    assert chosen.fits == (chosen.bytes_per_vector * num <= memory)
    assert chosen.fits != chosen.why.startswith("None fits: ")
    assert chosen.why.endswith(".")
    assert "\n" not in chosen.why
    assert kind.core_seconds(num, dim) > 0
    assert kind.lists <= max(1, num // 39)


@given(st.integers(1, 10**10))
def test_lists_are_a_power_of_two_near_twice_the_root(num):
    lists = lists_of(num)
    assert math.log2(lists).is_integer()
    if num > 10_000:
        assert math.sqrt(2) * 0.99 <= lists / math.sqrt(num) <= 2 * math.sqrt(2) * 1.01 or lists == 1 << 20


def test_with_more_memory_the_index_is_never_a_smaller_one():
    for num in (50_000, 3_000_000, 400_000_000):
        weights = [choose(num, 512, memory).bytes_per_vector for memory in np.geomspace(1e9, 1e12, 40)]
        assert weights == sorted(weights)


@pytest.mark.parametrize(
    "factory",
    [
        *("Flat", "HNSW8", "HNSW32", "IVF16,Flat", "IVF16,SQ8", "IVF16,SQfp16", "IVF16,RaBitQ", "IVF16,RaBitQfs"),
        *("IVF16,RaBitQfs,Refine(SQ8)", "IVF16_HNSW8,SQ8,Refine(Flat)", "IVF16,PQ16x4fs", "OPQ4_16,IVF16_HNSW8,PQ4x4"),
    ],
)
def test_the_bytes_a_vector_are_those_of_the_file_that_faiss_writes(factory, tmp_path):
    import faiss

    num, dim = 500 if factory.startswith("OPQ") else 2000, 64
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(num, dim)).astype(np.float32)
    kind = parse_factory(factory, dim)
    index = faiss.index_factory(dim, kind.factory, faiss.METRIC_INNER_PRODUCT)
    faiss.omp_set_num_threads(1)
    if not index.is_trained:
        index.train(vectors)
    if kind.lists:
        index.add(vectors)
    else:
        index.add_with_ids(vectors, np.arange(num))
    faiss.write_index(index, str(tmp_path / "index"))
    size = (tmp_path / "index").stat().st_size
    assert size / num == pytest.approx(kind.bytes_per_vector(num, dim), rel=0.07)


@pytest.mark.parametrize(
    ("factory", "line"),
    [
        ("IVF16,LSH", "factory: found 'IVF16,LSH', expected Flat, HNSW16, or lists such as"),
        ("", "factory: found '', expected"),
        ("HNSW1", "found a graph of 1 link, expected at least 2"),
        ("IVF16,PQ7", "found 7 pieces of 64 numbers, expected pieces of one size"),
        ("OPQ7_64,IVF16,PQ7", "found a rotation to 64 numbers in 7 pieces"),
        ("OPQ8_128,IVF16,PQ8", "found a rotation to 128 numbers in 8 pieces, expected at most 64"),
        ("IVF16,SQ8\nIVF16,SQ8", r"found 'IVF16,SQ8\nIVF16,SQ8'"),
    ],
)
def test_a_factory_that_is_none_is_refused_in_one_line(factory, line):
    with pytest.raises(ValueError) as error:
        parse_factory(factory, 64)
    assert line in str(error.value)
    assert "\n" not in str(error.value)


def test_a_pool_of_nothing_is_refused():
    with pytest.raises(ValueError, match="found 0 vectors of 768 numbers, expected at least one of each"):
        choose(0, 768, 1e9)
