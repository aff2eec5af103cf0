"""Loss, learning rate and optimiser of a training.

In: `OptimSpec` (from the recipe), logits and labels of a rank's batch of whole groups. Out: a loss to descend, a
learning rate for each step, an optimiser of timm's factory. On disk: nothing.

The loss is a weighted mean of the real samples' mean and the others', so the weight of the others does not depend on
their share of a batch: `per_domain` gives them lambda beside 1 and divides by the sum, so that the size of a step does
not grow with lambda; `convex` gives lambda to the real samples and 1 - lambda to the others. The others' mean is of
their domains' means. `pooled` is the mean over the whole batch, as in naive mixing.

Shapes: N samples of a batch, G groups of it, Q samples of a group, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from train.model.input import DeviceMix

Optimizer = Literal["adamw", "sgd", "lamb"]
Beta = Annotated[float, Field(ge=0, lt=1)]

# What each keeps for every parameter, and for every group of parameters: a checkpoint must hold exactly that.
KEPT: dict[Optimizer, tuple[str, ...]] = {
    "adamw": ("exp_avg", "exp_avg_sq", "step"),
    "sgd": ("momentum_buffer",),
    "lamb": ("exp_avg", "exp_avg_sq"),
}
COUNTED: dict[Optimizer, tuple[str, ...]] = {"adamw": (), "sgd": (), "lamb": ("step",)}


class OptimSpec(BaseModel):
    """How the weights are moved."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    optimizer: Optimizer = Field("adamw", description="adamw; sgd: Nesterov, momentum 0.9; lamb")
    lr: float = Field(gt=0, description="highest learning rate, after the warm-up; of the whole step, never scaled")
    lr_backbone: float = Field(
        1.0,
        gt=0,
        le=100,
        description="learning rate of all but the classifier, as a factor of the classifier's, which is lr",
    )
    weight_decay: float = Field(0.05, ge=0, description="of weights; biases and normalisation have none")
    betas: tuple[Beta, Beta] | None = Field(
        None, description="of adamw and lamb: decay of both averages; null = 0.9 and 0.999", examples=[[0.9, 0.95]]
    )
    warmup_steps: int = Field(0, ge=0, description="the rate rises linearly for so many steps, then falls as a cosine")
    warmup: Literal["before", "at"] = Field(
        "before",
        description="before: the last step of the warm-up is one stride below lr, which the next step has; at: it has "
        "lr, as in open_clip, and so has the next step",
    )
    lr_end: float = Field(0.0, ge=0, description="rate that the warm-up starts from and the cosine falls to")
    clip_grad: float | None = Field(
        None,
        gt=0,
        description="largest norm of the gradient of a step, over all parameters, whatever the optimizer: a longer one "
        "is shortened to it; null = not clipped",
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="part of a label spread over all classes")
    lam: float = Field(
        1.0,
        ge=0,
        description="per_domain: weight of all domains but the first, whose own is 1; convex: of the first, whose "
        "others have 1 - lam",
    )
    loss: Literal["per_domain", "convex", "pooled"] = Field(
        "per_domain",
        description="per_domain: (first + lam others) / (1 + lam); convex: lam first + (1 - lam) others, each the mean "
        "of its domains' means; pooled: mean over the batch, lam unused",
    )
    ema_decay: float | None = Field(None, gt=0, lt=1, description="moving average of the weights; null = none")

    @model_validator(mode="after")
    def _rates_and_betas_fit(self) -> OptimSpec:
        if self.lr_end > self.lr:
            raise ValueError(f"optim.lr_end: found {self.lr_end:g}, expected at most lr, {self.lr:g}; lower it")
        if self.betas is not None and self.optimizer == "sgd":
            raise ValueError("optim.betas: found some with sgd, which has none, expected null; take them out")
        return self

    @model_validator(mode="after")
    def _convex_weights_are_shares(self) -> OptimSpec:
        if self.loss == "convex" and self.lam > 1:
            raise ValueError(
                f"optim.lam: found {self.lam:g} with loss: convex, expected 0 to 1, the share of the first domain"
            )
        return self


