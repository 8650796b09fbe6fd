"""Examples that people copy run: those in docstrings, and the Python of pages that needs what a reader brings."""

import doctest
import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import blobs, small_net
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import mmard
from mmard.api.registry import build_method
from mmard.core.views import Models, Views
from mmard.methods import METHODS
from mmard.training.passes import cost_of
from mmard.training.step import make_example, outer_losses
from mmard.utils.trust import Trust

SRC = Path(mmard.__file__).parent
ROOT = Path(__file__).resolve().parents[2]
WITH_EXAMPLES = [path for path in sorted(SRC.rglob("*.py")) if ">>> " in path.read_text(encoding="utf-8")]


def blocks(page: str) -> list[str]:
    """The Python of a page."""
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.S)


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=lambda path: path.relative_to(SRC).as_posix())
def test_examples_in_docstrings_say_what_comes_out(path: Path) -> None:
    module = importlib.import_module(".".join(path.relative_to(SRC.parent).with_suffix("").parts))
    failed, tried = doctest.testmod(module)
    assert (failed, tried) == (0, path.read_text(encoding="utf-8").count(">>> "))


def test_the_readmes_run_trains_and_is_evaluated(
    tmp_path: Path, digits_teacher: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As it stands, on a few images, for an epoch, and after one attack instead of a suite that takes a minute."""
    train, evaluate = mmard.train, mmard.evaluate
    quick = {"data__limit": 60, "train__epochs": 1, "train__batch_size": 50, "attack__steps": 1, "student": "cnn-4-2"}
    quick |= {"teacher": str(digits_teacher), "teacher_check": "none", "out": str(tmp_path / "run")}
    monkeypatch.setattr(mmard, "train", lambda recipe: train(recipe, **quick), raising=False)
    monkeypatch.setattr(mmard, "evaluate", lambda run: evaluate(run, "fgsm", limit=4), raising=False)
    code = blocks("README.md")[0]
    assert 'scores.accuracy("AutoAttack")' in code
    exec(code.replace('"AutoAttack"', '"FGSM"'), {})
    attacked, worst = map(float, capsys.readouterr().out.split()[-2:])
    assert attacked == worst


def test_the_readmes_rslad_is_the_one_in_the_package() -> None:
    names = {"soft_adv": None, "soft_nat": None}
    exec("from mmard import Method, Pgd\nfrom mmard.terms import soft_adv, soft_nat\n" + blocks("README.md")[1], names)
    assert str(names["rslad"]()) == str(mmard.methods.rslad())


def test_the_docs_rslad_is_the_one_in_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    exec(blocks("docs/concepts.md")[0], {})
    assert capsys.readouterr().out.strip() == str(mmard.methods.rslad())


def test_the_docs_method_of_ones_own_takes_a_step() -> None:
    names: dict = {}
    exec(blocks("docs/add_a_method.md")[0], names)
    assert set(cost_of(names["build"](weight=0.2))) == {"student", "teacher"}


def test_the_docs_step_is_a_step() -> None:
    student, teacher = small_net(), small_net(seed=1).eval().requires_grad_(False)
    names = {
        "x": torch.rand(4, 1, 8, 8), "y": torch.arange(4), "index": torch.arange(4), "progress": 0.5,
        "models": Models({"student": student, "teacher": teacher}), "method": mmard.methods.rslad(), "student": student,
        "threat": mmard.Threat(eps=0.1), "wrapped_student": student, "Views": mmard.Views, "make_example": make_example,
        "outer_losses": outer_losses,
    }  # fmt: skip
    exec(blocks("docs/concepts.md")[1], names)
    assert all(loss.requires_grad and loss.dim() == 0 for loss in names["losses"].values())


def own_loop(number: int, **names: object) -> dict[str, Any]:
    """Run an example of the page on loops of one's own, for an epoch on few images."""
    images = blobs(32)
    x, y = images.pixels.float() / 255, images.labels
    teacher = small_net(seed=1)
    loader = DataLoader(TensorDataset(x, y), batch_size=16)
    known = {"mmard": mmard, "torch": torch, "student": small_net(), "teacher": teacher, "loader": loader, "epochs": 1}
    known |= {"x": x, "y": y, "x_test": x[:8], "y_test": y[:8], **names}
    code = blocks("docs/own_loop.md")[number]
    assert sum(bool(line) for line in code.splitlines()) <= 15
    exec(code, known)
    return known


def weights(network: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in network.parameters()])


def has_moved(network: nn.Module) -> bool:
    return not torch.equal(weights(network), weights(small_net()))


