"""The vocabulary: S student, T teacher, Tn natural teacher, x natural, x' adversarial. A term may be ascended or descended.

`BOUNDARIES` and `TRIANGLES` are MMARD's candidates (arXiv 2503.06559 as we read it), chosen by name.
"""

from torch import Tensor

from mmard import losses
from mmard.core.objective import Objective, term
from mmard.core.views import Views
from mmard.terms.gradient_matching import gradient_match as gradient_match
from mmard.terms.introspection import introspect as introspect
from mmard.terms.introspection import trusted as trusted
from mmard.utils.errors import MmardError
from mmard.utils.moved import forward

__getattr__ = forward(
    __name__, "mmard.methods.peeraid", ("peer_nat", "peer_moved", "smooth_hot", "peer_back", "hard_peer")
)

# ---- one scenario at a time -------------------------------------------------------------------------------


@term("CE(S(x), y)")
def hard_nat(v: Views) -> Tensor:
    """Measure the cross-entropy of the student at x with the label."""
    return losses.ce(v.nat.student, v.y)


@term("CE(S(x'), y)")
def hard_adv(v: Views) -> Tensor:
    """Measure the cross-entropy of the student at x' with the label."""
    return losses.ce(v.adv.student, v.y)


@term("KL(T(x)‖S(x))", divergence=True)
def soft_nat(v: Views) -> Tensor:
    """Measure how far the student at x is from the teacher there."""
    return losses.kl(v.nat.teacher, v.nat.student)


@term("{tau}²·KL(T(x)^{tau}‖S(x)^{tau})", divergence=True)
def soft_nat_hot(v: Views, tau: float = 4.0) -> Tensor:
    """Measure how far the student at x is from the teacher there at temperature τ, times τ²: knowledge distillation."""
    return tau**2 * losses.kl(v.nat.teacher, v.nat.student, tau)


@term("{tau}²·KL(T(x)^{tau}‖S(x')^{tau})", divergence=True)
def soft_adv_hot(v: Views, tau: float = 30.0) -> Tensor:
    """Measure how far the student at x' is from the robust soft label at temperature τ, times τ² to keep the gradient's size."""
    return tau**2 * losses.kl(v.nat.teacher, v.adv.student, tau)


@term("KL(T(x)‖S(x'))", divergence=True)
def soft_adv(v: Views) -> Tensor:
    """Measure how far the student at x' is from the robust soft label, the teacher at x."""
    return losses.kl(v.nat.teacher, v.adv.student)


@term("KL(T(x')‖S(x'))", divergence=True)
def soft_moved(v: Views) -> Tensor:
    """Measure how far the student at x' is from a live teacher, at x' too."""
    return losses.kl(v.adv.teacher, v.adv.student)


@term("{tau}²·KL(T(x')^{tau}‖S(x')^{tau})", divergence=True)
def soft_moved_hot(v: Views, tau: float = 30.0) -> Tensor:
    """Measure how far the student at x' is from a live teacher at temperature τ, times τ²."""
    return tau**2 * losses.kl(v.adv.teacher, v.adv.student, tau)


@term("KL(Tn(x')‖S(x'))", divergence=True)
def soft_moved_natural(v: Views) -> Tensor:
    """Measure how far the student at x' is from the natural teacher at x'."""
    return losses.kl(v.adv.other("natural"), v.adv.student)


@term("KL(S(x)‖S(x'))", divergence=True)
def smooth(v: Views) -> Tensor:
    """Measure how far the student at x' is from itself at x; in an attack S(x) is constant because the weights are frozen."""
    return losses.kl(v.nat.student, v.adv.student)


@term("KL(S(x)‖S(x'))", divergence=True)
def smooth_again(v: Views) -> Tensor:
    """Measure what `smooth` does by a second forward of x, as in TRADES's release: BatchNorm sees x, x', x in this order."""
    adv = v.adv.student
    return losses.kl(v.point(v.nat.x).student, adv)


# ---- MMARD, inner: how near is x' to the teacher's decision boundary? ---------------------------------------


@term("KL(T(x)‖T(x'))", divergence=True)
def drift(v: Views) -> Tensor:
    """Measure how far the teacher at x' is from itself at x."""
    return losses.kl(v.nat.teacher, v.adv.teacher)


@term("H(T(x'))")
def entropy(v: Views) -> Tensor:
    """Measure how undecided the teacher is at x'."""
    return losses.entropy(v.adv.teacher)


@term("CE(T(x'), y)")
def label(v: Views) -> Tensor:
    """Measure how wrong the teacher is at x'."""
    return losses.ce(v.adv.teacher, v.y)


