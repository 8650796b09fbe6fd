"""Averages of the weights over training (EMA, SWA), with BatchNorm statistics estimated anew."""

import copy
from collections.abc import Iterable
from typing import Any, Generic, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn

from mmard.utils.numbers import beginning
from mmard.utils.validation import NotNegative, Section, Share

Net = TypeVar("Net", bound=nn.Module)


class Averaging(Section):
    """The settings of the weight average that is validated and saved.

    Args:
        kind: ``ema`` exponential, after every step; ``swa`` equal weights, after every epoch (Izmailov et al., 2018,
            arXiv 1803.05407); ``none``.
        decay: of the exponential average, per step.
        start: so many epochs are left out; below 1: a share of the run.
    """

    kind: Literal["none", "ema", "swa"] = "none"
    decay: Share = 0.999
    start: NotNegative = 0.0

    def in_run_of(self, epochs: int) -> "Averaging":
        """Convert the start to a share of a run of so many epochs.

        Raises:
            MmardError: where averaging would begin only when the run is over.
        """
        if self.kind == "none":
            return self
        return self.model_copy(update={"start": beginning("the average (averaging.start)", self.start, epochs)})


class Average(Generic[Net]):
    """The running average of one model's weights."""

    def __init__(self, plan: Averaging, model: Net) -> None:
        self.plan, self.model, self.count = plan, model, 0
        self.averaged = None if plan.kind == "none" else copy.deepcopy(model).requires_grad_(False)

    @torch.no_grad()
    def update(self, progress: float, end_of_epoch: bool) -> None:
        """Add the weights after a step to the average. No host waits: torch's own AveragedModel would, at every step."""
        due = self.plan.kind == "ema" or end_of_epoch
        if self.averaged is None or not due or progress <= self.plan.start:
            return
        share = 1 / (self.count + 1) if self.plan.kind == "swa" or self.count == 0 else 1 - self.plan.decay
        torch._foreach_lerp_(list(self.averaged.parameters()), list(self.model.parameters()), share)
        self.count += 1

    def model_to_judge(self, natural: Iterable[Tensor]) -> Net:
        """Return the average with BatchNorm re-estimated on natural images; before averaging began the model itself.

        Other buffers, such as InstanceNorm's statistics, are the model's of now.
        """
        if self.averaged is None or self.count == 0:
            return self.model
        for own, now in zip(self.averaged.modules(), self.model.modules(), strict=True):
            if not isinstance(own, _BatchNorm):
                own._buffers.update({k: None if b is None else b.detach().clone() for k, b in now._buffers.items()})
        update_bn(natural, self.averaged)
        return self.averaged

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        return {} if self.averaged is None else {"count": self.count, "weights": self.averaged.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state from a checkpoint."""
        if self.averaged is not None:
            self.averaged.load_state_dict(state["weights"])
            self.count = state["count"]
