"""AdaAD, adaptive adversarial distillation: a live teacher in the attack and in the loss.

x' maximises KL(T(x')‖S(x')) with the gradient through both networks; the loss is λ of it at x' and 1 − λ of KL(T(x)‖S(x)). Both
networks see x even where λ = 1, as in the release: BatchNorm sees x, then x'. ``tau``, not the paper's, divides
the teacher's logits in both (`mmard.terms.temperature`).
"""

from mmard.attacks.pgd import Pgd
from mmard.core.method import Method
from mmard.methods.papers import Citation
from mmard.terms import soft_moved, soft_nat
from mmard.terms.temperature import Tau, at_temperature
from mmard.utils.calls import checked
from mmard.utils.validation import ZeroToOne

CITATION = Citation(
    authors="Huang et al.",
    title="Boosting Accuracy and Robustness of Student Models via Adaptive Adversarial Distillation",
    venue="CVPR",
    year=2023,
)


@checked
def adaad(lam: ZeroToOne = 1.0, tau: Tau = 1.0) -> Method:
    """AdaAD (Huang 2023): a live teacher, KL(T(x')‖S(x')), in the attack and in the loss."""
    return Method(
        name="adaad",
        inner=at_temperature(soft_moved, tau),
        outer=at_temperature((1 - lam) * soft_nat + lam * soft_moved, tau),
        maximizer=Pgd(steps=10, start="gaussian"),
    )
