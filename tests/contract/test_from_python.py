"""The two calls of a program that has its own networks and images: `mmard.distill` and `mmard.evaluate`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import blobs, small_net
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import mmard
from mmard import MmardError, Threat
from mmard.models.weights import save_weights

THREAT = Threat(eps=0.1)
QUICK: dict[str, Any] = {
    "train__batch_size": 50, "attack__steps": 2, "validation__steps": 2, "teacher_check": "none", "epochs": 1, "threat": THREAT,
    "method": "rslad",
}  # fmt: skip


class Plain(nn.Module):
    """Somebody's network, which gives more than logits."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Linear(512, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        return self.head(self.norm(self.conv(x)).relu().flatten(1)), None


def arrays(n: int = 120) -> tuple[Tensor, Tensor]:
    images = blobs(n)
    return images.pixels.float() / 255, images.labels


class Named(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """Images with class numbers of an order of its own."""

    def __init__(self, x: Tensor, words: Any) -> None:
        self.x, self.words, self.classes = x, words, ["ant", "cat", "dog", "emu"]

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.x[i], self.classes.index(self.words[i])


WAYS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "tensors": lambda x, y: (x, y),
    "arrays of bytes, channels last": lambda x, y: ((x * 255).byte().permute(0, 2, 3, 1).numpy(), y.tolist()),
    "a torch Dataset": TensorDataset,
    "with test images": lambda x, y: {"train": (x, y), "test": (x[:20], y[:20])},
    "by name": lambda *_: {"name": "digits", "limit": 150},
}


@pytest.mark.parametrize("way", WAYS)
def test_modules_and_images_become_a_run(way: str, tmp_path: Path) -> None:
    x, y = arrays()
    digits = way == "by name"
    student, teacher = (small_net(classes=10 if digits else 4, seed=s) for s in (0, 1))
    before = [p.detach().clone() for p in student.parameters()]
    run = mmard.distill(student, teacher, WAYS[way](x, y), out=tmp_path / "run", **QUICK)
    kept = run.settings()
    assert kept["data"]["name"] == ("digits" if digits else "python")
    assert kept["data"]["test_split"] == (None if way in ("by name", "with test images") else 0.1)
    assert (kept["threat"], kept["train"]["epochs"]) == ({"eps": 0.1, "norm": "linf"}, 1)
    assert run.best_file.is_file()
    assert not any(torch.equal(a, b) for a, b in zip(before, student.parameters(), strict=True))  # trained in place


def test_a_module_of_ones_own_is_distilled_judged_and_loaded_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x, y = arrays()
    student, teacher = Plain(), Plain()
    run = mmard.distill(student, teacher, (x.numpy(), y.numpy()), out=tmp_path / "run", **QUICK)
    student.train()
    scores = mmard.evaluate(student, x, y, THREAT, ["fgsm", "pgd-20"])
    assert student.training
    assert all(p.grad is None or p.requires_grad for p in student.parameters())
    print(scores)
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "120 test images, L∞ 0.1"
    assert [line.split("  ")[0] for line in shown[1:5]] == ["clean", "FGSM", "PGD-20", "worst case"]
    again = mmard.load_model(run, Plain())  # type: ignore[arg-type]
    assert mmard.evaluate(again, x, y, attacks="none").attacks == ("clean",)
    with torch.no_grad():
        right = (again(x)[0] if isinstance(again(x), tuple) else again(x)).argmax(1) == y
    assert torch.equal(mmard.evaluate(again, x, y, attacks="none").correct[:, 0], right)
    with pytest.raises(MmardError, match=r"given in Python.*\(Python: module=MODULE\)"):
        mmard.evaluate(run, x, y, THREAT)
    given = mmard.evaluate(run, x, y, THREAT, "none", module=Plain())
    assert torch.equal(given.correct[:, 0], right)
    mmard.distill(Plain(), teacher, (x.numpy(), y.numpy()), out=tmp_path / "run", resume=True, **QUICK)
    with pytest.raises(MmardError, match=r"images of this run were given by a Python program"):
        mmard.train(run.path, resume=True, student=Plain(), teacher=teacher)


def test_evaluate_takes_a_run_as_ever_and_its_weights_with_other_images(tmp_path: Path) -> None:
    run = mmard.distill(
        "cnn-4-2", small_net(classes=10), {"name": "digits", "limit": 150}, out=tmp_path / "run", **QUICK
    )
    own = mmard.evaluate(run, "fgsm", limit=20)
    assert own.attacks == ("clean", "FGSM") == mmard.evaluate(str(run.path), attacks=["fgsm"], limit=20).attacks
    assert list((run.path / "eval").iterdir())
    kept = {path: path.stat().st_mtime_ns for path in run.path.rglob("*")}
    x, y = arrays(40)
    for source in (run, run.path, str(run.path)):
        scores = mmard.evaluate(source, x, y, THREAT, "fgsm")
        assert len(scores.correct) == 40
        assert len(scores.metadata["classes"]) == 10
    assert kept == {path: path.stat().st_mtime_ns for path in run.path.rglob("*")}  # a program's images leave no file
    data = TensorDataset(x, y)
    assert torch.equal(mmard.evaluate(run, data, threat=THREAT, attacks="fgsm").correct, scores.correct)
    assert torch.equal(
        mmard.evaluate(run, x=x.numpy(), y=y.tolist(), threat=THREAT, attacks="fgsm").correct, scores.correct
    )


