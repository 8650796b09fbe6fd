"""ABSLD, anti-bias soft label distillation: RSLAD whose soft labels have a temperature per class.

The temperatures, at x' and at x, fall after each epoch for classes on which the student does worse; the student's own is 1. The
release divides two names of one tensor in place, so both labels get both temperatures (not offered here); it averages the KL over
classes (``scale: 1/num_classes`` in the settings), lets the rate fall to a tenth with the learning rate
(``drops: [215, 260, 285]``) and chooses the checkpoint on the test set.
"""

from collections.abc import Sequence

from mmard.attacks.pgd import Pgd
from mmard.core.method import Method
from mmard.core.objective import term
from mmard.methods.papers import Citation
from mmard.terms.classes import ClassTemperatures

CITATION = Citation(
    authors="Zhao et al.",
    title="Improving Adversarial Robust Fairness via Anti-Bias Soft Label Distillation",
    venue="NeurIPS",
    year=2024,
    arxiv="2312.05508",
)


def absld(alpha: float = 5 / 6, rate: float = 0.1, drops: Sequence[float] = ()) -> Method:
    """ABSLD (Zhao 2024): RSLAD with a temperature per class, for students as robust on hard classes as on easy ones."""
    state = ClassTemperatures(rate, drops)
    robust = term("KL(T(x)^τ'_y‖S(x'))", divergence=True)
    return Method(
        name="absld",
        inner=robust(state.attack),
        outer=alpha * robust(state.robust) + (1 - alpha) * term("KL(T(x)^τ_y‖S(x))", divergence=True)(state.natural),
        maximizer=Pgd(steps=10, start="gaussian"),
    )
