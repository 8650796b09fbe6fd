"""Networks, words and images that a Python program gives are taken as they are said, or refused; never silently left out."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import blobs, small_net
from torch import Tensor, nn
from torch.nn.utils import prune

import mmard
from mmard import MmardError, Threat
from mmard.models.architectures import adopt
from mmard.models.folding import folded
from mmard.training.own_loop import by_name

THREAT = Threat(eps=0.1)
QUICK: dict[str, Any] = {
    "train__batch_size": 50, "attack__steps": 2, "validation__steps": 2, "teacher_check": "none", "method": "rslad",
    "threat": THREAT,
}  # fmt: skip


class Plain(nn.Module):
    """Somebody's network, with a switch and a counter, and a layer that no BatchNorm follows."""

    def __init__(self) -> None:
        super().__init__()
        self.flip, self.asked = False, 0
        self.conv, self.norm, self.second = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(512, 4)

    def forward(self, x: Tensor) -> Tensor:
        self.asked += 1
        logits = self.head(self.second(self.norm(self.conv(x)).relu()).relu().flatten(1))
        return -logits if self.flip else logits


def arrays(n: int = 120) -> tuple[Tensor, Tensor]:
    images = blobs(n)
    return images.pixels.float() / 255, images.labels


def test_a_modules_normalisation_is_the_one_that_is_named(tmp_path: Path) -> None:
    x, data = arrays()[0][:4], arrays()
    torch.manual_seed(0)
    teacher = Plain().eval()
    losses = []
    for mean, std in ((0.0, 1.0), (0.5, 0.25)):
        torch.manual_seed(1)
        run = mmard.distill(
            Plain(),
            teacher,
            data,
            out=tmp_path / f"{mean}",
            epochs=1,
            teacher__mean=[mean],
            teacher__std=[std],
            **QUICK,
        )
        losses.append(run.metrics()[-1]["loss"])
    assert losses[0] != losses[1]
    with pytest.warns(UserWarning, match="itself ends unnormalised"):
        run = mmard.distill(
            net := Plain(),
            teacher,
            data,
            out=tmp_path / "own",
            epochs=1,
            student__mean=[0.5],
            student__std=[0.25],
            **QUICK,
        )
    loaded = mmard.load_model(run.path / "last.safetensors", Plain())
    assert loaded.architecture.mean == (0.5,)
    with torch.no_grad():
        assert torch.allclose(loaded(x), net.eval()((x - 0.5) / 0.25), atol=1e-5)


