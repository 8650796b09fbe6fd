"""Samples weighed by how well their examples transfer to the teacher: SAAD (Lee and Chung, arXiv 2512.10275)."""

import math

import torch
from torch import Tensor

from mmard import losses
from mmard.core.objective import term
from mmard.core.views import Views
from mmard.terms.gradient import gradient_match

SCALE = 5.0  # of the released script's weights
TINY = 1e-8


def _weights(v: Views, script: bool) -> tuple[Tensor, Tensor]:
    """Each sample's weight and the same brought into [0, 1], from the teacher's entropy at x', (B,) both."""
    h = losses.entropy(v.adv.teacher)
    if not script:
        return h, h / math.log(v.adv.teacher.shape[1])
    above = h - h.min()
    return SCALE * above, above / above.max().clamp_min(TINY)


@term("w·(KL(T(x')‖S(x')) + {alpha}·ramp·KL(Δt‖Δs)) [w = H(T(x'))]", divergence=True)
def undecided(v: Views, alpha: float = 1.0, script_weights: bool = False) -> Tensor:
    """The student follows the teacher at x', in value and in slope, most where the teacher is undecided there."""
    follow = losses.kl(v.adv.teacher, v.adv.student)
    return _weights(v, script_weights)[0] * (follow + alpha * gradient_match.total(v))


@term("(1−w/log K)·KL(T(x)‖S(x))", divergence=True)
def decided(v: Views, script_weights: bool = False) -> Tensor:
    """The student follows the teacher at x where the teacher is decided at x'."""
    return (1 - _weights(v, script_weights)[1]) * losses.kl(v.nat.teacher, v.nat.student)


def _label_and_slope(v: Views) -> tuple[Tensor, Tensor]:
    """T's logits at x (B, K) and the gradient of the label's one to x: one backward of the teacher."""
    with torch.enable_grad():
        x = v.nat.x.detach().clone().requires_grad_()
        logits = v.point(x).teacher
        (slope,) = torch.autograd.grad(logits.gather(1, v.y[:, None]).sum(), x)
    return logits.detach(), slope


@term("KL(t(x) + ⟨∇t_y(x), x'−x⟩ on y‖S(x'))", divergence=True)
def linear_label(v: Views) -> Tensor:
    """The student at x' leaves the teacher at x, whose logit of the label follows x' to first order."""
    logits, slope = v.nat.once("SAAD: the label's slope", lambda: _label_and_slope(v))
    moved = (slope * (v.adv.x - v.nat.x)).flatten(1).sum(1)
    return losses.kl(logits.scatter_add(1, v.y[:, None], moved[:, None]), v.adv.student)
