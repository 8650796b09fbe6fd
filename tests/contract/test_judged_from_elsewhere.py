"""Evaluations of somebody's networks: each figure is of the code, the weights and the data that it says."""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from helpers import QUICK, Run, blobs, small_net
from sklearn.datasets import load_digits
from torch import Tensor, nn

import mmard
from mmard import MmardError, Threat
from mmard.api.evaluate import evaluate_run
from mmard.api.evaluation_target import EvalModel, EvalTarget
from mmard.api.export import export
from mmard.api.push import push
from mmard.api.teacher import examine
from mmard.api.train import train
from mmard.api.unused_settings import EVALUATION
from mmard.evaluation.suite import choose_attacks, suite
from mmard.models.weights import save_weights
from mmard.report.card import front_matter
from mmard.runs.evaluation import read_scores
from mmard.runs.record import read_run

DIGITS: dict[str, Any] = {"data__name": "digits", "threat__eps": 0.1}
NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self, classes, shift):
        super().__init__()
        self.shift, self.conv, self.fc = shift, nn.Conv2d(1, 4, 3, 2, 1), nn.Linear(64, classes)

    def forward(self, x):
        h = nn.functional.relu(self.conv(x - self.shift))
        return self.fc(h.view(len(h), -1))

def build(classes, channels=1):
    return Net(classes, 0.0)

def shifted(classes, channels=1):
    return Net(classes, 0.4)
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a network that calls ``.view`` and its weights."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NET)
    space: dict[str, Any] = {}
    exec(compile(NET, "net.py", "exec"), space)
    torch.manual_seed(0)
    torch.save(space["build"](10).state_dict(), tmp_path / "net.pt")
    return tmp_path


def test_a_network_that_calls_view_is_judged_and_exported_to_the_end(here: Path) -> None:
    """Its attacks ran for hours, and then the examples for a report failed, again at each new start."""
    scores = evaluate_run("net.py:build@net.pt", "fgsm", limit=40, examples=3, curve=True, **DIGITS)
    (folder,) = (here / "eval").iterdir()
    assert {"examples.safetensors", "curve.json", "scores.json"} <= {file.name for file in folder.iterdir()}
    assert len(scores.correct) == 40
    pytest.importorskip("onnxruntime")
    assert export("net.py:build@net.pt", **DIGITS).comparison.largest < 1e-4


def test_a_module_that_calls_view_is_judged(here: Path) -> None:
    space: dict[str, Any] = {}
    exec(compile(NET, "net.py", "exec"), space)
    x, y, _ = blobs(24).batch(slice(None))
    found = mmard.evaluate(space["build"](4), x, y, Threat(eps=0.1), "fgsm")
    assert len(found.correct) == 24


