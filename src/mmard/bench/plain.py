"""The training step as released scripts write it: eager, float32, default memory layout, the networks as they are."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mmard.core.ascent import Ascent
from mmard.core.method import Method
from mmard.core.threat import Threat
from mmard.core.views import Models, Views


def plain_step(
    method: Method, networks: Mapping[str, nn.Module], optimizer: Optimizer, threat: Threat, x: Tensor, y: Tensor
) -> None:
    """Train for one step on x (B, C, H, W) and y (B,), as released scripts do.

    The student goes to evaluation mode for the attack and its weights keep asking for gradients; the formulas are the
    method's own, so that what is compared is the machinery and nothing else.
    """
    student = networks["student"]
    views = Views.of(x, y, torch.arange(len(y), device=y.device), Models(networks))
    if method.inner and method.maximizer is not None:
        student.eval()
        x_adv = method.maximizer(Ascent(method.inner, views), x, method.ball(threat))
        views = views.moved_to(x_adv.detach())
    student.train()
    loss = method.outer.total(views.seen_by(student)).mean()
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    for name, companion in method.companions.items():
        follow(networks[name], student, companion.average or 0.0)


@torch.no_grad()
def follow(average: nn.Module, student: nn.Module, decay: float) -> None:
    """Take the student's weights and statistics into its running average, one tensor after the other."""
    for own, new in zip(average.state_dict().values(), student.state_dict().values(), strict=True):
        own.copy_(decay * own + (1 - decay) * new if own.is_floating_point() else new)
