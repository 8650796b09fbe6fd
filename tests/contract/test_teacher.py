"""`mmard teacher`: what a teacher is, whether its claim holds, and how well it will teach."""

import json
import math
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import Run, small_net
from torch import Tensor, nn

from mmard import MmardError, Threat, evaluate, load_model
from mmard.api.settings import read_settings
from mmard.api.teacher import examine
from mmard.api.train import teacher_of
from mmard.data.images import Images
from mmard.diagnostics.teaching import Lessons, Small, advice, lessons, temperature
from mmard.models.architectures import Architecture, build
from mmard.models.cards import find_model, load_teacher
from mmard.models.recognise import card_facts
from mmard.models.robustbench import network
from mmard.models.weights import save_weights

DIGITS = {"data__name": "digits", "data__limit": 300, "threat__eps": 0.1}


def bright(n: int = 40) -> Images:
    """Images (1, 1, 1) of one pixel, below and above a half, .02 apart; the class says which."""
    x = torch.linspace(0.11, 0.89, n).view(n, 1, 1, 1)
    return Images.of(x, (x.flatten() > 0.5).long(), ("dark", "bright"))


def ruler(scale: float, threshold: float = 0.5) -> Any:
    """Logits (−z, z) with z = scale · (pixel − threshold)."""

    def net(x: Tensor) -> Tensor:
        z = scale * (x.mean((1, 2, 3)) - threshold)
        return torch.stack([-z, z], 1)

    return net


def test_lessons_of_a_ruler_are_what_a_pencil_says() -> None:
    """A pixel moves by eps towards the threshold: all that is known of x' and of the answer there."""
    images, threat, scale = bright(), Threat(eps=0.1), 5.0
    given = lessons(
        ruler(scale), images, threat, {"natural": {}, "robust": {"near": ruler(2.0), "far": ruler(2.0, 0.45)}}
    )
    x = images.batch(slice(None))[0].flatten()
    to_half = torch.where(x > 0.5, -1.0, 1.0)
    at = x + 0.1 * to_half
    p = torch.sigmoid(2 * scale * (x - 0.5) * -to_half)
    p_adv = torch.sigmoid(2 * scale * (at - 0.5) * -to_half)
    row = given.row()
    assert (row["images"], row["classes"], row["clean"]) == (40, 2, 1.0)
    assert row["robust"] == pytest.approx(((x - 0.5).abs() > 0.1).float().mean().item())
    assert row["label"] == pytest.approx(p.mean().item(), abs=1e-5)
    assert row["label_adv"] == pytest.approx(p_adv.mean().item(), abs=1e-5)
    h = -(p * p.log() + (1 - p) * (1 - p).log())
    assert row["entropy"] == pytest.approx(h.mean().item(), abs=1e-5)
    assert row["transfer_robust"] == pytest.approx((1.0 + 1.0) / 2, abs=0.5)
    assert row["effect_robust"] == pytest.approx(1.0, abs=1e-4)  # its examples are those of a direct attack
    assert row["transfer_natural"] is None
    hard = given.unlearnable
    assert hard is not None
    wrong = ((x - 0.5).abs() < 0.1) & torch.where(x > 0.5, x - 0.1 < 0.45, x + 0.1 > 0.45)
    assert (hard <= wrong).all()
    assert hard.any()
    assert row["entropy_unlearnable"] > row["entropy_learnable"]  # type: ignore[operator]


@pytest.mark.parametrize("target", [0.1, 0.3])
def test_a_temperature_reaches_its_entropy_and_never_softens(target: float) -> None:
    logits = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    tau = temperature(logits, target)
    p = (logits / tau).softmax(1)
    assert -(p * p.log().clamp_min(-1e9)).sum(1).mean().item() == pytest.approx(target, abs=1e-3)
    assert temperature(logits * 100, target) == 1.0


def made(n: int = 100, sure: float = 8.0, adv: float = 4.0, small: float = 0.3, reach: float = 0.5) -> Lessons:
    """Lessons of two classes: the teacher always right, with logits (0, sure) at x and (0, adv) at x'."""
    y, zeros = torch.ones(n, dtype=torch.long), torch.zeros(n)
    nat, robust = (
        torch.stack([zeros, zeros + sure], 1),
        torch.rand(n, generator=torch.Generator().manual_seed(0)) < small,
    )
    p, p_adv = torch.sigmoid(torch.tensor(sure)), torch.sigmoid(torch.tensor(adv))
    label = torch.full((n,), (p - reach * (p - p_adv)).item())
    one = Small(torch.ones(n, dtype=torch.bool), robust, robust.float(), torch.ones(n, dtype=torch.bool), label, zeros)
    return Lessons(y, nat, torch.stack([zeros, zeros + adv], 1), {}, {"net": one})


