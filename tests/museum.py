"""Broken defences around an honest network, each of which looks robust to somebody."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Exhibit(nn.Module):
    """An honest network with something before or after it."""

    def __init__(self, net: nn.Module, before: Callable[[Tensor], Tensor], after: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.net, self.before, self.after = net, before, after

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.net(self.before(x)))


def same(x: Tensor) -> Tensor:
    return x


def resized(x: Tensor) -> Tensor:
    """Random resizing and padding (Xie et al., 2018): 8×8 → 6 to 8 pixels, anywhere."""
    size = int(torch.randint(6, 9, ()))
    small = F.interpolate(x, (size, size), mode="bilinear")
    left, top = (int(torch.randint(0, 9 - size, ())) for _ in range(2))
    return F.pad(small, (left, 8 - size - left, top, 8 - size - top))


def quantised(x: Tensor) -> Tensor:
    """Eight levels."""
    return (x * 7).round() / 7


def other_gradient(x: Tensor) -> Tensor:
    """Two levels, with a gradient that is another function's: of the image's square."""
    return x.square() + ((x > 0.5).float() - x.square()).detach()


def jpeg_like(x: Tensor) -> Tensor:
    """Rounded coefficients of a cosine transform of 8×8 blocks."""
    n = torch.arange(8.0, device=x.device)
    basis = torch.cos(torch.pi / 8 * (n[None] + 0.5) * n[:, None]) * 0.5
    basis[0] /= 2**0.5
    coefficients = basis @ x @ basis.T
    return basis.T @ ((coefficients * 8).round() / 8) @ basis


def times(factor: float) -> Callable[[Tensor], Tensor]:
    return lambda z: z * factor


def purified(net: nn.Module) -> Callable[[Tensor], Tensor]:
    """One step up the confidence of a copy, as test-time defences take it; to autograd a constant shift."""

    def step(x: Tensor) -> Tensor:
        with torch.enable_grad():
            moved = x.detach().requires_grad_()
            (grad,) = torch.autograd.grad(net(moved).logsumexp(1).sum(), moved)
        return (x + 0.02 * grad.sign()).clamp(0, 1)

    return step


class Rugged(nn.Module):
    """Ripples on the logits: gradients are there and true, and lead nowhere."""

    def __init__(self, net: nn.Module, height: float) -> None:
        super().__init__()
        self.net, self.height = net, height
        self.signs = torch.randn(64, 10, generator=torch.Generator().manual_seed(0)).sign()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) + self.height * torch.sin(2 * (x.flatten(1) @ self.signs))  # type: ignore[no-any-return]


class WinnersTakeAll(nn.Module):
    """Only the largest share of a layer's activations stays (Xiao et al., 2020)."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        floor = flat.topk(max(1, int(self.share * flat.shape[1])), 1).values[:, -1:]
        return (flat * (flat >= floor)).view_as(x)


class Stubborn(nn.BatchNorm2d):
    """BatchNorm that nobody brings into evaluation mode."""

    def train(self, mode: bool = True) -> "Stubborn":
        self.training = True
        return self


class Secret(nn.BatchNorm2d):
    """The same, and it does not say so."""

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, True, self.momentum, self.eps
        )


class BatchStatistics(nn.BatchNorm2d):
    """Statistics of the batch at hand, which moves no buffer."""

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, None, None, self.weight, self.bias, True, 0.0, self.eps)


def with_norms(net: nn.Module, kind: type[nn.BatchNorm2d]) -> nn.Module:
    """Every BatchNorm becomes one of that kind."""
    for module in net.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = kind
            module.train(False)
    return net


def with_winners(net: nn.Module, share: float) -> nn.Module:
    """Every ReLU becomes winners-take-all."""
    for module in list(net.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, WinnersTakeAll(share))
    return net


def led_by_neighbours(z: Tensor) -> Tensor:
    """Images come sorted, so neighbours know the label."""
    return z + 2 * (z.roll(1, 0) + z.roll(-1, 0))


def by_position(z: Tensor) -> Tensor:
    """The labels' order is known: so is the answer."""
    return z + 5 * F.one_hot(torch.arange(len(z), device=z.device) % z.shape[1], z.shape[1])


class Folded(nn.Module):
    """Dummy classes, which another network knows, folded back outside of the graph (as in Wang et al., 2024)."""

    def __init__(self, net: nn.Module, dummies: nn.Module) -> None:
        super().__init__()
        self.net, self.dummies = net, dummies

    def forward(self, x: Tensor) -> Tensor:
        return 0.2 * self.net(x) + self.dummies(x).detach()


class Normalise(nn.Module):
    """What many put in front of a network."""

    def __init__(self, mean: float, std: float) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([mean]).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor([std]).view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std
