"""A small convolutional family for work on CPUs: ``cnn-WIDTH-DEPTH``."""

from torch import Tensor, nn


class Cnn(nn.Module):
    """A small CNN: ``depth`` layers of 3×3 convolution, BatchNorm, ReLU; then the mean over pixels and a linear layer.

    Widths are W, 2W, 2W, 4W, 4W, ...; the image is halved where the width doubles. Any image of 4×4 or more.

    Shapes: (B, channels, H, W) → (B, classes).
    """

    def __init__(self, width: int, depth: int, classes: int, channels: int) -> None:
        super().__init__()
        widths = [width * 2 ** ((i + 1) // 2) for i in range(depth)]
        layers: list[nn.Module] = []
        for i, (before, after) in enumerate(zip([channels, *widths], widths, strict=False)):
            stride = 2 if i > 0 and after > before else 1
            layers += [nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.fc = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x).mean((2, 3)))  # type: ignore[no-any-return]
