"""Methods with companions or state, and those that wrap others, against their formulas: x' and the gradients of a whole step.

The step is the trainer's own (`Update`), in float32; the formulas are written once more in float64, from the papers.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import Tensor, nn

from mmard.core.method import Method
from mmard.core.threat import Threat
from mmard.core.views import Models, Views
from mmard.methods import METHODS
from mmard.methods.adr import adr, rectified
from mmard.methods.ard import ard
from mmard.methods.awp import awp
from mmard.methods.ciard import PushLoss, ciard
from mmard.methods.fair import fair
from mmard.methods.igdm import igdm
from mmard.methods.mmard import mmard
from mmard.methods.mtard import mtard
from mmard.methods.peeraid import peeraid
from mmard.methods.pgd_at import pgd_at
from mmard.methods.rebat import rebat
from mmard.methods.rpat import rpat
from mmard.methods.rslad import rslad
from mmard.methods.trades import trades
from mmard.methods.waypoints import waypoints
from mmard.training.companions import TrainedCompanion
from mmard.training.engine import Engine
from mmard.training.schedule import Plan
from mmard.training.update import Update
from mmard.utils.errors import MmardError

from . import nets
from .cases import ce, kl, p

pytestmark = pytest.mark.figures

EPS = 0.2
COMPOSED = {
    "peeraid",
    "ciard",
    "igdm",
    "fair",
    "awp",
    "adr",
    "rebat",
    "rpat",
    "waypoints",
    "ibd",  # in test_golden
}  # what stands here and not in `cases`
Net = Callable[[Tensor], Tensor]


def rounded(net: nn.Module) -> nn.Module:
    """The same weights, as float32 has them, in float64."""
    return net.float().double()


def networks() -> dict[str, nn.Module]:
    """Student, two teachers and a peer."""
    made = {"student": nets.Tiny(2, 1), "teacher": nets.Tiny(6, 2), "natural": nets.Tiny(5, 5), "peer": nets.Tiny(3, 6)}
    return {name: rounded(net) for name, net in made.items()}


def images() -> tuple[Tensor, Tensor]:
    """A batch as float32 has it."""
    x, y = nets.batch()
    return x.float().double(), y


@dataclass
class Step:
    """The trainer's step in float32 with a learning rate of 0, so that gradients stay to be looked at."""

    method: Method
    epochs: int = 10
    made: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        own = {name: net.float() for name, net in networks().items()}
        maximizer = self.method.maximizer
        assert maximizer is not None

        def keeping(loss: Callable[[Tensor], Tensor], x: Tensor, threat: Threat) -> Tensor:
            self.made.append(maximizer(loss, x, threat))
            return self.made[-1]

        self.update = Update(
            method=replace(self.method, maximizer=keeping),
            threat=Threat(eps=EPS),
            student=own.pop("student").train(),
            teachers=own,
            plan=Plan(lr=0.0, epochs=self.epochs, weight_decay=0.0, batch_size=nets.BATCH),
            engine=Engine(accelerator="cpu"),
        )
        self.update.companions = [_with_lr_0(companion) for companion in self.update.companions]

    def __call__(self, progress: float, seed: int = 0) -> Tensor:
        """x' of one step."""
        x, y = images()
        torch.manual_seed(seed)
        self.update(x.float(), y, torch.arange(len(y)), progress)
        return self.made[-1].double()

    def gradient(self, name: str = "student") -> list[Tensor]:
        """Of this network's weights after the step."""
        net = {c.name: c.net for c in self.update.companions}.get(name, self.update.student)
        return [w.grad.double() for w in net.parameters() if w.grad is not None]


def _with_lr_0(companion: object) -> object:
    if isinstance(companion, TrainedCompanion):
        companion.plan = companion.plan.model_copy(update={"lr": 0.0, "weight_decay": 0.0})
    return companion


def pgd(
    inner: Callable[[Tensor], Tensor], start: str, seed: int = 0, watch: Callable[[Tensor], None] | None = None
) -> Tensor:
    """Ten sign steps of a quarter of the radius, by hand; ``watch`` sees every iterate at which a gradient is taken."""
    x, _ = images()
    torch.manual_seed(seed)
    noise = 0.001 * torch.randn(x.shape) if start == "gaussian" else EPS * (2 * torch.rand(x.shape) - 1)
    at = (x + noise.double()).clamp(x - EPS, x + EPS).clamp(0, 1)
    for _ in range(10):
        at.requires_grad_()
        if watch is not None:
            watch(at.detach())
        (slope,) = torch.autograd.grad(inner(at).sum(), at)
        at = (at.detach() + EPS / 4 * slope.sign()).clamp(x - EPS, x + EPS).clamp(0, 1)
    return at


