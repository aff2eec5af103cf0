"""The Task that adapts a CLIP to the classes of a data set: zero-shot, whole, contrastive, linear probe, adapters.

In: a `TrainRecipe` with `clip`. Out: an `AdaptClip`. On disk: what `train.task.export_clip` writes.

The loss is cross-entropy by domain (`train.model.optim.loss_of`); of `tune: flyp` it is CLIP's own: each picture with
the caption of its class, a template drawn for each, over the batch of all ranks, in both directions. As in FLYP (Goyal
et al. 2023, `ClipLoss` of its code) a picture's own caption alone is right, also where others have the same class. The
classifier that measures it comes from the texts as they are encoded by then.

A probe sees each picture as it is measured, if `data.augment` changes nothing: features are taken once, before the
first step. With augmentation they are taken in each step.

Shapes: N pictures of a rank's batch, D embedding width, L tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from cluster.ranks.group import Ranks
from shards.stream.keyed_random import hashed
from shards.stream.stream import Batch
from train.evaluate.counts import Floats, Pixels
from train.evaluate.data_check import Opened, check_names, what_is_read
from train.evaluate.evaluate import evaluating, open_set, open_sets
from train.evaluate.measure import measure
from train.evaluate.results import PROBE, Role
from train.model.adapted_clip import AdaptedClip, between, build_clip
from train.model.clip import ClipInput, ClipTrainSpec, check_size, input_of, names_of_classes
from train.model.engine import Forward, autocast
from train.model.input import DeviceMix, to_input
from train.model.optim import Loss, loss_of
from train.recipe import TrainRecipe
from train.task.clip_features import Features, features_of, fit_probe, is_fixed
from train.task.export import check_same_output, class_names
from train.task.export_clip import write_clip_export
from train.task.facts import FACTS
from train.task.task import Measured

_CAPTION = 0x63617074  # keeps these draws apart from others of the same key


def adapt_clip(recipe: TrainRecipe) -> "AdaptClip":
    """The Task of this recipe. Raises ValueError for pictures that are not of the model's size."""
    assert recipe.clip is not None
    check_size(recipe.clip, recipe.data.size_px)
    return AdaptClip(recipe, input_of(recipe.clip))


@dataclass
class Found:
    """What a Task learns of its data and its model, on each rank."""

    names: tuple[str, ...] = ()  # of the classes, by id
    domains: Sequence[Opened] = ()
    ranks: Ranks | None = None
    features: Features | None = None  # of a probe without augmentation
    probe: tuple[AdaptedClip, Tensor, Tensor] | None = None  # weight and bias, fitted to the features of this model
    start: Mapping[str, Tensor] = field(default_factory=dict)  # of WiSE-FT: what is trained, before the first step


