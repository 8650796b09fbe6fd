"""The inner objective as an attack sees it: a function of x' that also gives the views at x'."""

from dataclasses import dataclass

from torch import Tensor

from mmard.core.objective import Objective
from mmard.core.views import Views


@dataclass(frozen=True, eq=False)
class Ascent:
    """The inner objective of a batch as a function of x'.

    Attributes:
        objective: what is ascended.
        views: of the natural images: labels, indices, progress, networks.
    """

    objective: Objective
    views: Views

    def __call__(self, x_adv: Tensor) -> Tensor:
        """Return the inner objective at x' (B, C, H, W) for each sample, (B,)."""
        return self.seen_at(x_adv)[0]

    def seen_at(self, x_adv: Tensor) -> tuple[Tensor, Views]:
        """Return the inner objective at x' (B,) and the views there, with the logits that the terms computed."""
        views = self.views.moved_to(x_adv)
        return self.objective.total(views), views

    def of_rows(self, rows: Tensor) -> "Ascent":
        """Restrict the objective to the samples ``rows`` (R,); the others no longer pass through the networks."""
        return Ascent(self.objective, self.views.of_rows(rows))
