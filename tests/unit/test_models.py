"""Architectures, weights and cards: shapes, names of public checkpoints, and files that are not what they say."""

import json
import pickle
import tomllib
from pathlib import Path

import pytest
import torch
import torch.nn.functional as functional
from helpers import small_net
from torch import nn

from mmard import MmardError, load_model
from mmard.models import cards
from mmard.models.architectures import Architecture, build
from mmard.models.cards import find_model, load_teacher, zoo_cards
from mmard.models.deepmind import MeanSparse
from mmard.models.weights import load_weights, metadata_of, save_weights
from mmard.utils.files import sha256

# counted by hand from the papers' tables: 10 classes, 3 channels
PARAMETERS = {"resnet18": 11_173_962, "preactresnet18": 11_172_170, "wrn-34-10": 46_160_474, "mobilenetv2": 2_296_922,
              "vit-64-4-4": 203_850, "resnet50": 23_520_842, "preactresnet18-plain": 11_171_146,
              "dm-preactresnet18": 12_548_426, "dm-wrn-28-10": 36_479_194, "wrn-r": 68_116_698, "wrn-a4": 147_291_738,
              "wrn-cosine-34-20": 184_531_664}  # fmt: skip


@pytest.mark.parametrize("name", PARAMETERS)
def test_networks_have_the_known_number_of_parameters(name: str) -> None:
    with torch.device("meta"):
        model = build(Architecture(name=name, classes=10))
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", ["resnet18", "preactresnet18", "mobilenetv2", "mobilenetv2-25", "wrn-10-1",
                                  "cnn-4-1", "cnn-8-5", "vit-8-1-4", "vit-64-2-2", "dm-wrn-10-1", "dm-wrn-sparse-10-1",
                                  "wrn-mma-10-1", "wrn-cosine-10-1", "wrn-pssilu-10-1", "dm-preactresnet18"])  # fmt: skip
@pytest.mark.parametrize(("channels", "size"), [(1, 8), (3, 32), (3, 64)])
def test_any_small_image_gives_logits(name: str, channels: int, size: int) -> None:
    model = build(Architecture(name=name, classes=7, channels=channels)).eval()
    with torch.no_grad():
        assert model(torch.rand(2, channels, size, size)).shape == (2, 7)


def test_a_transformer_knows_where_its_patches_lie_and_trains() -> None:
    model = build(Architecture(name="vit-32-1-2", classes=3, channels=1))
    x = torch.rand(4, 1, 8, 8)
    assert not torch.allclose(model(x), model(x.flip(3)), atol=1e-4)
    model(x).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "size", "words"), [("vit-32-1-3", 8, "whole patches of 3"), ("vit-50-1-2", 8, "width 50")]
)
def test_a_transformer_says_what_does_not_fit(name: str, size: int, words: str) -> None:
    with pytest.raises(MmardError, match=words):
        build(Architecture(name=name, classes=3, channels=1))(torch.rand(1, 1, size, size))


def test_normalisation_is_inside_and_done_once() -> None:
    raw = small_net(name="cnn-4-1")
    inside = build(Architecture(name="cnn-4-1", classes=4, channels=1, mean=(0.2,), std=(0.5,)))
    inside.net.load_state_dict(raw.net.state_dict())
    x = torch.rand(3, 1, 6, 6)
    torch.testing.assert_close(inside.eval()(x), raw.eval()((x - 0.2) / 0.5))


