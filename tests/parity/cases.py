"""The methods as their papers state them: what x' ascends and what the weights descend.

The inner objectives are written with torch, since an attack needs their gradient; the outer losses with `naive`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mmard.core.method import Method
from mmard.methods import METHODS
from mmard.methods.adaad import adaad
from mmard.methods.ard import ard
from mmard.methods.mmard import mmard
from mmard.methods.rslad import rslad
from mmard.methods.trades import trades
from mmard.terms import BOUNDARIES, TRIANGLES

from .naive import Seen, mean

Net = Callable[[Tensor], Tensor]
Inner = Callable[[Net, Net, Tensor, Tensor, Tensor], Tensor]  # (S, T, x, x', y) -> (B,)
Outer = Callable[[Seen], float]
Start = Literal["gaussian", "uniform"]


@dataclass(frozen=True)
class Case:
    """A method, its two formulas, and where its attack starts; flat: the gradient of the inner one is 0 at x' = x."""

    of: str
    method: Method
    inner: Inner | None
    outer: Outer
    start: Start = "gaussian"
    flat: bool = False


# ---- what x' ascends, one number per sample ---------------------------------------------------------------------


def p(z: Tensor) -> Tensor:
    """Softmax by hand."""
    e = z.exp()
    return e / e.sum(1, keepdim=True)


def kl(a: Tensor, b: Tensor) -> Tensor:
    """KL(a‖b) of two batches of distributions."""
    return (a * (a / b).log()).sum(1)


def ce(a: Tensor, y: Tensor) -> Tensor:
    """−log a_y."""
    return torch.stack([-row[k].log() for row, k in zip(a, y, strict=True)])


def gap(z: Tensor, nat: Tensor) -> Tensor:
    """Minus the distance of the logits from where the class given to x is left."""
    own = nat.argmax(1)
    return torch.stack(
        [-(r[k] - max(r[j] for j in range(len(r)) if j != k)).abs() for r, k in zip(z, own, strict=True)]
    )


def hard(s: Net, t: Net, x: Tensor, x_adv: Tensor, y: Tensor) -> Tensor:
    """CE(S(x'), y): PGD-AT, ARD."""
    return ce(p(s(x_adv)), y)


def smooth(s: Net, t: Net, x: Tensor, x_adv: Tensor, y: Tensor) -> Tensor:
    """KL(S(x)‖S(x')), S(x) constant: TRADES."""
    return kl(p(s(x)).detach(), p(s(x_adv)))


def soft(s: Net, t: Net, x: Tensor, x_adv: Tensor, y: Tensor) -> Tensor:
    """KL(T(x)‖S(x')), T(x) constant: RSLAD."""
    return kl(p(t(x)).detach(), p(s(x_adv)))


def live(s: Net, t: Net, x: Tensor, x_adv: Tensor, y: Tensor) -> Tensor:
    """KL(T(x')‖S(x')), gradient through both: AdaAD."""
    return kl(p(t(x_adv)), p(s(x_adv)))


BOUNDARY: dict[str, Inner] = {
    "none": lambda s, t, x, x_adv, y: torch.zeros(len(x), dtype=x.dtype),
    "drift": lambda s, t, x, x_adv, y: kl(p(t(x)).detach(), p(t(x_adv))),
    "entropy": lambda s, t, x, x_adv, y: -(p(t(x_adv)) * p(t(x_adv)).log()).sum(1),
    "label": lambda s, t, x, x_adv, y: ce(p(t(x_adv)), y),
    "margin": lambda s, t, x, x_adv, y: gap(t(x_adv), t(x)),
}


def plus(base: Inner, beta: float, boundary: str) -> Inner:
    """MMARD's inner process: base + β·boundary."""
    return lambda *at: base(*at) + beta * BOUNDARY[boundary](*at)


# ---- what the weights descend: sum over classes, mean over the batch --------------------------------------------


