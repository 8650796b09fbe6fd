"""Progress within one batch of an attack: on a large network and a CPU it can take an hour."""

from collections.abc import Callable

from torch import Tensor

from mmard.core.views import Predict

Advance = Callable[[float], None]
"""Called with the share of the work that is done, in [0, 1]."""
TOLD = 100  # times at most


class CountedPasses:
    """A network that tells what share of an attack's usual passes has been made; it answers as it did.

    Args:
        predict: pixels (B, C, H, W) → logits (B, K).

    Attributes:
        usual: passes of the attack; where it makes more, the share stays below 1. 0: nothing is told.
    """

    def __init__(self, predict: Predict, advance: Advance) -> None:
        self.predict, self.advance = predict, advance
        self.usual = self.made = self.told = 0

    def __call__(self, x: Tensor) -> Tensor:
        logits = self.predict(x)
        if self.usual:
            self.made += 1
            if (now := min(TOLD * self.made // self.usual, TOLD - 1)) > self.told:
                self.told = now
                self.advance(now / TOLD)
        return logits
