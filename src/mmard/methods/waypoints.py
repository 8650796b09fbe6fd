"""Way points: the attack's iterates as further samples, after an idea of DARWIN (our formulas: the paper's were not to be had).

On any base (RSLAD): + γ·Σ_k w_k·KL(T(x_k)‖S(x_k)), x_k the attack's iterates at a third and at two thirds of its steps, and
w = softmax_k(−|m_T(x_k)|/κ) with m_T the teacher's logit margin of its class at x: the iterate nearer the teacher's
boundary counts for more. ``uniform`` weighs both alike: the control. BatchNorm sees them after the base's images, in this order.
With one or two steps both way points are the same iterate.
``tau`` divides the teacher's logits in base, targets and margins (`mmard.terms.temperature`).
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from mmard import losses
from mmard.core.method import Method, as_method
from mmard.core.objective import term
from mmard.core.views import Views
from mmard.methods.papers import Citation
from mmard.methods.rslad import rslad
from mmard.terms.temperature import Tau, method_at_temperature
from mmard.utils.calls import checked
from mmard.utils.errors import MmardError
from mmard.utils.validation import NotNegative, Positive

CITATION = Citation(
    authors="Dong et al.",
    title="Robust Distillation via Untargeted and Targeted Intermediate Adversarial Samples",
    venue="CVPR",
    year=2024,
)


class WayPoints(nn.Module):
    """Remember the iterates of a batch's attack, and follow the teacher at two of them."""

    def __init__(self, kappa: float, uniform: bool) -> None:
        super().__init__()
        self.kappa, self.uniform = kappa, uniform
        self._of: Tensor | None = None  # the images whose way this is; not saved: it does not outlive its step
        self._way: list[Tensor] = []

    def watch(self, v: Views) -> Tensor:
        """Remember the iterate at which the attack takes a gradient, in an inner term that is 0."""
        self._of = v.nat.x
        self._way = v.nat.once("the attack's way", list)  # of this attack, and no other on these images
        self._way.append(v.adv.x.detach())
        return torch.zeros_like(v.adv.x.flatten(1)[:, 0])

    def follow(self, v: Views) -> Tensor:
        """Measure how far the student is from the teacher at the two iterates, weighed, (B,)."""
        if v.adv is v.nat:
            return torch.zeros_like(v.nat.student[:, 0])  # no example yet
        if self._of is not v.nat.x:
            raise MmardError(
                "waypoints keeps the attack's iterates of a whole batch, and here are none; give eps above 0, no attack.stop_at"
            )
        known = len(self._way)  # the start is the first of them, x' itself is not among them
        points = [v.point(self._way[min(round(k * known / 3), known - 1)]) for k in (1, 2)]
        each = torch.stack([losses.kl(point.teacher, point.student) for point in points], 1)
        if self.uniform:
            return each.mean(1)
        own = v.nat.teacher.argmax(1)
        far = torch.stack([losses.margin(point.teacher, own).abs() for point in points], 1)
        return (each * (-far / self.kappa).softmax(1)).sum(1)


@checked
def waypoints(
    base: Method | None = None,
    *,
    gamma: NotNegative = 1.0,
    kappa: Positive = 1.0,
    uniform: bool = False,
    tau: Tau = 1.0,
) -> Method:
    """Way points (after Dong 2024): any base (RSLAD), its teacher followed at iterates of the attack too."""
    if uniform and kappa != 1:
        raise MmardError("kappa says how much nearer points weigh more, and uniform=True weighs all alike; give one")
    base = as_method(base, rslad)
    if any(isinstance(module, WayPoints) for module in base.modules()):
        raise MmardError("waypoints stands twice in this method; once is enough")
    if not base.inner:
        raise MmardError(
            "waypoints is about the attack's way, and this base attacks nothing; give one, such as base=rslad"
        )
    points = WayPoints(kappa, uniform)
    watched = term("way(x')", scale_free=True)(points.watch)
    weights = "w = ½" if uniform else f"w = softmax(−|m_T|/{kappa:g})"
    followed = term(f"Σ w·KL(T(x_k)‖S(x_k)) [k = ⅓, ⅔ of the way, {weights}]", divergence=True)(points.follow)
    whole = replace(base, inner=base.inner + 0.0 * watched, outer=base.outer + gamma * followed)
    return method_at_temperature(whole, tau)
