"""Terms that compare networks' features, and the part of IBD that learns with the student."""

from collections.abc import Callable
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
from mmard.methods import awp, ibd, rslad
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
        assert name.startswith("keys.1") or weight.grad.abs().max() > 0, name
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


def test_a_loop_of_ones_own_prepares_first(tmp_path: Path) -> None:
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
    with pytest.raises(MmardError, match="expected 2 images or more at once in training, got 1"):
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
        (Makes(lambda _: 1 / 0), r"Makes.meet fails \(.*test_features.py, line \d+\): ZeroDivisionError"),
        (Makes(lambda _: None), "Makes.meet makes no parameters that ask for gradients"),
        (Makes(lambda v: v.nat.other("natural")), "the method asks for a 'natural' model"),
    ],
)
def test_a_part_that_cannot_begin_is_one_line(part: Sloppy, match: str) -> None:
    with pytest.raises(MmardError, match=match):
        updated(Method(outer=term("told")(part.told)), 0.1)


class Block(nn.Module):
    """A residual block."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x).relu()


class WithSkip(Block):
    """One that gives its input, too."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return super().forward(x), x


class Blocks(nn.Module):
    """A network that leaves out its first blocks in training."""

    def __init__(self, block: type[Block], left_out: int = 0) -> None:
        super().__init__()
        self.stem, self.blocks, self.fc = nn.Conv2d(1, 4, 3), nn.ModuleList(block() for _ in range(3)), nn.Linear(4, 4)
        self.left_out = left_out

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks[self.left_out if self.training else 0 :]:  # type: ignore[union-attr]
            x = block(x)
            x = x[0] if isinstance(x, tuple) else x
        return self.fc(x.mean((2, 3)))  # type: ignore[no-any-return]


def test_of_a_tuple_that_a_block_gives_the_first_is_its_feature() -> None:
    torch.manual_seed(0)
    net, plain = Blocks(WithSkip), Blocks(Block)
    plain.load_state_dict(net.state_dict())
    for each in (net, plain):
        watch(each)
    x = images(channels=1)
    assert all(torch.equal(a, b) for a, b in zip(features(net, x), features(plain, x), strict=True))
    assert len(features(net, x)) == 3


def test_blocks_that_are_left_out_in_training_are_one_line() -> None:
    x, y, _ = blobs(4).batch(slice(None))
    own = Distiller(ibd(), Blocks(Block, left_out=1).train(), small_net(seed=9), THREAT)
    own.prepare(x)
    with pytest.raises(MmardError, match="2 blocks of the student are called in this pass, and 3 were at first"):
        own.step(x, y)


@pytest.mark.parametrize("block", [Block, nn.Identity], ids=["blocks", "activations"])
def test_a_watched_network_can_be_scripted_and_saved(block: type[nn.Module], tmp_path: Path) -> None:
    """After a loop of one's own a student is exported."""
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), block(), block()).eval()
    watch(net)
    x = images(channels=1, size=8)
    torch.save(net, tmp_path / "net.pt")
    assert torch.equal(torch.load(tmp_path / "net.pt", weights_only=False)(x), net(x))
    torch.testing.assert_close(torch.jit.script(net)(x), net(x))
