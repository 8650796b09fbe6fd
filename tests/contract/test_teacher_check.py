"""The teacher is looked at before it teaches."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import QUICK, Run, small_net
from torch import nn

from mmard import MmardError, Threat, train
from mmard.data.images import Images
from mmard.data.sources import load
from mmard.models.architectures import Architecture, Classifier
from mmard.models.cards import load_model
from mmard.models.weights import metadata_of
from mmard.training.teacher_check import TeacherCheck, robust_claim

THREAT = Threat(eps=0.1)
SETTINGS: dict[str, Any] = {
    "method": "rslad", "student": "cnn-4-2", "data__limit": 700, "train__epochs": 1, "train__batch_size": 50,
    "attack__steps": 1, "validation__steps": 1, "threat__eps": 0.1,
}  # fmt: skip


class Rule(nn.Module):
    """Class 1 where the mean of an image is above a threshold: what normalisation it needs is known."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold, self.scale = nn.Parameter(torch.tensor(threshold)), nn.Parameter(torch.tensor(20.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gap = self.scale * (x.mean((1, 2, 3)) - self.threshold)
        return torch.stack([-gap, gap], 1)


class Reads(nn.Module):
    """A teacher that reads the class off the first pixel, and numbers it in an order of its own."""

    def __init__(self, order: torch.Tensor, step: int = 20) -> None:
        super().__init__()
        self.step, self.weight = step, nn.Parameter(torch.ones(1))
        self.register_buffer("order", order)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        number = (x[:, 0, 0, 0] * 255 / self.step).round().long().clamp(0, len(self.order) - 1)
        return (
            9 * self.weight * nn.functional.one_hot(self.order[number], len(self.order)) + 0 * x.sum((1, 2, 3))[:, None]
        )


def bright_and_dark(n: int = 200, channels: int = 3) -> Images:
    draw = torch.Generator().manual_seed(0)
    y = torch.arange(n) % 2
    x = 0.3 + 0.4 * y[:, None, None, None] + 0.1 * (torch.rand(n, channels, 8, 8, generator=draw) - 0.5)
    return Images.of(x, y, ("dark", "bright"))


def teacher(threshold: float = 0.5, mean: float | None = None, std: float = 0.25) -> Classifier:
    given = {} if mean is None else {"mean": (mean,) * 3, "std": (std,) * 3}
    return Classifier(Rule(threshold), Architecture(name="rule", classes=2, **given)).eval()


def look(net: Classifier, images: Images | None = None, **changes: Any) -> dict[str, Any]:
    return TeacherCheck(images=images or bright_and_dark(), threat=THREAT, **changes)(net, "the teacher")


def test_an_honest_teacher_passes_with_its_figures() -> None:
    found = look(teacher(), claimed={"clean": 100.0, "autoattack": 99.0, "threat": "Linf 0.1"})
    assert (found["clean"], found["pgd_10"], found["images"]) == (100.0, 100.0, 200)
    assert look(teacher(), claimed={"clean": 100.0}, robust=False).keys() == found.keys() - {"pgd_10"}


@pytest.mark.parametrize(
    ("net", "name"),
    [
        (teacher(0.0, mean=0.9), r"CIFAR-10's mean and std \(.mean.: \[0.4914, "),
        (teacher(0.5, mean=0.5, std=0.5), "no normalisation"),
        (teacher(127.0), "pixels from 0 to 255"),
    ],
)
def test_a_wrong_mean_and_std_are_named_with_the_right_ones(net: Classifier, name: str) -> None:
    with pytest.raises(
        MmardError, match=f"is right on 50.0% of 200 .*; with {name}.* it is right on 100.0%; teacher_check=none"
    ):
        look(net)


def test_logits_that_are_not_finite_are_told_with_how_many() -> None:
    class Breaks(Rule):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            dark = (x.mean((1, 2, 3)) < 0.5)[:, None] & torch.tensor([False, True])
            return super().forward(x).masked_fill(dark, -math.inf)

    net = Classifier(Breaks(0.5), Architecture(name="breaks", classes=2)).eval()
    with pytest.raises(MmardError, match=r"not finite on 100 of 200 held-out images.*-1e4, not -inf"):
        look(net)


def test_a_robust_claim_is_compared_where_it_is_of_this_threat() -> None:
    fragile = teacher()
    with torch.no_grad():
        fragile.net.threshold.fill_(0.64)  # type: ignore[union-attr, operator]
    claimed = {"clean": 99.0, "autoattack": 90.0, "threat": "Linf 26/255"}
    with pytest.raises(MmardError, match=r"is right on 50.0% of 200 .* \(PGD-10\), where its card claims 90 %"):
        look(fragile, claimed=claimed)
    assert look(fragile, claimed={**claimed, "threat": "Linf 8/255"})["pgd_10"] == 50  # of a smaller ball
    assert look(fragile, claimed={**claimed, "threat": "L2 0.5"})["clean"] == 100


@pytest.mark.parametrize(
    ("threat", "claim"),
    [("Linf 8/255", 53.0), ("L∞ 0.0314", 53.0), ("L2 8/255", None), ("Linf 4/255", None), ("", None)],
)
def test_of_which_threat_a_claim_is(threat: str, claim: float | None) -> None:
    assert (
        robust_claim({"clean": 84.0, "pgd": 56.0, "autoattack": 53.0, "threat": threat}, Threat(eps=8 / 255)) == claim
    )


