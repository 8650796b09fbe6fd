"""Sharpened teachers: T(x)^τ = softmax(t(x)/τ) in attack and loss, the student at temperature 1; with MMARD's parts on top."""

from dataclasses import replace

from torch import Tensor

from mmard import losses
from mmard.attacks.pgd import Pgd
from mmard.core.method import Method
from mmard.core.objective import term
from mmard.core.views import Views
from mmard.methods.igdm import igdm
from mmard.methods.mmard import mmard


@term("KL(T(x)^{tau}‖S(x'))")
def sharp_adv(v: Views, tau: float = 0.5) -> Tensor:
    """The student at x' follows the sharpened teacher at x."""
    return losses.kl(v.nat.teacher / tau, v.adv.student)


@term("KL(T(x)^{tau}‖S(x))")
def sharp_nat(v: Views, tau: float = 0.5) -> Tensor:
    """The student at x follows the sharpened teacher at x."""
    return losses.kl(v.nat.teacher / tau, v.nat.student)


@term("KL(T(x')^{tau}‖S(x'))")
def sharp_moved(v: Views, tau: float = 0.5) -> Tensor:
    """The student at x' follows the sharpened live teacher at x'."""
    return losses.kl(v.adv.teacher / tau, v.adv.student)


@term("H(T(x')^{tau})")
def sharp_entropy(v: Views, tau: float = 0.5) -> Tensor:
    """How undecided the sharpened teacher is at x'."""
    return losses.entropy(v.adv.teacher / tau)


def rslad(tau: float = 0.5, alpha: float = 5 / 6) -> Method:
    """RSLAD with sharpened targets in attack and loss (test C of MMARD's second reading)."""
    adv, nat = sharp_adv.given(tau=tau), sharp_nat.given(tau=tau)
    return Method(
        name="rslad_sharp", inner=adv, outer=alpha * adv + (1 - alpha) * nat,
        maximizer=Pgd(steps=10, start="gaussian"),
    )  # fmt: skip


def adaad(tau: float = 0.5, beta: float = 0.0, alpha: float = 5 / 6) -> Method:
    """AdaAD with sharpened targets, and a signed dose of the teacher's entropy in the attack (test B)."""
    moved, nat = sharp_moved.given(tau=tau), sharp_nat.given(tau=tau)
    inner = moved + beta * sharp_entropy.given(tau=tau) if beta else moved
    return Method(
        name="adaad_sharp", inner=inner, outer=alpha * moved + (1 - alpha) * nat,
        maximizer=Pgd(steps=10, start="gaussian"),
    )  # fmt: skip


def dose(tau: float = 0.5, beta: float = 0.0, alpha: float = 5 / 6) -> Method:
    """Test B with the target T(x): inner KL(T(x')^τ‖S(x')) + β·H(T(x')^τ), outer RSLAD's, sharpened."""
    return replace(rslad(tau, alpha), name="dose", inner=adaad(tau, beta).inner)


def parts(tau: float = 0.5, inner: str = "none", outer: str = "contrast", gamma: float = 0.5, beta: float = 1.0,
          balance: bool = False, every: int = 1) -> Method:  # fmt: skip
    """MMARD's parts on the sharpened RSLAD."""
    if inner == "none":
        return mmard(rslad(tau), outer=outer, gamma=gamma)
    return mmard(rslad(tau), inner=inner, outer=outer, gamma=gamma, beta=beta, balance=balance, every=every)


def matched(tau: float = 0.5, alpha: float = 0.9) -> Method:
    """IGDM on the sharpened RSLAD."""
    return igdm(rslad(tau), alpha=alpha)
