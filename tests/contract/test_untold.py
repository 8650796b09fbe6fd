"""Figures that were wrong while nothing was amiss: each is refused or told now, and an honest one is not."""

import shutil
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from helpers import blobs, small_net
from torch import Tensor, nn

from mmard import MmardError, Scores, Threat, load_model
from mmard.api.evaluate import evaluate_run
from mmard.api.evaluation_target import EvalModel, EvalTarget
from mmard.api.export import export
from mmard.api.unused_settings import EVALUATION
from mmard.data.sources import load
from mmard.evaluation.checks.consistency import flags_of_verdicts
from mmard.evaluation.checks.probes import fitted
from mmard.evaluation.checks.run import evaluate_with_checks
from mmard.evaluation.suite import choose_attacks, suite
from mmard.models.weights import save_weights

DIGITS: dict[str, Any] = {"data__name": "digits", "threat__eps": 0.1}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_weights_replaced_during_an_evaluation_get_no_record(here: Path, digits_teacher: Path) -> None:
    """The old weights' verdicts had the SHA-256 of the new ones, and card and report took them for theirs."""
    weights, other = here / "best.safetensors", here / "other.safetensors"
    shutil.copy(digits_teacher, weights)
    save_weights(other, small_net(classes=10, name="cnn-4-3").eval(), {})

    def replace(*_: object) -> None:
        shutil.copy(other, weights)

    with pytest.raises(MmardError, match=r"was replaced during the evaluation.*start the evaluation again"):
        evaluate_run(weights, "fgsm", limit=40, examples=0, on_progress=replace, **DIGITS)
    assert not list(here.rglob("scores.json"))
    assert len(evaluate_run(weights, "fgsm", limit=40, examples=0, **DIGITS).correct) == 40


THEIRS = """
import their_constants
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(64, 10)

    def forward(self, x):
        z = their_constants.SCALE * self.fc(x.flatten(1)) + their_constants.SHIFT
        return z if their_constants.SLOPE == 1 else z.detach() + their_constants.SLOPE * (z - z.detach())

def build(classes=10, channels=1):
    return Net()
"""


