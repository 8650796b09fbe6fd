"""The ball: projection, steepest direction, random points, and the mistakes people make with eps."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmard import MmardError, Threat
from mmard.core.threat import in_255ths

pytestmark = pytest.mark.figures


@given(eps=st.floats(0, 1), norm=st.sampled_from(["linf", "l2"]), seed=st.integers(0, 99), far=st.floats(0.01, 10))
def test_projection_lands_in_the_ball_and_the_pixel_range_and_stays(
    eps: float, norm: str, seed: int, far: float
) -> None:
    torch.manual_seed(seed)
    threat = Threat(eps=eps, norm=norm)  # type: ignore[arg-type]
    x = torch.rand(4, 2, 3, 3)
    inside = threat.project(x + far * torch.randn_like(x), x)
    assert (threat.distance(inside, x) <= eps + 1e-5).all()
    assert inside.min() >= 0
    assert inside.max() <= 1
    torch.testing.assert_close(threat.project(inside, x), inside)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_steepest_is_the_best_unit_step(norm: str) -> None:
    threat, grad = Threat(eps=0.1, norm=norm), torch.randn(5, 1, 4, 4)  # type: ignore[arg-type]
    best = (threat.steepest(grad) * grad).flatten(1).sum(1)
    other = torch.randn(200, 1, 4, 4)
    other = other / threat.distance(other, torch.zeros_like(other)).view(-1, 1, 1, 1)
    gains = torch.einsum("bchw,nchw->bn", grad, other)
    assert (gains <= best[:, None] + 1e-5).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_uniform_points_fill_the_ball(norm: str) -> None:
    threat, x = Threat(eps=0.2, norm=norm), torch.full((2000, 1, 2, 2), 0.5)  # type: ignore[arg-type]
    distance = threat.distance(threat.uniform(x), x)
    assert distance.max() <= 0.2 + 1e-6
    dimension = 4  # P(distance < r·eps) = r^d in both norms
    for r in (0.5, 0.8):
        assert (distance < r * 0.2).float().mean().item() == pytest.approx(r**dimension, abs=0.04)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"eps": 8}, "is it in 255ths? then write 8/255"),
        ({"eps": -0.1}, "no radius"),
        ({"eps": 0.1, "norm": "l1"}, "expected 'linf' or 'l2'"),
        ({"eps": float("nan")}, "no radius"),
        ({"eps": "8/255"}, "expected a number such as 8/255"),
    ],
)
def test_mistakes_are_one_clear_line(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(MmardError, match=words.replace("?", r"\?")):
        Threat(**arguments)  # type: ignore[arg-type]


def test_radii_print_as_people_write_them() -> None:
    assert in_255ths(8 / 255) == "8/255"
    assert in_255ths(0.15) == "0.15"
    assert str(Threat(eps=8 / 255)) == "L∞ 8/255"
