"""The nearest test image: the same as from one product of all, whatever the blocks."""

import numpy as np
import pytest

from gen.model.nearest import nearest


def unit(num, dim, seed):
    rows = np.random.default_rng(seed).normal(size=(num, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


@pytest.mark.parametrize("block", [1, 7, 50, 1000])
def test_blocks_of_any_size_find_what_one_product_finds(block):
    rows, tests = unit(53, 16, 0), unit(31, 16, 1)
    whole = rows.astype(np.float64) @ tests.astype(np.float64).T
    number, found = nearest(rows, tests, block_rows=block)
    assert number.tolist() == whole.argmax(axis=1).tolist()
    np.testing.assert_allclose(found, whole.max(axis=1), atol=1e-5)


def test_of_equal_test_images_the_first_is_named_also_across_blocks():
    tests = np.repeat(unit(1, 8, 0), 9, axis=0)
    assert nearest(tests[:4], tests, block_rows=2)[0].tolist() == [0] * 4


def test_without_test_images_nothing_is_named_and_the_opposite_of_the_only_one_is():
    rows = np.array([[1, 0], [0, 1]], np.float16)
    number, found = nearest(rows, np.empty((0, 2), np.float16))
    assert (number.tolist(), found.tolist()) == ([-1, -1], [-1, -1])
    assert nearest(rows[:1], -rows[:1])[0].tolist() == [0]
    assert nearest(rows[:0], rows)[0].tolist() == []


def test_rows_of_another_model_are_refused():
    with pytest.raises(ValueError, match="rows of 8 and of 9 numbers, expected those of one model"):
        nearest(unit(2, 8, 0), unit(2, 9, 0))
