"""ABSLD, anti-bias soft label distillation: RSLAD whose soft labels have a temperature per class.

The temperatures, at x' and at x, fall after each epoch for classes on which the student does worse; the student's own is 1. The
release divides two names of one tensor in place, so both labels get both temperatures (not offered here); it averages the KL over
classes (``scale: 1/num_classes`` in the settings), lets the rate fall to a tenth with the learning rate
(``drops: [215, 260, 285]``) and chooses the checkpoint on the test set.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmard import losses
from mmard.attacks.pgd import Pgd
from mmard.core.method import Method
from mmard.core.objective import term
from mmard.core.views import Views
from mmard.methods.papers import Citation
from mmard.terms.state import PerEpoch, rate_at
from mmard.utils.calls import checked
from mmard.utils.validation import NotNegative, ZeroToOne

CITATION = Citation(
    authors="Zhao et al.",
    title="Improving Adversarial Robust Fairness via Anti-Bias Soft Label Distillation",
    venue="NeurIPS",
    year=2024,
    arxiv="2312.05508",
)

ADVERSARIAL = 0  # rows of the temperatures
NATURAL = 1
COLDEST = 0.5
HOTTEST = 5.0


class ClassTemperatures(PerEpoch):
    """Follow soft labels at a temperature per class, lower, so sharper, for classes on which the student does worse.

    ``taus`` (2, K): those at x' and those at x; all begin at 1. At the end of an epoch
    τ_c ← clip(τ_c − rate·(L_c − L̄) / max|L − L̄|, 0.5, 5), L_c the sum of the student's cross-entropies on class c in it.
    """

    taus: Tensor
    sums: Tensor

    def __init__(self, rate: float, drops: Sequence[float] = ()) -> None:
        super().__init__(taus=torch.ones(2, 1), sums=torch.zeros(2, 1))
        self.rate = rate
        self.drops = tuple(map(float, drops))

    def attack(self, v: Views) -> Tensor:
        """Measure how far the student at x' is from its soft label, for the attack; the label is made once a batch."""
        target = v.nat.once("ABSLD's target", lambda: self._soft_label(v, ADVERSARIAL))
        return losses.kl(target, v.adv.student)

    def robust(self, v: Views) -> Tensor:
        """Follow the soft label of x', KL(T(x)^τ'_y‖S(x')), and add up the student's cross-entropies at x'."""
        return self._follow(v, ADVERSARIAL, v.adv.student)

    def natural(self, v: Views) -> Tensor:
        """Follow the soft label of x, KL(T(x)^τ_y‖S(x)), and add up the student's cross-entropies at x."""
        return self._follow(v, NATURAL, v.nat.student)

    def turned(self, v: Views) -> dict[str, Tensor]:
        """Move the temperatures by the sums of the epoch before; the sums begin anew."""
        gap = self.sums - self.sums.mean(1, keepdim=True)
        step = gap / gap.abs().amax(1, keepdim=True).clamp_min(torch.finfo(gap.dtype).tiny)
        taus = (self.taus - rate_at(self.rate, self.drops, v) * step).clamp(COLDEST, HOTTEST)
        return {"taus": taus, "sums": torch.zeros_like(self.sums)}

    def _follow(self, v: Views, row: int, student: Tensor) -> Tensor:
        target = self._soft_label(v, row)
        with torch.no_grad():
            by_class = losses.ce(student, v.y) @ F.one_hot(v.y, student.shape[1]).to(student)
            sums = list(self.sums)
            sums[row] = sums[row] + by_class
            self.sums = torch.stack(sums).to(self.taus)
        return losses.kl(target, student)

    def _soft_label(self, v: Views, row: int) -> Tensor:
        self.turn(v, v.nat.teacher.shape[1])
        return v.nat.teacher / self.taus[row][v.y][:, None]


@checked
def absld(alpha: ZeroToOne = 5 / 6, rate: NotNegative = 0.1, drops: Sequence[NotNegative] = ()) -> Method:
    """ABSLD (Zhao 2024): RSLAD with a temperature per class, for students as robust on hard classes as on easy ones."""
    temperatures = ClassTemperatures(rate, drops)
    robust = term("KL(T(x)^τ'_y‖S(x'))", divergence=True)
    natural = term("KL(T(x)^τ_y‖S(x))", divergence=True)
    return Method(
        name="absld",
        inner=robust(temperatures.attack),
        outer=alpha * robust(temperatures.robust) + (1 - alpha) * natural(temperatures.natural),
        maximizer=Pgd(steps=10, start="gaussian"),
    )
