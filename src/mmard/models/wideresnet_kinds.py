"""WideResNets of published teachers that differ in a detail from the TRADES code; names as in their checkpoints."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmard.models.wideresnet import NetworkBlock, WideResNet


class StandardisingWideResNet(WideResNet):
    """Brings each image to mean 0 and standard deviation 1 first (MMA, Ding et al., 2020, arXiv 1812.02637)."""

    def forward(self, x: Tensor) -> Tensor:
        mean, std = x.mean((1, 2, 3), keepdim=True), x.std((1, 2, 3), keepdim=True)
        return super().forward((x - mean) / std.clamp_min(x[0].numel() ** -0.5))


class CosineWideResNet(WideResNet):
    """Its logits are cosines between features and classes (Pang et al., 2020, arXiv 2002.08619): between -1 and 1."""

    def __init__(self, depth: int, widen: int, classes: int, channels: int) -> None:
        super().__init__(depth, widen, classes, channels)
        self.fc = nn.Linear(self.fc.in_features, classes, bias=False)

    def classify(self, features: Tensor) -> Tensor:
        return F.linear(F.normalize(features), F.normalize(self.fc.weight))


class PsSilu(nn.Module):
    """SiLU with two learnt shape parameters (Dai et al., 2022, arXiv 2110.05626)."""

    def __init__(self) -> None:
        super().__init__()
        self.beta, self.alpha = nn.Parameter(torch.full((1,), 1e-8)), nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        beta = self.beta.abs()
        return x * (torch.sigmoid(self.alpha.abs() * x) - beta) / (1 - beta)


class StagedWideResNet(nn.Module):
    """WideResNet with a depth and a width for each stage (Huang et al., arXiv 2110.03825 and 2212.11005).

    (B, channels, H, W) → (B, classes); H and W are divided by 4.

    Args:
        depths, widths: blocks and channels of the three stages.
    """

    OTHER_NAMES = ((".shortcut.0.", ".convShortcut."), ("norm1.", "bn1."))
    """What the names of the later paper's checkpoints have, and what it is here."""

    def __init__(
        self,
        depths: Sequence[int],
        widths: Sequence[int],
        classes: int,
        channels: int,
        activation: Callable[[Tensor], Tensor] = F.relu,
    ) -> None:
        super().__init__()
        self.stem_conv = nn.Conv2d(channels, 16, 3, 1, 1, bias=False)
        stages = zip(depths, (16, *widths[:-1]), widths, (1, 2, 2), strict=True)
        self.blocks = nn.ModuleList(NetworkBlock(*sizes, activation) for sizes in stages)
        self.bn1 = nn.BatchNorm2d(widths[-1])
        self.fc = nn.Linear(widths[-1], classes)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        out = self.stem_conv(x)
        for block in self.blocks:
            out = block(out)
        return self.fc(self.activation(self.bn1(out)).mean((2, 3)))  # type: ignore[no-any-return]
