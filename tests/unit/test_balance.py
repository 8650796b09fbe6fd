"""Gradients of one size in every sample."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mmard import MmardError, Pgd, Threat, term
from mmard.core.objective import Objective, nothing
from mmard.core.views import Models, Views
from mmard.methods import fair, mmard, rslad
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
