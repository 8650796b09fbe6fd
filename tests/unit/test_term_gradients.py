"""Gradients of terms in an attack: of one size in every sample, and held between some steps."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mmard import MmardError, Pgd, Threat, term
from mmard.core.objective import Objective, nothing
from mmard.core.views import Models, Views
from mmard.methods import fair, mmard, rslad
from mmard.terms import drift
from mmard.terms.held_gradient import reuse_gradient
from mmard.terms.normalised_gradient import normalise_gradient
from mmard.training.step import make_example

pytestmark = pytest.mark.figures


FIRST = torch.tensor([[3.0, -1.0, 2.0, -2.0], [0.3, 0.1, -0.1, 0.1], [0.0, 0.0, 0.0, 0.0]])  # one row a sample
SECOND = torch.tensor([[-10.0, -40.0, -70.0, 80.0], [9.0, -3.0, 0.0, 0.0], [1e-9, -1e-9, 1e-9, -1e-9]])


@term("⟨a, x'⟩")
def first(v: Views) -> Tensor:
    """Linear, of another size in each sample."""
    return (v.adv.x.flatten(1) * FIRST).sum(1)


@term("⟨b, x'⟩")
def second(v: Views) -> Tensor:
    """Linear too."""
    return (v.adv.x.flatten(1) * SECOND).sum(1)


def moved(inner: Objective) -> Tensor:
    """The direction of one step from x = 0.5, (B, 4)."""
    x = torch.full((3, 1, 2, 2), 0.5)
    method = replace(rslad(), inner=inner, maximizer=Pgd(steps=1, start="none"))
    views = Views.of(x, torch.zeros(3, dtype=torch.long), torch.arange(3), Models({}))
    return (make_example(method, views, torch.nn.Identity(), Threat(eps=0.1)).adv.x - x).flatten(1) / 0.1


@pytest.mark.parametrize("beta", [0.25, 0.8, 3.0])
def test_the_weight_is_the_ratio_of_the_gradients_sizes_in_each_sample(beta: float) -> None:
    level = [w / w.abs().mean(1, keepdim=True).clamp_min(1e-30) for w in (FIRST, SECOND)]
    expected = (level[0] + beta * level[1]).sign()
    torch.testing.assert_close(moved(normalise_gradient(first) + beta * normalise_gradient(second)), expected)
    assert not torch.equal(moved(first + beta * second), expected)  # unbalanced, the second drowns the first


def test_alone_it_changes_no_example() -> None:
    torch.testing.assert_close(moved(normalise_gradient(first + 2 * second)), moved(first + 2 * second))
    assert normalise_gradient(nothing) is nothing


def test_mmard_says_what_it_balances() -> None:
    inner = str(mmard(balance=True, beta=0.25, inner="drift", every=5).inner)
    assert inner == "⟨∇(KL(T(x)‖S(x')))/|∇|, x'⟩ + 0.25·⟨∇(KL(T(x)‖T(x')) (∇ every 5 steps))/|∇|, x'⟩"
    with pytest.raises(MmardError, match="the inner term's, and that is none"):
        mmard(balance=True, inner="none")


def test_the_state_of_a_balanced_term_is_the_methods() -> None:
    """Counts of Fair-ARD live in its inner process: the trainer has to find them."""
    plain, level = fair(rslad()), mmard(fair(rslad()), balance=True, inner="drift", outer="none")
    assert [type(m) for m in level.modules()] == [type(m) for m in plain.modules()] != []


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
