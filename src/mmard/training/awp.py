"""Adversarial weight perturbation: the gradient is taken at weights moved up the loss (Wu et al., 2020)."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

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


def moves_up(
    student: nn.Module, loss: Callable[[], Tensor], gamma: float, over_all: Callable[[Tensor], Tensor]
) -> dict[str, Tensor]:
    """Compute how far each weight w of more than one dimension moves, gamma·‖w‖·g/‖g‖, by its name; g is the loss's gradient.

    Args:
        over_all: joins a gradient with those of the other processes, so that they all move alike.
    """
    weights = {name: p for name, p in student.named_parameters() if p.requires_grad and p.dim() > 1}
    value = loss()
    if not value.requires_grad:
        raise MmardError("awp moves the student's weights up the outer loss, which does not depend on them")
    slopes = torch.autograd.grad(value, list(weights.values()), allow_unused=True)
    moves = {}
    with torch.no_grad():
        for (name, w), slope in zip(weights.items(), slopes, strict=True):
            if slope is not None:
                g = over_all(slope)
                moves[name] = g * (gamma * w.norm() / g.norm().clamp_min(torch.finfo(g.dtype).tiny))
    return moves


@contextmanager
def moved_up(student: nn.Module, moves: Mapping[str, Tensor]) -> Iterator[None]:
    """Add to each weight its move inside this context; after it the weights are what they were."""
    weights = {name: p for name, p in student.named_parameters() if name in moves}
    kept = {name: w.detach().clone() for name, w in weights.items()}
    try:
        with torch.no_grad():
            for name, w in weights.items():
                w.add_(moves[name])
        yield
    finally:
        with torch.no_grad():
            for name, w in weights.items():
                w.copy_(kept[name])
