"""RPAT, robust perception: the student's logits half-way to x' are to lie half-way between its logits at x and at x'.

On any base (PGD-AT): + λ·MSE(s(½x + ½x'), ½s(x) + ½s(x')), logits s, the mean over classes, with the gradient into all three. The
student sees ½x + ½x' in training mode after the base's images, then x where the base has not shown it. The paper's RPAT++
(on ReBAT) compares the student's average instead (not offered).
"""

from dataclasses import replace

from torch import Tensor

from mmard.core.method import Method, as_method
from mmard.core.objective import term
from mmard.core.views import Views
from mmard.methods.papers import Citation
from mmard.methods.pgd_at import pgd_at
from mmard.utils.calls import checked
from mmard.utils.errors import MmardError
from mmard.utils.validation import Fraction, NotNegative

CITATION = Citation(
    authors="Wang and Liu",
    title="Failure Cases Are Better Learned But Boundary Says Sorry: Facilitating Smooth Perception Change for "
    "Accuracy-Robustness Trade-Off in Adversarial Training",
    venue="ICCV",
    year=2025,
    arxiv="2508.02186",
)


@term("MSE(s({share}x + (1−{share})x'), {share}s(x) + (1−{share})s(x'))")
def perceived(v: Views, share: float = 0.5) -> Tensor:
    """Compare the student's logits between x and x' with those between its logits there."""
    middle = v.point(share * v.nat.x + (1 - share) * v.adv.x).student
    between = share * v.nat.student + (1 - share) * v.adv.student
    return (middle - between).square().mean(1)


@checked
def rpat(base: Method | None = None, *, lam: NotNegative = 1.0, share: Fraction = 0.5) -> Method:
    """RPAT (Wang 2025): any base (PGD-AT), and logits that go straight from x to x'."""
    base = as_method(base, pgd_at)
    if any(t.name == perceived.terms[0][1].name for t in base.outer.within()):
        raise MmardError("rpat stands twice in this method; once is enough")
    if not base.inner:
        raise MmardError("rpat is about the way to x', and this base makes none; give one, such as base=pgd_at")
    return replace(base, outer=base.outer + lam * perceived.given(share=share))
