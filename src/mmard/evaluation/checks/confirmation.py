"""Confirmation of a failed gradient check: gradient attacks against gradient-free ones on a few images."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from mmard.attacks.cw import cw_loss
from mmard.attacks.pgd import Pgd, untargeted
from mmard.attacks.square import Square
from mmard.core.method import Attack
from mmard.core.threat import Threat, per_sample
from mmard.core.views import Predict
from mmard.data.images import Images
from mmard.evaluation.checks.probes import first_found, fitted, transferred
from mmard.evaluation.scores import is_no_fluke
from mmard.utils.errors import MmardError

TRIED, QUERIES, STEPS, DRAWS = 50, 200, 20, 10
NONE_LEFT = 0.02  # of the images


@dataclass(frozen=True)
class Attempt:
    """Images broken by a gradient attack alone and by gradient-free attacks alone.

    Attributes:
        by_gradient, blindly: how many of ``count`` images only the one kind broke.
        left: share of the images that the gradient attack left right.
    """

    by_gradient: int
    blindly: int
    count: int
    left: float

    @property
    def agrees(self) -> bool:
        """Tell whether a gradient-free attack breaks what the gradient attack does not."""
        return is_no_fluke(self.blindly, self.count)

    @property
    def clears(self) -> bool:
        """Tell whether the gradient attack breaks more than any gradient-free one, or nearly everything."""
        return not self.agrees and (is_no_fluke(self.by_gradient, self.count) or self.left <= NONE_LEFT)

    def __str__(self) -> str:
        return f"attacks without the gradient broke {self.blindly} of {self.count} images that PGD left"


def try_attacks(model: nn.Module, x: Tensor, y: Tensor, threat: Threat) -> Attempt:
    """Attack at most `TRIED` of the images x (N, C, H, W) in [0, 1] with and without gradients.

    By the gradient of the margin: `STEPS` steps. Without it: random points of the ball, Square with `QUERIES` queries, and
    examples made on a small network that is fitted to these images.
    """
    x, y = x[:TRIED], y[:TRIED]
    by_gradient = _survives(model, first_found(Pgd(steps=STEPS, start="uniform")), x, y, threat)
    blindly = torch.ones_like(by_gradient)
    tried = Attempt(0, 0, len(y), by_gradient.double().mean().item())
    for attack in _blind(x, y, model):
        blindly &= _survives(model, attack(), x, y, threat)
        alone = [int((one & ~other).sum()) for one, other in ((blindly, by_gradient), (by_gradient, blindly))]
        tried = replace(tried, by_gradient=alone[0], blindly=alone[1])
        if tried.agrees:
            break
    return tried


def losses_part(model: nn.Module, x: Tensor, y: Tensor, threat: Threat) -> bool:
    """Tell whether PGD on the margin breaks more than PGD on the cross-entropy."""
    x, y = x[:TRIED], y[:TRIED]
    pgd = Pgd(steps=STEPS, start="uniform")
    margin = _survives(model, untargeted(pgd, cw_loss), x, y, threat)
    entropy = _survives(model, untargeted(pgd), x, y, threat)
    return is_no_fluke(int((entropy & ~margin).sum()), len(y))


def _blind(x: Tensor, y: Tensor, model: nn.Module) -> list[Callable[[], Attack]]:
    """List the gradient-free attacks, the cheapest first, each made when it is its turn."""
    with torch.no_grad():
        classes = model(x[:1]).shape[1]
    images = Images.of(x.cpu(), y.cpu(), tuple(map(str, range(classes)))).to(x.device)
    pgd = Pgd(steps=STEPS, start="uniform")
    return [lambda: noise, lambda: Square(queries=QUERIES), lambda: transferred(fitted(images), pgd)]


def noise(predict: Predict, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
    """Find the last of `DRAWS` random points of each ball that is classified wrong; x where none is."""
    found = x
    with torch.no_grad():
        for _ in range(DRAWS):
            drawn = threat.uniform(x)
            found = torch.where(per_sample(torch.ne(predict(drawn).argmax(1), y), x), drawn, found)
    return found


def _survives(model: nn.Module, attack: Attack, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
    """Tell which images are classified right after the attack, (N,) bool; all where it is not made for such images."""
    try:
        x_adv = attack(model, x, y, threat)
    except MmardError:
        return torch.ones_like(y, dtype=torch.bool)
    with torch.no_grad():
        return torch.eq(model(x_adv).argmax(1), y)
