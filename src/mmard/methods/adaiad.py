"""AdaIAD, AdaAD with introspection: a live teacher, trusted as far as it is right.

x' maximises KL(T(x')‖S(x')) through both networks; the loss is it at temperature τ, times τ², plus (1 − A)·KL(S(x)‖S(x')) with
A = T(x')_y^0.1 from ``begin`` on, S(x) not constant. BatchNorm sees x, then x'. The release has ``tau=30`` and chooses the
checkpoint on the test set. ``teacher_tau``, not the paper's, divides the teacher's logits, in A too.
"""

from mmard.attacks.pgd import Pgd
from mmard.core.method import Method
from mmard.methods.papers import Citation
from mmard.terms import introspect, soft_moved, soft_moved_hot
from mmard.terms.temperature import Tau, at_temperature
from mmard.utils.calls import checked
from mmard.utils.validation import NotNegative, Positive

CITATION = Citation(
    authors="Huang et al.",
    title="Boosting Accuracy and Robustness of Student Models via Adaptive Adversarial Distillation",
    venue="CVPR",
    year=2023,
)


@checked
def adaiad(power: NotNegative = 0.1, begin: NotNegative = 0.3, tau: Positive = 1.0, teacher_tau: Tau = 1.0) -> Method:
    """AdaIAD (Huang 2023): a live teacher, and the student's own soft labels where that fails at x'."""
    outer = introspect.given(power=power, begin=begin) + soft_moved_hot.given(tau=tau)
    return Method(
        name="adaiad",
        inner=at_temperature(soft_moved, teacher_tau, "teacher_tau"),
        outer=at_temperature(outer, teacher_tau, "teacher_tau"),
        maximizer=Pgd(steps=10, start="gaussian"),
    )