def slopes(loss: Tensor, net: nn.Module) -> list[Tensor]:
    """Gradient of a loss along a network's weights."""
    return list(torch.autograd.grad(loss, list(net.parameters()), retain_graph=True))


def assert_close(got: list[Tensor], expected: list[Tensor]) -> None:
    """Equal to 1e-5 of the largest."""
    assert len(got) == len(expected)
    scale = max(float(e.abs().max()) for e in expected)
    assert scale > 1e-4
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * scale)


def rslad_loss(n: dict[str, nn.Module], x: Tensor, at: Tensor) -> Tensor:
    """5/6·KL(T(x)‖S(x')) + 1/6·KL(T(x)‖S(x)), one number per sample."""
    s, target = n["student"], p(n["teacher"](x))
    return 5 / 6 * kl(target, p(s(at))) + 1 / 6 * kl(target, p(s(x)))


def test_every_method_stands_here_or_among_the_cases() -> None:
    """Those that need more than a student and a teacher, or change the step itself, stand here."""
    assert set(METHODS) >= COMPOSED


@pytest.mark.parametrize("through_student", [False, True])
def test_peeraid_is_its_formulas(through_student: bool) -> None:
    """x' maximises KL(P(x)‖S(x')); the student's and the peer's gradient, each with the other constant."""
    n, (x, y) = networks(), images()
    s, peer = n["student"], n["peer"]
    at = pgd(lambda z: kl(p(peer(x)).detach(), p(s(z))), "gaussian")
    step = Step(peeraid(lam1=0.3, tau=2.0, gamma=0.7, through_student=through_student))
    torch.testing.assert_close(step(0.0), at, rtol=0, atol=1e-5)
    loss = 0.3 * ce(p(s(at)), y) + 4 * kl(p(peer(at) / 2).detach(), p(s(at) / 2)) + 4 * kl(p(s(x) / 2), p(s(at) / 2))
    if through_student:
        loss = loss + 0.7 * kl(p(s(at)), p(peer(at)).detach())
    assert_close(step.gradient(), slopes(loss.mean(), s))
    of_peer = ce(p(peer(at)), y) + 0.7 * kl(p(s(at)).detach(), p(peer(at)))
    assert_close(step.gradient("peer"), slopes(of_peer.mean(), peer))


def test_peeraids_peer_as_it_may_be_set() -> None:
    """γ1 and a temperature of its own loss, a learning rate; and the KLs alone are divided, once in each of the two gradients."""
    n, (x, y) = networks(), images()
    s, peer = n["student"], n["peer"]
    peer_settings = {"gamma1": 0.4, "tau": 3, "lr": 0.02}
    method = peeraid(lam1=0.3, tau=2.0, gamma=0.7, through_student=True, peer_settings=peer_settings)
    assert method.companions["peer"].plan == {"lr": 0.02}
    step = Step(method.scale_divergences(0.25))
    at = step(0.0)
    back = [9 * kl(p(s(at) / 3), p(peer(at) / 3).detach()), 9 * kl(p(s(at) / 3).detach(), p(peer(at) / 3))]
    own = 4 * kl(p(peer(at) / 2).detach(), p(s(at) / 2)) + 4 * kl(p(s(x) / 2), p(s(at) / 2)) + 0.7 * back[0]
    assert_close(step.gradient(), slopes((0.3 * ce(p(s(at)), y) + own / 4).mean(), s))
    assert_close(step.gradient("peer"), slopes((0.4 * ce(p(peer(at)), y) + 0.7 * back[1] / 4).mean(), peer))


def pushed(n: dict[str, nn.Module], x: Tensor, at: Tensor, y: Tensor, tau_a: float, tau_n: float) -> Tensor:
    """CIARD's loss of the student, one number for the batch."""
    s, said = n["student"], n["natural"](at).detach()
    one = kl(p(n["teacher"](at).detach() / tau_a), p(s(at))).mean()
    two = kl(p(n["natural"](x).detach() / tau_n), p(s(x))).mean()
    wrong = said.argmax(1) != y
    assert 0 < int(wrong.sum()) < len(y)
    three = kl(p(said[wrong]), p(s(at)[wrong] / 5)).mean()
    lg = [int(torch.floor(torch.log10(part.detach())).item()) for part in (one, two, three)]
    return one + two - 10.0 ** (min(lg[0], lg[1]) - lg[2]) * three


