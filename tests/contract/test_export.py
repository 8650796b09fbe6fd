"""Exported models: the file says what the network says, explains itself, and is attacked three ways."""

import json
import re
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import Run, blobs, small_net
from pyautoattack import AutoAttack as Package
from torch import Tensor, nn

import mmard
from mmard import MmardError, Pgd, Scores, Threat
from mmard.api import export
from mmard.api.networks import must_allow_named
from mmard.attacks.autoattack import AutoAttack
from mmard.attacks.pgd import untargeted
from mmard.attacks.square import Square
from mmard.data.sources import load
from mmard.evaluation.exported import choose_exported, exported_suite, straight_through
from mmard.evaluation.loop import Execution
from mmard.evaluation.run import run_attacks
from mmard.evaluation.suite import choose_attacks
from mmard.models.architectures import FAMILIES, Architecture, Classifier, adopt, build
from mmard.models.cards import load_foreign
from mmard.models.onnx_export import bytes_of, compare, onnx_of
from mmard.models.onnx_runtime import RuntimeModel
from mmard.models.quantise import quantised
from mmard.models.weights import save_weights
from mmard.utils.numbers import seed_of
from mmard.utils.trust import Trust

pytestmark = pytest.mark.figures

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
ort = pytest.importorskip("onnxruntime")

DOCS = Path(__file__).resolve().parents[2] / "docs"
TINY = {
    "resnet18": "resnet18",
    "preactresnet18": "preactresnet18",
    "mobilenetv2": "mobilenetv2-10",  # the same code, of a tenth of the width
    "mobilenetv2-P": "mobilenetv2-10",
    "wrn-D-K": "wrn-10-1",
    "cnn-W-D": "cnn-4-2",
    "vit-W-D-P": "vit-8-2-4",
    "resnet50": "resnet50",
    "preactresnet18-plain": "preactresnet18-plain",
    "dm-preactresnet18": "dm-preactresnet18",
    "dm-wrn-D-K": "dm-wrn-10-1",
    "dm-wrn-sparse-D-K": "dm-wrn-sparse-10-1",
    "wrn-mma-D-K": "wrn-mma-10-1",
    "wrn-cosine-D-K": "wrn-cosine-10-1",
    "wrn-pssilu-D-K": "wrn-pssilu-10-1",
}
TOO_LARGE = {"wrn-r", "wrn-a4"}  # their parts are those of wrn-D-K


def lively(name: str, channels: int = 3) -> Classifier:
    """An untrained net whose normalisation and BatchNorm do something."""
    torch.manual_seed(0)
    mean, std = (0.5, 0.3, 0.4)[:channels], (0.2, 0.3, 0.25)[:channels]
    net = build(Architecture(name=name, classes=10, channels=channels, mean=mean, std=std))
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            assert m.running_mean is not None
            assert m.running_var is not None
            m.running_mean.normal_(0, 0.1)
            m.running_var.uniform_(0.5, 1.5)
    return net.eval()


def test_every_family_is_among_those_exported() -> None:
    by_timm = {
        name for name in FAMILIES if name.startswith(("xcit-", "convstem-"))
    }  # tests/contract of foreign networks
    assert TINY.keys() | TOO_LARGE | by_timm == FAMILIES.keys()


QUICK_TO_EXPORT = {"cnn-4-2", "vit-8-2-4"}  # the others take seconds each


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[] if n in QUICK_TO_EXPORT else pytest.mark.slow) for n in sorted(set(TINY.values()))],
)
def test_every_architecture_says_the_same_as_onnx_and_nearly_so_in_int8(name: str) -> None:
    net, x = lively(name), torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    graph = onnx_of(net, (8, 8))
    runtime = RuntimeModel(bytes_of(graph, {}), name)
    with torch.no_grad():
        wanted = net(x)
    assert type(wanted) is torch.Tensor  # the exporter's stand-ins did not stay in what the net keeps between passes
    assert (runtime.shape, runtime.classes, runtime.metadata) == ((3, 8, 8), 10, {})
    for size in (1, 3, 5):
        assert torch.allclose(runtime(x[:size]), wanted[:size], atol=1e-5)
    eight = RuntimeModel(bytes_of(quantised(graph, x), {}), name)(x)
    gap = (eight - wanted).abs()
    assert gap.max() > 0  # it is another model
    assert gap.mean() < 0.15 * (wanted - wanted.mean(0)).abs().mean() + 0.02 * wanted.abs().mean()


