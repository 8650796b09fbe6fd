"""How much memory a step takes, what fits, and gradients that add up over parts of a batch."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import blobs, small_net
from torch import nn

from mmard import MmardError, Pgd, Threat, term
from mmard.core.views import Views
from mmard.data.images import DataSet
from mmard.methods import pgd_at
from mmard.models.architectures import Architecture, Classifier
from mmard.runs.folder import RunFolder
from mmard.training import micro_batch
from mmard.training.engine import Engine, precisions_of
from mmard.training.micro_batch import Need, images_at_once
from mmard.training.schedule import Plan
from mmard.training.trainer import Trainer
from mmard.training.update import Update

pytestmark = pytest.mark.figures

MIB = 2**20


def update(student: nn.Module | None = None) -> Update:
    method = replace(pgd_at(), maximizer=Pgd(steps=2, start="none"))
    student = small_net() if student is None else student
    plan, threat = Plan(lr=0.1, batch_size=40), Threat(eps=0.1)
    return Update(
        method=method, threat=threat, student=student, teachers={}, plan=plan, engine=Engine(accelerator="cpu")
    )


def plain() -> Classifier:
    """Without BatchNorm, parts of a batch can change nothing but rounding."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 4))
    return Classifier(net, Architecture(name="plain", classes=4, channels=1))


@pytest.mark.parametrize("at_once", [20, 10, 1])
def test_parts_of_a_batch_give_the_gradient_of_the_whole(at_once: int) -> None:
    x, y, index = blobs(40).batch(slice(None))
    whole, parts = update(plain()), update(plain())
    for _ in range(3):
        one, many = whole(x, y, index, 0.0), parts(x, y, index, 0.0, at_once)
    torch.testing.assert_close(many, one, rtol=1e-5, atol=1e-6)
    assert not torch.equal(next(whole.student.parameters()), next(plain().parameters()))
    for name, weights in whole.student.state_dict().items():
        torch.testing.assert_close(parts.student.state_dict()[name], weights, rtol=1e-5, atol=1e-6)


def test_the_line_is_found_on_a_step_whose_memory_is_known() -> None:
    kept: list[torch.Tensor] = []

    def step(images: int) -> None:
        if not kept:
            kept.append(torch.ones(50 * MIB // 4))
        torch.ones(images * 8 * MIB // 4).add_(1)

    need = Need.of(step, torch.device("cpu"))
    assert need is not None
    assert need.each / micro_batch.SPARE == pytest.approx(8 * MIB, rel=0.15)
    assert need.fixed / micro_batch.SPARE == pytest.approx(50 * MIB, rel=0.3)
    assert need.images_in(need.bytes_for(100) + 1) == 100


class Counter(nn.Module):
    """A term with state."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("looks", torch.zeros(()))

    def look(self, v: Views) -> torch.Tensor:
        self.looks += 1
        return 0 * v.adv.student.sum(1)


def test_measuring_changes_nothing() -> None:
    step = update()
    counter = Counter()
    step.method = replace(step.method, outer=step.method.outer + term("0")(counter.look))
    before = {name: value.clone() for name, value in step.student.state_dict().items()}
    state = torch.get_rng_state()
    assert micro_batch.need_of(step, torch.Size([1, 8, 8])) is not None
    assert counter.looks == 0
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in step.student.state_dict().items():
        assert torch.equal(value, before[name])
    assert not step.optimizer.state


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """25 images fit."""
    monkeypatch.setattr(micro_batch, "free_bytes", lambda *_: 3.5e9)
    monkeypatch.setattr(micro_batch, "need_of", lambda *_: Need(1e9, 1e8))


@pytest.mark.usefixtures("little_memory")
def test_a_batch_that_does_not_fit_says_what_is_missing_and_what_fits() -> None:
    with pytest.raises(MmardError) as e:
        images_at_once(update(), torch.Size([3, 64, 64]), 40, None)
    assert str(e.value) == (
        "40 images at once need about 4.7 GiB, 3.3 GiB are free on cpu: 1.4 GiB are missing, 25 images would fit; "
        "engine.micro_batch=20 (or auto) does the same batch in parts"
    )
    assert images_at_once(update(), torch.Size([3, 64, 64]), 40, "auto") == 20
    assert images_at_once(update(), torch.Size([3, 64, 64]), 40, 10) == 10
    assert images_at_once(update(), torch.Size([3, 64, 64]), 25, None) == 25


@pytest.mark.usefixtures("little_memory")
def test_a_run_that_was_begun_is_not_told_to_change_what_it_cannot() -> None:
    with pytest.raises(MmardError, match="resume it where they fit, or begin another"):
        images_at_once(update(), torch.Size([3, 64, 64]), 40, 40, begun=True)


def test_processes_of_one_host_share_its_memory() -> None:
    cpu = torch.device("cpu")
    whole, quarter = micro_batch.free_bytes(cpu), micro_batch.free_bytes(cpu, 4)
    assert whole is None or (quarter is not None and quarter == pytest.approx(whole / 4, rel=0.1))


def test_no_line_is_drawn_through_too_few_images() -> None:
    assert Need.of(lambda _: None, torch.device("cpu"), most=3) is None


def test_where_not_even_one_image_fits_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(micro_batch, "free_bytes", lambda *_: 1e6)
    monkeypatch.setattr(micro_batch, "need_of", lambda *_: Need(1e9, 1e8))
    with pytest.raises(MmardError, match="0 images would fit; choose a smaller student"):
        images_at_once(update(), torch.Size([3, 64, 64]), 40, "auto")


def test_parts_must_divide_the_batch() -> None:
    with pytest.raises(MmardError, match="micro_batch 12 does not divide the 40 images of a process's batch; 10 does"):
        images_at_once(update(), torch.Size([1, 8, 8]), 40, 12)


@pytest.mark.usefixtures("little_memory")
def test_a_resumed_run_keeps_the_parts_that_were_found(
    tiny: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trainer() -> Trainer:
        plan = Plan(epochs=1, batch_size=40, lr=0.1)
        return Trainer(
            method=pgd_at(), threat=Threat(eps=0.1), student=small_net(), train=tiny.train, held_out=tiny.held_out,
            folder=RunFolder(tmp_path), plan=plan, micro_batch="auto",
        )  # fmt: skip

    first = trainer()
    first.fit()
    assert first.at_once == 20
    monkeypatch.setattr(micro_batch, "free_bytes", lambda *_: 9e9)  # the next machine has more
    again = trainer()
    again.fit()
    assert again.at_once == 20


def test_a_device_names_the_precisions_that_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MmardError, match="'tf32' is not to be had on cpu; it has 32-true, bf16-mixed"):
        Engine(accelerator="cpu", precision="tf32")
    gpu = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    assert precisions_of(gpu) == ("32-true",)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    assert precisions_of(gpu) == ("32-true", "tf32", "bf16-mixed")


def test_small_steps_that_do_not_fit_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.\nand more")

    monkeypatch.setattr(Need, "of", full)
    with pytest.raises(
        MmardError, match=r"even 32 images at once do not fit on cpu \(CUDA out of memory.\); choose a smaller"
    ):
        micro_batch.need_of(update(), torch.Size([1, 8, 8]))
