"""Sums of the loss terms, kept on the device, and the first step at which one was not finite."""

from typing import Any

import torch
from torch import Tensor

from mmard.core.errors import MmardError


class Ledger:
    """Adds up an epoch's losses without waiting for the device."""

    def __init__(self) -> None:
        self.count = 0
        self.sums: dict[str, Tensor] = {}
        self.broke: dict[str, Tensor] = {}  # the first step at which a term was not finite, −1: never

    def add(self, step: int, means: dict[str, Tensor]) -> None:
        """Take in the batch mean of each term at this step."""
        self.count += 1
        for name, mean in means.items():
            mean = mean.detach()
            before = self.broke.get(name, torch.full_like(mean, -1, dtype=torch.long))
            now = torch.where(mean.isfinite(), -1, step)
            self.broke[name] = torch.where(before >= 0, before, now)
            self.sums[name] = self.sums.get(name, torch.zeros_like(mean)) + mean

    def check(self) -> None:
        """Raise if any term was not finite since the last reset, naming the first."""
        broken = {name: int(step) for name, step in self.broke.items() if step >= 0}
        if broken:
            name = min(broken, key=lambda n: broken[n])
            raise MmardError(
                f"the loss is not finite at step {broken[name]}, term {name!r}; the last good checkpoint is kept. "
                "Try a smaller train.lr, or train.clip=1"
            )

    def means(self) -> dict[str, float]:
        """Mean of each term over the steps added."""
        return {name: value.item() / self.count for name, value in self.sums.items()}

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint within an epoch."""
        return {"count": self.count, "sums": self.sums, "broke": self.broke}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From the checkpoint."""
        self.count, self.sums, self.broke = state["count"], state["sums"], state["broke"]
