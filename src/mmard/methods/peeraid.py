"""PeerAiD: the tutor is a peer that learns beside the student, from the student's examples.

The peer P: γ1·CE(P(x'), y) + γ·τ_P²·KL(S(x')^τ_P‖P(x')^τ_P), published with γ1 = τ_P = 1. The student: λ1·CE(S(x'), y) +
λ2·τ²·KL(P(x')^τ‖S(x')^τ) + λ3·τ²·KL(S(x)^τ‖S(x')^τ), x' the maximiser of KL(P(x)‖S(x')). The release averages the KLs over
classes too (``scale: 1/num_classes`` in the settings, which is for the peer's KL as well), and the peer's loss moves the student
too (``through_student=True``). γ is 0.1 on CIFAR-10 and 1 on CIFAR-100.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mmard import losses
from mmard.attacks.pgd import Pgd
from mmard.core.companion import Companion
from mmard.core.method import Method
from mmard.core.objective import nothing, term
from mmard.core.views import Views
from mmard.methods.papers import Citation
from mmard.terms import hard_adv
from mmard.utils.calls import checked
from mmard.utils.errors import MmardError
from mmard.utils.validation import NotNegative, Positive, Section

CITATION = Citation(
    authors="Jung et al.",
    title="PeerAiD: Improving Adversarial Distillation from a Specialized Peer Tutor",
    venue="CVPR",
    year=2024,
    arxiv="2403.06668",
)


@term("KL(P(x)‖S(x'))", divergence=True)
def peer_nat(v: Views) -> Tensor:
    """Measure how far the student at x' is from the peer at x."""
    return losses.kl(v.nat.other("peer"), v.adv.student)


@term("{tau}²·KL(P(x')^{tau}‖S(x')^{tau})", divergence=True)
def peer_moved(v: Views, tau: float = 5.0) -> Tensor:
    """Measure how far the student at x' is from the peer there at temperature τ, times τ²."""
    return tau**2 * losses.kl(v.adv.other("peer"), v.adv.student, tau)


@term("{tau}²·KL(S(x)^{tau}‖S(x')^{tau})", divergence=True)
def smooth_hot(v: Views, tau: float = 5.0) -> Tensor:
    """Measure how far the student at x' is from itself at x at temperature τ, times τ²; the gradient flows into both."""
    return tau**2 * losses.kl(v.nat.student, v.adv.student, tau)


@term("KL(S(x')‖P(x'))", divergence=True)
def peer_back(v: Views) -> Tensor:
    """Measure how far the peer at x' is from the student there."""
    return losses.kl(v.adv.student, v.adv.other("peer"))


@term("{tau}²·KL(S(x')^{tau}‖P(x')^{tau})", divergence=True)
def peer_back_hot(v: Views, tau: float = 2.0) -> Tensor:
    """Measure how far the peer at x' is from the student there at temperature τ, times τ²."""
    return tau**2 * losses.kl(v.adv.student, v.adv.other("peer"), tau)


@term("CE(P(x'), y)")
def hard_peer(v: Views) -> Tensor:
    """Measure the cross-entropy of the peer at x' with the label."""
    return losses.ce(v.adv.other("peer"), v.y)


class PeerSettings(Section):
    """Settings of the peer's learning: weight of its labels, temperature of its KL, learning rate (None: the student's)."""

    gamma1: NotNegative = 1.0
    tau: Positive = 1.0
    lr: Positive | None = None


@checked
def peeraid(
    lam1: NotNegative = 0.0, lam2: NotNegative = 1.0, lam3: NotNegative = 1.0, tau: Positive = 5.0, gamma: NotNegative = 0.1,
    peer: str = "student", through_student: bool = False, peer_settings: Mapping[str, Any] | None = None,
) -> Method:  # fmt: skip
    """PeerAiD (Jung 2024): the tutor is a peer that is trained beside the student, from scratch; needs no teacher."""
    if not isinstance(peer_settings, Mapping | None):
        raise MmardError(f"peer_settings is {peer_settings!r}, expected some of {', '.join(PeerSettings.model_fields)}")
    own = PeerSettings(**(peer_settings or {}))
    back = gamma * (peer_back if own.tau == 1 else peer_back_hot.given(tau=own.tau))
    outer = lam1 * hard_adv + lam2 * peer_moved.given(tau=tau) + lam3 * smooth_hot.given(tau=tau)
    return Method(
        name="peeraid",
        inner=peer_nat,
        outer=outer + (back if through_student else nothing),
        maximizer=Pgd(steps=10, start="gaussian"),
        companions={
            "peer": Companion(
                outer=own.gamma1 * hard_peer + back, fresh=peer, plan={} if own.lr is None else {"lr": own.lr}
            )
        },
    )
