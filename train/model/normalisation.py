"""The normalisation of a model's input: mean and standard deviation of each channel. On disk: nothing."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Normalisation:
    """Of red, green and blue in 0..1: the mean is taken away, then divided by the standard deviation."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # as most published classifiers expect
