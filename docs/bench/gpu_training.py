"""What a step of training costs on a GPU, for ResNet-50: auxiliary BN beside one BN for all pictures.

In: a bench. Out: a row, eager or compiled. On disk: nothing.

A step is forward, loss, backward, optimiser and average of the weights, on random pictures and labels that are on the
device already, in bf16 and channels_last: `train.model.step.Descent` with what the recipes for ImageNet ask for
(average, kept running statistics, a check of the gradient's norm).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from docs.bench.device import IMAGES, SHARE, Bench
from docs.bench.measure import Line, Result, ratios
from train.model.classifiers import ModelSpec, build
from train.model.ema import Ema
from train.model.engine import EngineSpec, Forward, make_engine
from train.model.optim import Loss, OptimSpec, loss_of
from train.model.step import Descent, KeptBuffers

WINDOW_S, CLASSES = 1.0, 1000
OPTIM = OptimSpec(optimizer="sgd", lr=0.1, weight_decay=5e-5, label_smoothing=0.1, ema_decay=0.9999)
PLAIN = "one BN for all"
AUX, AUX_GROUPS = "auxiliary BN, one group", "auxiliary BN, groups of 16 + 16"


def measure(bench: Bench, compiled: bool) -> Result:
    import torch

    torch.backends.cudnn.benchmark = True  # as trainings ask for; the program sets it back
    name, shape = ("test_resnet", (32, 3, 32, 32)) if bench.dry else ("resnet50", (256, 3, 224, 224))
    half = shape[0] // 2
    quotas = {PLAIN: (2 * half,), AUX: (half, half), AUX_GROUPS: (16, 16)}
    sides = {side: Training(bench, name, shape, of_group, compiled) for side, of_group in quotas.items()}
    firsts, slowest_s = {}, 0.0
    for side, training in sides.items():
        begun = bench.now()
        training.take(1)
        firsts[side] = bench.now() - begun
        begun = bench.now()
        steps = 1 if bench.dry else 5
        training.take(steps)
        slowest_s = max(slowest_s, (bench.now() - begun) / steps)
    for training in sides.values():
        training.steps = 2 if bench.dry else max(2, math.ceil(WINDOW_S / slowest_s))
    rates = bench.rates(sides, budget_s=30)
    tflop = teraflop(name, shape[-1])
    found = statistics.median(ratios(rates[AUX], rates[PLAIN]))
    return Result(
        title=f"a training step of ResNet-50, {shape[-1]} px, {'compiled' if compiled else 'eager'}",
        method=f"windows of {sides[PLAIN].steps} steps of {shape[0]} pictures in turn, bf16, channels_last. "
        f"{1e3 * tflop:.3g} GFLOP a picture, counted (1 multiply-add = 2; a step is three forward passes).",
        anchor="by arithmetic auxiliary BN moves activations once more each way: 10 to 20 % of an uncompiled step",
        predicted="at least 0.97x where it is compiled",
        lines=[
            Line(side, {IMAGES: rate, SHARE: bench.share(rate, tflop), "first step s": (firsts[side],)})
            for side, rate in rates.items()
        ],
        ratio_of=IMAGES,
        verdicts=[bench.judge("auxiliary BN, one group: at least 0.97x of one BN", f"{found:.3f}x", found >= 0.97)],
    )


class Training:
    """A model in training; called, it is a side that takes `steps` steps."""

    def __init__(
        self, bench: Bench, name: str, shape: tuple[int, int, int, int], quotas: Sequence[int], compiled: bool
    ) -> None:
        """A group of `quotas` has a BN branch for each domain, as many groups as fill the batch; one domain: plain."""
        import torch

        spec = ModelSpec(name=name, num_classes=CLASSES, aux="bn" if len(quotas) > 1 else "none")
        model = build(spec, quotas, 0, shape[-1]).to(bench.device)
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        how = EngineSpec(kind="single", dtype="fp32" if bench.dry else "bf16", compile=compiled, channels_last=True)
        engine = make_engine(how, OPTIM, model, bench.device, shape[0])
        self.descent = Descent(engine, Ema(model, 0.9999), KeptBuffers(model))
        self.quotas = {str(domain): quota for domain, quota in enumerate(quotas)}
        self.steps = 1
        draw = torch.Generator(bench.device).manual_seed(0)  # mean 0 and spread 1, as after normalisation
        pictures = [torch.randn(shape, generator=draw, device=bench.device) for _ in range(2)]
        labels = [torch.randint(0, CLASSES, shape[:1], generator=draw, device=bench.device) for _ in range(2)]
        pictures = [one.contiguous(memory_format=torch.channels_last) for one in pictures]
        self.batches = list(zip(pictures, labels, strict=True))

    def __call__(self, folder: Path) -> int:
        return self.take(self.steps)

    def loss(self, pictures: Any, labels: Any, forward: Forward) -> Loss:
        return loss_of(OPTIM, forward(pictures), labels, None, self.quotas)

    def take(self, steps: int) -> int:
        """Pictures seen. Raises ValueError where the last step did not move: then nothing was measured."""
        for place in range(steps):
            stepped = self.descent.step([partial(self.loss, *self.batches[place % 2])], OPTIM.lr)
        if not stepped.moved:
            raise ValueError("found a loss or a gradient that is not finite, expected numbers; not measured")
        return steps * len(self.batches[0][1])


def teraflop(name: str, size_px: int) -> float:
    """TFLOP of a picture: three times the forward pass; torch's counter does not know that a backward has groups."""
    import timm
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    model = timm.create_model(name, pretrained=False, num_classes=CLASSES).to("meta").train()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(2, 3, size_px, size_px, device="meta"))
    return 3 * counter.get_total_flops() / 2 / 1e12