@pytest.mark.parametrize(
    ("changes", "verdict", "words"),
    [
        ({"sure": 1.7, "adv": 0.5}, "with care", "targets are soft .* temperature of 0"),
        ({"sure": 9.0, "adv": 3.0}, "with care", "sure .* of images that a small network cannot learn.* stop early"),
        ({"sure": 3.5, "adv": 1.0, "reach": 0.05}, "with care", "move its answer by 5% .* saad"),
        (
            {"sure": 3.5, "adv": -1.0, "small": 0.9},
            "poor",
            "right on 0%, and a small network .* on 9.%: there is nothing",
        ),
        ({"sure": 2.9, "adv": 1.0}, "good", "sharp enough"),
    ],
)
def test_advice_follows_from_the_figures(changes: dict[str, float], verdict: str, words: str) -> None:
    given = made(**changes)
    found = advice(given.row(), given.nat)
    assert found.verdict == verdict, found.sentence()
    assert found.target == pytest.approx(0.35 * math.log(2))
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(found.sentence())


def test_a_claim_that_does_not_hold_is_said_first() -> None:
    given = made(sure=1.7, adv=0.5)
    found = advice(given.row(), given.nat, below="is right on 12 %")
    assert found.verdict == "poor"
    assert found.sentence().startswith(
        "Choose another teacher: it does not hold its claim (is right on 12 %); its targets"
    )


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def test_somebodys_weights_get_a_card_by_their_names_and_shapes(there: Path) -> None:
    state = build(Architecture(name="wrn-10-1", classes=10, channels=1)).net.state_dict()
    ema = {name: t + 1 if t.is_floating_point() else t for name, t in state.items()}
    torch.save({"state_dict": {f"module.{k}": t for k, t in state.items()}, "ema": ema}, there / "w.pt")
    found = examine("w.pt", natural="none", robust="none", limit=20, **DIGITS)
    card = json.loads((there / "w.json").read_text())
    assert (card["architecture"], card["classes"], card["channels"], card["key"]) == ("wrn-10-1", 10, 1, "ema")
    assert found.what["card"] == "w.json"
    assert torch.equal(load_model("w.json").net.fc.weight, ema["fc.weight"])  # type: ignore[union-attr, arg-type]
    record = json.loads((there / "teacher/w/teacher.json").read_text())
    assert record["what"]["architecture"] == "wrn-10-1"
    assert record["figures"]["transfer_robust"] is None
    before = (there / "w.json").read_text()
    assert "card" not in examine("w.pt", natural="none", robust="none", limit=20, **DIGITS).what
    assert (there / "w.json").read_text() == before
    assert [folder.name for folder in (there / "teacher").iterdir()] == ["w"]


@pytest.mark.parametrize(
    "beside", [{"file": "w.safetensors", "architecture": "wrn-10-1", "classes": 10}, {"lr": 0.1}, []]
)
def test_the_card_of_another_file_is_not_taken(beside: Any, there: Path) -> None:
    """Of ``w.safetensors``, say, which lies beside ``w.pt``; nor is any other .json of that name."""
    state = build(Architecture(name="wrn-10-1", classes=10, channels=1)).net.state_dict()
    torch.save(state, there / "w.pt")
    (there / "w.json").write_text(kept := json.dumps(beside))
    found = examine("w.pt", natural="none", robust="none", limit=20, **DIGITS)
    assert (there / "w.json").read_text() == kept
    assert found.what["card"] == "w.pt.json"
    assert json.loads((there / "w.pt.json").read_text())["file"] == "w.pt"
    assert examine("w.pt", natural="none", robust="none", limit=20, **DIGITS).what["architecture"] == "wrn-10-1"
    (there / "w.pt.json").write_text(kept)
    with pytest.raises(MmardError, match=r'w.json and w.pt.json do not name w.pt as their "file"'):
        examine("w.pt", natural="none", robust="none", limit=20, **DIGITS)


