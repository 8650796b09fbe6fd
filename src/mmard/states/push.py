"""Two teachers at temperatures that move, and a push away from the natural one where it errs: CIARD's student loss."""

import torch
from torch import Tensor, nn

from mmard import losses
from mmard.core.crowd import mean_of_all
from mmard.core.objective import Objective, term
from mmard.core.views import Views

STEP, LOWEST, HIGHEST = 1e-3, 1.0, 10.0  # of a temperature
PACE = 0.025  # of the weights
DROPS = (215 / 300, 260 / 300, 285 / 300)  # shares of the run after which the step is a tenth
PUSHED = 5.0  # temperature of the student in the push


class Push(nn.Module):
    """KL(Tr^τa(x')‖S(x')) + KL(Tn^τn(x)‖S(x)) − w·KL(Tn(x')‖S(x')^5), the last over the samples where Tn(x') is wrong.

    w = 10^(min(⌊lg L1⌋, ⌊lg L2⌋) − ⌊lg L3⌋) of the three parts' batch means, a constant. After each loss τa moves by
    −0.001·sign(H_a/H_n − 1) and τn against it, within [1, 10], H the mean entropy of a teacher at its temperature; the step is
    a tenth after each of `DROPS`.

    Args:
        stops: the step is 0 after the first drop, as in effect in the release, which divides it in every batch of that epoch.
        balanced: the first two parts weigh w_a = 1 − w_n and w_n, as in the release and in MTARD: in every step
            w_n ← w_n − 0.025·(w_n − ρ_n/(ρ_n + ρ_a)), ρ a part's mean over that of the first step; it starts at ½.
    """

    tau_adv: Tensor
    tau_nat: Tensor
    weight: Tensor
    first: Tensor

    def __init__(self, stops: bool = False, balanced: bool = False) -> None:
        super().__init__()
        self.stops, self.balanced = stops, balanced
        start = {
            "tau_adv": torch.ones(()),
            "tau_nat": torch.ones(()),
            "weight": torch.tensor(0.5),
            "first": torch.zeros(2),
        }
        for name, value in start.items():
            self.register_buffer(name, value)

    def objective(self) -> Objective:
        """Its three terms; the first is of x, so that BatchNorm sees x, then x'."""
        nat, adv = term("KL(Tn(x)^τn‖S(x))")(self.natural), term("KL(Tr(x')^τa‖S(x'))")(self.robust)
        return nat + adv - term("w·KL(Tn(x')‖S(x')^5)[Tn(x') wrong]")(self.pushed)

    def natural(self, v: Views) -> Tensor:
        """The student at x follows the natural teacher."""
        return self._pulls(v)[0] * (self._balance(v) if self.balanced else 1.0)

    def robust(self, v: Views) -> Tensor:
        """The student at x' follows the robust teacher."""
        return self._pulls(v)[1] * (1 - self._balance(v) if self.balanced else 1.0)

    def _pulls(self, v: Views) -> tuple[Tensor, Tensor]:
        nat = losses.kl(v.nat.other("natural") / self.tau_nat, v.nat.student)
        return nat, losses.kl(v.adv.teacher / self.tau_adv, v.adv.student)

    def _balance(self, v: Views) -> Tensor:
        """The natural part's weight in this step."""

        def move() -> Tensor:
            means = torch.stack([mean_of_all(part.mean()) for part in self._pulls(v)])
            self.first = torch.where(self.first > 0, self.first, means)
            share = means / self.first
            self.weight = self.weight - PACE * (self.weight - share[0] / share.sum())
            return self.weight

        return v.nat.once("CIARD's weight", move)  # type: ignore[no-any-return]

    def pushed(self, v: Views) -> Tensor:
        """The student at x' leaves the natural teacher where that is wrong; and the temperatures move."""
        target = v.adv.other("natural")
        wrong = (target.argmax(1) != v.y).to(target.dtype)
        each = wrong * losses.kl(target, v.adv.student / PUSHED) / mean_of_all(wrong.mean()).clamp_min(1e-12)
        sizes = [mean_of_all(part.mean()) for part in (*self._pulls(v), each)]
        one, two, three = (size.abs().clamp_min(1e-7).log10().floor() for size in sizes)
        self._move(v)
        return 10.0 ** (torch.minimum(one, two) - three) * each

    @torch.no_grad()
    def _move(self, v: Views) -> None:
        h_adv = mean_of_all(losses.entropy(v.adv.teacher / self.tau_adv).mean())
        h_nat = mean_of_all(losses.entropy(v.nat.other("natural") / self.tau_nat).mean())
        passed = sum(v.progress >= drop for drop in DROPS)
        step = STEP * (0.0 if self.stops and passed else 0.1**passed)
        way = torch.sign(h_adv - h_nat)
        self.tau_adv.sub_(step * way).clamp_(LOWEST, HIGHEST)
        self.tau_nat.add_(step * way).clamp_(LOWEST, HIGHEST)
