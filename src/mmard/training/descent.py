"""The descent of one step: the losses of the student and of its companions at the examples, and who is constant in which.

The trainer (`mmard.training.update`) and a loop of one's own (`mmard.api.distiller`) both descend by it. They differ in what
becomes of a loss, and in how weights move under adversarial weight perturbation.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import torch
from torch import Tensor, nn

from mmard.core.companion import Companion
from mmard.core.features import record, recorded
from mmard.core.method import Method
from mmard.core.views import Predict, Views, held_still
from mmard.training.awp import moves_up, state_kept
from mmard.training.step import outer_losses
from mmard.utils.errors import MmardError
from mmard.utils.numbers import beginning


class LearningCompanion:
    """A companion as the descent sees it.

    Attributes:
        net: its network; its weights ask for gradients, unless it is the student's average.
        wrapped: the same as the function whose gradient reaches the weights.
        predict: the same as a function of images for others.
        begin: share of the run from which on it is trained.
    """

    def __init__(
        self, name: str, companion: Companion, net: nn.Module, wrapped: Predict, predict: Predict, epochs: int
    ) -> None:
        self.name, self.companion, self.net = name, companion, net.requires_grad_(companion.average is None)
        self.wrapped, self.predict = wrapped, predict
        self.begin = beginning(f"the training of {name!r}", companion.begin, epochs)

    def learns(self, progress: float) -> bool:
        """Tell whether the companion is trained at this share of the run."""
        return self.companion.average is None and progress >= self.begin

    @torch.no_grad()
    def follow(self, student: nn.Module, progress: float) -> None:
        """Take the student's weights and statistics into the average after a step; a companion that is trained ignores it."""
        if self.companion.average is None:
            return
        share = 1.0 if progress < self.begin else 1 - self.companion.average
        pairs = zip(*(net.state_dict(keep_vars=True).values() for net in (self.net, student)), strict=True)
        once = {id(ours): (ours, theirs) for ours, theirs in pairs}  # tied weights have several names
        own, new = [ours for ours, _ in once.values()], [theirs for _, theirs in once.values()]
        floats = [i for i, value in enumerate(own) if value.is_floating_point()]
        torch._foreach_lerp_([own[i] for i in floats], [new[i] for i in floats], share)
        for i in set(range(len(own))) - set(floats):
            own[i].copy_(new[i])

    def losses(self, views: Views, student: Predict) -> tuple[dict[str, Tensor], Predict]:
        """Compute the mean of each weighted term, and a function for the student's loss that reuses what is computed here."""
        said: list[tuple[Tensor, Tensor, list[Tensor]]] = []

        def speak(x: Tensor) -> Tensor:
            with recorded() as features:
                logits = self.wrapped(x)
            record(*features)
            said.append((x, logits, features))
            return logits

        def again(x: Tensor) -> Tensor:
            for images, logits, features in reversed(said):
                if images is x:
                    record(*(each.detach() for each in features))
                    return logits.detach()
            return self.predict(x)

        values = self.companion.outer(views.seen_by(student, **{self.name: speak}))
        return {name: value.mean() for name, value in values.items()}, again


class Loop(Protocol):
    """Define what a loop does with the losses of a step."""

    def around(self, companion: LearningCompanion | None) -> AbstractContextManager[object]:
        """Enclose the forward passes and `take` of a companion, or of the student (None)."""

    def take(self, loss: Tensor) -> None:
        """Descend, or keep, the sum of a network's weighted terms."""

    def moved(self, moves: Mapping[str, Tensor] | None) -> AbstractContextManager[Predict]:
        """Give the student as a function of images inside the context, its weights moved by these where there are any."""

    def over_all(self, gradient: Tensor) -> Tensor:
        """Join a gradient with those of the other processes, up to a factor."""


def descend(
    method: Method,
    views: Views,
    student: nn.Module,
    in_training: Predict,
    companions: Sequence[LearningCompanion],
    learning: Sequence[LearningCompanion],
    loop: Loop,
) -> dict[str, Tensor]:
    """Hand each learning companion's loss, then the student's, to the loop; return the mean of each weighted term.

    Args:
        views: at the examples.
        student: held still while companions descend, in the mode that it is in.
        in_training: the same network as a function of images, in its mode, for the losses of others.
        learning: those of the companions that are trained in this step.

    Raises:
        MmardError: where a loss does not depend on the weights that it is to change, and as of `outer_losses`.
    """
    said: dict[str, Predict] = {c.name: c.predict for c in learning}  # of the others the attack's logits are good
    found: dict[str, Tensor] = {}
    for companion in learning:
        others = [c.net for c in companions if c is not companion]
        with held_still(student, *others, train=None), loop.around(companion):
            losses, said[companion.name] = companion.losses(views, in_training)
            whose = f"what the companion {companion.name!r} descends does not depend on its own weights"
            loop.take(_total(losses, whose))
        found |= {f"{companion.name}/{name}": mean for name, mean in losses.items()}
    with held_still(*(c.net for c in companions), train=None):
        moves = _moves(method, views, student, lambda v: outer_losses(method, v, in_training, **said), companions, loop)
        with loop.moved(moves) as trained, loop.around(None):
            losses = outer_losses(method, views, trained, **said)
            whose = "what training descends does not depend on the student's weights; is there a detach in it?"
            loop.take(_total(losses, whose))
    return losses | found


def _total(losses: Mapping[str, Tensor], otherwise: str) -> Tensor:
    total = torch.stack(list(losses.values())).sum()
    if not total.requires_grad:
        raise MmardError(otherwise)
    return total


def _moves(
    method: Method,
    views: Views,
    student: nn.Module,
    losses: Callable[[Views], dict[str, Tensor]],
    companions: Sequence[LearningCompanion],
    loop: Loop,
) -> dict[str, Tensor] | None:
    """Compute how the student's weights move up the loss, where the method does so and the time has come."""
    perturbation = method.perturbation
    if perturbation is None:
        return None
    if perturbation.begin and views.progress < beginning("awp", perturbation.begin, views.epochs):
        return None

    def loss() -> Tensor:
        with state_kept(student, *method.modules(), *(c.net for c in companions)):
            return torch.stack(list(losses(views).values())).sum()

    return moves_up(student, loss, perturbation.gamma, loop.over_all)
