"""What a method trains beside the student, networks and parts of terms; and the perturbation of the student's weights (AWP)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from mmard.core.objective import Objective, nothing
from mmard.core.views import Views
from mmard.utils.errors import MmardError


@dataclass(frozen=True, kw_only=True)
class Companion:
    """A network that is trained beside the student, or is its running average, under the name by which terms use it.

    One that is trained starts from the run's network of that name, where one is given, else fresh. The two learn from the same
    batch at once: each sees the other as it was before the step, as a constant. While it is trained it is in training mode in
    both losses, and in evaluation mode in the attack; before ``begin`` it is a teacher like any other.

    An average is a constant teacher in evaluation mode. After each step of the student its weights and BatchNorm's statistics
    a become decay·a + (1 − decay)·s, s the student's own; before ``begin`` they are the student's.

    Args:
        outer: descended over its own weights; nothing for an average.
        average: decay of the student's running average per step, in [0, 1); None: the network is trained.
        fresh: architecture of a fresh network; ``"student"``: the student's; None: the run must give one.
        begin: when its training begins, in epochs; below 1: a share of the run.
        plan: what differs from the student's schedule and optimiser, such as ``{"lr": 1e-4}``; progress counts from ``begin``.
    """

    outer: Objective = nothing
    average: float | None = None
    fresh: str | None = "student"
    begin: float = 0.0
    plan: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.average is None and not (isinstance(self.outer, Objective) and self.outer):
            raise MmardError("a companion's outer objective has no terms: there is nothing to train it by")
        if self.average is not None and (self.outer or self.plan):
            raise MmardError(
                "a companion that is the student's average is not trained; leave out its outer and its plan"
            )
        if self.average is not None and not 0 <= self.average < 1:
            raise MmardError(
                f"the decay of the student's average is {self.average:g}, expected one in [0, 1), such as 0.995"
            )
        if not self.begin >= 0:
            raise MmardError(f"a companion's begin is {self.begin:g}, expected epochs, or a share of the run below 1")

    def __str__(self) -> str:
        if self.average is None:
            own = f", learning rate {self.plan['lr']:g}" if "lr" in self.plan else ""
            return f"min  {self.outer}{own}{starting(self.begin)}"
        return f"the student's average, decay {self.average:g}{starting(self.begin)}"

    def rates(self) -> dict[str, Any]:
        """Return what an optimiser takes of the plan: its learning rate, momentum and weight decay."""
        return {key: self.plan[key] for key in ("lr", "momentum", "nesterov", "weight_decay") if key in self.plan}


def starting(begin: float) -> str:
    """Say from when on something is done, in epochs or as a share of the run; nothing of what is done from the start."""
    return "" if begin == 0 else f" from {begin:g} of the run on" if begin < 1 else f" from epoch {begin:g} on"


class Learned(nn.Module):
    """A part of an outer term whose parameters descend with the student's weights, by the student's optimiser and schedule.

    The term is a method of it. A run makes its parameters anew, by `meet`.
    """

    def meet(self, v: Views) -> None:
        """Make the parameters, float32 and on the CPU, by the shapes of the networks' logits or features at a few images.

        Args:
            v: any images of the run's size, labels of 0, every network in evaluation mode; both points are one.
        """
        raise NotImplementedError("a part that learns makes its parameters in meet(v)")


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
            raise MmardError(f"awp: gamma is {self.gamma:g} and begin {self.begin:g}, expected numbers not below 0")
