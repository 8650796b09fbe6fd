"""ReBAT, rebalanced adversarial training: once the learning rate has dropped, the student is held to its own running average.

PGD-AT; from ``begin`` on (105 of 200 epochs) also β·KL(A(x')‖S(x')), A the student's average with a decay of .999, before that the
student itself. The learning rate drops by 1.5 instead of 10 (``train.decay``), so that the student fits its examples no faster
than the attack finds others. A stronger attack from the drop on, and a drop by 1.7, is the paper's ReBAT++:
``attack.late: {after: 0.5, steps: 12, eps: 10/255, step_size: 2/255}``. The average is the model that is judged:
``averaging: {kind: ema, start: 105}``. The release attacks with the student in training mode (``attack_in_train_mode=True``) and
shows it x in that mode after each step (not offered).
"""

import torch
from torch import Tensor

from mmard import losses
from mmard.attacks.pgd import Pgd
from mmard.core.companion import Companion
from mmard.core.method import Method
from mmard.core.objective import term
from mmard.core.views import Views
from mmard.methods.papers import Citation
from mmard.terms import hard_adv
from mmard.utils.calls import checked
from mmard.utils.numbers import beginning
from mmard.utils.validation import NotNegative, Share

CITATION = Citation(
    authors="Wang et al.",
    title="Balance, Imbalance, and Rebalance: Understanding Robust Overfitting from a Minimax Game Perspective",
    venue="NeurIPS",
    year=2023,
    arxiv="2310.19360",
)


@term("KL(A(x')‖S(x')) [from {begin} on]", divergence=True)
def held_back(v: Views, begin: float = 0.525) -> Tensor:
    """Measure how far the student at x' is from its average there; 0 before ``begin``, in epochs or a share of the run."""
    if v.progress < beginning("the pull to the average", begin, v.epochs):
        return torch.zeros_like(v.adv.student[:, 0])
    return losses.kl(v.adv.other("average"), v.adv.student)


@checked
def rebat(
    beta: NotNegative = 1.0,
    begin: NotNegative = 0.525,
    decay: Share = 0.999,
    attack_in_train_mode: bool = False,
) -> Method:
    """ReBAT (Wang 2023): PGD-AT whose student is held to its own average after the learning rate's drop; needs no teacher."""
    return Method(
        name="rebat",
        inner=hard_adv,
        outer=hard_adv + beta * held_back.given(begin=begin),
        maximizer=Pgd(steps=10, start="uniform"),
        attack_in_train_mode=attack_in_train_mode,
        companions={"average": Companion(average=decay, begin=begin)},
    )
