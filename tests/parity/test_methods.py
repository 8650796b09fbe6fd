"""Every method against its formulas: the example its attack makes, its loss, and the gradient of its loss."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from mmard.attacks.pgd import Pgd
from mmard.core.method import Method
from mmard.core.threat import Threat
from mmard.core.views import Views
from mmard.methods import METHODS
from mmard.training.step import make_example

from . import nets, test_literature
from .cases import ATTACKED, CASES, Case
from .naive import Seen
from .nets import WIDE
from .test_composed import COMPOSED

pytestmark = pytest.mark.figures

PUBLISHED = Threat(eps=8 / 255)
SEED = 7


def test_every_method_is_here() -> None:
    """A method added to the list without its formulas fails here."""
    assert {case.of for case in CASES.values()} | set(test_literature.METHODS_HERE) | COMPOSED == set(METHODS)


# ---- the inner process ------------------------------------------------------------------------------------------


def naive_pgd(case: Case, start: Tensor, eps: float, step: float) -> Tensor:
    """Ten sign steps on the objective written by hand: step, into the ball, into [0, 1]; the last iterate."""
    assert case.inner is not None
    s, t, (x, y) = nets.student(), nets.teacher(), nets.batch()
    x_adv = start
    for _ in range(10):
        x_adv = x_adv.clone().requires_grad_()
        (grad,) = torch.autograd.grad(case.inner(s, t, x, x_adv, y).sum(), x_adv)
        stepped = x_adv.detach().numpy() + step * np.sign(grad.numpy())
        in_ball = np.minimum(np.maximum(stepped, x.numpy() - eps), x.numpy() + eps)
        x_adv = torch.tensor(np.minimum(np.maximum(in_ball, 0.0), 1.0))
    return x_adv


def naive_start(kind: str, x: Tensor, eps: float) -> Tensor:
    """x + 0.001·N(0, 1), or x + Unif[−ε, ε]; clamped."""
    torch.manual_seed(SEED)
    noise = 0.001 * torch.randn_like(x) if kind == "gaussian" else eps * (2 * torch.rand_like(x) - 1)
    return (x + noise).clamp(0, 1)


def example(method: Method, threat: Threat) -> Tensor:
    """The example that mmard makes."""
    s = nets.student()
    torch.manual_seed(SEED)
    return make_example(method, nets.views(s, nets.teacher()), s, threat).adv.x


@pytest.mark.parametrize("name", [name for name, case in ATTACKED.items() if not case.flat])
def test_example_from_x_itself(name: str) -> None:
    """PGD-10 from x in a wide ball, step a quarter of the radius. (Where the gradient is 0 at x, see the next test.)"""
    x = nets.batch()[0]
    got = example(replace(CASES[name].method, maximizer=Pgd(steps=10, start="none")), WIDE)
    expected = naive_pgd(CASES[name], x, 0.4, 0.1)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)
    assert (expected - x).abs().max() > 0.39


@pytest.mark.parametrize("threat", [PUBLISHED, WIDE], ids=["8/255", "wide"])
@pytest.mark.parametrize("name", ATTACKED)
def test_example_of_the_method_as_it_stands(name: str, threat: Threat) -> None:
    """The method's own maximizer with the same random numbers: its start, ten steps of 2/255 where ε is 8/255."""
    case, x = CASES[name], nets.batch()[0]
    start = naive_start(case.start, x, threat.eps)
    expected = naive_pgd(case, start, threat.eps, threat.eps / 4)
    torch.testing.assert_close(example(case.method, threat), expected, rtol=0, atol=1e-5)
    assert (expected - start).abs().max() > threat.eps / 2


def test_examples_tell_the_objectives_apart() -> None:
    """The parity above has force: methods with different objectives make different examples of this batch."""
    names = ["ard", "trades", "rslad", "adaad", *(f"mmard {b}/none" for b in ("drift", "entropy", "label", "margin"))]
    gaussian = Pgd(steps=10, start="gaussian")
    made = [example(replace(CASES[name].method, maximizer=gaussian), WIDE) for name in names]
    alike = [
        (names[i], names[j]) for i in range(len(made)) for j in range(i) if torch.allclose(made[i], made[j], atol=1e-3)
    ]
    assert not alike


def test_without_an_inner_objective_the_images_stay_natural() -> None:
    """Natural training: both points are the natural one."""
    s = nets.student()
    v = nets.views(s, nets.teacher())
    assert make_example(METHODS["standard"](), v, s, WIDE).adv is v.nat


# ---- the outer process ------------------------------------------------------------------------------------------


def seen(v: Views, flat: np.ndarray) -> Seen:
    """What the student with these weights, and the teacher, say at the two points."""
    t = nets.teacher()
    s_nat, s_adv = (nets.forward(flat, point.x.numpy()) for point in (v.nat, v.adv))
    return Seen.of(s_nat, s_adv, t(v.nat.x), t(v.adv.x), v.y)


def central_differences(case: Case, v: Views, flat: np.ndarray, width: float = 1e-5) -> np.ndarray:
    """Slope of the naive loss along each weight."""
    slopes = []
    for along in width * np.eye(len(flat)):
        slopes.append((case.outer(seen(v, flat + along)) - case.outer(seen(v, flat - along))) / (2 * width))
    return np.array(slopes)


@pytest.mark.parametrize("name", CASES)
def test_outer_loss_is_its_formula(name: str) -> None:
    """Sum over classes, mean over the batch, weights as written: equal to 1e-9."""
    s = nets.student()
    v = nets.moved(s, nets.teacher())
    expected = CASES[name].outer(seen(v, nets.weights(s)))
    assert nets.total(CASES[name].method, v, s).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", CASES)
def test_gradient_is_the_slope_of_the_formula(name: str) -> None:
    """Autograd through the loss equals finite differences of the naive loss, so nothing is detached that should not be."""
    s = nets.student()
    v = nets.moved(s, nets.teacher())
    nets.total(CASES[name].method, v, s).backward()
    got = np.concatenate([p.grad.numpy().ravel() for p in s.parameters()])
    expected = central_differences(CASES[name], v, nets.weights(s))
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-7 * np.abs(expected).max())
