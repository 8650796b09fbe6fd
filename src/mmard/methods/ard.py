"""ARD, adversarially robust distillation: the student at x' follows the teacher at x.

Equation 3: min α·τ²·KL(T(x)^τ‖S(x')^τ) + (1 − α)·CE(S(x), y), with x' the maximiser of CE(S(x'), y).
The release attacks with the student in training mode (``attack_in_train_mode=True``) and averages the KL over classes
too (``scale: 1/num_classes`` in the settings); its second drop of the learning rate does nothing. ``tau`` is the
paper's temperature of both networks; ``teacher_tau``, not the paper's, divides the teacher's logits before it.
"""

from mmard.attacks.pgd import Pgd
from mmard.core.method import Method
from mmard.methods.papers import Citation
from mmard.terms import hard_adv, hard_nat, soft_adv_hot
from mmard.terms.temperature import Tau, at_temperature
from mmard.utils.calls import checked
from mmard.utils.validation import Positive, ZeroToOne

CITATION = Citation(
    authors="Goldblum et al.",
    title="Adversarially Robust Distillation",
    venue="AAAI",
    year=2020,
    arxiv="1905.09747",
)


@checked
def ard(
    alpha: ZeroToOne = 1.0, tau: Positive = 30.0, attack_in_train_mode: bool = False, teacher_tau: Tau = 1.0
) -> Method:
    """ARD (Goldblum 2020): the student at x' follows the teacher at x, at a high temperature."""
    return Method(
        name="ard",
        inner=hard_adv,
        outer=alpha * at_temperature(soft_adv_hot.given(tau=tau), teacher_tau, "teacher_tau") + (1 - alpha) * hard_nat,
        maximizer=Pgd(steps=10, start="uniform"),
        attack_in_train_mode=attack_in_train_mode,
    )