def test_ciard_is_its_formulas() -> None:
    """Student, trained teacher, and the temperatures that the two entropies drive, over two steps."""
    n, (x, y) = networks(), images()
    s, t = n["student"], n["teacher"]
    at = pgd(lambda z: ce(p(s(z)), y), "gaussian")
    step = Step(ciard())
    (state,) = (m for m in step.method.modules() if isinstance(m, PushLoss))
    temperatures = state.temperatures
    temperatures.taus = torch.tensor([3.0, 2.0])
    torch.testing.assert_close(step(0.5), at, rtol=0, atol=1e-5)
    assert_close(step.gradient(), slopes(pushed(n, x, at, y, 3.0, 2.0), s))
    assert_close(step.gradient("teacher"), slopes(ce(p(t(at)), y).mean(), t))

    def entropy(q: Tensor) -> float:
        return (-(q * q.log()).sum(1).mean()).item()

    way = 1 if entropy(p(t(at) / 3)) > entropy(p(n["natural"](x) / 2)) else -1
    assert temperatures.taus.tolist() == pytest.approx((3 - 0.001 * way, 2 + 0.001 * way))
    temperatures.taus = torch.tensor([10.0, 1.0])
    step(0.8)  # after the first drop: a tenth of the step; and within [1, 10]
    way = 1 if entropy(p(t(at) / 10)) > entropy(p(n["natural"](x))) else -1
    expected = min(10.0, 10 - 0.0001 * way), max(1.0, 1 + 0.0001 * way)
    assert temperatures.taus.tolist() == pytest.approx(expected, abs=1e-6)


def test_ciard_weighed_as_the_release_does() -> None:
    """The natural part's weight starts at ½ and follows how much slower its loss has fallen than at first."""
    n, (x, y) = networks(), images()
    s = n["student"]
    step = Step(ciard(balanced=True, temperatures_stop=True))
    (state,) = (m for m in step.method.modules() if isinstance(m, PushLoss))
    at = step(0.9)
    assert state.weights.weights.tolist() == pytest.approx([0.5, 0.5])
    state.weights.first = state.weights.first * torch.tensor([1.0, 2.0])  # as if the natural loss had halved since
    step(0.92)
    weight = 0.5 - 0.025 * (0.5 - 0.5 / 1.5)
    assert state.weights.weights.tolist() == pytest.approx([1 - weight, weight])
    pulls = kl(p(n["natural"](x).detach()), p(s(x))).mean(), kl(p(n["teacher"](at).detach()), p(s(at))).mean()
    whole = pushed(n, x, at, y, 1.0, 1.0) - sum(pulls) + weight * pulls[0] + (1 - weight) * pulls[1]
    assert_close(step.gradient(), slopes(whole, s))
    state.temperatures.taus = torch.tensor([3.0, 2.0])
    step(0.94)
    assert state.temperatures.taus.tolist() == [3.0, 2.0]  # after the first drop they stay
    step(0.5)
    assert [abs(tau - was) for tau, was in zip(state.temperatures.taus.tolist(), (3, 2), strict=True)] == pytest.approx(
        [1e-3, 1e-3], rel=1e-3
    )


def test_ciards_teacher_rests_before_it_is_trained() -> None:
    """Before its time it is in evaluation mode and has no gradient; after, in training mode."""
    step = Step(ciard())
    step(0.1)
    (teacher,) = step.update.companions
    assert not teacher.net.training
    assert all(w.grad is None for w in teacher.net.parameters())
    step(0.2)
    assert teacher.net.training
    assert all(w.grad is not None for w in teacher.net.parameters())


def matched(n: dict[str, nn.Module], x: Tensor, at: Tensor) -> Tensor:
    """KL(softmax(T(x+δ) − T(x−δ))‖softmax(S(x+δ) − S(x−δ))), one number per sample."""
    delta = at - x
    return kl(*(p(n[name](x + delta) - n[name](x - delta)) for name in ("teacher", "student")))


