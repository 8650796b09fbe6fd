"""Every method against its formulas: the example its attack makes, its loss, its gradients, and where these stop."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from mmard.attacks.pgd import Pgd
from mmard.core.method import Method
from mmard.core.objective import Objective, term
from mmard.core.threat import Threat
from mmard.core.views import Views
from mmard.methods import METHODS
from mmard.training.step import make_example, outer_losses

from . import nets
from .cases import ATTACKED, CASES, Case, Inner, live, soft
from .naive import Seen

WIDE = Threat(eps=0.4)  # so wide that gradients change sign on the way
PUBLISHED = Threat(eps=8 / 255)
SEED = 7


def test_every_method_is_here() -> None:
    """A method added to the list without its formulas fails here."""
    assert {case.of for case in CASES.values()} == set(METHODS)


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


def total(method: Method, v: Views, s: nets.Tiny) -> Tensor:
    """The loss that the trainer descends."""
    return torch.stack(list(outer_losses(method, v, s).values())).sum()


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
    assert total(CASES[name].method, v, s).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", CASES)
def test_gradient_is_the_slope_of_the_formula(name: str) -> None:
    """Autograd through the loss equals finite differences of the naive loss, so nothing is detached that should not be."""
    s = nets.student()
    v = nets.moved(s, nets.teacher())
    total(CASES[name].method, v, s).backward()
    got = np.concatenate([p.grad.numpy().ravel() for p in s.parameters()])
    expected = central_differences(CASES[name], v, nets.weights(s))
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-7 * np.abs(expected).max())


# ---- where gradients flow and where they stop ---------------------------------------------------------------------


def states(net: torch.nn.Module) -> tuple[list[bool], list[bool]]:
    """Mode of every module, and what every weight asks for."""
    return [m.training for m in net.modules()], [p.requires_grad for p in net.parameters()]


class Nested(nets.Tiny):
    """A student one of whose modules stays in evaluation mode and one of whose weights is frozen."""

    def __init__(self) -> None:
        super().__init__(hidden=2, seed=1)
        self.quiet = torch.nn.Dropout(0.5).eval()
        self.b1.requires_grad_(False)


@pytest.mark.parametrize("name", ATTACKED)
def test_attack_leaves_no_trace_on_the_networks(name: str) -> None:
    """No weight of S, nor of T even if it were trainable, gets a gradient; S gets its modes and requests back."""
    s, t = Nested(), nets.teacher().requires_grad_(True)
    before, during = states(s), []
    s.register_forward_pre_hook(lambda net, _: during.append(states(net)))
    v = make_example(CASES[name].method, nets.views(s, t), s, WIDE)
    assert all(p.grad is None for p in [*s.parameters(), *t.parameters()])
    assert len(during) >= 10
    assert not any(flag for modes, asked in during for flag in (*modes, *asked))
    assert states(s) == before
    assert states(t) == ([False], [True] * 4)
    assert not v.adv.x.requires_grad
    assert v.adv.x.is_leaf


@term("fails")
def fails(v: Views) -> Tensor:
    """An inner term that breaks once x' has left x: in the middle of the attack."""
    if (v.adv.x - v.nat.x).abs().max() > WIDE.eps / 2:
        raise ZeroDivisionError
    return v.adv.student.sum(1)


def test_attack_that_fails_gives_the_student_back() -> None:
    """Modes and requests are as before when the inner objective raises."""
    s = Nested()
    before = states(s)
    method = replace(METHODS["rslad"](), inner=METHODS["rslad"]().inner + fails)
    with pytest.raises(ZeroDivisionError):
        make_example(method, nets.views(s, nets.teacher()), s, WIDE)
    assert states(s) == before


@pytest.mark.parametrize("name", CASES)
def test_teacher_gets_no_gradient(name: str) -> None:
    """A frozen teacher stays frozen and without a gradient through a whole step; the student gets one everywhere."""
    s, t = nets.student(), nets.teacher()
    v = make_example(CASES[name].method, nets.views(s, t), s, WIDE)
    total(CASES[name].method, v, s).backward()
    assert states(t) == ([False], [False] * 4)
    assert all(p.grad is None for p in t.parameters())
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in s.parameters())


@pytest.mark.parametrize("name", ["ard", "rslad", "adaad", "mmard"])
def test_teacher_is_constant_only_because_it_is_frozen(name: str) -> None:
    """No hidden detach: a trainable teacher would get a gradient from the outer loss, so the test above can fail."""
    s, t = nets.student(), nets.teacher().requires_grad_(True)
    total(CASES[name].method, nets.moved(s, t), s).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in t.parameters())


def slope_in_the_attack(inner: Objective) -> Tensor:
    """Gradient of mmard's inner objective at a given x', as a maximizer gets it."""
    s, found = nets.student(), []
    v = nets.moved(s, nets.teacher())

    def look(loss: object, x: Tensor, threat: Threat) -> Tensor:
        at = v.adv.x.clone().requires_grad_()
        found.extend(torch.autograd.grad(loss(at).sum(), at))  # type: ignore[operator]
        return x

    make_example(Method(outer=inner, inner=inner, maximizer=look), v, s, WIDE)
    return found[0]


def slope(inner: Inner, teacher_is_constant: bool = False) -> Tensor:
    """The same of the objective written by hand; with T(x') cut off from x' where it is taken as constant."""
    s, t = nets.student(), nets.teacher()
    v = nets.moved(s, t)
    said = (lambda x: t(x).detach()) if teacher_is_constant else t
    at = v.adv.x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(inner(s, said, v.nat.x, at, v.y).sum(), at)
    return grad


def test_attack_of_rslad_takes_the_teacher_as_constant() -> None:
    """RSLAD: the gradient is that with T cut off, and is not that of a live teacher."""
    got = slope_in_the_attack(METHODS["rslad"]().inner)
    torch.testing.assert_close(got, slope(soft, teacher_is_constant=True), rtol=1e-9, atol=1e-12)
    assert (got - slope(live)).abs().max() > 1e-2


@pytest.mark.parametrize("name", ["adaad", *(f"mmard {b}/none" for b in ("drift", "entropy", "label", "margin"))])
def test_gradient_flows_through_both_networks(name: str) -> None:
    """AdaAD and every boundary: the gradient goes through the live T(x'), and differs from that with T cut off."""
    got, inner = slope_in_the_attack(CASES[name].method.inner), CASES[name].inner
    assert inner is not None
    torch.testing.assert_close(got, slope(inner), rtol=1e-9, atol=1e-12)
    assert (got - slope(inner, teacher_is_constant=True)).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("name", "asked"), [("rslad", [False]), ("adaad", [True] * 10), ("mmard", [False] + [True] * 10)]
)
def test_where_the_attack_asks_the_teacher(name: str, asked: list[bool]) -> None:
    """RSLAD asks T once, at x, without a graph; AdaAD at every x', with one; MMARD both ways."""
    s, t, wanted = nets.student(), nets.teacher(), []
    t.register_forward_pre_hook(lambda _, inputs: wanted.append(inputs[0].requires_grad))
    make_example(METHODS[name](), nets.views(s, t), s, WIDE)
    assert wanted == asked
