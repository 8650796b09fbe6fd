"""Schedule of training: epochs, batch size, the optimiser, and the learning rate as a function of progress alone."""

import math
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import nn
from torch.optim import Optimizer

from mmard.utils.errors import MmardError
from mmard.utils.numbers import share_of_run
from mmard.utils.validation import AsWritten, Count, NotNegative, Positive, Section, Share, ZeroToOne


class Plan(Section):
    """The schedule of a training run.

    Args:
        epochs: passes over the training set.
        batch_size: images per step over all processes; a last, smaller batch of an epoch is left out.
        optimizer: ``sgd`` with momentum, or ``adamw``.
        lr: learning rate at its highest.
        momentum: of SGD.
        weight_decay: of SGD (added to the gradient) and of AdamW (decoupled).
        schedule: ``constant``; ``cosine`` goes to 0; ``one_cycle`` rises over ``warmup``, then falls to 0, linearly;
            ``piecewise`` multiplies lr by ``decay`` after each of the ``milestones`` (epochs; below 1: shares of the run).
        milestones: of ``piecewise``: epochs; below 1: shares of the run.
        decay: factor of ``piecewise`` at each milestone.
        hold: a cosine begins to fall so late (epochs; below 1: share of the run).
        warmup: share of the run over which lr rises linearly from 0 (one_cycle: where it peaks).
        clip: largest L2 norm of the gradient; None: no limit.
        nesterov: Nesterov's momentum.
    """

    epochs: Count = 30
    batch_size: Count = 128
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: Annotated[float, Field(ge=0, le=100), AsWritten] = 0.1  # more is a slip of the pen, and no loss stays finite
    momentum: ZeroToOne = 0.9
    nesterov: bool = False
    weight_decay: Annotated[float, Field(ge=0, le=10), AsWritten] = 2e-4
    schedule: Literal["piecewise", "cosine", "one_cycle", "constant"] = "cosine"
    milestones: tuple[NotNegative, ...] = (0.7, 0.9)
    decay: ZeroToOne = 0.1
    hold: NotNegative = 0.0
    warmup: Share = 0.0
    clip: Positive | None = None

    def model_post_init(self, _: Any) -> None:
        """Raise MmardError where the parts do not go together."""
        faults = []
        if self.hold and self.schedule != "cosine":
            faults.append(
                f"train.hold={self.hold:g} is of a cosine, and train.schedule={self.schedule} is none; leave it out"
            )
        elif share_of_run(self.hold, self.epochs) >= 1:
            faults.append(
                f"train.hold={self.hold:g} is not before the end, train.epochs={self.epochs}; expected less, or a share of the run"
            )
        if self.optimizer == "sgd" and self.nesterov and self.momentum == 0:
            faults.append(
                "train.nesterov=true needs a momentum, and train.momentum=0 is none; "
                "expected train.nesterov=false, or train.momentum=0.9"
            )
        if self.schedule == "one_cycle" and self.warmup == 0:
            faults.append(
                "train.schedule=one_cycle peaks at train.warmup=0; expected a share of the run, such as train.warmup=0.3"
            )
        if faults:
            raise MmardError("; and ".join(faults))

    def lr_at(self, progress: float) -> float:
        """Return the learning rate when this share of the run is done."""
        if self.warmup and progress < self.warmup:
            return self.lr * progress / self.warmup
        if self.schedule == "piecewise":
            passed = sum(progress >= share_of_run(m, self.epochs) for m in self.milestones)
            return self.lr * self.decay**passed
        begin = max(self.warmup, share_of_run(self.hold, self.epochs))
        rest = max(0.0, progress - begin) / (1 - begin)
        factor = {"constant": 1.0, "one_cycle": 1 - rest, "cosine": (1 + math.cos(math.pi * rest)) / 2}
        return self.lr * factor[self.schedule]

    def optimizer_for(self, model: nn.Module, *beside: nn.Module, fused: bool = True) -> Optimizer:
        """Make the optimiser of the model's weights, and of what learns beside it.

        Args:
            fused: all of an update in one kernel, where the device can.
        """
        if not (weights := list(model.parameters())):
            raise MmardError("the network to train has no weights; expected some that can be learnt")
        weights += [weight for each in beside for weight in each.parameters()]
        fused = fused and weights[0].device.type in ("cpu", "cuda")
        if self.optimizer == "adamw":
            return torch.optim.AdamW(weights, lr=self.lr, weight_decay=self.weight_decay, fused=fused)
        return torch.optim.SGD(
            weights, self.lr, self.momentum, weight_decay=self.weight_decay, nesterov=self.nesterov, fused=fused
        )

    def apply_to(self, optimizer: Optimizer) -> None:
        """Set a restored optimiser to this plan's weight decay, which an extension may change."""
        for group in optimizer.param_groups:
            group["weight_decay"] = self.weight_decay
