"""One update of the student: attack, look again, loss, gradient, weights; and what makes it fast.

Networks are laid out channels-last; in the attack and for teachers BatchNorm is folded into the convolutions.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mmard.core.errors import MmardError
from mmard.core.method import Method
from mmard.core.threat import Threat
from mmard.core.views import Models, Views
from mmard.training.engine import Engine
from mmard.training.folding import Folded, folded
from mmard.training.plan import Plan
from mmard.training.step import make_example, outer_losses


@dataclass(kw_only=True)
class Update:
    """What one step does to the student.

    Args:
        method, threat: what to ascend and descend, and where.
        student: updated in place, in training mode.
        teachers: the other networks by name; frozen and put in evaluation mode here.
        plan: optimiser, learning rate, clipping.
        scale: the outer loss is multiplied by it.
    """

    method: Method
    threat: Threat
    student: nn.Module
    teachers: Mapping[str, nn.Module]
    plan: Plan
    engine: Engine
    scale: float = 1.0
    optimizer: Optimizer = field(init=False)

    def __post_init__(self) -> None:
        engine, shadows = self.engine, {}
        for network in (self.student, *self.teachers.values()):
            network.to(engine.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        for name, teacher in self.teachers.items():
            shadows[name] = folded(teacher.eval().requires_grad_(False))
        self.optimizer = self.plan.optimizer_for(self.student)
        self.wrapped, self.stepper = engine.setup(self.student, self.optimizer)
        self.shadow = self.student if self.method.attack_in_train_mode else folded(self.student)
        self.predictors = {name: engine.predictor(net) for name, net in {**shadows, "student": self.shadow}.items()}

    def __call__(self, x: Tensor, y: Tensor, index: Tensor, progress: float) -> dict[str, Tensor]:
        """Update on one batch; returns the mean of each weighted term."""
        if isinstance(self.shadow, Folded):
            self.shadow.refresh()
        views = Views.of(x, y, index, Models(self.predictors), progress)
        views = make_example(self.method, views, self.student, self.threat)
        losses = outer_losses(self.method, views, self.wrapped)
        self.stepper.zero_grad()
        loss = self.scale * torch.stack(list(losses.values())).sum()
        if not loss.requires_grad:
            raise MmardError(
                "what training descends does not depend on the student's weights; is there a detach in it?"
            )
        self.engine.backward(loss)
        if self.plan.clip is not None:
            self.engine.clip(self.wrapped, self.stepper, self.plan.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = self.plan.lr_at(progress)
        self.stepper.step()
        return losses
