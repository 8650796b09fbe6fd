"""Averages of the weights over training, their BatchNorm statistics estimated anew."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from mmard.core.errors import MmardError


@dataclass(frozen=True, kw_only=True)
class Averaging:
    """Which average is evaluated and kept.

    Args:
        kind: ``ema`` exponential, after every step; ``swa`` equal weights, after every epoch (Izmailov et al., 2018,
            arXiv 1803.05407); ``none``.
        decay: of the exponential average, per step.
        start: share of the run after which averaging begins.
    """

    kind: Literal["none", "ema", "swa"] = "none"
    decay: float = 0.999
    start: float = 0.0

    def __post_init__(self) -> None:
        if not (0 <= self.decay < 1 and 0 <= self.start < 1):
            raise MmardError(f"decay {self.decay:g} and start {self.start:g} are in [0, 1)")


class Average:
    """The running average of one model."""

    def __init__(self, plan: Averaging, model: nn.Module) -> None:
        self.plan, self.model = plan, model
        rule = get_ema_multi_avg_fn(plan.decay) if plan.kind == "ema" else None  # type: ignore[no-untyped-call]
        self.averaged = None if plan.kind == "none" else AveragedModel(model, multi_avg_fn=rule)

    def update(self, progress: float, end_of_epoch: bool) -> None:
        """Take in the weights after a step."""
        due = self.plan.kind == "ema" or end_of_epoch
        if self.averaged is not None and due and progress > self.plan.start:
            self.averaged.update_parameters(self.model)

    def best_guess(self, natural: Iterable[Tensor]) -> nn.Module:
        """The average, its BatchNorm re-estimated on natural images; the model itself before averaging began."""
        if self.averaged is None or not self.averaged.n_averaged:
            return self.model
        update_bn(natural, self.averaged)
        return self.averaged.module

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {} if self.averaged is None else self.averaged.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From the checkpoint."""
        if self.averaged is not None:
            self.averaged.load_state_dict(state)
