"""Features of training pictures, taken once, and a linear probe that is fitted to them.

In: an `AdaptedClip`, the domains of a recipe. Out: `Features`; weight and bias of a probe. On disk: what the stream
caches.

Pictures are seen as in an evaluation: the short side to the model's size, then the centre. Each rank takes a part of
the batches; a feature does not depend on their number.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cluster.ranks.group import Ranks
from shards.stream.read_all import read_all
from shards.stream.spec import StreamSpec
from shards.stream.stream import Batch
from train.evaluate.data_check import Opened
from train.evaluate.evaluate import evaluating
from train.model.adapted_clip import AdaptedClip
from train.model.clip import ProbeSpec
from train.model.engine import autocast
from train.model.input import to_input
from train.model.normalisation import Normalisation
from train.model.optim import OptimSpec, learning_rate, make_optimizer
from train.recipe import TrainRecipe


@dataclass(frozen=True, eq=False)
class Features:
    """Of each domain: the ids of its samples, sorted, and their features, on the CPU."""

    uids: tuple[npt.NDArray[np.uint64], ...]
    rows: tuple[Tensor, ...]  # M D
    labels: tuple[Tensor, ...]  # M

    def of(self, batch: Batch) -> Tensor:
        """N D of a batch. Raises ValueError for a sample that was not there before the first step."""
        domain_N = np.tile(np.repeat(np.arange(len(batch.quotas)), batch.quotas), batch.groups)
        found = torch.empty(len(domain_N), self.rows[0].shape[1])
        for domain, (uids, rows) in enumerate(zip(self.uids, self.rows, strict=True)):
            mine = np.flatnonzero(domain_N == domain)
            places = np.searchsorted(uids, batch.uids[mine]).clip(max=len(uids) - 1)
            if not np.array_equal(uids[places], batch.uids[mine]):
                raise ValueError(
                    f"step {batch.step}: found a sample that came after the features were taken, expected data that do "
                    "not grow; set grow: false"
                )
            found[torch.from_numpy(mine)] = rows[torch.from_numpy(places)]
        return found


def is_fixed(data: StreamSpec) -> bool:
    """Whether a picture looks the same in each step, and as in an evaluation."""
    augment = data.augment
    is_whole = augment.scale == augment.ratio == (1.0, 1.0)
    is_shifted = any(domain.planted_shift for domain in data.domains)
    return is_whole and augment.only_crops and not is_shifted and not data.mix.is_on


def features_of(
    model: AdaptedClip,
    recipe: TrainRecipe,
    domains: Sequence[Opened],
    normal: Normalisation,
    device: torch.device,
    ranks: Ranks,
) -> Features:
    """Of all samples of the domains. All ranks call it. Raises ValueError for a sample that cannot be read."""
    data = recipe.data
    all_uids, all_rows, all_labels = [], [], []
    for one in domains:
        reading = data.shown(one.source, recipe.evaluate.crop_pct)
        own_rows, own_uids, own_valid, own_labels = [], [], [], []
        with evaluating(model), torch.no_grad():
            for batch in read_all(reading, one.index, recipe.evaluate.batch, ranks.rank, ranks.world):
                with autocast(recipe.engine, device):
                    features = model.image_features(to_input(batch.images, device, normal))
                own_rows.append(features.float().cpu())
                own_uids.append(torch.from_numpy(batch.uids.view(np.int64).copy()))
                own_valid.append(torch.from_numpy(batch.valid.copy()))
                own_labels.append(torch.from_numpy(batch.labels.copy()))
        parts = (own_rows, own_uids, own_valid, own_labels)
        rows, uids, valid, labels = (ranks.rows(torch.cat(part)).flatten(0, 1) for part in parts)
        names = uids[valid].numpy().view(np.uint64)
        order = np.argsort(names, kind="stable")
        all_uids.append(names[order])
        all_rows.append(rows[valid][torch.from_numpy(order)])
        all_labels.append(labels[valid][torch.from_numpy(order)])
    return Features(tuple(all_uids), tuple(all_rows), tuple(all_labels))


def fit_probe(features: Features, num_classes: int, spec: ProbeSpec, seed: int) -> tuple[Tensor, Tensor]:
    """Weight C D and bias C of a linear classifier, fitted on the CPU by cross-entropy over all domains' pictures.

    Source: "The Unmet Promise of Synthetic Training Images", whose schedule counted other steps than it made.
    """
    rows_MD, labels_M = torch.cat(features.rows), torch.cat(features.labels)
    stride = min(spec.batch, len(rows_MD))
    steps = spec.epochs * (len(rows_MD) // stride)
    warmup = min(spec.warmup_steps, steps // 10)
    optim = OptimSpec(
        lr=spec.lr, betas=(0.9, 0.95), weight_decay=spec.weight_decay, warmup_steps=warmup, warmup="at", clip_grad=1.0
    )
    draws = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        probe = torch.nn.Linear(rows_MD.shape[1], num_classes)
        optimizer = make_optimizer(optim, probe)
        for step in range(steps):
            if step % (len(rows_MD) // stride) == 0:
                order_M = torch.randperm(len(rows_MD), generator=draws)
                batches = iter(order_M.split(stride))
            chosen = next(batches)
            optimizer.zero_grad(set_to_none=True)
            torch.nn.functional.cross_entropy(probe(rows_MD[chosen]), labels_M[chosen]).backward()
            torch.nn.utils.clip_grad_norm_(probe.parameters(), 1.0)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(optim, step, steps)
            optimizer.step()
    return probe.weight.detach(), probe.bias.detach()
