"""The margin loss of Carlini and Wagner under a bounded threat."""

from torch import Tensor

from mmard import losses
from mmard.attacks.pgd import Pgd, untargeted
from mmard.core.method import Attack


def cw_loss(logits: Tensor, y: Tensor) -> Tensor:
    """Compute the margin loss max_{k≠y} z_k − z_y, (B,): their f6 without the floor (arXiv 1608.04644, sec. V-A)."""
    return -losses.margin(logits, y)


def cw(pgd: Pgd) -> Attack:
    """Ascend the margin loss by PGD: "C&W∞" of the adversarial training literature."""
    return untargeted(pgd, cw_loss)
