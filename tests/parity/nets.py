"""Two tiny float64 networks on 1×4×4 images with 4 classes, and a batch of 5 for them."""

import numpy as np
import torch
from torch import Tensor, nn

from mmard.core.method import Method
from mmard.core.threat import Threat
from mmard.core.views import Models, Predict, Views
from mmard.training.step import outer_losses

PIXELS, CLASSES, BATCH = 16, 4, 5
WIDE = Threat(eps=0.4)  # so wide that gradients change sign on the way


class Tiny(nn.Module):
    """W₂ tanh(W₁ x + b₁) + b₂: smooth, curved, small enough for finite differences over every weight."""

    def __init__(self, hidden: int, seed: int) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        shapes = (hidden, PIXELS), (hidden,), (CLASSES, hidden), (CLASSES,)
        sample_crop = (nn.Parameter(torch.randn(shape, dtype=torch.float64, generator=draw)) for shape in shapes)
        self.w1, self.b1, self.w2, self.b2 = sample_crop

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh((x.flatten(1) - 0.5) @ self.w1.T + self.b1) @ self.w2.T + self.b2


def student() -> Tiny:
    """Two hidden units: 46 weights, trainable, in training mode."""
    return Tiny(hidden=2, seed=1)


def teacher() -> Tiny:
    """Another, larger network: frozen, in evaluation mode."""
    return Tiny(hidden=6, seed=2).requires_grad_(False).eval()


def natural() -> Tiny:
    """A second teacher, `teachers.natural`."""
    return Tiny(hidden=4, seed=5).requires_grad_(False).eval()


def weights(net: nn.Module) -> np.ndarray:
    """All the weights in one row."""
    return np.concatenate([p.detach().numpy().ravel() for p in net.parameters()])


def forward(flat: np.ndarray, x: np.ndarray, hidden: int = 2) -> np.ndarray:
    """`Tiny` in numpy, from a row of weights."""
    w1, b1, w2, b2 = np.split(flat, np.cumsum([hidden * PIXELS, hidden, CLASSES * hidden]))
    features = np.tanh((x.reshape(len(x), -1) - 0.5) @ w1.reshape(hidden, PIXELS).T + b1)
    return features @ w2.reshape(CLASSES, hidden).T + b2


def batch() -> tuple[Tensor, Tensor]:
    """Images in [0, 1], some pixels at either end of the range, and labels."""
    draw = torch.Generator().manual_seed(3)
    x = (1.4 * torch.rand(BATCH, 1, 4, 4, dtype=torch.float64, generator=draw) - 0.2).clamp(0, 1)
    return x, torch.tensor([0, 1, 2, 3, 1])


def views(s: nn.Module, t: Predict) -> Views:
    """The views of `batch` under these networks."""
    x, y = batch()
    return Views.of(x, y, torch.arange(len(y)), Models({"student": s, "teacher": t, "natural": natural()}))


def moved(s: nn.Module, t: Predict) -> Views:
    """The same with an adversarial point that no attack made: far enough that every edge has a length."""
    v = views(s, t)
    shift = 0.6 * torch.rand(v.nat.x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(4)) - 0.3
    return v.moved_to((v.nat.x + shift).clamp(0, 1))


def total(method: Method, v: Views, s: nn.Module) -> Tensor:
    """The loss that the trainer descends."""
    return torch.stack(list(outer_losses(method, v, s).values())).sum()