def test_weights_beside_an_openvino_file_are_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"somebody's")
    with pytest.raises(MmardError, match=r"pytorch_model.bin exists already; choose another name \(--to FILE.xml\)"):
        export.must_be_free(tmp_path / "pytorch_model.xml", force=False)
    export.must_be_free(tmp_path / "pytorch_model.xml", force=True)
    export.must_be_free(tmp_path / "pytorch_model.onnx", force=False)


class Times(nn.Module):
    """Ten times what comes in."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 10 * x


HEADS = {
    "scaled": [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10), Times()],
    "a convolution": [nn.Conv2d(8, 10, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()],
    "without bias": [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10, bias=False), Times(), nn.ReLU()],
}


@pytest.mark.parametrize("head", HEADS)
def test_logits_of_int8_are_no_levels_whatever_the_last_layers_are(head: str) -> None:
    """A scale behind the last layer was quantised, and in forty images the first place was shared."""
    torch.manual_seed(0)
    x = torch.rand(256, 3, 8, 8)
    model = adopt(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), *HEADS[head]), 10, 3).eval()
    eight = RuntimeModel(bytes_of(quantised(onnx_of(model, (8, 8)), x), {}), head)(x)
    assert eight[eight != 0].unique().numel() > 300  # and not at most 256
    with torch.no_grad():
        assert (eight.argmax(1) == model(x).argmax(1)).float().mean() > 0.9


class Linear(nn.Module):
    """Four classes of 1×4×4 images; ``levels``: the logits are rounded to so many in 1, so they have no slope."""

    def __init__(self, levels: int | None = None, seed: int = 0, size: int = 4) -> None:
        super().__init__()
        self.levels = levels
        self.w = torch.randn(4, size * size, generator=torch.Generator().manual_seed(seed))

    def forward(self, x: Tensor) -> Tensor:
        z = (x.flatten(1) - 0.5) @ self.w.T
        return z if self.levels is None else (z.detach() * self.levels).round() / self.levels


def test_straight_through_has_the_runtimes_values_and_the_twins_jacobian() -> None:
    runtime, surrogate = Linear(levels=5), Linear(seed=1)
    x = torch.rand(3, 1, 4, 4, requires_grad=True)
    z, c = straight_through(runtime, surrogate)(x), torch.randn(3, 4)
    assert torch.equal(z, runtime(x))
    (grad,) = torch.autograd.grad((c * z).sum(), x)
    assert torch.allclose(grad.flatten(1), c @ surrogate.w, atol=1e-6)

    def never(x: Tensor) -> Tensor:
        raise AssertionError

    with torch.no_grad():
        assert torch.equal(straight_through(runtime, never)(x), z)


def test_straight_through_finds_what_the_closed_form_says_where_the_runtime_has_no_slope() -> None:
    """Of logits (s, −s) with s linear, the sign of s can be turned in an L∞ ball if and only if |s| < eps·‖w‖₁."""
    plain, eps = Linear(), 0.05

    def surrogate(x: Tensor) -> Tensor:
        s = plain(x)[:, :1]
        return torch.cat([s, -s, s.expand(-1, 2) * 0 - 9], 1)

    class Runtime(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (surrogate(x).detach() * 200).round() / 200

    images = blobs(60, size=4)
    images.pixels.clamp_(40, 210)  # no pixel is clipped
    s = plain(images.batch(slice(None))[0])[:, 0]
    images.labels.copy_((s < 0).long())
    room = s.abs() - eps * plain.w[0].abs().sum()
    sure = room.abs() > 0.02  # rounding to 1/200 decides nothing
    specs = exported_suite(surrogate)
    chosen = {n: specs[n] for n in ("through-PGD-20", "through-C&W")}
    scores = run_attacks(Runtime(), images, Threat(eps=eps), chosen)
    assert 5 < (room[sure] > 0).sum() < sure.sum() - 5
    for column in (1, 2):
        assert torch.equal(scores.correct[sure, column], room[sure] > 0)


def test_transfer_shows_the_runtime_what_the_attack_made_on_the_surrogate() -> None:
    runtime, surrogate, images, threat = Linear(levels=3), Linear(), blobs(30, size=4), Threat(eps=0.03)
    images.labels.copy_(runtime(images.batch(slice(None))[0]).argmax(1))
    specs = choose_exported("transfer-pgd-20", exported_suite(surrogate, seed=4))
    verdicts = run_attacks(runtime, images, threat, specs, execution=Execution(seed=4, batch_size=20)).correct[:, 1]
    wanted = []
    for start in (0, 20):
        x, y, _ = images.batch(slice(start, start + 20))
        torch.manual_seed(seed_of(4, start))
        x_adv = untargeted(Pgd(steps=20, start="uniform"))(surrogate, x, y, threat)
        wanted.append(runtime(x_adv).argmax(1) == y)
    assert torch.equal(verdicts, torch.cat(wanted))
    assert 0 < verdicts.sum() < 30


def test_autoattack_by_transfer_goes_on_with_whom_the_runtime_has_right() -> None:
    runtime, surrogate, images, threat = Linear(levels=3), Linear(), blobs(40, size=4), Threat(eps=0.05)
    images.labels.copy_(runtime(images.batch(slice(None))[0]).argmax(1))
    specs = choose_exported("transfer-autoattack", exported_suite(surrogate, 40), "quick")
    assert list(specs) == ["transfer-AutoAttack-quick"]
    scores = run_attacks(runtime, images, threat, specs, execution=Execution(batch_size=40))
    first, last = scores.stages
    assert (first.name, last.name, first.attacked) == ("APGD-CE", "APGD-T", 40)
    assert last.attacked == first.right.sum() < 40
    x, y, _ = images.batch(slice(None))
    x_adv = AutoAttack(protocol="quick", prune=False).stage("APGD-CE", surrogate, x, y, threat)
    right = runtime(x_adv).argmax(1) == y
    assert torch.equal(first.right, right)
    assert (right & (surrogate(x_adv).argmax(1) != y)).any()  # whom only the surrogate has wrong is not given up
    with pytest.raises(MmardError, match="unknown protocol 'fast'"):
        choose_exported(None, exported_suite(surrogate), "fast")


def test_only_queries_find_out_a_runtime_that_its_surrogate_knows_nothing_of() -> None:
    runtime, surrogate, images = Linear(levels=50), Linear(seed=7), blobs(20, size=4)
    surrogate.w.zero_()  # no gradient anywhere
    images.labels.copy_(runtime(images.batch(slice(None))[0]).argmax(1))
    specs = choose_exported("fgsm,square", exported_suite(surrogate))
    assert list(specs) == ["transfer-FGSM", "through-FGSM", "Square"]
    scores = run_attacks(runtime, images, Threat(eps=0.3), specs)
    assert [scores.accuracy(a) for a in ("transfer-FGSM", "through-FGSM")] == [1, 1]
    assert scores.accuracy("Square") == scores.accuracy("worst case") < 0.5


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_square_is_the_one_in_the_autoattack_package(norm: str) -> None:
    net, images = Linear(size=8), blobs(30)
    x, _, _ = images.batch(slice(None))
    y, threat = net(x).argmax(1), Threat(eps=0.04 if norm == "linf" else 0.3, norm=norm)  # type: ignore[arg-type]
    y[:4] = (y[:4] + 1) % 4  # wrong already
    package = Package(
        net, norm={"linf": "Linf", "l2": "L2"}[norm], eps=threat.eps, seed=2, version="custom", attacks=["square"]
    )  # type: ignore[arg-type, list-item]
    package.square.n_queries = 60
    theirs, _ = package.run_standard_evaluation(x.contiguous(), y, batch_size=30)
    ours = Square(queries=60, seed=2)(net, x, y, threat)
    assert torch.equal(ours, theirs)
    assert 4 < (net(ours).argmax(1) != y).sum() < 30


def test_usual_attacks_go_three_ways_and_without_a_surrogate_one() -> None:
    usual = [*choose_exported(None, exported_suite(Linear()))]
    assert usual == [
        *("transfer-PGD-20", "transfer-C&W", "transfer-AutoAttack"),
        *("through-PGD-20", "through-C&W", "through-AutoAttack-quick"),
        "Square",
    ]
    alone = exported_suite(None)
    assert [*choose_exported(None, alone)] == ["Square"]
    assert "no float surrogate: this alone proves little" in alone["Square"].detail(Threat(eps=0.1))
    assert choose_exported("none", alone) == {}
    for name in ("pgd-20", "through-cw"):
        with pytest.raises(MmardError, match=f"{name} needs the model's float surrogate; name it: --surrogate RUN"):
            choose_exported(f"square, {name}", alone)
    with pytest.raises(MmardError, match="unknown attack 'pgd-2'; did you mean"):
        choose_exported("pgd-2", exported_suite(Linear()))
    assert choose_attacks("square", {"Square": alone["Square"]})


def test_a_comparison_far_off_or_not_a_number_is_refused() -> None:
    x = torch.rand(6, 1, 4, 4)
    near = Linear()
    near.w = near.w + 1e-7
    compare(Linear(), near, x).must_be_close("m.onnx")
    found = compare(Linear(), Linear(seed=1), x)
    gap = (Linear()(x) - Linear(seed=1)(x)).abs()
    assert (found.largest, found.mean) == pytest.approx((gap.max().item(), gap.mean().item()))
    near.w = near.w * float("nan")
    for wrong in (found, compare(Linear(), near, x)):
        with pytest.raises(MmardError, match=r"m.onnx is not the network it was made from.*nothing was written"):
            wrong.must_be_close("m.onnx")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights for digits, and both exports of them."""
    folder = tmp_path_factory.mktemp("made")
    metadata = {"settings": {"data": {"name": "digits"}, "threat": {"eps": 0.3}}}
    save_weights(folder / "net.safetensors", lively("cnn-4-3", channels=1), metadata)
    for int8 in (False, True):
        export.export(folder / "net.safetensors", int8=int8, calibration=100)
    return folder