def test_verdicts_of_other_code_are_not_taken_up_and_two_networks_have_two_folders(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a stopped evaluation a mended normalisation still gave the figures of the wrong one."""
    package = ModuleType("their_package")
    space: dict[str, Any] = {}
    exec(compile(NET, "net.py", "exec"), space)
    package.build = space["build"]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "their_package", package)
    source = "their_package:build@net.pt"

    def kept() -> Path:
        target = EvalTarget.of(source)
        subject = EvalModel.of(target, target.settings({"data.name": "digits"}, EVALUATION), 40, torch.device("cpu"))
        return subject.cache_in(here, choose_attacks("fgsm", suite(500, 0)), Threat(eps=0.1), 500, 0).folder

    before = kept()
    assert kept() == before
    package.build = space["shifted"]  # type: ignore[attr-defined]
    assert kept() != before
    for name in ("build", "shifted"):
        evaluate_run(f"net.py:{name}@net.pt", "fgsm", limit=40, examples=0, **DIGITS)
    assert len(list((here / "eval").iterdir())) == 2


def test_without_attacks_no_radius_is_made_up(here: Path, mmard: Run) -> None:
    source, data = "net.py:build@net.pt", {"data__name": "digits"}
    scores = evaluate_run(source, "none", limit=40, examples=3, **data)
    assert "threat" not in scores.metadata or not scores.metadata["threat"]
    assert "worst case" not in str(scores)
    (folder,) = (here / "eval").iterdir()
    assert not (folder / "examples.safetensors").exists()
    (card,) = here.glob("*card.md")
    assert "255" not in card.read_text()
    with pytest.raises(MmardError, match="neither the weights nor the command say which eps"):
        evaluate_run(source, "none", limit=40, curve=True, **data)
    done = mmard("eval", source, "data.name=digits", "--attacks", "none", "--limit", "40")
    assert done.returncode == 0
    assert "worst case" not in done.stdout


class Noisy(nn.Module):
    """Another logit at each look."""

    def __init__(self) -> None:
        super().__init__()
        self.net = small_net(10)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x + 0.2 * torch.randn_like(x))  # type: ignore[no-any-return]


def test_the_curve_of_a_randomised_model_is_of_the_mean_over_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    package = ModuleType("noisy")
    package.Noisy = Noisy  # type: ignore[attr-defined]
    package.build = lambda: Noisy()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "noisy", package)
    torch.manual_seed(0)
    torch.save(Noisy().state_dict(), "w.pt")
    calls = []
    monkeypatch.setattr("mmard.evaluation.eot.Averaged.forward", _counting(calls))
    with pytest.warns(UserWarning, match="logits are others"):
        evaluate_run("noisy:build@w.pt", "fgsm", limit=20, examples=0, curve=True, checks="quick", **DIGITS)
    (folder,) = (tmp_path / "eval").iterdir()
    assert any(check["name"] == "randomised" for check in read_scores(folder).metadata["checks"])
    assert json.loads((folder / "curve.json").read_text())["samples"] == 20
    assert len(calls) > 8 * 20  # eight radii by twenty steps, each over draws


def _counting(calls: list[int]) -> Any:
    def forward(self: Any, x: Tensor) -> Tensor:
        calls.append(len(x))
        return torch.stack([self.model(x) for _ in range(2)]).mean(0)

    return forward


@pytest.fixture
def run(tmp_path: Path) -> Path:
    words: dict[str, Any] = {**dict(word.split("=") for word in QUICK), "data.limit": 150, "train.epochs": 1}
    return train(method="pgd_at", out=str(tmp_path / "run"), **{k.replace(".", "__"): v for k, v in words.items()}).path


@pytest.fixture
def inverted(tmp_path: Path) -> str:
    """All the digits, black on white."""
    bunch = load_digits()
    np.savez(tmp_path / "inverted.npz", x=255 - (bunch.images * 15.9).astype(np.uint8), y=bunch.target)
    return str(tmp_path / "inverted.npz")


def test_figures_of_other_data_have_their_name_on_the_card(run: Path, inverted: str) -> None:
    evaluate_run(run, "none", limit=30, examples=0)
    evaluate_run(run, "none", limit=30, examples=0, data__name="npz", data__train=inverted, data__test_split=0.5)
    named = [result["dataset"]["name"] for result in front_matter(read_run(run, "run"))["model-index"][0]["results"]]
    assert sorted(named) == ["digits", "inverted"]
    assert "of inverted (eval/" in (run / "README.md").read_text()


def test_exports_of_older_weights_are_left_out(run: Path) -> None:
    pytest.importorskip("onnxruntime")
    from mmard.api.measure import measure

    made = export(run)
    record = measure(run, made.path, images=20)
    assert [row.weights for row in record.rows if row.file] == [made.metadata["sha256"]]
    assert "model.onnx" in push(run, "me/net", dry_run=True).files
    save_weights(run / "best.safetensors", small_net(10), {"settings": {"data": {"name": "digits"}}})
    with pytest.warns(
        UserWarning, match=r"model.onnx was exported from other weights than best.safetensors and is left out"
    ):
        upload = push(run, "me/net", dry_run=True)
    assert "model.onnx" not in upload.files
    assert "## Exported" not in upload.files["README.md"].decode()


def test_a_card_called_as_a_record_is_not_written_over(here: Path) -> None:
    save_weights(here / "t.safetensors", small_net(10), {})
    (here / "teacher.json").write_text('{"file": "t.safetensors", "architecture": "cnn-4-2"}')
    with pytest.raises(MmardError, match=r"teacher.json is no record of an examination, .* give another --out FOLDER"):
        examine("t.safetensors", natural="none", robust="none", limit=20, to=".", **DIGITS)
    assert "architecture" in (here / "teacher.json").read_text()


def test_a_teacher_of_ones_own_code_is_examined_on_as_many_images_as_asked_for(here: Path, inverted: str) -> None:
    words = {"data__name": "npz", "data__train": inverted, "data__test_split": 0.5, "threat__eps": 0.1}
    found = examine("net.py:build@net.pt", natural="none", robust="none", limit=800, **words)
    assert 700 < found.measured["images"] <= 800
