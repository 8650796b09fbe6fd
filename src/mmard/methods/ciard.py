"""CIARD, cyclic iterative distillation: two teachers, the robust one trained on, and a push away from the natural one.

The robust teacher (``teacher=``) is trained on: CE(Tr(x'), y) from epoch 51 of 300, with a learning rate of 1e-4 that falls
along a cosine; a second, natural one (``teachers.natural=``) is not. The release differs: its first upload weighs the first two
parts of the student's loss as MTARD does (``balanced=True``), the later ones add them; it averages over classes
(``scale: 1/num_classes``), and its temperatures in effect stop at the first drop (``temperatures_stop=True``). Not offered: it
shows the student x in training mode before the attack, and keeps the teacher's BatchNorm in that mode while its rate is still 0.
"""

import torch
from torch import Tensor, nn

from mmard import losses
from mmard.attacks.pgd import Pgd
from mmard.core.companion import Companion
from mmard.core.method import Method
from mmard.core.objective import Objective, term
from mmard.core.views import Views
from mmard.methods.papers import Citation
from mmard.terms import hard_adv, label
from mmard.terms.multi_teacher import TeacherTemperatures, TeacherWeights
from mmard.terms.state import PerStep
from mmard.utils.calls import checked
from mmard.utils.validation import NotNegative

CITATION = Citation(
    authors="Lu et al.",
    title="CIARD: Cyclic Iterative Adversarial Robustness Distillation",
    venue="ICCV",
    year=2025,
    arxiv="2509.12633",
)

TEMPERATURE_RATE = 1e-3
WEIGHT_RATE = 0.025
DROPS = (215 / 300, 260 / 300, 285 / 300)  # of the temperatures' rate, in shares of the run
STOP = DROPS[:1] * 400  # the release divides the rate by ten in every batch of the first drop's epoch
PUSH_TEMPERATURE = 5.0  # of the student
TEACHER_PLAN = {
    "optimizer": "sgd", "lr": 1e-4, "momentum": 0.1, "nesterov": False, "schedule": "cosine", "hold": 0.0, "warmup": 0.0,
}  # fmt: skip


class PushLoss(nn.Module):
    """Follow both teachers, and leave the natural one where it errs.

    KL(Tn^τn(x)‖S(x)) + KL(Tr^τa(x')‖S(x')) − w·KL(Tn(x')‖S(x')^5), the last over the samples where Tn(x') is wrong, with
    w = 10^(min(⌊lg L1⌋, ⌊lg L2⌋) − ⌊lg L3⌋) of the three parts' means over the whole batch, a constant. Of a batch in parts each
    but the last uses means that lack the later ones.
    """

    def __init__(self, temperatures_stop: bool, balanced: bool) -> None:
        super().__init__()
        self.temperatures = TeacherTemperatures(TEMPERATURE_RATE, STOP if temperatures_stop else DROPS)
        self.weights = TeacherWeights(WEIGHT_RATE) if balanced else None
        self.means = PerStep()

    def objective(self) -> Objective:
        """Make the two terms of the student's loss."""
        formula = "w_n·KL(Tn(x)^τn‖S(x)) + w_a·KL(T(x')^τa‖S(x'))"
        shown = formula if self.weights else formula.replace("w_n·", "").replace("w_a·", "")
        push = term("w·KL(Tn(x')‖S(x')^5)[Tn(x') wrong]", divergence=True)
        return term(shown, divergence=True)(self.both) - push(self.pushed)

    def both(self, v: Views) -> Tensor:
        """Follow the natural teacher at x, and the robust one at x'."""
        robust, natural = self._teacher_losses(v)
        return robust + natural if self.weights is None else self.weights.weigh(robust, natural, v)

    def pushed(self, v: Views) -> Tensor:
        """Measure how near the student at x' is to the natural teacher where that is wrong; subtracted, it pushes away."""
        target = v.adv.other("natural")
        wrong = (target.argmax(1) != v.y).to(target.dtype)
        each = wrong * losses.kl(target, v.adv.student / PUSH_TEMPERATURE)
        self.means.begin(v)
        share, push, robust, natural = self.means.seen(wrong, each, *self._teacher_losses(v)).unbind()
        share = share.clamp_min(1e-12)
        power = torch.minimum(_magnitude(robust), _magnitude(natural)) - _magnitude(push / share)
        return torch.pow(10.0, power) * each / share

    def _teacher_losses(self, v: Views) -> tuple[Tensor, Tensor]:
        """Compute the losses of the robust teacher at x' and of the natural one at x; the temperatures move once a step."""

        def compute() -> tuple[Tensor, Tensor]:
            robust, natural = self.temperatures.cool(v.adv.teacher, v.nat.other("natural"), v)
            at_x = losses.kl(natural, v.nat.student)  # first, so that BatchNorm sees x, then x'
            return losses.kl(robust, v.adv.student), at_x

        return v.nat.once("CIARD's teacher losses", compute)  # type: ignore[no-any-return]


def _magnitude(size: Tensor) -> Tensor:
    return size.clamp_min(1e-7).log10().floor()


@checked
def ciard(begin: NotNegative = 1 / 6, temperatures_stop: bool = False, balanced: bool = False) -> Method:
    """CIARD (Lu 2025): two teachers, the robust one trained on; a push away from the natural one where that errs."""
    return Method(
        name="ciard",
        inner=hard_adv,
        outer=PushLoss(temperatures_stop, balanced).objective(),
        maximizer=Pgd(steps=10, start="gaussian"),
        companions={"teacher": Companion(outer=label, fresh=None, begin=begin, plan=TEACHER_PLAN)},
    )