def test_figures_of_two_files_of_one_stem_lie_apart(there: Path) -> None:
    """Those of ``w.json``, the card of ``w.pt``, and of ``w.safetensors``: neither writes over the other's."""
    state = build(Architecture(name="cnn-4-2", classes=10, channels=1)).net.state_dict()
    torch.save(state, there / "w.pt")
    card = {"file": "w.pt", "architecture": "cnn-4-2", "classes": 10, "channels": 1}
    (there / "w.json").write_text(json.dumps(card))
    save_weights(there / "w.safetensors", build(Architecture(name="cnn-4-2", classes=10, channels=1)))
    for _ in range(2):  # the second time each finds its own again
        for source in ("w.json", "w.safetensors"):
            evaluate(source, "fgsm", limit=20, data__name="digits", threat__eps=0.1)
            examine(source, natural="none", robust="none", limit=20, **DIGITS)
    models = {path.parent.name: json.loads(path.read_text())["model"] for path in there.glob("eval/*/scores.json")}
    assert sorted(models.values()) == ["w.json", "w.safetensors"]
    sources = [json.loads(path.read_text())["source"] for path in there.glob("teacher/*/teacher.json")]
    assert sorted(sources) == ["w.json", "w.safetensors"]


@pytest.mark.parametrize(
    "name",
    ["wrn-16-2", "wrn-cosine-10-1", "wrn-pssilu-10-1", "dm-wrn-10-2", "dm-wrn-sparse-10-1", "dm-preactresnet18", "resnet18",
     "preactresnet18", "preactresnet18-plain", "resnet50"],
)  # fmt: skip
def test_layouts_are_recognised(name: str, there: Path) -> None:
    net = build(Architecture(name=name, classes=7)).net
    torch.save({"net": {f"module.model.{k}": t for k, t in net.state_dict().items()}}, there / "w.pt")
    facts = card_facts(there / "w.pt")
    assert (facts["architecture"], facts["classes"], facts["channels"]) == (name, 7, 3)


def test_what_is_not_recognised_is_one_line(there: Path) -> None:
    torch.save(nn.Linear(3, 2).state_dict(), there / "w.pt")
    with pytest.raises(MmardError, match=r"of no layout that its names tell \(weight, \(2, 3\), ...\); write a card"):
        examine("w.pt", natural="none", robust="none", **DIGITS)


def test_a_normalisation_beside_the_weights_goes_into_the_card(there: Path) -> None:
    state = build(Architecture(name="wrn-10-1", classes=10)).net.state_dict()
    torch.save({"mu": torch.tensor([0.5, 0.4, 0.3]).view(1, 3, 1, 1), "sigma": torch.full((1, 3, 1, 1), 0.25), **state},
               there / "w.pt")  # fmt: skip
    facts = card_facts(there / "w.pt")
    assert facts["mean"] == pytest.approx([0.5, 0.4, 0.3])
    assert facts["std"] == [0.25] * 3


def test_few_images_are_examined_and_the_verdict_says_how_few(there: Path) -> None:
    save_weights(there / "t.safetensors", small_net(10), {})
    found = examine("t.safetensors", epochs=1, data__name="digits", data__limit=60, threat__eps=0.1)
    assert found.advice.verdict != "good"
    assert any("6 held-out images say next to nothing" in reason for reason in found.advice.reasons)
    with pytest.raises(
        MmardError, match=r"train\.batch_size changes nothing in an examination, which takes data, threat; leave"
    ):
        examine("t.safetensors", data__name="digits", threat__eps=0.1, train__batch_size=16)


def test_the_command_trains_small_networks_once_and_prints_what_they_show(mmard: Run, tmp_path: Path) -> None:
    save_weights(tmp_path / "t.safetensors", small_net(10), {"settings": {"data": {"name": "digits"}}})
    settings = ("data.name=digits", "data.limit=300", "threat.eps=0.1")
    words = ("teacher", "t.safetensors", *settings, "--limit", "30", "--epochs", "1")
    done = mmard(*words)
    assert done.returncode == 0, done.stderr
    for part in (
        "cnn-4-2:",
        "test images: clean",
        "fooled by a natural net",
        "temperature",
        "Choose another teacher",
        "rules of",
    ):
        assert part in done.stdout
    assert len(list((tmp_path / "runs/small-nets").iterdir())) == 2
    again = mmard(*words, "--json")
    assert again.returncode == 0, again.stderr
    record = json.loads(again.stdout)
    assert len(list((tmp_path / "runs/small-nets").iterdir())) == 2
    assert record["advice"]["verdict"] == "poor"
    assert record == json.loads((tmp_path / "teacher/t/teacher.json").read_text())
    assert str(tmp_path) not in again.stdout


def three_levels(count: int) -> tuple[Tensor, Tensor]:
    """Images of three levels of grey, and which one it is."""
    y = torch.arange(count) % 3
    return torch.tensor([0.5, 0.9, 0.1])[y].view(-1, 1, 1, 1).expand(-1, 1, 8, 8) + 0.01 * torch.rand(count, 1, 8, 8), y


