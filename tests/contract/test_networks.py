"""Networks from elsewhere: the user's own file, modules given in Python, timm and torchvision by name."""

import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import QUICK, Run, blobs
from torch import nn

from mmard import MmardError, load_model
from mmard.api.build import resolve
from mmard.api.evaluate import evaluate_run
from mmard.api.export import export
from mmard.api.networks import build_student, given_in, student_architecture, teachers_of
from mmard.api.settings import read_settings
from mmard.api.train import train
from mmard.models.architectures import Architecture, adopt, build
from mmard.models.foreign import PROVIDERS, NetworkSpec, is_foreign
from mmard.models.tensor_files import load_tensors, save_tensors
from mmard.models.weights import architecture_facts, keep_code, save_weights
from mmard.utils.trust import Trust

NET = """
from torch import nn

class Plain(nn.Sequential):
    def __init__(self, classes, channels, width=4, head="logits"):
        super().__init__(
            nn.Conv2d(channels, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU(inplace=True), nn.Dropout(0.1),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))
        self.head = head

    def forward(self, x):
        z = super().forward(x)
        return {"logits": z, "tuple": (z, x), "output": type("Output", (), {"logits": z}), "dict": {"z": z}}[self.head]

def build(num_classes, in_chans, width: int = 4, head="logits"):
    return Plain(num_classes, in_chans, width, head)

def fixed(width=4):
    return Plain(7, 1, width)

def nothing(num_classes):
    return num_classes

def fails():
    return 1 / 0

def ends():
    raise SystemExit(3)

def moves(num_classes, in_chans):
    import os, torch
    os.chdir("/")
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    torch.set_grad_enabled(False)
    with torch.device("cpu"):
        return Plain(num_classes, in_chans).float()
"""
SHORT = {"method": "pgd_at", **{k.replace(".", "__"): v for k, v in (word.split("=") for word in QUICK)}}
SHORT |= {"train__epochs": 1, "data__limit": 150, "data__test_limit": 50}


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's file, in the working folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NET)
    return tmp_path / "net.py"


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Be another user, who has run none of this code."""

    def be() -> None:
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "elsewhere"))
        monkeypatch.setattr("mmard.utils.trust._CODE", {})
        monkeypatch.setattr("mmard.utils.trust._KNOWN", set())

    return be


@pytest.mark.parametrize(
    ("text", "name", "parameters", "weights"),
    [
        ("net.py:build", "net.py:build", {}, ""),
        (
            "a (1)/net.py:build(width=8, act=relu)@w (2).pt",
            "a (1)/net.py:build",
            {"width": 8, "act": "relu"},
            "w (2).pt",
        ),
        ("timm:resnet10t.c3_in1k(drop_rate=0.1)", "timm:resnet10t.c3_in1k", {"drop_rate": 0.1}, ""),
        ("hf:microsoft/resnet-18", "hf:microsoft/resnet-18", {}, ""),
        ("my.package:Net(sizes=[1, 2])", "my.package:Net", {"sizes": [1, 2]}, ""),
    ],
)
def test_a_name_says_builder_parameters_and_weights(text: str, name: str, parameters: Any, weights: str) -> None:
    spec = NetworkSpec.of(text)
    assert (spec.name, spec.parameters, spec.weights) == (name, parameters, weights)
    assert str(spec) == text
    assert NetworkSpec.of({"name": name, **parameters, "weights": weights}) == spec
    assert is_foreign(text)


def test_names_of_this_package_and_paths_are_none_from_elsewhere(tmp_path: Path) -> None:
    for word in ("resnet18", "runs/teacher", "zoo:x", "zoo/x.json", "https://host/a", "hub://a/b", str(tmp_path)):
        assert not is_foreign(word), word


def test_a_parameter_is_given_as_a_method_has_its_own(net: Path) -> None:
    by_word = read_settings(None, {"student": "net.py:build", "student.width": 8})
    by_key = read_settings({"student": {"name": "net.py:build", "width": 8}})
    assert by_word.student == by_key.student == "net.py:build(width=8)"
    teachers = read_settings(None, {"teachers.natural": {"name": "timm:resnet18", "weights": "w.pt", "mean": [0.5]}})
    assert teachers.teachers == {"natural": "timm:resnet18(mean=[0.5])@w.pt"}


def test_the_users_file_is_trained_resumed_judged_and_exported(
    net: Path, tmp_path: Path, elsewhere: Callable[[], None]
) -> None:
    run = train(student="net.py:build", student__width=8, out="run", **SHORT).path
    assert (run / "network.py").read_text() == NET
    facts = architecture_facts(run / "best.safetensors")
    assert (facts["name"], facts["parameters"], len(facts["code"])) == ("net.py:build", {"width": 8}, 64)
    net.unlink()  # the folder is enough from here on
    x = torch.rand(3, 1, 8, 8)
    assert load_model(run)(x).shape == (3, 10)
    train(str(run), train__epochs=2, resume=True, extend=True)
    pytest.importorskip("onnxruntime")
    assert export(run).comparison.largest < 1e-4
    elsewhere()
    for read in (lambda: load_model(run), lambda: evaluate_run(run, "none"), lambda: train(str(run), resume=True)):
        with pytest.raises(MmardError, match=r"trust=True"):
            read()
    (run / "__pycache__").mkdir()
    assert load_model(run, trust=True)(x).shape == (3, 10)
    assert not list((run / "__pycache__").iterdir())  # its source runs, and no compiled code beside it
    (run / "network.py").write_text(NET + "\n")
    elsewhere()
    with pytest.raises(MmardError, match=r"net.py:build, whose code is not beside it"):
        load_model(run, trust=True)


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"name": "net.py:fixed"}, "fixed of that code"),  # which the user has not run, unlike build beside it
        ({"name": "net.py:Plain"}, "Plain of that code"),
        ({"parameters": {"head": "/etc/passwd"}}, "student.head=/etc/passwd"),
        ({"name": "hf:somebody/net", "code": ""}, "student=hf:somebody/net"),  # its configuration would be fetched
        ({"name": "os.path:join", "code": ""}, "student os.path:join"),
    ],
)
def test_to_have_run_a_function_vouches_for_nothing_else(
    net: Path, tmp_path: Path, change: dict[str, Any], names: str
) -> None:
    weights = tmp_path / "theirs" / "best.safetensors"
    known = student_architecture(read_settings(None, {"student": "net.py:build"}), 10, 1)
    save_weights(weights, build(known))
    assert load_model(weights).architecture.code
    tensors, header = load_tensors(weights)
    header["architecture"] = json.dumps({**architecture_facts(weights), **change})
    save_tensors(weights, tensors, header)
    with pytest.raises(MmardError, match=rf"{names}.*--trust"):
        load_model(weights)


def test_weights_in_somebodys_folder_fetch_no_configuration_for_a_teacher(tmp_path: Path) -> None:
    teacher = f"hf:somebody/net@{tmp_path / 'w.safetensors'}"
    theirs = read_settings(None, {"teacher": teacher}).trusting(Trust(folder=tmp_path))
    with pytest.raises(MmardError, match=r"name teacher=hf:somebody/net, outside.*--trust"):
        teachers_of(theirs)


def test_a_file_that_changed_is_another_run(net: Path) -> None:
    train(student="net.py:build", out="run", **SHORT)
    net.write_text(NET.replace("0.1", "0.2"))
    with pytest.raises(MmardError, match=r"run with other settings: student.code: "):
        train(student="net.py:build", out="run", resume=True, **SHORT)


def test_a_recipe_of_somebody_else_runs_no_code(net: Path, elsewhere: Callable[[], None]) -> None:
    elsewhere()
    Path("recipe.yaml").write_text("student: {name: net.py:build, width: 8}\nmethod: pgd_at\n")
    with pytest.raises(MmardError, match=r"the settings name the student net.py:build, .* name it yourself: student="):
        train("recipe.yaml", **SHORT)
    Path("c.json").write_text(json.dumps({"architecture": "net.py:build", "classes": 10, "file": "w.pt"}))
    torch.save({}, "w.pt")
    with pytest.raises(MmardError, match=r"the card's architecture is net.py:build"):
        load_model("c.json")
    with pytest.raises(MmardError, match=r"to build net.py:build runs its code"):
        build(Architecture(name="net.py:build", classes=10))


@pytest.mark.parametrize(
    ("student", "said"),
    [
        ("net.py:nothing", "net.py:nothing gives a int, expected a network"),
        ("net.py:fails", "net.py:fails fails: ZeroDivisionError"),
        ("net.py:ends", "net.py:ends fails: it ends the program"),
        ("net.py:biuld", "did you mean build?"),
        ("net.py:build(widht=3)", "unknown parameter of net.py:build 'widht'; did you mean width?"),
        ("net.py:build(width=wide)", "width of net.py:build is 'wide', expected a number"),
        ("net.py:fixed", r"the student net.py:fixed gives \(2, 7\) for 2 images of 10 classes: not a fit"),
        (
            "net.py:build(head=dict)",
            r"the student net.py:build\(head=dict\) gives a dict, expected logits, a tuple that begins with them, or .logits",
        ),
        ("net.py:build@w.pt", "the student net.py:build@w.pt begins untrained"),
        ("nowhere.py:build", "there is no file nowhere.py"),
        ("no.such.package:build", "no.such.package cannot be imported: ModuleNotFoundError"),
        ("cnn-4-2(width=3)", "takes no parameters"),
        ("given:Net", "a module given in Python: give it again"),
        ("net.py:build(width=3", "expected brackets that match"),
    ],
)
def test_bad_networks_are_one_line(net: Path, student: str, said: str) -> None:
    with pytest.raises(MmardError, match=said) as e:
        train(student=student, out="run", **SHORT)
    assert "\n" not in str(e.value)
    assert not Path("run").exists()


def test_what_a_builder_changes_for_the_whole_process_comes_back(net: Path) -> None:
    assert train(student="net.py:moves", out="run", **SHORT).best_file.is_file()
    assert (Path.cwd(), torch.get_default_dtype(), str(torch.get_default_device())) == (
        net.parent,
        torch.float32,
        "cpu",
    )
    assert torch.is_grad_enabled()


def test_logits_are_the_first_of_a_tuple_or_an_attribute(net: Path) -> None:
    x = torch.rand(2, 1, 8, 8)
    space: dict[str, Any] = {}
    exec(NET, space)
    for head in ("logits", "tuple", "output"):
        assert adopt(space["build"](10, 1, head=head), 10, 1)(x).shape == (2, 10)


def a_network(norm: Callable[[int], nn.Module]) -> nn.Module:
    """One channel, an in-place ReLU, dropout."""
    parts = nn.Conv2d(1, 4, 3, 2, 1), norm(4), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(*parts, nn.Flatten(), nn.Linear(4, 10))


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, nn.SyncBatchNorm, lambda n: nn.GroupNorm(2, n), nn.InstanceNorm2d])
def test_a_module_given_in_python_is_trained_and_taken_again(
    norm: Callable[[int], nn.Module], tmp_path: Path, mmard: Run
) -> None:
    torch.manual_seed(0)
    module, teacher = a_network(norm), a_network(norm)
    before = module[-1].weight.clone()
    own = {**SHORT, "method": "rslad", "out": str(tmp_path / "run")}
    run = train(student=module, teacher=teacher, **own).path
    assert not torch.equal(module[-1].weight, before)  # it is the caller's own, trained in place
    assert not any(p.requires_grad for p in teacher.parameters())
    assert read_settings(run).student == "given:Sequential"
    with pytest.raises(MmardError, match=r"Sequential, a module given in Python"):
        load_model(run)
    with pytest.raises(MmardError, match=r"student=MODULE"):
        train(str(run), resume=True)
    again = load_model(run, module=a_network(norm))
    assert torch.equal(
        again.net[-1].weight, load_model(run / "last.safetensors", module=a_network(norm)).net[-1].weight
    )
    scores = evaluate_run(run, "fgsm", module=a_network(norm), checks="none")
    assert scores.attacks == ("clean", "FGSM")
    train(str(run), student=a_network(norm), teacher=teacher, resume=True)
    assert "write a function that returns it" in mmard("eval", run, "--attacks", "none").stderr


def test_only_students_and_teachers_are_modules() -> None:
    words, given = given_in({"teachers": {"natural": nn.Linear(1, 1), "other": "runs/x"}, "teachers.robust": nn.ReLU()})
    assert words == {"teachers": {"natural": "given:Linear", "other": "runs/x"}, "teachers.robust": "given:ReLU"}
    assert set(given) == {"natural", "teacher"}
    with pytest.raises(MmardError, match="method is a network, expected one for student, teacher"):
        train(method=nn.Linear(1, 1))


def test_a_network_of_another_size_than_the_data_is_one_line(net: Path) -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(49, 10))
    with pytest.raises(MmardError, match=r"the teacher given:Sequential cannot take images of 1 x 8 x 8"):
        train(**{**SHORT, "method": "rslad"}, teacher=flat, student="cnn-4-2", out="run")


def test_two_files_of_one_stem_have_two_cards(net: Path, mmard: Run) -> None:
    space: dict[str, Any] = {}
    exec(NET, space)
    for name in ("w.pt", "w.pth", "w.pt"):
        torch.save(space["build"](10, 1, 6).state_dict(), name)
        words = ["--attacks", "none", "--limit", "20", "data.name=digits"]
        done = mmard("eval", "net.py:build(width=6)", "--weights", name, *words)
        assert done.returncode == 0, done.stderr
    assert "Weights: `w.pt`." in Path("w-card.md").read_text()
    assert "Weights: `w.pth`." in Path("w.pth-card.md").read_text()
    assert not Path("w.pt-card.md").exists()


def test_a_network_that_was_trained_elsewhere_is_judged_with_report_and_card(net: Path, mmard: Run) -> None:
    space: dict[str, Any] = {}
    exec(NET, space)
    torch.save({"state_dict": {f"module.{k}": v for k, v in space["build"](10, 1, 6).state_dict().items()}}, "w.pt")
    words = [
        "eval",
        "net.py:build(width=6)",
        "--weights",
        "w.pt",
        "--attacks",
        "fgsm",
        "--limit",
        "40",
        "data.name=digits",
    ]
    done = mmard(*words, "threat.eps=0.1")
    assert done.returncode == 0, done.stderr
    scores = json.loads(next(Path("eval").glob("w_*FGSM*/scores.json")).read_text())
    assert (scores["model"], scores["network"]) == ("w.pt", "net.py:build(width=6)")
    assert set(scores["settings"]) == {"data", "threat", "engine"}
    card = Path("w-card.md").read_text()
    assert "A `net.py:build(width=6)` classifier for digits, trained elsewhere and judged by `mmard`." in card
    assert "FGSM" in card
    assert mmard("report", "w.pt", "--also", "md").returncode == 0
    page = Path("w.html").read_text()
    assert "trained elsewhere" in page
    assert "mmard train" not in page  # nothing of a training is missing
    assert "--weights w.pt data.name=digits threat.eps=0.1 --attacks none --curve" in page
    for wrong, said in (
        (["eval", "net.py:build", "--weights", "w.pt", "data.name=digits"], "another width"),
        (["eval", "net.py:build", "--weights", "v.pt", "data.name=digits"], "there are no weights v.pt"),
        (["eval", "net.py:build", "data.name=digits"], "is without weights; give them after an @"),
        (["eval", "cnn-4-2", "--weights", "w.pt"], "--weights w.pt go with one network"),
        (["report", "net.py"], "there is no folder net.py"),
    ):
        done = mmard(*wrong)
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
        assert said in done.stderr


def test_a_network_that_was_trained_elsewhere_is_exported_and_lends_its_gradients(net: Path) -> None:
    pytest.importorskip("onnxruntime")
    space: dict[str, Any] = {}
    exec(NET, space)
    torch.save(space["build"](10, 1).state_dict(), "w.pt")
    made = export("net.py:build@w.pt", data__name="digits", threat__eps=0.1)
    assert (made.path.name, "source" in made.metadata) == ("w.onnx", False)
    scores = evaluate_run("w.onnx", "fgsm", limit=20, surrogate="net.py:build@w.pt", checks="none")
    assert "through-FGSM" in scores.attacks


def test_a_network_from_elsewhere_teaches(net: Path) -> None:
    space: dict[str, Any] = {}
    exec(NET, space)
    torch.save(space["build"](10, 1).state_dict(), "w.pt")
    settings = {**SHORT, "method": "rslad", "student": "net.py:build", "out": "run"}
    run = train(teacher="net.py:build@w.pt", **settings).path
    train(teacher="net.py:build@w.pt", resume=True, **settings)
    assert read_settings(run).teacher == "net.py:build@w.pt"
    student = {**settings, "method": "rslad", "out": "recipe"}
    train(
        "digits-rslad", teacher="net.py:build@w.pt", **student
    )  # the recipe's own teacher is not trained in its place
    assert not Path("runs").exists()
    with pytest.raises(MmardError, match=r"net.py:build is without weights; give them after an @"):
        train(teacher="net.py:build", **{**settings, "out": "other"})


def test_code_of_two_networks_is_kept_side_by_side(net: Path, tmp_path: Path) -> None:
    settings = read_settings(None, {"student": "net.py:build"})
    first, folder = student_architecture(settings, 10), tmp_path / "folder"
    folder.mkdir()
    keep_code(folder, first)
    net.write_text(NET + "\n# other\n")
    keep_code(folder, student_architecture(settings, 10))
    assert len(list(folder.glob("network*.py"))) == 2


def test_an_extra_that_is_not_installed_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, extra in (("timm", "timm"), ("torchvision", "torchvision"), ("transformers", "hf")):
        monkeypatch.setitem(sys.modules, name, None)
        if name == "torchvision":
            monkeypatch.setitem(sys.modules, "torchvision.models", None)
        with pytest.raises(MmardError, match=rf"more packages .*: pip install 'mmard\[{extra}\]'"):
            build(Architecture(name=f"{extra}:resnet18", classes=10))


def test_what_cannot_be_built_without_memory_is_built_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def reads_a_value(name: str, given: Any, classes: int, channels: int) -> tuple[nn.Module, Any]:
        float(torch.linspace(0, 0.1, 3)[1].item())
        return nn.Sequential(nn.Flatten(), nn.Linear(channels * 4, classes)), ((), ())

    monkeypatch.setitem(PROVIDERS, "timm", reads_a_value)
    state = torch.get_rng_state()
    net = build(Architecture(name="timm:any", classes=3))
    assert net(torch.rand(2, 3, 2, 2)).shape == (2, 3)
    torch.set_rng_state(state)
    assert torch.equal(net.net[1].weight, nn.Linear(12, 3).weight)  # the check has drawn no number


STUDENTS = [
    "timm:resnet10t",
    "timm:mobilenetv3_small_050",
    "timm:efficientnet_lite0",
    "timm:deit_tiny_patch16_224(img_size=32, patch_size=8, depth=2)",
    "timm:regnetx_002",
    "torchvision:mobilenet_v3_small",
]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Pictures of 32×32 in colour, and settings that make a run a matter of seconds."""
    folder = tmp_path_factory.mktemp("pictures")
    for name, count, seed in (("train", 60, 0), ("test", 40, 1)):
        x, y, _ = blobs(count, channels=3, size=32, seed=seed).batch(slice(None))
        np.savez(folder / f"{name}.npz", x=(x.permute(0, 2, 3, 1) * 255).clamp(0, 255).byte().numpy(), y=y.numpy())
    data = {"name": "npz", "train": str(folder / "train.npz"), "test": str(folder / "test.npz"), "held_out": 0.3}
    quick = {"train__epochs": 1, "train__batch_size": 14, "attack__steps": 1, "validation__steps": 1}
    return {"data": data, **quick, "threat__eps": 0.03, "teacher_check": "none"}


