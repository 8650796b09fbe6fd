"""Objectives whose gradient to x' has the same size for every sample: a sign step forgets scale."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mmard.core.objective import Objective, Term
from mmard.core.threat import per_sample
from mmard.core.views import Views


def normalise_gradient(objective: Objective) -> Objective:
    """Bring the gradient of an inner objective to x' to the same size in every sample.

    It is divided by its mean |∂/∂x'| over each sample. A step goes along the sign of a weighted sum of gradients; where one of
    them is many times larger than the other the smaller is not heard. Between balanced objectives a weight β means the same for
    every sample and at every step, and alone a balanced objective makes the same L∞ examples as the objective itself. Where a
    gradient is exactly 0 it stays so; one of rounding, as the drift's where the attack starts at x itself, is made as large as
    any.
    """
    if not objective:
        return objective
    names = "+".join(term.name for _, term in objective.terms)
    return Objective(((1.0, Term(f"balanced {names}", f"⟨∇({objective})/|∇|, x'⟩", NormalisedGradient(objective))),))


@dataclass(frozen=True)
class NormalisedGradient:
    """Stand in for an objective: the linear function of x' with its gradient, each sample's brought to a mean size of 1."""

    objective: Objective

    @property
    def parts(self) -> tuple[Term, ...]:
        """Name the terms that it is made of."""
        return tuple(term for _, term in self.objective.terms)

    def __call__(self, v: Views) -> Tensor:
        (gradient,) = torch.autograd.grad(self.objective.total(v).sum(), v.adv.x, retain_graph=True)
        size = gradient.abs().flatten(1).mean(1).clamp_min(torch.finfo(gradient.dtype).tiny)
        return (gradient / per_sample(size, gradient) * v.adv.x).flatten(1).sum(1)
