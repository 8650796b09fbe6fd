"""A museum of broken defences: each is caught, by name; and honest models raise no flag."""

import copy
from collections.abc import Callable, Mapping
from pathlib import Path

import museum
import pytest
import torch
import torch.nn.functional as F
from museum import Exhibit, same, times
from torch import nn

import mmard
from mmard import Threat, load_model
from mmard.data.images import DataSet, some
from mmard.data.sources import load
from mmard.evaluation.checks.messages import CheckError
from mmard.evaluation.checks.run import evaluate_with_checks
from mmard.evaluation.scores import Scores
from mmard.evaluation.suite import choose_attacks, suite
from mmard.models.architectures import Classifier

pytestmark = pytest.mark.figures

THREAT = Threat(eps=0.15)


@pytest.fixture(scope="module")
def digits() -> DataSet:
    return load("digits")


@pytest.fixture(scope="module")
def net(honest: dict[str, Path]) -> Classifier:
    """An honest net, to be put behind something."""
    return load_model(honest["pgd_at"])


def evaluated(
    model: nn.Module,
    digits: DataSet,
    attacks: str = "fgsm,pgd-20,cw",
    checks: str = "quick",
    n: int = 60,
    others: Mapping[str, nn.Module] | None = None,
) -> Scores:
    return evaluate_with_checks(
        model, some(digits.test, n, seed=1), THREAT, choose_attacks(attacks, suite()), checks=checks, others=others
    )


def caught(model: nn.Module, digits: DataSet) -> set[str]:
    """Names of the checks that speak."""
    try:
        return {check["name"] for check in evaluated(model, digits, "cw").metadata["checks"]}
    except CheckError as e:
        return {e.check.name}


def winners_take_all(net: Classifier, digits: DataSet) -> nn.Module:
    """Trained naturally so that it knows the digits with a tenth of its activations."""
    torch.manual_seed(0)
    net = museum.with_winners(net.requires_grad_(True), 0.1).train()
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(60):
        x, y, _ = digits.train.in_memory().batch(torch.randint(len(digits.train), (64,)))
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
    return net.eval()


Maker = Callable[[Classifier, DataSet], nn.Module]
EXHIBITS: dict[str, tuple[Maker, str]] = {
    "random resizing": (lambda net, _: Exhibit(net, museum.resized, same), "randomised"),
    "noise on the input": (lambda net, _: Exhibit(net, lambda x: x + 0.1 * torch.randn_like(x), same), "randomised"),
    "dropout at test time": (lambda net, _: Exhibit(net, lambda x: F.dropout(x, 0.1, True), same), "randomised"),
    "quantised input": (lambda net, _: Exhibit(net, museum.quantised, same), "zero-gradients"),
    "JPEG-like input": (lambda net, _: Exhibit(net, museum.jpeg_like, same), "zero-gradients"),
    "detached but for zero": (lambda net, _: Exhibit(net, lambda x: x.detach() + 0 * x, same), "zero-gradients"),
    "detached": (lambda net, _: Exhibit(net, lambda x: x.detach(), same), "detached"),
    "another function's gradient": (lambda net, _: Exhibit(net, museum.other_gradient, same), "masked-gradients"),
    "dummy classes outside the graph": (lambda net, _: museum.Folded(net, copy.deepcopy(net)), "masked-gradients"),
    "k-winners-take-all": (winners_take_all, "masked-gradients"),
    "softmax output": (lambda net, _: Exhibit(net, same, lambda z: z.softmax(1)), "logits"),
    "logits × 1e-6": (lambda net, _: Exhibit(net, same, times(1e-6)), "scale"),
    "logits × 1e6": (lambda net, _: Exhibit(net, same, times(1e6)), "scale"),
    "temperature 1/100": (lambda net, _: Exhibit(net, same, times(100)), "scale"),
    "purified while it predicts": (lambda net, _: Exhibit(net, museum.purified(copy.deepcopy(net)), same), "dynamic"),
    "BatchNorm in training mode": (lambda net, _: museum.with_norms(net, museum.Stubborn), "mode"),
    "BatchNorm in training mode, in secret": (lambda net, _: museum.with_norms(net, museum.Secret), "mode"),
    "statistics of the batch": (lambda net, _: museum.with_norms(net, museum.BatchStatistics), "batch"),
    "led by neighbours' labels": (lambda net, _: Exhibit(net, same, museum.led_by_neighbours), "batch"),
    "led by the labels' order": (lambda net, _: Exhibit(net, same, museum.by_position), "batch"),
    "a network within a network": (lambda net, _: Classifier(net, net.architecture), "normalisation"),
    "normalised outside, too": (lambda net, _: nn.Sequential(museum.Normalise(0.3, 0.4), net), "normalisation"),
    "normalisation forgotten": (lambda net, _: Exhibit(net, lambda x: 0.15 * x + 0.4, same), "normalisation"),
    "pixels wanted in 0 to 255": (lambda net, _: Exhibit(net, times(1 / 255), same), "normalisation"),
}