def same_padded(x: torch.Tensor, weight: torch.Tensor, stride: int) -> torch.Tensor:
    """A convolution with TensorFlow's SAME: as many zeros in all as the output needs, the odd one on the right and below."""
    size, kernel = x.shape[-1], weight.shape[-1]
    zeros = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    padded = functional.pad(x, (zeros // 2, zeros - zeros // 2) * 2)
    return functional.conv2d(padded, weight, stride=stride)


def naive_dm_wrn(state: dict[str, torch.Tensor], x: torch.Tensor, blocks: int) -> torch.Tensor:
    """The WideResNet of arXiv 2010.03593 from its weights, in evaluation mode."""

    def active(name: str, z: torch.Tensor) -> torch.Tensor:
        mean, var, w, b = (
            state[f"{name}.{part}"].view(-1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")
        )
        z = (z - mean) / (var + 1e-5).sqrt() * w + b
        return z * z.sigmoid()

    z = same_padded(x, state["init_conv.weight"], 1)
    for group in range(3):
        for i in range(blocks):
            name, stride = f"layer.{group}.block.{i}", 2 if group and i == 0 else 1
            first = active(f"{name}.batchnorm_0", z)
            out = same_padded(first, state[f"{name}.conv_0.weight"], stride)
            out = same_padded(active(f"{name}.batchnorm_1", out), state[f"{name}.conv_1.weight"], 1)
            short = state.get(f"{name}.shortcut.weight")
            z = out + (z if short is None else functional.conv2d(first, short, stride=stride))
    return active("batchnorm", z).mean((2, 3)) @ state["logits.weight"].T + state["logits.bias"]


def test_deepminds_wideresnet_is_what_a_second_implementation_makes_of_its_weights() -> None:
    torch.manual_seed(0)
    model = (
        build(Architecture(name="dm-wrn-16-2", classes=5, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))).double().eval()
    )
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    x = torch.rand(2, 3, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        wanted = naive_dm_wrn(dict(model.net.state_dict()), (x - model.mean) / model.std, 2)
        torch.testing.assert_close(model(x), wanted)


def test_special_wideresnets_have_their_invariances() -> None:
    """Brightness and contrast of an image mean nothing to the one; the scale of a class's weights nothing to the other."""
    x = 0.2 + 0.6 * torch.rand(2, 3, 8, 8)
    mma, cosine = (build(Architecture(name=f"wrn-{kind}-10-1", classes=4)).eval() for kind in ("mma", "cosine"))
    with torch.no_grad():
        torch.testing.assert_close(mma(0.5 * x + 0.2), mma(x), rtol=1e-4, atol=1e-5)
        before = cosine(x)
        cosine.net.fc.weight.mul_(torch.tensor([[2.0], [0.5], [3.0], [1.0]]))  # type: ignore[union-attr, operator]
        torch.testing.assert_close(cosine(x), before)
    assert before.abs().max() <= 1 + 1e-6


def test_mean_sparse_puts_what_is_near_on_its_channels_mean() -> None:
    part = MeanSparse(1)
    part.running_mean.fill_(0.5)
    part.running_var.fill_(0.04)
    x = torch.tensor([0.0, 0.35, 0.45, 0.55, 0.65]).view(1, 1, 1, 5)
    assert torch.equal(part(x), x)
    part.threshold.fill_(0.5)
    assert part(x).flatten().tolist() == pytest.approx([0.0, 0.35, 0.5, 0.5, 0.65])


def public_wrn(depth: int = 10, widen: int = 2) -> dict[str, torch.Tensor]:
    """A checkpoint as the TRADES code writes it: from nn.DataParallel, with the block that is never called."""
    state = build(Architecture(name=f"wrn-{depth}-{widen}", classes=10)).net.state_dict()
    extra = {f"sub_{k}": t for k, t in state.items() if k.startswith("block1.")}
    return {f"module.{k}": t for k, t in {**state, **extra}.items()}


def test_the_names_are_those_of_the_public_wrn_34_10() -> None:
    with torch.device("meta"):
        names = dict(build(Architecture(name="wrn-34-10", classes=10)).net.state_dict())
    known = {
        "conv1.weight": (16, 3, 3, 3), "block1.layer.0.convShortcut.weight": (160, 16, 1, 1),
        "block1.layer.4.conv2.weight": (160, 160, 3, 3), "block2.layer.0.bn1.running_mean": (160,),
        "block3.layer.0.conv1.weight": (640, 320, 3, 3), "bn1.weight": (640,), "fc.weight": (10, 640),
    }  # fmt: skip
    assert {k: tuple(names[k].shape) for k in known} == known


@pytest.fixture
def card(tmp_path: Path) -> Path:
    """A card for a public checkpoint."""
    torch.save({"state_dict": public_wrn(), "epoch": 3}, tmp_path / "trades.pt")
    metadata = {
        "architecture": "wrn-10-2", "classes": 10, "file": "trades.pt", "sha256": sha256(tmp_path / "trades.pt"),
        "claimed": {"clean": 84.92, "autoattack": 53.08}, "source": "made here", "licence": "MIT",
    }  # fmt: skip
    (tmp_path / "card.json").write_text(json.dumps(metadata))
    return tmp_path / "card.json"


def change(card: Path, **metadata: object) -> Path:
    card.write_text(json.dumps({**json.loads(card.read_text()), **metadata}))
    return card


def test_a_card_yields_a_frozen_model_with_the_public_weights(card: Path) -> None:
    teacher = load_teacher(card, classes=10, channels=3)
    assert not teacher.training
    assert not any(p.requires_grad for p in teacher.parameters())
    saved = torch.load(card.parent / "trades.pt")["state_dict"]["module.fc.weight"]
    assert torch.equal(teacher.net.fc.weight, saved)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"sha256": "0" * 64}, "it is another file"),
        ({"architecture": "wrn-16-2"}, "lacks block1.layer.1.*is it another architecture"),
        ({"architecture": "wrn-10-3"}, r"has shape .*expected .*another width"),
        ({"classes": 100}, "another number of classes"),
        ({"architecture": "resnet18"}, "another architecture"),
        ({"architecture": "wrm-10-1"}, "unknown model 'wrm-10-1'; did you mean"),
        ({"file": "gone.pt"}, "does not exist"),
        ({"fiel": "x"}, "'fiel'; did you mean file"),
        ({"hub": {"repo": "a/b", "filename": "c"}}, "either 'file' or 'hub'"),
        ({"mean": [0.5]}, "one for each of 3 channels"),
        ({"classes": "ten"}, "'classes' is 'ten'"),
    ],
)
def test_a_card_that_does_not_fit_is_one_clear_line(card: Path, metadata: dict[str, object], words: str) -> None:
    with pytest.raises(MmardError, match=words):
        load_model(change(card, **metadata))


