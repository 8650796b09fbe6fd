"""What should the student say at x': what the teacher says at x, at x', or the mean? mmard study digits-targets

T(x) asks the student to be more robust than its teacher wherever that changes its mind; T(x') is what the teacher knows there.
"""

from dataclasses import replace

import torch
from torch import Tensor

from mmard import Method, Views, losses, term
from mmard.methods import METHODS
from mmard.terms import hard_nat, soft_nat


@term("{tau}²·KL((1−{share})·T(x)^{tau} + {share}·T(x')^{tau}‖S(x')^{tau})")
def soft_between(v: Views, share: float = 0.5, tau: float = 1.0) -> Tensor:
    """The student at x' follows a mixture of the teacher's two predictions; ``share`` is that of T(x')."""
    nat, adv = (losses.log_probs(point.teacher, tau).exp() for point in (v.nat, v.adv))
    target = (1 - share) * nat + share * adv
    return tau**2 * losses.kl(target.clamp_min(torch.finfo(target.dtype).tiny).log(), v.adv.student / tau)


OUTER = {
    "rslad": 5 / 6 * soft_between + 1 / 6 * soft_nat,
    "ard": soft_between.given(tau=30.0) + 0 * hard_nat,  # BatchNorm sees x too
    "adaad": 0 * soft_nat + soft_between,
}


def build(of: str = "rslad", share: float = 0.5) -> Method:
    """RSLAD, ARD or AdaAD with its robust target moved; share 0 is RSLAD's and ARD's own, 1 is AdaAD's."""
    return replace(METHODS[of](), outer=OUTER[of].given(share=share))
