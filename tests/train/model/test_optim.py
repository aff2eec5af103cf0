"""What a step descends and how far: loss and learning rate."""

import pytest
import torch
from torch.nn import functional as F

from shards.stream.mix import MixSpec, plan_mix
from train.model.classifiers import ModelSpec, build
from train.model.engine import EngineSpec, make_engine
from train.model.input import DeviceMix
from train.model.optim import Optimizer, OptimSpec, learning_rate, loss_of, make_optimizer


def test_the_rate_rises_linearly_and_falls_as_a_cosine() -> None:
    spec = OptimSpec(lr=2.0, warmup_steps=3)
    rates = [learning_rate(spec, step, 13) for step in range(13)]
    assert rates[:4] == [0.5, 1.0, 1.5, 2.0]
    assert rates[8] == pytest.approx(1.0)
    assert rates[3:] == sorted(rates[3:], reverse=True)
    assert 0 < rates[-1] < 0.06


def test_a_warm_up_that_ends_at_the_highest_rate_gives_the_published_rates() -> None:
    """Of "The Unmet Promise": lr 1e-5, 500 steps of warm-up, 5,000 in all."""
    spec = OptimSpec(lr=1e-5, warmup_steps=500, warmup="at")
    published = {0: 2e-8, 249: 5e-6, 499: 1e-5, 500: 1e-5, 2750: 5e-6, 4999: 1.2e-12}
    for step, rate in published.items():
        assert learning_rate(spec, step, 5000) == pytest.approx(rate, rel=0.02)


def test_the_rate_starts_from_and_falls_to_its_end() -> None:
    spec = OptimSpec(lr=5e-4, lr_end=1e-8, warmup_steps=10)
    rates = [learning_rate(spec, step, 100) for step in range(101)]
    assert rates[0] == pytest.approx(1e-8 + (5e-4 - 1e-8) / 11)
    assert rates[10] == 5e-4
    assert rates[100] == pytest.approx(1e-8, rel=1e-6)
    with pytest.raises(ValueError, match=r"optim\.lr_end: found 2, expected at most lr, 1; lower it"):
        OptimSpec(lr=1, lr_end=2)


def test_the_optimiser_gets_the_betas_of_the_recipe_and_sgd_refuses_them() -> None:
    model = torch.nn.Linear(2, 2)
    assert make_optimizer(OptimSpec(lr=1, betas=(0.9, 0.95)), model).defaults["betas"] == (0.9, 0.95)
    assert make_optimizer(OptimSpec(lr=1), model).defaults["betas"] == (0.9, 0.999)
    with pytest.raises(ValueError, match=r"optim\.betas: found some with sgd, which has none, expected null"):
        OptimSpec(lr=1, optimizer="sgd", betas=(0.9, 0.95))


@pytest.mark.parametrize(
    ("kind", "lam", "real", "others"),
    [
        ("per_domain", 0.5, 2 / 3, 1 / 3),
        ("per_domain", 1.0, 0.5, 0.5),
        ("per_domain", 0.0, 1.0, 0.0),
        ("per_domain", 4.0, 0.2, 0.8),
        ("convex", 0.8, 0.8, 0.2),
        ("convex", 0.0, 0.0, 1.0),
    ],
)
def test_the_loss_is_a_weighted_mean_of_domains_whatever_the_quotas(
    kind: str, lam: float, real: float, others: float
) -> None:
    torch.manual_seed(1)
    logits, labels = torch.randn(14, 5, dtype=torch.float64), torch.randint(5, (14,))
    each = F.cross_entropy(logits.float(), labels, reduction="none", label_smoothing=0.2)
    rows = {
        "real": [0, 1, 7, 8],
        "synthetic": [2, 3, 4, 5, 9, 10, 11, 12],
        "retrieved": [6, 13],
    }  # 2 groups of 2 + 4 + 1
    means = {name: each[places].mean() for name, places in rows.items()}
    quotas = {"real": 2, "synthetic": 4, "retrieved": 1}
    spec = OptimSpec.model_validate({"lr": 1, "lam": lam, "loss": kind, "label_smoothing": 0.2})
    loss = loss_of(spec, logits, labels, None, quotas)
    expected = real * means["real"] + others * (means["synthetic"] + means["retrieved"]) / 2
    torch.testing.assert_close(loss.total, expected)
    for name, mean in means.items():
        torch.testing.assert_close(loss.parts[name], mean)
    pooled = loss_of(OptimSpec(lr=1, loss="pooled", label_smoothing=0.2), logits, labels, None, quotas)
    torch.testing.assert_close(pooled.total, each.mean())


def test_a_step_is_as_long_for_every_weight_of_the_others() -> None:
    """Of two domains with the same pictures: then the weights cancel, and so they must in the gradient."""
    torch.manual_seed(2)
    half, labels = torch.randn(4, 5), torch.randint(5, (4,)).repeat(2)
    norms = []
    for lam in (0.0, 0.5, 1.0, 8.0):
        logits = half.repeat(2, 1).requires_grad_()
        loss_of(OptimSpec(lr=1, lam=lam), logits, labels, None, {"real": 4, "synthetic": 4}).total.backward()
        norms.append((logits.grad[:4] + logits.grad[4:]).norm().item())
    assert norms == pytest.approx(norms[:1] * 4)


