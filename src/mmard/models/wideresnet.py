"""WideResNet (Zagoruyko & Komodakis, 2016, arXiv 1605.07146) in the layout of the TRADES code.

Parameter names are those of its public checkpoints: ``block1.layer.0.convShortcut.weight`` and so on. Some of these
also hold a ``sub_block1`` that no forward pass uses; `mmard.models.weights` leaves it out.
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from mmard.utils.errors import MmardError


class BasicBlock(nn.Module):
    """A pre-activation block: BN-ReLU-conv twice, with a 1×1 shortcut where the width changes."""

    def __init__(self, before: int, after: int, stride: int, activation: Callable[[Tensor], Tensor] = F.relu) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(before)
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.convShortcut = nn.Conv2d(before, after, 1, stride, bias=False) if before != after else None
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        active = self.activation(self.bn1(x))
        out = self.conv2(self.activation(self.bn2(self.conv1(active))))
        return out + (x if self.convShortcut is None else self.convShortcut(active))  # type: ignore[no-any-return]


class NetworkBlock(nn.Module):
    """A sequence of blocks of one width."""

    def __init__(
        self, n: int, before: int, after: int, stride: int, activation: Callable[[Tensor], Tensor] = F.relu
    ) -> None:
        super().__init__()
        sizes = [(before if i == 0 else after, stride if i == 0 else 1) for i in range(n)]
        self.layer = nn.Sequential(*(BasicBlock(width, after, step, activation) for width, step in sizes))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)  # type: ignore[no-any-return]


class WideResNet(nn.Module):
    """WideResNet WRN-depth-widen: (B, channels, H, W) → (B, classes); H and W are divided by 4."""

    def __init__(
        self,
        depth: int,
        widen: int,
        classes: int,
        channels: int,
        activation: Callable[[Tensor], Tensor] = F.relu,
    ) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise MmardError(f"a WideResNet's depth is 6n + 4, got {depth}; for instance 16, 28, 34")
        n, widths = (depth - 4) // 6, (16, 16 * widen, 32 * widen, 64 * widen)
        self.conv1 = nn.Conv2d(channels, widths[0], 3, 1, 1, bias=False)
        self.block1 = NetworkBlock(n, widths[0], widths[1], 1, activation)
        self.block2 = NetworkBlock(n, widths[1], widths[2], 2, activation)
        self.block3 = NetworkBlock(n, widths[2], widths[3], 2, activation)
        self.bn1 = nn.BatchNorm2d(widths[3])
        self.activation = activation
        self.fc = nn.Linear(widths[3], classes)
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        out = self.block3(self.block2(self.block1(self.conv1(x))))
        return self.classify(self.activation(self.bn1(out)).mean((2, 3)))

    def classify(self, features: Tensor) -> Tensor:
        """Compute the logits (B, classes) of pooled features (B, width)."""
        return self.fc(features)  # type: ignore[no-any-return]