@pytest.fixture
def here(made: Path, tmp_path: Path) -> Path:
    """A copy of them, where the command line runs."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path


def test_the_file_explains_itself_to_those_who_have_only_it(made: Path) -> None:
    for name, precision in (("net.onnx", "float32"), ("net-int8.onnx", "int8")):
        session = ort.InferenceSession(str(made / name))
        metadata = {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}
        assert metadata["classes"] == [*map(str, range(10))]
        assert (metadata["precision"], metadata["threat"], metadata["source"]) == (
            precision,
            "L∞ 0.3",
            "net.safetensors",
        )
        assert metadata["architecture"]["name"] == "cnn-4-3"
        assert metadata["settings"]["data"]["name"] == "digits"
        assert "[0, 1]" in metadata["input"]
        assert metadata["comparison"]["images"] == 144  # all that are held out
        assert ("quantisation" in metadata) == (precision == "int8")
    assert "100 training images" in metadata["quantisation"]
    kinds = {node.op_type for node in onnx.load(made / "net-int8.onnx").graph.node}
    assert "QuantizeLinear" in kinds
    assert not [p for p in made.iterdir() if p.suffix == ".part"]


def test_calibration_sees_training_images_only(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    monkeypatch.setattr(export, "onnx_of", lambda model, size: onnx.load(made / "net.onnx"))  # which takes no second

    def spy(graph: Any, images: Tensor) -> Any:
        seen.append(images)
        return graph

    monkeypatch.setattr(export, "quantised", spy)
    export.export(made / "net.safetensors", tmp_path / "m.onnx", int8=True, calibration=50)
    data = load("digits")
    known = {image.numpy().tobytes() for image in data.train.in_memory().batch(slice(None))[0]}
    assert len(seen[0]) == 50
    assert all(image.numpy().tobytes() in known for image in seen[0])


def test_an_export_that_is_another_network_is_not_written(
    here: Path, mmard: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "onnx_of", lambda model, size: onnx.load(here / "net.onnx"))
    save_weights(here / "other.safetensors", small_net(classes=10))
    done = mmard("export", "other.safetensors", "data.name=digits")
    assert done.returncode == 2
    assert "other.onnx is not the network it was made from: logits differ by up to" in done.stderr
    assert not (here / "other.onnx").exists()


@pytest.fixture
def few_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Square is the slowest, and here only has to be there."""
    monkeypatch.setattr("mmard.evaluation.suite.Square", partial(Square, queries=30))


