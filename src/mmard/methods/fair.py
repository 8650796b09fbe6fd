"""Fair-ARD, fair robustness distillation: classes that are hard to defend weigh more.

On any base (ARD): each sample's loss times the weight ω of its class, which is large where few of the attack's iterates were
still right in the epoch before. What is added to the loss outside, as in mmard(fair(...)), is not weighed.
"""

from dataclasses import replace

import torch
from torch import Tensor

from mmard.core.method import Method, as_method
from mmard.core.objective import term
from mmard.core.views import Views
from mmard.methods.ard import ard
from mmard.methods.papers import Citation
from mmard.terms.state import PerEpoch
from mmard.utils.calls import checked
from mmard.utils.errors import MmardError
from mmard.utils.validation import NotNegative

CITATION = Citation(
    authors="Yue et al.",
    title="Revisiting Adversarial Robustness Distillation from the Perspective of Robust Fairness",
    venue="NeurIPS",
    year=2023,
)

LEAST = 5 / 6  # weight of a class
MOST = 5 / 2
NEVER_RIGHT = 1e-6  # share of right iterates that a class has at least: its weight is clipped anyway


class ClassWeights(PerEpoch):
    """Weigh classes by how few of the attack's iterates were still right in the epoch before.

    ω_c = clip(C·κ_c^−β / Σ κ^−β, 5/6, 5/2), κ_c the share of right iterates of class c. In the first epoch ω = 1, and a class
    that did not occur counts as an average one.
    """

    right: Tensor
    seen: Tensor
    weights: Tensor

    def __init__(self, beta: float) -> None:
        super().__init__(weights=torch.ones(1), right=torch.zeros(1), seen=torch.zeros(1))
        self.beta = beta

    def count(self, v: Views) -> Tensor:
        """Count which iterates are still right, in an inner term that is 0."""
        logits = v.adv.student.detach()
        self.turn(v, logits.shape[1])
        right = (logits.argmax(1) == v.y).to(self.right)
        self.right = self.right.index_add(0, v.y, right)
        self.seen = self.seen.index_add(0, v.y, torch.ones_like(right))
        return torch.zeros_like(logits[:, 0])

    def weigh(self, v: Views) -> Tensor:
        """Give each sample the weight of its class, (B,)."""
        self.turn(v, v.adv.student.shape[1])
        return self.weights[v.y]

    def turned(self, v: Views) -> dict[str, Tensor]:
        """Make weights of what the epoch before counted; the counts begin anew."""
        average = self.right.sum() / self.seen.sum().clamp_min(1)
        share = torch.where(self.seen > 0, self.right / self.seen.clamp_min(1), average)
        powers = -self.beta * share.clamp_min(NEVER_RIGHT).log()
        weights = (len(share) * powers.softmax(0)).clamp(LEAST, MOST)
        return {"weights": weights, "right": torch.zeros_like(share), "seen": torch.zeros_like(share)}


@checked
def fair(base: Method | None = None, *, beta: NotNegative = 2.0) -> Method:
    """Fair-ARD (Yue 2023): any base (ARD), classes that are hard to defend weighing more."""
    base = as_method(base, ard)
    if any(isinstance(module, ClassWeights) for module in base.modules()):
        raise MmardError("fair stands twice in this method; once is enough")
    if not base.inner:
        raise MmardError(
            "fair counts how the attack's iterates do, and this base makes none; give one, such as base=ard"
        )
    classes = ClassWeights(beta)
    return replace(
        base,
        inner=base.inner + 0.0 * term("right(S(x'))")(classes.count),
        outer=base.outer.weighed(term("ω_y", scale_free=True)(classes.weigh)),
    )