@dataclass(frozen=True)
class AdaptClip:
    """`train.task.task.Task` says what each function is for."""

    recipe: TrainRecipe
    input: ClipInput
    metric: str = FACTS["clip"].metric
    found: Found = field(default_factory=Found)

    def check_data(self, domains: Sequence[Opened], ranks: Ranks) -> list[str]:
        """Raises ValueError if a set is missing, shares a sample with another, calls an id by another name, or has a
        class without a name."""
        recipe, spec = self.recipe, self._spec
        ids = [int(one.index.label.max()) for one in domains if len(one.index)]
        told = {int(number): name for number, name in class_names(domains).items()}
        self.found.names = names_of_classes(spec, told, ids)
        self.found.domains, self.found.ranks = domains, ranks
        num = len(self.found.names)
        sets = open_sets(recipe.evaluate, num, recipe.data.cache.folder, domains, recipe.data.class_list)
        if ranks.rank != 0:
            return []
        said = [f"clip.model: {spec.tune} of {spec.model}, digest {(spec.digest or '')[:16]}, {num:,} classes"]
        if recipe.evaluate.crop_pct != self.input.crop_pct:
            said.append(
                f"evaluate.crop_pct: found {recipe.evaluate.crop_pct:g}, and the model's own preprocessing shows "
                f"{self.input.crop_pct:g}; set evaluate.crop_pct={self.input.crop_pct:g} unless you mean that"
            )
        if spec.tune == "probe":
            once = "once, before the first step" if is_fixed(recipe.data) else "in each step, for data.augment is on"
            said.append(f"clip.tune: features for the probe are taken {once}")
        opened = [*domains, *(one.opened for one in sets)]
        said += what_is_read(opened)
        return said + (check_names(opened) if recipe.data.check_names else [])

    def build(self, device: torch.device) -> nn.Module:
        model = build_clip(self._spec, self.found.names, self.recipe.seed)
        if self._spec.wise_alpha is not None:
            self.found.start = _kept(model)
        model = model.to(device)
        if self._spec.tune == "probe" and is_fixed(self.recipe.data):
            assert self.found.ranks is not None
            self.found.features = features_of(
                model, self.recipe, self.found.domains, self.input.normal, device, self.found.ranks
            )
        return model

    def loss(self, forward: Forward, batch: Batch, device: torch.device, ranks: Ranks) -> Loss:
        recipe = self.recipe
        quotas: dict[str, int] = {domain.name: domain.quota for domain in recipe.data.domains}
        if int(batch.labels.max()) >= len(self.found.names) or int(batch.labels.min()) < 0:
            raise ValueError(
                f"step {batch.step}: found class id {int(batch.labels.max())}, expected below "
                f"{len(self.found.names)}; name all classes in clip.names"
            )
        labels = torch.from_numpy(batch.labels).to(device, non_blocking=True)
        if self.found.features is not None:
            rows_ND = self.found.features.of(batch).to(device, non_blocking=True)
            return loss_of(recipe.optim, forward(rows_ND), labels, None, quotas)
        mix = None if batch.mix is None else DeviceMix.of(batch.mix, device)
        pixels = to_input(batch.images, device, self.input.normal, mix, recipe.engine.channels_last)
        if self._spec.tune != "flyp":
            return loss_of(recipe.optim, forward(pixels), labels, mix, quotas)
        images_ND, texts_ND, scale = forward(
            pixels, labels * len(self._spec.templates) + self._templates(batch, device)
        )
        return _contrastive(recipe, images_ND.float(), texts_ND.float(), scale.float(), quotas, ranks)

    def measure(self, model: nn.Module, name: str, role: Role, device: torch.device, ranks: Ranks) -> Measured:
        recipe = self.recipe
        spec = recipe.evaluate.validation if role == "validation" else recipe.evaluate.tests[name]
        assert spec is not None
        one = open_set(name, role, spec, len(self.found.names), recipe.data.cache.folder, recipe.data.class_list)
        answering = self._answering(model, device)
        with evaluating(answering), torch.no_grad():
            classifiers = [answering.classifier()]
        if self._spec.probe is not None and role == "test":
            classifiers.append(self._probe_of(answering, device, ranks))

        def scores(images: Pixels) -> list[Floats]:
            with autocast(recipe.engine, device):
                features_ND = answering.image_features(to_input(images, device, self.input.normal)).float()
            return [F.linear(features_ND, weight, bias).cpu().numpy() for weight, bias in classifiers]

        counts, *others = measure(
            answering, one, recipe.evaluate, recipe.data, scores, ranks, num_ways=len(classifiers)
        )
        branches = dict(zip([PROBE], others, strict=False))
        numbers = {"top1": counts.top1, "top5": counts.top5} | {
            f"top1_{name}": one.top1 for name, one in branches.items()
        }
        return Measured(name, role, one.digest, counts, branches, counts.top1, numbers)

    def keep(self, model: nn.Module) -> dict[str, Tensor]:
        """What is trained alone: the rest stands in the CLIP's folder. At `wise_alpha`, if there is one."""
        kept = _kept(model)
        if self._spec.wise_alpha is None:
            return kept
        return {name: between(self._spec, name, self.found.start[name], tensor) for name, tensor in kept.items()}

    def finished(self, kept: Mapping[str, Tensor], device: torch.device) -> AdaptedClip:
        model = build_clip(self._spec, self.found.names, self.recipe.seed)
        wanted = _trained(model)
        if wanted.keys() != kept.keys():
            one = sorted(wanted.keys() ^ kept.keys())[0]
            raise ValueError(f"checkpoint: found {one} on one side only, expected what clip.tune trains; start anew")
        model.load_state_dict(dict(kept), strict=False)
        model.is_final = True
        return model.to(device).eval()

    def check_export(self, model: nn.Module, device: torch.device) -> None:
        plain = self.finished(_kept(model), device)
        check_same_output(model, plain, self.recipe.data.size_px, device)

    def export(self, folder: Path, kept: Mapping[str, Tensor], facts: Mapping[str, Any], last: nn.Module) -> None:
        model = self.finished(kept, torch.device("cpu"))
        write_clip_export(folder, model, self.input, self.found.names, facts)

    def is_exported(self, folder: Path) -> bool:
        return (folder / FACTS["clip"].last_file).is_file()

    @property
    def _spec(self) -> ClipTrainSpec:
        assert self.recipe.clip is not None
        return self.recipe.clip

    def _answering(self, model: nn.Module, device: torch.device) -> AdaptedClip:
        """The model that is exported if this one is chosen."""
        assert isinstance(model, AdaptedClip)
        if model.is_final or self._spec.wise_alpha is None:
            return model
        return self.finished(self.keep(model), device)

    def _probe_of(self, model: AdaptedClip, device: torch.device, ranks: Ranks) -> tuple[Tensor, Tensor]:
        """Of the model that was asked about last it is kept: all test sets have one."""
        recipe, known = self.recipe, self.found.probe
        if known is None or known[0] is not model:
            assert self._spec.probe is not None
            features = features_of(model, recipe, self.found.domains, self.input.normal, device, ranks)
            weight, bias = fit_probe(features, len(self.found.names), self._spec.probe, recipe.seed)
            known = self.found.probe = (model, weight.to(device), bias.to(device))
        return known[1:]

    def _templates(self, batch: Batch, device: torch.device) -> Tensor:
        """A template for each picture, whatever the ranks: drawn by (seed, step, sample)."""
        num, seed = len(self._spec.templates), self.recipe.seed
        picks = [hashed(seed, _CAPTION, batch.step, int(uid)) % num for uid in batch.uids]
        return torch.from_numpy(np.array(picks, np.int64)).to(device)