def test_classes_in_another_order_and_far_below_the_claim_are_told_apart() -> None:
    images = bright_and_dark()
    with pytest.raises(MmardError, match="its classes are in another order"):
        look(teacher(), Images.of(images.pixels, 1 - images.labels, images.classes))
    some_wrong = torch.where(torch.arange(200) % 8 < 2, 1 - images.labels, images.labels)
    noisy = Images.of(images.pixels, some_wrong, images.classes)
    assert look(teacher(), noisy, claimed={"clean": 85.0})["clean"] == 75  # not far enough to stop anybody
    with pytest.raises(MmardError, match=r"75.0% of 200 .* claims 95 %; .*another architecture"):
        look(teacher(), noisy, claimed={"clean": 95.0})


@pytest.mark.parametrize("order", [[0, 1, 11, *range(2, 11)], [1, 2, 0, *range(3, 12)]])
def test_classes_in_another_order_are_told_far_above_chance_too(order: list[int]) -> None:
    """Folders 0 and 1 stand first in the order of the letters as of the numbers, and that was enough to pass."""
    k = 12
    images = Images.of(torch.rand(600, 1, 8, 8), torch.arange(600) % k, tuple(map(str, range(k))))
    images.pixels[:, 0, 0, 0] = 20 * images.labels.byte()
    knows = Classifier(Reads(torch.arange(k)), Architecture(name="reads", classes=k, channels=1)).eval()
    assert look(knows, images)["clean"] == 100
    wrong = Classifier(Reads(torch.tensor(order)), Architecture(name="reads", classes=k, channels=1)).eval()
    with pytest.raises(
        MmardError, match=r"as it stands; .*another order than the data's, and in theirs it is right on 100"
    ):
        look(wrong, images)


def test_a_balanced_teacher_on_unbalanced_data_passes() -> None:
    """It takes a frequent class for its rare likeness: to call both the frequent one is right oftener, and no other order."""
    k, draw = 6, torch.Generator().manual_seed(2)
    labels = torch.multinomial(torch.tensor([0.35, 0.35, 0.075, 0.075, 0.075, 0.075]), 500, True, generator=draw)
    taken = (labels < 2) & (torch.rand(500, generator=draw) < 0.6)
    said = torch.where(taken, labels + 2, labels)
    images = Images.of(torch.rand(500, 1, 8, 8), labels, tuple(map(str, range(k))))
    images.pixels[:, 0, 0, 0] = 20 * said.byte()
    fair = Classifier(Reads(torch.arange(k)), Architecture(name="reads", classes=k, channels=1)).eval()
    assert 50 < look(fair, images, robust=False)["clean"] < 65


def test_a_weak_teacher_of_many_classes_passes() -> None:
    """Right on 60 % of 200 classes with two or three images each: no renumbering may be read into that."""
    k, draw = 200, torch.Generator().manual_seed(0)
    labels = torch.arange(500) % k
    said = torch.where(torch.rand(500, generator=draw) < 0.6, labels, torch.randint(k, (500,), generator=draw))
    images = Images.of(torch.rand(500, 1, 8, 8), labels, tuple(map(str, range(k))))
    images.pixels[:, 0, 0, 0] = said.byte()
    weak = Classifier(Reads(torch.arange(k), step=1), Architecture(name="reads", classes=k, channels=1)).eval()
    assert 50 < look(weak, images, robust=False)["clean"] < 70


def test_few_images_say_nothing_and_the_generator_stays() -> None:
    state = torch.get_rng_state()
    assert look(teacher(0.9), bright_and_dark(18)).keys() == {"images", "threat", "claimed", "clean"}
    look(teacher())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_run_keeps_what_was_found_and_its_weights_are_those_without_the_look(
    digits_teacher: Path, tmp_path: Path
) -> None:
    looked = train(**SETTINGS, teacher=str(digits_teacher), out=str(tmp_path / "a"))
    unlooked = train(**SETTINGS, teacher=str(digits_teacher), out=str(tmp_path / "b"), teacher_check="none")
    ours, theirs = (load_model(run.last_file).state_dict() for run in (looked, unlooked))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    found = json.loads(looked.teachers_file.read_text())
    held_out = load("digits", limit=700).held_out
    x, y, _ = held_out.batch(slice(None))
    clean = 100 * (load_model(digits_teacher)(x).argmax(1) == y).float().mean().item()
    assert found["teacher"]["clean"] == pytest.approx(clean)
    assert found["teacher"]["images"] == len(held_out)
    assert metadata_of(looked.best_file)["teachers"] == found
    assert not unlooked.teachers_file.exists()


def test_an_untrained_teacher_stops_before_anything_is_written(mmard: Run, tmp_path: Path) -> None:
    net = small_net(classes=10, name="cnn-4-2")
    torch.save(net.net.state_dict(), tmp_path / "w.pt")
    (tmp_path / "w.json").write_text(
        json.dumps({"architecture": "cnn-4-2", "classes": 10, "channels": 1, "file": "w.pt"})
    )
    words = ["train", "--method", "rslad", "--teacher", "w.json", "--out", "run", *QUICK, "data.limit=1000"]
    stopped = mmard(*words, "teacher_check=stop")
    assert stopped.returncode == 2
    assert "no better than chance" in stopped.stderr
    assert stopped.stderr.strip().count("\n") == 0
    assert not (tmp_path / "run/settings.yaml").exists()
    assert mmard(*words, "--teacher", "w.json").returncode == 0
