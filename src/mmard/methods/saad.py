"""SAAD, sample-wise adaptive distillation: samples count by how well their examples transfer to the teacher.

Their weight is the teacher's entropy at x', w = H(T(x')), which is large where the example fools it too; the
loss has IGDM's gradient matching in it. x' maximises KL(t̂‖S(x')), with t̂ the teacher's logits at x and the label's one made
linear: one backward of the teacher a batch. BatchNorm sees x', x − δ, x, the last for β = 0 too. α is 1 on CIFAR-10
and 10 on CIFAR-100. The release weighs by w = 5·(H − its least in the batch) (``script_weights=True``; with several processes
or a batch in parts, of a part) and averages the weights from epoch 95 of 200: ``averaging: {kind: swa, start: 0.4725}``.
An earlier upload of it has Rényi's entropy of an ``order``, 2 say, for H.
``tau``, not the paper's, divides the teacher's logits, in w and t̂ too.
"""

import math
from dataclasses import replace
from functools import reduce

import torch
from torch import Tensor

from mmard import losses
from mmard.attacks.pgd import Pgd
from mmard.core.method import Method
from mmard.core.objective import Objective, term
from mmard.core.views import Views
from mmard.methods.papers import Citation
from mmard.terms import gradient_match
from mmard.terms.temperature import Tau, at_temperature
from mmard.utils.calls import checked
from mmard.utils.validation import NotNegative, Positive

CITATION = Citation(
    authors="Lee and Chung",
    title="Sample-wise Adaptive Weighting for Transfer Consistency in Adversarial Distillation",
    venue="TMLR",
    year=2026,
    arxiv="2512.10275",
)

SCRIPT_SCALE = 5.0  # of the released script's weights
TINY = 1e-8


def _sample_weights(v: Views, script: bool, order: float) -> tuple[Tensor, Tensor]:
    """Compute each sample's weight and the same brought into [0, 1], from the teacher's entropy at x', (B,) both."""
    h = losses.entropy(v.adv.teacher, order)
    if not script:
        return h, h / math.log(v.adv.teacher.shape[1])
    above = h - h.min()
    return SCRIPT_SCALE * above, above / above.max().clamp_min(TINY)


@term("w·(KL(T(x')‖S(x')) + {alpha}·ramp·KL(Δt‖Δs)) [w = H(T(x'))]", divergence=True)
def undecided(v: Views, alpha: NotNegative = 1.0, script_weights: bool = False, order: float = 1.0) -> Tensor:
    """Follow the teacher at x', in value and in gradient, most where the teacher is undecided there."""
    follow = losses.kl(v.adv.teacher, v.adv.student)
    return _sample_weights(v, script_weights, order)[0] * (follow + alpha * gradient_match.total(v))


def _named(objective: Objective, script: bool, order: float) -> Objective:
    """Write the script's weights into the formula, and the order of the entropy where it is not Shannon's."""
    h = "H(T(x'))" if order == 1 else f"H_{order:g}(T(x'))"
    new = {"H(T(x'))": f"{SCRIPT_SCALE:g}·({h} − min)", "w/log K": "w/max w"} if script else {"H(T(x'))": h}
    named = ((w, t, reduce(lambda text, pair: text.replace(*pair), new.items(), t.formula)) for w, t in objective.terms)
    return Objective(tuple((w, replace(t, formula=formula)) for w, t, formula in named))


@term("(1−w/log K)·KL(T(x)‖S(x))", divergence=True)
def decided(v: Views, script_weights: bool = False, order: float = 1.0) -> Tensor:
    """Follow the teacher at x where the teacher is decided at x'."""
    return (1 - _sample_weights(v, script_weights, order)[1]) * losses.kl(v.nat.teacher, v.nat.student)


def _label_gradient(v: Views) -> tuple[Tensor, Tensor]:
    """Compute T's logits at x (B, K) and the gradient of the label's logit to x: one backward pass of the teacher."""
    with torch.enable_grad():
        x = v.nat.x.detach().clone().requires_grad_()
        logits = v.point(x).teacher
        (gradient,) = torch.autograd.grad(logits.gather(1, v.y[:, None]).sum(), x)
    return logits.detach(), gradient


@term("KL(t(x) + ⟨∇t_y(x), x'−x⟩ on y‖S(x'))", divergence=True)
def linear_label(v: Views) -> Tensor:
    """Measure how far the student at x' is from the teacher at x, whose logit of the label goes with x' to first order."""
    logits, gradient = v.nat.once("SAAD: the label's gradient", lambda: _label_gradient(v))
    moved = (gradient * (v.adv.x - v.nat.x)).flatten(1).sum(1)
    return losses.kl(logits.scatter_add(1, v.y[:, None], moved[:, None]), v.adv.student)


@checked
def saad(
    alpha: NotNegative = 1.0, beta: NotNegative = 0.0, script_weights: bool = False, tau: Tau = 1.0, order: Positive = 1.0
) -> Method:  # fmt: skip
    """SAAD (Lee 2026): samples weighed by whether their examples transfer to the teacher; slopes matched."""
    outer = undecided.given(alpha=alpha) + beta * decided
    outer = _named(outer, script_weights, order).given(script_weights=script_weights, order=order)
    return Method(
        name="saad",
        inner=at_temperature(linear_label, tau),
        outer=at_temperature(outer, tau),
        maximizer=Pgd(steps=10, start="gaussian"),
    )


@checked
def saad_c(
    alpha: NotNegative = 1.0, beta: NotNegative = 0.2, script_weights: bool = False, tau: Tau = 1.0, order: Positive = 1.0
) -> Method:  # fmt: skip
    """SAAD-C (Lee 2026): SAAD, and natural images where examples do not transfer; β = 0.2 or 0.5."""
    return replace(saad(alpha=alpha, beta=beta, script_weights=script_weights, tau=tau, order=order), name="saad_c")
