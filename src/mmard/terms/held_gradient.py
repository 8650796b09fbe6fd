"""Terms whose gradient is reused in some steps of an attack, which makes a live teacher cheap."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mmard.core.objective import Objective, Term
from mmard.core.views import Views
from mmard.utils.errors import MmardError


def reuse_gradient(objective: Objective, every: int) -> Objective:
    """Take the gradients of an inner objective's terms to x' anew at every ``every``-th step, and reuse them between.

    There a term is the linear function of x' with the gradient g that it had last, ⟨g, x'⟩. 1: exact in every step. As
    many as the attack has steps: linearised once, where the attack starts.

    Raises:
        MmardError: for a number below 1.
    """
    if not isinstance(every, int) or every < 1:
        raise MmardError(f"every is {every!r}, expected a number of attack steps, at least 1")
    if every == 1:
        return objective
    linear = ((w, Term(t.name, f"{t} (∇ every {every} steps)", ReusedGradient(t, every))) for w, t in objective.terms)
    return Objective(tuple(linear))


@dataclass
class _LastGradient:
    """A term's gradient (B, ...) when it was last taken, and the number of the next step."""

    gradient: Tensor
    step: int = 0

    def of_rows(self, rows: Tensor) -> "_LastGradient":
        return _LastGradient(self.gradient[rows], self.step)


@dataclass(frozen=True)
class ReusedGradient:
    """Stand in for a term: the linear function of x' with the gradient that it had last."""

    term: Term
    every: int

    @property
    def parts(self) -> tuple[Term, ...]:
        """Name the terms that it is made of."""
        return (self.term,)

    def __call__(self, v: Views) -> Tensor:
        known: _LastGradient = v.nat.once(
            f"gradient {id(self)}", lambda: _LastGradient(v.adv.x)
        )  # lives as long as the batch
        if known.step % self.every == 0:
            (known.gradient,) = torch.autograd.grad(self.term(v).sum(), v.adv.x, retain_graph=True)
        known.step += 1
        return (known.gradient * v.adv.x).flatten(1).sum(1)
