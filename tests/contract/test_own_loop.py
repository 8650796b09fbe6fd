"""A loop of one's own around the steps of a method: each mistake is one clear error."""

from collections.abc import Callable

import pytest
import torch
from helpers import blobs, small_net
from torch import Tensor, nn

from mmard import MmardError, Threat
from mmard.attacks.pgd import Pgd, untargeted
from mmard.core.views import Models, Views
from mmard.methods import kd, rslad
from mmard.training.step import make_example, outer_losses

THREAT = Threat(eps=0.1)


def views(teacher: nn.Module | None = None, change: Callable[[Tensor], Tensor] = lambda x: x) -> Views:
    x, y, index = blobs(8).batch(slice(None))
    teacher = small_net(seed=1).eval().requires_grad_(False) if teacher is None else teacher
    return Views.of(change(x), y, index, Models({"student": small_net(), "teacher": teacher}))


def step(v: Views) -> dict[str, Tensor]:
    student = v.models["student"]
    assert isinstance(student, nn.Module)
    return outer_losses(rslad(), make_example(rslad(), v, student, THREAT), student)


def test_a_right_loop_has_losses_with_gradients() -> None:
    assert all(loss.requires_grad for loss in step(views()).values())


@pytest.mark.parametrize("change", [lambda x: x * 255, lambda x: (x - 0.5) / 0.25, lambda x: x + float("nan")])
def test_pixels_outside_of_their_range(change: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(MmardError, match=r"pixels lie in \[.*\], expected \[0, 1\]; normalise inside the network"):
        step(views(change=change))


def test_a_teacher_in_training_mode_or_with_gradients() -> None:
    for method in (rslad(), kd()):  # with an inner process and without
        for teacher, words in (
            (small_net(seed=1).requires_grad_(False), r"the teacher is in training mode.*\.eval\(\)"),
            (small_net(seed=1).eval(), r"the weights of the teacher ask for gradients.*requires_grad_\(False\)"),
        ):
            for run in (
                lambda v, m=method: make_example(m, v, small_net(), THREAT),
                lambda v, m=method: outer_losses(m, v, small_net()),
            ):
                with pytest.raises(MmardError, match=words):
                    run(views(teacher))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_step_under_no_grad_or_inference_mode(mode: Callable[[], torch.no_grad]) -> None:
    with mode(), pytest.raises(MmardError, match=f"torch.{mode.__name__} forbids them"):
        step(views())
    with mode(), pytest.raises(MmardError, match=f"torch.{mode.__name__} forbids them"):
        outer_losses(kd(), views(), small_net())


def test_images_that_were_made_in_inference_mode() -> None:
    with torch.inference_mode():
        made = views()
    with pytest.raises(MmardError, match=r"torch\.inference_mode forbids them"):
        step(made)


def test_an_attack_of_ones_own_needs_gradients() -> None:
    x, y, _ = blobs(4).batch(slice(None))
    with torch.no_grad(), pytest.raises(MmardError, match=r"an attack takes gradients"):
        Pgd(steps=2)(lambda x_adv: small_net()(x_adv).sum(1), x, THREAT)
    with torch.no_grad():  # the one of an evaluation asks for them itself
        assert untargeted(Pgd(steps=2))(small_net().eval(), x, y, THREAT).shape == x.shape


@pytest.mark.parametrize("who", ["student", "teacher"])
def test_a_network_that_writes_into_its_input_does_not_spoil_the_images(who: str) -> None:
    first = nn.Sequential(nn.ReLU(inplace=True), small_net(seed=2)).eval().requires_grad_(who == "student")
    x, y, index = blobs(8).batch(slice(None))
    networks = {"student": small_net(), "teacher": small_net(seed=1).eval().requires_grad_(False), who: first}
    made = Views.of(x, y, index, Models(networks))
    with pytest.raises(MmardError, match=f"the {who} changes its input.*inplace=False"):
        outer_losses(rslad(), make_example(rslad(), made, networks["student"], THREAT), networks["student"])
    with pytest.raises(
        MmardError, match="the teacher changes its input" if who == "teacher" else "the student changes"
    ):
        outer_losses(kd(), made, networks["student"])  # outside of an attack torch itself says nothing


def test_one_logit_or_whole_numbers_are_no_logits_of_a_teacher() -> None:
    class Says(nn.Module):
        def __init__(self, say: Callable[[Tensor], Tensor]) -> None:
            super().__init__()
            self.say = say

        def forward(self, x: Tensor) -> Tensor:
            return self.say(x)

    for say, words in (
        (lambda x: x.mean((1, 2, 3)), "one logit z of a sigmoid"),
        (lambda x: torch.ones(len(x), 4, dtype=torch.long), "numbers of kind int64"),
    ):
        with pytest.raises(MmardError, match=f"the teacher gives .*{words}"):
            step(views(Says(say).eval()))