def knows_levels(order: list[int], channels: int = 1) -> nn.Module:
    """A network that tells the levels apart; its k-th logit is of the class ``order[k]``."""
    model = build(Architecture(name="cnn-2-1", classes=3, channels=channels))
    levels, x = torch.tensor([0.5, 0.9, 0.1])[order], nn.Linear(channels * 64, 3)
    x.weight.data[:] = 40 * levels[:, None] / (channels * 64)
    x.bias.data[:] = -20 * levels.square()
    model.net = nn.Sequential(nn.Flatten(), x)
    return model


def test_a_small_network_of_another_class_order_is_judged_in_its_own(
    there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It learns on the data's own order, labels follow the teacher's: it was said to be right on nothing."""
    for part, n in (("tr", 300), ("te", 90)):
        x, y = three_levels(n)
        np.savez(there / f"{part}.npz", x=x.numpy(), y=y.numpy(), classes=np.array(["cat", "dog", "emu"]))
    save_weights(there / "t.safetensors", small_net(3), {"classes": ["emu", "cat", "dog"]})
    save_weights(there / "s.safetensors", small_net(3), {"classes": ["cat", "dog", "emu"]})
    nets = {"t.safetensors": knows_levels([2, 0, 1]), "s.safetensors": knows_levels([0, 1, 2])}
    monkeypatch.setattr("mmard.api.teacher.load_model", lambda path, **_: nets[Path(path).name].eval())
    words = {"data__name": "npz", "data__train": "tr.npz", "data__test": "te.npz", "threat__eps": 0.02, "limit": 30}
    with pytest.warns(UserWarning, match="another order"):
        row = examine("t.safetensors", natural="none", robust="s.safetensors", **words).lessons.row()
    assert (row["clean"], row["small_robust"]) == (1.0, 1.0)


def test_small_networks_take_the_teachers_channels(there: Path) -> None:
    """On grey pictures they took one, the teacher three, and the advice that came was impossible."""
    for part, n in (("tr", 120), ("te", 60)):
        x, y = three_levels(n)
        np.savez(there / f"{part}.npz", x=x.numpy(), y=y.numpy(), classes=np.array(["cat", "dog", "emu"]))
    save_weights(there / "t.safetensors", small_net(3, channels=3), {"classes": ["cat", "dog", "emu"]})
    words = {"data__name": "npz", "data__train": "tr.npz", "data__test": "te.npz", "threat__eps": 0.02, "limit": 30}
    with pytest.warns(UserWarning, match="three equal channels"):
        assert examine("t.safetensors", robust="none", epochs=1, **words).lessons.row()["images"] > 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["data.name=digits"], "no teacher given"),
        (["gone.json", "data.name=digits"], "no model at gone.json"),
        (["timm:resnet10t@w.pt", "data.name=digits"], "does not say its threat; name it"),
        (["t.safetensors", "threat.eps=0.1", "--limit", "5"], "--limit"),
        (["t.safetensors", "data.name=digits"], "neither the weights nor the command say which eps"),
        (["t.safetensors", "data.name=digits", "threat.eps=0.1", "--target-entropy", "0"], "target_entropy is 0"),
        (["t.safetensors", "data.name=digits", "threat.eps=0.1", "--natural", "gone"], "no model at gone"),
    ],
)
def test_wrong_words_are_one_line(mmard: Run, tmp_path: Path, words: list[str], said: str) -> None:
    save_weights(tmp_path / "t.safetensors", small_net(10), {})
    done = mmard("teacher", *words)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


FAKE = {
    "robustbench/__init__.py": "",
    "robustbench/model_zoo/__init__.py": """
from enum import Enum
from torch import nn
from mmard.models.architectures import Architecture, build
from mmard.models.wideresnet import WideResNet


class Data(Enum):
    cifar_10 = "cifar10"


class Threat(Enum):
    Linf = "Linf"


class Centred(nn.Module):
    def __init__(self):
        super().__init__()
        import torch
        self.register_buffer("mean", torch.full((1, 3, 1, 1), 0.5))
        self.register_buffer("std", torch.full((1, 3, 1, 1), 0.25))

    def forward(self, x):
        return (x - self.mean) / self.std


def wrapped():
    from collections import OrderedDict
    return nn.Sequential(OrderedDict([("normalize", Centred()), ("model", WideResNet(10, 1, 10, 3))]))


model_dicts = {Data.cifar_10: {Threat.Linf: {
    "Inside2020": {"model": lambda: WideResNet(10, 1, 10, 3), "gdrive_id": "abc"},
    "Wrapped2021": {"model": wrapped, "gdrive_id": "def"},
    "Many2022": {"model": wrapped, "gdrive_id": ["a", "b"]},
}}}
""",
    "timm.py": "def is_model(name):\n    return False\n",
    "robustbench-9.9.dist-info/METADATA": """Metadata-Version: 2.1
Name: robustbench
Version: 9.9

### CIFAR-10

#### Linf, eps=8/255
| <sub>**1**</sub> | <sub><sup>**Inside2020**</sup></sub> | <sub>*[A](b)*</sub> | <sub>85.21%</sub> | <sub>56.94%</sub> |
#### L2, eps=0.5
| <sub>**1**</sub> | <sub><sup>**Inside2020**</sup></sub> | <sub>*[A](b)*</sub> | <sub>95.00%</sub> | <sub>80.00%</sub> |
""",
}


@pytest.fixture
def zoo(there: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that looks like RobustBench's, and no network: `fetched` gives what lies in ``served``."""
    for name, text in FAKE.items():
        (there / "site" / name).parent.mkdir(parents=True, exist_ok=True)
        (there / "site" / name).write_text(text)
    for name in [name for name in sys.modules if name.partition(".")[0] in ("robustbench", "timm")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(there / "site")

    def served(url: str, digest: str | None = None) -> Path:
        return there / f"{url.rpartition('=')[2]}.pt"

    monkeypatch.setattr("mmard.models.cards.fetched", served)
    yield there
    for name in [name for name in sys.modules if name.partition(".")[0] in ("robustbench", "timm")]:
        del sys.modules[name]


@pytest.mark.parametrize(("name", "file", "mean"), [("Inside2020", "abc", ()), ("Wrapped2021", "def", (0.5, 0.5, 0.5))])
def test_a_model_of_robustbench_goes_by_its_name(zoo: Path, name: str, file: str, mean: tuple[float, ...]) -> None:
    state = build(Architecture(name="wrn-10-1", classes=10)).net.state_dict()
    torch.save({"state_dict": {f"module.{k}": t for k, t in state.items()}}, zoo / f"{file}.pt")
    with pytest.warns(match="it is kept in"):
        net = load_teacher(f"robustbench:cifar10/Linf/{name}", 10, 3)
    assert torch.equal(net.net.fc.weight, state["fc.weight"])  # type: ignore[union-attr, arg-type]
    assert net.architecture.mean == mean
    card = json.loads(find_model(f"robustbench:cifar10/Linf/{name}").read_text())
    assert card["claimed"] == ({} if mean else {"clean": 85.21, "autoattack": 56.94, "threat": "Linf 8/255"})
    assert card["source"].startswith("RobustBench 9.9")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("cifar10/Linf/Inside2021", "RobustBench has no model 'Inside2021' for cifar10/Linf; did you mean Inside2020"),
        ("cifar10/L2/Inside2020", "unknown zoo of RobustBench 'cifar10/L2'"),
        ("Inside2020", "expected data, threat and name, such as robustbench:cifar10/Linf/Chen2021LTD_WRN34_10"),
        ("cifar10/Linf/Many2022", "is an ensemble of several files"),
    ],
)
def test_a_name_that_the_zoo_does_not_have(zoo: Path, source: str, words: str) -> None:
    with pytest.raises(MmardError, match=words):
        find_model(f"robustbench:{source}")


