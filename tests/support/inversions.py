"""Style inversions of seconds: small data sets, tiny pipelines of every family, two steps."""

import json
from pathlib import Path
from typing import Any

from cluster.recipes.overrides import lay_over
from tests.support.tiny_pipelines import tiny_pipeline
from train.recipe import TrainRecipe

FAMILIES = ("sd", "sd2", "sdxl", "sd3", "flux")  # sd2: a Stable Diffusion 2, which predicts v


def pipeline_of(family: str, folder: Path) -> Path:
    """A tiny pipeline of the family."""
    made = tiny_pipeline("sd" if family == "sd2" else family, folder)
    if family == "sd2":
        file = made / "scheduler" / "scheduler_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "prediction_type": "v_prediction"}))
    return made


def inversion(data: Path, generator: Path, **changes: Any) -> TrainRecipe:
    """Two steps on the sets of `tests.support.small_training`; `changes` are recipe fields, `__` for a dot."""
    plain: dict[str, Any] = {
        "name": "small-inversion",
        "seed": 3,
        "task": "invert",
        "invert": {"model": str(generator), "pictures": 0, "steps": 2, "initial": "ink", "validation_pictures": 6},
        "data": {
            "domains": [{"name": "real", "source": str(data / "real"), "quota": 4}],
            "size_px": 32,
            "threads": 1,
            "prefetch_steps": 2,
            "augment": {"scale": [1.0, 1.0], "ratio": [1.0, 1.0], "flip": 0},
        },
        "optim": {"lr": 0.05},
        "schedule": {"groups": 2, "steps": 2, "epoch_steps": 1},
        "engine": {"kind": "single", "deadline_s": 60.0},
        "checkpoint": {"every_min": 60.0},
        "evaluate": {"batch": 8, "validation": {"source": str(data / "held-out")}},
        "log": "none",
    }
    changed = lay_over(plain, {name.replace("__", "."): value for name, value in changes.items()}, TrainRecipe, "small")
    return TrainRecipe.model_validate(changed)
