"""What a step descends and how far: loss and learning rate."""

import pytest
import torch
from torch.nn import functional as F

from shards.stream.mix import MixSpec, plan_mix
from train.model.input import DeviceMix
from train.model.optim import OptimSpec, learning_rate, loss_of


def test_the_rate_rises_linearly_and_falls_as_a_cosine() -> None:
    spec = OptimSpec(lr=2.0, warmup_steps=3)
    rates = [learning_rate(spec, step, 13) for step in range(13)]
    assert rates[:4] == [0.5, 1.0, 1.5, 2.0]
    assert rates[8] == pytest.approx(1.0)
    assert rates[3:] == sorted(rates[3:], reverse=True)
    assert 0 < rates[-1] < 0.06


def test_the_loss_is_real_plus_lambda_times_the_others_whatever_the_quotas() -> None:
    torch.manual_seed(1)
    logits, labels = torch.randn(14, 5, dtype=torch.float64), torch.randint(5, (14,))
    each = F.cross_entropy(logits.float(), labels, reduction="none", label_smoothing=0.2)
    real = torch.cat([each[0:2], each[7:9]])  # two groups of 2 + 4 + 1
    others = torch.cat([each[2:7], each[9:14]])
    quotas = {"real": 2, "synthetic": 4, "retrieved": 1}
    loss = loss_of(OptimSpec(lr=1, lam=0.5, label_smoothing=0.2), logits, labels, None, quotas)
    torch.testing.assert_close(loss.total, real.mean() + 0.5 * others.mean())
    torch.testing.assert_close(loss.parts["real"], real.mean())
    torch.testing.assert_close(loss.parts["retrieved"], torch.stack([each[6], each[13]]).mean())
    pooled = loss_of(OptimSpec(lr=1, loss="pooled", label_smoothing=0.2), logits, labels, None, quotas)
    torch.testing.assert_close(pooled.total, each.mean())


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
    torch.testing.assert_close(loss.total, each[:2].mean() + each[2:].mean())
