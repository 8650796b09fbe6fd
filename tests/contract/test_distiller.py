"""`mmard.Distiller`: the trainer's loss and gradients in a loop of one's own, which it leaves as it found it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import blobs, small_net
from torch import Tensor, nn

import mmard
from mmard import Distiller, Method, Threat
from mmard.methods import METHODS, awp, ciard, fair, igdm, peeraid
from mmard.training.engine import Engine
from mmard.training.schedule import Plan
from mmard.training.update import Update

THREAT, STEPS, EPOCHS = Threat(eps=0.1), 6, 3
COMPOSED: dict[str, Callable[[], Method]] = {
    **METHODS,
    "ciard from the start": lambda: ciard(begin=0.0),
    "awp of a peer": lambda: awp(peeraid(), gamma=0.05),
    "all": lambda: awp(mmard.methods.mmard(igdm(fair(ciard(begin=0.4)), alpha=1.0), inner="drift"), begin=0.2),
}


def net(seed: int, name: str = "cnn-4-2") -> nn.Module:
    """In the trainer's layout of memory: sums of another order would round otherwise."""
    return small_net(seed=seed, name=name).to(memory_format=torch.channels_last)


def networks() -> dict[str, nn.Module]:
    return {name: net(seed) for seed, name in enumerate(("teacher", "natural"), 1)}


def batch(n: int = 16) -> tuple[Tensor, Tensor, Tensor]:
    return blobs(n).batch(slice(None))


def distiller(method: Any = "rslad", student: nn.Module | None = None, **given: Any) -> Distiller:
    return Distiller(method, student or net(0), net(1), THREAT, **{"steps": STEPS, "epochs": EPOCHS, **given})


@pytest.mark.parametrize("name", COMPOSED)
def test_losses_and_gradients_are_the_trainers(name: str) -> None:
    """Bit-equal over some steps, each with an SGD of one's own on the one hand and the trainer's on the other."""
    plan = Plan(epochs=EPOCHS, batch_size=16, lr=0.05, schedule="constant", weight_decay=0.0, momentum=0.0)
    x, y, index = batch()
    theirs = Update(
        method=COMPOSED[name](), threat=THREAT, student=net(0).train(), teachers=networks(), plan=plan, engine=Engine("cpu"),
        shape=x.shape[1:],
    )  # fmt: skip
    student = net(0).train()
    given = networks()
    own = Distiller(COMPOSED[name](), student, given.pop("teacher"), THREAT, teachers=given, steps=STEPS, epochs=EPOCHS)
    groups: list[dict[str, Any]] = [{"params": list(student.parameters())}]
    groups += [
        {"params": list(c.net.parameters()), "lr": c.plan.lr, "momentum": c.plan.momentum} for c in theirs.companions
    ]
    for companion in own.companions.values():
        companion.to(memory_format=torch.channels_last)
    if len(groups) > 1:
        groups[1]["params"] = list(own.parameters())
    optimizer = torch.optim.SGD(groups, lr=0.05)
    for step in range(STEPS):
        torch.manual_seed(step)
        expected = theirs(x, y, index, step / STEPS)
        torch.manual_seed(step)
        optimizer.zero_grad()
        loss, log = own.step(x, y, index)
        loss.backward()
        assert {k: v.item() for k, v in log.items()} == {k: v.item() for k, v in expected.items()}
        for a, b in zip(student.parameters(), theirs.student.parameters(), strict=True):
            assert torch.equal(a.grad, b.grad)
        for companion in theirs.companions:
            if companion.begin <= step / STEPS < 1 and companion.plan.schedule == "constant":
                mine = own.companions[companion.name].parameters()
                assert all(torch.equal(a.grad, b.grad) for a, b in zip(mine, companion.net.parameters(), strict=True))
            for group in optimizer.param_groups[1:]:
                group["lr"] = companion.plan.lr_at((step / STEPS - companion.begin) / (1 - companion.begin))
        optimizer.step()
        for a, b in zip(student.state_dict().values(), theirs.student.state_dict().values(), strict=True):
            assert torch.equal(a, b)