@pytest.mark.parametrize(("progress", "ramp_by_200", "ramp"), [(0.0, False, 0.1), (0.5, False, 0.6), (0.5, True, 0.03)])
def test_igdm_is_its_formula(progress: float, ramp_by_200: bool, ramp: float) -> None:
    """On RSLAD with its published α, in the first and the sixth of 10 epochs, which count from 1."""
    n, (x, _) = networks(), images()
    at = pgd(lambda z: kl(p(n["teacher"](x)).detach(), p(n["student"](z))), "gaussian")
    step = Step(igdm(rslad(), ramp_by_200=ramp_by_200))
    torch.testing.assert_close(step(progress), at, rtol=0, atol=1e-5)
    loss = rslad_loss(n, x, at) + 0.9 * ramp * matched(n, x, at)
    assert_close(step.gradient(), slopes(loss.mean(), n["student"]))


def test_fair_is_its_formula() -> None:
    """On ARD: no weights in the first epoch; then those of what its attacks counted, two batches of them."""
    n, (x, y) = networks(), images()
    s, t = n["student"], n["teacher"]
    right, seen = [0.0] * nets.CLASSES, [0] * nets.CLASSES

    def watch(z: Tensor) -> None:
        for label, said in zip(y.tolist(), s(z).argmax(1).tolist(), strict=True):
            right[label] += said == label
            seen[label] += 1

    def loss(at: Tensor) -> Tensor:
        return 0.8 * 16 * kl(p(t(x) / 4).detach(), p(s(at) / 4)) + 0.2 * ce(p(s(x)), y)

    step = Step(fair(ard(alpha=0.8, tau=4.0), beta=0.5))
    for i in range(2):
        at = pgd(lambda z: ce(p(s(z)), y), "uniform", seed=i, watch=watch)
        torch.testing.assert_close(step(0.0, seed=i), at, rtol=0, atol=1e-5)
        assert_close(step.gradient(), slopes(loss(at).mean(), s))
    powers = [max(r / c, 1e-6) ** -0.5 for r, c in zip(right, seen, strict=True)]
    weights = torch.tensor(
        [min(max(nets.CLASSES * w / sum(powers), 5 / 6), 5 / 2) for w in powers], dtype=torch.float64
    )
    assert weights.unique().numel() > 1
    at = pgd(lambda z: ce(p(s(z)), y), "uniform", seed=5)
    step(0.1, seed=5)
    assert_close(step.gradient(), slopes((weights[y] * loss(at)).mean(), s))


def awp_gradient(loss: Callable[[], Tensor], s: nn.Module, gamma: float) -> list[Tensor]:
    """The gradient where every matrix moved by γ‖w‖ along its own gradient's direction."""
    up = slopes(loss(), s)
    with torch.no_grad():
        for w, g in zip(s.parameters(), up, strict=True):
            if w.dim() > 1:
                w += gamma * w.square().sum().sqrt() * g / g.square().sum().sqrt()
    return slopes(loss(), s)


def test_awp_is_its_formula() -> None:
    """On RSLAD: not before its time; then the gradient at the moved weights, which are given back."""
    n, (x, _) = networks(), images()
    step = Step(awp(rslad(), gamma=0.2, begin=0.3))
    at = step(0.2)
    plain = slopes(rslad_loss(n, x, at).mean(), n["student"])
    assert_close(step.gradient(), plain)
    at = step(0.4)
    expected = awp_gradient(lambda: rslad_loss(n, x, at).mean(), n["student"], 0.2)
    assert_close(step.gradient(), expected)
    assert max(float((a - b).abs().max()) for a, b in zip(plain, expected, strict=True)) > 1e-2
    fresh = networks()["student"].float()
    assert all(torch.equal(a, b) for a, b in zip(step.update.student.parameters(), fresh.parameters(), strict=True))


def average(step: Step, seed: int = 8) -> nn.Module:
    """Give the student's average other weights than the student's; return the same in float64."""
    (companion,) = step.update.companions
    companion.net.load_state_dict(rounded(nets.Tiny(2, seed)).state_dict())
    return rounded(nets.Tiny(2, seed))


@pytest.mark.parametrize("progress", [0.0, 0.3, 0.9])
def test_adr_is_its_formula(progress: float) -> None:
    """Attack and loss by the label that the average rectifies; τ from 2.5 to 2 and λ from .7 to .95, along a cosine."""
    n, (x, y) = networks(), images()
    s, step = n["student"], Step(adr())
    a = average(step)
    half = (1 + math.cos(math.pi * progress)) / 2
    tau, lam = 2.0 + 0.5 * half, 0.95 - 0.25 * half
    soft = p(a(x) / tau).detach()
    rows = []
    for row, k in zip(soft, y.tolist(), strict=True):
        share = min(max(lam - float(row.max() - row[k]), 0.0), 1.0)
        rows.append(share * row + (1 - share) * torch.eye(nets.CLASSES, dtype=torch.float64)[k])
    label = torch.stack(rows)
    assert (label != soft).any()

    def loss(z: Tensor) -> Tensor:
        return -(label * p(s(z)).log()).sum(1)

    at = pgd(loss, "uniform")
    torch.testing.assert_close(step(progress), at, rtol=0, atol=1e-5)
    assert_close(step.gradient(), slopes(loss(at).mean(), s))


