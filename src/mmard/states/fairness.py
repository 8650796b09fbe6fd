"""Weights per class from how hard each was to attack in the epoch before: Fair-ARD's state."""

from typing import Any

import torch
from torch import Tensor, nn

from mmard.core.views import Views

LEAST, MOST = 5 / 6, 5 / 2  # of a class's weight
NEVER_RIGHT = 1e-6  # share of right iterates that a class has at least: its weight is clipped anyway


class Fairness(nn.Module):
    """ω_c = clip(C·κ_c^−β / Σ κ^−β, 5/6, 5/2), κ_c how many attack iterates of class c were still right in the epoch before.

    (Yue et al., 2023, "Revisiting Adversarial Robustness Distillation from the Perspective of Robust Fairness".) In the first
    epoch ω = 1, and a class that did not occur counts as an average one. The counts are sums, so that their mean over processes
    gives every process the same weights.
    """

    right: Tensor
    seen: Tensor
    weights: Tensor

    def __init__(self, beta: float) -> None:
        super().__init__()
        self.beta, self.epoch = beta, 0
        for name in ("right", "seen", "weights"):  # of no size until the first logits say how many classes there are
            self.register_buffer(name, torch.zeros(0))

    def count(self, v: Views) -> Tensor:
        """An inner term that is 0: note which iterates are still right."""
        logits = v.adv.student.detach()
        self._turn(v.epoch, logits)
        self.right.index_add_(0, v.y, (logits.argmax(1) == v.y).to(self.right.dtype))
        self.seen.index_add_(0, v.y, torch.ones_like(logits[:, 0]))
        return torch.zeros_like(logits[:, 0])

    def weigh(self, v: Views) -> Tensor:
        """ω of each sample's class, (B,)."""
        self._turn(v.epoch, v.adv.student)
        return self.weights[v.y]

    def _turn(self, epoch: int, logits: Tensor) -> None:
        """Make the weights of a new epoch of what the old one counted."""
        if len(self.weights) == 0:
            blank = torch.zeros_like(logits[0].detach())
            self.right, self.seen, self.weights, self.epoch = blank, blank.clone(), blank + 1, epoch
        if epoch > self.epoch:
            share = torch.where(self.seen > 0, self.right / self.seen, self.right.sum() / self.seen.sum())
            powers = -self.beta * share.clamp_min(NEVER_RIGHT).log()
            self.weights = (len(share) * powers.softmax(0)).clamp(LEAST, MOST)
            self.right, self.seen, self.epoch = torch.zeros_like(share), torch.zeros_like(share), epoch

    def get_extra_state(self) -> dict[str, int]:
        """The epoch that is counted."""
        return {"epoch": self.epoch}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Go on in that epoch."""
        self.epoch = int(state["epoch"])

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        for name, buffer in self.named_buffers():
            saved = state.get(prefix + name)
            if saved is not None:
                setattr(self, name, torch.zeros(saved.shape, dtype=saved.dtype, device=buffer.device))
        super()._load_from_state_dict(state, prefix, *rest)