def of_ard(v: Seen, alpha: float = 1.0, tau: float = 30.0) -> float:
    """α·τ²·KL(T(x)^τ‖S(x')^τ) + (1 − α)·CE(S(x), y)."""
    return alpha * mean("soft_adv_hot", v, tau=tau) + (1 - alpha) * mean("hard_nat", v)


def of_rslad(v: Seen, alpha: float = 5 / 6) -> float:
    """5/6·KL(T(x)‖S(x')) + 1/6·KL(T(x)‖S(x))."""
    return alpha * mean("soft_adv", v) + (1 - alpha) * mean("soft_nat", v)


def of_adaad(v: Seen, lam: float = 1.0) -> float:
    """λ·KL(T(x')‖S(x')) + (1 − λ)·KL(T(x)‖S(x))."""
    return lam * mean("soft_moved", v) + (1 - lam) * mean("soft_nat", v)


def of_trades(v: Seen, beta: float = 6.0) -> float:
    """CE(S(x), y) + 6·KL(S(x)‖S(x')), S(x) not detached."""
    return mean("hard_nat", v) + beta * mean("smooth", v)


def closed(base: Outer, gamma: float, triangle: str) -> Outer:
    """MMARD's outer process: base + γ·triangle."""
    return lambda v: base(v) + gamma * (mean(triangle, v) if triangle != "none" else 0.0)


def mmard_on(base: Method | None, inner: Inner, outer: Outer, start: Start = "gaussian", flat: bool = False) -> Case:
    """Drift and joint on a base, with weights other than the default."""
    method = mmard(base, inner="drift", outer="joint", beta=2.0, gamma=0.3)
    return Case("mmard", method, plus(inner, 2.0, "drift"), closed(outer, 0.3, "joint"), start, flat)


def on_rslad(boundary: str, triangle: str) -> Case:
    """One boundary or one triangle on RSLAD, with the default weights β = 1 and γ = 0.5."""
    method = mmard(inner=boundary, outer=triangle)
    return Case("mmard", method, plus(soft, 1.0, boundary), closed(of_rslad, 0.5, triangle))


CASES: dict[str, Case] = {
    "standard": Case("standard", METHODS["standard"](), None, lambda v: mean("hard_nat", v)),
    "pgd_at": Case("pgd_at", METHODS["pgd_at"](), hard, lambda v: mean("hard_adv", v), "uniform"),
    "trades": Case("trades", METHODS["trades"](), smooth, of_trades, flat=True),
    "ard": Case("ard", METHODS["ard"](), hard, of_ard, "uniform"),
    "ard α=.6 τ=4": Case("ard", ard(alpha=0.6, tau=4.0), hard, lambda v: of_ard(v, 0.6, 4.0), "uniform"),
    "rslad": Case("rslad", METHODS["rslad"](), soft, of_rslad),
    "rslad α=.3": Case("rslad", rslad(alpha=0.3), soft, lambda v: of_rslad(v, 0.3)),
    "adaad": Case("adaad", METHODS["adaad"](), live, of_adaad),
    "adaad λ=.7": Case("adaad", adaad(lam=0.7), live, lambda v: of_adaad(v, 0.7)),
    "mmard": Case("mmard", METHODS["mmard"](), soft, closed(of_rslad, 0.5, "contrast")),
    **{f"mmard {b}/none": on_rslad(b, "none") for b in BOUNDARIES},
    **{f"mmard none/{t}": on_rslad("none", t) for t in TRIANGLES},
    "mmard on rslad": mmard_on(None, soft, of_rslad),
    "mmard on ard": mmard_on(ard(), hard, of_ard, "uniform"),
    "mmard on adaad": mmard_on(adaad(), live, of_adaad),
    "mmard on trades": mmard_on(trades(), smooth, of_trades, flat=True),
}
ATTACKED = {name: case for name, case in CASES.items() if case.inner is not None}
