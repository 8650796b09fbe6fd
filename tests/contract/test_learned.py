"""Parts of terms that learn with the student: IBD's attention, and one of one's own."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import blobs, small_net
from test_features import Block, Blocks
from test_training import Stops, trainer
from torch import Tensor, nn

from mmard import Distiller, Method, MmardError, Threat, Views, term
from mmard.core.companion import Learned
from mmard.core.views import Models
from mmard.data.images import DataSet
from mmard.methods import awp, ibd, peeraid
from mmard.models.architectures import Architecture, build
from mmard.models.weights import read_state
from mmard.training.engine import Engine
from mmard.training.schedule import Plan
from mmard.training.update import Update

THREAT = Threat(eps=0.1)


class Bridge(Learned):
    """A learned map from the last feature of the companion to the student's."""

    def meet(self, v: Views) -> None:
        self.layer = nn.Linear(v.adv.features("peer")[-1].shape[1], v.adv.features("student")[-1].shape[1])

    def bridged(self, v: Views) -> Tensor:
        peer, student = (v.adv.features(who)[-1].mean((2, 3)) for who in ("peer", "student"))
        return (self.layer(peer) - student).square().mean(1)


def with_bridge() -> Method:
    base = peeraid()
    return replace(base, outer=base.outer + term("‖W·f_P(x')−f(x')‖²", features=True)(Bridge().bridged))


def test_a_companions_features_are_there_after_its_own_descent() -> None:
    """Its pass for its own loss is used again, features too; in the trainer and in a loop of one's own."""
    x, y, index = blobs(12).batch(slice(None))
    update = Update(
        method=with_bridge(), threat=THREAT, student=small_net().train(), teachers={"peer": small_net(seed=9)},
        plan=Plan(lr=0.0), engine=Engine("cpu"), shape=x.shape[1:],
    )  # fmt: skip
    own = Distiller(with_bridge(), small_net().train(), None, THREAT, teachers={"peer": small_net(seed=9)}, steps=2)
    torch.manual_seed(0)
    theirs = update(x, y, index, 0.0)
    own.prepare(x)
    torch.manual_seed(0)
    loss, log = own.step(x, y, index)
    loss.backward()
    assert theirs["bridged"] > 0
    torch.testing.assert_close(log["bridged"], theirs["bridged"])
    for one, two in zip(own.parameters(), update.learned[0].parameters(), strict=False):  # then the companion's
        torch.testing.assert_close(one.grad, two.grad)


def updated(method: Method, *lrs: float, **parts: object) -> Update:
    """After one step at each learning rate."""
    x, y, index = blobs(12).batch(slice(None))
    update = Update(
        method=method, threat=THREAT, student=small_net(), teachers={"teacher": small_net(seed=9)},
        plan=Plan(lr=lrs[0], momentum=0.0, weight_decay=0.0, batch_size=12), engine=Engine("cpu"), shape=x.shape[1:],
        **parts,  # type: ignore[arg-type]
    )  # fmt: skip
    update.student.train()
    for step in range(len(lrs)):
        torch.manual_seed(step)
        update(x, y, index, 0.5)
    return update


def learned(update: Update) -> dict[str, Tensor]:
    (part,) = update.learned
    return {name: value.detach().clone() for name, value in part.named_parameters()}


def test_the_attention_learns_by_the_students_optimiser() -> None:
    """It descends the same loss: w − lr·∇, by a step of the plan's; and begins by the run's seed."""
    before, after = learned(updated(ibd(), 0.0)), updated(ibd(), 0.5)
    (part,) = after.learned
    for name, weight in part.named_parameters():
        assert weight.grad is not None
        torch.testing.assert_close(weight, before[name] - after.plan.lr_at(0.5) * weight.grad)
        undone = name.endswith(".0.bias") or name == "by_pair.1.bias"  # by BatchNorm, and by the softmax
        assert undone or weight.grad.abs().max() > 1e-6, name
    assert all(torch.equal(a, b) for a, b in zip(before.values(), learned(updated(ibd(), 0.0)).values(), strict=True))
    other = learned(updated(ibd(), 0.0, seed=1))
    assert not torch.equal(before["keys.0.0.weight"], other["keys.0.0.weight"])


