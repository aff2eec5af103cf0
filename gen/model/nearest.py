"""The picture of another set that is most like one, by the vectors of a model: exact, block by block.

In: rows of pictures, rows of test images. Out: for each picture the number of the nearest test image and the inner
product. On disk: nothing. Memory: the two blocks in single precision and their products, about 70 MB at 1,250 numbers a
row; the matrices may be mapped files of half precision.
"""

import numpy as np
from numpy.typing import NDArray

BLOCK_ROWS = 4096


def nearest(
    rows: NDArray[np.floating], tests: NDArray[np.floating], block_rows: int = BLOCK_ROWS
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """(N numbers of test images, N inner products) of rows N D and tests M D, both of length 1 or 0.

    Of equal ones the first test image. Without test images the numbers and the products are -1. Raises ValueError for
    rows of two widths.
    """
    best = np.full(len(rows), -np.inf, np.float32)
    where = np.full(len(rows), -1, np.int64)
    if len(rows) and len(tests) and rows.shape[1] != tests.shape[1]:
        raise ValueError(
            f"descriptors: found rows of {rows.shape[1]} and of {tests.shape[1]} numbers, expected those of one model"
        )
    for test_at in range(0, len(tests), block_rows):
        block = tests[test_at : test_at + block_rows].astype(np.float32)
        for at in range(0, len(rows), block_rows):
            products = rows[at : at + block_rows].astype(np.float32) @ block.T
            number = products.argmax(axis=1)
            found = np.minimum(products[np.arange(len(products)), number], 1)
            part = slice(at, at + len(products))
            is_better = found > best[part]
            best[part][is_better] = found[is_better]
            where[part][is_better] = number[is_better] + test_at
    return where, np.maximum(best, -1)
