"""Terms that compare networks' features, and where networks have them."""

from pathlib import Path

import pytest
import torch
from helpers import blobs, small_net
from test_training import trainer
from torch import Tensor, nn

from mmard import Distiller, Method, MmardError, Threat, Views, term
from mmard.core.features import blocks_of, watch
from mmard.core.views import Models
from mmard.data.images import DataSet
from mmard.methods import rslad
from mmard.models.architectures import Architecture, build
from mmard.models.folding import folded

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
        Distiller(Method(outer=silent), small_net(), None, THREAT).step(*blobs(12).batch(slice(None)))


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


@pytest.mark.parametrize("block", [Block, nn.Identity], ids=["blocks", "activations"])
def test_a_watched_network_can_be_scripted_and_saved(block: type[nn.Module], tmp_path: Path) -> None:
    """After a loop of one's own a student is exported."""
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), block(), block()).eval()
    watch(net)
    x = images(channels=1, size=8)
    torch.save(net, tmp_path / "net.pt")
    assert torch.equal(torch.load(tmp_path / "net.pt", weights_only=False)(x), net(x))
    torch.testing.assert_close(torch.jit.script(net)(x), net(x))
