"""Results of trainings that never ran, for tests: whole, valid lines with chosen accuracies."""

from typing import Any

from train.evaluate.results import Result


def result(right: int = 30, n: int = 40, classes: int = 4, **changes: Any) -> Result:
    """A line with ``right`` of ``n`` correct, spread evenly over the classes."""
    seen = [n // classes + (c < n % classes) for c in range(classes)]
    correct = [right // classes + (c < right % classes) for c in range(classes)]
    fields: dict[str, Any] = {
        "run": "run-s0",
        "recipe": "ab" * 32,
        "seed": 0,
        "step": 100,
        "set": "real-test",
        "role": "test",
        "n": n,
        "top1": right / n,
        "top5": 1.0,
        "per_class": {c: (correct[c], seen[c]) for c in range(classes)},
        "weights": "ema",
        "data": {"real": "cd" * 32},
        "code": "ef" * 32,
        "versions": {"torch": "2.13.0"},
        "images_seen": 3200,
        "images_per_s": 410.5,
        "wait_share": 0.02,
        "selected": True,
        "time": 1.0,
    }
    return Result.model_validate({**fields, **changes})
