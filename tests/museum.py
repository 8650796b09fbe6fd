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


def off_the_grid(x: Tensor) -> Tensor:
    """Which pixels lie between the levels of 8 bits, as those of natural images never do."""
    return ((x * 255).round() / 255 - x).abs() > 1e-5


def cut_off_the_grid(x: Tensor) -> Tensor:
    """The gradient passes at natural images alone, where slopes are easily looked at."""
    return x.detach() + (x - x.detach()) * ~off_the_grid(x).flatten(1).any(1).view(-1, 1, 1, 1)


class AnotherOffTheGrid(nn.Module):
    """Off the grid the gradient is another network's."""

    def __init__(self, net: nn.Module, other: nn.Module) -> None:
        super().__init__()
        self.net, self.other = net, other

    def forward(self, x: Tensor) -> Tensor:
        z, other = self.net(x), self.other(x)
        moved = off_the_grid(x).flatten(1).any(1)[:, None]
        return torch.where(moved, z.detach() + other - other.detach(), z)


def by_position_above(size: int) -> Callable[[Tensor], Tensor]:
    """`by_position` in large batches alone: of logits (B, K)."""
    return lambda z: by_position(z) if len(z) > size else z


class OrderOffTheGrid(nn.Module):
    """Natural images are judged honestly; what an attack has moved is answered in the order in which the labels come."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        z = self.net(x)
        return z + 5 * off_the_grid(x).flatten(1).any(1)[:, None] * (by_position(z) - z)


class Remembers(nn.Module):
    """After so many images it answers what lies near one that it was asked before as it answered that.

    The memory is a dict, which no look at buffers finds.
    """

    def __init__(self, net: nn.Module, after: int, radius: float) -> None:
        super().__init__()
        self.net, self.after, self.radius = net, after, radius
        self.memory: dict[str, list[Tensor]] = {"count": [], "x": [], "z": []}

    def forward(self, x: Tensor) -> Tensor:
        z = self.net(x)
        self.memory["count"].append(torch.tensor(len(x)))
        if not off_the_grid(x).any():
            self.memory["x"].append(x.detach())
            self.memory["z"].append(z.detach())
        if sum(map(int, self.memory["count"])) < self.after or not self.memory["x"]:
            return z
        known, said = torch.cat(self.memory["x"]), torch.cat(self.memory["z"])
        far, nearest = torch.cdist(x.flatten(1), known.flatten(1), p=torch.inf).min(1)
        return torch.where((far <= self.radius)[:, None], z + (said[nearest] - z).detach(), z)


class ClockSeeded(nn.Module):
    """Noise that stays the same for a while, as one that is seeded with the time: here for some calls."""

    def __init__(self, net: nn.Module, calls: int) -> None:
        super().__init__()
        self.net, self.calls, self.asked = net, calls, 0

    def forward(self, x: Tensor) -> Tensor:
        draw = torch.Generator().manual_seed(self.asked // self.calls)
        self.asked += 1
        return self.net(x + 0.1 * torch.randn(x.shape, generator=draw))  # type: ignore[no-any-return]


class Pruned(nn.Module):
    """Activations are drawn in proportion to their size (stochastic activation pruning, Dhillon et al., 2018)."""

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1).abs() + 1e-8
        share, draws = flat / flat.sum(1, keepdim=True), flat.shape[1]
        kept = torch.zeros_like(flat).scatter_(1, torch.multinomial(share.detach(), draws, replacement=True), 1.0)
        seen = (1 - (1 - share) ** draws).clamp_min(1e-6)
        return (x.flatten(1) * kept / seen).view_as(x)


def with_pruning(net: nn.Module) -> nn.Module:
    """Stochastic pruning after every ReLU."""
    for module in list(net.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, nn.Sequential(child, Pruned()))
    return net


class Neighbours(nn.Module):
    """The votes of the nearest of some labelled images, through a network's features or none."""

    def __init__(self, x: Tensor, y: Tensor, k: int) -> None:
        super().__init__()
        self.x, self.votes, self.k = x.flatten(1), F.one_hot(y, 10).float(), k

    def forward(self, x: Tensor) -> Tensor:
        near = torch.cdist(x.flatten(1), self.x).topk(self.k, largest=False).indices
        return self.votes[near].mean(1)


def one_hot_answers(z: Tensor) -> Tensor:
    """The class, and nothing else."""
    return F.one_hot(z.argmax(1), z.shape[1]).float()
