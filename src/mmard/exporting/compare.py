"""Does an exported model say what the network says?"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmard.core.errors import MmardError

TOLERANCE = 1e-4
"""Most that a float export may differ, as a share of the largest logit (of 1, where that is smaller)."""


@dataclass(frozen=True)
class Comparison:
    """Two networks on the same images.

    Attributes:
        images: how many.
        largest, mean: absolute difference of two logits.
        allowed: the largest that a float export may have.
        agree: share of the images in the same class.
    """

    images: int
    largest: float
    mean: float
    allowed: float
    agree: float

    def must_be_close(self, what: str) -> None:
        """Raise unless the logits are the same up to rounding."""
        if not self.largest <= self.allowed:  # also for a NaN
            raise MmardError(
                f"{what} is not the network it was made from: logits differ by up to {self.largest:.2g}, allowed is "
                f"{self.allowed:.2g}; nothing was written"
            )

    def __str__(self) -> str:
        said = f"logits differ by up to {self.largest:.2g} (mean {self.mean:.2g})"
        return f"{said} from the network's on {self.images} held-out images, the class is the same on {self.agree:.1%}"


@torch.no_grad()
def compare(network: nn.Module, other: nn.Module, images: Tensor, batch_size: int = 64) -> Comparison:
    """Compare on images (N, C, H, W) in [0, 1]."""
    parts = torch.split(images, batch_size)
    a, b = (torch.cat([model(x) for x in parts]) for model in (network, other))
    gap, allowed = (a - b).abs(), TOLERANCE * max(1.0, a.abs().max().item())
    agree = torch.eq(a.argmax(1), b.argmax(1)).double().mean().item()
    return Comparison(len(images), gap.max().item(), gap.mean().item(), allowed, agree)
