"""One side of C16 in a process of its own: `python -m docs.bench.set_distances_side METRIC SIDE FOLDER ROWS`.

In: `real.npy` and `made.npy` (float32, N x D) of a folder, and how many of their rows are compared. Out: one line of
JSON: CPU seconds of the metric, without imports and reading, and what it found. On disk: nothing.

All sides use one thread.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import numpy as np
from numpy.typing import NDArray

from docs.bench.index_side import cpu_seconds

Rows = NDArray[np.float32]
Metric = Callable[[Rows, Rows], list[float]]

K, SUBSETS, SUBSET_ROWS, SEED = 5, 100, 1000, 0
UPDATE_ROWS = 1000  # torchmetrics is given so many at a time, as from batches of pictures


def main(metric: str, side: str, folder: Path, num_rows: int) -> None:
    real, made = (np.load(folder / f"{name}.npy")[:num_rows] for name in ("real", "made"))
    run = SIDES[metric, side]()
    begun = cpu_seconds()
    found = run(real, made)
    print(json.dumps({"cpu_s": cpu_seconds() - begun, "found": found}))


def _frechet() -> Metric:
    from train.evaluate.set_metrics import frechet_distance, gaussian

    return lambda real, made: [frechet_distance(gaussian(made), gaussian(real))]


def _kernel() -> Metric:
    from train.evaluate.set_metrics import kernel_inception_distance

    def run(real: Rows, made: Rows) -> list[float]:
        size = min(SUBSET_ROWS, len(real) // 2)
        return [float(kernel_inception_distance(made, real, SUBSETS, size, SEED).mean())]

    return run


def _clip() -> Metric:
    from train.evaluate.set_metrics import clip_mean_discrepancy

    def run(real: Rows, made: Rows) -> list[float]:
        one, other = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (made, real))
        return [clip_mean_discrepancy(one, other)]

    return run


def _neighbours() -> Metric:
    from train.evaluate.set_metrics import neighbourhoods

    def run(real: Rows, made: Rows) -> list[float]:
        found = neighbourhoods(real, made, K)
        return [float(one.mean()) for one in (found.precise, found.recalled, found.density, found.covered)]

    return run


def _torchmetrics(name: str) -> Metric:
    """One of its metrics of pictures, with a network that returns the features it is given."""
    import torch
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance

    torch.set_num_threads(1)

    class Given(torch.nn.Module):
        num_features = 0

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            return rows

    def run(real: Rows, made: Rows) -> list[float]:
        Given.num_features = real.shape[1]
        torch.manual_seed(SEED)
        size = min(SUBSET_ROWS, len(real) // 2)
        metric = (
            FrechetInceptionDistance(feature=Given())
            if name == "frechet"
            else KernelInceptionDistance(feature=Given(), subsets=SUBSETS, subset_size=size)
        )
        for rows, is_real in ((real, True), (made, False)):
            for start in range(0, len(rows), UPDATE_ROWS):
                metric.update(torch.from_numpy(rows[start : start + UPDATE_ROWS]), real=is_real)
        found = metric.compute()  # the kernel distance beside its standard deviation
        return [float(found[0] if isinstance(found, tuple) else found)]

    return run


def _prdc() -> Metric:
    import contextlib
    import io

    from prdc import compute_prdc

    def run(real: Rows, made: Rows) -> list[float]:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints the numbers of rows
            found = compute_prdc(real, made, K)
        return [float(found[name]) for name in ("precision", "recall", "density", "coverage")]

    return run


SIDES: dict[tuple[str, str], Callable[[], Metric]] = {
    ("Frechet distance", "sixfold"): _frechet,
    ("Frechet distance", "torchmetrics"): lambda: _torchmetrics("frechet"),
    ("kernel distance", "sixfold"): _kernel,
    ("kernel distance", "torchmetrics"): lambda: _torchmetrics("kernel"),
    ("CMMD", "sixfold"): _clip,
    ("neighbours", "sixfold"): _neighbours,
    ("neighbours", "prdc"): _prdc,
}

if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