@pytest.mark.slow
@pytest.mark.torchvision
@pytest.mark.parametrize("student", STUDENTS)
def test_networks_of_timm_and_torchvision_are_distilled_judged_and_exported(
    student: str, small: dict[str, Any], tmp_path: Path
) -> None:
    pytest.importorskip(student.partition(":")[0], reason="the extra is not installed here: mmard[timm,torchvision]")
    pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(48, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = train(student=student, teacher=teacher, method="mmard", out=str(tmp_path / "run"), **small).path
        assert export(run).comparison.agree == 1
        assert evaluate_run(run, "fgsm", checks="none").attacks == ("clean", "FGSM")
    model = load_model(run)
    assert model.architecture.spec == NetworkSpec.of(student)
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 4)


@pytest.mark.torchvision
def test_names_that_providers_do_not_have_are_one_line() -> None:
    for provider, wrong, near in (("timm", "resnet10", "resnet10t"), ("torchvision", "resnet19", "resnet18")):
        pytest.importorskip(provider, reason="the extra is not installed here: mmard[timm,torchvision]")
        with pytest.raises(MmardError, match=rf"has no network '{wrong}' for classification; did you mean .*{near}"):
            build(Architecture(name=f"{provider}:{wrong}", classes=10))


@pytest.mark.torchvision
def test_torchvision_of_one_channel_and_deit_of_224() -> None:
    pytest.importorskip("torchvision", reason="the extra is not installed here: mmard[torchvision]")
    one = build(Architecture(name="torchvision:mobilenet_v3_small", classes=5, channels=1)).eval()
    assert one(torch.rand(2, 1, 32, 32)).shape == (2, 5)