def test_a_teacher_with_other_classes_than_the_data(card: Path) -> None:
    with pytest.raises(MmardError, match="has 10 classes and 3 channels, the data 4 and 1"):
        load_teacher(card, classes=4, channels=1)


class Bomb:
    """Unpickling this runs code."""

    def __reduce__(self) -> object:
        return (Path.touch, (Path("bomb_went_off"),))


def test_a_pickle_that_would_run_code_is_refused(card: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(card.parent)
    for name, dump in (("bomb.pt", torch.save), ("bomb.pkl", lambda o, p: Path(p).write_bytes(pickle.dumps(o)))):
        dump({"fc.weight": Bomb()}, card.parent / name)
        with pytest.raises(MmardError, match="refused: it is no file of weights, or holds more"):
            load_model(change(card, file=name, sha256=None))
    assert not Path("bomb_went_off").exists()


@pytest.mark.parametrize("name", ["net.safetensors", "net.pt"])
def test_truncated_weights_are_one_clear_line(card: Path, name: str) -> None:
    path = card.parent / name
    net = small_net()
    save_weights(path, net) if name.endswith("safetensors") else torch.save(net.state_dict(), path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(MmardError, match="truncated"):
        load_model(path) if name.endswith("safetensors") else load_model(change(card, file=name, sha256=None))


def test_weights_describe_themselves(tmp_path: Path) -> None:
    net = build(Architecture(name="cnn-4-2", classes=5, channels=1, mean=(0.1,), std=(0.9,)))
    save_weights(tmp_path / "net.safetensors", net, {"note": "x"})
    back, metadata = load_weights(tmp_path / "net.safetensors"), metadata_of(tmp_path / "net.safetensors")
    assert back.architecture == net.architecture
    assert metadata == {"note": "x"}
    assert all(torch.equal(a, b) for a, b in zip(back.state_dict().values(), net.state_dict().values(), strict=True))


def test_foreign_safetensors_ask_for_a_card(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file(nn.Linear(2, 2).state_dict(), tmp_path / "foreign.safetensors")
    with pytest.raises(MmardError, match="write a card"):
        load_model(tmp_path / "foreign.safetensors")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("wrn-9-1", "depth is 6n"),
        ("cnn-0-2", "at least 1"),
        ("resnet", "did you mean"),
        ("cnn-4", "cnn-W-D"),
        ("wrn-34-10x", "wrn-D-K"),
    ],
)
def test_an_impossible_architecture_is_one_clear_line(name: str, words: str) -> None:
    with pytest.raises(MmardError, match=words):
        build(Architecture(name=name, classes=10))


def test_images_of_other_channels_are_refused() -> None:
    with pytest.raises(MmardError, match="images have 3 channels, the model takes 1"):
        small_net()(torch.rand(2, 3, 8, 8))


def test_a_card_for_our_own_weights_must_agree_with_them(tmp_path: Path) -> None:
    net = build(Architecture(name="cnn-4-1", classes=5, channels=1, mean=(0.1,), std=(0.9,)))
    save_weights(tmp_path / "net.safetensors", net)
    card = tmp_path / "card.json"
    card.write_text(json.dumps({"architecture": "cnn-4-1", "classes": 5, "channels": 1, "file": "net.safetensors"}))
    with pytest.raises(MmardError, match=r"the card .* says"):
        load_model(card)
    x = torch.rand(2, 1, 6, 6)
    torch.testing.assert_close(load_model(change(card, mean=[0.1], std=[0.9]))(x), net.eval()(x))


def test_the_teachers_of_the_package_are_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    card = zoo_cards()["cifar10-cnn-32-7"]
    for name in ("zoo:cifar10-cnn-32-7", "zoo/cifar10-cnn-32-7.json", "zoo/cifar10-cnn-32-7"):
        assert find_model(name) == card, name
    assert load_model("zoo:cifar10-cnn-32-7").architecture.name == "cnn-32-7"
    with pytest.raises(
        MmardError,
        match=r"unknown teacher in zoo 'cifar10'; did you mean .*cifar10-cnn-32-7.* a clone of the project has all",
    ):
        find_model("zoo:cifar10")
    with pytest.raises(MmardError, match=r"no model at zoo/large\.json; .* a clone of the project has all of zoo/"):
        find_model("zoo/large.json")
    (tmp_path / "zoo").mkdir()
    (tmp_path / "zoo/cifar10-cnn-32-7.json").write_text("{}")  # the user's own goes first
    assert find_model("zoo/cifar10-cnn-32-7.json") == Path("zoo/cifar10-cnn-32-7.json")
    monkeypatch.setattr(cards, "INSTALLED", card.parent)  # as in an installed package, whose folder is not the user's
    assert (cards.results_folder(card), cards.results_folder(tmp_path / "a.json")) == (Path(), tmp_path)


def test_the_wheel_holds_the_zoo_but_for_its_large_teachers() -> None:
    root = Path(__file__).resolve().parents[2]
    built = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]
    files = [p for p in (root / "zoo").iterdir() if p.suffix in (".json", ".safetensors", ".md")]
    wanted = {f"zoo/{p.name}" for p in files if not p.match("cifar10-wrn-*")}
    packed = {name: at for name, at in built["wheel"]["force-include"].items() if name.startswith("zoo/")}
    assert packed == {name: f"mmard/{name}" for name in wanted}
    assert built["sdist"]["exclude"] == ["zoo/cifar10-wrn-*"]
    assert sum((root / name).stat().st_size for name in wanted) < 3e6


@pytest.mark.parametrize("name", sorted(zoo_cards()))
def test_a_teacher_of_the_zoo_is_what_its_card_says(name: str) -> None:
    model = load_model(f"zoo:{name}")
    assert model.architecture.name in name
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert model(x).isfinite().all()
    assert not torch.equal(model(x)[0], model(x)[1])
