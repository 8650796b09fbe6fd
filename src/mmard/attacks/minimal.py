"""Minimal adversarial perturbations: the nearest image at which a network's class changes, with no ball around x.

Fast Adaptive Boundary's idea (Croce & Hein, 2020, arXiv 1907.02044, sec. 3): linearise the gap between two logits, go to the
nearest point of the box on that hyperplane, keep a bias towards the start, and come back to the boundary by bisection.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from mmard import losses
from mmard.core.threat import Norm, Threat, per_sample
from mmard.core.views import Predict
from mmard.utils.errors import MmardError

BEYOND = 1.05  # a step goes a little past the hyperplane, so that a linear network is crossed at once
BIAS = 0.5  # at most so much of a step goes to the hyperplane's point that is nearest to x
BACK = (
    0.8  # from a crossing, go on at this share of the way: 0.9, as in the paper, needs three times as many steps here
)
HALVINGS = 12  # of the last bisection: the distance is then exact to 1/4096 along its line


def onto_hyperplane(
    x: Tensor, slope: Tensor, gap: Tensor, norm: Norm, lower: float = 0.0, upper: float = 1.0
) -> Tensor:
    """Project x onto the hyperplane gap + ⟨slope, z − x⟩ = 0 within the box; the nearest corner where they do not meet.

    Both norms move each pixel by min(s·speed, room) against the slope: at speed 1 for L∞, |slope| for L2. The one
    number s solves a piecewise linear equation, here exactly, by sorting where pixels meet the end of their range.

    Args:
        x, slope: (B, ...); gap: (B,).
    """
    down = -gap.sign()[:, None] * slope.flatten(1)
    flat, size = x.flatten(1), down.abs()
    room = torch.where(down > 0, upper - flat, flat - lower).clamp_min(0)
    speed = torch.ones_like(size) if norm == "linf" else size.clamp_min(1e-12)
    stop, order = (room / speed).sort(1)
    pull = (size * speed).gather(1, order)
    gained = (pull * stop).cumsum(1)
    moving = pull.sum(1, keepdim=True) - pull.cumsum(1)
    short = (gained + stop * moving < gap.abs()[:, None]).sum(
        1, keepdim=True
    )  # pixels at their end before s is reached
    before = torch.nn.functional.pad(gained, (1, 0)).gather(1, short)
    rest = torch.nn.functional.pad(moving, (1, 0)).clone()
    rest[:, 0] = pull.sum(1)
    s = (gap.abs()[:, None] - before) / rest.gather(1, short).clamp_min(1e-12)
    return (flat + down.sign() * torch.minimum(s * speed, room)).view_as(x)


@dataclass(frozen=True, kw_only=True)
class Minimal:
    """A minimal attack: the nearest point found at which the class is no longer ``own``, an upper bound of the distance.

    Args:
        norm: ``"linf"`` or ``"l2"``.
        steps: of each walk.
        targets: so many other classes, the likeliest at x, are walked to, each by itself.
        restarts: further walks to the nearest class found, from random points.
        at_once: images walked at once, to bound memory.
    """

    norm: Norm
    steps: int = 20
    targets: int = 9
    restarts: int = 2
    at_once: int = 1000

    def __post_init__(self) -> None:
        if self.steps < 1 or self.targets < 1 or self.restarts < 0 or self.at_once < 1:
            raise MmardError(f"{self}: steps, targets and at_once are at least 1, restarts at least 0")

    def __call__(self, predict: Predict, x: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        """Find points (B, C, H, W) and their distances (B,): 0 where x has crossed already, inf where nothing was found."""
        with torch.no_grad():
            logits = predict(x)
        likeliest = logits.scatter(1, own[:, None], float("-inf")).argsort(1, descending=True)
        targets = likeliest[:, : min(self.targets, logits.shape[1] - 1)]
        points, distance = x.clone(), torch.where(losses.margin(logits, own) <= 0, 0.0, float("inf"))
        nearest = targets[:, 0].clone()
        for target in targets.unbind(1):
            nearest = torch.where(self._try(predict, x, own, target, x, points, distance), target, nearest)
        for _ in range(self.restarts):
            self._try(predict, x, own, nearest, self._near(x, distance), points, distance)
        return points, distance

    def _try(
        self, predict: Predict, x: Tensor, own: Tensor, target: Tensor, start: Tensor, points: Tensor, distance: Tensor
    ) -> Tensor:
        """Walk to ``target`` where x has not crossed; keeps what is nearer, in place, and tells where (B,)."""
        nearer = torch.zeros_like(own, dtype=torch.bool)
        for rows in torch.split((distance > 0).nonzero()[:, 0], self.at_once):
            found, length = self._walk(predict, x[rows], own[rows], target[rows], start[rows])
            better = length < distance[rows]
            points[rows[better]], distance[rows[better]], nearer[rows[better]] = found[better], length[better], True
        return nearer

    def _walk(self, predict: Predict, x: Tensor, own: Tensor, target: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        best, length = x.clone(), torch.full_like(x[:, 0, 0, 0], float("inf"))
        for _ in range(self.steps):
            gap, slope = _gap(predict, z, own, target)
            toward = onto_hyperplane(z, slope, gap, self.norm) - z
            from_x = onto_hyperplane(x, slope, gap + (slope * (x - z)).flatten(1).sum(1), self.norm) - x
            a, b = self._length(toward), self._length(from_x)
            bias = per_sample((a / (a + b).clamp_min(1e-12)).clamp_max(BIAS), x)
            z = ((1 - bias) * (z + BEYOND * toward) + bias * (x + BEYOND * from_x)).clamp(0, 1)
            crossed, now = _crossed(predict, z, own), self._length(z - x)
            better = crossed & (now < length)
            best, length = torch.where(per_sample(better, x), z, best), torch.where(better, now, length)
            z = torch.where(per_sample(crossed, x), x + BACK * (z - x), z)
        best = _back_to_boundary(predict, x, best, own)
        return best, torch.where(length.isfinite(), self._length(best - x), length)

    def _length(self, delta: Tensor) -> Tensor:
        return Threat(eps=0, norm=self.norm).distance(delta, torch.zeros_like(delta))

    def _near(self, x: Tensor, distance: Tensor) -> Tensor:
        """Draw random points half as far away as the nearest crossing found."""
        noise = 2 * torch.rand_like(x) - 1 if self.norm == "linf" else torch.randn_like(x)
        scale = 0.5 * torch.where(distance.isfinite(), distance, 0.1) / self._length(noise).clamp_min(1e-12)
        return (x + noise * per_sample(scale, x)).clamp(0, 1)


def _gap(predict: Predict, z: Tensor, own: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Compute logit_own − logit_target (B,) at z, and its gradient."""
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        logits = predict(z)
        gap = (logits.gather(1, own[:, None]) - logits.gather(1, target[:, None]))[:, 0]
        (slope,) = torch.autograd.grad(gap.sum(), z)
    return gap.detach(), slope


@torch.no_grad()
def _crossed(predict: Predict, z: Tensor, own: Tensor) -> Tensor:
    return losses.margin(predict(z), own) <= 0


def _back_to_boundary(predict: Predict, x: Tensor, crossed: Tensor, own: Tensor) -> Tensor:
    """Find the point nearest to x on the line to ``crossed`` that has crossed, by bisection."""
    low, high = torch.zeros_like(x[:, 0, 0, 0]), torch.ones_like(x[:, 0, 0, 0])
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        over = _crossed(predict, x + per_sample(middle, x) * (crossed - x), own)
        low, high = torch.where(over, low, middle), torch.where(over, middle, high)
    return x + per_sample(high, x) * (crossed - x)
