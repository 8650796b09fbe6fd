"""MART, misclassification-aware training: boosted cross-entropy, and smoothness where the student is unsure.

Descends BCE(S(x'), y) + β·(1 − S(x)_y)·KL(S(x)‖S(x')); the boosted cross-entropy BCE adds −log(1.0001 − S(x')_k), k the best
of the wrong classes, to the cross-entropy. Nothing in it is constant. BatchNorm sees x, then x'. β = 5 or 6.
"""

from torch import Tensor

from mmard import losses
from mmard.attacks.pgd import Pgd
from mmard.core.method import Method
from mmard.core.objective import term
from mmard.core.views import Views
from mmard.methods.papers import Citation
from mmard.terms import hard_adv
from mmard.utils.calls import checked
from mmard.utils.validation import NotNegative

CITATION = Citation(
    authors="Wang et al.",
    title="Improving Adversarial Robustness Requires Revisiting Misclassified Examples",
    venue="ICLR",
    year=2020,
)


@term("(1−S(x)_y)·KL(S(x)‖S(x'))", divergence=True)
def unsure(v: Views) -> Tensor:
    """Measure how far the student at x' is from itself at x, the more the less sure it is of the label there."""
    missing = 1 - (-losses.ce(v.nat.student, v.y)).exp()
    return missing * losses.kl(v.nat.student, v.adv.student)


@term("−log(1.0001 − max(k≠y) S(x')_k)")
def boost(v: Views) -> Tensor:
    """Push the best wrong class at x' down; 1.0001 keeps the logarithm finite where the student is certain of it."""
    wrong = v.adv.student.softmax(1).scatter(1, v.y[:, None], 0).amax(1)
    return -(1.0001 - wrong).log()


@checked
def mart(beta: NotNegative = 6.0) -> Method:
    """MART (Wang 2020): boosted CE, and smoothness where the student is unsure; needs no teacher."""
    outer = beta * unsure + hard_adv + boost
    return Method(name="mart", inner=hard_adv, outer=outer, maximizer=Pgd(steps=10, start="gaussian"))
