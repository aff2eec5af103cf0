"""The Task of classification, with auxiliary batch normalisation for mixed domains.

In: a `TrainRecipe`. Out: a `Classify`. On disk: what `train.task.export` writes.

The main batch normalisation sees the first domain only; each other domain has layers of its own
(`train.model.aux_bn`). Sets are measured with each of them; the plain model without those layers is exported. The loss
is cross-entropy by domain (`train.model.optim.loss_of`). A set is measured by counting right answers
(`train.evaluate.evaluate`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cluster.ranks.group import Ranks
from shards.stream.stream import Batch
from train.evaluate.counts import Floats, Pixels
from train.evaluate.data_check import Opened, check_names, check_outputs, what_is_read
from train.evaluate.evaluate import open_set, open_sets
from train.evaluate.measure import logits_of, measure
from train.evaluate.results import Role
from train.model.aux_bn import aux_layers, check_aux, copies, export_plain, on_branch, plain_tensors, survey
from train.model.bn_statistics import distances
from train.model.classifiers import build, normalisation_of, what_it_starts_from
from train.model.engine import Forward
from train.model.input import DeviceMix, to_input
from train.model.normalisation import Normalisation
from train.model.optim import Loss, loss_of
from train.recipe import TrainRecipe
from train.task.export import check_same_output, class_names, filled_model, plain_model, write_export
from train.task.facts import FACTS
from train.task.task import Measured


def classify(recipe: TrainRecipe) -> "Classify":
    """The Task of this recipe."""
    return Classify(recipe, normalisation_of(recipe.classifier))


@dataclass(frozen=True)
class Classify:
    """`train.task.task.Task` says what each function is for."""

    recipe: TrainRecipe
    normal: Normalisation
    metric: str = FACTS["classify"].metric
    names: dict[str, str] = field(default_factory=dict)  # class id -> name, of the export; the data may be gone by then

    def check_data(self, domains: Sequence[Opened], ranks: Ranks) -> list[str]:
        """Raises ValueError if a set is missing, has classes that the model does not know, shares a sample with another
        or calls an id by another name."""
        recipe = self.recipe
        said = check_outputs(domains, recipe.classifier.num_classes)
        sets = open_sets(
            recipe.evaluate, recipe.classifier.num_classes, recipe.data.cache.folder, domains, recipe.data.class_list
        )
        if ranks.rank == 0 or recipe.classifier.head == "map":
            self.names.update(class_names(domains))
        if ranks.rank != 0:
            return []
        opened = [*domains, *(one.opened for one in sets)]
        said = [*what_it_starts_from(recipe.classifier, self._names), *said, *what_is_read(opened)]
        if recipe.data.check_names:
            said += check_names(opened)
        return said

    def build(self, device: torch.device) -> nn.Module:
        recipe = self.recipe
        model = build(recipe.classifier, recipe.quotas, recipe.seed, recipe.data.size_px, self._names)
        return _on(model, device, recipe.engine.channels_last)

    def loss(self, forward: Forward, batch: Batch, device: torch.device, ranks: Ranks) -> Loss:
        recipe = self.recipe
        if int(batch.labels.max()) >= recipe.classifier.num_classes or int(batch.labels.min()) < 0:
            raise ValueError(
                f"step {batch.step}: found class id {int(batch.labels.max())}, expected below "
                f"{recipe.classifier.num_classes}; set model.num_classes to what the data has"
            )
        mix = None if batch.mix is None else DeviceMix.of(batch.mix, device)
        pictures = to_input(batch.images, device, self.normal, mix, recipe.engine.channels_last)
        labels = torch.from_numpy(batch.labels).to(device, non_blocking=True)
        quotas: dict[str, int] = {domain.name: domain.quota for domain in recipe.data.domains}
        return loss_of(recipe.optim, forward(pictures), labels, mix, quotas)

    def measure(self, model: nn.Module, name: str, role: Role, device: torch.device, ranks: Ranks) -> Measured:
        recipe = self.recipe
        spec = recipe.evaluate.validation if role == "validation" else recipe.evaluate.tests[name]
        assert spec is not None
        one = open_set(
            name, role, spec, recipe.classifier.num_classes, recipe.data.cache.folder, recipe.data.class_list
        )

        def scores(images: Pixels) -> list[Floats]:
            found = []
            for domain in range(1 + len(self._branches(model))):
                with on_branch(model, domain):
                    found.append(logits_of(model, images, recipe.engine, self.normal, device))
            return found

        counts, *others = measure(
            model, one, recipe.evaluate, recipe.data, scores, ranks, 1 + len(self._branches(model))
        )
        branches = dict(zip(self._branches(model), others, strict=True))
        numbers = {"top1": counts.top1, "top5": counts.top5}
        numbers |= {f"top1_{domain}": other.top1 for domain, other in branches.items()}
        return Measured(name, role, one.digest, counts, branches, counts.top1, numbers)

    @property
    def _names(self) -> dict[int, str]:
        """Output -> what the data call its class."""
        return {int(class_id): name for class_id, name in self.names.items()}

    def _branches(self, model: nn.Module) -> list[str]:
        """The domains that have layers of batch normalisation of their own in this model."""
        layer = next(iter(aux_layers(model).values()), None)
        return [] if layer is None else [domain.name for domain in self.recipe.data.domains[1 : len(layer.quotas)]]

    def keep(self, model: nn.Module) -> dict[str, Tensor]:
        return {name: tensor.cpu() for name, tensor in copies(model).items()}

    def finished(self, kept: Mapping[str, Tensor], device: torch.device) -> nn.Module:
        return _on(filled_model(self.recipe, kept), device, self.recipe.engine.channels_last)

    def check_export(self, model: nn.Module, device: torch.device) -> None:
        recipe = self.recipe
        plain = plain_model(recipe, export_plain(model))
        if recipe.classifier.is_converted:
            check_aux(model, len(survey(plain).plain))
        check_same_output(model, plain, recipe.data.size_px, device)

    def export(self, folder: Path, kept: Mapping[str, Tensor], facts: Mapping[str, Any], last: nn.Module) -> None:
        plain = plain_tensors(kept)
        write_export(folder, self.recipe, plain, {"class_names": self.names, **facts}, self.normal, distances(last))

    def is_exported(self, folder: Path) -> bool:
        return (folder / FACTS["classify"].last_file).is_file()


def _on(model: nn.Module, device: torch.device, channels_last: bool) -> nn.Module:
    model = model.to(device)
    return model.to(memory_format=torch.channels_last) if channels_last else model  # type: ignore[call-overload]
