"""Fair-ARD, fair robustness distillation: classes that are hard to defend weigh more.

On any base (ARD): each sample's loss times ω of its class, which is large where few of the attack's iterates were
still right in the epoch before; see `mmard.terms.fairness`. What is added to the loss outside, as in mmard(fair(...)), is not
weighed.
"""

from dataclasses import replace

from mmard.core.method import Method
from mmard.core.objective import term
from mmard.methods.ard import ard
from mmard.methods.papers import Citation
from mmard.terms.fairness import Fairness
from mmard.utils.errors import MmardError

CITATION = Citation(
    authors="Yue et al.",
    title="Revisiting Adversarial Robustness Distillation from the Perspective of Robust Fairness",
    venue="NeurIPS",
    year=2023,
)


def fair(base: Method | None = None, *, beta: float = 2.0) -> Method:
    """Fair-ARD (Yue 2023): any base (ARD), classes that are hard to defend weighing more."""
    base = base or ard()
    if any(isinstance(module, Fairness) for module in base.modules()):
        raise MmardError("fair stands twice in this method; once is enough")
    if not base.inner:
        raise MmardError(
            "fair counts how the attack's iterates do, and this base makes none; give one, such as base=ard"
        )
    state = Fairness(beta)
    return replace(
        base,
        inner=base.inner + 0.0 * term("right(S(x'))")(state.count),
        outer=base.outer.weighed(term("ω_y")(state.weigh)),
    )