@pytest.mark.torchvision
def test_the_package_itself_says_what_a_model_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if find_spec("robustbench") is None:
        pytest.skip("the extra is not installed here: mmard[robustbench]")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source = "robustbench:cifar10/Linf/Addepalli2022Efficient_RN18"
    card = json.loads(find_model(source).read_text())
    assert card["claimed"] == {"clean": 85.71, "autoattack": 52.48, "threat": "Linf 8/255"}
    net, _ = network(source)
    assert net.eval()(torch.rand(2, 3, 32, 32)).shape == (2, 10)


def test_without_the_package_the_line_says_how_to_get_it(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "robustbench", None)
    monkeypatch.setitem(sys.modules, "robustbench.model_zoo", None)
    with pytest.raises(MmardError, match=r"pip install 'mmard\[robustbench\]'"):
        find_model("robustbench:cifar10/Linf/Chen2021LTD_WRN34_10")


@pytest.mark.parametrize("name", ["zoo:cifar10-cnn-32-7", "zoo/cifar10-cnn-32-7.json", "zoo/cifar10-cnn-32-7"])
def test_a_teacher_of_the_zoo_is_not_trained_anew_by_the_recipe_of_another(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = read_settings("digits-rslad", {"teacher": name, "out": str(tmp_path / "run")})
    assert settings.teacher_recipe
    assert teacher_of(settings) is None
