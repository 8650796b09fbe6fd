"""Honest networks as other people write them: none of this package's code, each trained for seconds."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmard.data.images import Images


def conv(inputs: int, outputs: int, stride: int = 1, groups: int = 1, size: int = 3) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)


class Residual(nn.Module):
    """GroupNorm, as where batches are small."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.a, self.b = conv(width, width), conv(width, width)
        self.norm_a, self.norm_b = nn.GroupNorm(4, width), nn.GroupNorm(4, width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm_b(self.b(F.relu(self.norm_a(self.a(x))))))


class MBConv(nn.Module):
    """Expand, filter each channel, weigh the channels, project (Tan & Le, 2019)."""

    def __init__(self, width: int, act: type[nn.Module], excite: bool) -> None:
        super().__init__()
        wide = 4 * width
        self.body = nn.Sequential(
            conv(width, wide, size=1), nn.BatchNorm2d(wide), act(), conv(wide, wide, groups=wide), nn.BatchNorm2d(wide), act()
        )  # fmt: skip
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(wide, wide // 8, 1), act(), nn.Conv2d(wide // 8, wide, 1)
        )
        self.out, self.excite = nn.Sequential(conv(wide, width, size=1), nn.BatchNorm2d(width)), excite

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(x)
        return x + self.out(h * self.gate(h).sigmoid() if self.excite else h)


class Views(nn.Module):
    """``.view`` where a flatten would do: it needs contiguous memory."""

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 8, 3, 2, 1)
        self.fc = nn.Linear(channels * size * size + 8 * (size // 2) ** 2, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.cat([x.view(len(x), -1), self.conv(x).relu().view(len(x), -1)], 1))


class Gamma(nn.Module):
    """Linear light from sRGB, roughly: not defined below 0."""

    def __init__(self, power: float) -> None:
        super().__init__()
        self.power = power

    def forward(self, x: Tensor) -> Tensor:
        return x**self.power


class Rescale(nn.Module):
    """[0, 1] → [-1, 1]."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x - 1


class Ensemble(nn.Module):
    """The logarithm of the mean of several networks' probabilities."""

    def __init__(self, *nets: nn.Module) -> None:
        super().__init__()
        self.nets = nn.ModuleList(nets)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([net(x).softmax(1) for net in self.nets]).mean(0).log()


def lenet(channels: int = 1, size: int = 8) -> nn.Module:
    """BatchNorm before max-pooling."""
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(16 * (size // 4) ** 2, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


def pool_before_norm() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.MaxPool2d(2), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1), nn.MaxPool2d(2), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip


def vgg() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Dropout(0.3), nn.Linear(128, 64), nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, 10),
    )  # fmt: skip


def plain(act: type[nn.Module]) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), act(), nn.Conv2d(16, 24, 3, 2, 1), act(), nn.Flatten(), nn.Linear(384, 10)
    )  # fmt: skip


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))


def resnet() -> nn.Module:
    return nn.Sequential(conv(1, 12, 2), Residual(12), Residual(12), nn.Flatten(), nn.Linear(192, 10))


def mobile(act: type[nn.Module], excite: bool) -> nn.Module:
    blocks = (MBConv(8, act, excite), MBConv(8, act, excite))
    return nn.Sequential(
        conv(1, 8), nn.BatchNorm2d(8), act(), *blocks, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128, 10)
    )


ARCHITECTURES: dict[str, Callable[[], nn.Module]] = {
    "ResNet with GroupNorm": resnet,
    "VGG with max-pooling and dropout": vgg,
    "LeNet with BatchNorm": lenet,
    "BatchNorm after max-pooling": pool_before_norm,
    "MobileNet with ReLU6": lambda: mobile(nn.ReLU6, False),
    "EfficientNet with SiLU": lambda: mobile(nn.SiLU, True),
    "MLP": mlp,
    "SiLU": lambda: plain(nn.SiLU),
    "ELU": lambda: plain(nn.ELU),
    "ensemble": lambda: Ensemble(plain(nn.ReLU), mlp()),
    "gamma 2.2": lambda: nn.Sequential(Gamma(2.2), plain(nn.ReLU)),
    "gamma 1/2": lambda: nn.Sequential(Gamma(0.5), plain(nn.ReLU)),
    "input rescaling": lambda: nn.Sequential(Rescale(), plain(nn.ReLU)),
    ".view": lambda: Views(1, 8),
}


def trained(
    net: Callable[[], nn.Module], images: Images, steps: int = 80, batch: int = 64, lr: float = 3e-3
) -> nn.Module:
    """By Adam on cross-entropy; as plainly as everybody does."""
    torch.manual_seed(0)
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    for _ in range(steps):
        x, y, _ = images.batch(torch.randint(len(images), (batch,)))
        optimizer.zero_grad()
        F.cross_entropy(model(x.clone(memory_format=torch.contiguous_format)), y).backward()
        optimizer.step()
    return model.eval()


def as_mnist(images: Images) -> Images:
    """Digits of 8×8 as if they were MNIST: 20×20 pixels in the middle of 28×28, a flat background of 0."""
    x = F.interpolate(images.pixels.float() / 255, (20, 20), mode="bicubic").clamp(0, 1)
    x = F.pad(torch.where(x < 0.25, 0.0, x), (4, 4, 4, 4))
    return Images.of(x, images.labels, images.classes)
