"""Networks that a method trains beside the student, and the perturbation of the student's weights (AWP)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mmard.core.objective import Objective
from mmard.utils.errors import MmardError


@dataclass(frozen=True, kw_only=True)
class Companion:
    """A network that is trained beside the student, under the name by which terms use it.

    It starts from the run's network of that name, where one is given, else fresh. The two learn from the same batch at once:
    each sees the other as it was before the step, as a constant. While it is trained it is in training mode in both losses,
    and in evaluation mode in the attack; before ``begin`` it is a teacher like any other.

    Args:
        outer: descended over its own weights.
        fresh: architecture of a fresh network; ``"student"``: the student's; None: the run must give one.
        begin: when its training begins, in epochs; below 1: a share of the run.
        plan: what differs from the student's schedule and optimiser, such as ``{"lr": 1e-4}``; progress counts from ``begin``.
    """

    outer: Objective
    fresh: str | None = "student"
    begin: float = 0.0
    plan: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.outer, Objective) or not self.outer:
            raise MmardError("a companion's outer objective has no terms: there is nothing to train it by")
        if not self.begin >= 0:
            raise MmardError(f"a companion's begin is {self.begin:g}, expected epochs, or a share of the run below 1")


@dataclass(frozen=True, kw_only=True)
class WeightPerturbation:
    """Adversarial weight perturbation: each layer's weights w move by gamma·‖w‖ up the outer loss before its gradient is taken.

    (Wu et al., 2020, arXiv 2004.05884, eq. 9–11, with one step of ascent; only weights of more than one dimension move.)

    Args:
        gamma: size of the move, relative to the layer's norm.
        begin: from when on, in epochs; below 1: a share of the run.
    """

    gamma: float = 5e-3
    begin: float = 0.0

    def __post_init__(self) -> None:
        if not (self.gamma >= 0 and self.begin >= 0):
            raise MmardError(f"awp: gamma {self.gamma:g} and begin {self.begin:g} are not below 0")
