"""Networks that call `.view`, which train though images and weights of the others lie channel by channel."""

import copy
from pathlib import Path

import pytest
import torch
from foreign import Views
from helpers import blobs, small_net
from torch import Tensor, nn

from mmard.core.method import Method
from mmard.core.threat import Threat
from mmard.data.images import split
from mmard.methods import METHODS
from mmard.models.architectures import Architecture, Classifier
from mmard.models.weights import save_weights
from mmard.runs.folder import RunFolder
from mmard.training.averaging import Averaging
from mmard.training.engine import Engine
from mmard.training.schedule import Plan
from mmard.training.trainer import Trainer
from mmard.training.update import Update

SIZE, CHANNELS, CLASSES = 8, 3, 10


class Reshaped(Views):
    """The same network as one writes it for any order of memory."""

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.cat([x.reshape(len(x), -1), self.conv(x).relu().reshape(len(x), -1)], 1))


def classifier(kind: type[Views], seed: int = 0) -> Classifier:
    torch.manual_seed(seed)
    return Classifier(kind(CHANNELS, SIZE), Architecture(name="cnn-4-2", classes=CLASSES, channels=CHANNELS))


def step(student: nn.Module, teacher: nn.Module, method: Method) -> dict[str, Tensor]:
    """One update, and the student's logits after it."""
    x, y, index = blobs(40, CLASSES, CHANNELS, SIZE).batch(slice(None))
    teachers = {name: copy.deepcopy(teacher) for name in ("teacher", *method.companions)}
    update = Update(
        method=method, threat=Threat(eps=0.1), student=student, teachers=teachers,
        plan=Plan(epochs=2, batch_size=40, lr=0.01), engine=Engine(accelerator="cpu"), shape=x.shape[1:],
    )  # fmt: skip
    torch.manual_seed(1)
    means = {name: mean.detach() for name, mean in update(x, y, index, 0.5).items()}
    return means | {"logits": student.eval()(x).detach()}


@pytest.mark.parametrize("wrapped", [True, False])
@pytest.mark.parametrize("name", ["standard", "rslad", "peeraid"])
def test_a_step_is_that_of_the_network_that_reshapes(name: str, wrapped: bool) -> None:
    method = METHODS[name]()
    found = []
    for kind in (Views, Reshaped):
        student, teacher = classifier(kind), classifier(kind, seed=1)
        networks = (student, teacher) if wrapped else (student.net, teacher.net)
        found.append(step(*networks, method))
    assert found[0].keys() == found[1].keys()
    for key, value in found[0].items():
        torch.testing.assert_close(value, found[1][key], rtol=1e-2, atol=1e-2)


def test_it_trains_is_averaged_judged_and_kept(tmp_path: Path) -> None:
    data = split("blobs", blobs(200, CLASSES, CHANNELS), blobs(80, CLASSES, CHANNELS, seed=1), held_out=0.2, seed=0)
    teachers = {"teacher": classifier(Views, seed=1).eval().requires_grad_(False)}
    student = classifier(Views)
    run = Trainer(
        method=METHODS["rslad"](), threat=Threat(eps=0.1), student=student, train=data.train, held_out=data.held_out,
        folder=RunFolder(tmp_path), teachers=teachers, plan=Plan(epochs=2, batch_size=40, lr=0.05),
        averaging=Averaging(kind="ema", decay=0.5),
    )  # fmt: skip
    assert run.fit()["clean"] > 0
    before = student.state_dict().keys()
    save_weights(tmp_path / "net.safetensors", student)
    assert before == classifier(Views).state_dict().keys()


def test_other_networks_stay_channels_last_and_draw_nothing() -> None:
    student, teacher = small_net(CLASSES, CHANNELS).train(), small_net(CLASSES, CHANNELS, seed=1)
    weights, state = {k: v.clone() for k, v in student.state_dict().items()}, torch.get_rng_state()
    Update(
        method=METHODS["rslad"](), threat=Threat(eps=0.1), student=student, teachers={"teacher": teacher},
        plan=Plan(epochs=1), engine=Engine(accelerator="cpu"), shape=torch.Size([CHANNELS, SIZE, SIZE]),
    )  # fmt: skip
    assert torch.equal(state, torch.get_rng_state())
    assert student.training
    assert all(torch.equal(value, weights[key]) for key, value in student.state_dict().items())
    for net in (student, teacher):
        assert not any(module._forward_pre_hooks for module in net.modules())
        convolutions = [m for m in net.modules() if isinstance(m, nn.Conv2d) and m.weight.shape[1] > 1]
        assert convolutions
        assert all(m.weight.is_contiguous(memory_format=torch.channels_last) for m in convolutions)