def test_the_attentions_gradient_is_the_mean_over_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two, of which the other has three times this one's."""
    alone = updated(ibd(), 0.0)
    monkeypatch.setattr(Engine, "world", 2)
    monkeypatch.setattr(Engine, "all_reduce_sum", lambda _, gradient: 4 * gradient)
    both = updated(ibd(), 0.0)
    for one, two in zip(alone.learned[0].parameters(), both.learned[0].parameters(), strict=True):
        torch.testing.assert_close(2 * one.grad, two.grad)


def test_weights_of_attention_add_up_and_the_loss_is_by_hand() -> None:
    """Pairs of patterns by loops, with the attention as it is."""
    update = updated(ibd(), 0.0)
    (part,) = update.learned
    x, y, index = blobs(6).batch(slice(None))
    networks = Models({"student": update.student, "teacher": update.predictors["teacher"]})
    v = Views.of(x, y, index, networks).moved_to(x.flip(3))
    loss = part.attended(v)  # type: ignore[operator]
    student, teacher = v.adv.features("student"), v.nat.features("teacher")
    weights = part.weights(list(student), list(teacher))  # type: ignore[operator]
    torch.testing.assert_close(weights.sum(2), torch.ones(6, len(teacher)))
    for row in range(6):
        expected = torch.zeros(())
        for t, aim in enumerate(teacher):
            for s, own in enumerate(student):
                size = aim.shape[2:]
                flat = nn.functional.adaptive_avg_pool2d(own[row].square().mean(0, keepdim=True), size).flatten()
                target = aim[row].square().mean(0).flatten()
                expected = expected + weights[row, t, s] * (flat / flat.norm() - target / target.norm()).square().mean()
        torch.testing.assert_close(loss[row], expected)