def test_what_checks_warn_of_is_in_the_print() -> None:
    x, y = arrays(40)

    class Loud(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = small_net()

        def forward(self, x: Tensor) -> Tensor:
            return 1e4 * self.net(x)

    said = str(mmard.evaluate(Loud(), x, y, THREAT, "fgsm")).splitlines()
    assert any(line.startswith("warning: scale: ") for line in said)
    assert not any(line.startswith("note") for line in said)


def test_a_data_set_of_hugging_face_is_judged_too() -> None:
    datasets = pytest.importorskip("datasets")
    image = pytest.importorskip("PIL.Image")
    x, y = arrays(24)
    pictures = [image.fromarray(np.uint8(255 * one[0].numpy())) for one in x]
    rows = datasets.Dataset.from_dict({"image": pictures, "label": y.tolist()})
    rows = rows.cast_column("image", datasets.Image())
    net = small_net()
    given = torch.stack([torch.from_numpy(np.asarray(picture)) for picture in pictures])[:, None]
    expected = mmard.evaluate(net, given, y, THREAT, "fgsm")
    assert torch.equal(mmard.evaluate(net, rows, threat=THREAT, attacks="fgsm").correct, expected.correct)


def test_a_network_of_ones_own_code_is_judged_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\ndef build(classes): return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))\n"
    )
    x, y = arrays(24)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    torch.save(net.state_dict(), tmp_path / "net.pt")
    name = f"{tmp_path}/net.py:build@{tmp_path}/net.pt"
    found, expected = (mmard.evaluate(source, x, y, THREAT, "fgsm") for source in (name, net))
    assert torch.equal(found.correct, expected.correct)
    with pytest.raises(MmardError, match="is built for a data set; in a loop of one's own give the module itself"):
        mmard.Distiller("rslad", net, name, THREAT)


def test_the_programs_random_numbers_and_device_are_its_own() -> None:
    """An evaluation between two epochs of somebody's training changes nothing in it."""
    x, y = arrays(12)
    torch.manual_seed(3)
    expected = torch.rand(3)
    for meant in (None, "meta"):
        torch.manual_seed(3)
        net = small_net(seed=5)
        torch.manual_seed(3)
        torch.set_default_device(meant)
        try:
            mmard.evaluate(net, x, y, THREAT, "fgsm")
        finally:
            torch.set_default_device(None)
        assert torch.equal(torch.rand(3), expected)


