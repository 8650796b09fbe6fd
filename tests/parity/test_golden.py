"""One training step of each paper's released code, as numbers: the same example, loss, gradient and state here, to 1e-9."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mmard import methods as m
from mmard.core.method import Method
from mmard.core.threat import Threat
from mmard.core.views import Models, Views
from mmard.training import update as updating
from mmard.training.engine import Engine
from mmard.training.schedule import Plan
from mmard.training.step import make_example, outer_losses

GOLDEN = Path(__file__).with_name("golden.npz")  # golden.md says what is in it
WITHIN = 1e-9
Values = dict[str, Any]


class GoldenNet(nn.Module):
    """The network of all golden values: 3×8×8 images, 10 classes."""

    def __init__(self, w: int = 4, classes: int = 10) -> None:
        super().__init__()
        self.f = nn.Sequential(
            nn.Conv2d(3, w, 3, padding=1), nn.BatchNorm2d(w), nn.Tanh(),
            nn.Conv2d(w, 2 * w, 3, stride=2, padding=1), nn.BatchNorm2d(2 * w), nn.Tanh(),
            nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        )  # fmt: skip
        self.fc = nn.Linear(8 * w, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.f(x))  # type: ignore[no-any-return]


@pytest.fixture(autouse=True)
def double(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Float64 all through, as the releases were run; the engine casts images and logits to float32 otherwise."""
    monkeypatch.setattr(Tensor, "float", lambda self: self)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def values(name: str, monkeypatch: pytest.MonkeyPatch) -> Values:
    """The golden values, whose start replaces the random ones."""
    with np.load(GOLDEN, allow_pickle=False) as file:
        arrays = {key.partition("/")[2]: file[key] for key in file.files if key.startswith(f"{name}/")}
    found: Values = {k: torch.as_tensor(v) if v.dtype.kind in "fi" else v for k, v in arrays.items()}
    noise = found["noise"]
    monkeypatch.setattr(torch, "randn_like", lambda *_, **__: noise.clone())
    monkeypatch.setattr(torch, "rand_like", lambda *_, **__: (noise + 1) / 2)
    return found


def network(found: Values, who: str) -> GoldenNet:
    """Student, teacher, natural or peer, as it was before the step."""
    net = GoldenNet()
    net.load_state_dict({k.partition("/")[2]: v for k, v in found.items() if k.startswith(f"{who}/")})
    return net


def others(found: Values) -> dict[str, nn.Module]:
    return {who: network(found, who) for who in ("teacher", "natural", "peer") if f"{who}/fc.bias" in found}


@dataclass
class Stepped:
    """What one step made: the example, the loss's parts, the network with its gradients."""

    x_adv: Tensor
    parts: dict[str, Tensor]
    net: nn.Module
    method: Method

    def loss(self) -> Tensor:
        return torch.stack(list(self.parts.values())).sum()


def plain_step(method: Method, found: Values, progress: float | None = None) -> Stepped:
    """Attack, look again, loss and gradient, without the trainer."""
    method = method.scale_divergences(float(found["scale"]))
    student = network(found, "student").train()
    nets = {name: net.eval().requires_grad_(False) for name, net in others(found).items()}
    progress = float(found["progress"]) if progress is None else progress
    x, y = found["x"], found["y"]
    v = Views.of(x, y, torch.arange(len(y)), Models({"student": student, **nets}), progress, int(found["epochs"]))
    v = make_example(method, v, student, Threat(eps=float(found["eps"])))
    parts = outer_losses(method, v, student)
    torch.stack(list(parts.values())).sum().backward()  # type: ignore[no-untyped-call]
    return Stepped(v.adv.x.detach(), parts, student, method)


def updated(method: Method, found: Values) -> tuple[Stepped, updating.Update]:
    """The same by the trainer's own update, the learning rate 0: for networks trained beside the student, and moved weights."""
    student = network(found, "student").train()
    plan = Plan(epochs=int(found["epochs"]), lr=0.0, momentum=0.0, weight_decay=0.0)
    update = updating.Update(
        method=method, threat=Threat(eps=float(found["eps"])), student=student, teachers=others(found), plan=plan,
        engine=Engine("cpu"), scale=float(found["scale"]),
    )  # fmt: skip
    asked: list[Tensor] = []
    student.register_forward_pre_hook(
        lambda net, args: asked.append(args[0].detach().clone()) if net.training else None
    )
    parts = update(found["x"], found["y"], torch.arange(len(found["y"])), float(found["progress"]))
    x_adv = next(x for x in asked if not torch.equal(x, found["x"]))
    return Stepped(x_adv, parts, student, method), update


def must_agree(got: Stepped, found: Values, loss: Tensor | None = None, key: str = "") -> None:
    """Example, loss and gradient are the release's, without the small constants in its logarithms where it has any."""
    exact = "_exact" if f"loss{key}_exact" in found else ""
    assert (got.x_adv - found["x_adv"]).abs().max() <= WITHIN
    loss, expected = got.loss() if loss is None else loss, found[f"loss{key}{exact}"]
    assert abs(loss - expected) <= WITHIN * abs(expected)
    exact = exact if f"grad{key}_exact/fc.bias" in found else ""
    must_have_gradient(got.net, found, f"grad{key}{exact}")


def must_have_gradient(net: nn.Module, found: Values, key: str) -> None:
    ours = torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])
    theirs = torch.cat([found[f"{key}/{name}"].flatten() for name, _ in net.named_parameters()])
    assert (ours - theirs).norm() <= WITHIN * theirs.norm()


