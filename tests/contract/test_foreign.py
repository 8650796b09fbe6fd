"""Honest networks of other people raise no false alarm, however they are written."""

import copy

import foreign
import pytest
import torch
from torch import nn

from mmard import Threat
from mmard.data.images import DataSet, Images, some
from mmard.data.sources import load
from mmard.evaluation.checks.confirmation import Attempt, try_attacks
from mmard.evaluation.checks.run import evaluate_with_checks
from mmard.evaluation.prepare import Contiguous, FiniteGradients, prepare_model
from mmard.evaluation.run import run_attacks
from mmard.evaluation.suite import choose_attacks, suite
from mmard.models.architectures import Architecture, build

THREAT = Threat(eps=0.1)
CW = choose_attacks("cw", suite())


@pytest.fixture(scope="module")
def digits() -> DataSet:
    return load("digits")


def levels(model: nn.Module, images: Images, checks: str, threat: Threat = THREAT) -> dict[str, str]:
    scores = evaluate_with_checks(model, images, threat, choose_attacks("pgd-20,cw", suite()), checks=checks)
    assert scores.accuracy("clean") > scores.accuracy("worst case")
    return {check["name"]: check["level"] for check in scores.metadata["checks"]}


QUICK = {"ResNet with GroupNorm", "LeNet with BatchNorm", "MLP", "gamma 2.2", ".view"}  # a layer of each kind


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in foreign.ARCHITECTURES]
)
def test_an_honest_network_is_judged_and_no_figure_is_called_wrong(name: str, digits: DataSet) -> None:
    model = foreign.trained(foreign.ARCHITECTURES[name], digits.train.in_memory(), steps=60)
    found = levels(model, some(digits.test, 40, seed=1), "full")
    assert "error" not in found.values()
    assert not found.keys() & {"zero-gradients", "masked-gradients", "batch", "normalisation", "randomised"}


def test_a_transformer_too(digits: DataSet) -> None:
    net = foreign.trained(
        lambda: build(Architecture(name="vit-32-2-4", classes=10, channels=1)), digits.train.in_memory(), 20
    )
    assert "error" not in levels(net, some(digits.test, 30, seed=1), "quick").values()


@pytest.mark.parametrize("eps", [0.1, pytest.param(0.3, marks=pytest.mark.slow)])
def test_ties_in_a_pool_over_a_flat_background_are_no_masked_gradient(eps: float, digits: DataSet) -> None:
    train = foreign.as_mnist(some(digits.train.in_memory(), 300, seed=0))
    model = foreign.trained(lambda: foreign.lenet(1, 28), train, steps=30, batch=32)
    found = levels(model, foreign.as_mnist(some(digits.test, 24, seed=1)), "quick", Threat(eps=eps))
    assert "masked-gradients" not in found
    assert "error" not in found.values()


def test_a_stop_needs_attacks_that_agree() -> None:
    assert not Attempt(by_gradient=0, blindly=2, count=50, left=0.5).agrees
    assert Attempt(by_gradient=0, blindly=3, count=50, left=0.5).agrees
    assert not Attempt(by_gradient=0, blindly=0, count=50, left=0.5).clears  # nobody found anything: nobody knows
    assert Attempt(by_gradient=3, blindly=0, count=50, left=0.5).clears
    assert Attempt(by_gradient=0, blindly=0, count=50, left=0.0).clears


def test_attacks_agree_on_a_cut_gradient_and_not_on_a_scaled_one(digits: DataSet) -> None:
    net = foreign.trained(lambda: foreign.plain(nn.ReLU), digits.train.in_memory())

    class Cut(nn.Module):
        def __init__(self, share: float) -> None:
            super().__init__()
            self.net, self.share = net, share

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(x.detach() + self.share * (x - x.detach()))  # type: ignore[no-any-return]

    x, y, _ = some(digits.test, 40, seed=1).batch(slice(None))
    torch.manual_seed(0)
    assert try_attacks(Cut(0.0), x, y, Threat(eps=0.2)).agrees
    assert not try_attacks(Cut(0.3), x, y, Threat(eps=0.2)).agrees


def test_view_is_asked_in_plain_memory_and_nothing_else_changes(digits: DataSet) -> None:
    few = some(digits.test, 20, seed=1)
    coloured = Images(few.pixels.repeat(1, 3, 1, 1), few.labels, few.classes, few.index)
    net = foreign.Views(3, 8).eval()
    ready = prepare_model(net, coloured)
    assert isinstance(ready, Contiguous)
    by_layers = prepare_model(copy.deepcopy(net).to(memory_format=torch.channels_last), coloured)  # type: ignore[call-overload]
    x, y, _ = coloured.batch(slice(None))
    for model in (ready, by_layers):
        torch.testing.assert_close(model(x), net(x.clone(memory_format=torch.contiguous_format)))
    right = run_attacks(net, coloured, THREAT, CW).correct[:, 0]
    assert torch.equal(right, ready(x).argmax(1) == y)
    plain = foreign.plain(nn.ReLU)
    assert prepare_model(plain, few) is plain


def test_an_infinite_slope_is_none(digits: DataSet) -> None:
    few = some(digits.test, 20, seed=1)
    net = nn.Sequential(foreign.Gamma(0.5), foreign.plain(nn.ReLU))
    ready = prepare_model(net, few)
    assert isinstance(ready, FiniteGradients)
    x = few.batch(slice(None))[0].requires_grad_()
    torch.testing.assert_close(ready(x), net(x))
    (grad,) = torch.autograd.grad(ready(x)[:, 0].sum(), x)
    assert grad.isfinite().all()
    (own,) = torch.autograd.grad(net(x)[:, 0].sum(), x)
    usual = own.isfinite()
    torch.testing.assert_close(grad[usual], own[usual])
    assert not usual.all()