def learning_rate(spec: OptimSpec, step: int, steps: int) -> float:
    """Of step 0 .. steps - 1: linear to `lr`, then half a cosine that would reach `lr_end` at `steps`."""
    span = spec.lr - spec.lr_end
    if step < spec.warmup_steps:
        return spec.lr_end + span * (step + 1) / (spec.warmup_steps + (spec.warmup == "before"))
    left = max(1, steps - spec.warmup_steps)
    return spec.lr_end + span * 0.5 * (1 + math.cos(math.pi * (step - spec.warmup_steps) / left))


def make_optimizer(spec: OptimSpec, model: nn.Module) -> torch.optim.Optimizer:
    """timm's, over the parameters that are not frozen, with no weight decay on biases and normalisation layers.

    A group of parameters says in `lr_scale` by what its rate is multiplied. Raises ValueError for `lr_backbone` and a
    model of which nothing is the classifier, or nothing else moves.
    """
    from timm.optim import create_optimizer_v2

    scaled = None if spec.lr_backbone == 1 else partial(_scaled_groups, spec)
    own: dict[str, Any] = {} if spec.betas is None else {"betas": spec.betas}
    if spec.optimizer == "lamb":
        own["max_grad_norm"] = None  # timm's LAMB would clip to 1 by itself
    return create_optimizer_v2(
        model,
        opt=spec.optimizer,
        lr=spec.lr,
        weight_decay=spec.weight_decay,
        momentum=0.9,
        param_group_fn=scaled,
        **own,
    )


def _scaled_groups(spec: OptimSpec, model: nn.Module) -> list[dict[str, Any]]:
    """timm's groups, each cut in two: the classifier's parameters, and the others with their factor."""
    from timm.optim import param_groups_weight_decay

    from train.model.classifiers import classifier_parameters

    head = {id(parameter) for parameter in classifier_parameters(model)}
    without_decay: set[str] = getattr(model, "no_weight_decay", set)()
    found: list[dict[str, Any]] = []
    for group in param_groups_weight_decay(model, spec.weight_decay, no_weight_decay_list=without_decay):
        for scale, is_head in ((1.0, True), (spec.lr_backbone, False)):
            parameters = [one for one in group["params"] if (id(one) in head) == is_head]
            if parameters:
                found.append({**group, "params": parameters, "lr_scale": scale})
    if {group["lr_scale"] for group in found} != {1.0, spec.lr_backbone}:
        raise ValueError(
            f"optim.lr_backbone: found {spec.lr_backbone:g} for a model that trains no classifier, or nothing else, "
            "expected both; set optim.lr_backbone=1, or change model.freeze"
        )
    return found


@dataclass(frozen=True, eq=False)
class Loss:
    """The loss to descend, and what it is made of, for the log."""

    total: Tensor
    parts: Mapping[str, Tensor]  # detached, by name; the same names in every step


def loss_of(
    spec: OptimSpec, logits_NC: Tensor, labels_N: Tensor, mix: DeviceMix | None, quotas: Mapping[str, int]
) -> Loss:
    """Cross-entropy in nats; of a mixed sample, that of its own label and of its partner's by their shares.

    `quotas`: domain -> its samples in a group, in the group's order. The parts are the means over each domain.
    """
    import torch
    from torch.nn import functional as F

    wide_NC = logits_NC.float()
    each_N = F.cross_entropy(wide_NC, labels_N, reduction="none", label_smoothing=spec.label_smoothing)
    if mix is not None:
        other_N = F.cross_entropy(
            wide_NC, labels_N[mix.partner_N], reduction="none", label_smoothing=spec.label_smoothing
        )
        each_N = mix.share_N * each_N + (1 - mix.share_N) * other_N
    sizes = list(quotas.values())
    each_GQ = each_N.view(-1, sum(sizes))
    parts = [part.mean() for part in each_GQ.split(sizes, dim=1)]
    if spec.loss == "pooled":
        total = each_N.mean()
    elif len(sizes) == 1:
        total = parts[0]
    else:
        others = torch.stack(parts[1:]).mean()
        first, rest = (spec.lam, 1 - spec.lam) if spec.loss == "convex" else (1.0, spec.lam)
        total = (first * parts[0] + rest * others) / (first + rest)
    return Loss(total, {name: part.detach() for name, part in zip(quotas, parts, strict=True)})
