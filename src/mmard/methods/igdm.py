"""IGDM: Lee et al., "Indirect Gradient Matching for Adversarial Robust Distillation", ICLR 2025, arXiv 2312.03286.

On any base: + α·(epoch/epochs)·KL(softmax(T(x + δ) − T(x − δ))‖softmax(S(x + δ) − S(x − δ))), δ = x' − x; x − δ is not clamped.
The release ramps by epoch/200 however long the run is (``ramp_by_200=True``). Published α by base: `PUBLISHED`.
"""

from dataclasses import replace

from torch import Tensor

from mmard.core.errors import MmardError
from mmard.core.method import Method
from mmard.core.objective import term
from mmard.core.views import Views
from mmard.losses import kl
from mmard.methods.rslad import rslad

PUBLISHED = {"ard": 5, "iad": 50, "rslad": 0.9, "adaad": 5, "adaiad": 5, "pgd_at": 60, "trades": 20}


@term("(e/E)·KL(T(x')−T(x−δ)‖S(x')−S(x−δ))")
def slopes(v: Views, ramp_by_200: bool = False) -> Tensor:
    """The student's logits change along δ as the teacher's do."""
    adv, back = v.adv, v.point(2 * v.nat.x - v.adv.x)
    ramp = v.epoch / (200 if ramp_by_200 else v.epochs)
    return ramp * kl(adv.teacher - back.teacher, adv.student - back.student)


def igdm(base: Method | None = None, *, alpha: float | None = None, ramp_by_200: bool = False) -> Method:
    """IGDM (Lee 2025): any base (RSLAD), plus alpha times how the logits change along x' − x; needs a teacher."""
    base = base or rslad()
    if any(t.name == slopes.terms[0][1].name for _, t in base.outer.terms):
        raise MmardError("igdm stands twice in this method; once is enough")
    if alpha is None and base.name not in PUBLISHED:
        known = ", ".join(f"{name} {value:g}" for name, value in PUBLISHED.items())
        raise MmardError(f"igdm has no published alpha for this base ({known}); give one, such as alpha=1")
    weight = PUBLISHED[base.name] if alpha is None else alpha
    return replace(base, outer=base.outer + weight * slopes.given(ramp_by_200=ramp_by_200))
