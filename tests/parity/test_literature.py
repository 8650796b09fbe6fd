"""Methods of the literature, against a second implementation in plain torch: examples, gradients, statistics, state.

Several steps with an optimiser between, over three epochs: every step begins from the same weights in both, and what the
method itself carries from step to step is each one's own.
"""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from mmard.attacks.pgd import Pgd
from mmard.core.method import Method
from mmard.core.threat import Threat
from mmard.core.views import Models, Views
from mmard.methods import METHODS
from mmard.methods.absld import absld
from mmard.methods.adaiad import adaiad
from mmard.methods.b_mtard import b_mtard
from mmard.methods.dgad import dgad
from mmard.methods.iad import iad, iad_2
from mmard.methods.kd import kd
from mmard.methods.mart import mart
from mmard.methods.mtard import mtard
from mmard.methods.saad import saad, saad_c
from mmard.training.step import make_example, outer_losses

from . import literature as papers

pytestmark = pytest.mark.figures

EPS, EPOCHS, STEPS, CLASSES, BATCH = 0.1, 3, 6, 4, 12
Make = Callable[[], Method]

# name -> the method, and the paper's formulas with the same parameters; published defaults are checked below
CASES: dict[str, tuple[Make, Callable[..., papers.Paper]]] = {
    "mart": (mart, papers.Mart),
    "kd": (kd, papers.Kd),
    "iad": (lambda: iad(begin=1), papers.Iad),
    "iad_2": (lambda: iad_2(begin=1), papers.Iad2),
    "adaiad": (lambda: adaiad(begin=1, tau=30), papers.AdaIad),
    "dgad": (lambda: dgad(beta=2.0), papers.Dgad),
    "mtard": (mtard, papers.Mtard),
    "b_mtard": (lambda: b_mtard(tau_rate=0.3), papers.BMtard),
    "absld": (lambda: absld(rate=0.4), papers.Absld),
    "saad": (saad, papers.Saad),
    "saad_c": (lambda: saad_c(alpha=3, beta=0.5), papers.SaadC),
    "saad_c, Rényi's entropy": (lambda: saad_c(alpha=3, beta=0.5, order=2), papers.SaadRenyi),
    "saad_c, script's weights": (lambda: saad_c(alpha=3, beta=0.5, script_weights=True), papers.SaadScript),
}
METHODS_HERE = {name for name in CASES if name in METHODS}


def net(width: int, seed: int) -> nn.Module:
    """Smooth, with BatchNorm: its statistics tell in which order images came."""
    torch.manual_seed(seed)
    layers = [nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.Tanh(), nn.Flatten(), nn.Linear(16 * width, CLASSES)]
    made = nn.Sequential(*layers)
    with torch.no_grad():
        made[4].weight.mul_(4)
    return made


def teacher(seed: int) -> nn.Module:
    """Frozen, in evaluation mode."""
    return net(5, seed).requires_grad_(False).eval()


def batch(step: int) -> tuple[Tensor, Tensor]:
    """Another one for every step."""
    draw = torch.Generator().manual_seed(100 + step)
    return torch.rand(BATCH, 1, 6, 6, generator=draw), torch.randint(CLASSES, (BATCH,), generator=draw)


