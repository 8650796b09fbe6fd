"""RSLAD, robust soft label distillation: the teacher's natural prediction is the label everywhere, in the attack too.

The release averages the KL over classes (``scale: 1/num_classes`` in the settings). ``tau``, not the paper's, divides the
teacher's logits (`mmard.terms.temperature`): below 1 its targets are sharper.
"""

from mmard.attacks.pgd import Pgd
from mmard.core.method import Method
from mmard.methods.papers import Citation
from mmard.terms import soft_adv, soft_nat
from mmard.terms.temperature import Tau, at_temperature
from mmard.utils.calls import checked
from mmard.utils.validation import ZeroToOne

CITATION = Citation(
    authors="Zi et al.",
    title="Revisiting Adversarial Robustness Distillation: Robust Soft Labels Make Student Better",
    venue="ICCV",
    year=2021,
    arxiv="2108.07969",
)


@checked
def rslad(alpha: ZeroToOne = 5 / 6, tau: Tau = 1.0) -> Method:
    """RSLAD (Zi 2021): robust soft labels, KL(T(x)‖·) in the attack and in both parts of the loss; α = 1: at x' alone."""
    outer = soft_adv if alpha == 1 else alpha * soft_adv + (1 - alpha) * soft_nat
    return Method(
        name="rslad",
        inner=at_temperature(soft_adv, tau),
        outer=at_temperature(outer, tau),
        maximizer=Pgd(steps=10, start="gaussian"),
    )
