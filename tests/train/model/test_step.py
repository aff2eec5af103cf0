"""One step of a training: what moves, what stays when it must not move, and what is said about it."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from train.model.classifiers import ModelSpec, build
from train.model.ema import Ema
from train.model.engine import EngineSpec, make_engine
from train.model.optim import OptimSpec, loss_of
from train.model.step import Descent, KeptBuffers, Stepped

torch.set_num_threads(1)
CPU = torch.device("cpu")
OPTIM = OptimSpec(optimizer="sgd", lr=0.1, weight_decay=0.0, lam=0.5)
QUOTAS = {"real": 4, "synthetic": 4}


def a_descent(kept: bool = True) -> Descent:
    model = build(ModelSpec(name="sandbox_resnet", num_classes=5), tuple(QUOTAS.values()), 0, 32)
    engine = make_engine(EngineSpec(kind="single"), OPTIM, model, CPU, sum(QUOTAS.values()))
    return Descent(engine, Ema(model, 0.9), KeptBuffers(model) if kept else None)


def step(descent: Descent, pictures: Tensor, labels: Tensor) -> Stepped:
    return descent.step([lambda forward: loss_of(OPTIM, forward(pictures), labels, None, QUOTAS)], 0.1)


def a_batch() -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    return torch.randn(8, 3, 32, 32, generator=draw), torch.randint(0, 5, (8,), generator=draw)


def copies(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in tensors.items()}


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_a_step_moves_weights_statistics_and_average() -> None:
    descent = a_descent()
    model, ema = descent.engine.model, descent.ema
    assert ema is not None
    before, average = copies(model.state_dict()), copies(ema.tensors)
    stepped = step(descent, *a_batch())
    assert stepped.moved
    assert changed(before, model.state_dict()) == set(before)
    assert changed(average, ema.tensors) == set(average)


def test_a_step_says_the_loss_and_that_of_each_domain() -> None:
    descent = a_descent()
    pictures, labels = a_batch()
    twin = a_descent().engine.model
    logits = twin(pictures).detach()
    real, synthetic = (
        float(functional.cross_entropy(logits[rows], labels[rows])) for rows in (slice(0, 4), slice(4, 8))
    )
    stepped = step(descent, pictures, labels)
    assert stepped.names == ("real", "synthetic")
    assert torch.allclose(stepped.numbers[1:], torch.tensor([real, synthetic]))
    assert math.isclose(stepped.loss, (real + 0.5 * synthetic) / 1.5, rel_tol=1e-6)


def test_a_gradient_that_is_not_finite_changes_nothing_at_all() -> None:
    descent = a_descent()
    model, ema = descent.engine.model, descent.ema
    assert ema is not None
    before, average = copies(model.state_dict()), copies(ema.tensors)
    pictures, labels = a_batch()
    stepped = step(descent, pictures * math.inf, labels)
    assert not stepped.moved
    assert math.isnan(stepped.loss)
    assert changed(before, model.state_dict()) == set()
    assert changed(average, ema.tensors) == set()


def test_without_kept_buffers_only_the_running_statistics_show_such_a_step() -> None:
    descent = a_descent(kept=False)
    model = descent.engine.model
    before = copies(model.state_dict())
    pictures, labels = a_batch()
    assert not step(descent, pictures * math.inf, labels).moved
    statistics = {name for name, _ in model.named_buffers()}
    assert changed(before, model.state_dict()) == statistics
