"""Companions of a run, the networks trained beside the student and its averages: weights and optimisers."""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from mmard.core.companion import Companion
from mmard.core.method import Method
from mmard.core.views import MissingModelError
from mmard.models.architectures import Classifier, build
from mmard.models.foreign import GIVEN
from mmard.training.channels_last import lay_out
from mmard.training.descent import LearningCompanion
from mmard.training.engine import Engine
from mmard.training.schedule import Plan
from mmard.utils.errors import MmardError, unknown
from mmard.utils.numbers import seed_of


class TrainedCompanion(LearningCompanion):
    """A companion in training, with its network, optimiser and schedule.

    Args:
        net: its network, on the engine's device; trained in place.
        plan: the student's; the companion's own changes are applied here.

    Raises:
        MmardError: for a change of a setting that a plan does not have.
    """

    def __init__(self, name: str, companion: Companion, net: nn.Module, plan: Plan, engine: Engine) -> None:
        self.engine = engine
        if wrong := sorted(set(companion.plan) - (known := set(Plan.model_fields))):
            raise unknown(f"part of the plan of companion {name}", wrong[0], known)
        self.plan = plan.changed(**companion.plan)
        self.optimizer = self.plan.optimizer_for(net.requires_grad_(True))
        self.module, self.stepper = engine.setup(net, self.optimizer)
        super().__init__(name, companion, net, self.module, engine.predictor(net), plan.epochs)

    def begins(self, progress: float) -> bool:
        """Start a step and return whether the companion is trained in it; else it is a teacher in evaluation mode."""
        active = self.learns(progress)
        self.net.train(active)
        self.stepper.zero_grad()
        return active

    def step(self, progress: float) -> None:
        """Update the companion's weights."""
        if self.plan.clip is not None:
            self.engine.clip(self.module, self.stepper, self.plan.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = self.plan.lr_at((progress - self.begin) / (1 - self.begin))
        self.stepper.step()

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        return {"weights": self.net.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state from a checkpoint."""
        self.net.load_state_dict(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.plan.apply_to(self.optimizer)


class StudentAverage(LearningCompanion):
    """The student's running average as a companion: a constant teacher that follows the student after each step."""

    def begins(self, _: float) -> bool:
        """Start a step; an average is never trained."""
        self.net.eval()
        return False

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        return {"weights": self.net.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state from a checkpoint."""
        self.net.load_state_dict(state["weights"])


def companions_of(
    method: Method,
    student: nn.Module,
    given: Mapping[str, nn.Module],
    plan: Plan,
    engine: Engine,
    seed: int,
    shape: torch.Size | None = None,
) -> list[TrainedCompanion | StudentAverage]:
    """Make the method's companions: copies of the given networks of their names, or of the student, or fresh ones."""
    averages_are_not_given(method, given)
    found: list[TrainedCompanion | StudentAverage] = []
    for name, companion in method.companions.items():
        net = begun(name, companion, student, given, seed)
        lay_out(net, engine.device, shape)
        if companion.average is None:
            found.append(TrainedCompanion(name, companion, net, plan, engine))
        else:
            found.append(StudentAverage(name, companion, net, net, engine.predictor(net), plan.epochs))
    return found


def averages_are_not_given(method: Method, given: Iterable[str]) -> None:
    """Raise MmardError where a network is given under the name of the student's average."""
    for name in given:
        if name in method.companions and method.companions[name].average is not None:
            raise MmardError(f"{name!r} is the student's own average in this method; leave out teachers.{name}")


def begun(name: str, companion: Companion, student: nn.Module, given: Mapping[str, nn.Module], seed: int) -> nn.Module:
    """Copy the given network of the companion's name, or build a fresh one; an average starts as a copy of the student.

    Raises:
        MmardError: where neither can be.
    """
    if companion.average is not None:
        return copy.deepcopy(student)
    if name in given:
        return copy.deepcopy(given[name])
    if companion.fresh is None:
        raise MissingModelError(name, ["student", *given])
    own = student.architecture if isinstance(student, Classifier) else None
    if own is None or (companion.fresh == "student" and own.spec.kind == GIVEN):
        raise MmardError(
            f"the companion {name!r} starts as a fresh network, and only Python can build one like this student; give one to "
            f"start from: teachers={{{name!r}: MODULE}}"
        )
    with torch.random.fork_rng():
        torch.manual_seed(seed_of(seed, "weights of", name))
        return build(own if companion.fresh == "student" else replace(own, name=companion.fresh))