PLAIN: dict[str, Callable[[], Method]] = {
    "trades": m.trades,
    "mart": m.mart,
    "rslad": m.rslad,
    "adaad": m.adaad,
    "mtard": m.mtard,
    "b_mtard": lambda: m.b_mtard(tau_rate=0.3),
    "ard": lambda: m.ard(alpha=1.0, tau=30.0, attack_in_train_mode=True),
    "iad": lambda: m.iad(attack_in_train_mode=True),
    "adaiad": lambda: m.adaiad(tau=30),
    "igdm": lambda: m.igdm(m.adaad(), alpha=3.0),
    "saad": lambda: m.saad(alpha=3.0, script_weights=True),
    "fair_rslad": lambda: m.fair(m.rslad()),
}


@pytest.mark.parametrize("name", PLAIN)
def test_the_step_is_the_released_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = values(name, monkeypatch)
    must_agree(plain_step(PLAIN[name](), found), found)


def test_fair_rslads_second_epoch_weighs_classes_by_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    found = values("fair_rslad", monkeypatch)
    method = m.fair(m.rslad())
    first = plain_step(method, found)
    (state,) = first.method.modules()
    assert torch.equal(state.right, found["kappa_sums"])
    state.right, state.seen = found["kappa"].clone(), torch.full((10,), 10.0)
    second = plain_step(method, found, progress=0.5)
    assert (state.weights - found["weights"]).abs().max() <= WITHIN
    must_agree(second, found, key="_second")


def test_peeraids_student_and_peer_are_the_released_ones_by_one_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    found = values("peeraid", monkeypatch)
    got, update = updated(m.peeraid(gamma=0.1, through_student=True), found)
    peer = {name: mean for name, mean in got.parts.items() if "/" in name}
    own = sum(mean for name, mean in got.parts.items() if name not in {*peer, "peer_back"})
    must_agree(got, found, loss=own)  # the release prints the student's loss without the peer's, whose gradient it has
    assert abs(sum(peer.values()) - found["peer_loss"]) <= WITHIN * found["peer_loss"]
    must_have_gradient(update.companions[0].net, found, "peer_grad")


def test_ciards_student_is_the_released_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The release shows the student x in training mode before the attack; the teacher that is trained on stays as it is."""
    found, method = values("ciard", monkeypatch), m.ciard()
    teacher = method.companions["teacher"]
    still = replace(teacher, plan={**teacher.plan, "lr": 0.0})

    def sees_x_first(method: Method, views: Views, net: nn.Module, *more: Any) -> Views:
        kept = [b.clone() for b in net.buffers()]
        with torch.no_grad():
            net(views.nat.x)
        views = make_example(method, views, net, *more)
        for buffer, before in zip(net.buffers(), kept, strict=True):
            buffer.copy_(before)
        return views

    monkeypatch.setattr(updating, "make_example", sees_x_first)
    got, _ = updated(replace(method, companions={"teacher": still}), found)
    own = sum(mean for name, mean in got.parts.items() if "/" not in name)
    must_agree(got, found, loss=own)


class WithNoise(nn.Module):
    """A teacher that is asked about x with the attack's first noise on it."""

    def __init__(self, net: nn.Module, noise: Tensor) -> None:
        super().__init__()
        self.net, self.noise = net, 0.001 * noise

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x + self.noise[: len(x)])  # type: ignore[no-any-return]


def test_ibds_attention_is_the_released_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss at the example, and the gradients of the student and of what is learnt; its teacher sees x with noise."""
    found = values("ibd", monkeypatch)
    monkeypatch.setattr(sys.modules["mmard.methods.ibd"], "WIDTH", len(found["learned/keys.0.0.bias"]))
    method, student = m.ibd(), network(found, "student").train()
    teacher = WithNoise(network(found, "teacher"), found["noise"])
    update = updating.Update(
        method=method, threat=Threat(eps=float(found["eps"])), student=student, teachers={"teacher": teacher},
        plan=Plan(epochs=int(found["epochs"]), lr=0.0, momentum=0.0, weight_decay=0.0), engine=Engine("cpu"),
        shape=found["x"].shape[1:],
    )  # fmt: skip
    (part,) = update.learned
    part.load_state_dict({k.partition("/")[2]: v for k, v in found.items() if k.startswith("learned/")})
    parts = update(found["x"], found["y"], torch.arange(len(found["y"])), 0.0)
    expected = float(found["loss"])
    assert abs(sum(parts.values()) - expected) <= WITHIN * expected
    assert abs(parts["attended"] - 0.8 * found["loss_ibd"]) <= WITHIN * expected
    must_have_gradient(student, found, "grad")
    must_have_gradient(part, found, "grad_learned")


def test_scale_is_of_the_kl_terms_alone() -> None:
    """ARD with a label: releases average the KL over classes, never the cross-entropy."""
    torch.manual_seed(0)
    x, y = torch.rand(5, 3, 8, 8), torch.arange(5)
    nets = {"student": GoldenNet().eval(), "teacher": GoldenNet().eval()}
    v = Views.of(x, y, y, Models(nets)).moved_to(x + 0.01)
    kl, ce = m.ard(alpha=0.6, tau=4.0).outer(v).values()
    scaled = m.ard(alpha=0.6, tau=4.0).scale_divergences(0.1).outer(v)
    assert torch.allclose(torch.stack(list(scaled.values())), torch.stack([kl / 10, ce]))
