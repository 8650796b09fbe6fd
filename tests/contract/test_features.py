"""Terms that compare networks' features, and the part of IBD that learns with the student."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import blobs, small_net
from test_training import Stops, trainer
from torch import Tensor, nn

from mmard import Distiller, Method, MmardError, Threat, Views, term
from mmard.core.companion import Learned
from mmard.core.features import blocks_of, watch
from mmard.core.views import Models
from mmard.data.images import DataSet
from mmard.methods import awp, ibd, peeraid, rslad
from mmard.models.architectures import Architecture, build
from mmard.models.folding import folded
from mmard.models.weights import read_state
from mmard.training.engine import Engine
from mmard.training.schedule import Plan
from mmard.training.update import Update

THREAT = Threat(eps=0.1)


def named(name: str) -> nn.Module:
    return build(Architecture(name=name, classes=4, channels=3)).eval()


def images(n: int = 2, size: int = 16, channels: int = 3) -> Tensor:
    return torch.rand(n, channels, size, size, generator=torch.Generator().manual_seed(0))


def features(net: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    return Views.of(x, torch.zeros(len(x), dtype=torch.int64), torch.arange(len(x)), Models({"net": net})).nat.features(
        "net"
    )


@pytest.mark.parametrize(
    ("name", "kind", "count"),
    [
        ("wrn-16-1", "BasicBlock", 6),
        ("resnet18", "Block", 8),
        ("resnet50", "Bottleneck", 16),
        ("preactresnet18", "PreActBlock", 8),
        ("mobilenetv2", "InvertedResidual", 17),
        ("cnn-4-3", "ReLU", 3),
    ],
)
def test_blocks_are_what_a_reader_would_count(name: str, kind: str, count: int) -> None:
    """Each network of our own; the features are the blocks' outputs, and logits are what they were."""
    net = named(name)
    assert [type(block).__name__ for block in blocks_of(net)] == [kind] * count
    before = net(x := images())
    watch(net)
    watch(net)
    found = features(net, x)
    assert len(found) == count
    assert all(each.dim() == 4 and len(each) == 2 for each in found)
    assert torch.equal(net(x), before)


def test_a_folded_network_has_the_same_features() -> None:
    """In the attack, where BatchNorm is folded into the convolutions."""
    net = named("wrn-16-1")
    shadow = folded(net)
    assert shadow is not net
    watch(net)
    watch(shadow)
    for own, other in zip(features(net, x := images()), features(shadow, x), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-3, atol=1e-4)


def test_blocks_of_foreign_networks() -> None:
    """A network wrapped with its normalisation is no block; without activations as modules convolutions are."""

    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.conv(x).relu().mean((2, 3)))  # type: ignore[no-any-return]

    wrapped = nn.Sequential(nn.Identity(), named("resnet18"))
    assert len(blocks_of(wrapped)) == 8
    assert [type(block) for block in blocks_of(Functional())] == [nn.Conv2d]
    assert blocks_of(nn.Sequential(nn.Flatten(), nn.Linear(4, 4))) == []


def test_features_are_of_the_pass_that_gave_the_logits() -> None:
    """One pass for both, in either order; of some rows, and after the student is replaced, what is known stays."""
    student, teacher = named("cnn-4-2"), named("cnn-4-2")
    calls: list[str] = []
    for name, net in (("student", student), ("teacher", teacher)):
        watch(net)
        net.register_forward_hook(lambda *_, name=name: calls.append(name))
    x, y = images(4), torch.zeros(4, dtype=torch.int64)
    v = Views.of(x, y, y, Models({"student": student, "teacher": teacher}))
    first = v.nat.features("teacher")
    _ = v.nat.teacher, v.nat.student, v.nat.features("student")
    assert calls == ["teacher", "student"]
    seen = v.seen_by(student)
    assert all(a is b for a, b in zip(seen.nat.features("teacher"), first, strict=True))
    rows = torch.tensor([2, 0])
    assert all(torch.equal(a, b[rows]) for a, b in zip(v.of_rows(rows).nat.features("teacher"), first, strict=True))
    assert calls == ["teacher", "student"]
    _ = seen.nat.features("student")
    assert calls == ["teacher", "student", "student"]


def test_logits_that_are_known_do_not_hide_features() -> None:
    """Those of `data.variants`: the network is asked for its features, once."""
    net = named("cnn-4-2")
    watch(net)
    x, y = images(2), torch.zeros(2, dtype=torch.int64)
    v = Views.of(x, y, y, Models({"teacher": net}), known={"teacher": torch.ones(2, 4)})
    assert len(v.nat.features("teacher")) == 2
    assert torch.equal(v.nat.teacher, torch.ones(2, 4))


@term("‖f(x')−f(x)‖²", features=True)
def moved(v: Views) -> Tensor:
    """How far the student's last feature moves."""
    return (v.adv.features("student")[-1] - v.nat.features("student")[-1]).square().mean((1, 2, 3))


def test_a_term_of_ones_own_on_features_trains(tiny: DataSet, tmp_path: Path) -> None:
    base = rslad()
    method = Method(inner=base.inner + moved, outer=base.outer + moved, maximizer=base.maximizer)
    made = trainer(tiny, tmp_path / "own", method)
    made.fit()
    assert made.folder.metrics()[-1]["terms"]["moved"] > 0


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


def test_a_term_that_does_not_say_so_gets_no_features() -> None:
    silent = term("f(x')")(lambda v: v.adv.features("student")[-1].mean((1, 2, 3)))
    with pytest.raises(MmardError, match=r"no features of the student are recorded; .*features=True"):
        updated(Method(outer=silent), 0.1)


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