def test_labels_of_two_temperatures_stand_side_by_side() -> None:
    """What terms share at a point is of one τ and one λ."""
    x, y = images()
    n = {name: rounded(nets.Tiny(2, seed)) for name, seed in (("student", 1), ("average", 8))}
    views = Views.of(x, y, torch.arange(len(y)), Models(n))
    sharp, soft = rectified.given(tau=(0.5, 0.5)), rectified.given(tau=(5.0, 5.0))
    apart = [objective.total(Views.of(x, y, torch.arange(len(y)), Models(n))) for objective in (sharp, soft)]
    assert not torch.allclose(*apart)
    torch.testing.assert_close((sharp + soft).total(views), apart[0] + apart[1])


def test_waypoints_without_a_way_are_one_line() -> None:
    x, y = images()
    update = Update(
        method=waypoints(), threat=Threat(eps=0.0), student=nets.Tiny(2, 1).float(),
        teachers={"teacher": nets.Tiny(2, 2).float()}, plan=Plan(), engine=Engine("cpu"),
    )  # fmt: skip
    with pytest.raises(MmardError, match="give eps above 0"):
        update(x.float(), y, torch.arange(len(y)), 0.0)


def test_rebat_is_its_formula() -> None:
    """PGD-AT before its time; then held to the average at x', which is a constant."""
    n, (_, y) = networks(), images()
    s, step = n["student"], Step(rebat(beta=1.5, begin=0.4))
    at = pgd(lambda z: ce(p(s(z)), y), "uniform")
    torch.testing.assert_close(step(0.3), at, rtol=0, atol=1e-5)
    plain = slopes(ce(p(s(at)), y).mean(), s)
    assert_close(step.gradient(), plain)
    a = average(step)
    step(0.4)
    assert_close(step.gradient(), slopes((ce(p(s(at)), y) + 1.5 * kl(p(a(at)).detach(), p(s(at)))).mean(), s))


def test_rpat_is_its_formula() -> None:
    """On PGD-AT and on TRADES, with the gradient into all three points."""
    n, (x, y) = networks(), images()
    s = n["student"]
    for base, share in ((pgd_at(), 0.5), (trades(), 0.3)):
        step = Step(rpat(base, lam=0.7, share=share))
        at = step(0.5)
        own = ce(p(s(at)), y) if base.name == "pgd_at" else ce(p(s(x)), y) + 6 * kl(p(s(x)), p(s(at)))
        apart = s(share * x + (1 - share) * at) - (share * s(x) + (1 - share) * s(at))
        loss = own + 0.7 * apart.square().sum(1) / nets.CLASSES
        assert_close(step.gradient(), slopes(loss.mean(), s))


@pytest.mark.parametrize(("uniform", "tau"), [(False, 1.0), (True, 1.0), (False, 0.6)])
def test_waypoints_are_their_formula(uniform: bool, tau: float) -> None:
    """On RSLAD: the iterates after three and after seven of ten steps, weighed by how near T's boundary they are."""
    n, (x, y) = networks(), images()
    s, net, seen = n["student"], n["teacher"], list[Tensor]()

    def t(z: Tensor) -> Tensor:
        return net(z) / tau

    n["teacher"] = t  # type: ignore[assignment]
    at = pgd(lambda z: kl(p(t(x)).detach(), p(s(z))), "gaussian", watch=seen.append)
    step = Step(waypoints(gamma=0.8, kappa=1.0 if uniform else 0.5, uniform=uniform, tau=tau))
    torch.testing.assert_close(step(0.0), at, rtol=0, atol=1e-5)
    far = []
    for point in (seen[3], seen[7]):
        rows = zip(t(point), t(x).argmax(1).tolist(), strict=True)
        far.append(torch.stack([abs(r[k] - max(r[j] for j in range(len(r)) if j != k)) for r, k in rows]))
    weights = p(-torch.stack(far, 1).detach() / 0.5)
    assert (weights.max() - weights.min()) > 0.1
    first, second = (weights[:, 0], weights[:, 1]) if not uniform else (0.5, 0.5)
    extra = first * kl(p(t(seen[3])).detach(), p(s(seen[3]))) + second * kl(p(t(seen[7])).detach(), p(s(seen[7])))
    assert_close(step.gradient(), slopes((rslad_loss(n, x, at) + 0.8 * extra).mean(), s))
    images_again = x.float()
    for _ in range(2):  # the second attack on the same images has a way of its own
        step.update(images_again, y, torch.arange(len(y)), 0.0)
        (state,) = step.method.modules()
        assert len(state._way) == 10


