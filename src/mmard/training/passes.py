"""Cost of a method's step: forward and backward passes of each network, counted in the trainer's own step."""

import copy
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mmard.core.method import Method
from mmard.core.threat import Threat
from mmard.core.views import MissingModelError
from mmard.training.engine import Engine
from mmard.training.schedule import Plan
from mmard.training.update import Update

IMAGE = (1, 4, 4)
EPOCHS, LATE = 300, 0.9  # so late in the run that whatever begins has begun
ATTACK, LOSS = PHASES = ("attack", "loss")


@dataclass
class Passes:
    """The passes of one network: forward, backward to whatever needs it, and how many of those reach its weights."""

    forward: int = 0
    backward: int = 0
    weights: int = 0

    @property
    def in_forwards(self) -> int:
        """Convert to forward passes: each kind of pass costs about one."""
        return self.forward + self.backward + self.weights

    def __str__(self) -> str:
        return f"{self.forward} / {self.backward}"


PassCounts = dict[str, dict[str, Passes]]
"""network → phase → passes."""


class PassCounter:
    """A counter of the passes of networks, and of their deep copies, by hooks; ``phase`` names the heading.

    Use it as a context manager: the hooks are removed at its end.
    """

    def __init__(self, networks: Mapping[str, nn.Module]) -> None:
        self.phase = LOSS
        self.counts: PassCounts = {name: {phase: Passes() for phase in PHASES} for name in networks}
        self.handles = [net.register_forward_hook(self._hook(name)) for name, net in networks.items()]

    def count_apart(self, name: str, network: nn.Module) -> None:
        """Count the passes of a deep copy of another network under a name of its own."""
        self.counts[name] = {phase: Passes() for phase in PHASES}
        network._forward_hooks.clear()
        self.handles.append(network.register_forward_hook(self._hook(name)))

    def _hook(self, name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def backward(network: nn.Module) -> None:
            count = self.counts[name][self.phase]
            count.backward += 1
            count.weights += network.training and any(p.requires_grad for p in network.parameters())

        def forward(network: nn.Module, _inputs: object, output: Tensor) -> None:
            self.counts[name][self.phase].forward += 1
            if output.requires_grad:
                output.register_hook(lambda _: backward(network))  # type: ignore[no-untyped-call]

        return forward

    def reset(self) -> None:
        """Forget what has been counted."""
        self.counts = {name: {phase: Passes() for phase in PHASES} for name in self.counts}

    def __enter__(self) -> "PassCounter":
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()


class _BareEngine(Engine):
    """An engine on one CPU without Lightning Fabric, which takes longer to import than all methods to count."""

    def __init__(self) -> None:
        self.precision = "32-true"

    device = torch.device("cpu")
    rank, world = 0, 1

    def setup(self, model: nn.Module, optimizer: Optimizer) -> tuple[nn.Module, Optimizer]:
        return model, optimizer

    def _autocast(self) -> AbstractContextManager[None]:
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        loss.backward()  # type: ignore[no-untyped-call]

    def gradients_kept(self, model: nn.Module, kept: bool) -> AbstractContextManager[None]:
        return nullcontext()


class _NoOptimizer:
    """An optimiser that moves no weights: torch's first one imports its compiler, a second that no count needs."""

    param_groups: tuple[dict[str, Any], ...] = ()

    def zero_grad(self) -> None: ...

    def step(self) -> None: ...


class _WithoutOptimizer(Plan):
    """A plan of a run whose weights stay."""

    def optimizer_for(self, model: nn.Module, *beside: nn.Module, fused: bool = True) -> Optimizer:
        return cast(Optimizer, _NoOptimizer())


def cost_of(method: Method, *, known_at_x: bool = False) -> PassCounts:
    """Count the passes of one step late in a run, of all networks that the method needs.

    Args:
        known_at_x: the constant networks' logits at x are known (`mmard.training.variants`).
    """
    names = {name for name, companion in method.companions.items() if companion.average is None}
    while True:
        try:
            with torch.random.fork_rng(devices=[]):
                return _counted(copy.deepcopy(method), sorted(names), known_at_x)
        except MissingModelError as e:
            if e.name in names:
                raise
            names.add(e.name)


def _counted(method: Method, names: list[str], known_at_x: bool) -> PassCounts:
    maximizer = method.maximizer

    def attack(loss: Callable[[Tensor], Tensor], x: Tensor, threat: Threat) -> Tensor:
        assert maximizer is not None
        counter.phase = ATTACK
        x_adv = maximizer(loss, x, threat)
        counter.phase = LOSS
        return x_adv

    torch.default_generator.manual_seed(0)  # of the CPU alone, which `cost_of` gives back
    made = {name: _small_network() for name in ("student", *names)}
    with PassCounter(made) as counter:
        update = Update(
            method=replace(method, maximizer=attack if maximizer is not None else None),
            threat=Threat(eps=0.1),
            student=made.pop("student").train(),
            teachers=made,
            plan=_WithoutOptimizer(epochs=EPOCHS),
            engine=_BareEngine(),
            shape=torch.Size(IMAGE),
        )
        counter.reset()  # the networks were tried
        for companion in update.companions:
            if companion.companion.average is not None:
                counter.count_apart(companion.name, companion.net)
        known = {name: torch.zeros(8, 4) for name in update.constant} if known_at_x else {}
        update(torch.rand(8, *IMAGE), torch.arange(8) % 4, torch.arange(8), LATE, known=known)
    return counter.counts


def _small_network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(8, 4))


def in_words(cost: Mapping[str, Mapping[str, Passes]]) -> str:
    """Write a cost: ``student 10/10 in the attack, 2/2 in the loss; teacher ... (forward/backward)``."""
    each = (f"{name} {of['attack']} in the attack, {of['loss']} in the loss" for name, of in cost.items())
    return "; ".join(each).replace(" / ", "/") + " (forward/backward)"
