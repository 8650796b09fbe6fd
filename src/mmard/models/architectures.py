"""Architectures by name, each with its normalisation inside: pixels in [0, 1] in, logits out."""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmard.core.logits import logits_in
from mmard.models.cnn import Cnn
from mmard.models.deepmind import DeepMindPreActResNet18, DeepMindWideResNet
from mmard.models.foreign import GIVEN, PROVIDERS, RAW, NetworkSpec, build_network, kept_parameters
from mmard.models.mobilenet import MobileNetV2
from mmard.models.resnet import PlainPreActResNet18, ResNet18, ResNet50
from mmard.models.timm_layouts import STEM_WIDTHS, convolutional_stem, xcit
from mmard.models.vit import VisionTransformer
from mmard.models.wideresnet import WideResNet
from mmard.models.wideresnet_kinds import CosineWideResNet, PsSilu, StagedWideResNet, StandardisingWideResNet
from mmard.utils.errors import MmardError, first_line, unknown

GIB = 2**30
LARGEST = 9999
"""Width or depth in a name. A layer more takes a millisecond to build, and its width takes memory."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The specification of a network, from which it can be built again; it travels with the weights.

    Args:
        name: such as ``"resnet18"``, ``"wrn-34-10"``, ``"cnn-16-3"``; of a network from elsewhere ``"timm:resnet10t"``,
            ``"net.py:build"`` (`mmard.models.foreign`).
        classes, channels: sizes of the output and of the input.
        mean, std: per channel, subtracted and divided inside the network; empty: raw pixels.
        parameters: of the builder of a network from elsewhere.
        code: SHA-256 of the user's file that builds it; empty for any other.
    """

    name: str
    classes: int
    channels: int = 3
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    code: str = ""

    def __post_init__(self) -> None:
        for what, got in (("mean", self.mean), ("std", self.std)):
            if len(got) not in (0, self.channels):
                raise MmardError(f"{what} has {len(got)} values, expected one for each of {self.channels} channels")
        if len(self.mean) != len(self.std) or any(s <= 0 for s in self.std):
            raise MmardError("mean and std go together, and every std is above 0")

    def facts(self) -> dict[str, Any]:
        """Return plain values that travel with the weights: no folder of this machine, and no field that only others need."""
        place, colon, function = self.name.rpartition(":")
        name = f"{Path(place).name}{colon}{function}"
        return {key: v for key, v in {**asdict(self), "name": name}.items() if v or key not in ("parameters", "code")}

    @staticmethod
    def from_facts(facts: Mapping[str, Any]) -> "Architecture":
        """Read what `facts` gave, from JSON."""
        return Architecture(**{**facts, "mean": tuple(facts["mean"]), "std": tuple(facts["std"])})

    @property
    def spec(self) -> NetworkSpec:
        """Return the name with its parameters."""
        return NetworkSpec(name=self.name, parameters=self.parameters)


