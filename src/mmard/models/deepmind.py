"""WideResNet and PreActResNet-18 with SiLU, in the layout of DeepMind's robust models (arXiv 2010.03593, 2103.01946).

Parameter names are those of their public checkpoints and of the many that follow them: ``layer.0.block.0.conv_0.weight``.
They differ from the older layouts in the activation, in convolutions of stride 2 that pad on the right and below only, and in a
mean and a std that lie in the code and not in the file: a card states them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmard.utils.errors import MmardError

RIGHT_AND_BELOW, AROUND = (0, 1, 0, 1), (1, 1, 1, 1)


class WideBlock(nn.Module):
    """A pre-activation block: BN-SiLU-conv twice, with a 1×1 shortcut where the width changes; MeanSparse where ``sparse``."""

    def __init__(self, before: int, after: int, stride: int, sparse: bool = False) -> None:
        super().__init__()
        self.batchnorm_0, self.batchnorm_1 = nn.BatchNorm2d(before), nn.BatchNorm2d(after)
        self.conv_0 = nn.Conv2d(before, after, 3, stride, bias=False)
        self.conv_1 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.shortcut = nn.Conv2d(before, after, 1, stride, bias=False) if before != after else None
        self.padding = AROUND if stride == 1 else RIGHT_AND_BELOW
        widths = (before, after, after)
        if sparse:
            self.meansparse_0, self.meansparse_1, self.meansparse_2 = map(MeanSparse, widths)
        self.sparse = sparse

    def forward(self, x: Tensor) -> Tensor:
        normal = self.batchnorm_0(x)
        active = F.silu(self.meansparse_0(normal) if self.sparse else normal)
        normal = self.batchnorm_1(self.conv_0(F.pad(active, self.padding)))
        out = self.conv_1(F.silu(self.meansparse_1(normal) if self.sparse else normal))
        out = out + (x if self.shortcut is None else self.shortcut(active))
        return self.meansparse_2(out) if self.sparse else out  # type: ignore[no-any-return]


class WideGroup(nn.Module):
    """A sequence of blocks of one width."""

    def __init__(self, n: int, before: int, after: int, stride: int, sparse: bool = False) -> None:
        super().__init__()
        sizes = [(before if i == 0 else after, stride if i == 0 else 1) for i in range(n)]
        self.block = nn.Sequential(*(WideBlock(width, after, step, sparse) for width, step in sizes))

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)  # type: ignore[no-any-return]


class DeepMindWideResNet(nn.Module):
    """WideResNet of this layout: (B, channels, H, W) → (B, classes); H and W are divided by 4."""

    def __init__(self, depth: int, widen: int, classes: int, channels: int, sparse: bool = False) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise MmardError(f"a WideResNet's depth is 6n + 4, got {depth}; for instance 28, 34, 70")
        n, (a, b, c, d) = (depth - 4) // 6, (16, 16 * widen, 32 * widen, 64 * widen)
        self.init_conv = nn.Conv2d(channels, a, 3, 1, 1, bias=False)
        self.layer = nn.Sequential(
            WideGroup(n, a, b, 1, sparse), WideGroup(n, b, c, 2, sparse), WideGroup(n, c, d, 2, sparse)
        )
        self.batchnorm = nn.BatchNorm2d(d)
        self.meansparse_end = MeanSparse(d) if sparse else None
        self.logits = nn.Linear(d, classes)

    def forward(self, x: Tensor) -> Tensor:
        out = self.batchnorm(self.layer(self.init_conv(x)))
        out = out if self.meansparse_end is None else self.meansparse_end(out)
        return self.logits(F.silu(out).mean((2, 3)))  # type: ignore[no-any-return]


class MeanSparse(nn.Module):
    """Values near their channel's mean become that mean (Amini et al., 2024, arXiv 2406.05927); (B, width, H, W) → the same.

    Near is nearer than ``threshold`` standard deviations. The other buffers are the checkpoints' own and unused.
    """

    running_mean: Tensor
    running_var: Tensor
    threshold: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        for name in ("running_mean", "running_var"):
            self.register_buffer(name, torch.zeros(width))
        for name in ("threshold", "flag_update_statistics", "batch_num"):
            self.register_buffer(name, torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        mean, near = (t.view(1, -1, 1, 1) for t in (self.running_mean, self.threshold * self.running_var.sqrt()))
        return mean.where((x - mean).abs() < near, x)


class PreActBlock(nn.Module):
    """A pre-activation block: BN-SiLU-conv twice, with a 3×3 shortcut from its input where the size changes."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.batchnorm_0, self.batchnorm_1 = nn.BatchNorm2d(before), nn.BatchNorm2d(after)
        self.conv_2d_1 = nn.Conv2d(before, after, 3, stride, bias=False)
        self.conv_2d_2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.shortcut = nn.Conv2d(before, after, 3, stride, bias=False) if stride != 1 or before != after else None
        self.padding = AROUND if stride == 1 else RIGHT_AND_BELOW

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv_2d_1(F.pad(F.silu(self.batchnorm_0(x)), self.padding))
        out = self.conv_2d_2(F.silu(self.batchnorm_1(out)))
        return out + (x if self.shortcut is None else self.shortcut(F.pad(x, self.padding)))  # type: ignore[no-any-return]


class DeepMindPreActResNet18(nn.Module):
    """PreActResNet-18 of this layout: (B, channels, H, W) → (B, classes); H and W are divided by 8."""

    def __init__(self, classes: int, channels: int) -> None:
        super().__init__()
        self.conv_2d = nn.Conv2d(channels, 64, 3, 1, 1, bias=False)
        self.layer_0 = nn.Sequential(PreActBlock(64, 64, 1), PreActBlock(64, 64, 1))
        self.layer_1 = nn.Sequential(PreActBlock(64, 128, 2), PreActBlock(128, 128, 1))
        self.layer_2 = nn.Sequential(PreActBlock(128, 256, 2), PreActBlock(256, 256, 1))
        self.layer_3 = nn.Sequential(PreActBlock(256, 512, 2), PreActBlock(512, 512, 1))
        self.batchnorm = nn.BatchNorm2d(512)
        self.logits = nn.Linear(512, classes)

    def forward(self, x: Tensor) -> Tensor:
        out = self.layer_3(self.layer_2(self.layer_1(self.layer_0(self.conv_2d(x)))))
        return self.logits(F.silu(self.batchnorm(out)).mean((2, 3)))  # type: ignore[no-any-return]
