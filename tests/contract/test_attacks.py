"""Every attack against one contract: the closed-form optimum of a linear model, the ball, the pixel range, eps 0."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mmard import MmardError, Pgd, Threat
from mmard.attacks.autoattack import AutoAttack
from mmard.attacks.cw import cw
from mmard.attacks.pgd import untargeted
from mmard.core.method import Attack
from mmard.losses import margin

pytestmark = pytest.mark.figures

STARTS = ("none", "gaussian", "uniform")
ATTACKS: dict[str, Attack] = {
    "fgsm": untargeted(Pgd(steps=1, start="none")),
    **{f"pgd-{start}": untargeted(Pgd(steps=20, start=start)) for start in STARTS},  # type: ignore[arg-type]
    **{f"cw-{start}": cw(Pgd(steps=20, start=start)) for start in STARTS},  # type: ignore[arg-type]
}


class Linear(nn.Module):
    """Two classes; the margin of class 0 is ⟨w, x⟩ + b."""

    def __init__(self, pixels: int) -> None:
        super().__init__()
        self.w = torch.randn(pixels, generator=torch.Generator().manual_seed(0))

    def forward(self, x: Tensor) -> Tensor:
        score = x.flatten(1) @ self.w
        return torch.stack([score, -score], 1) / 2


def drop(x: Tensor, x_adv: Tensor) -> Tensor:
    """How far the margin of class 0 fell."""
    model, y = Linear(x[0].numel()), torch.zeros(len(x), dtype=torch.long)
    return margin(model(x), y) - margin(model(x_adv), y)


@pytest.mark.parametrize("name", ATTACKS)
def test_linf_attacks_reach_the_closed_form_optimum_of_a_linear_model(name: str) -> None:
    x = 0.3 + 0.4 * torch.rand(8, 1, 5, 5)  # far from the pixel range's ends: the optimum is eps·‖w‖₁
    x_adv = ATTACKS[name](Linear(25), x, torch.zeros(8, dtype=torch.long), Threat(eps=0.1))
    optimum = 0.1 * Linear(25).w.abs().sum()
    torch.testing.assert_close(drop(x, x_adv), optimum.expand(8), rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", ATTACKS)
def test_linf_attacks_reach_the_optimum_where_pixels_end(name: str) -> None:
    x = torch.rand(8, 1, 5, 5)  # the optimum moves every pixel as far as the ball and the range let it
    x_adv = ATTACKS[name](Linear(25), x, torch.zeros(8, dtype=torch.long), Threat(eps=0.3))
    w = Linear(25).w
    best = torch.where(w > 0, (x.flatten(1) - 0.3).clamp_min(0), (x.flatten(1) + 0.3).clamp_max(1)).view_as(x)
    torch.testing.assert_close(drop(x, x_adv), drop(x, best), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ATTACKS)
def test_l2_attacks_come_within_a_quarter_of_the_optimum(name: str) -> None:
    x = 0.3 + 0.4 * torch.rand(8, 1, 5, 5)
    x_adv = ATTACKS[name](Linear(25), x, torch.zeros(8, dtype=torch.long), Threat(eps=0.2, norm="l2"))
    optimum = 0.2 * Linear(25).w.norm()
    found = drop(x, x_adv)
    assert (found <= optimum * (1 + 1e-4)).all()
    assert (found * 1.25 >= optimum).all()


@settings(max_examples=25)
@given(
    name=st.sampled_from(sorted(ATTACKS)), eps=st.floats(0.001, 1), norm=st.sampled_from(["linf", "l2"]),
    seed=st.integers(0, 1000), edge=st.booleans(),
)  # fmt: skip
def test_attacks_stay_in_the_ball_and_the_pixel_range(name: str, eps: float, norm: str, seed: int, edge: bool) -> None:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3))
    x = torch.rand(4, 1, 4, 4).round() if edge else torch.rand(4, 1, 4, 4)
    threat = Threat(eps=eps, norm=norm)  # type: ignore[arg-type]
    x_adv = ATTACKS[name](net, x, torch.randint(0, 3, (4,)), threat)
    assert (threat.distance(x_adv, x) <= eps + 1e-5).all()
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    assert not x_adv.requires_grad


@pytest.mark.parametrize("name", [*ATTACKS, "autoattack"])
def test_eps_zero_changes_nothing(name: str) -> None:
    attack = {**ATTACKS, "autoattack": AutoAttack()}[name]
    x = torch.rand(3, 1, 4, 4)
    assert torch.equal(attack(Linear(16), x, torch.zeros(3, dtype=torch.long), Threat(eps=0)), x)


def test_autoattack_on_a_linear_model_fells_just_who_can_be_felled() -> None:
    """Inside the pixel range, class k beats y within L∞ eps just where the margin is below eps·‖w_y − w_k‖₁."""
    draw = torch.Generator().manual_seed(1)
    w, x = torch.randn(4, 16, generator=draw), 0.3 + 0.4 * torch.rand(40, 1, 4, 4, generator=draw)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 4, bias=False))
    model[1].weight.data = w  # type: ignore[union-attr, assignment]
    logits = model(x)
    y = logits.argmax(1)
    gap = logits.gather(1, y[:, None]) - logits
    price = (w[y][:, None] - w[None]).abs().sum(2)
    radius = (gap / price.clamp_min(1e-9)).scatter(1, y[:, None], float("inf")).amin(1).detach()
    eps = radius.median().item()
    x_adv = AutoAttack()(model, x, y, Threat(eps=eps))
    clear = (radius / eps - 1).abs() > 0.02
    assert torch.equal((model(x_adv).argmax(1) == y)[clear], (radius > eps)[clear])
    assert 10 < (radius > eps).sum() < 30


def test_steps_are_a_quarter_of_eps_and_one_step_is_the_whole() -> None:
    threat = Threat(eps=8 / 255)
    assert Pgd(steps=20).step_for(threat) == pytest.approx(2 / 255)
    assert Pgd(steps=1).step_for(threat) == pytest.approx(8 / 255)
    assert str(Pgd(steps=20, step_size=0.003, start="uniform")) == "PGD-20 (step 0.003, start uniform)"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: Pgd(step_size=8 / 255).step_for(Threat(eps=2 / 255)),
            "step_size 0.0314 > eps 0.0078: are the two swapped",
        ),
        (lambda: Pgd(steps=0), "at least 1"),
        (lambda: Pgd(steps=1.5), "a whole number"),  # type: ignore[arg-type],
        (lambda: Pgd(step_size=-1), "not positive"),
        (lambda: Pgd(start="gausian"), "expected 'none', 'gaussian' or 'uniform'"),  # type: ignore[arg-type]
    ],
)
def test_mistakes_are_one_clear_line(make: object, words: str) -> None:
    with pytest.raises(MmardError, match=words):
        make()  # type: ignore[operator]


def test_an_attack_on_a_narrower_range_is_refused_by_autoattack() -> None:
    with pytest.raises(MmardError, match=r"pixels in \[0, 1\]"):
        AutoAttack()(Linear(4), torch.rand(1, 1, 2, 2), torch.zeros(1, dtype=torch.long), Threat(eps=0.1, upper=0.9))
