"""Points compute once; moving keeps what stays true; borrowed networks come back as they were."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from mmard import MmardError
from mmard.core.views import Models, Views, held_still

pytestmark = pytest.mark.figures


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
