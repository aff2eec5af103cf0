"""A step of ours beside one put together from timm's parts, as its train.py does it: both do the same."""

from collections.abc import Callable

import pytest
import timm
import torch
from timm.loss import LabelSmoothingCrossEntropy
from torch import Tensor, nn

from train.model.classifiers import ModelSpec, build
from train.model.ema import Ema
from train.model.engine import EngineSpec, make_engine
from train.model.optim import OptimSpec, loss_of, make_optimizer
from train.model.step import Descent, KeptBuffers

CPU, CLASSES, BATCH, SIZE_PX, SMOOTHING = torch.device("cpu"), 1000, 32, 32, 0.1
Step = Callable[[Tensor, Tensor], float]


def our_step(name: str, optim: OptimSpec) -> tuple[nn.Module, Step]:
    model = build(ModelSpec(name=name, num_classes=CLASSES, aux="none"), (BATCH,), 0, SIZE_PX)
    engine = make_engine(EngineSpec(kind="single", dtype="fp32"), optim, model, CPU, BATCH)
    descent = Descent(engine, Ema(model, 0.9), KeptBuffers(model))

    def step(pictures: Tensor, labels: Tensor) -> float:
        return descent.step(
            [lambda forward: loss_of(optim, forward(pictures), labels, None, {"real": BATCH})], optim.lr
        ).loss

    return model, step


def timms_step(name: str, optim: OptimSpec) -> tuple[nn.Module, Step]:
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False, num_classes=CLASSES).train()
    optimizer, criterion = make_optimizer(optim, model), LabelSmoothingCrossEntropy(smoothing=SMOOTHING)

    def step(pictures: Tensor, labels: Tensor) -> float:
        loss = criterion(model(pictures), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.item())

    return model, step


@pytest.mark.parametrize(
    ("name", "optim"),
    [
        ("test_resnet", {"optimizer": "sgd", "lr": 0.1, "weight_decay": 5e-5}),
        ("test_convnext", {"optimizer": "adamw", "lr": 1e-3, "weight_decay": 0.05}),
    ],
)
def test_our_step_and_timms_take_the_same_weights_to_the_same_place(name: str, optim: dict[str, object]) -> None:
    """So neither does less than the other: same network, loss, optimiser, weight decay."""
    spec = OptimSpec.model_validate({**optim, "label_smoothing": SMOOTHING, "ema_decay": 0.9})
    (ours, our), (theirs, their) = our_step(name, spec), timms_step(name, spec)
    start = {key: one.clone() for key, one in ours.state_dict().items()}
    assert all(torch.equal(start[key], one) for key, one in theirs.state_dict().items())
    rng = torch.Generator().manual_seed(0)
    for _ in range(3):
        pictures = torch.randn(BATCH, 3, SIZE_PX, SIZE_PX, generator=rng)
        labels = torch.randint(0, CLASSES, (BATCH,), generator=rng)
        assert our(pictures, labels) == pytest.approx(their(pictures, labels), rel=1e-4)
    for key, one in theirs.state_dict().items():
        moved = (one - start[key]).double().norm()
        assert (ours.state_dict()[key] - one).double().norm() <= 1e-2 * moved + 1e-6, key