@pytest.mark.parametrize("make", [ibd, lambda: awp(ibd(), gamma=0.05)], ids=["ibd", "awp"])
def test_a_run_that_was_cut_ends_as_one_that_was_not(make: Callable[[], Method], tiny: DataSet, tmp_path: Path) -> None:
    """The attention, its BatchNorm and its momentum are in the checkpoint."""
    trainer(tiny, tmp_path / "whole", make()).fit()
    with pytest.raises(KeyboardInterrupt):
        trainer(tiny, tmp_path / "cut", make(), watcher=Stops(5), checkpoint_every=1).fit()
    trainer(tiny, tmp_path / "cut", make(), checkpoint_every=1).fit()
    one, two = (read_state(tmp_path / name / "last.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_what_cannot_be_compared_is_one_line() -> None:
    vit = build(Architecture(name="vit-16-2-4", classes=4, channels=1))
    x = blobs(12).batch(slice(None))[0]
    common = {"method": ibd(), "threat": THREAT, "plan": Plan(), "engine": Engine("cpu"), "shape": x.shape[1:]}
    with pytest.raises(
        MmardError, match=r"a block of the student gives \(4, 16\) for an image, expected a feature map"
    ):
        Update(student=vit, teachers={"teacher": small_net(seed=9)}, **common)  # type: ignore[arg-type]
    flat = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    with pytest.raises(MmardError, match=r"no features of the student are recorded; expected a network of blocks"):
        Update(student=flat, teachers={"teacher": small_net(seed=9)}, **common)  # type: ignore[arg-type]
    with pytest.raises(MmardError, match=r"compiled networks record no features.*engine.compile=false"):
        Update(student=small_net(), teachers={"teacher": small_net(seed=9)}, compile=True, **common)  # type: ignore[arg-type]


def test_a_loop_of_ones_own_prepares_first() -> None:
    """The parameters need images; state goes from one distiller to the next."""
    x, y, index = blobs(12).batch(slice(None))
    own = Distiller("ibd", student := small_net().train(), small_net(seed=9), THREAT)
    for ask in (lambda: list(own.parameters()), lambda: own.load_state_dict(own.state_dict())):
        with pytest.raises(MmardError, match=r"call prepare\(x\) before"):
            ask()
    for wrong in (None, torch.rand(8, 8), torch.tensor(1.0)):
        with pytest.raises(MmardError, match=r"expected a tensor of images \(B, C, H, W\)"):
            own.prepare(wrong)  # type: ignore[arg-type]
    mode, weights = student.training, [w.clone() for w in student.state_dict().values()]
    own.prepare(x)
    assert student.training is mode
    assert all(torch.equal(a, b) for a, b in zip(student.state_dict().values(), weights, strict=True))
    optimizer = torch.optim.SGD([*student.parameters(), *own.parameters()], lr=0.1)
    loss, log = own.step(x, y, index)
    loss.backward()
    optimizer.step()
    assert "attended" in log
    other = Distiller("ibd", small_net(), small_net(seed=9), THREAT)
    other.prepare(x)
    other.load_state_dict(own.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(own.parameters(), other.parameters(), strict=True))


def test_a_first_step_is_the_same_without_prepare() -> None:
    """Also under the caller's autocast."""
    x, y, index = blobs(12).batch(slice(None))
    losses = []
    for first in (True, False):
        own = Distiller("ibd", small_net().train(), small_net(seed=9), THREAT)
        if first:
            own.prepare(x)
        torch.manual_seed(0)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            losses.append(own.step(x, y, index)[0])
    assert torch.equal(*losses)


def test_what_learns_is_refused_in_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("is_available", True), ("is_initialized", True), ("get_world_size", 2)):
        monkeypatch.setattr(torch.distributed, name, lambda value=value: value)
    with pytest.raises(MmardError, match=r"trains a part of its terms beside the student.*one process only"):
        Distiller("ibd", small_net(), small_net(seed=9), THREAT)


def test_a_validation_is_of_each_image_alone() -> None:
    """What learns is in evaluation mode, too: the loss of a batch is the mean over its parts, also over those of one image."""
    x, y, _ = blobs(4).batch(slice(None))
    own = Distiller(ibd(), small_net(), small_net(seed=9), THREAT, attack={"steps": 1, "start": "none"})
    own.prepare(x)
    own.step(x, y)
    with torch.no_grad():
        whole = own.step(x, y)[1]["attended"]
        alone = [own.step(x[i : i + 1], y[i : i + 1])[1]["attended"] for i in range(4)]
    torch.testing.assert_close(whole, torch.stack(alone).mean())
    assert all(part.training for part in own.method.learned())


def test_one_image_is_no_batch() -> None:
    own = Distiller(ibd(), small_net(), small_net(seed=9), THREAT)
    own.prepare(x := blobs(4).batch(slice(None))[0])
    with pytest.raises(MmardError, match="expected 2 images or more in training, got 1"):
        own.step(x[:1], torch.tensor([0]))


class Sloppy(Learned):
    """A part that learns, by a user in a hurry."""

    def told(self, v: Views) -> Tensor:
        return v.adv.student.square().mean(1)


class Makes(Sloppy):
    def __init__(self, make: Callable[[Views], object]) -> None:
        super().__init__()
        self.make = make

    def meet(self, v: Views) -> None:
        self.make(v)


@pytest.mark.parametrize(
    ("part", "match"),
    [
        (Sloppy(), r"Sloppy.meet fails \(.*\): NotImplementedError: a part that learns makes its parameters in meet"),
        (Makes(lambda _: 1 / 0), r"Makes.meet fails \(.*test_learned.py, line \d+\): ZeroDivisionError"),
        (Makes(lambda _: None), "Makes.meet makes no parameters that ask for gradients"),
        (Makes(lambda v: v.nat.other("natural")), "the method asks for a 'natural' model"),
    ],
)
def test_a_part_that_cannot_begin_is_one_line(part: Sloppy, match: str) -> None:
    with pytest.raises(MmardError, match=match):
        updated(Method(outer=term("told")(part.told)), 0.1)


def test_blocks_that_are_left_out_in_training_are_one_line() -> None:
    x, y, _ = blobs(4).batch(slice(None))
    own = Distiller(ibd(), Blocks(Block, left_out=1).train(), small_net(seed=9), THREAT)
    own.prepare(x)
    with pytest.raises(MmardError, match="2 blocks of the student are called in this pass, and 3 were at first"):
        own.step(x, y)
