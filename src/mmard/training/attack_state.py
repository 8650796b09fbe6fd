"""State of inner attacks during training: warm starts need room, guards need the validation's accuracies."""

import warnings
from typing import Any

import torch
from torch import nn

from mmard.attacks.inner.adaptive import WarmStart
from mmard.attacks.inner.switching import CollapseGuard
from mmard.core.method import Method
from mmard.data.images import ImageSet
from mmard.training.engine import Engine


def prepare_attack(method: Method, images: ImageSet, device: torch.device) -> list[nn.Module]:
    """Move the modules with the method's state to the device, with room for each training image where one needs it."""
    for module in method.modules():
        if isinstance(module, WarmStart):
            module.make_room(int(images.index.max()) + 1, images.shape)
    return [module.to(device) for module in method.modules()]


def tell_guards(method: Method, found: dict[str, float], classes: int, engine: Engine) -> dict[str, Any]:
    """Give the guards the validated accuracies; return for the metrics whether robustness has collapsed, if there is a guard."""
    guards = [part for module in method.modules() for part in module.modules() if isinstance(part, CollapseGuard)]
    for guard in guards:
        best = guard.best_robust
        if guard.validated(found["clean"], found["robust"], 100 / classes) and engine.is_global_zero:
            warnings.warn(
                f"robust accuracy collapsed on the held-out split in epoch {found['epoch']:.0f}, to {found['robust']:.1f} % "
                f"from {best:.1f} %, with clean accuracy at {found['clean']:.1f} %: catastrophic overfitting; "
                f"from here on {guard.then}",
                stacklevel=2,
            )
    return {"collapsed": any(guard.collapsed for guard in guards)} if guards else {}
