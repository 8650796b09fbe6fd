"""Ways round the quick checks: each gives a flattering figure where nothing is checked, and is named where something is."""

import copy
from collections.abc import Callable
from dataclasses import replace

import foreign
import museum
import pytest
import torch
from museum import Exhibit, same
from torch import nn

from mmard import Threat
from mmard.data.images import Images, some
from mmard.data.sources import load
from mmard.evaluation.checks.messages import CheckError
from mmard.evaluation.checks.run import evaluate_with_checks
from mmard.evaluation.scores import Scores
from mmard.evaluation.suite import choose_attacks, suite

THREAT = Threat(eps=0.12)


def grey(images: Images) -> Images:
    """Digits without black and white, as photographs are: no pixel has to be moved off its level to be looked at."""
    return replace(images, pixels=(images.pixels * 0.6 + 51).to(torch.uint8))


def in_turn(images: Images, count: int) -> Images:
    """About so many, whose labels come in order: 0, 1, ..., 9, 0, 1, ..."""
    few = some(images, count, seed=1)
    rows = [(few.labels == k).nonzero().flatten().tolist() for k in range(10)]
    return few.take(torch.tensor([row for of_each in zip(*rows, strict=False) for row in of_each]))


@pytest.fixture(scope="module")
def images() -> tuple[Images, Images]:
    data = load("digits")
    return grey(data.train.in_memory()), grey(data.test)


@pytest.fixture(scope="module")
def net(images: tuple[Images, Images]) -> nn.Module:
    return foreign.trained(lambda: foreign.plain(nn.ReLU), images[0])


def validated(model: nn.Module, images: Images, checks: str, attacks: str = "pgd-20,cw") -> Scores:
    return evaluate_with_checks(copy.deepcopy(model), images, THREAT, choose_attacks(attacks, suite()), checks=checks)


def named(model: nn.Module, images: Images) -> dict[str, str]:
    """Name and level of what quick checks find."""
    try:
        return {check["name"]: check["level"] for check in validated(model, images, "quick").metadata["checks"]}
    except CheckError as e:
        return {e.check.name: e.check.level}


WAYS: dict[str, tuple[Callable[[nn.Module], nn.Module], str]] = {
    "gradients cut off the 8-bit grid": (lambda net: Exhibit(net, museum.cut_off_the_grid, same), "zero-gradients"),
    "another network's gradients off the grid": (
        lambda net: museum.AnotherOffTheGrid(net, foreign.plain(nn.ReLU)),
        "masked-gradients",
    ),
    "an answer by position in batches above 128": (
        lambda net: Exhibit(net, same, museum.by_position_above(128)),
        "batch",
    ),
    "an answer by order off the grid": (museum.OrderOffTheGrid, "batch"),
    "a model that remembers": (lambda net: museum.Remembers(net, 4500, 0.13), "again"),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_way_round_flatters_and_is_named(way: str, net: nn.Module, images: tuple[Images, Images]) -> None:
    make, check = WAYS[way]
    torch.manual_seed(0)
    model, few = make(copy.deepcopy(net)), in_turn(images[1], 200 if check == "batch" else 60)
    unchecked, honest = validated(model, few, "none", "cw"), validated(net, few, "none", "cw")
    if check != "again":  # it begins to remember after the attack that one word asks for
        assert unchecked.accuracy("C&W") > honest.accuracy("C&W") + 0.3
    assert named(model, few)[check] == "error"


def test_a_memory_shows_in_its_first_images_too(net: nn.Module, images: tuple[Images, Images]) -> None:
    found = validated(museum.Remembers(net, 4500, 0.13), in_turn(images[1], 60), "quick")
    assert found.accuracy("C&W") > 0.5 > validated(net, in_turn(images[1], 60), "none", "cw").accuracy("C&W")
    assert {"again", "state"} <= {check["name"] for check in found.metadata["checks"]}
    assert found.metadata["wrong_when_asked_again"]["C&W"] > 2


def test_each_wrong_kind_of_answer_is_named_as_what_it_is(net: nn.Module, images: tuple[Images, Images]) -> None:
    few = in_turn(images[1], 40)
    x, y, _ = images[0].batch(slice(0, 300))
    assert named(museum.Neighbours(x, y, 5), few) == {"votes": "error"}
    assert named(museum.Neighbours(x, y, 50), few) == {"votes": "error"}
    assert named(Exhibit(net, same, museum.one_hot_answers), few) == {"votes": "error"}
    assert named(Exhibit(net, same, lambda z: z.softmax(1)), few) == {"logits": "error"}


@pytest.mark.parametrize(
    "make", [lambda net: museum.ClockSeeded(net, 11), museum.with_pruning], ids=["clock", "pruned"]
)
def test_what_answers_by_chance_is_judged_over_draws(
    make: Callable[[nn.Module], nn.Module], net: nn.Module, images: tuple[Images, Images]
) -> None:
    scores = validated(make(copy.deepcopy(net)), in_turn(images[1], 20), "quick", "pgd-20")
    assert {check["name"]: check["level"] for check in scores.metadata["checks"]}["randomised"] == "warning"
    assert "EOT over 20 draws" in scores.details[1]


def test_an_error_that_stops_names_the_way_past_it_and_its_price(net: nn.Module, images: tuple[Images, Images]) -> None:
    with pytest.raises(CheckError, match="--checks none judges it as it is: then nothing says whether its figures"):
        validated(Exhibit(net, same, lambda z: z.softmax(1)), in_turn(images[1], 20), "quick")
