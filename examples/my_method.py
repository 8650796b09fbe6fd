"""A method of one's own, in one's own file: mmard train digits-rslad --method examples/my_method.py:build

RSLAD, with one new idea in each process: examples are also driven to where student and teacher disagree most, and
the student's natural prediction is kept from growing overconfident.
"""

from torch import Tensor

from mmard import Method, Views, losses, term
from mmard.methods import rslad


@term("JS(S(x')‖T(x'))")
def disagreement(v: Views) -> Tensor:
    """How far student and teacher are apart at x', one number per sample."""
    return losses.js(v.adv.student, v.adv.teacher)


@term("−H(S(x))")
def confidence(v: Views) -> Tensor:
    """Minus the entropy of the student's natural prediction."""
    return -losses.entropy(v.nat.student)


def build(weight: float = 0.1) -> Method:
    """RSLAD plus disagreement in the attack and a confidence penalty in the loss."""
    base = rslad()
    return Method(inner=base.inner + disagreement, outer=base.outer + weight * confidence, maximizer=base.maximizer)