@pytest.mark.parametrize(
    ("student", "settings", "words"),
    [
        (Plain, {"student__width": 3}, "the student is a module, which is built already; leave out width"),
        (Plain, {"teacher__width": 3}, "the teacher is a module, which is built already; leave out width"),
        (small_net, {"normalize": "data"}, "the student is a model of mmard, which normalises as it is told"),
        (Plain, {"epochs": 1, "train__epochs": 3}, "train.epochs is given by an argument and as a setting"),
        (Plain, {"threat__eps": 0.3}, "threat.eps is given by an argument and as a setting"),
        (Plain, {"data__name": "digits"}, "data are images given in Python, and data.name=digits names others"),
    ],
)
def test_what_would_be_left_out_is_refused(
    student: Callable[[], nn.Module], settings: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(MmardError, match=words):
        mmard.distill(student(), small_net(seed=1), arrays(), out=tmp_path / "run", **QUICK, **settings)


def test_an_average_is_not_the_module_and_a_warning_says_so(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="itself ends without the average of its weights"):
        mmard.distill(Plain(), small_net(), arrays(), out=tmp_path / "run", epochs=1, averaging__kind="ema", **QUICK)


def test_the_callers_autocast_stays_outside() -> None:
    kinds = set[torch.dtype]()

    class Asked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = Plain().eval()

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.net(x)
            kinds.add(logits.dtype)
            return logits

    x, y = arrays(20)
    with torch.autocast("cpu", torch.bfloat16):
        mmard.evaluate(Asked(), x, y, THREAT, "fgsm")
        assert torch.is_autocast_enabled("cpu")
    assert kinds == {torch.float32}


def test_a_folded_copy_follows_switches_and_other_layers() -> None:
    net, x = Plain().eval(), torch.rand(3, 1, 8, 8)
    model = adopt(net, 4, 1).eval()
    shadow: Any = folded(model)

    def must_follow() -> None:
        shadow.refresh()
        with torch.no_grad():
            assert torch.allclose(shadow(x), model(x), atol=1e-5)

    must_follow()
    assert shadow.pairs == [("conv", "norm")]
    net.flip = True
    must_follow()
    prune.l1_unstructured(net.second, "weight", 0.5)  # type: ignore[no-untyped-call]
    must_follow()
    prune.remove(net.second, "weight")  # type: ignore[no-untyped-call]
    net.head = nn.Linear(512, 4).eval()
    must_follow()
    assert shadow.pairs == [("conv", "norm")]


def test_a_distillers_attack_follows_a_switch_of_the_student() -> None:
    x, y = arrays(40)
    torch.manual_seed(0)
    student = Plain().eval()
    distiller = mmard.Distiller("rslad", student, small_net(seed=1), THREAT)
    distiller.step(x, y)
    student.flip = True
    torch.manual_seed(2)
    loss, _ = distiller.step(x, y)
    other = mmard.Distiller("rslad", student, small_net(seed=1), THREAT)
    other.prepare(x)
    torch.manual_seed(2)
    fresh, _ = other.step(x, y)
    assert torch.equal(loss, fresh)


def test_a_run_goes_on_with_its_own_images_alone(tmp_path: Path) -> None:
    x, y = arrays()
    where: dict[str, Any] = {"out": tmp_path / "run", "epochs": 1, **QUICK}
    mmard.distill(net := Plain(), small_net(seed=1), (x, y), **where)
    with pytest.raises(MmardError, match=r"data\.pixels"):
        mmard.distill(net, small_net(seed=1), (1 - x, y), resume=True, **where)
    mmard.distill(net, small_net(seed=1), (x, y), resume=True, **where)


@pytest.mark.parametrize("odd", [float("nan"), 1])
def test_labels_of_several_kinds_are_refused(odd: float, tmp_path: Path) -> None:
    x, _ = arrays(40)
    with pytest.raises(MmardError, match="labels hold"):
        mmard.distill(
            Plain(), small_net(), (x, ["cat", "dog"] * 19 + [odd, "cat"]), out=tmp_path / "run", epochs=1, **QUICK
        )


def test_a_module_that_helps_to_load_a_run_stays_as_it_is(tmp_path: Path) -> None:
    x, y = arrays()
    run = mmard.distill(Plain(), small_net(seed=1), (x, y), out=tmp_path / "run", epochs=1, **QUICK)
    other = Plain()
    before = {name: value.clone() for name, value in other.state_dict().items()}
    own = mmard.evaluate(run, x, y, THREAT, "fgsm", module=other)
    assert all(torch.equal(before[name], value) for name, value in other.state_dict().items())
    assert other.training
    assert torch.equal(own.correct, mmard.evaluate(mmard.load_model(run, Plain()), x, y, THREAT, "fgsm").correct)
    with pytest.raises(MmardError, match="module= is for a run"):
        mmard.evaluate(other, x, y, THREAT, "fgsm", module=Plain())


def test_networks_have_one_name_each() -> None:
    one = Plain()
    assert by_name({"robust": one, "natural": one}, None) == {"teacher": one, "natural": one}
    assert by_name({"natural": one}, one) == {"natural": one, "teacher": one}
    for teachers, teacher in (
        ({"student": one}, one),
        ({"teacher": one}, one),
        ({"robust": one, "teacher": one}, None),
    ):
        with pytest.raises(MmardError, match="given once"):
            by_name(teachers, teacher)


def test_an_evaluation_is_of_pixels_from_0_to_1_that_may_be_rounded() -> None:
    x, y = arrays(20)
    for threat in (Threat(eps=0.1, lower=-1.0, upper=2.0), Threat(eps=0.1, upper=0.5)):
        with pytest.raises(MmardError, match="pixels are in"):
            mmard.evaluate(Plain(), x, y, threat, "fgsm")
    net = Plain().eval()
    x[0, 0, 0, 0] = 1
    over = x.clone()
    over[0, 0, 0, 0] = 1.0000002
    assert torch.equal(*(mmard.evaluate(net, images, y, THREAT, "fgsm").correct for images in (x, over)))
    with pytest.raises(MmardError, match="in the place of the labels"):
        mmard.evaluate(net, x, THREAT)


def test_words_may_be_some_of_the_classes_that_the_model_names(tmp_path: Path) -> None:
    x, y = arrays()
    words = np.array(["ant", "cat", "dog", "emu"])[y.numpy()]
    run = mmard.distill("cnn-4-2", small_net(seed=1), (x, words), out=tmp_path / "run", epochs=2, **QUICK)
    few = y < 2
    by_word = mmard.evaluate(run, x[few], words[few.numpy()], THREAT, "fgsm")
    assert torch.equal(by_word.correct, mmard.evaluate(run, x[few], y[few], THREAT, "fgsm").correct)
    with pytest.raises(MmardError, match="labels are 1 words"):
        mmard.evaluate(run, x[:2], ["yak", "yak"], THREAT, "fgsm")


def test_a_teacher_of_probabilities_is_refused(tmp_path: Path) -> None:
    x, y = arrays(300)
    net = small_net(name="cnn-4-3")
    descent = torch.optim.Adam(net.parameters(), lr=0.02)
    for _ in range(40):
        descent.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        descent.step()
    where = {**QUICK, "teacher_check": "stop", "epochs": 1}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mmard.distill("cnn-4-2", net, (x, y), out=tmp_path / "logits", **where)
        with pytest.raises(MmardError, match="gives probabilities, expected logits"):
            mmard.distill("cnn-4-2", nn.Sequential(net, nn.Softmax(1)), (x, y), out=tmp_path / "run", **where)


def test_a_failing_maximizer_is_named_in_one_line() -> None:
    def mine(*_: object) -> Tensor:
        raise ValueError("mine")

    method = replace(mmard.methods.rslad(), maximizer=mine)
    with pytest.raises(MmardError, match=r"the attack .* fails .*ValueError: mine"):
        mmard.Distiller(method, Plain(), small_net(), THREAT).step(*arrays(8))


class Blocked(torch.autograd.Function):
    """A function without a gradient, as of somebody's extension."""

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        return x * 2


class Unfit(nn.Module):
    """A network that fails in its own way: on larger batches, or where a gradient is asked for."""

    def __init__(self, batch: int | None = None) -> None:
        super().__init__()
        self.net, self.batch = Plain(), batch

    def forward(self, x: Tensor) -> Tensor:
        if self.batch and len(x) > self.batch:
            raise ZeroDivisionError("mine")
        out: Tensor = self.net(x)
        return out if self.batch else Blocked.apply(out)  # type: ignore[no-untyped-call, no-any-return]


@pytest.mark.parametrize(
    ("net", "attacks", "words"),
    [
        (lambda: Unfit(16), "none", r"it fails on images of shape .*: ZeroDivisionError: mine"),
        (lambda: Unfit(16), "fgsm", r"it fails on images of shape .*: ZeroDivisionError: mine"),
        (Unfit, "fgsm", r"gradient.* fails \(.*NotImplementedError"),
    ],
)
def test_a_network_that_fails_is_one_line(net: Callable[[], nn.Module], attacks: str, words: str) -> None:
    x, y = arrays(40)
    with pytest.raises(MmardError, match=words):
        mmard.evaluate(net().eval(), x, y, THREAT, attacks)


def test_the_card_of_a_modules_run_says_how_it_is_loaded(tmp_path: Path) -> None:
    mmard.distill(Plain(), small_net(seed=1), arrays(), out=tmp_path / "run", epochs=1, **QUICK)
    assert "mmard.load_model(FOLDER, MODULE)" in (tmp_path / "run" / "README.md").read_text()
