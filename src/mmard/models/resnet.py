"""ResNet-18 and -50 (He et al., 2016, arXiv 1512.03385) and PreActResNet-18 (arXiv 1603.05027) for small images.

The first convolution is 3×3 with stride 1 and there is no pooling before the blocks, as usual on CIFAR. Parameter
names are those of the public CIFAR checkpoints (``layer1.0.conv1``, ``shortcut.0``, ``linear``).
"""

import torch.nn.functional as F
from torch import Tensor, nn


def conv3x3(before: int, after: int, stride: int = 1) -> nn.Conv2d:
    """Make a 3×3 convolution without bias, because BatchNorm follows."""
    return nn.Conv2d(before, after, 3, stride, 1, bias=False)


class Block(nn.Module):
    """A residual block: conv-BN-ReLU, conv-BN, plus the shortcut, ReLU."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv3x3(before, after, stride), nn.BatchNorm2d(after)
        self.conv2, self.bn2 = conv3x3(after, after), nn.BatchNorm2d(after)
        self.shortcut = nn.Sequential()
        if stride != 1 or before != after:
            self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + self.shortcut(x))


class Bottleneck(nn.Module):
    """A residual block of three convolutions, 1×1, 3×3, 1×1 to four times the width, plus the shortcut, ReLU."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        after = 4 * width
        self.conv1, self.bn1 = nn.Conv2d(before, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv3x3(width, width, stride), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, after, 1, bias=False), nn.BatchNorm2d(after)
        self.shortcut = nn.Sequential()
        if stride != 1 or before != after:
            self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        return F.relu(self.bn3(self.conv3(out)) + self.shortcut(x))


class PreActBlock(nn.Module):
    """A pre-activation residual block: BN-ReLU-conv twice, plus the shortcut."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(before), conv3x3(before, after, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(after), conv3x3(after, after)
        self.shortcut: nn.Module | None = None
        if stride != 1 or before != after:
            self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))
        out = self.conv2(F.relu(self.bn2(self.conv1(active))))
        return out + (x if self.shortcut is None else self.shortcut(active))  # type: ignore[no-any-return]


class PlainPreActBlock(PreActBlock):
    """The same, its shortcut from what comes in instead of from its BN-ReLU."""

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv2(F.relu(self.bn2(self.conv1(F.relu(self.bn1(x))))))
        return out + (x if self.shortcut is None else self.shortcut(x))  # type: ignore[no-any-return]


class PlainPreActResNet18(nn.Module):
    """PreActResNet-18 as fast adversarial training has it (Wong et al., 2020, arXiv 2001.03994): no BN-ReLU before the pooling.

    (B, channels, H, W) → (B, classes).
    """

    def __init__(self, classes: int, channels: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(channels, 64)
        self.layer1 = nn.Sequential(PlainPreActBlock(64, 64, 1), PlainPreActBlock(64, 64, 1))
        self.layer2 = nn.Sequential(PlainPreActBlock(64, 128, 2), PlainPreActBlock(128, 128, 1))
        self.layer3 = nn.Sequential(PlainPreActBlock(128, 256, 2), PlainPreActBlock(256, 256, 1))
        self.layer4 = nn.Sequential(PlainPreActBlock(256, 512, 2), PlainPreActBlock(512, 512, 1))
        self.linear = nn.Linear(512, classes)

    def forward(self, x: Tensor) -> Tensor:
        out = self.layer4(self.layer3(self.layer2(self.layer1(self.conv1(x)))))
        return self.linear(out.mean((2, 3)))  # type: ignore[no-any-return]


class ResNet50(nn.Module):
    """ResNet-50: four stages of 3, 4, 6 and 3 blocks, widths 256 to 2048. (B, channels, H, W) → (B, classes)."""

    def __init__(self, classes: int, channels: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv3x3(channels, 64), nn.BatchNorm2d(64)
        self.layer1 = _bottlenecks(3, 64, 64, 1)
        self.layer2 = _bottlenecks(4, 256, 128, 2)
        self.layer3 = _bottlenecks(6, 512, 256, 2)
        self.layer4 = _bottlenecks(3, 1024, 512, 2)
        self.linear = nn.Linear(2048, classes)

    def forward(self, x: Tensor) -> Tensor:
        out = self.layer4(self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x)))))))
        return self.linear(out.mean((2, 3)))  # type: ignore[no-any-return]


def _bottlenecks(n: int, before: int, width: int, stride: int) -> nn.Sequential:
    return nn.Sequential(Bottleneck(before, width, stride), *(Bottleneck(4 * width, width, 1) for _ in range(n - 1)))


class ResNet18(nn.Module):
    """ResNet-18: four stages of two blocks, widths 64 to 512. (B, channels, H, W) → (B, classes)."""

    def __init__(self, classes: int, channels: int, pre_activation: bool = False) -> None:
        super().__init__()
        block = PreActBlock if pre_activation else Block
        self.conv1 = conv3x3(channels, 64)
        if not pre_activation:
            self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = nn.Sequential(block(64, 64, 1), block(64, 64, 1))
        self.layer2 = nn.Sequential(block(64, 128, 2), block(128, 128, 1))
        self.layer3 = nn.Sequential(block(128, 256, 2), block(256, 256, 1))
        self.layer4 = nn.Sequential(block(256, 512, 2), block(512, 512, 1))
        if pre_activation:
            self.bn = nn.BatchNorm2d(512)
        self.linear = nn.Linear(512, classes)
        self.pre_activation = pre_activation

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(x) if self.pre_activation else F.relu(self.bn1(self.conv1(x)))
        out = self.layer4(self.layer3(self.layer2(self.layer1(out))))
        out = F.relu(self.bn(out)) if self.pre_activation else out
        return self.linear(out.mean((2, 3)))  # type: ignore[no-any-return]
