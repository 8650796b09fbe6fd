"""Terms whose gradient is held between some steps of an attack: what makes a live teacher cheap."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mmard.core.objective import Objective, Term
from mmard.core.views import Views
from mmard.utils.errors import MmardError


def reuse_gradient(objective: Objective, every: int) -> Objective:
    """For the inner process: the same terms, their gradients to x' taken anew at every ``every``-th step.

    Between, a term is the linear function of x' with the gradient g that it had last, ⟨g, x'⟩. 1: exact in every step. As
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
class _Look:
    """The last look at a gradient (B, ...), and the number of the next step."""

    gradient: Tensor
    step: int = 0

    def of_rows(self, rows: Tensor) -> "_Look":
        return _Look(self.gradient[rows], self.step)


@dataclass(frozen=True)
class ReusedGradient:
    """A term as the linear function of x' with the gradient that it had last."""

    term: Term
    every: int

    @property
    def parts(self) -> tuple[Term, ...]:
        """The terms that it is made of."""
        return (self.term,)

    def __call__(self, v: Views) -> Tensor:
        known: _Look = v.nat.once(f"held {id(self)}", lambda: _Look(v.adv.x))  # lives as long as the batch
        if known.step % self.every == 0:
            (known.gradient,) = torch.autograd.grad(self.term(v).sum(), v.adv.x, retain_graph=True)
        known.step += 1
        return (known.gradient * v.adv.x).flatten(1).sum(1)
