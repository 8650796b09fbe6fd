"""What bf16 changes in a step, bounded: the same adversarial pixels up to a share, the same loss up to an error."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mmard import Threat, train
from mmard.api.settings import read_settings
from mmard.core.views import Models, Views
from mmard.methods import METHODS
from mmard.models.architectures import Architecture, Classifier, build
from mmard.training.engine import Engine
from mmard.training.step import make_example, outer_losses

pytestmark = pytest.mark.figures

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


@pytest.mark.slow
def test_a_digits_student_ends_as_accurate_in_bf16(tmp_path: Path) -> None:
    """The means over seeds differ by no more than chance makes them, on any processor: four of its standard deviations."""
    quick: dict[str, Any] = {
        "method": "pgd_at",
        "student": "cnn-8-3",
        "data.limit": 800,
        "data.held_out": 0.3,
        "threat.eps": 0.1,
        "attack.steps": 3,
    }
    quick |= {"train.epochs": 8, "train.batch_size": 30, "engine.accelerator": "cpu"}
    found: dict[str, np.ndarray] = {}
    for precision in ("32-true", "bf16-mixed"):
        accuracies = []
        for seed in range(3):
            changes = {
                **quick,
                "engine.precision": precision,
                "seed": seed,
                "out": str(tmp_path / f"{precision}-{seed}"),
            }
            last = train(read_settings(None, changes)).metrics()[-1]
            accuracies.append((last["clean"], last["robust"]))
        found[precision] = np.array(accuracies)
    full, half = found["32-true"], found["bf16-mixed"]
    assert (full.mean(0) > (70, 30)).all()  # learnt something that could be lost
    images, seeds = int(quick["data.limit"] * quick["data.held_out"]), len(full)
    chance = 100 * np.sqrt(
        0.25 / images * 2 / seeds
    )  # at most, of a difference of two means over other draws of the images
    assert (abs(full.mean(0) - half.mean(0)) <= 4 * chance).all(), (full, half)
