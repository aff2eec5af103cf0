"""A small residual network with batch normalisation, for experiments that run on a laptop.

In: images (N, 3, H, W), H and W multiples of 16; made for 64 px. Out: logits (N, num_classes). On disk: nothing.
A ResNet at a hundredth of the cost: a 3 x 3 stem with stride 2, and three stages of one basic block each.
"""

from collections.abc import Sequence

from torch import Tensor, nn

WIDTHS = (32, 64, 128)  # channels of the stages; 0.3 M parameters
WIDE = (64, 128, 256)  # 1.2 M parameters, four times the work


def sandbox_resnet(num_classes: int, drop_path: float = 0.0, widths: Sequence[int] = WIDTHS) -> nn.Module:
    """A network with a stage for each width; its classifier is called `fc`, as in every ResNet."""
    from timm.layers import DropPath

    stages: list[nn.Module] = []
    for index, width in enumerate(widths):
        before = widths[max(index - 1, 0)]
        stages.append(_Block(before, width, DropPath(drop_path * index / (len(widths) - 1))))
    return _SandboxResnet(nn.Sequential(*stages), widths[0], widths[-1], num_classes)


class _SandboxResnet(nn.Module):
    def __init__(self, stages: nn.Sequential, first: int, last: int, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, first, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.stages = stages
        self.fc = nn.Linear(last, num_classes)

    def forward(self, image: Tensor) -> Tensor:
        return self.fc(self.stages(self.bn1(self.conv1(image)).relu()).mean((2, 3)))


class _Block(nn.Module):
    """Two 3 x 3 convolutions beside a 1 x 1 one; halves height and width."""

    def __init__(self, before: int, width: int, drop_path: nn.Module) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = nn.Conv2d(before, width, 1, stride=2, bias=False)
        self.shortcut_bn = nn.BatchNorm2d(width)
        self.drop_path = drop_path

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (self.drop_path(y) + self.shortcut_bn(self.shortcut(x))).relu()