class Classifier(nn.Module):
    """A network with its normalisation: the only kind of model in this package.

    ``forward``: images (B, C, H, W) in [0, 1] → logits (B, classes). A network that gives more than logits gives them as the first
    of a tuple, or as ``.logits``.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, net: nn.Module, architecture: Architecture) -> None:
        super().__init__()
        self.net, self.architecture = net, architecture
        shape = (1, -1, 1, 1)
        mean = architecture.mean or (0.0,) * architecture.channels
        std = architecture.std or (1.0,) * architecture.channels
        self.register_buffer("mean", torch.tensor(mean).view(shape))
        self.register_buffer("std", torch.tensor(std).view(shape))
        self.normalizes = bool(architecture.mean)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] != self.architecture.channels:  # normalisation would broadcast a wrong number silently
            raise MmardError(f"images have {x.shape[1]} channels, the model takes {self.architecture.channels}")
        output = self.net((x - self.mean) / self.std if self.normalizes else x)
        return output if isinstance(output, Tensor) else logits_in(output)


def _with_stem(name: str, a: Architecture) -> nn.Module:
    return convolutional_stem(name, a.classes, a.channels)


FAMILIES: dict[str, tuple[str, Callable[..., nn.Module]]] = {
    "resnet18": ("ResNet-18 for small images, 11.2 M parameters", lambda a: ResNet18(a.classes, a.channels)),
    "preactresnet18": ("PreActResNet-18, 11.2 M", lambda a: ResNet18(a.classes, a.channels, pre_activation=True)),
    "mobilenetv2": ("MobileNetV2 for small images, 2.3 M", lambda a: MobileNetV2(a.classes, a.channels)),
    "mobilenetv2-P": (
        "the same with P percent of the width, such as mobilenetv2-25 (0.2 M)",
        lambda a, percent: MobileNetV2(a.classes, a.channels, percent),
    ),
    "wrn-D-K": (
        "WideResNet of depth D and width K, such as wrn-34-10 (46 M)",
        lambda a, depth, widen: WideResNet(depth, widen, a.classes, a.channels),
    ),
    "cnn-W-D": (
        "plain convolutions, first width W, D layers, such as cnn-16-3; for CPUs",
        lambda a, width, depth: Cnn(width, depth, a.classes, a.channels),
    ),
    "vit-W-D-P": (
        "vision transformer of width W, depth D, patches of P×P, such as vit-64-4-4 (0.2 M)",
        lambda a, width, depth, patch: VisionTransformer(width, depth, patch, a.classes, a.channels),
    ),
}
"""Networks to train, and to teach."""

TEACHERS: dict[str, tuple[str, Callable[..., nn.Module]]] = {
    "resnet50": ("ResNet-50 for small images, 23.5 M", lambda a: ResNet50(a.classes, a.channels)),
    "preactresnet18-plain": (
        "PreActResNet-18 without the last BatchNorm, as in fast adversarial training",
        lambda a: PlainPreActResNet18(a.classes, a.channels),
    ),
    "dm-preactresnet18": (
        "PreActResNet-18 with SiLU, in DeepMind's layout, 12.6 M",
        lambda a: DeepMindPreActResNet18(a.classes, a.channels),
    ),
    "dm-wrn-D-K": (
        "WideResNet with SiLU, in DeepMind's layout, such as dm-wrn-28-10 (36 M)",
        lambda a, depth, widen: DeepMindWideResNet(depth, widen, a.classes, a.channels),
    ),
    "dm-wrn-sparse-D-K": (
        "the same with MeanSparse before each activation",
        lambda a, depth, widen: DeepMindWideResNet(depth, widen, a.classes, a.channels, sparse=True),
    ),
    "wrn-mma-D-K": (
        "wrn-D-K that brings each image to mean 0 and deviation 1",
        lambda a, depth, widen: StandardisingWideResNet(depth, widen, a.classes, a.channels),
    ),
    "wrn-cosine-D-K": (
        "wrn-D-K whose logits are cosines between features and classes",
        lambda a, depth, widen: CosineWideResNet(depth, widen, a.classes, a.channels),
    ),
    "wrn-pssilu-D-K": (
        "wrn-D-K with a SiLU whose shape is learnt",
        lambda a, depth, widen: WideResNet(depth, widen, a.classes, a.channels, PsSilu()),
    ),
    "wrn-r": (
        "WRN-34-R, of fewer channels in the last stage, 68 M",
        lambda a: StagedWideResNet((5, 5, 5), (320, 640, 512), a.classes, a.channels),
    ),
    "wrn-a4": (
        "WRN-A4, deep and wide in the middle, with SiLU, 147 M",
        lambda a: StagedWideResNet((27, 28, 13), (160, 448, 384), a.classes, a.channels, F.silu),
    ),
    "xcit-W-H-P": (
        "XCiT of width W, H heads, patches of P×P, such as xcit-384-8-4 (26 M); needs timm",
        lambda a, width, heads, patch: xcit(width, heads, patch, a.classes, a.channels),
    ),
    **{
        f"convstem-{name}": (f"timm's {name} with a stem of convolutions, for 224×224", partial(_with_stem, name))
        for name in STEM_WIDTHS
    },
}
"""Layouts of published robust networks, whose weights a card brings."""
FAMILIES |= TEACHERS


def build(architecture: Architecture, *, fresh: bool = True) -> Classifier:
    """Build a freshly initialised classifier.

    Args:
        fresh: for a new run; False: weights will be loaded, and a network from elsewhere fetches none of its own.

    Raises:
        MmardError: for a name of no known family, with the nearest names; for a network that is larger than this machine's memory;
            for the user's own code, where he has not named it himself.
    """
    if architecture.spec.kind:
        return _foreign(architecture, fresh)
    for family, (_, make) in FAMILIES.items():
        pattern = re.sub(r"-[A-Z]", r"-(\\d+)", family)
        if match := re.fullmatch(pattern, architecture.name):
            numbers = [int(n) for n in match.groups()]
            if 0 in numbers:
                raise MmardError(f"{architecture.name}: width and depth are at least 1")
            if len(max(match.groups(), key=len, default="")) > len(str(LARGEST)):
                raise MmardError(f"{architecture.name}: width and depth are at most {LARGEST:,}")
            if architecture.parameters:
                raise MmardError(
                    f"{architecture.spec}: {architecture.name} takes no parameters; its numbers are in its name"
                )
            net = partial(make, architecture, *numbers)
            _must_fit_in_memory(architecture, net)
            return Classifier(net(), architecture)
    cure = f"capital letters stand for numbers, as in cnn-16-3; others: {', '.join(PROVIDERS)}:NAME, FILE.py:FUNCTION"
    raise unknown("model", architecture.name, FAMILIES, cure)


def adopt(
    module: nn.Module, classes: int, channels: int = 3, mean: tuple[float, ...] = (), std: tuple[float, ...] = ()
) -> Classifier:
    """Wrap any network as a classifier of this package, which shares its weights; one that is such already stays itself.

    Args:
        module: images (B, channels, H, W) → logits (B, classes), the first of a tuple, or ``.logits``.
        mean, std: subtracted and divided before it; empty: it takes pixels in [0, 1] as they are.

    Its weights are saved as those of ``given:CLASS``: a network that only the caller can build again.
    """
    if isinstance(module, Classifier):
        return module
    if not isinstance(module, nn.Module):
        raise MmardError(f"got a {type(module).__name__}, expected a network, a torch.nn.Module")
    name = f"{GIVEN}:{type(module).__name__}"
    return Classifier(module, Architecture(name=name, classes=classes, channels=channels, mean=mean, std=std))


def _foreign(architecture: Architecture, fresh: bool) -> Classifier:
    """Build a network from elsewhere; where its own weights were asked for, it is normalised as these are."""
    spec, shape = architecture.spec, (architecture.classes, architecture.channels)
    if not spec.is_code and spec.kind != GIVEN:  # the user's own code runs once
        _must_fit_in_memory(architecture, lambda: build_network(spec, *shape, fresh=False)[0], exact=False)
    net, own = build_network(spec, *shape, architecture.code, fresh=fresh)
    if own != RAW and not architecture.mean:
        architecture = replace(architecture, mean=own[0], std=own[1])
    architecture = replace(architecture, parameters=kept_parameters(net, spec))
    return Classifier(net, architecture)


def _must_fit_in_memory(architecture: Architecture, make: Callable[[], nn.Module], *, exact: bool = True) -> None:
    """Raise MmardError where the weights alone exceed the machine's memory: some systems would end the process silently.

    Args:
        exact: a failure means such sizes; False: it may be a network that cannot be built without memory, and is let through.
    """
    what = f"a {architecture.name} of {architecture.classes:,} classes and {architecture.channels:,} channels"
    try:
        # No memory is taken, and the generator stays as the caller has it.
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            size = sum(p.numel() * p.element_size() for p in make().parameters())
    except (RuntimeError, TypeError, OverflowError, MmardError) as e:  # sizes that no tensor can have
        if not exact or "meta tensor" in str(e):
            return
        raise MmardError(f"{what} is larger than any memory ({first_line(e)}); choose a smaller one") from e
    have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if size > have:
        raise MmardError(
            f"{what} has weights of {size / GIB:,.0f} GiB, this machine has {have / GIB:,.0f} GiB; choose a smaller one"
        )
