"""Weights per class from how hard each was to attack in the epoch before: Fair-ARD's state."""

import torch
from torch import Tensor

from mmard.core.views import Views
from mmard.terms.state import PerEpoch

LEAST, MOST = 5 / 6, 5 / 2  # of a class's weight
NEVER_RIGHT = 1e-6  # share of right iterates that a class has at least: its weight is clipped anyway


class Fairness(PerEpoch):
    """ω_c = clip(C·κ_c^−β / Σ κ^−β, 5/6, 5/2), κ_c how many attack iterates of class c were still right in the epoch before.

    (Yue et al., 2023, "Revisiting Adversarial Robustness Distillation from the Perspective of Robust Fairness".) In the first
    epoch ω = 1, and a class that did not occur counts as an average one.
    """

    right: Tensor
    seen: Tensor
    weights: Tensor

    def __init__(self, beta: float) -> None:
        super().__init__(weights=torch.ones(1), right=torch.zeros(1), seen=torch.zeros(1))
        self.beta = beta

    def count(self, v: Views) -> Tensor:
        """An inner term that is 0: note which iterates are still right."""
        logits = v.adv.student.detach()
        self.turn(v, logits.shape[1])
        right = (logits.argmax(1) == v.y).to(self.right)
        self.right = self.right.index_add(0, v.y, right)
        self.seen = self.seen.index_add(0, v.y, torch.ones_like(right))
        return torch.zeros_like(logits[:, 0])

    def weigh(self, v: Views) -> Tensor:
        """ω of each sample's class, (B,)."""
        self.turn(v, v.adv.student.shape[1])
        return self.weights[v.y]

    def turned(self, v: Views) -> dict[str, Tensor]:
        """Weights of what the epoch before counted; the counts begin anew."""
        share = torch.where(
            self.seen > 0, self.right / self.seen.clamp_min(1), self.right.sum() / self.seen.sum().clamp_min(1)
        )
        powers = -self.beta * share.clamp_min(NEVER_RIGHT).log()
        weights = (len(share) * powers.softmax(0)).clamp(LEAST, MOST)
        return {"weights": weights, "right": torch.zeros_like(share), "seen": torch.zeros_like(share)}