def naive_example(paper: papers.Paper, s: nn.Module, t: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Ten sign steps of a quarter of eps; the student in evaluation mode."""
    s.eval()
    noise = 0.001 * torch.randn_like(x) if paper.start == "gaussian" else EPS * (2 * torch.rand_like(x) - 1)
    a = (x + noise).clamp(x - EPS, x + EPS).clamp(0, 1)
    for _ in range(10):
        a = a.detach().requires_grad_()
        (grad,) = torch.autograd.grad(paper.ascend(s, t, x, a, y).sum(), a)
        a = (a.detach() + EPS / 4 * grad.sign()).clamp(x - EPS, x + EPS).clamp(0, 1)
    s.train()
    return a


def compare(method: Method, paper: papers.Paper, steps: int = STEPS) -> dict[str, float]:
    """The worst difference over all steps: of examples in pixels, of gradients and statistics relative to the greatest."""
    s, t, n = net(3, 1).train(), teacher(2), teacher(3)
    descent, worst = torch.optim.SGD(s.parameters(), lr=0.1), {"example": 0.0, "gradient": 0.0, "statistics": 0.0}
    for step in range(steps):
        (x, y), other = batch(step), copy.deepcopy(s)
        models = Models({"student": s, "teacher": t, "natural": n})
        v = Views.of(x, y, torch.arange(BATCH), models, step / steps, EPOCHS)
        torch.manual_seed(step)
        v = make_example(method, v, s, Threat(eps=EPS))
        if isinstance(paper, papers.Absld):
            paper.turn(v.epoch)
        if method.inner:
            torch.manual_seed(step)
            a = naive_example(paper, other, t, x, y)
            worst["example"] = max(worst["example"], (a - v.adv.x).abs().max().item())
        descent.zero_grad()
        torch.stack(list(outer_losses(method, v, s).values())).sum().backward()
        precise = [copy.deepcopy(m).double() for m in (other, t, n)]
        loss = paper.descend(*precise, x.double(), v.adv.x.double(), y, v.epoch, EPOCHS)
        expected = torch.autograd.grad(loss, list(precise[0].parameters()), allow_unused=True)
        for got, want in zip(s.parameters(), expected, strict=True):
            scale = max(g.abs().max().item() for g in expected)
            worst["gradient"] = max(worst["gradient"], (got.grad - want).abs().max().item() / scale)
        for got, want in zip(s.buffers(), precise[0].buffers(), strict=True):
            worst["statistics"] = max(worst["statistics"], (got - want).abs().max().item() / want.abs().max().item())
        descent.step()
    return worst


@pytest.mark.parametrize("name", CASES)
def test_steps_are_the_papers(name: str) -> None:
    """Examples, all gradients, BatchNorm's statistics after every step, and through them whatever state there is."""
    make, paper = CASES[name]
    worst = compare(make(), paper())
    assert worst["example"] < 1e-6
    assert worst["gradient"] < 1e-5
    assert worst["statistics"] < 1e-5


WRONG = [
    ("mart", "constant weight", "gradient"),
    ("mart", "constant S(x)", "gradient"),
    ("iad", "constant S(x)", "gradient"),
    ("iad_2", "constant S(x)", "gradient"),
    ("adaiad", "constant S(x)", "gradient"),
    ("adaiad", "constant T(x')", "example"),
    ("dgad", "no swap", "gradient"),
    ("dgad", "constant S(x)", "gradient"),
    ("saad", "constant label", "example"),
    ("mtard", "weights with gradient", "gradient"),
    ("b_mtard", "weights with gradient", "gradient"),
]


@pytest.mark.parametrize(("name", "mistake", "where"), WRONG)
def test_gradients_flow_and_stop_where_the_papers_say(name: str, mistake: str, where: str) -> None:
    """The comparison above notices a graph that is cut where it should not be, or is not where it should."""
    make, paper = CASES[name]
    assert compare(make(), paper(**{mistake: True}))[where] > 1e-3


MOVES = {
    "mtard": lambda paper: setattr(paper, "natural", 0.5),
    "b_mtard": lambda paper: setattr(paper, "tau_a", 1.0) or setattr(paper, "tau_n", 1.0),
    "absld": lambda paper: paper.tau.update(adv=[1.0] * CLASSES, nat=[1.0] * CLASSES),
}


@pytest.mark.parametrize("name", MOVES)
def test_the_state_matters(name: str) -> None:
    """With a state that never moves the comparison fails: it had moved, and by a visible amount."""
    make, paper = CASES[name]

    class Stuck(paper):  # type: ignore[misc, valid-type]
        def descend(self, *args):  # type: ignore[no-untyped-def]
            MOVES[name](self)
            return super().descend(*args)

    assert compare(make(), Stuck())["gradient"] > 1e-4


def test_published_parameters() -> None:
    """The defaults, as `mmard show` prints them."""
    shown = {name: str(METHODS[name]()) for name in METHODS_HERE}
    assert "0.9·4²·KL(T(x)^4‖S(x)^4) + 0.1·CE" in shown["kd"]
    assert "6·(1−S(x)_y)" in shown["mart"]
    assert "T(x')_y^0.1 from 0.3 on" in shown["iad"]
    assert "T(x')_y^0.1 from 0.2 on" in shown["iad_2"]
    assert "T(x')_y^0.1 from 0.3 on" in shown["adaiad"]
    assert "+ 1·ramp" in shown["saad"]
    assert "0.2·(1−w" in shown["saad_c"]
    starts = {
        n: m.maximizer.start for n, m in ((n, METHODS[n]()) for n in METHODS_HERE) if isinstance(m.maximizer, Pgd)
    }
    assert {n for n, start in starts.items() if start == "uniform"} == {"iad", "iad_2"}
    assert set(METHODS_HERE) - set(starts) == {"kd"}


# ---- state: not moved by the attack, the same however a batch is divided, falling rates ------------------------------


def views(step: int, part: slice = slice(None), steps: int = STEPS) -> Views:
    """Of a part of a batch; the student in evaluation mode, so that nothing but the method sees that there are parts."""
    x, y = batch(step)
    models = Models({"student": net(3, 1).eval(), "teacher": teacher(2), "natural": teacher(3)})
    v = Views.of(x[part], y[part], torch.arange(BATCH)[part], models, step / steps, EPOCHS)
    return v.moved_to((v.nat.x + 0.1).clamp(0, 1))


def state(method: Method) -> list[Tensor]:
    """All that the method carries."""
    return [b.clone() for m in method.modules() for b in m.state_dict().values()]


@pytest.mark.parametrize("name", MOVES)
def test_the_attack_does_not_move_the_state(name: str) -> None:
    method, student = CASES[name][0](), net(3, 1)
    for step in range(3):
        method.outer(views(step))
    before = state(method)
    make_example(method, views(2), student, Threat(eps=EPS))
    assert all(torch.equal(a, b) for a, b in zip(before, state(method), strict=True))
    method.outer(views(3))
    assert not all(torch.equal(a, b) for a, b in zip(before, state(method), strict=True))


@pytest.mark.parametrize("name", MOVES)
def test_a_batch_in_parts_moves_the_state_as_the_whole_one(name: str) -> None:
    whole, divided = CASES[name][0](), CASES[name][0]()
    for step in range(STEPS):
        whole.outer(views(step))
        for start in range(0, BATCH, 4):
            divided.outer(views(step, slice(start, start + 4)))
        for a, b in zip(state(whole), state(divided), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["mtard", "b_mtard", "absld"])
def test_rates_fall_to_a_tenth(name: str) -> None:
    """A drop after epoch 1: the state moves in the second epoch by a tenth of what it would."""
    makers: dict[str, Callable[..., Method]] = {"mtard": mtard, "b_mtard": b_mtard, "absld": absld}
    moved = []
    for drops in ((), (1,)):
        method = makers[name](drops=drops)
        method.outer(views(0, steps=EPOCHS))
        before = state(method)
        method.outer(views(1, steps=EPOCHS))
        which = {"mtard": 0, "b_mtard": 2, "absld": 0}[name]
        moved.append((state(method)[which] - before[which]).abs().max().item())
    assert moved[1] == pytest.approx(moved[0] / 10, rel=1e-3)
    assert moved[0] > 0
