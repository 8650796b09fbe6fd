"""The threat model: a ball around each image, and the range of a pixel."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mmard.utils.errors import MmardError
from mmard.utils.numbers import is_number, shortened

Norm = Literal["linf", "l2"]


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """Reshape one number per sample (B,) so that it broadcasts over the images of ``like`` (B, ...)."""
    return values.view(-1, *[1] * (like.dim() - 1))


@dataclass(frozen=True, kw_only=True)
class Threat:
    """The set of allowed perturbations: ‖x' − x‖ ≤ eps, and every pixel of x' in [lower, upper].

    Args:
        eps: radius, in units of a pixel's range [0, 1]: ``8/255``, not ``8``.
        norm: ``"linf"`` or ``"l2"``, taken over all the pixels and channels of one image.
        lower, upper: range of a pixel.

    Raises:
        MmardError: for a negative radius, one that looks like 255ths, or an unknown norm.
    """

    eps: float
    norm: Norm = "linf"
    lower: float = 0.0
    upper: float = 1.0

    def __post_init__(self) -> None:
        if self.norm not in ("linf", "l2"):
            raise MmardError(f"norm {self.norm!r} is not known; expected 'linf' or 'l2'")
        for name in ("eps", "lower", "upper"):
            if not is_number(value := getattr(self, name)):
                raise MmardError(f"{name} is {shortened(value)}, expected a number such as 8/255")
        if not self.lower < self.upper:
            raise MmardError(f"lower {self.lower:g} and upper {self.upper:g} are no range of a pixel, expected 0 and 1")
        if not self.eps >= 0:
            raise MmardError(f"eps {self.eps:g} is no radius; expected one such as 8/255")
        most = self.upper - self.lower if self.norm == "linf" else 16.0  # L2: larger than any radius in use
        if self.eps > most:
            raise MmardError(f"eps {self.eps:g} > {most:g}: is it in 255ths? then write {self.eps:g}/255")

    def project(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """Project ``x_adv`` (B, ...) into the ball around ``x`` first, then into the pixel range."""
        if self.norm == "linf":
            inside = x_adv.clamp(x - self.eps, x + self.eps)
        else:
            delta = x_adv - x
            length = delta.flatten(1).norm(dim=1).clamp_min(1e-12)
            inside = x + delta * per_sample((self.eps / length).clamp_max(1.0), delta)
        return inside.clamp(self.lower, self.upper)

    def steepest(self, grad: Tensor) -> Tensor:
        """Return the direction of unit norm in which a linear function with gradient ``grad`` (B, ...) grows fastest."""
        if self.norm == "linf":
            return grad.sign()
        return grad / per_sample(grad.flatten(1).norm(dim=1).clamp_min(1e-12), grad)

    def uniform(self, x: Tensor) -> Tensor:
        """Draw a random point of each ball: uniform in the cube for L∞, in the ball's volume for L2."""
        if self.norm == "linf":
            return self.project(x + self.eps * (2 * torch.rand_like(x) - 1), x)
        radius = torch.rand(len(x), device=x.device, dtype=x.dtype) ** (1 / x[0].numel())
        return self.project(x + self.eps * self.steepest(torch.randn_like(x)) * per_sample(radius, x), x)

    def distance(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """Compute ‖x_adv − x‖ of each sample in the threat's norm, (B,)."""
        delta = (x_adv - x).flatten(1)
        return delta.abs().amax(1) if self.norm == "linf" else delta.norm(dim=1)

    def __str__(self) -> str:
        norm = "L∞" if self.norm == "linf" else "L2"
        return f"{norm} {in_255ths(self.eps)}"


def in_255ths(value: float) -> str:
    """Write a radius as people do: ``0.03137`` → ``'8/255'`` where that is what was meant, else four digits."""
    n = value * 255
    return f"{round(n)}/255" if 0 < value < 1 and abs(n - round(n)) < 1e-3 and round(n) < 64 else f"{value:.4g}"
