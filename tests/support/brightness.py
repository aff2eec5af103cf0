"""A second Task: how bright is a picture? `python -m tests.support.brightness RECIPE FOLDER` trains it."""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from cluster.process.stop_flag import StopFlag
from cluster.ranks.group import Ranks
from cluster.ranks.place import find_place
from cluster.recipes.load import load_recipe
from shards.disk.home import home
from shards.stream.index import load_index
from shards.stream.read_all import read_all
from shards.stream.spec import EvalSpec
from shards.stream.stream import Batch
from train.evaluate.counts import Counts
from train.evaluate.data_check import Opened
from train.evaluate.evaluate import evaluating
from train.evaluate.results import Role
from train.model.engine import Forward
from train.model.optim import Loss
from train.recipe import TrainRecipe
from train.session.in_folder import train_in_folder
from train.task.task import Measured


@dataclass(frozen=True)
class Brightness:
    recipe: TrainRecipe
    metric: str = "close guesses"

    def check_data(self, domains: Sequence[Opened], ranks: Ranks) -> list[str]:
        return ["brightness: classes are not looked at"]

    def build(self, device: torch.device) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.recipe.seed)
            line = nn.Linear(3 * (self.recipe.data.size_px // 8) ** 2, 1)
        return nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), line).to(device)

    def loss(self, forward: Forward, batch: Batch, device: torch.device, ranks: Ranks) -> Loss:
        """The convex mix of the two domains, and the bias over the batches of all ranks together."""
        pixels, lam = _pixels(batch.images, device), self.recipe.optim.lam
        error = forward(pixels + self.recipe.model.drop_path * torch.randn_like(pixels))[:, 0] - pixels.mean((1, 2, 3))
        real, synthetic = error.square().view(-1, sum(batch.quotas)).split(list(batch.quotas), dim=1)
        own = error.mean()  # the value over all ranks, with the gradient of this one: the engine takes their mean
        bias = own + (ranks.add_up(own.detach().cpu()) / ranks.world - own.detach())
        parts = {"real": real.mean(), "synthetic": synthetic.mean(), "bias": bias.square()}
        total = lam * parts["real"] + (1 - lam) * parts["synthetic"] + parts["bias"]
        return Loss(total, {name: part.detach() for name, part in parts.items()})

    def measure(self, model: nn.Module, name: str, role: Role, device: torch.device, ranks: Ranks) -> Measured:
        sets = {"validation": self.recipe.evaluate.validation, **self.recipe.evaluate.tests}
        shown = EvalSpec(source=sets[name].source, size_px=self.recipe.data.size_px)
        index = load_index(shown.source)
        counts = torch.zeros(2, dtype=torch.int64)
        with evaluating(model), torch.inference_mode():
            for batch in read_all(shown, index, 8, ranks.rank, ranks.world):
                pixels = _pixels(batch.images, device)[torch.from_numpy(batch.valid)]
                is_close = (model(pixels)[:, 0] - pixels.mean((1, 2, 3))).abs() < 0.05
                counts += torch.tensor([len(is_close), int(is_close.sum())])
        seen, close = (np.array([number]) for number in ranks.add_up(counts).tolist())
        found = Counts((0,), seen, close, close, 0, 0)
        return Measured(name, role, index.digest, found, {}, found.top1, {"close": found.top1})

    def keep(self, model: nn.Module) -> dict[str, Tensor]:
        return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}

    def finished(self, kept: Mapping[str, Tensor], device: torch.device) -> nn.Module:
        model = self.build(device)
        model.load_state_dict(dict(kept))
        return model.eval()

    def check_export(self, model: nn.Module, device: torch.device) -> None:
        self.finished(self.keep(model), device)

    def export(self, folder: Path, kept: Mapping[str, Tensor], facts: Mapping[str, object], last: nn.Module) -> None:
        save_file(dict(kept), folder / "line.safetensors")

    def is_exported(self, folder: Path) -> bool:
        return (folder / "line.safetensors").is_file()


def _pixels(images: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float() / 255


if __name__ == "__main__":
    asked = load_recipe(Path(sys.argv[1]), TrainRecipe)
    with StopFlag() as flag, Ranks(find_place(os.environ)) as met:
        outcome = train_in_folder(asked, Brightness(asked), Path(sys.argv[2]), home(), flag, met)
    sys.exit(outcome.exit_code)
