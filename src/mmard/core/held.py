"""Terms whose gradient is held between some steps of an attack: what makes a live teacher cheap."""

from typing import Any

import torch
from torch import Tensor

from mmard.core.errors import MmardError
from mmard.core.objective import Objective, Term
from mmard.core.views import Views


def held(objective: Objective, every: int) -> Objective:
    """For the inner process: the same terms, their gradients to x' taken anew at every ``every``-th step.

    Between, a term is the linear function of x' with the gradient g that it had last, ⟨g, x'⟩. 1: exact in every step. As
    many as the attack has steps: linearised once, where the attack starts.

    Raises:
        MmardError: for a number below 1.
    """
    if not isinstance(every, int) or every < 1:
        raise MmardError(f"every is {every!r}, expected a number of attack steps, at least 1")
    return objective if every == 1 else Objective(tuple((w, _held(term, every)) for w, term in objective.terms))


def _held(term: Term, every: int) -> Term:
    def linear(v: Views) -> Tensor:
        known: dict[str, Any] = v.nat.once(f"held {id(term)}", lambda: {"step": 0})  # lives as long as the batch
        if known["step"] % every == 0:
            (known["gradient"],) = torch.autograd.grad(term(v).sum(), v.adv.x, retain_graph=True)
        known["step"] += 1
        gradient: Tensor = known["gradient"]
        return (gradient * v.adv.x).flatten(1).sum(1)

    return Term(term.name, f"{term} (∇ every {every} steps)", linear)