def test_a_convex_weight_above_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"optim\.lam: found 1\.5 with loss: convex, expected 0 to 1"):
        OptimSpec(lr=1, lam=1.5, loss="convex")


def test_the_loss_of_a_mixed_sample_is_shared_between_two_labels() -> None:
    plan = plan_mix(MixSpec(mixup_alpha=1.0), (2, 2), 8, 1, 0, 0, 1)
    mix = DeviceMix.of(plan, torch.device("cpu"))
    torch.manual_seed(0)
    logits, labels = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    soft = torch.zeros(4, 3)
    for row in range(4):
        soft[row, labels[row]] += mix.share_N[row]
        soft[row, labels[mix.partner_N[row]]] += 1 - mix.share_N[row]
    each = -(soft * logits.log_softmax(1)).sum(1)
    loss = loss_of(OptimSpec(lr=1), logits, labels, mix, {"real": 2, "synthetic": 2})
    torch.testing.assert_close(loss.total, (each[:2].mean() + each[2:].mean()) / 2)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "lamb"])
def test_all_but_the_classifier_have_a_rate_of_their_own_in_every_step(optimizer: Optimizer) -> None:
    model = build(ModelSpec(name="sandbox_resnet", num_classes=5, aux="none"), (4,), 0, 32)
    spec = OptimSpec(optimizer=optimizer, lr=0.5, lr_backbone=0.1, weight_decay=0.2)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    engine = make_engine(EngineSpec(kind="single"), spec, model, torch.device("cpu"), 4)
    groups = make_optimizer(spec, model).param_groups
    found = {names[id(one)]: (group["lr_scale"], group["weight_decay"]) for group in groups for one in group["params"]}
    assert found.keys() == set(names.values())
    for name, (scale, decay) in found.items():
        assert scale == (1.0 if name.startswith("fc.") else 0.1), name
        assert decay == (0.0 if dict(model.named_parameters())[name].ndim <= 1 else 0.2), name
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    pictures = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    assert engine.step([lambda: engine.forward(pictures).square().mean()], 0.0)
    assert all(torch.equal(before[name], parameter) for name, parameter in model.named_parameters())


def test_sgd_moves_what_has_a_tenth_of_the_rate_a_tenth_as_far() -> None:
    pictures = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    moved = []
    for factor in (1.0, 0.1):
        model = build(ModelSpec(name="sandbox_resnet", num_classes=5, aux="none"), (4,), 0, 32).double()
        before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        spec = OptimSpec(optimizer="sgd", lr=0.5, lr_backbone=factor, weight_decay=0.0)
        engine = make_engine(EngineSpec(kind="single"), spec, model, torch.device("cpu"), 4)
        engine.step([lambda: engine.forward(pictures.double()).square().mean()], 0.25)  # noqa: B023
        moved.append({name: (parameter.detach() - before[name]) for name, parameter in model.named_parameters()})
    for name, whole in moved[0].items():
        torch.testing.assert_close(
            moved[1][name], whole * (1.0 if name.startswith("fc.") else 0.1), rtol=1e-9, atol=1e-12
        )


def test_a_rate_for_the_rest_of_a_model_that_trains_nothing_else_is_refused() -> None:
    frozen = ModelSpec(name="sandbox_resnet", num_classes=5, aux="none", freeze=("conv1.*", "bn1.*", "stages.*"))
    with pytest.raises(
        ValueError, match=r"optim\.lr_backbone: found 0\.1 for a model that trains no classifier, or not"
    ):
        make_optimizer(OptimSpec(lr=0.1, lr_backbone=0.1), build(frozen, (4,), 0, 32))


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "lamb"])
def test_no_optimiser_shortens_a_gradient_unless_the_recipe_says_so(optimizer: Optimizer) -> None:
    """Two steps along gradients of norm 0.5 and 2000: what the first has of the second is as in one that is not cut."""
    moved = []
    for clip_grad in (None, 1e6, 1.0):
        model = torch.nn.Linear(4, 1, bias=False)
        torch.nn.init.ones_(model.weight)
        spec = OptimSpec(optimizer=optimizer, lr=0.1, weight_decay=0.0, clip_grad=clip_grad)
        engine = make_engine(EngineSpec(kind="single"), spec, model, torch.device("cpu"), 1)
        for size in (0.25, 1000.0):
            assert engine.step([lambda size=size: engine.forward(torch.full((1, 4), size)).sum()], 0.1)  # type: ignore[misc]  # noqa: B023
        state = engine.optimizer_state()
        moved.append(state["momentum_buffer/weight" if optimizer == "sgd" else "exp_avg/weight"])
    assert torch.equal(moved[0], moved[1])
    assert float(moved[0].min()) > 90
    assert float(moved[2].max()) < 1