class Shared(nn.Module):
    """Two layers of the same weights, and a buffer of eight bits."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.Linear(64, 64)
        self.net = nn.Sequential(nn.Flatten(), layer, nn.ReLU(), layer, nn.Linear(64, 4))
        self.register_buffer("scale", torch.ones(2).to(torch.float8_e4m3fn))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)  # type: ignore[no-any-return]


def test_a_student_whose_layers_share_weights_is_kept_whole(tmp_path: Path) -> None:
    student = Shared()
    run = mmard.distill(student, small_net(seed=1), arrays(), out=tmp_path / "run", **QUICK, averaging__kind="none")
    again = mmard.load_model(run.path / "last.safetensors", Shared())
    for name, weight in student.state_dict().items():
        assert torch.equal(again.state_dict()[f"net.{name}"].float(), weight.float())


@pytest.mark.filterwarnings("ignore:.*another order")
def test_words_are_the_models_own_classes_in_its_order(tmp_path: Path) -> None:
    """They were numbered by the alphabet, and a model of another order had every figure wrong."""
    model, (x, _) = small_net(), arrays(24)
    names = ["emu", "ant", "cat", "dog"]  # none where the alphabet has it
    save_weights(tmp_path / "w.safetensors", model, {"classes": names})
    y = model(x).argmax(1)
    y[:4] = torch.arange(4)  # all of them occur
    right = (model(x).argmax(1) == y).double().mean().item()
    assert right > 0.8
    words = np.array(names)[y.numpy()]
    for labels in (y, words, Named(x, words)):
        given = (labels,) if isinstance(labels, Named) else (x, labels)
        assert (
            mmard.evaluate(tmp_path / "w.safetensors", *given, attacks="none", checks="none").accuracy("clean") == right
        )


def test_words_and_a_module_that_names_no_classes_are_told_how_they_are_numbered() -> None:
    model, (x, _) = small_net(), arrays(24)
    y = model(x).argmax(1)
    y[:4] = torch.arange(4)
    words = np.array(["ant", "bee", "cat", "dog"])[y.numpy()]
    with pytest.warns(UserWarning, match=r"labels are words, .* in order of the names \(ant, bee, cat, dog \.\.\.\)"):
        named = mmard.evaluate(model, x, words, attacks="none", checks="none")
    assert named.accuracy("clean") == mmard.evaluate(model, x, y, attacks="none", checks="none").accuracy("clean")


def judge(*given: Any, **options: Any) -> Callable[[], object]:
    return lambda: mmard.evaluate(*given, **{"attacks": "fgsm", **options})


def teach(data: Any = None, **given: Any) -> Callable[[], object]:
    words = {"student": small_net(), "teacher": small_net(seed=1), "out": "runs/never", **QUICK, **given}
    return lambda: mmard.distill(
        words.pop("student"), words.pop("teacher"), arrays() if data is None else data, **words
    )


X, Y = arrays(24)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (judge(small_net()), r"a network and no images; expected evaluate\(model, x, y, threat\)"),
        (judge(small_net(), X, Y), r"attacks and no threat; expected one such as threat=mmard.Threat\(eps=8/255\)"),
        (judge(small_net(), X, Y, 0.1), "evaluate: threat is 0.1, expected an instance of Threat"),
        (judge(3, X, Y, THREAT), "evaluate: source is 3, expected"),
        (judge("nowhere", X, Y, THREAT), "no model at nowhere"),
        (judge(small_net(), X * 255, Y, THREAT), r"pixels lie in \[.*expected \[0, 1\]"),
        (judge(small_net(), X, Y + 1, THREAT), "labels go up to 4, and the model has 4 classes, 0 to 3"),
        (judge(small_net(), X, Y - 1, THREAT), "labels"),
        (judge(small_net(), X, Y[:3], THREAT), "with 3 labels"),
        (judge(small_net(), X, ["cat", "dog"] * 12, THREAT), "labels are 2 words, and the model has 4 classes"),
        (judge(small_net(channels=3), X, Y, THREAT), "images have 1 channels, the model takes 3"),
        (judge(nn.Flatten(0), X, Y, THREAT), "the model gives"),
        (judge(nn.Linear(3, 4), X, Y, THREAT), "the model fails on images .* RuntimeError"),
        (judge(nn.Sequential(nn.Flatten(), nn.LazyLinear(4)), X, Y, THREAT), "the weights of the model are of a lazy module"),
        (judge(small_net(), X.to("meta"), Y, THREAT), "pixels are no array of numbers"),
        (teach(student=nn.Sequential(nn.Flatten(), nn.Linear(64, 4)).half()), "its weights are float16, expected float32: call"),
        (teach(student=nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten())), "the network to train has no weights"),
        (judge(small_net(), X, Y, THREAT, attacks="fgms"), "unknown attack 'fgms'"),
        (teach(data=7), "data is 7, expected a name, settings, or images"),
        (teach(data=(X, Y[:3])), "with 3 labels"),
        (teach(method=mmard.methods.rslad()), "distill: method is .* expected a word"),
        (teach(threat=0.1), "distill: threat is 0.1, expected an instance of Threat"),
        (teach(threat=Threat(eps=0.1, lower=-1.0)), r"the threat's pixels are in \[-1, 1\], expected \[0, 1\]"),
        (teach(teacher=None), "the method asks for a 'teacher' model"),
        (teach(teacher=small_net(classes=3)), "has 3 classes"),
        (teach(student=small_net(classes=3), teacher=None, method="pgd_at"), "the student has 3 classes .*, the data 4"),
        (teach(student="resnet1"), "unknown model 'resnet1'"),
        (teach(epoch=3), "unknown setting 'epoch'"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(
    wrong: Callable[[], object], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MmardError, match=words) as found:
        wrong()
    assert "\n" not in str(found.value)


def test_what_is_images_and_what_settings() -> None:
    from mmard.data.given import has_test, is_images

    settings = [
        None,
        "digits",
        {"name": "csv", "train": "a.csv", "test": ["b.csv", Path("c.csv")]},
        {"size": 8, "label": None},
    ]
    assert not any(map(is_images, settings))
    assert all(
        map(is_images, [(X, Y), {"x": X, "y": np.zeros(3)}, {"train": TensorDataset(X, Y)}, TensorDataset(X, Y)])
    )
    two = TensorDataset(X, Y)
    assert all(
        map(has_test, [(two, two), (X, Y, X, Y), {"train": two, "validation": two}, {"x_train": X, "x_test": X}])
    )
    assert not any(map(has_test, [(X, Y), two, {"train": two}, {"x": X, "y": Y}]))
