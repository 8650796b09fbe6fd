"""The core: the ball, points that compute once, and sums of terms."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from mmard import MmardError, Objective, Threat, term
from mmard.core.method import Method
from mmard.core.threat import in_255ths
from mmard.core.views import Models, Views, held_still

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


class Counting(nn.Module):
    """Counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.layer = 0, nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.layer(x.flatten(1))


@pytest.fixture
def views() -> Views:
    models = Models({"student": Counting(), "teacher": Counting().requires_grad_(False)})
    return Views.of(torch.rand(2, 1, 2, 2), torch.tensor([0, 1]), torch.tensor([5, 6]), models)


def calls(views: Views, name: str) -> int:
    return views.models[name].calls  # type: ignore[attr-defined, no-any-return]


def test_each_network_is_asked_once_at_each_point(views: Views) -> None:
    assert views.nat.student is views.nat.student
    assert views.adv.student is views.nat.student  # before an example is made both are one point
    moved = views.moved_to(views.nat.x + 0.1)
    assert moved.nat.student is views.nat.student
    assert not torch.equal(moved.adv.student, moved.nat.student)
    assert calls(views, "student") == 2


def test_nothing_is_computed_that_nobody_asks_for(views: Views) -> None:
    assert views.nat.student.shape == (2, 3)
    assert calls(views, "teacher") == 0


def test_another_student_keeps_the_teacher_and_drops_the_student(views: Views) -> None:
    teacher, old = views.nat.teacher, views.nat.student
    student = views.models["student"]
    seen = views.seen_by(student)
    assert seen.nat.teacher is teacher
    assert seen.nat.student is not old
    assert calls(views, "student") == 2
    assert calls(views, "teacher") == 1


def test_the_teachers_graph_exists_only_where_x_asks_for_it(views: Views) -> None:
    assert not views.nat.teacher.requires_grad
    assert views.moved_to(views.nat.x.clone().requires_grad_()).adv.teacher.requires_grad


def test_once_keeps_what_a_term_computes(views: Views) -> None:
    found = [views.nat.once("costly", lambda: object()) for _ in range(2)]
    assert found[0] is found[1]


def test_a_missing_model_is_named(views: Views) -> None:
    with pytest.raises(MmardError, match=r"'natural' model \(have: student, teacher\); give one: teachers.natural="):
        views.nat.other("natural")


@pytest.mark.parametrize("fails", [False, True])
def test_held_still_gives_back_modes_and_gradients(fails: bool) -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2))
    net[1].eval()
    net[2].weight.requires_grad_(False)
    before = ([m.training for m in net.modules()], [p.requires_grad for p in net.parameters()])
    try:
        with held_still(net):
            assert not any(m.training for m in net.modules())
            assert not any(p.requires_grad for p in net.parameters())
            if fails:
                raise RuntimeError
    except RuntimeError:
        pass
    assert before == ([m.training for m in net.modules()], [p.requires_grad for p in net.parameters()])


@pytest.mark.parametrize(("epochs", "per_epoch"), [(1, 1), (3, 7), (200, 391), (300, 11)])
def test_the_epoch_is_exact_at_every_step(views: Views, epochs: int, per_epoch: int) -> None:
    total = epochs * per_epoch
    found = [replace(views, progress=step / total, epochs=epochs).epoch for step in range(total)]
    assert found == [step // per_epoch for step in range(total)]


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
