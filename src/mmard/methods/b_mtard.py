"""B-MTARD, balanced multi-teacher distillation: MTARD whose teachers have temperatures.

After every step the less decided teacher is cooled and the other heated, τ ← clip(τ ∓ .001·sign(H_robust − H_natural), 1, 10),
until their entropies agree. The student's temperature is 1, and there is no τ². The release lets both rates fall to a tenth with
the learning rate (``drops: [215, 260, 285]``), averages the KL over classes (``scale: 1/num_classes`` in the settings) and
chooses the checkpoint on the test set.
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
from mmard.terms.multi_teacher import TeacherTemperatures, TeacherWeights
from mmard.utils.calls import checked
from mmard.utils.validation import NotNegative

CITATION = Citation(
    authors="Zhao et al.",
    title="Mitigating Accuracy-Robustness Trade-off via Balanced Multi-Teacher Adversarial Distillation",
    year=2023,
    arxiv="2306.16170",
)


class TeacherBalance(nn.Module):
    """Weigh the losses of two teachers, whose logits have temperatures."""

    def __init__(self, rate: float, tau_rate: float, drops: Sequence[float]) -> None:
        super().__init__()
        self.weights = TeacherWeights(rate, drops)
        self.temperatures = TeacherTemperatures(tau_rate, drops)

    def both(self, v: Views) -> Tensor:
        """Follow the robust teacher at x' and the natural one at x, (B,)."""
        robust, natural = self.temperatures.cool(v.adv.teacher, v.nat.other("natural"), v)
        return self.weights.weigh(losses.kl(robust, v.adv.student), losses.kl(natural, v.nat.student), v)


@checked
def b_mtard(rate: NotNegative = 0.025, tau_rate: NotNegative = 0.001, drops: Sequence[NotNegative] = ()) -> Method:
    """B-MTARD (Zhao 2023): MTARD with the teachers' temperatures balanced too."""
    balance = TeacherBalance(rate, tau_rate, drops)
    outer = term("w_a·KL(T(x')^τa‖S(x')) + w_n·KL(Tn(x)^τn‖S(x))", divergence=True)(balance.both)
    return Method(name="b_mtard", inner=hard_adv, outer=outer, maximizer=Pgd(steps=10, start="gaussian"))