def _trained(model: nn.Module) -> dict[str, Tensor]:
    """Parameters that are trained, and statistics that change with them."""
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    trained |= {name for name, _ in model.named_buffers()}
    return {name: tensor for name, tensor in model.state_dict().items() if name in trained}


def _kept(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in _trained(model).items()}


def _contrastive(
    recipe: TrainRecipe, images_ND: Tensor, texts_ND: Tensor, scale: Tensor, quotas: Mapping[str, int], ranks: Ranks
) -> Loss:
    """Mean cross-entropy of both directions over the batch of all ranks; equal on each.

    Each rank has the gradient of its own rows alone, times the ranks, so that the engine's mean over ranks is the
    gradient of the whole. The scale is in the loss of every rank, so its gradient is not multiplied.
    """
    images, texts = _of_all_ranks(images_ND, ranks), _of_all_ranks(texts_ND, ranks)
    once = scale.detach() + (scale - scale.detach()) / ranks.world
    logits = once * images @ texts.T
    own = torch.arange(len(logits), device=logits.device)
    one, other = (loss_of(recipe.optim, way, own, None, quotas) for way in (logits, logits.T))
    total = (one.total + other.total) / 2
    parts = {name: (part + other.parts[name]) / 2 for name, part in one.parts.items()}
    return Loss(total + (ranks.world - 1) * (total - total.detach()), parts)


def _of_all_ranks(own_ND: Tensor, ranks: Ranks) -> Tensor:
    """The rows of all ranks in their order; those of this one keep their gradient."""
    if ranks.world == 1:
        return own_ND
    rows = [torch.empty_like(own_ND) for _ in range(ranks.world)]
    dist.all_gather(rows, own_ND.detach().contiguous())
    rows[ranks.rank] = own_ND
    return torch.cat(rows)
