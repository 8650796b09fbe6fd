"""Where gradients flow and where they stop: through which network, into whose weights, and what an attack leaves behind."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mmard.core.method import Method
from mmard.core.objective import Objective, term
from mmard.core.threat import Threat
from mmard.core.views import Views
from mmard.methods import METHODS
from mmard.training.step import make_example
from mmard.utils.errors import MmardError

from . import nets
from .cases import ATTACKED, CASES, Inner, live, soft
from .nets import WIDE

pytestmark = pytest.mark.figures


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
    trainable = t.forward  # as a module it would be refused
    v = make_example(CASES[name].method, nets.views(s, trainable), s, WIDE)
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
    with pytest.raises(MmardError):
        make_example(method, nets.views(s, nets.teacher()), s, WIDE)
    assert states(s) == before


@pytest.mark.parametrize("name", CASES)
def test_teacher_gets_no_gradient(name: str) -> None:
    """A frozen teacher stays frozen and without a gradient through a whole step; the student gets one everywhere."""
    s, t = nets.student(), nets.teacher()
    v = make_example(CASES[name].method, nets.views(s, t), s, WIDE)
    nets.total(CASES[name].method, v, s).backward()
    assert states(t) == ([False], [False] * 4)
    assert all(p.grad is None for p in t.parameters())
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in s.parameters())


@pytest.mark.parametrize("name", ["ard", "rslad", "adaad", "mmard"])
def test_teacher_is_constant_only_because_it_is_frozen(name: str) -> None:
    """No hidden detach: a trainable teacher would get a gradient from the outer loss, so the test above can fail."""
    s, t = nets.student(), nets.teacher().requires_grad_(True)
    trainable = t.forward  # as a module it would be refused
    nets.total(CASES[name].method, nets.moved(s, trainable), s).backward()
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
    ("name", "asked"), [("rslad", [False]), ("adaad", [True] * 10), ("mmard drift/none", [False] + [True] * 10)]
)
def test_where_the_attack_asks_the_teacher(name: str, asked: list[bool]) -> None:
    """RSLAD asks T once, at x, without a graph; AdaAD at every x', with one; MMARD both ways."""
    s, t, wanted = nets.student(), nets.teacher(), []
    t.register_forward_pre_hook(lambda _, inputs: wanted.append(inputs[0].requires_grad))
    make_example(CASES[name].method, nets.views(s, t), s, WIDE)
    assert wanted == asked
