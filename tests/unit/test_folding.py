"""BatchNorm folded into convolutions changes nothing but rounding, and follows the weights."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from mmard.models.architectures import Architecture, Classifier, build
from mmard.models.folding import Folded, folded, folded_alike

pytestmark = pytest.mark.figures


def lived(name: str) -> Classifier:
    """A network whose BatchNorms have seen something."""
    torch.manual_seed(0)
    model = build(Architecture(name=name, classes=5, channels=1, mean=(0.4,), std=(0.3,)))
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.normal_(m.running_mean)  # type: ignore[arg-type]
            nn.init.uniform_(m.running_var, 0.5, 2)  # type: ignore[arg-type]
            nn.init.uniform_(m.weight, 0.5, 2)
            nn.init.normal_(m.bias)
    return model


def logits_and_gradient(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    logits = model(x)
    return logits.detach(), torch.autograd.grad(logits.square().sum(), x)[0]


@pytest.mark.parametrize(
    ("name", "pairs"), [("cnn-4-3", 3), ("resnet18", 20), ("preactresnet18", 8), ("wrn-10-2", 4), ("mobilenetv2", 57)]
)
def test_a_folded_network_says_the_same_and_has_the_same_gradient(name: str, pairs: int) -> None:
    model, x = lived(name).eval(), torch.rand(4, 1, 8, 8)
    shadow = folded(model)
    assert isinstance(shadow, Folded)
    assert len(shadow.pairs) == pairs
    for ours, theirs in zip(logits_and_gradient(shadow, x), logits_and_gradient(model, x), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * theirs.abs().max().item())


def test_it_follows_the_weights_and_leaves_them_alone() -> None:
    model, x = lived("wrn-10-1"), torch.rand(8, 1, 8, 8)
    shadow = Folded(model)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    logits_and_gradient(shadow, x)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model.train()(x).square().mean().backward()
    optimizer.step()
    model.eval()
    assert not torch.allclose(shadow(x), model(x), rtol=1e-3)
    shadow.refresh()
    torch.testing.assert_close(shadow(x), model(x), rtol=1e-4, atol=1e-4)


def test_what_cannot_be_traced_runs_as_it_is_with_one_line() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bn = nn.BatchNorm2d(1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.bn(x)
            return x.flatten(1)[:, :5] if x.sum() > 0 else x.flatten(1)[:, 5:10]

    model = Classifier(Branches(), Architecture(name="branches", classes=5, channels=1))
    with pytest.warns(UserWarning, match="branches runs unfolded"):
        assert folded(model) is model


def test_what_comes_out_different_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = lived("wrn-10-1").eval(), torch.rand(2, 1, 8, 8)
    assert isinstance(folded_alike(model, x), Folded)
    assert folded_alike(model, torch.rand(2, 3, 8, 8)) is model  # an error is for whoever asks the model
    monkeypatch.setattr("mmard.models.folding.folded", lambda _: lived("wrn-10-2").eval())
    assert folded_alike(model, x) is model


@pytest.mark.filterwarnings("error")
def test_a_network_without_batchnorm_runs_as_it_is() -> None:
    model = build(Architecture(name="vit-8-1-4", classes=3))
    assert folded(model) is model


class Odd(nn.Module):
    """A network whose forward is a function of its parts."""

    def __init__(self, call: Callable[..., Tensor], **parts: nn.Module) -> None:
        super().__init__()
        self.call = call
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self, x).mean((2, 3))


def conv(channels: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(channels, 5, 3, padding=1, bias=bias)


def tied() -> dict[str, nn.Module]:
    parts: dict[str, nn.Module] = {"a": conv(), "b": conv(), "bn": nn.BatchNorm2d(5)}
    parts["b"].weight = parts["a"].weight
    return parts


ODD: dict[str, tuple[Callable[[], dict[str, nn.Module]], Callable[..., Tensor], int]] = {
    "plain": (lambda: {"a": conv(), "bn": nn.BatchNorm2d(5)}, lambda s, x: s.bn(s.a(x)), 1),
    "a convolution called twice": (
        lambda: {"a": conv(), "bn": nn.BatchNorm2d(5), "bn2": nn.BatchNorm2d(5)},
        lambda s, x: s.bn(s.a(x)) + s.bn2(s.a(x.flip(3))), 0,
    ),
    "a BatchNorm used twice": (
        lambda: {"a": conv(), "bn": nn.BatchNorm2d(5)}, lambda s, x: s.bn(s.a(x)) + s.bn(x.expand(-1, 5, -1, -1)), 0
    ),
    "weight_norm": (lambda: {"a": weight_norm(conv()), "bn": nn.BatchNorm2d(5)}, lambda s, x: s.bn(s.a(x)), 0),
    "spectral_norm": (
        lambda: {"a": spectral_norm(conv(bias=False)), "bn": nn.BatchNorm2d(5)}, lambda s, x: s.bn(s.a(x)), 0
    ),
    "a hook of old": (
        lambda: {"a": nn.utils.spectral_norm(conv()), "bn": nn.BatchNorm2d(5)}, lambda s, x: s.bn(s.a(x)), 0
    ),
    "weights that two share": (tied, lambda s, x: s.bn(s.a(x)) + s.b(x), 1),
    "weights read elsewhere": (
        lambda: {"a": conv(), "bn": nn.BatchNorm2d(5)}, lambda s, x: s.bn(s.a(x)) * s.a.weight.mean(), 0
    ),
    "another way in evaluation": (
        lambda: {"a": conv(), "bn": nn.BatchNorm2d(5)},
        lambda s, x: s.bn(s.a(x)) if s.training else (lambda z: s.bn(z) + z)(s.a(x)), 0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
@pytest.mark.filterwarnings("ignore:.*spectral_norm.*:FutureWarning")
def test_only_what_is_sure_to_stay_the_same_is_folded(name: str) -> None:
    """A convolution called twice, or one whose weights are computed, was folded into another network without a word."""
    parts, call, pairs = ODD[name]
    torch.manual_seed(0)
    model = Classifier(Odd(call, **parts()), Architecture(name="odd", classes=5, channels=1))
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.normal_(m.running_mean)  # type: ignore[arg-type]
            nn.init.uniform_(m.running_var, 0.5, 2)  # type: ignore[arg-type]
            nn.init.uniform_(m.weight, 0.5, 2)
    model.train()(torch.rand(8, 1, 6, 6))
    shadow = folded(model.train())
    assert len(shadow.pairs if isinstance(shadow, Folded) else ()) == pairs
    x = torch.rand(4, 1, 6, 6)
    torch.testing.assert_close(shadow.eval()(x), model.eval()(x), rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.5)
    if isinstance(shadow, Folded):
        shadow.refresh()
    torch.testing.assert_close(shadow(x), model(x), rtol=1e-4, atol=1e-5)
