"""Recognition of weights without a card: the layout that names and shapes of a file speak of."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from mmard.models.architectures import Architecture, build
from mmard.models.checkpoints import MEANS, STDS, WeightSet, groups_of, read_checkpoint, sets_for
from mmard.utils.errors import MmardError
from mmard.utils.files import sha256

Shapes = dict[str, tuple[int, ...]]
AVERAGES = re.compile(r"ema|swa|avg|averaged", re.IGNORECASE)
WRAPPERS = ("_orig_mod.",)
LAST = ("fc.weight", "linear.weight", "logits.weight", "head.fc.weight", "head.weight")
CONVNEXTS = {(96, 9): "tiny", (96, 27): "small", (128, 27): "base", (192, 27): "large"}
VITS = {192: "deit_tiny_patch16_224", 384: "deit_small_patch16_224", 768: "vit_base_patch16_224"}
SWINS = {(96, 6): "tiny", (96, 18): "small", (128, 18): "base", (192, 18): "large"}


def card_facts(path: Path) -> dict[str, Any]:
    """Describe a file of somebody's weights as a card does, from its names and shapes.

    Of several sets of weights an average is chosen (``ema``, ``swa``, ``avg``), for these are what papers evaluate. A mean and a
    std that the file holds are taken over; where it holds none, none are known.

    Raises:
        MmardError: where the layout is not known, or several sets fit of which none is an average.
    """
    groups = groups_of(read_checkpoint(path), path)
    for tensors in sorted(groups.values(), key=len, reverse=True):
        for _, architecture in candidates(tensors):
            with suppress(MmardError):  # of a package that is not installed, or of sizes that do not go together
                fitting = sets_for(build(architecture, fresh=False).net, groups)
                if whole := [one for one in fitting if not one.strangers(fitting)]:
                    return _facts(path, architecture, whole)
    first = next(iter(max(groups.values(), key=len).items()))
    raise MmardError(
        f"{path} is of no layout that its names tell ({first[0]}, {tuple(first[1].shape)}, ...); write a card for it "
        "(docs/teachers.md)"
    )


def _facts(path: Path, architecture: Architecture, fitting: list[WeightSet]) -> dict[str, Any]:
    chosen = next((one for one in fitting if AVERAGES.search(one.key)), fitting[0])
    facts: dict[str, Any] = {"architecture": architecture.name, "classes": architecture.classes}
    facts |= {"channels": architecture.channels, "file": path.name, "sha256": sha256(path)}
    if any(not one.same_as(chosen) for one in fitting):
        if not AVERAGES.search(chosen.key):
            keys = ", ".join(one.key for one in fitting)
            raise MmardError(
                f"{path} is a {architecture.name} and holds {len(fitting)} different sets of weights: {keys}; write a card with "
                'the one you mean as its "key" (docs/teachers.md)'
            )
        facts["key"] = chosen.key
    for part, names in (("mean", MEANS), ("std", STDS)):
        found = [t for name, t in chosen.rest.items() if name.rpartition(".")[2] in names]
        facts |= {part: [round(value, 6) for value in found[0].flatten().tolist()]} if found else {}
    return facts


def candidates(state: Mapping[str, Any]) -> Iterator[tuple[str, Architecture]]:
    """Yield what a dictionary of names and tensors may be: the prefix of its names, and the architecture, likeliest first.

    Names and shapes do not tell a mean and a std, so these are left out.
    """
    whole = {name: tuple(t.shape) for name, t in state.items() if hasattr(t, "shape")}
    for part in WRAPPERS:
        whole = {name.replace(part, ""): shape for name, shape in whole.items()}
    for sign, names_of in SIGNS.items():
        prefixes = sorted({n.removesuffix(sign) for n in whole if n == sign or n.endswith(f".{sign}")}, key=len)
        for prefix in prefixes:
            shapes = {n.removeprefix(prefix): shape for n, shape in whole.items() if n.startswith(prefix)}
            classes = next((shapes[n][0] for n in LAST if n in shapes), 0)
            channels = next((shape[1] for shape in shapes.values() if len(shape) == 4), 0)
            for name in names_of(shapes):
                if classes and channels:
                    yield prefix, Architecture(name=name, classes=classes, channels=channels)


def _count(shapes: Shapes, pattern: str) -> int:
    """Count the numbers that stand in the brackets of a pattern of names."""
    return len({found[1] for name in shapes if (found := re.match(pattern, name))})


def _wrn(shapes: Shapes) -> Iterator[str]:
    depth, widen = 6 * _count(shapes, r"block1\.layer\.(\d+)\.") + 4, shapes["block1.layer.0.conv1.weight"][0] // 16
    if "activation.alpha" in shapes:
        yield f"wrn-pssilu-{depth}-{widen}"
    elif "fc.bias" not in shapes:
        yield f"wrn-cosine-{depth}-{widen}"
    else:
        yield f"wrn-{depth}-{widen}"


def _deepmind(shapes: Shapes) -> Iterator[str]:
    depth, widen = 6 * _count(shapes, r"layer\.0\.block\.(\d+)\.") + 4, shapes["layer.0.block.0.conv_0.weight"][0] // 16
    sparse = "sparse-" if any("meansparse" in name for name in shapes) else ""
    yield f"dm-wrn-{sparse}{depth}-{widen}"


def _resnet(shapes: Shapes) -> Iterator[str]:
    if shapes.get("conv1.weight", ())[2:] == (7, 7):
        deep = _count(shapes, r"layer3\.(\d+)\.")
        if "layer1.0.conv3.weight" not in shapes:
            yield f"torchvision:resnet{ {2: 18, 6: 34}.get(deep, 0) }"
        elif shapes["layer1.0.conv2.weight"][0] == 128:
            yield f"torchvision:wide_resnet{ {6: 50, 23: 101}.get(deep, 0) }_2"
        else:
            yield f"torchvision:resnet{ {6: 50, 23: 101, 36: 152}.get(deep, 0) }"
    elif "layer1.0.conv3.weight" in shapes:
        yield "resnet50"
    elif "bn1.weight" in shapes:
        yield "resnet18"
    else:
        yield "preactresnet18" if "bn.weight" in shapes else "preactresnet18-plain"


def _xcit(shapes: Shapes) -> Iterator[str]:
    width, heads = shapes["cls_token"][-1], shapes["blocks.0.attn.temperature"][0]
    small = shapes["head.weight"][0] < 1000
    yield f"xcit-{width}-{heads}-{4 if small else 16}"
    yield f"xcit-{width}-{heads}-{16 if small else 4}"


def _convnext(shapes: Shapes) -> Iterator[str]:
    size = CONVNEXTS.get((shapes["stages.0.blocks.0.norm.weight"][0], _count(shapes, r"stages\.2\.blocks\.(\d+)\.")))
    if size is not None:
        stem = "stem.stem.0.weight" in shapes
        yield f"convstem-convnext_{size}" if stem else f"timm:convnext_{size}"


def _vit(shapes: Shapes) -> Iterator[str]:
    name = VITS.get(shapes["cls_token"][-1]) if "cls_token" in shapes else None
    if name is not None and "cls_attn_blocks.0.norm1.weight" not in shapes:
        stem = "patch_embed.proj.stem.0.weight" in shapes
        yield f"convstem-{name}" if stem else f"timm:{name}"


def _swin(shapes: Shapes) -> Iterator[str]:
    first = shapes["layers.0.blocks.0.norm1.weight"][0]
    size = SWINS.get((first, _count(shapes, r"layers\.2\.blocks\.(\d+)\.")))
    if size is not None:
        yield f"timm:swin_{size}_patch4_window7_224"


SIGNS: dict[str, Callable[[Shapes], Iterator[str]]] = {
    "block1.layer.0.conv1.weight": _wrn,
    "layer.0.block.0.conv_0.weight": _deepmind,
    "layer_0.0.conv_2d_1.weight": lambda _: iter(["dm-preactresnet18"]),
    "blocks.0.layer.0.conv1.weight": lambda shapes: iter(["wrn-a4" if "norm1.weight" in shapes else "wrn-r"]),
    "layer1.0.conv1.weight": _resnet,
    "blocks.0.attn.temperature": _xcit,
    "stages.0.blocks.0.norm.weight": _convnext,
    "blocks.0.attn.qkv.weight": _vit,
    "layers.0.blocks.0.norm1.weight": _swin,
}
"""A name that only one kind of layout has, and the names of architectures by the shapes beside it."""
