"""MMARD's contrast on a triangle of three vertices: S(x), S(x') and the teacher at x alone, who need not see x'."""

from dataclasses import replace

from torch import Tensor

from mmard import losses
from mmard.core.method import Method, as_method
from mmard.core.objective import term
from mmard.core.views import Views
from mmard.methods.mmard import mmard
from mmard.methods.rslad import rslad


@term("InfoNCE(S(x),S(x'),T(x); τ={tau})")
def anchored(v: Views, tau: float = 0.5) -> Tensor:
    """Average InfoNCE over the edges S(x) – S(x'), S(x) – T(x) and S(x') – T(x)."""
    vertices = (v.nat.student, v.adv.student, v.nat.teacher)
    return sum((losses.contrast(vertices[i], vertices[i - 1], tau) for i in range(3)), start=v.nat.x.new_zeros(())) / 3


def build(base: Method | None = None, *, gamma: float = 0.5) -> Method:
    """MMARD's base with this term in the loss."""
    base = mmard(as_method(base, rslad), outer="none")
    return replace(base, name="anchored", outer=base.outer + gamma * anchored)
