"""How two teachers are balanced, step by step: weights (MTARD) and temperatures (B-MTARD)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mmard import losses
from mmard.core.views import Views
from mmard.terms.state import PerStep, rate_at


class Weights(PerStep):
    """MTARD's normalisation loss balance: of two losses, the one that has fallen less since the first step gets more weight.

    w ← w − rate·(w − ρ/Σρ), ρ = L / L_first; the weights begin equal and always sum to 1.
    """

    weights: Tensor
    first: Tensor

    def __init__(self, rate: float, drops: Sequence[float] = ()) -> None:
        super().__init__()
        self.rate, self.drops = rate, tuple(map(float, drops))
        self.register_buffer("weights", torch.full((2,), 0.5))
        self.register_buffer("first", torch.zeros(2))  # 0: no step yet

    def weigh(self, robust: Tensor, natural: Tensor, v: Views) -> Tensor:
        """Two losses (B,) → their weighted sum (B,); the weights, moved by these losses first, are constants."""
        self.begin(v)
        now = self.seen(robust, natural).to(self.first)
        tiny = torch.finfo(now.dtype).tiny
        self.first = torch.where(self.first == 0, now, self.first)
        left = now / self.first.clamp_min(tiny)
        towards = left / left.sum().clamp_min(tiny)
        self.weights = self.weights - rate_at(self.rate, self.drops, v) * (self.weights - towards)
        return self.weights[0] * robust + self.weights[1] * natural


class Temperatures(PerStep):
    """B-MTARD's entropy-based balance: the temperatures of two teachers move until both are equally undecided.

    τ ← clip(τ ∓ rate·sign(H_robust − H_natural), 1, 10), H the mean entropy at the temperatures so far; both begin at 1.
    """

    taus: Tensor

    def __init__(self, rate: float, drops: Sequence[float] = ()) -> None:
        super().__init__()
        self.rate, self.drops = rate, tuple(map(float, drops))
        self.register_buffer("taus", torch.ones(2))

    def cool(self, robust: Tensor, natural: Tensor, v: Views) -> tuple[Tensor, Tensor]:
        """Logits of both (B, K), each over its temperature; the temperatures move for the next step."""
        self.begin(v)
        robust, natural = robust / self.taus[0], natural / self.taus[1]
        h = self.seen(losses.entropy(robust), losses.entropy(natural)).to(self.taus)
        self.taus = (self.taus - rate_at(self.rate, self.drops, v) * (h - h.flip(0)).sign()).clamp(1, 10)
        return robust, natural
