"""The minimal attack against distances known in closed form, and its projection against brute force."""

import pytest
import torch
from torch import Tensor, nn

from mmard import MmardError, Threat
from mmard.attacks.minimal import Minimal, onto_hyperplane
from mmard.losses import margin

pytestmark = pytest.mark.figures


def linear(classes: int = 5, pixels: int = 25, seed: int = 0, scale: float = 1.0) -> nn.Module:
    """K linear logits, nearly equal at grey."""
    draw = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(pixels, classes))
    model[1].weight.data = scale * torch.randn(classes, pixels, generator=draw)  # type: ignore[union-attr, assignment]
    grey = 0.5 * model[1].weight.sum(1)  # type: ignore[union-attr, operator]
    model[1].bias.data = 0.3 * torch.randn(classes, generator=draw) - grey  # type: ignore[union-attr, assignment, operator]
    return model.requires_grad_(False)


def known(model: nn.Module, x: Tensor, own: Tensor, norm: str) -> Tensor:
    """min over k of (t_c − t_k) / ‖w_c − w_k‖ in the dual norm: where no pixel meets the end of its range."""
    w, logits = model[1].weight, model(x)  # type: ignore[index]
    apart = w[own][:, None] - w[None]
    dual = apart.abs().sum(2) if norm == "linf" else apart.norm(dim=2)
    gap = logits.gather(1, own[:, None]) - logits
    return (gap / dual.clamp_min(1e-9)).scatter(1, own[:, None], float("inf")).amin(1)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("classes", [2, 5])
def test_the_distance_of_a_linear_model_is_found_within_one_percent(norm: str, classes: int) -> None:
    model, x = linear(classes), 0.4 + 0.2 * torch.rand(20, 1, 5, 5, generator=torch.Generator().manual_seed(1))
    own = model(x).argmax(1)
    truth = known(model, x, own, norm)
    inside = truth < 0.3
    assert inside.sum() > 5
    points, distance = Minimal(norm=norm)(model, x, own)  # type: ignore[arg-type]
    torch.testing.assert_close(distance[inside], truth[inside], rtol=0.01, atol=0)
    assert (margin(model(points), own) <= 1e-5).all()
    torch.testing.assert_close(Threat(eps=0, norm=norm).distance(points, x), distance)  # type: ignore[arg-type]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_pixel_range_is_respected_and_lengthens_the_way(norm: str) -> None:
    """Images of black and white pixels: half of them cannot move the way they should."""
    model, x = linear(3), torch.rand(30, 1, 5, 5, generator=torch.Generator().manual_seed(2)).round()
    own = model(x).argmax(1)
    points, distance = Minimal(norm=norm)(model, x, own)  # type: ignore[arg-type]
    assert points.min() >= 0
    assert points.max() <= 1
    assert (distance >= known(model, x, own, norm) * (1 - 1e-4)).all()
    slope = (model[1].weight[own][:, None] - model[1].weight[None]).view(30, 3, *x.shape[1:])  # type: ignore[index]
    best = torch.full((30,), float("inf"))
    for k in range(3):
        gap = (model(x).gather(1, own[:, None]) - model(x))[:, k]
        z = onto_hyperplane(x, slope[:, k], gap, norm)  # type: ignore[arg-type]
        reached = (gap + (slope[:, k] * (z - x)).flatten(1).sum(1)).abs() < 1e-4
        length = Threat(eps=0, norm=norm).distance(z, x)  # type: ignore[arg-type]
        best = torch.where(reached & (own != k) & (length < best), length, best)
    assert best.isfinite().all()
    torch.testing.assert_close(distance, best, rtol=0.01, atol=0)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_no_point_of_the_hyperplane_in_the_box_is_nearer(norm: str) -> None:
    """Against many random points of the box, pulled onto the hyperplane along the way to the one found."""
    torch.manual_seed(0)
    x, slope = torch.rand(6, 1, 2, 2), torch.randn(6, 1, 2, 2)
    gap = 0.5 * slope.abs().flatten(1).sum(1) * torch.tensor([1, -1, 1, -1, 0.1, -0.1])
    z = onto_hyperplane(x, slope, gap, norm)  # type: ignore[arg-type]
    value = gap + (slope * (z - x)).flatten(1).sum(1)
    reached = value.abs() < 1e-5
    assert reached.sum() >= 2
    corner = torch.where((gap.sign()[:, None] * slope.flatten(1)) > 0, 0.0, 1.0).view_as(x)
    torch.testing.assert_close(z[~reached], corner[~reached])  # out of reach: as near as the box lets
    length = Threat(eps=0, norm=norm).distance(z, x)  # type: ignore[arg-type]
    for _ in range(2000):
        other = torch.rand_like(x)
        far = gap + (slope * (other - x)).flatten(1).sum(1)
        beyond = far.sign() != gap.sign()  # from x, the way to it crosses the hyperplane
        on_plane = x + (other - x) * (gap / (gap - far)).view(-1, 1, 1, 1)
        nearer = Threat(eps=0, norm=norm).distance(on_plane, x) < length - 1e-5  # type: ignore[arg-type]
        assert not (nearer & beyond & reached).any()


def test_who_has_crossed_is_at_distance_0_and_who_cannot_cross_at_infinity() -> None:
    model, x = linear(), torch.rand(4, 1, 5, 5)
    own = model(x).argmax(1)
    points, distance = Minimal(norm="linf")(model, x, (own + 1) % 5)
    assert distance.tolist() == [0] * 4
    assert torch.equal(points, x)
    sure = linear(scale=0.0)  # the biases alone decide
    _, distance = Minimal(norm="l2")(sure, x, sure(x).argmax(1))
    assert distance.isinf().all()


def test_a_curved_boundary_is_found_from_inside() -> None:
    """Class 0 inside a ball of radius 0.3 around grey, class 1 outside: the L2 distance is 0.3 − ‖x − grey‖."""

    def ball(x: Tensor) -> Tensor:
        r = (x - 0.5).flatten(1).norm(dim=1)
        return torch.stack([0.3 - r, r - 0.3], 1)

    torch.manual_seed(0)
    x = 0.5 + 0.02 * torch.randn(10, 1, 4, 4)
    own = torch.zeros(10, dtype=torch.long)
    _, distance = Minimal(norm="l2")(ball, x, own)
    torch.testing.assert_close(distance, 0.3 - (x - 0.5).flatten(1).norm(dim=1), rtol=0.01, atol=0)


def test_memory_can_be_bounded_without_changing_much() -> None:
    model, x = linear(), 0.4 + 0.2 * torch.rand(7, 1, 5, 5)
    own = model(x).argmax(1)
    whole, parts = (Minimal(norm="linf", restarts=0, at_once=n)(model, x, own)[1] for n in (1000, 2))
    torch.testing.assert_close(whole, parts)
    with pytest.raises(MmardError, match="at least 1"):
        Minimal(norm="linf", steps=0)
