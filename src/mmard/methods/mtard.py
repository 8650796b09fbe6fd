"""MTARD, multi-teacher distillation: a robust teacher at x' and a natural one at x, balanced by their losses.

The losses of ``teacher`` and ``teachers.natural`` are weighed so that both fall alike: in every step w ← w − rate·(w − ρ/Σρ),
with ρ the loss over its first value; to the gradient the weights are constants. The release lets the rate fall to a tenth with
the learning rate (``drops: [215, 260, 285]``), averages the KL over classes (``scale: 1/num_classes`` in the settings; times 10
on 100 classes) and evaluates on the test set while training.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from mmard import losses
from mmard.attacks.pgd import Pgd
from mmard.core.method import Method
from mmard.core.objective import term
from mmard.core.views import Views
from mmard.methods.papers import Citation
from mmard.terms import hard_adv
from mmard.terms.multi_teacher import TeacherWeights
from mmard.utils.calls import checked
from mmard.utils.validation import NotNegative

CITATION = Citation(
    authors="Zhao et al.",
    title="Enhanced Accuracy and Robustness via Multi-Teacher Adversarial Distillation",
    venue="ECCV",
    year=2022,
)


class LossBalance(nn.Module):
    """Weigh the losses of two teachers."""

    def __init__(self, rate: float, drops: Sequence[float]) -> None:
        super().__init__()
        self.weights = TeacherWeights(rate, drops)

    def both(self, v: Views) -> Tensor:
        """Follow the robust teacher at x' and the natural one at x, (B,)."""
        robust = losses.kl(v.adv.teacher, v.adv.student)
        natural = losses.kl(v.nat.other("natural"), v.nat.student)
        return self.weights.weigh(robust, natural, v)


@checked
def mtard(rate: NotNegative = 0.025, drops: Sequence[NotNegative] = ()) -> Method:
    """MTARD (Zhao 2022): a robust teacher at x' and a natural one at x, balanced as they are learnt."""
    balance = LossBalance(rate, drops)
    outer = term("w_a·KL(T(x')‖S(x')) + w_n·KL(Tn(x)‖S(x))", divergence=True)(balance.both)
    return Method(name="mtard", inner=hard_adv, outer=outer, maximizer=Pgd(steps=10, start="gaussian"))
