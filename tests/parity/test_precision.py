"""What bf16 changes in a step, bounded: the same adversarial pixels up to a share, the same loss up to an error."""

import pytest
import torch
from torch import Tensor

from mmard import Threat
from mmard.core.views import Models, Views
from mmard.methods import METHODS
from mmard.models.students import Architecture, Classifier, build
from mmard.training.engine import Engine
from mmard.training.step import make_example, outer_losses

SAME_PIXELS, LOSS_ERROR = 0.75, 0.01  # found on the CPU: 0.85 and 0.001


def network(name: str, seed: int) -> Classifier:
    """A network whose BatchNorms have seen a few batches."""
    torch.manual_seed(seed)
    model = build(Architecture(name=name, classes=10))
    for _ in range(3):
        model.train()(torch.rand(64, 3, 16, 16))
    return model


def step(precision: str, method: str) -> tuple[Tensor, Tensor]:
    """x' and the loss of one step."""
    engine = Engine(accelerator="cpu", precision=precision)
    student, teacher = network("cnn-8-4", 0), network("cnn-8-5", 1).eval().requires_grad_(False)
    x, y = torch.rand(32, 3, 16, 16, generator=torch.Generator().manual_seed(2)), torch.arange(32) % 10
    models = Models({"student": engine.predictor(student), "teacher": engine.predictor(teacher)})
    torch.manual_seed(3)
    views = make_example(METHODS[method](), Views.of(x, y, y, models), student, Threat(eps=8 / 255))
    losses = outer_losses(METHODS[method](), views, engine.predictor(student))
    assert all(loss.dtype == torch.float32 for loss in losses.values())
    return views.adv.x, torch.stack(list(losses.values())).sum()


@pytest.mark.parametrize("method", ["pgd_at", "rslad", "adaad", "mmard"])
def test_bf16_changes_little(method: str) -> None:
    (full, loss), (half, half_loss) = step("32-true", method), step("bf16-mixed", method)
    same = (full - half).abs() < 1e-6
    assert SAME_PIXELS < same.float().mean() < 1  # below 1: bf16 was really on
    torch.testing.assert_close(half_loss, loss, rtol=LOSS_ERROR, atol=0)
