"""examples/robust_target.py at its ends is RSLAD, ARD and AdaAD themselves."""

from pathlib import Path

import pytest
import torch

from mmard.api.registry import build_method
from mmard.core.views import Models, Views
from mmard.methods import METHODS
from mmard.utils.trust import Trust

pytestmark = pytest.mark.figures

FILE = Path(__file__).parents[2] / "examples/robust_target.py"
MINE = Trust(everything=True)


@pytest.mark.parametrize(("base", "share"), [("rslad", 0.0), ("ard", 0.0), ("adaad", 1.0)])
def test_its_ends_are_the_published_methods(base: str, share: float) -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(12, 5, dtype=torch.double), torch.randn(12, 5, dtype=torch.double)
    models = Models({"student": lambda x: x.flatten(1) @ student, "teacher": lambda x: x.flatten(1) @ teacher})
    x, x_adv = torch.rand(2, 4, 3, 2, 2, dtype=torch.double)
    views = Views.of(x, torch.arange(4), torch.arange(4), models).moved_to(x_adv)
    found, other = (
        build_method({"name": f"{FILE}:build", "of": base, "share": s}, Trust(everything=True)).outer.total(views)
        for s in (share, 0.5)
    )
    torch.testing.assert_close(found, METHODS[base]().outer.total(views))
    assert not torch.allclose(found, other, rtol=1e-3)
