"""Gradient matching without a second backward pass, of IGDM (Lee et al., arXiv 2312.03286) and SAAD."""

from torch import Tensor

from mmard import losses
from mmard.core.objective import term
from mmard.core.views import Views


@term("ramp·KL(t(x+δ)−t(x−δ)‖s(x+δ)−s(x−δ))", divergence=True)
def gradient_match(v: Views, epochs: int = 0) -> Tensor:
    """Measure how far the student's change from x − δ to x + δ = x' is from the teacher's.

    KL of the softmaxes of the differences of logits, times a ramp e / epochs, where e counts epochs from 1. x − δ may
    leave the pixel range. The student sees it after x'.

    Args:
        epochs: length of the ramp; 0: of the training. (The released script of IGDM: 200, whatever the training's length.)
    """
    ramp = (v.epoch + 1) / (epochs or v.epochs)
    minus = v.point(v.nat.x - (v.adv.x - v.nat.x))
    student = v.adv.student - minus.student
    return ramp * losses.kl(v.adv.teacher - minus.teacher, student)
