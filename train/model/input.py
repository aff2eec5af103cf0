"""Makes a batch of the stream a model's input: copies it to the device, mixes and normalises it.

In: uint8 pictures (N, H, W, 3) and a `MixPlan`, numpy on the CPU. Out: fp32 (N, 3, H, W). On disk: nothing.

Mixing is that of `shards.stream.mix.apply_mix`, in fp32 on the device, before the pictures are normalised.

Shapes: N pictures, H height, W width.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from shards.stream.mix import MixPlan
from train.model.normalisation import Normalisation


@dataclass(frozen=True, eq=False)
class DeviceMix:
    """A plan on the device, see `MixPlan`."""

    partner_N: Tensor
    share_N: Tensor
    box_N4: Tensor

    @staticmethod
    def of(plan: MixPlan, device: torch.device) -> "DeviceMix":
        """Copy a plan to the device."""
        return DeviceMix(
            torch.from_numpy(plan.partner).to(device, non_blocking=True),
            torch.from_numpy(plan.share).to(device, non_blocking=True),
            torch.from_numpy(plan.box).to(device, non_blocking=True),
        )


def to_input(
    images: npt.NDArray[np.uint8],
    device: torch.device,
    normal: Normalisation,
    mix: DeviceMix | None = None,
    channels_last: bool = False,
) -> Tensor:
    """fp32 (N, 3, H, W). `images` may be overwritten as soon as the device has finished what was asked of it so far."""
    pixels_NHWC = torch.from_numpy(images).to(device, non_blocking=True).float()
    if mix is not None:
        pixels_NHWC = mixed(pixels_NHWC, mix)
    mean_3 = torch.tensor(normal.mean, device=device) * 255
    std_3 = torch.tensor(normal.std, device=device) * 255
    pixels_N3HW = pixels_NHWC.sub(mean_3).div_(std_3).permute(0, 3, 1, 2)
    return pixels_N3HW if channels_last else pixels_N3HW.contiguous()


def mixed(pixels_NHWC: Tensor, mix: DeviceMix) -> Tensor:
    """Mixup where the box is empty, cutmix elsewhere."""
    top_N, left_N, bottom_N, right_N = mix.box_N4.unbind(1)
    rows_H = torch.arange(pixels_NHWC.shape[1], device=pixels_NHWC.device)
    columns_W = torch.arange(pixels_NHWC.shape[2], device=pixels_NHWC.device)
    down_NH = (rows_H >= top_N[:, None]) & (rows_H < bottom_N[:, None])
    across_NW = (columns_W >= left_N[:, None]) & (columns_W < right_N[:, None])
    cut_NHW1 = (down_NH[:, :, None] & across_NW[:, None, :])[..., None]
    is_cut_N = bottom_N > top_N
    share_N111 = torch.where(is_cut_N, 1.0, mix.share_N)[:, None, None, None]
    partner_NHWC = pixels_NHWC[mix.partner_N]
    blend_NHWC = share_N111 * pixels_NHWC + (1 - share_N111) * partner_NHWC
    return torch.where(cut_NHW1, partner_NHWC, blend_NHWC)
