"""ADR, annealing self-distillation rectification: no teacher; the student's own running average softens the labels.

Attack and loss are the cross-entropy of S(x') with the rectified label P = λᵢ·A(x)^τ + (1 − λᵢ)·y, a constant. A is the average and
λᵢ = clip(λ − (max A(x)^τ − A(x)^τ_y), 0, 1): where the average errs it counts for less. τ and λ go from their first value to their
second along a cosine over the run. The release attacks with the student in training mode (``attack_in_train_mode=True``) and takes
nesterov's momentum. Published: τ 2.5 → 2 and λ .7 → .95 on CIFAR-10 (with AWP 2.5 → 1.5 and .7 → .85), τ 1.5 → 1 on CIFAR-100.
"With averaging" in the paper is the average itself as the model: ``averaging: {kind: ema, decay: 0.995}``.
"""

import math

import torch.nn.functional as F
from torch import Tensor

from mmard.attacks.pgd import Pgd
from mmard.core.companion import Companion
from mmard.core.method import Method
from mmard.core.objective import term
from mmard.core.views import Views
from mmard.losses import log_probs
from mmard.methods.papers import Citation
from mmard.utils.calls import checked
from mmard.utils.validation import Positive, Share, ZeroToOne

CITATION = Citation(
    authors="Wu et al.",
    title="Annealing Self-Distillation Rectification Improves Adversarial Training",
    venue="ICLR",
    year=2024,
    arxiv="2305.12118",
)


def _between(ends: tuple[float, float], progress: float) -> float:
    """Go from the first end to the second along a cosine over the run."""
    first, last = ends
    return last + (first - last) * (1 + math.cos(math.pi * progress)) / 2


def _rectify(v: Views, tau: tuple[float, float], lam: tuple[float, float]) -> Tensor:
    """Make the rectified labels P (B, K) of the average's prediction at x."""
    own = log_probs(v.nat.other("average"), _between(tau, v.progress)).exp()
    gap = own.amax(1) - own.gather(1, v.y[:, None]).squeeze(1)
    share = (_between(lam, v.progress) - gap).clamp(0, 1)[:, None]
    return share * own + (1 - share) * F.one_hot(v.y, own.shape[1]).to(own)


@term("CE(S(x'), P) [P = λᵢ·A(x)^τ + (1−λᵢ)·y, τ {tau}, λ {lam}]")
def rectified(v: Views, tau: tuple[float, float] = (2.5, 2.0), lam: tuple[float, float] = (0.7, 0.95)) -> Tensor:
    """Measure the cross-entropy of the student at x' with the rectified label."""
    target: Tensor = v.nat.once(f"ADR's labels, τ {tau}, λ {lam}", lambda: _rectify(v, tau, lam))
    return -(target * log_probs(v.adv.student)).sum(1)


@checked
def adr(
    tau: tuple[Positive, Positive] = (2.5, 2.0),
    lam: tuple[ZeroToOne, ZeroToOne] = (0.7, 0.95),
    decay: Share = 0.995,
    attack_in_train_mode: bool = False,
) -> Method:
    """ADR (Wu 2024): labels softened by the student's own running average; needs no teacher."""
    labels = rectified.given(tau=tuple(tau), lam=tuple(lam))
    return Method(
        name="adr",
        inner=labels,
        outer=labels,
        maximizer=Pgd(steps=10, start="uniform"),
        attack_in_train_mode=attack_in_train_mode,
        companions={"average": Companion(average=decay)},
    )