@pytest.mark.parametrize("name", EXHIBITS)
def test_every_exhibit_is_caught_by_name(name: str, net: Classifier, digits: DataSet) -> None:
    make, check = EXHIBITS[name]
    assert check in caught(make(copy.deepcopy(net), digits), digits)


def test_true_gradients_that_lead_nowhere_are_found_out_by_further_attacks(net: Classifier, digits: DataSet) -> None:
    scores = evaluated(museum.Rugged(net, 1.5), digits, "fgsm,pgd-20,cw", "full", 100, {"the net beneath": net})
    seen = {check["name"]: check for check in scores.metadata["checks"] if "a net fitted" not in check["said"]}
    assert {"restarts", "square", "transfer"} <= seen.keys()  # the fitted net finds as many as rounding lets it
    assert all(seen["square"][key] for key in ("said", "means", "do"))
    steeper = evaluated(museum.Rugged(net, 3), digits, "fgsm,pgd-20", checks="quick", n=200)
    assert "order" in {check["name"] for check in steeper.metadata["checks"]}


def test_eps_in_255ths_is_caught(honest: dict[str, Path]) -> None:
    with pytest.raises(CheckError, match="is it in 255ths") as e:
        mmard.evaluate(honest["rslad"], "fgsm", threat__eps=8)
    assert e.value.check.name == "threat"


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "method", ["pgd_at", pytest.param("trades", marks=SLOW), pytest.param("rslad", marks=SLOW), "mmard"]
)
def test_honest_models_raise_no_flag(method: str, honest: dict[str, Path], digits: DataSet) -> None:
    scores = evaluated(load_model(honest[method]), digits, "fgsm,pgd-20,cw", checks="full", n=100)
    assert scores.metadata["checks"] == []
    assert scores.metadata["checked"]["probed"] == 100
    assert scores.accuracy("clean") - 0.1 > scores.accuracy("worst case") > 0.1  # a case that tells something


def test_an_ensemble_of_two_that_normalise_is_honest(honest: dict[str, Path], digits: DataSet) -> None:
    class Ensemble(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.nets = nn.ModuleList(load_model(honest[name]) for name in ("pgd_at", "trades"))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.nets[0](x) + self.nets[1](x)

    assert caught(Ensemble(), digits) == set()


def test_a_randomised_model_is_judged_over_draws_and_the_table_says_so(net: Classifier, digits: DataSet) -> None:
    noisy = Exhibit(copy.deepcopy(net), lambda x: x + 0.5 * torch.randn_like(x), same)
    over_draws = evaluated(noisy, digits, "pgd-20")
    assert all("EOT over 20 draws" in row["detail"] for row in over_draws.rows()[:-1])
    naive = evaluated(noisy, digits, "pgd-20", checks="none")
    assert over_draws.accuracy("clean") > naive.accuracy("clean")  # the mean of 20 draws knows more than one
    assert "EOT" not in naive.details[1]


@pytest.mark.parametrize("factor", [2.0**-20, 2.0**20])  # powers of two, which rounding does not touch
def test_a_margin_loss_knows_no_scale(factor: float, net: Classifier, digits: DataSet) -> None:
    scores = evaluated(Exhibit(copy.deepcopy(net), same, times(factor)), digits)
    plain = evaluated(net, digits)
    assert scores.accuracy("C&W") == plain.accuracy("C&W")
    check = scores.metadata["checks"][0]
    assert (check["name"], check["level"]) == ("scale", "warning")


def test_large_logits_without_a_margin_loss_are_an_error(net: Classifier, digits: DataSet) -> None:
    """Small ones cost PGD on the cross-entropy few images, and on some processors too few to tell."""
    scaled = Exhibit(copy.deepcopy(net), same, times(2.0**20))
    with pytest.raises(CheckError, match="scale") as e:
        evaluated(scaled, digits, "fgsm,pgd-20")
    assert e.value.check.name == "scale"
    assert evaluated(scaled, digits).accuracy("PGD-20") > evaluated(net, digits).accuracy("PGD-20")
