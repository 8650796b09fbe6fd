"""State that moves once an epoch: a temperature per class (ABSLD, Zhao et al., arXiv 2312.05508)."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmard import losses
from mmard.core.views import Views
from mmard.terms.balance import rate_at

ADV, NAT = 0, 1


class ClassTemperatures(nn.Module):
    """Temperatures of the teacher's labels by class, (2, K) at x' and at x: lower, so sharper, where the student does worse.

    At the end of an epoch τ_c ← clip(τ_c − rate·(L_c − L̄) / max|L − L̄|, 0.5, 5), L_c the sum of the student's cross-entropies
    on class c in that epoch. All begin at 1. Each process sums what it sees; the trainer averages the sums when an epoch ends,
    and their scale cancels, so the number of processes changes nothing.
    """

    taus: Tensor
    sums: Tensor
    epoch: Tensor

    def __init__(self, rate: float, drops: Sequence[float] = ()) -> None:
        super().__init__()
        self.rate, self.drops = rate, tuple(map(float, drops))
        self.register_buffer("taus", torch.ones(2, 0))  # sized by the first logits
        self.register_buffer("sums", torch.zeros(2, 0))
        self.register_buffer("epoch", torch.zeros((), dtype=torch.int64))

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

    def _descend(self, v: Views, where: int, student: Tensor) -> Tensor:
        target = self._target(v, where)
        with torch.no_grad():
            found = losses.ce(student, v.y) @ F.one_hot(v.y, student.shape[1]).to(student)
            sums = list(self.sums)
            sums[where] = sums[where] + found
            self.sums = torch.stack(sums).to(self.taus)
        return losses.kl(target, student)

    def _target(self, v: Views, where: int) -> Tensor:
        self._turn(v)
        return v.nat.teacher / self.taus[where][v.y][:, None]

    @torch.no_grad()
    def _turn(self, v: Views) -> None:
        """Move the temperatures where another epoch has begun. All on the device: nothing waits for the host."""
        if not self.taus.numel():
            self.taus = self.taus.new_ones(2, v.nat.teacher.shape[1])
            self.sums = torch.zeros_like(self.taus)
        turned, gap = self.epoch != v.epoch, self.sums - self.sums.mean(1, keepdim=True)
        step = gap / gap.abs().amax(1, keepdim=True).clamp_min(torch.finfo(gap.dtype).tiny)
        moved = (self.taus - rate_at(self.rate, self.drops, v) * step).clamp(0.5, 5)
        self.taus = torch.where(turned, moved, self.taus)
        self.sums = torch.where(turned, torch.zeros_like(self.sums), self.sums)
        self.epoch = torch.full_like(self.epoch, v.epoch)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """A checkpoint knows the number of classes before the first logits do."""
        for name in ("taus", "sums"):
            if prefix + name in state_dict:
                setattr(self, name, torch.empty_like(state_dict[prefix + name], device=self.taus.device))
        super()._load_from_state_dict(state_dict, prefix, *args)
