"""Gradients that are held between some steps of an attack."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mmard import MmardError, Pgd, Threat, term
from mmard.core.objective import Objective
from mmard.core.views import Models, Views
from mmard.methods import rslad
from mmard.terms import drift
from mmard.terms.held_gradient import reuse_gradient
from mmard.training.step import make_example

pytestmark = pytest.mark.figures

WEIGHTS = torch.linspace(-1, 1, 12)


@term("⟨w, x'⟩")
def slope(v: Views) -> Tensor:
    """Linear in x': holding its gradient changes nothing."""
    return (v.adv.x.flatten(1) * WEIGHTS).sum(1)


@term("‖x' − 0.6‖²")
def bowl(v: Views) -> Tensor:
    """Its gradient changes its sign on the way."""
    return -(v.adv.x.flatten(1) - 0.6).square().sum(1)


def example(inner: Objective, steps: int = 6) -> Tensor:
    """x' of an attack in long steps from x = 0.5."""
    x = torch.full((3, 3, 2, 2), 0.5)
    method = replace(rslad(), inner=inner, maximizer=Pgd(steps=steps, step_size=0.08, start="none"))
    views = Views.of(x, torch.zeros(3, dtype=torch.long), torch.arange(3), Models({}))
    return make_example(method, views, torch.nn.Identity(), Threat(eps=0.3)).adv.x


def test_a_linear_term_is_the_same_however_long_it_is_held() -> None:
    exact = example(slope)
    assert not torch.equal(exact, torch.full_like(exact, 0.5))
    for every in (1, 2, 6):
        assert torch.equal(example(reuse_gradient(slope, every)), exact)


def test_a_held_gradient_is_that_of_the_last_look() -> None:
    # exact: 0.58, 0.66, 0.58, 0.66 ...; looked at in steps 1, 4: +, +, + (to 0.74), then −, −, − (to 0.5); once: 0.8 and stays
    assert torch.allclose(example(bowl), torch.tensor(0.66))
    assert torch.allclose(example(reuse_gradient(bowl, 3)), torch.tensor(0.5))
    assert torch.allclose(example(reuse_gradient(bowl, 6)), torch.tensor(0.8))


def test_it_stands_in_a_sum_with_its_weight_and_says_what_it_is() -> None:
    both = slope + 2 * reuse_gradient(bowl, 3)
    assert str(both) == "⟨w, x'⟩ + 2·‖x' − 0.6‖² (∇ every 3 steps)"
    assert reuse_gradient(drift, 1) is drift


@pytest.mark.parametrize("every", [0, -1, 1.5])
def test_a_wrong_number_is_one_line(every: int) -> None:
    with pytest.raises(MmardError, match="expected a number of attack steps"):
        reuse_gradient(drift, every)