def test_a_configuration_of_the_hub_is_kept_with_the_weights(
    small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformers = pytest.importorskip("transformers", reason="the extra is not installed here: mmard[hf]")
    monkeypatch.chdir(tmp_path)
    config = transformers.ResNetConfig(embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], layer_type="basic")
    config.save_pretrained("hub")
    run = train(student="hf:hub", method="pgd_at", out="run", **small).path
    (tmp_path / "hub" / "config.json").unlink()
    assert load_model(run)(torch.rand(2, 3, 32, 32)).shape == (2, 4)
    train(str(run), resume=True)


@pytest.mark.parametrize("name", ["timm:hf-hub:a/b", "timm:hf-hub:timm/resnet10t.c3_in1k(drop_rate=0.1)@w.pt"])
def test_a_network_on_timms_hub_is_one_line(name: str) -> None:
    assert is_foreign(name)
    with pytest.raises(MmardError, match=r"expected timm:NAME, the architecture.*timm:NAME@FILE"):
        NetworkSpec.of(name)


def test_a_student_with_its_own_mean_learns_grey_images_and_coloured_ones() -> None:
    """Of which there are as many channels as its mean has numbers."""
    for mean, std in (([0.1], [0.5]), ([0.1, 0.2, 0.3], [0.5, 0.5, 0.5])):
        settings = read_settings(None, {"method": "pgd_at", "student": {"name": "cnn-2-1", "mean": mean, "std": std}})
        resolve(settings)
        student = build_student(settings, {}, (10, torch.Size([len(mean), 8, 8])), ((), ()))
        assert student.architecture.mean == tuple(mean)
        assert student(torch.rand(2, len(mean), 8, 8)).shape == (2, 10)
