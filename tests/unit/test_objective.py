"""Sums of terms: arithmetic, order, parameters, printing, and state in modules."""

import pytest
import torch
from torch import Tensor, nn

from mmard import MmardError, Objective, Views, term
from mmard.core.method import Method
from mmard.core.views import Models

pytestmark = pytest.mark.figures


@term("a")
def one(v: Views) -> Tensor:
    """Ones."""
    return torch.ones(len(v.y))


@term("b^{power}")
def two(v: Views, power: float = 1.0) -> Tensor:
    """Powers of two."""
    return torch.full((len(v.y),), 2.0**power)


VIEWS = Views.of(torch.rand(3, 1, 2, 2), torch.zeros(3, dtype=torch.long), torch.arange(3), Models({}))


def test_sums_weights_and_signs() -> None:
    objective = 0.5 * one + 3 * two - one
    assert objective.total(VIEWS).tolist() == [5.5] * 3
    assert list(objective(VIEWS)) == ["one", "two"]  # the same term twice is one entry
    assert str(objective) == "0.5·a + 3·b^1 − a"
    assert not (0 * Objective())


def test_a_formula_that_begins_with_a_minus_stands_in_brackets() -> None:
    minus = term("−log c")(lambda v: torch.ones(len(v.y)))
    assert [str(minus), str(minus + one), str(one + minus), str(one - 2 * minus), str(0.5 * minus)] == [
        "−log c", "−log c + a", "a + (−log c)", "a − 2·(−log c)", "0.5·(−log c)",
    ]  # fmt: skip


def test_parameters_are_bound_and_shown() -> None:
    hot = two.given(power=3.0)
    assert hot.total(VIEWS).tolist() == [8.0] * 3
    assert str(hot) == "b^3"
    with pytest.raises(MmardError, match="takes tau"):
        one.given(tau=1)


def test_a_mean_over_the_batch_is_refused() -> None:
    @term
    def averaged(v: Views) -> Tensor:
        return torch.ones(3).mean()

    with pytest.raises(MmardError, match=r"'averaged' gave shape \(\), expected one number per sample \(3,\)"):
        averaged(VIEWS)


def test_state_is_a_method_of_a_module() -> None:
    class Balance(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(()))
            self.value = term("w")(self.weigh)

        def weigh(self, v: Views) -> Tensor:
            self.seen += 1
            return torch.ones(len(v.y)) * self.seen

    module = Balance()
    method = Method(outer=module.value + 2 * module.value + one)
    assert list(method.modules()) == [module]
    assert method.outer.total(VIEWS).tolist() == [1 + 2 * 2 + 1] * 3
