"""What a step of a method costs: forward and backward passes of each network, counted in the trainer's own step."""

import copy
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from mmard.core.method import Method
from mmard.core.threat import Threat
from mmard.core.views import MissingModelError
from mmard.methods import METHODS
from mmard.methods.papers import paper_of
from mmard.training.engine import Engine
from mmard.training.schedule import Plan
from mmard.training.update import Update
from mmard.utils.precision import full_precision

EPOCHS, LATE = 300, 0.9  # so late in the run that whatever begins has begun
PHASES = ("attack", "loss")


@dataclass(frozen=True)
class Passes:
    """Forward and backward passes of one network; a backward to weights and one to images count the same."""

    forwards: int = 0
    backwards: int = 0

    def __str__(self) -> str:
        return f"{self.forwards} / {self.backwards}"


PassCounts = dict[str, dict[str, Passes]]
"""network → phase → passes."""


class _Counted(nn.Module):
    """A small network that counts."""

    def __init__(self, name: str, note: Callable[[str, str], None]) -> None:
        super().__init__()
        self.name, self.note = name, note
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(16, 4), nn.Tanh(), nn.Linear(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        self.note(self.name, "forwards")
        logits: Tensor = self.net(x)
        if logits.requires_grad:
            logits.register_hook(lambda _: self.note(self.name, "backwards"))  # type: ignore[no-untyped-call]
        return logits

    def __deepcopy__(self, memo: object) -> "_Counted":
        return _Counted(self.name, self.note)  # a companion that starts from it is counted under its name


def cost_of(method: Method) -> PassCounts:
    """Passes of one step late in a run, of all networks that the method asks for."""
    names = set(method.companions)
    while True:
        try:
            with torch.random.fork_rng(), full_precision():  # and give back the flags that an engine sets
                return _counted(copy.deepcopy(method), sorted(names), Engine(accelerator="cpu"))
        except MissingModelError as e:
            if e.name in names:
                raise
            names.add(e.name)


def _counted(method: Method, names: list[str], engine: Engine) -> PassCounts:
    counts: Counter[tuple[str, str, str]] = Counter()
    phase = ["loss"]
    maximizer = method.maximizer

    def attack(loss: Callable[[Tensor], Tensor], x: Tensor, threat: Threat) -> Tensor:
        assert maximizer is not None
        phase[0] = "attack"
        x_adv = maximizer(loss, x, threat)
        phase[0] = "loss"
        return x_adv

    torch.manual_seed(0)
    made = {
        name: _Counted(name, lambda name, what: counts.update([(name, phase[0], what)])) for name in ("student", *names)
    }
    update = Update(
        method=replace(method, maximizer=attack if maximizer is not None else None),
        threat=Threat(eps=0.1),
        student=made.pop("student").train(),
        teachers=made,
        plan=Plan(epochs=EPOCHS, lr=0.0),
        engine=engine,
    )
    update(torch.rand(8, 1, 4, 4), torch.arange(8) % 4, torch.arange(8), LATE)

    def passes(name: str, phase: str) -> Passes:
        return Passes(counts[name, phase, "forwards"], counts[name, phase, "backwards"])

    return {name: {phase: passes(name, phase) for phase in PHASES} for name in ("student", *names)}


def in_words(cost: Mapping[str, Mapping[str, Passes]]) -> str:
    """``student 10/10 in the attack, 2/2 in the loss; teacher ... (forward/backward)``."""
    each = (f"{name} {of['attack']} in the attack, {of['loss']} in the loss" for name, of in cost.items())
    return "; ".join(each).replace(" / ", "/") + " (forward/backward)"


HEAD = """# Methods and what they cost

Made by `python -m mmard.training.passes > docs/methods.md`; do not edit.

Forward / backward passes of each network in one step with the method's own attack (PGD-10 but for natural training), counted in
the trainer's step, late in a run. A backward pass to the weights and one to the images count the same. S student, T teacher.
Wrappers (`mmard`, `igdm`, `fair`, `awp`) stand on their default base, and take any other.

| method | paper | network | in the attack | in the loss |
|---|---|---|---:|---:|
"""


def page() -> str:
    """docs/methods.md."""
    methods = {name: builder() for name, builder in METHODS.items()}
    rows, parts = [], []
    for name, method in methods.items():
        for i, (network, of) in enumerate(cost_of(method).items()):
            first = f"`{name}` | {paper_of(METHODS[name])}" if i == 0 else " | "
            rows.append(f"| {first} | {network} | {of['attack']} | {of['loss']} |\n")
        line = (METHODS[name].__doc__ or "").strip().splitlines()[0]
        parts.append(f"\n## {name}\n{line}\n\n```\n{method}\n```\n")
    return HEAD + "".join(rows) + "".join(parts)


if __name__ == "__main__":
    print(page(), end="")
