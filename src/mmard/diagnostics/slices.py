"""Two-dimensional slices through an image, its example and the teacher's nearest boundary point, with both networks' classes."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mmard import losses
from mmard.core.threat import Threat
from mmard.core.views import Predict

Spot = tuple[float, float]


@dataclass(frozen=True, eq=False)
class Slice:
    """A plane with x at its origin, the teacher's nearest boundary point b on the first axis, and x' in it.

    Attributes:
        across, up: (G,) coordinates, L2 lengths in units of a pixel's range.
        teacher, student: (G, G) class at (up, across), of images that may leave the pixel range.
        teacher_margin, student_margin: (G, G) logit margin of that network's class at x: 0 on its boundary.
        ball: (G, G) distance to x in the threat's norm over eps: 1 on the edge of the ball.
        adv, edge: where x' and b are.
        margins: the teacher's at x and at x'.
    """

    across: Tensor
    up: Tensor
    teacher: Tensor
    student: Tensor
    teacher_margin: Tensor
    student_margin: Tensor
    ball: Tensor
    adv: Spot
    edge: Spot
    margins: tuple[float, float]


def axes(x: Tensor, x_adv: Tensor, edge: Tensor) -> tuple[Tensor, Tensor]:
    """Compute orthonormal directions of the plane, flat: towards ``edge``, and the rest of x' beside that.

    Where x, x' and the edge lie on one line the second direction is any other, the same at each call.
    """
    to_edge, to_adv = (edge - x).flatten(), (x_adv - x).flatten()
    draw = torch.Generator().manual_seed(0)
    prune = [torch.randn(x.numel(), generator=draw).to(x) for _ in range(2)]
    first = next(v for v in (to_edge, to_adv, prune[0]) if v.norm() > 1e-6)
    first = first / first.norm()
    beside = [v - (v @ first) * first for v in (to_adv, prune[1])]
    second = beside[0] if beside[0].norm() > 1e-4 * max(1e-6, to_adv.norm().item()) else beside[1]
    second = second - (second @ first) * first  # once more: the first subtraction leaves rounding
    return first, second / second.norm()


@torch.no_grad()
def cut(
    student: Predict, teacher: Predict, x: Tensor, x_adv: Tensor, edge: Tensor, threat: Threat, points: int = 45
) -> Slice:
    """Evaluate both networks on a slice through one image x (C, H, W), a grid of ``points`` × ``points`` images."""
    first, second = axes(x, x_adv, edge)
    spots = [tuple(float((p - x).flatten() @ axis) for axis in (first, second)) for p in (x_adv, edge)]
    reach = [threat.eps / (a.abs().max().item() if threat.norm == "linf" else 1.0) for a in (first, second)]
    half = 1.15 * max(*reach, *(abs(c) for spot in spots for c in spot), 1e-3)
    line = torch.linspace(-half, half, points, device=x.device)
    up, across = torch.meshgrid(line, line, indexing="ij")
    moved = (up.reshape(-1, 1) * second + across.reshape(-1, 1) * first).view(-1, *x.shape)
    images, natural, shape = x + moved, x[None], (points, points)
    said: dict[str, Tensor] = {}
    for name, network in (("teacher", teacher), ("student", student)):
        logits = torch.cat([network(part) for part in torch.split(images, 500)])
        own = network(natural).argmax(1).expand(len(logits))
        said |= {
            name: logits.argmax(1).view(shape).cpu(),
            f"{name}_margin": losses.margin(logits, own).view(shape).cpu(),
        }
    ball = threat.distance(images, x.expand_as(images)).view(shape).cpu() / max(threat.eps, 1e-12)
    ends = teacher(torch.stack([x, x_adv]))
    natural_margin, adv_margin = losses.margin(ends, ends[:1].argmax(1).expand(2)).tolist()
    adv, b = ((s[0], s[1]) for s in spots)
    return Slice(line.cpu(), line.cpu(), **said, ball=ball, adv=adv, edge=b, margins=(natural_margin, adv_margin))
