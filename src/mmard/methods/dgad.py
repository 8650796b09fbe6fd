"""DGAD, dynamic guidance: AdaAD whose teacher is corrected where it errs, and asked about x alone where it errs there.

x' is AdaAD's. A sample whose x the teacher gets wrong learns KL(T̃(x)‖S(x)), any other KL(T̃(x')‖S(x')); T̃ has the logits of the
label and of the class that wins over it swapped, where one does. To that β times the mean over classes of (S(x') − S(x))²,
probabilities, with the gradient into both. BatchNorm sees x, then x'. The release's loss for MobileNetV2 has a bracket in
the wrong place (not offered).
"""

import torch
from torch import Tensor

from mmard import losses
from mmard.attacks.pgd import Pgd
from mmard.core.method import Method
from mmard.core.objective import term
from mmard.core.views import Views
from mmard.methods.papers import Citation
from mmard.terms import soft_moved
from mmard.utils.calls import checked
from mmard.utils.validation import NotNegative

CITATION = Citation(
    authors="Park and Min",
    title="Dynamic Guidance Adversarial Distillation with Enhanced Teacher Knowledge",
    venue="ECCV",
    year=2024,
    arxiv="2409.01627",
)


def _corrected(logits: Tensor, y: Tensor) -> Tensor:
    """Swap the logits of the label and of the class that wins, which may be the label itself."""
    own, (most, winner) = logits.gather(1, y[:, None]), logits.max(1, keepdim=True)
    return logits.scatter(1, winner, own).scatter(1, y[:, None], most)


@term("KL(T̃(x)‖S(x)) [T(x) wrong], KL(T̃(x')‖S(x')) [T(x) right]", divergence=True)
def guided(v: Views) -> Tensor:
    """Follow the corrected teacher at x where it errs there, and at x' elsewhere."""
    natural = losses.kl(_corrected(v.nat.teacher, v.y), v.nat.student)
    robust = losses.kl(_corrected(v.adv.teacher, v.y), v.adv.student)
    return torch.where(v.nat.teacher.argmax(1) == v.y, robust, natural)


@term("MSE(S(x'), S(x))")
def consistent(v: Views) -> Tensor:
    """Compare the student's probabilities at x' and at x: the mean over classes of their squared difference."""
    return (v.adv.student.softmax(1) - v.nat.student.softmax(1)).square().mean(1)


@checked
def dgad(beta: NotNegative = 1.0) -> Method:
    """DGAD (Park 2024): AdaAD with a corrected teacher; what that gets wrong at x is learnt from x alone."""
    return Method(
        name="dgad",
        inner=soft_moved,
        outer=guided + beta * consistent,
        maximizer=Pgd(steps=10, start="gaussian"),
    )
