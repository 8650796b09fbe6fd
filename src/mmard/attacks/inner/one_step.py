"""Inner attacks of one gradient step, with more noise than the ball holds or a longer step than its radius.

Both are guards against catastrophic overfitting, in which a student learns to resist one step and nothing else.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from mmard.attacks.pgd import IterativeAttack, Loss, gradient
from mmard.core.threat import Threat
from mmard.utils.errors import MmardError


@dataclass(frozen=True, kw_only=True)
class OneStep(IterativeAttack):
    """Uniform noise, then one sign step: x' is up to (noise + length)·eps from x unless clipped; pixels stay in range.

    Args:
        name: as it is shown.
        noise: half the width of the noise, in eps.
        length: of the step, in eps.
        clipped: bring the result back into the ball.

    Raises:
        MmardError: for L2, for which neither process was written.
    """

    name: str
    noise: float
    length: float
    clipped: bool

    def init(self, loss: Loss, x: Tensor, threat: Threat) -> Tensor:
        """Add uniform noise to x; pixels stay in range."""
        if threat.norm != "linf":
            raise MmardError(f"{self.name} is for linf, the threat is {threat.norm}; choose attack.kind=pgd")
        noise = self.noise * threat.eps * (2 * torch.rand_like(x) - 1)
        return (x + noise).clamp(threat.lower, threat.upper)

    def run(self, loss: Loss, x: Tensor, x_adv: Tensor, threat: Threat) -> Tensor:
        """Take the one sign step from ``x_adv``."""
        x_adv.requires_grad_()
        grad = gradient(loss(x_adv), x_adv)
        x_adv = x_adv.detach() + self.length * threat.eps * threat.steepest(grad)
        return threat.project(x_adv, x) if self.clipped else x_adv.clamp(threat.lower, threat.upper)

    def __str__(self) -> str:
        kept = "clipped" if self.clipped else "not clipped"
        return f"{self.name} (noise ±{self.noise:g} eps, one step of {self.length:g} eps, {kept})"


RS_FGSM = OneStep(name="RS-FGSM", noise=1.0, length=1.25, clipped=True)
"""Wong, Rice & Kolter, "Fast is better than free", ICLR 2020, arXiv 2001.03994, algorithm 3; its CIFAR-10 step, 10/255 at 8/255."""

N_FGSM = OneStep(name="N-FGSM", noise=2.0, length=1.0, clipped=False)
"""De Jorge et al., "Make Some Noise", NeurIPS 2022, arXiv 2202.01181: noise, then a step, and no clipping to the ball."""
