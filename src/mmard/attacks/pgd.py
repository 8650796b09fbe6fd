"""Projected gradient ascent (PGD): one class that makes training examples and evaluates models."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from mmard import losses
from mmard.core.method import Attack, Maximizer
from mmard.core.threat import Threat, in_255ths
from mmard.core.views import Predict
from mmard.utils.errors import MmardError, failing_in_one_line
from mmard.utils.numbers import is_number, must_be_whole_number, shortened

Loss = Callable[[Tensor], Tensor]
Start = Literal["none", "gaussian", "uniform"]
START_NOISE = 0.001  # standard deviation of the gaussian start, in units of a pixel's range (TRADES and after)


class IterativeAttack(Protocol):
    """A maximizer in two parts, so that another attack may choose where it starts."""

    def __call__(self, loss: Loss, x: Tensor, threat: Threat) -> Tensor:
        """Find x' in the ball around x with a large ``loss(x')`` (B,). x (B, C, H, W) in [0, 1]."""
        if not (isinstance(threat, Threat) and isinstance(x, Tensor) and callable(loss)):
            given = f"{shortened(loss)}, {shortened(x)} and {shortened(threat)}"
            raise MmardError(f"an attack is given {given}; expected a loss, images (B, C, H, W) and a Threat")
        return x.clone() if threat.eps == 0 else self.run(loss, x, self.init(loss, x, threat), threat)

    def init(self, loss: Loss, x: Tensor, threat: Threat) -> Tensor:
        """Return the starting point, (B, C, H, W)."""

    def run(self, loss: Loss, x: Tensor, x_adv: Tensor, threat: Threat) -> Tensor:
        """Ascend the loss from ``x_adv`` on and return x'."""


@dataclass(frozen=True, kw_only=True)
class Pgd(IterativeAttack):
    """Projected gradient ascent, last iterate (Madry et al., 2018, arXiv 1706.06083, eq. 3).

    Args:
        steps: number of gradient steps, ≥ 1.
        step_size: length of a step in the threat's norm; None: a quarter of eps (2/255 at 8/255), and the whole
            eps when there is one step.
        start: ``"none"`` x itself, ``"gaussian"`` x + 0.001·N(0, 1), ``"uniform"`` a random point of the ball; clamped.

    Raises:
        MmardError: when a step is longer than eps.
    """

    steps: int = 10
    step_size: float | None = None
    start: Start = "gaussian"

    def __post_init__(self) -> None:
        must_be_whole_number(steps=self.steps)
        if self.start not in ("none", "gaussian", "uniform"):
            raise MmardError(f"start {self.start!r} is not known; expected 'none', 'gaussian' or 'uniform'")
        if self.step_size is None:
            return
        if not is_number(self.step_size):
            raise MmardError(f"step_size is {self.step_size!r}, expected a number such as 2/255")
        if not self.step_size > 0:
            raise MmardError(f"step_size {self.step_size:g} is not positive; expected something like 2/255")

    def step_for(self, threat: Threat) -> float:
        """Return the length of a step under this threat."""
        if self.step_size is None:
            return threat.eps / (4 if self.steps > 1 else 1)
        if self.step_size > threat.eps * (1 + 1e-9):
            raise MmardError(f"step_size {self.step_size:.4f} > eps {threat.eps:.4f}: are the two swapped?")
        return self.step_size

    def run(self, loss: Loss, x: Tensor, x_adv: Tensor, threat: Threat) -> Tensor:
        """Take all the steps from ``x_adv`` on and return the last iterate."""
        step = self.step_for(threat)
        for _ in range(self.steps):
            x_adv.requires_grad_()
            x_adv = threat.project(x_adv.detach() + step * threat.steepest(gradient(loss(x_adv), x_adv)), x)
        return x_adv

    def init(self, loss: Loss, x: Tensor, threat: Threat) -> Tensor:
        """Return the starting point, in the ball."""
        if self.start == "uniform":
            return threat.uniform(x)
        if self.start == "gaussian":
            return threat.project(x + START_NOISE * torch.randn_like(x), x)
        return x.clone()

    def __str__(self) -> str:
        size = ("eps/4" if self.steps > 1 else "eps") if self.step_size is None else in_255ths(self.step_size)
        return f"PGD-{self.steps} (step {size}, start {self.start})"


def gradient(values: Tensor, x_adv: Tensor) -> Tensor:
    """Compute the gradient with respect to x' of the ascended values (B,)."""
    if not isinstance(values, Tensor):
        raise MmardError(f"an attack ascends {shortened(values)}, expected a tensor with one number per sample")
    total = values.sum()
    if not torch.is_grad_enabled():
        raise MmardError(
            "an attack takes gradients, and torch.no_grad or inference_mode forbids them; call it outside of that"
        )
    if not total.requires_grad:
        raise MmardError("what the attack ascends does not depend on x'; is there a detach, or no v.adv in it?")
    with failing_in_one_line("the gradient at x'"):
        (grad,) = torch.autograd.grad(total, x_adv)
    return grad


def untargeted(maximizer: Maximizer, loss: Callable[[Tensor, Tensor], Tensor] = losses.ce) -> Attack:
    """Make an attack on labels that ascends ``loss(logits, y)`` by the maximizer."""

    def attack(predict: Predict, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
        with torch.enable_grad():
            return maximizer(lambda x_adv: loss(predict(x_adv), y), x, threat)

    return attack