def test_a_run_its_export_and_int8_side_by_side(here: Path, mmard: Run, few_queries: None) -> None:
    done = mmard("eval", "net.safetensors", "net.onnx", "net-int8.onnx", "--attacks", "pgd-20,square", "--limit", "12")
    assert done.returncode == 0, done.stderr
    assert "values of the runtime, gradients of the float surrogate: cross-entropy, 20 steps" in done.stdout
    found = {n: Scores.load(here / "eval" / f"{n}_{a}_12-images") for n, a in FOLDERS.items()}
    names = ("clean", "transfer-PGD-20", "through-PGD-20", "Square")
    assert found["net.onnx"].attacks == found["net-int8.onnx"].attacks == names
    own, surrogate = found["net"].correct, found["net.onnx"].correct
    assert torch.equal(
        own, surrogate[:, [0, 1, 3]]
    )  # up to rounding it is the same network, and the starts are the same
    assert torch.equal(own[:, 1], surrogate[:, 2])
    assert found["net-int8.onnx"].metadata["twin"] == "net.safetensors"
    assert found["net-int8.onnx"].metadata["precision"] == "int8"


FOLDERS = {
    "net": "PGD-20_Square",
    "net.onnx": "transfer-PGD-20_through-PGD-20_Square",
    "net-int8.onnx": "transfer-PGD-20_through-PGD-20_Square",
}


