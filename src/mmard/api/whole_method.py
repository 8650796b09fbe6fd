"""Checks of a method by itself, before anything is loaded: the networks that it asks for, and if it looks at all of a batch."""

import copy
from collections.abc import Iterable

import torch
from torch import Tensor

from mmard.core.method import Method
from mmard.core.views import MissingModelError, Models, Predict, Views
from mmard.methods.fair import ClassWeights
from mmard.methods.waypoints import WayPoints
from mmard.terms import OVER_THE_BATCH
from mmard.training.averaging import Averaging
from mmard.training.extension import beginnings
from mmard.utils.errors import MmardError
from mmard.utils.numbers import NeverBeginsError


def must_be_whole(method: Method, names: Iterable[str], epochs: int = 200) -> frozenset[str]:
    """Raise MmardError unless these networks suffice for the method and its parts begin within so many epochs.

    Before anything is loaded: by a `MissingModelError` or a `NeverBeginsError`. A copy of the method is evaluated on made-up images
    and networks; whatever else fails on those is left to training.

    Returns:
        The networks that the method asks for; all of them where it fails on made-up ones.
    """
    beginnings(epochs, Averaging(), method)
    with torch.random.fork_rng(devices=[]):  # the generator is the caller's
        torch.default_generator.manual_seed(0)
        x, weights, numbers = torch.rand(10, 3, 8, 8), torch.randn(3 * 8 * 8, 10), torch.arange(10)
        have, asked = [*names], {*method.companions}

        def network(name: str) -> Predict:
            def predict(x: Tensor) -> Tensor:
                asked.add(name)
                return x.flatten(1) @ weights

            return predict

        models = Models({name: network(name) for name in [*have, "student"]})
        for progress in (0.0, 0.5, 1.0):  # some terms begin late
            try:
                tried = copy.deepcopy(method)
                views = Views.of(x, numbers, numbers, models, progress, epochs).moved_to(x.clone().requires_grad_())
                for objective in (tried.inner, tried.outer, *(c.outer for c in tried.companions.values())):
                    objective(views)
            except (MissingModelError, NeverBeginsError):
                raise
            except Exception:  # somebody's term may need what these images do not have
                asked |= {*have}
    return frozenset(asked)


def must_be_of_single_samples(method: Method) -> None:
    """Raise MmardError where the method's attack looks at all of a batch, of which ``attack.stop_at`` takes samples out."""
    if over := sorted({term.name for term in method.inner.within()} & OVER_THE_BATCH):
        raise MmardError(
            f"attack.stop_at takes samples out of the batch, and the inner term {over[0]} is over all of it"
        )
    for kind, looks in (
        (ClassWeights, "fair counts how many of all its iterates are right"),
        (WayPoints, "waypoints takes iterates of all samples"),
    ):
        if any(isinstance(module, kind) for module in method.inner.modules()):
            raise MmardError(f"attack.stop_at takes samples out of the attack, and {looks}; leave one of them out")
    if method.attack_in_train_mode:
        raise MmardError(
            "attack.stop_at takes samples out of the batch, whose statistics this method's attack uses; leave out one of "
            "attack.stop_at and method.attack_in_train_mode"
        )
