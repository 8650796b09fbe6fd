"""Evaluation: verdicts per sample, intervals, files; AutoAttack has a file of its own."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import blobs, small_net
from torch import Tensor, nn

from mmard import MmardError, Scores, Threat
from mmard.attacks.autoattack import AutoAttack
from mmard.data.images import DataSet, Images, split
from mmard.evaluation.loop import Execution
from mmard.evaluation.run import run_attacks
from mmard.evaluation.scores import wilson
from mmard.evaluation.suite import choose_attacks, suite
from mmard.methods import pgd_at
from mmard.runs.folder import RunFolder
from mmard.training.schedule import Plan
from mmard.training.trainer import Trainer

pytestmark = pytest.mark.figures


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    """A classifier that is right on most of the blobs and can be fooled on some."""

    data = split("blobs", blobs(200), blobs(80, seed=1), held_out=0.2, seed=0)
    folder = RunFolder(tmp_path_factory.mktemp("run"))
    net = small_net()
    Trainer(
        method=pgd_at(),
        threat=Threat(eps=0.1),
        student=net,
        train=data.train,
        held_out=data.held_out,
        folder=folder,
        plan=Plan(epochs=2, batch_size=40, lr=0.1),
    ).fit()
    return net.eval()


def test_accuracy_falls_and_the_worst_case_is_each_samples_own(trained: nn.Module, tiny: DataSet) -> None:
    scores = run_attacks(
        trained,
        tiny.test,
        Threat(eps=0.2),
        choose_attacks("fgsm,pgd-20,cw", suite()),
        execution=Execution(batch_size=33),
    )
    assert scores.attacks == ("clean", "FGSM", "PGD-20", "C&W")
    assert scores.accuracy("clean") >= scores.accuracy("FGSM") >= scores.accuracy("PGD-20")
    assert scores.accuracy("worst case") == scores.correct.all(1).double().mean()
    assert scores.accuracy("worst case") <= min(scores.accuracy(a) for a in scores.attacks)


def test_eps_zero_gives_the_clean_accuracy_under_every_attack(trained: nn.Module, tiny: DataSet) -> None:
    scores = run_attacks(trained, tiny.test, Threat(eps=0))
    assert scores.attacks == ("clean", "FGSM", "PGD-20", "C&W", "AutoAttack")
    assert (scores.correct == scores.correct[:, :1]).all()


def test_the_models_mode_and_gradients_come_back(tiny: DataSet) -> None:
    net = small_net().train()
    run_attacks(net, tiny.test, Threat(eps=0.1), choose_attacks("fgsm", suite()))
    assert net.training
    assert all(p.requires_grad and p.grad is None for p in net.parameters())


def test_details_say_steps_size_and_start() -> None:
    details = {name: spec.detail(Threat(eps=8 / 255)) for name, spec in suite().items()}
    assert details["AutoAttack-quick"] == "AutoAttack quick (pyautoattack): APGD-CE and APGD-T only"
    assert details["PGD-20"] == "cross-entropy, 20 steps of 2/255, start uniform"
    assert details["FGSM"] == "cross-entropy, 1 step of 8/255, start none"
    assert details["C&W"] == "margin loss, 30 steps of 2/255, start uniform"


def test_scores_survive_the_disk(trained: nn.Module, tiny: DataSet, tmp_path: Path) -> None:
    scores = run_attacks(trained, tiny.test, Threat(eps=0.1), choose_attacks("fgsm", suite()))
    scores.save(tmp_path)
    back = Scores.load(tmp_path)
    assert torch.equal(back.correct, scores.correct)
    assert torch.equal(back.index, tiny.test.index)
    assert back.rows() == json.loads((tmp_path / "scores.json").read_text())["attacks"]
    with (tmp_path / "scores.csv").open() as f:
        assert [r["attack"] for r in csv.DictReader(f)] == ["clean", "FGSM", "worst case"]


def test_wilsons_interval_is_that_of_the_textbook() -> None:
    low, high = wilson(0.5, 100)
    assert (low, high) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    assert wilson(0.0, 10)[0] == 0
    assert wilson(1.0, 10)[1] == 1


class Broken(nn.Module):
    """Gives whatever it is told to."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, x: Tensor) -> Tensor:
        return self.logits.expand(len(x), -1)


@pytest.mark.parametrize(
    ("logits", "words"), [(torch.zeros(1, 7), "not a fit"), (torch.full((1, 4), float("nan")), "not finite")]
)
def test_a_model_that_fits_not_is_one_clear_line(logits: Tensor, words: str, tiny: DataSet) -> None:
    with pytest.raises(MmardError, match=words):
        run_attacks(Broken(logits), tiny.test, Threat(eps=0.1), {})


def test_an_unknown_attack_names_the_nearest() -> None:
    with pytest.raises(MmardError, match="did you mean pgd-20"):
        choose_attacks("pgd-2", suite())


class Planes(nn.Module):
    """Class k's logit is ⟨w_k, x⟩ + b_k: its smallest perturbation in L∞ is known in closed form."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(1)
        self.w = nn.Parameter(torch.randn(64, classes, generator=draw))
        self.b = nn.Parameter(-0.5 * self.w.detach().sum(0))  # the boundaries go through the grey image

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.w + self.b

    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        """To the nearest other class, (B,), where the range of pixels does not matter."""
        z, w = self(x), self.w[:, y].T[:, :, None] - self.w[None]
        reach = (z.gather(1, y[:, None]) - z) / w.abs().sum(1).clamp_min(1e-9)
        return reach.scatter(1, y[:, None], float("inf")).amin(1)


@pytest.mark.parametrize(
    ("classes", "stages", "words"),
    [
        (2, ("APGD-CE", "FAB-T", "Square"), "without APGD-T, whose loss needs three"),
        (3, ("APGD-CE", "APGD-T", "FAB-T", "Square"), "APGD-T's loss divides by z₁ − (z₂ + z₃) / 2"),
    ],
)
def test_autoattack_on_few_classes_does_what_works_there_and_names_it(
    classes: int, stages: tuple[str, ...], words: str
) -> None:
    model = Planes(classes)
    draw = torch.Generator().manual_seed(0)
    x = ((0.4 + 0.2 * torch.rand(6, 1, 8, 8, generator=draw)) * 255).round() / 255  # far from the ends of the range
    y = model(x).argmax(1)
    images = Images.of(x, y, tuple(map(str, range(classes))))
    distance = model.distance(x, y).detach()
    in_order = distance.sort().values
    widest = int(in_order.diff().argmax())
    eps = in_order[widest : widest + 2].mean().item()  # no image is near the edge of its ball
    far = distance > eps
    scores = run_attacks(model, images, Threat(eps=eps), choose_attacks("autoattack", suite()))
    assert torch.equal(scores.correct[:, 1], far)
    assert tuple(stage.name for stage in scores.stages) == stages
    assert scores.details[1] == f"AutoAttack standard (pyautoattack); {classes} classes: {words}"
    targeted = replace(AutoAttack(), classes=classes)
    for stage in set(stages) - {"Square"}:  # each by itself finds what is there to be found
        right = torch.eq(model(targeted.stage(stage, model, x, y, Threat(eps=eps))).argmax(1), y)
        assert torch.equal(right, far), stage