def test_wrappers_add_up() -> None:
    """awp(igdm(fair(rslad))) with two classes' weights known: all three at once."""
    n, (x, y) = networks(), images()
    method = awp(igdm(fair(rslad()), alpha=2.0), gamma=0.1)
    step = Step(method)
    at = step(0.5)
    (state,) = (m for m in method.modules() if hasattr(m, "weights"))
    state.weights = torch.tensor([1.0, 2.0, 0.9, 1.5])
    step(0.5)
    weights = state.weights.double()[y]
    expected = awp_gradient(
        lambda: (weights * rslad_loss(n, x, at) + 2 * 0.6 * matched(n, x, at)).mean(), n["student"], 0.1
    )
    assert_close(step.gradient(), expected)


class Recording(nn.Module):
    """A student that writes down what it is shown in training mode: c natural, a adversarial, m the mirror image."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.order = nets.Tiny(2, 1).float(), list[str]()

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            nat = images()[0].float()
            inside = bool(((x - nat).abs() <= EPS + 1e-6).all() and (x >= 0).all() and (x <= 1).all())
            self.order.append("c" if torch.equal(x, nat) else ("a" if inside else "m"))
        return self.inner(x)


@pytest.mark.parametrize(
    ("method", "order"),
    [
        (peeraid(), "aac"),
        (ciard(), "ca"),
        (igdm(rslad()), "acm"),
        (fair(), "ac"),
        (awp(rslad()), "acac"),
        (adr(), "a"),
        (rebat(begin=0.1), "a"),
        (rpat(), "aac"),
        (rpat(trades()), "caca"),
        (waypoints(), "acaa"),
        (mmard(igdm(fair(rslad()))), "acm"),
    ],
    ids=["peeraid", "ciard", "igdm", "fair", "awp", "adr", "rebat", "rpat", "rpat trades", "waypoints", "three"],
)
def test_order_in_training_mode(method: Method, order: str) -> None:
    """What BatchNorm sees; of AWP's two rounds it keeps the second."""
    step = Step(method)
    update = replace(step.update, student=Recording().train())
    x, y = images()
    update(x.float(), y, torch.arange(len(y)), 0.5)
    assert "".join(update.student.order) == order


def test_awp_moves_state_by_the_round_that_counts() -> None:
    """MTARD's first losses are those at the moved weights, not the mean of both rounds as of two parts of a batch."""
    n, (x, _) = networks(), images()
    s = n["student"]
    step = Step(awp(mtard(), gamma=0.2))
    at = step(0.5)
    (state,) = step.method.modules()

    def losses() -> Tensor:
        pairs = ((n["teacher"], at), (n["natural"], x))
        return torch.stack([kl(p(net(z)).detach(), p(s(z))).mean() for net, z in pairs])

    before = losses().detach()
    awp_gradient(lambda: losses().mean(), s, 0.2)  # leaves the weights moved
    first = state.weights.first.double()
    torch.testing.assert_close(first, losses().detach(), rtol=1e-5, atol=1e-6)
    assert (first - before).abs().max() > 1e-2


def test_awp_leaves_batchnorm_and_terms_as_one_round_does() -> None:
    """The first round, up the loss, leaves no statistics and no state behind."""

    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.inner = nn.BatchNorm2d(1), nets.Tiny(2, 1).float()

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(self.norm(x))

    counts = []
    for method in (ciard(), awp(ciard())):
        step = Step(method)
        update = replace(step.update, student=Normed().train())
        x, y = images()
        update(x.float(), y, torch.arange(len(y)), 0.5)
        (state,) = (m for m in method.modules() if isinstance(m, PushLoss))
        counts.append((int(update.student.norm.num_batches_tracked), *state.temperatures.taus.tolist()))
    assert counts[0] == counts[1]
    assert counts[0][0] == 2
