"""Running means of the loss terms on the device, and the first step at which one was not finite."""

from typing import Any

import torch
from torch import Tensor, nn

from mmard.training.engine import Engine
from mmard.utils.errors import MmardError

NEVER = 2**62


def not_finite(step: int, what: str) -> MmardError:
    """Make the error of a run whose loss or weights are not finite."""
    if step == 0:
        return MmardError(
            f"{what} is not finite at the first step, before any weight has moved: a network gives numbers that are not "
            "finite on these images, or the term does"
        )
    return MmardError(
        f"{what} is not finite at step {step}; the last good checkpoint is kept. "
        "Try a smaller train.lr, or train.clip=1, in a new out="
    )


def must_be_finite(step: int, *modules: nn.Module) -> None:
    """Raise MmardError where a weight or buffer is not finite after this step."""
    tensors = [t for module in modules for t in (*module.parameters(), *module.buffers())]
    if not all(bool(t.float().isfinite().all()) for t in tensors if t.is_floating_point()):
        raise not_finite(step, "a weight")


class LossMeter:
    """Sums of an epoch's losses without waiting for the device; their means are the same in every process."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.count = engine, 0
        self.sums: dict[str, Tensor] = {}
        self.broke: dict[str, Tensor] = {}  # the first step at which a term was not finite

    def add(self, step: int, means: dict[str, Tensor]) -> None:
        """Add this process's batch mean of each term at this step."""
        self.count += 1
        for name, mean in means.items():
            mean = mean.detach()
            if name not in self.sums:
                self.sums[name] = torch.zeros_like(mean)
            if name not in self.broke:
                self.broke[name] = torch.full_like(mean, NEVER, dtype=torch.long)
            self.broke[name] = torch.where(mean.isfinite(), self.broke[name], self.broke[name].clamp_max(step))
            self.sums[name] = self.sums[name] + mean

    def check(self) -> None:
        """Raise MmardError if any term was not finite since the last reset, naming the first."""
        broke = {name: int(self.engine.all_reduce_min(step)) for name, step in self.broke.items()}
        step, name = min(((step, name) for name, step in broke.items()), default=(NEVER, ""))
        if step < NEVER:
            raise not_finite(step, f"the loss term {name!r}")

    def means(self) -> dict[str, float]:
        """Return the mean of each term over the steps added."""
        return {name: value.item() / self.count for name, value in self._shared().items()}

    def _shared(self) -> dict[str, Tensor]:
        return {name: self.engine.all_reduce_sum(value) / self.engine.world for name, value in self.sums.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint within an epoch."""
        return {"count": self.count, "sums": self._shared()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state from a checkpoint."""
        self.count = state["count"]
        self.sums = {name: value.to(self.engine.device) for name, value in state["sums"].items()}
