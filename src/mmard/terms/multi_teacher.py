"""Balance of two teachers, step by step: weights of their losses (MTARD) and their temperatures (B-MTARD, CIARD)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mmard import losses
from mmard.core.views import Views
from mmard.terms.state import PerStep, rate_at

COLDEST = 1.0
HOTTEST = 10.0


class TeacherWeights(PerStep):
    """Weigh the losses of two teachers: the one that has fallen less since the first step gets more weight.

    MTARD's normalisation loss balance: w ← w − rate·(w − ρ/Σρ), ρ = L / L_first; the weights begin equal and always sum to 1.
    """

    weights: Tensor
    first: Tensor

    def __init__(self, rate: float, drops: Sequence[float] = ()) -> None:
        super().__init__()
        self.rate = rate
        self.drops = tuple(map(float, drops))
        self.register_buffer("weights", torch.full((2,), 0.5))
        self.register_buffer("first", torch.zeros(2))  # 0: no step yet

    def weigh(self, robust: Tensor, natural: Tensor, v: Views) -> Tensor:
        """Sum two losses (B,) by their weights, (B,); the weights, moved by these losses first, are constants."""
        self.begin(v)
        now = self.seen(robust, natural).to(self.first)
        tiny = torch.finfo(now.dtype).tiny
        self.first = torch.where(self.first == 0, now, self.first)
        left = now / self.first.clamp_min(tiny)
        towards = left / left.sum().clamp_min(tiny)
        self.weights = self.weights - rate_at(self.rate, self.drops, v) * (self.weights - towards)
        return self.weights[0] * robust + self.weights[1] * natural


class TeacherTemperatures(PerStep):
    """Divide the logits of two teachers by temperatures that move until both are equally undecided.

    B-MTARD's entropy-based balance: τ ← clip(τ ∓ rate·sign(H_robust − H_natural), 1, 10), H the mean entropy at the temperatures
    so far; both begin at 1.
    """

    taus: Tensor

    def __init__(self, rate: float, drops: Sequence[float] = ()) -> None:
        super().__init__()
        self.rate = rate
        self.drops = tuple(map(float, drops))
        self.register_buffer("taus", torch.ones(2))

    def cool(self, robust: Tensor, natural: Tensor, v: Views) -> tuple[Tensor, Tensor]:
        """Divide the logits of both (B, K) by their temperatures, which move for the next step."""
        self.begin(v)
        robust = robust / self.taus[0]
        natural = natural / self.taus[1]
        h = self.seen(losses.entropy(robust), losses.entropy(natural)).to(self.taus)
        self.taus = (self.taus - rate_at(self.rate, self.drops, v) * (h - h.flip(0)).sign()).clamp(COLDEST, HOTTEST)
        return robust, natural
