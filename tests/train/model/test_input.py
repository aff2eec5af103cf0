"""Pictures on the device: mixed and normalised."""

import numpy as np
import torch

from shards.stream.mix import MixSpec, apply_mix, plan_mix
from train.model.input import DeviceMix, to_input
from train.model.normalisation import IMAGENET


def test_a_batch_on_the_device_is_what_the_plan_says() -> None:
    rng = np.random.default_rng(5)
    images = rng.integers(0, 256, (12, 16, 16, 3), np.uint8)
    spec = MixSpec(mixup_alpha=1.0, cutmix_alpha=1.0, per="sample")
    plan = plan_mix(spec, (3, 3), 16, 1, 2, 0, 2)
    mix = DeviceMix.of(plan, torch.device("cpu"))
    found = to_input(images, torch.device("cpu"), IMAGENET, mix)
    wanted = (apply_mix(images, plan) / 255 - np.array(IMAGENET.mean)) / np.array(IMAGENET.std)
    np.testing.assert_allclose(found.permute(0, 2, 3, 1).numpy(), wanted, atol=2e-5)
    assert found.is_contiguous()
    assert to_input(images, torch.device("cpu"), IMAGENET, mix, True).is_contiguous(memory_format=torch.channels_last)
