"""PeerAiD: the tutor is a peer that learns beside the student, from the student's examples.

The peer P: CE(P(x'), y) + γ·KL(S(x')‖P(x')). The student: λ1·CE(S(x'), y) + λ2·τ²·KL(P(x')^τ‖S(x')^τ) +
λ3·τ²·KL(S(x)^τ‖S(x')^τ), x' the maximiser of KL(P(x)‖S(x')). The release averages the KLs over classes too
(``scale: 1/num_classes`` in the settings, which is for the peer's KL as well), and the peer's loss moves the student too
(``through_student=True``). γ is 0.1 on CIFAR-10 and 1 on CIFAR-100.
"""

from mmard.attacks.pgd import Pgd
from mmard.core.companion import Companion
from mmard.core.method import Method
from mmard.core.objective import nothing
from mmard.methods.papers import Citation
from mmard.terms import hard_adv, hard_peer, peer_back, peer_moved, peer_nat, smooth_hot

CITATION = Citation(
    authors="Jung et al.",
    title="PeerAiD: Improving Adversarial Distillation from a Specialized Peer Tutor",
    venue="CVPR",
    year=2024,
    arxiv="2403.06668",
)


def peeraid(
    lam1: float = 0.0, lam2: float = 1.0, lam3: float = 1.0, tau: float = 5.0, gamma: float = 0.1,
    peer: str = "student", through_student: bool = False,
) -> Method:  # fmt: skip
    """PeerAiD (Jung 2024): the tutor is a peer that is trained beside the student, from scratch; needs no teacher."""
    outer = lam1 * hard_adv + lam2 * peer_moved.given(tau=tau) + lam3 * smooth_hot.given(tau=tau)
    return Method(
        name="peeraid",
        inner=peer_nat,
        outer=outer + (gamma * peer_back if through_student else nothing),
        maximizer=Pgd(steps=10, start="gaussian"),
        companions={"peer": Companion(outer=hard_peer + gamma * peer_back, fresh=peer)},
    )