@term("−|margin of T(x')|")
def margin(v: Views) -> Tensor:
    """Measure minus the teacher's logit margin of its natural class: greatest, 0, on the boundary, from either side."""
    return -losses.margin(v.adv.teacher, v.nat.teacher.argmax(1)).abs()


# ---- MMARD, outer: the natural – robust – teacher triangle ---------------------------------------------------
# Vertices S(x), S(x') and the teacher (T(x) beside S(x), T(x') beside S(x'); T(x) alone in `anchored`).


def _edges(v: Views) -> tuple[tuple[Tensor, Tensor], ...]:
    students = (v.nat.student, v.adv.student)
    return students, (v.nat.student, v.nat.teacher), (v.adv.student, v.adv.teacher)


@term("−I(S(x),S(x'),T)")
def joint(v: Views, corrected: bool = False) -> Tensor:
    """Estimate minus the mean mutual information of the triangle's edges, each from the batch's joint distribution."""
    edges = (losses.mutual_information(a, b, corrected=corrected) for a, b in _edges(v))
    return -sum(edges, start=v.nat.x.new_zeros(())) / 3


@term("InfoNCE(S(x),S(x'),T; τ={tau})", scale_free=True)
def contrast(v: Views, tau: float = 0.5) -> Tensor:
    """Average InfoNCE over the edges: log B less it bounds their mutual information from below."""
    return sum((losses.contrast(a, b, tau) for a, b in _edges(v)), start=v.nat.x.new_zeros(())) / 3


@term("InfoNCE(S(x),S(x'),T(x); τ={tau})", scale_free=True)
def anchored(v: Views, tau: float = 0.5) -> Tensor:
    """Average InfoNCE over the edges S(x) – S(x'), S(x) – T(x) and S(x') – T(x): the teacher need not see x'."""
    nat, adv, teacher = v.nat.student, v.adv.student, v.nat.teacher
    edges = ((nat, adv), (nat, teacher), (adv, teacher))
    return sum((losses.contrast(a, b, tau) for a, b in edges), start=v.nat.x.new_zeros(())) / 3


@term("KL(P_T(x,x')‖P_S(x,x'))")
def mapping(v: Views) -> Tensor:
    """Measure how far the student's natural→robust joint distribution is from the teacher's."""
    return losses.scenario_mapping(v.nat.teacher, v.adv.teacher, v.nat.student, v.adv.student)


@term("‖∠(S(x),S(x')) − ∠(T(x),T(x'))‖²")
def angle(v: Views) -> Tensor:
    """Compare the student's triangle (origin, natural, robust logits) with the teacher's in shape."""
    student = losses.triangle_angles(v.nat.student, v.adv.student)
    return (student - losses.triangle_angles(v.nat.teacher, v.adv.teacher)).square().sum(1)


@term("relations of samples: S(x)~S(x')~T")
def relational(v: Views) -> Tensor:
    """Compare the angles between samples along each edge: natural with robust, and each with the teacher's."""
    if len(v.y) < 3:
        raise MmardError(f"the relational triangle is of three samples: got a batch of {len(v.y)}")
    gaps = [losses.relation_angles(a) - losses.relation_angles(b) for a, b in _edges(v)]
    return sum((g.square().flatten(1).mean(1) for g in gaps), start=v.nat.x.new_zeros(())) / 3


@term("JS(S(x),S(x'),T)")
def js(v: Views) -> Tensor:
    """Average the Jensen–Shannon divergence over the edges: the control, without mutual information."""
    return sum((losses.js(a, b) for a, b in _edges(v)), start=v.nat.x.new_zeros(())) / 3


BOUNDARIES: dict[str, Objective] = {"drift": drift, "entropy": entropy, "label": label, "margin": margin}
TRIANGLES: dict[str, Objective] = {
    "joint": joint, "contrast": contrast, "anchored": anchored, "mapping": mapping, "angle": angle,
    "relational": relational, "js": js,
}  # fmt: skip
OVER_THE_BATCH = {"joint", "contrast", "anchored", "mapping", "relational"}  # a sample's value depends on the others
SCENARIOS: dict[str, Objective] = {
    "hard_nat": hard_nat, "hard_adv": hard_adv, "soft_nat": soft_nat, "soft_adv": soft_adv,
    "soft_nat_hot": soft_nat_hot, "soft_adv_hot": soft_adv_hot, "soft_moved": soft_moved,
    "soft_moved_hot": soft_moved_hot, "smooth": smooth, "smooth_again": smooth_again,
}  # fmt: skip
OTHERS: dict[str, Objective] = {
    "soft_moved_natural": soft_moved_natural, "trusted": trusted, "introspect": introspect,
    "gradient_match": gradient_match,
}  # fmt: skip