@pytest.mark.parametrize("changed", [{"SCALE": 1e4}, {"SCALE": 1.05}, {"SHIFT": 1e6}, {"SLOPE": 0.5}])
def test_verdicts_of_other_code_in_another_file_are_not_taken_up(
    changed: dict[str, float], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stopped evaluation went on with PGD-20 of a scale that had been mended, which a share of a logit does not show."""
    constants = ModuleType("their_constants")
    vars(constants).update(SCALE=1.0, SHIFT=0.0, SLOPE=1.0)
    monkeypatch.setitem(sys.modules, "their_constants", constants)
    (here / "net.py").write_text(THEIRS)
    torch.save({"fc.weight": torch.randn(10, 64), "fc.bias": torch.zeros(10)}, here / "net.pt")

    def kept() -> Path:
        target = EvalTarget.of("net.py:build@net.pt")
        subject = EvalModel.of(target, target.settings({"data.name": "digits"}, EVALUATION), 40, torch.device("cpu"))
        return subject.cache_in(here, choose_attacks("fgsm", suite(500, 0)), Threat(eps=0.1), 500, 0).folder

    before = kept()
    assert kept() == before
    vars(constants).update(changed)
    assert kept() != before


class Shifted(nn.Module):
    """A network with a number added to its logits, of which float32 rounds the last digits away."""

    def __init__(self, net: nn.Module, by: float) -> None:
        super().__init__()
        self.net, self.by = net, by

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x)
        return logits + self.by


def test_a_rounding_of_large_logits_is_no_randomness() -> None:
    """Such a model was called randomised, and judged over 20 draws."""
    data = load("digits")
    net = Shifted(fitted(data.train.in_memory()), 1e6)
    found = evaluate_with_checks(net, data.test.in_memory(), Threat(eps=0.1), choose_attacks("cw", suite()))
    assert not {"randomised", "state", "again"} & set(named(found))


@pytest.mark.parametrize("order", [[*range(1, 10), 0], [*range(8), 9, 8]])
def test_outputs_in_another_order_are_told(order: list[int]) -> None:
    """Images of two classes counted as broken by every attack, and nothing was amiss."""
    data = load("digits")
    net = fitted(data.train.in_memory())
    shown, given = data.test.in_memory(), (Threat(eps=0.1), choose_attacks("fgsm", suite()))
    assert named(evaluate_with_checks(net, shown, *given)) == []
    net.net.fc.weight.data, net.net.fc.bias.data = net.net.fc.weight[order], net.net.fc.bias[order]
    assert named(evaluate_with_checks(net, shown, *given)) == ["class-order"]


LINEAR = """
from torch import nn

def build(classes=10, channels=1):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
"""


def named(scores: Scores) -> list[str]:
    """The names of what the checks found."""
    return [check["name"] for check in scores.metadata["checks"] if check["name"] != "whole-set"]


def test_a_surrogate_that_is_another_network_is_told_and_an_int8_files_own_is_not(
    here: Path, digits_teacher: Path
) -> None:
    """Random weights lent their gradients, and PGD left what the file's own gradients break."""
    pytest.importorskip("onnxruntime")
    shutil.copy(digits_teacher, here / "net.safetensors")
    export(here / "net.safetensors", "int8.onnx", int8=True, **DIGITS)
    assert named(evaluate_run("int8.onnx", "pgd-20,cw", limit=100, examples=0, **DIGITS)) == []
    (here / "net.py").write_text(LINEAR)
    torch.save({"1.weight": torch.randn(10, 64), "1.bias": torch.zeros(10)}, here / "random.pt")
    for checks in ("quick", "none"):
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            scores = evaluate_run(
                "int8.onnx", "fgsm", limit=40, examples=0, surrogate="net.py:build@random.pt", checks=checks, **DIGITS
            )
        assert not [w for w in told if "exported" in str(w.message)]  # one warning for one cause
        (check,) = (check for check in scores.metadata["checks"] if check["name"] != "whole-set")
        assert (check["name"], check["level"]) == ("other-surrogate", "warning")
        assert check["said"].endswith("; it was not exported from random.pt")


def test_weights_that_a_file_does_not_name_and_that_answer_alike_are_a_note(here: Path, digits_teacher: Path) -> None:
    pytest.importorskip("onnxruntime")
    shutil.copy(digits_teacher, here / "net.safetensors")
    export(here / "net.safetensors", "net.onnx", **DIGITS)
    save_weights(here / "again.safetensors", load_model("net.safetensors"), {"saved": "again"})
    scores = evaluate_run("net.onnx", "fgsm", limit=40, examples=0, surrogate="again.safetensors", **DIGITS)
    (check,) = (check for check in scores.metadata["checks"] if check["name"] != "whole-set")
    assert (check["name"], check["level"]) == ("other-surrogate", "note")
    assert "was not exported from again.safetensors, whose logits are alike all the same" in check["said"]


def test_a_module_beside_a_surrogate_of_code_is_refused(here: Path, digits_teacher: Path) -> None:
    """Nor is one taken in silence where an exported model has no surrogate at all, or the network is named with its code."""
    pytest.importorskip("onnxruntime")
    shutil.copy(digits_teacher, here / "net.safetensors")
    export(here / "net.safetensors", "net.onnx", **DIGITS)
    (here / "net.py").write_text(LINEAR)
    torch.save({"1.weight": torch.randn(10, 64), "1.bias": torch.zeros(10)}, here / "random.pt")
    module, words = torch.nn.Linear(64, 10), "net.py:build@random.pt"
    with pytest.raises(MmardError, match=r"net.py:build@random.pt needs none, leave it out"):
        evaluate_run("net.onnx", "fgsm", limit=20, surrogate=words, module=module, **DIGITS)
    with pytest.raises(MmardError, match=r"net.py:build@random.pt needs none, leave it out"):
        load_model(words, module)
    (here / "net.safetensors").unlink()
    with (
        pytest.warns(UserWarning, match="is not there"),
        pytest.raises(MmardError, match=r"module= is like the float surrogate of net.onnx"),
    ):
        evaluate_run("net.onnx", "square", limit=20, module=module, **DIGITS)


def test_attacks_on_an_exported_model_are_compared_within_each_way() -> None:
    """Their names begin with their way, and none was compared with any other, nor Square with any gradient's."""
    n = 100
    left = {
        "clean": 90, "transfer-PGD-20": 30, "transfer-AutoAttack-quick": 60, "through-PGD-20": 88, "through-C&W": 60,
        "through-AutoAttack-quick": 60, "Square": 20,
    }  # fmt: skip
    columns = torch.stack([torch.arange(n) < count for count in left.values()], 1)
    found = flags_of_verdicts(Scores(columns, tuple(left), tuple(left), (0.0,) * len(left), torch.arange(n)))
    assert [(check.name, check.said.split()[0].rstrip(":")) for check in found] == [
        ("order", "transfer-PGD-20"), ("ce-against-margin", "through-PGD-20"), ("square", "Square"),
    ]  # fmt: skip


def test_test_images_that_were_trained_on_are_a_finding(tmp_path: Path) -> None:
    images = blobs(120)
    x, y = images.pixels.numpy(), images.labels.numpy()
    for name, rows in (("train", slice(0, 100)), ("test", slice(90, 120))):
        np.savez(tmp_path / f"{name}.npz", x=x[rows], y=y[rows])
    data = {"data__name": "npz", "data__train": tmp_path / "train.npz", "data__test": tmp_path / "test.npz"}
    own = {"settings": {"data": {key.removeprefix("data__"): str(value) for key, value in data.items()}}}
    save_weights(tmp_path / "net.safetensors", small_net(), own)
    for words, count in (({}, 10), ({"data__test": tmp_path / "train.npz"}, 100)):
        with pytest.warns(UserWarning, match="test images are training images too"):
            scores = evaluate_run(tmp_path / "net.safetensors", "fgsm", threat__eps=0.1, **{**data, **words})
        said = {check["name"]: check["said"] for check in scores.metadata["checks"]}
        assert said["overlap"] == f"{count} of all test images are images of the model's training too"
