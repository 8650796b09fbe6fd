"""What an inner process ascends: called like a loss, and it can say more to a maximizer that asks."""

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
        """One number per sample, (B,)."""
        return self.seen_at(x_adv)[0]

    def seen_at(self, x_adv: Tensor) -> tuple[Tensor, Views]:
        """The same, and the views at x', which know what the terms asked for."""
        views = self.views.moved_to(x_adv)
        return self.objective.total(views), views

    def of_rows(self, rows: Tensor) -> "Ascent":
        """For some of the samples (R,) alone: the others no longer go through the networks."""
        return Ascent(self.objective, self.views.of_rows(rows))
