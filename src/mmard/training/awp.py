"""Adversarial weight perturbation: the gradient is taken at weights moved up the loss (Wu et al., 2020)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from mmard.training.engine import Engine
from mmard.utils.errors import MmardError


@contextmanager
def state_kept(*modules: nn.Module) -> Iterator[None]:
    """Restore buffers and attributes (BatchNorm's statistics, terms' state) after this context.

    Buffers may be written into; an attribute is another one after a change, or it stays changed.
    """
    kept = [(m, dict(m.__dict__), dict(m._buffers)) for module in modules for m in module.modules()]
    for m, _, buffers in kept:
        m._buffers.update({name: None if b is None else b.clone() for name, b in buffers.items()})
    try:
        yield
    finally:
        for m, attributes, buffers in kept:
            m.__dict__.update(attributes)
            m._buffers.update(buffers)


@contextmanager
def moved_up(student: nn.Module, loss: Callable[[], Tensor], gamma: float, engine: Engine) -> Iterator[None]:
    """Move each weight w of more than one dimension to w + gamma·‖w‖·g/‖g‖ inside this context, g the loss's gradient.

    g is that of all processes together, so that they all move alike. After the context the weights are w again.
    """
    weights = [p for p in student.parameters() if p.requires_grad and p.dim() > 1]
    value = loss()
    if not value.requires_grad:
        raise MmardError("awp moves the student's weights up the outer loss, which does not depend on them")
    slopes = torch.autograd.grad(value, weights, allow_unused=True)
    kept = [w.detach().clone() for w in weights]
    try:
        with torch.no_grad():
            for w, slope in zip(weights, slopes, strict=True):
                if slope is not None:
                    g = engine.all_reduce_sum(slope)
                    w.add_(g * (gamma * w.norm() / g.norm().clamp_min(torch.finfo(g.dtype).tiny)))
        yield
    finally:
        with torch.no_grad():
            for w, old in zip(weights, kept, strict=True):
                w.copy_(old)
