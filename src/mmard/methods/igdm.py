"""IGDM, indirect gradient matching: the student's logits change along x' − x as the teacher's do.

On any base: + α·ramp·KL(softmax(t(x + δ) − t(x − δ))‖softmax(s(x + δ) − s(x − δ))), δ = x' − x, logits s and t; x − δ is not
clamped. The ramp is e/epochs, e from 1; in the release e/200, however long the run is (``ramp_by_200=True``). Published α by
base: `PUBLISHED`. A ``scale`` in the settings is of this KL too: with 1/num_classes, α times the number of classes.
``tau``, not the paper's, divides the teacher's logits here and in the base: softmax(Δt/τ).
"""

from dataclasses import replace

from mmard.core.method import Method, as_method
from mmard.methods.papers import Citation
from mmard.methods.rslad import rslad
from mmard.terms import gradient_match
from mmard.terms.temperature import Tau, method_at_temperature
from mmard.utils.calls import checked
from mmard.utils.errors import MmardError
from mmard.utils.validation import NotNegative

CITATION = Citation(
    authors="Lee et al.",
    title="Indirect Gradient Matching for Adversarial Robust Distillation",
    venue="ICLR",
    year=2025,
    arxiv="2312.03286",
)

PUBLISHED = {"ard": 5, "iad": 50, "rslad": 0.9, "adaad": 5, "adaiad": 5, "pgd_at": 60, "trades": 20}


@checked
def igdm(
    base: Method | None = None, *, alpha: NotNegative | None = None, ramp_by_200: bool = False, tau: Tau = 1.0
) -> Method:
    """IGDM (Lee 2025): any base (RSLAD), plus alpha times how the logits change along x' − x; needs a teacher."""
    base = as_method(base, rslad)
    if not {t.name for _, t in gradient_match.terms}.isdisjoint(t.name for t in base.outer.within()):
        raise MmardError("igdm stands twice in this method; once is enough")
    if not base.inner:
        raise MmardError("igdm matches changes along x' − x, and this base makes no x'; give one, such as base=rslad")
    if alpha is None and base.name not in PUBLISHED:
        known = ", ".join(f"{name} {value:g}" for name, value in PUBLISHED.items())
        raise MmardError(f"igdm has no published alpha for this base ({known}); give one, such as alpha=1")
    weight = PUBLISHED[base.name] if alpha is None else alpha
    outer = base.outer + weight * gradient_match.given(epochs=200 if ramp_by_200 else 0)
    return method_at_temperature(replace(base, outer=outer), tau)