def test_a_moved_folder_still_finds_its_surrogate_and_a_changed_one_is_not_used(
    here: Path, mmard: Run, few_queries: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(here / "state"))  # of a user who has exported nothing
    (here / "sub").mkdir()
    for file in here.glob("net*"):
        file.rename(here / "sub" / file.name)
    words = ["eval", "sub/net.onnx", "--limit", "12"]
    done = mmard(*words, "--attacks", "fgsm")
    assert done.returncode == 0, done.stderr
    assert "transfer-FGSM" in done.stdout
    save_weights(here / "sub/net.safetensors", small_net(classes=10))
    done = mmard(*words)
    assert "has changed since (only Square attacks it" in done.stderr
    assert "this alone proves little" in done.stdout
    (here / "sub/net.safetensors").rename(here / "other.safetensors")
    assert "is not there" in mmard(*words, "--attacks", "none").stderr
    done = mmard(*words, "--attacks", "fgsm", "--twin", "other.safetensors")
    assert "other-surrogate" in done.stdout
    assert "it was not exported from" in " ".join(done.stdout.split())
    assert "through-FGSM" in done.stdout


def test_a_model_from_elsewhere_is_judged_too(here: Path, mmard: Run) -> None:
    graph = onnx.load(here / "net.onnx")
    del graph.metadata_props[:]
    onnx.save(graph, here / "foreign.onnx")
    done = mmard("eval", "foreign.onnx", "--attacks", "none", "data.name=digits")
    assert "foreign.onnx names no float surrogate" in done.stderr
    assert "foreign.onnx does not say which data" in mmard("eval", "foreign.onnx", "--attacks", "none").stderr
    words = [
        "eval",
        "foreign.onnx",
        "data.name=digits",
        "--attacks",
        "fgsm",
        "--limit",
        "12",
        "--twin",
        "net.safetensors",
    ]
    done = mmard(*words)
    assert (done.returncode, "check threat: neither the weights" in done.stderr) == (2, True), done.stderr
    assert "through-FGSM" in mmard(*words, "threat.eps=0.1").stdout
    _a_strangers_surrogate(here, mmard)
    softmax = onnx.helper.make_node("Softmax", [graph.graph.output[0].name], ["shares"], axis=1)
    graph.graph.node.append(softmax)
    graph.graph.output[0].name = "shares"
    onnx.save(graph, here / "foreign.onnx")
    done = mmard(*words, "threat.eps=0.1")
    assert (done.returncode, "add up to 1: probabilities" in done.stderr) == (2, True), done.stderr


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["export", "net.safetensors"], "net.onnx exists already; choose another name"),
        (["export", "net.safetensors", "--int8"], "net-int8.onnx exists already"),
        (["export", "net-int8.onnx", "--int8"], "is an exported model already; export the run"),
        (["export", "net.safetensors", "--to", "m.pt"], "m.pt is no name for an ONNX file"),
        (["export", "nowhere"], "no model at nowhere"),
        (["export", "net.safetensors", "net.onnx"], "got 2 models, expected one"),
        (["export", "net.safetensors", "--to", "a.onnx", "data.nam=x"], "unknown setting 'data.nam'"),
        (["eval", "net.safetensors", "--twin", "net.safetensors"], "goes with an exported model"),
        (["eval", "net.onnx", "--twin", "net.onnx"], "is an exported model and has no gradients"),
        (
            ["eval", "net.onnx", "--attacks", "transfer-pdg"],
            "unknown attack 'transfer-pdg'; did you mean transfer-pgd-20",
        ),
        (["eval", "bad.onnx"], "bad.onnx cannot be run as ONNX"),
        (["eval", "one.onnx"], "takes batches of 1 only"),
        (["eval", "flat.onnx"], "expected (batch, C, H, W) to (batch, classes)"),
        (["train", "--teacher", "net.onnx"], "is an exported model without gradients"),
    ],
)
def test_a_wrong_word_is_one_line(words: list[str], expected: str, here: Path, mmard: Run) -> None:
    (here / "bad.onnx").write_bytes((here / "net.onnx").read_bytes()[:2000])
    for name, kind, shapes in (
        ("one", "Flatten", ([1, 1, 8, 8], [1, 64])),
        ("flat", "Relu", (["n", 64], ["n", 64])),
    ):
        a, b = (onnx.helper.make_tensor_value_info(port, 1, shape) for port, shape in zip("ab", shapes, strict=True))
        graph = onnx.helper.make_graph([onnx.helper.make_node(kind, ["a"], ["b"])], name, [a], [b])
        opset = [onnx.helper.make_opsetid("", 20)]
        onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=10), here / f"{name}.onnx")
    before = {p: p.read_bytes() for p in here.glob("*.onnx")}
    done = mmard(*words)
    assert done.returncode == 2, done.stdout
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert expected in done.stderr
    assert {p: p.read_bytes() for p in here.glob("*.onnx")} == before


