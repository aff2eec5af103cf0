"""A training of seconds, for tests: two small data sets, a small network, a handful of steps."""

import hashlib
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from cluster.ranks.group import Ranks
from cluster.ranks.place import find_place
from cluster.recipes.overrides import lay_over
from shards.disk.file_calls import OS_DISK, Disk
from shards.disk.home import home
from tests.support.small_data_set import write_data_set
from train.evaluate.counts import Counts
from train.evaluate.evaluate import OpenSet
from train.evaluate.measure import logits_of, measure
from train.model.normalisation import IMAGENET
from train.recipe import TrainRecipe
from train.run import train
from train.session.outcome import TrainOutcome

NEVER = 10**9
# For trainings whose sums are taken in another order. The network has no kinks: near one of ReLU the last bit decides
# which way a gradient goes. The rate is low, because a difference grows tenfold in two steps of a rate of 0.05.
SMOOTH = {"model__name": "test_efficientnet", "optim__lr": 0.005, "schedule__steps": 4, "schedule__epoch_steps": 2}


def write_sets(folder: Path) -> None:
    """`real`, `synthetic`, `test` and `held-out` below the folder; what measures has no sample of what trains."""
    write_data_set(folder / "real", num_shards=2, num_slots=10)
    write_data_set(folder / "synthetic", num_shards=3, num_slots=10, num_rejected=0)
    write_data_set(folder / "test", num_shards=1, num_slots=13, num_rejected=0, change=partial(_of_set, "test"))
    write_data_set(folder / "held-out", num_shards=2, num_slots=10, change=partial(_of_set, "held-out"))


def _of_set(name: str, shard: int, index: int, row: dict[str, object]) -> dict[str, object]:
    return {**row, "uid": hashlib.sha256(f"{name}/{shard}/{index}".encode()).hexdigest()[:32]}


def small_recipe(data: Path, **changes: Any) -> TrainRecipe:
    """Six steps of two groups of 4 + 4; `changes` are recipe fields, `__` for a dot."""
    plain: dict[str, Any] = {
        "name": "small",
        "seed": 3,
        "model": {"name": "sandbox_resnet", "num_classes": 5, "aux": "bn", "bn": "group", "drop_path": 0.0},
        "data": {
            "domains": [
                {"name": "real", "source": str(data / "real"), "quota": 4},
                {"name": "synthetic", "source": str(data / "synthetic"), "quota": 4},
            ],
            "size_px": 32,
            "threads": 1,
            "window_shards": 2,
            "prefetch_steps": 2,
            "bad_rate": 0.001,
        },
        "optim": {"optimizer": "sgd", "lr": 0.05, "clip_grad": 1.0, "label_smoothing": 0.1, "ema_decay": 0.9},
        "schedule": {"groups": 2, "steps": 6, "epoch_steps": 3},
        "engine": {"kind": "single", "zero": 0, "deadline_s": 60.0, "channels_last": False, "dtype": "fp32"},
        "checkpoint": {"every_min": 60.0, "keep": 2},
        "nan": {"policy": "stop", "most": 3},
        "evaluate": {
            "every_epochs": 1,
            "batch": 8,
            "validation": {"source": str(data / "test")},
            "tests": {"one": {"source": str(data / "held-out")}},
        },
        "log": "none",
    }
    changed = lay_over(
        plain, {name.replace("__", "."): value for name, value in changes.items()}, TrainRecipe, "small recipe"
    )
    return TrainRecipe.model_validate(changed)


class StopAfter:
    """A stop flag that is raised when it has been looked at so often: once before the first step, then once a step."""

    def __init__(self, looks: int) -> None:
        self.left = looks
        self.reason = "enough"

    @property
    def requested(self) -> bool:
        self.left -= 1
        return self.left < 0

    def arm(self) -> None:
        """There are no signals to take back."""


def train_alone(recipe: TrainRecipe, out: Path, looks: int = NEVER, disk: Disk = OS_DISK) -> TrainOutcome:
    """One process, asked to stop when it has looked so often."""
    with Ranks(find_place({})) as ranks:
        return train(recipe, out, home(), StopAfter(looks), ranks, disk)


def measured(model: nn.Module, one: OpenSet, recipe: TrainRecipe, ranks: Ranks) -> Counts:
    """One set on the CPU, as the recipe says."""
    cpu = torch.device("cpu")
    (counts,) = measure(
        model,
        one,
        recipe.evaluate,
        recipe.data,
        lambda images: [logits_of(model, images, recipe.engine, IMAGENET, cpu)],
        ranks,
    )
    return counts


def as_weights(run: Path, part: str) -> dict[str, Tensor]:
    """The last tensors, each as it moves the weights: what SGD keeps of gradients times the rate of `SMOOTH`."""
    rate = SMOOTH["optim__lr"] if part.startswith("optimizer") else 1
    return {name: tensor * rate for name, tensor in last_state(run, part).items()}


def last_state(run: Path, part: str = "model.safetensors") -> dict[str, Tensor]:
    """The tensors of the newest checkpoint."""
    return load_file(sorted((run / "checkpoints").iterdir())[-1] / part)
