"""Trust weights: how far a student trusts its teacher, of IAD (Zhu et al., ICLR 2022, arXiv 2106.04928) and AdaIAD."""

import torch
from torch import Tensor

from mmard import losses
from mmard.core.objective import term
from mmard.core.views import Views
from mmard.utils.numbers import beginning


def trust(v: Views, power: float, begin: float) -> Tensor:
    """Weigh samples by A = T(x')_y^power, (B,), in [0, 1]: near 1 where the teacher is right at x'; 1 before ``begin``.

    ``begin`` is in epochs; below 1 a share of the run. The paper: 60 of 200 epochs.
    """
    if v.progress < beginning("introspective trust", begin, v.epochs):
        return torch.ones_like(v.adv.x.flatten(1)[:, 0])
    return (-power * losses.ce(v.adv.teacher, v.y)).exp()


@term("A·KL(T(x')‖S(x')) [A = T(x')_y^{power} from {begin} on]", divergence=True)
def trusted(v: Views, power: float = 0.1, begin: float = 0.3) -> Tensor:
    """Measure how far the student at x' is from the teacher there, where it trusts it."""
    return trust(v, power, begin) * losses.kl(v.adv.teacher, v.adv.student)


@term("(1−A)·KL(S(x)‖S(x')) [A = T(x')_y^{power} from {begin} on]", divergence=True)
def introspect(v: Views, power: float = 0.1, begin: float = 0.3) -> Tensor:
    """Measure how far the student at x' is from itself at x, where it does not trust its teacher; S(x) is not constant.

    S(x) is computed before ``begin`` too, where the term is 0: BatchNorm sees the natural images in every epoch.
    """
    again = losses.kl(v.nat.student, v.adv.student)
    return (1 - trust(v, power, begin)) * again