@pytest.mark.filterwarnings("ignore:the test set has no image")
def test_the_docs_call_distils_and_judges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    distill, evaluate = mmard.distill, mmard.evaluate
    quick = {
        "train__epochs": 1,
        "train__batch_size": 8,
        "attack__steps": 1,
        "validation__steps": 1,
        "teacher_check": "none",
    }
    monkeypatch.setattr(mmard, "distill", lambda *a, epochs, **more: distill(*a, **more, **quick), raising=False)
    monkeypatch.setattr(mmard, "evaluate", lambda *a: evaluate(*a, "fgsm"), raising=False)
    assert has_moved(own_loop(0)["student"])
    assert (tmp_path / "runs/mine/best.safetensors").is_file()
    assert "clean" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the test set has no image")
def test_the_docs_run_of_ones_own_is_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    images = blobs(200)
    found = {"x": images.pixels.float() / 255, "y": images.labels, "student": small_net()}
    quick = {"train__batch_size": 50, "attack__steps": 1, "teacher_check": "none", "threat": mmard.Threat(eps=0.1)}
    found["run"] = mmard.distill(
        found["student"], small_net(seed=1), (found["x"], found["y"]), method="mmard", epochs=1, out="run", **quick
    )
    exec(blocks("docs/export.md")[0], found)
    assert "model-int8.onnx" in capsys.readouterr().out


def test_the_docs_plain_loop_trains() -> None:
    found = own_loop(1)
    assert has_moved(found["student"])
    assert found["distiller"].step_number == found["steps"] == 2


def test_the_docs_lightning_module_trains_and_validates(tmp_path: Path) -> None:
    """Also in inference mode, as Lightning validates unless it is told otherwise."""
    lightning = pytest.importorskip("lightning", reason="the extra dev has lightning")
    found = own_loop(2, lightning=lightning)
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    for inference in (True, False):
        module = found["Distilled"](small_net(), found["teacher"])
        trainer = lightning.Trainer(
            max_epochs=1, accelerator="cpu", default_root_dir=tmp_path, inference_mode=inference, **quiet
        )
        trainer.fit(module, found["loader"], found["loader"])
        assert {"robust", "soft_adv", "soft_nat"} <= trainer.callback_metrics.keys()
        assert module.distiller.step_number == 2  # those of the validation do not count
        assert has_moved(module.student)
        assert weights(found["teacher"]).equal(weights(small_net(seed=1)))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.* runs unfolded, a little slower")
def test_the_docs_trainer_of_hugging_face_trains_and_evaluates(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="the extra dev has transformers")
    pytest.importorskip("accelerate", reason="transformers trains by it")
    config = transformers.ResNetConfig(
        num_channels=1, embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], layer_type="basic", num_labels=4
    )
    torch.manual_seed(0)
    student = transformers.ResNetForImageClassification(config)
    before = weights(student)
    images = blobs(32)
    rows = [{"pixel_values": x / 255, "labels": int(y)} for x, y in zip(images.pixels, images.labels, strict=True)]
    args = transformers.TrainingArguments(
        output_dir=str(tmp_path), num_train_epochs=1, per_device_train_batch_size=16, use_cpu=True, report_to=[],
        eval_strategy="epoch", disable_tqdm=True, save_strategy="no",
    )  # fmt: skip
    found = own_loop(3, transformers=transformers, student=student, args=args, train=rows, test=rows)
    assert not torch.equal(before, weights(student))
    assert found["trainer"].distiller.step_number == 2
    assert any("eval_loss" in line for line in found["trainer"].state.log_history)


def test_the_docs_loop_of_accelerate_trains(tmp_path: Path) -> None:
    accelerate = pytest.importorskip("accelerate", reason="the extra dev has accelerate")
    found = own_loop(4, accelerate=accelerate)
    assert has_moved(found["student"])
    found["accelerator"].save_state(str(tmp_path))
    found["distiller"].step_number = 0
    found["accelerator"].load_state(str(tmp_path))
    assert found["distiller"].step_number == 2


@pytest.mark.figures
@pytest.mark.parametrize(("base", "share"), [("rslad", 0.0), ("ard", 0.0), ("adaad", 1.0)])
def test_the_ends_of_the_example_robust_target_are_the_published_methods(base: str, share: float) -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(12, 5, dtype=torch.double), torch.randn(12, 5, dtype=torch.double)
    models = Models({"student": lambda x: x.flatten(1) @ student, "teacher": lambda x: x.flatten(1) @ teacher})
    x, x_adv = torch.rand(2, 4, 3, 2, 2, dtype=torch.double)
    views = Views.of(x, torch.arange(4), torch.arange(4), models).moved_to(x_adv)
    found, other = (
        build_method(
            {"name": f"{ROOT / 'examples/robust_target.py'}:build", "of": base, "share": s}, Trust(everything=True)
        ).outer.total(views)
        for s in (share, 0.5)
    )
    torch.testing.assert_close(found, METHODS[base]().outer.total(views))
    assert not torch.allclose(found, other, rtol=1e-3)
