"""Real photographs for tests and benchmarks: the two that scikit-learn ships, cut and encoded."""

import io
from functools import cache

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images


@cache
def photographs() -> tuple[np.ndarray, ...]:
    """Two of uint8 [427, 640, 3], a temple and a flower."""
    return tuple(load_sample_images().images)


def encoded(image: np.ndarray, kind: str = "JPEG", mode: str = "RGB", **options: int) -> bytes:
    """The bytes of a file as Pillow writes it."""
    file = io.BytesIO()
    Image.fromarray(image).convert(mode).save(file, kind, **options)
    return file.getvalue()
