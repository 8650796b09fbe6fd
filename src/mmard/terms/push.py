"""Two teachers at temperatures that move, and a push away from the natural one where it errs: CIARD's student loss."""

import torch
from torch import Tensor, nn

from mmard import losses
from mmard.core.objective import Objective, term
from mmard.core.views import Views
from mmard.terms.state import PerStep
from mmard.terms.two_teachers import Temperatures, Weights

STEP, PACE = 1e-3, 0.025  # rates of the temperatures and of the weights
DROPS = (215 / 300, 260 / 300, 285 / 300)  # shares of the run
AT_ONCE = 400  # the release divides the temperatures' rate by ten in every batch of the first drop's epoch
PUSHED = 5.0  # temperature of the student in the push


class Push(nn.Module):
    """KL(Tn^τn(x)‖S(x)) + KL(Tr^τa(x')‖S(x')) − w·KL(Tn(x')‖S(x')^5), the last over the samples where Tn(x') is wrong.

    w = 10^(min(⌊lg L1⌋, ⌊lg L2⌋) − ⌊lg L3⌋) of the three parts' means over the whole batch, a constant. Of a batch in parts each
    but the last uses means that lack the later ones.

    Args:
        stops: the temperatures stop at the first drop, as in effect in the release.
        balanced: the first two parts are weighed as in MTARD, and as in the release.
    """

    def __init__(self, stops: bool = False, balanced: bool = False) -> None:
        super().__init__()
        self.temperatures = Temperatures(STEP, DROPS[:1] * AT_ONCE if stops else DROPS)
        self.weights = Weights(PACE) if balanced else None
        self.means = PerStep()

    def objective(self) -> Objective:
        """Its two terms."""
        a, n = ("w_a·", "w_n·") if self.weights else ("", "")
        both = term(f"{n}KL(Tn(x)^τn‖S(x)) + {a}KL(T(x')^τa‖S(x'))", divergence=True)(self.both)
        return both - term("w·KL(Tn(x')‖S(x')^5)[Tn(x') wrong]", divergence=True)(self.pushed)

    def both(self, v: Views) -> Tensor:
        """The student at x follows the natural teacher, and at x' the robust one."""
        robust, natural = self._pulls(v)
        return robust + natural if self.weights is None else self.weights.weigh(robust, natural, v)

    def pushed(self, v: Views) -> Tensor:
        """The student at x' leaves the natural teacher where that is wrong."""
        target = v.adv.other("natural")
        wrong = (target.argmax(1) != v.y).to(target.dtype)
        each = wrong * losses.kl(target, v.adv.student / PUSHED)
        self.means.begin(v)
        means = self.means.seen(wrong, each, *self._pulls(v))
        share = means[0].clamp_min(1e-12)
        three, one, two = (size.clamp_min(1e-7).log10().floor() for size in (means[1] / share, means[2], means[3]))
        return torch.pow(10.0, torch.minimum(one, two) - three) * each / share

    def _pulls(self, v: Views) -> tuple[Tensor, Tensor]:
        """At x' and at x; the temperatures move once, whoever asks first."""
        return v.nat.once("CIARD's pulls", lambda: self._pulled(v))  # type: ignore[no-any-return]

    def _pulled(self, v: Views) -> tuple[Tensor, Tensor]:
        robust, natural = self.temperatures.cool(v.adv.teacher, v.nat.other("natural"), v)
        at_x = losses.kl(natural, v.nat.student)  # first, so that BatchNorm sees x, then x'
        return losses.kl(robust, v.adv.student), at_x
