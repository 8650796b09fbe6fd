"""MobileNetV2 (Sandler et al., 2018, arXiv 1801.04381, table 2) for small images: strides 1 in the first layers.

Parameter names are those of the public CIFAR checkpoints (``layers.0.conv1``, ``linear``).
"""

import torch.nn.functional as F
from torch import Tensor, nn

# expansion, width, repeats, stride of the first; the stem and the second row keep the image's size, unlike on ImageNet
ROWS = [(1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]


class InvertedResidual(nn.Module):
    """An inverted residual: 1×1 expand, 3×3 depthwise, 1×1 project, and a shortcut where the image's size stays."""

    def __init__(self, before: int, after: int, expansion: int, stride: int) -> None:
        super().__init__()
        inner = expansion * before
        self.conv1, self.bn1 = nn.Conv2d(before, inner, 1, bias=False), nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3, self.bn3 = nn.Conv2d(inner, after, 1, bias=False), nn.BatchNorm2d(after)
        self.shortcut = nn.Sequential()
        self.adds = stride == 1
        if self.adds and before != after:
            self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        out = self.bn3(self.conv3(out))
        return out + self.shortcut(x) if self.adds else out  # type: ignore[no-any-return]


class MobileNetV2(nn.Module):
    """MobileNetV2: (B, channels, H, W) → (B, classes); H and W are divided by 8.

    ``percent``: of every layer's width, to the nearest multiple of 8 (the paper's width multiplier times 100).
    """

    def __init__(self, classes: int, channels: int, percent: int = 100) -> None:
        super().__init__()

        def wide(width: int) -> int:
            return max(8, round(width * percent / 800) * 8)

        stem, last = wide(32), wide(1280)
        self.conv1, self.bn1 = nn.Conv2d(channels, stem, 3, 1, 1, bias=False), nn.BatchNorm2d(stem)
        blocks, before = [], stem
        for expansion, width, repeats, stride in ROWS:
            for i in range(repeats):
                blocks.append(InvertedResidual(before, wide(width), expansion, stride if i == 0 else 1))
                before = wide(width)
        self.layers = nn.Sequential(*blocks)
        self.conv2, self.bn2 = nn.Conv2d(before, last, 1, bias=False), nn.BatchNorm2d(last)
        self.linear = nn.Linear(last, classes)

    def forward(self, x: Tensor) -> Tensor:
        out = self.layers(F.relu(self.bn1(self.conv1(x))))
        return self.linear(F.relu(self.bn2(self.conv2(out))).mean((2, 3)))  # type: ignore[no-any-return]
