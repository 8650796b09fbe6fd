"""A temperature per class (ABSLD, Zhao et al., arXiv 2312.05508)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmard import losses
from mmard.core.views import Views
from mmard.terms.state import PerEpoch, rate_at

ADV, NAT = 0, 1


class ClassTemperatures(PerEpoch):
    """Temperatures of the teacher's labels by class, (2, K) at x' and at x: lower, so sharper, where the student does worse.

    At the end of an epoch τ_c ← clip(τ_c − rate·(L_c − L̄) / max|L − L̄|, 0.5, 5), L_c the sum of the student's cross-entropies
    on class c in that epoch. All begin at 1.
    """

    taus: Tensor
    sums: Tensor

    def __init__(self, rate: float, drops: Sequence[float] = ()) -> None:
        super().__init__(taus=torch.ones(2, 1), sums=torch.zeros(2, 1))
        self.rate, self.drops = rate, tuple(map(float, drops))

    def attack(self, v: Views) -> Tensor:
        """KL(T(x)^τ‖S(x')) for the inner process, τ = τ_y at x'; the target is made once a batch."""
        target = v.nat.once("ABSLD's target", lambda: self._target(v, ADV))
        return losses.kl(target, v.adv.student)

    def robust(self, v: Views) -> Tensor:
        """The same for the outer one, which takes note of how the student does at x'."""
        return self._descend(v, ADV, v.adv.student)

    def natural(self, v: Views) -> Tensor:
        """KL(T(x)^τ‖S(x)), τ = τ_y at x; takes note of how the student does at x."""
        return self._descend(v, NAT, v.nat.student)

    def turned(self, v: Views) -> dict[str, Tensor]:
        """Temperatures moved by the sums, which begin anew."""
        gap = self.sums - self.sums.mean(1, keepdim=True)
        step = gap / gap.abs().amax(1, keepdim=True).clamp_min(torch.finfo(gap.dtype).tiny)
        taus = (self.taus - rate_at(self.rate, self.drops, v) * step).clamp(0.5, 5)
        return {"taus": taus, "sums": torch.zeros_like(self.sums)}

    def _descend(self, v: Views, where: int, student: Tensor) -> Tensor:
        target = self._target(v, where)
        with torch.no_grad():
            found = losses.ce(student, v.y) @ F.one_hot(v.y, student.shape[1]).to(student)
            sums = list(self.sums)
            sums[where] = sums[where] + found
            self.sums = torch.stack(sums).to(self.taus)
        return losses.kl(target, student)

    def _target(self, v: Views, where: int) -> Tensor:
        self.turn(v, v.nat.teacher.shape[1])
        return v.nat.teacher / self.taus[where][v.y][:, None]