def test_a_model_for_other_images_is_one_line(here: Path, mmard: Run) -> None:
    graph = onnx.load(here / "net.onnx")
    for dim in graph.graph.input[0].type.tensor_type.shape.dim[2:]:
        dim.dim_value = 16
    del graph.graph.value_info[:]  # sizes on the way
    onnx.save(graph, here / "big.onnx")
    done = mmard("eval", "big.onnx")
    assert done.returncode == 2
    assert "is for 10 classes and images of 1×16×16, the data has 10 and 1×8×8" in done.stderr


def test_without_the_extra_packages_one_line_says_what_to_install(
    here: Path, mmard: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # as if it were not installed
    for words in (["export", "net.safetensors", "--to", "new.onnx"], ["eval", "net.onnx"]):
        done = mmard(*words)
        assert done.returncode == 2
        assert "pip install 'mmard[onnx]'" in done.stderr


def test_the_example_in_the_docs_runs(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pixels of 0 to 255, rows × columns × channels, as cameras and files give them."""
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "export.md").read_text(encoding="utf-8"), re.S)
    code = next(block for block in blocks if "InferenceSession" in block)
    (here / "model-int8.onnx").write_bytes((here / "net-int8.onnx").read_bytes())
    monkeypatch.chdir(here)
    pixels, _, _ = load("digits").test.batch(slice(0, 1))
    image = (pixels[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    exec(code, {"image": image})
    wanted = RuntimeModel(here / "model-int8.onnx", "it")(pixels).argmax(1).item()
    assert capsys.readouterr().out.strip() == str(wanted)


def _a_strangers_surrogate(here: Path, mmard: Run) -> None:
    """A network of nobody's package lends gradients; without one the record says that Square is alone."""
    (here / "own.py").write_text(
        "from torch import nn\n\ndef build():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    torch.save({"1.weight": torch.randn(10, 64), "1.bias": torch.zeros(10)}, here / "own.pt")
    words = ["eval", "foreign.onnx", "data.name=digits", "threat.eps=0.1", "--limit", "12"]
    done = mmard(*words, "--attacks", "fgsm", "--surrogate", "own.py:build", "--surrogate-weights", "own.pt")
    assert "through-FGSM" in done.stdout, done.stderr
    done = mmard(*words, "--attacks", "fgsm", "--surrogate", "own.py:build")
    assert (done.returncode, "is without weights" in done.stderr) == (2, True)
    done = mmard(*words, "--attacks", "square", "--checks", "none", "threat.eps=0.4")  # where a search is soon done
    assert done.returncode == 0, done.stderr
    records = [Scores.load(file.parent) for file in here.glob("eval/foreign.onnx*/scores.json")]
    (alone,) = [record for record in records if record.attacks == ("clean", "Square")]
    assert [check["name"] for check in alone.metadata["checks"] if check["level"] == "warning"] == ["surrogate"]


def open_channels(file: Path, weight: Tensor) -> None:
    """Write a linear model as ONNX that leaves channels, height and width of its images open."""
    helper = onnx.helper
    nodes = [helper.make_node("Flatten", ["x"], ["row"]), helper.make_node("MatMul", ["row", "w"], ["logits"])]
    shapes = (("x", ["n", "c", "h", "w"]), ("logits", ["n", 10]))
    ports = [helper.make_tensor_value_info(name, 1, shape) for name, shape in shapes]
    graph = helper.make_graph(
        nodes, "net", ports[:1], ports[1:], [onnx.numpy_helper.from_array(weight.T.contiguous().numpy(), "w")]
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), file)


@pytest.mark.parametrize("signature", ["", "channels"])
def test_a_surrogate_of_code_has_the_channels_of_the_images_where_the_file_leaves_them_open(
    signature: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    weight = torch.randn(10, 64, generator=torch.Generator().manual_seed(0))
    open_channels(tmp_path / "open.onnx", weight)
    width = "64 * channels" if signature else "64"
    Path("own.py").write_text(
        f"from torch import nn\ndef build({signature}):\n"
        f"    return nn.Sequential(nn.Flatten(), nn.Linear({width}, 10, bias=False))\n"
    )
    torch.save({"1.weight": weight}, "own.pt")
    scores = mmard.evaluate(
        "open.onnx", "fgsm", surrogate="own.py:build@own.pt", limit=20, data__name="digits", threat__eps=0.1
    )
    assert scores.attacks == ("clean", "transfer-FGSM", "through-FGSM")
    transfer, through = scores.correct[:, 1], scores.correct[:, 2]
    assert torch.equal(transfer, through)  # it is the same network, and lends its own gradient
    assert transfer.sum() < scores.correct[:, 0].sum()


def test_images_that_a_file_of_open_channels_does_not_take_are_named(tmp_path: Path) -> None:
    open_channels(tmp_path / "open.onnx", torch.zeros(10, 64))
    with pytest.raises(MmardError, match=r"2 images of 3×8×8: .*; images of another size or number of channels"):
        RuntimeModel(tmp_path / "open.onnx", "open.onnx")(torch.zeros(2, 3, 8, 8))


def test_a_surrogate_whose_function_fails_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("def build():\n    return 1 / 0\n")
    (tmp_path / "own.pt").write_bytes(b"")
    must_allow_named(words := f"{tmp_path}/own.py:build@{tmp_path}/own.pt", "surrogate", Trust())
    with pytest.raises(MmardError, match=r"own.py:build fails: ZeroDivisionError: division by zero"):
        load_foreign(words, 10, 1)


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layer(x.flatten(1))
        return 2 * logits if float(logits.detach().sum()) > 0 else logits


def test_what_stops_the_exporter_is_said() -> None:
    with pytest.raises(MmardError, match=r"cannot be exported: .*data-dependent") as e:
        onnx_of(adopt(Branches(), 4, 1), (8, 8))
    assert "\n" not in str(e.value)
    assert "\x1b" not in str(e.value)
