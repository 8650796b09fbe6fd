"""Networks from elsewhere: of timm, torchvision and transformers by name, and those that the user's own code builds.

A name with a colon is one of them: ``timm:resnet10t``, ``net.py:build``, ``package.module:build``; parameters stand in brackets,
``net.py:build(width=8)``, and trained weights after an @, ``net.py:build(width=8)@weights.pt``.
"""

import inspect
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from torch import nn

from mmard.models import robustbench
from mmard.utils.calls import WORD, must_bind, parse_call, typed
from mmard.utils.errors import MmardError, unknown
from mmard.utils.files import sha256
from mmard.utils.foreign_code import function_at, run_foreign
from mmard.utils.numbers import shortened
from mmard.utils.packages import optional
from mmard.utils.text_files import NoYamlError, parse_yaml
from mmard.utils.trust import is_vouched, vouched_code

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and std by channel; both empty: raw pixels."""
RAW: Normalisation = ((), ())
ELSEWHERE = {
    "timm:NAME": "a network of timm, such as timm:resnet10t; pip install 'mmard[timm]'",
    "torchvision:NAME": "a network of torchvision, such as torchvision:mobilenet_v3_small; pip install 'mmard[torchvision]'",
    "hf:OWNER/NAME": "an image classifier of transformers, by its configuration on the hub; pip install 'mmard[hf]'",
    "FILE.py:FUNCTION": "your own function or class that gives a network, also package.module:build; docs/networks.md",
}
GIVEN = "given"
"""The kind of a module that was given in Python: ``given:MyNet`` can be built by nobody else."""
_HUB = "timm:hf-hub:"
_NAME = r"(?!zoo:)(?P<place>.*?\.py|[A-Za-z_][\w.]*):(?!//)(?P<what>(?:hf-hub:)?[\w./~-]+)"
_NETWORK = re.compile(rf"(?P<name>{_NAME})(?:\((?P<given>.*)\))?(?:@(?P<weights>.+))?", re.DOTALL)
CLASSES = ("num_classes", "classes", "n_classes", "num_labels")
CHANNELS = ("in_chans", "channels", "in_channels", "num_channels")
"""Parameters of a user's builder that get the data's number of classes and of channels."""


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """The specification of a network as settings give it.

    Attributes:
        name: ``resnet18``, ``timm:resnet10t``, ``net.py:build``.
        parameters: of its builder.
        mean, std: by channel, subtracted and divided inside the network; empty: raw pixels.
        weights: a file of trained weights; empty: none.
        key: which of several sets in that file, as a card says it.
    """

    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    weights: str = ""
    key: str | None = None

    @staticmethod
    def of(given: str | Mapping[str, Any]) -> "NetworkSpec":
        """Read a text, ``net.py:build(width=8)@weights.pt``, or a mapping, ``{"name": "net.py:build", "width": 8}``.

        Raises:
            MmardError: for a mapping without a name, and for brackets that cannot be read.
        """
        parts = _parts_of(given) if isinstance(given, str) else {**given}
        if not isinstance(name := parts.pop("name", None), str):
            raise MmardError(
                f"got {shortened(given)} and no network's name; expected one, such as student.name=cnn-16-3"
            )
        if not isinstance(given, str):
            parts = {**_parts_of(name), **parts}
            name = parts.pop("name")
        if name.startswith(_HUB):
            raise MmardError(
                f"{name} is fetched from the hub, which is not done for timm's networks; expected timm:NAME, the architecture, "
                "with the hub's weights as a file after an @: timm:NAME@FILE"
            )
        own = {key: _numbers(parts.pop(key, None) or (), key) for key in ("mean", "std")}
        texts = {"weights": str(parts.pop("weights", None) or ""), "key": parts.pop("key", None)}
        return NetworkSpec(name=name, parameters=parts, **own, **texts)  # type: ignore[arg-type]

    @property
    def kind(self) -> str:
        """Return ``file``, ``module``, a provider's name such as ``timm``, ``given``; empty for a network of this package."""
        place, colon, _ = self.name.rpartition(":")
        if not colon:
            return ""
        return "file" if place.endswith(".py") else place if place in (*PROVIDERS, GIVEN) else "module"

    @property
    def is_code(self) -> bool:
        """Tell whether to build it runs code that is neither this package's nor a provider's."""
        return self.kind in ("file", "module")

    @property
    def fetches(self) -> bool:
        """Tell whether to build it asks the hub for its configuration, which weights of this package bring along."""
        return self.kind == "hf" and not self.parameters.get("config")

    def code(self) -> str:
        """Compute the SHA-256 of the user's file; empty for any other kind."""
        place = self.name.rpartition(":")[0]
        if self.kind == "file" and not Path(place).expanduser().is_file():
            raise MmardError(f"there is no file {place}")
        return sha256(Path(place).expanduser()) if self.kind == "file" else ""

    def __str__(self) -> str:
        mean_std = {key: list(value) for key, value in (("mean", self.mean), ("std", self.std)) if value}
        own = {key: value for key, value in self.parameters.items() if key != "config"}  # of the hub, not of the user
        given = {**own, **mean_std, **({"key": self.key} if self.key else {})}
        inside = ", ".join(f"{key}={_written(value, key)}" for key, value in given.items())
        return self.name + (f"({inside})" if inside else "") + (f"@{self.weights}" if self.weights else "")


def is_foreign(source: object) -> bool:
    """Tell whether a word names a network from elsewhere, as ``timm:resnet10t`` does, and no file or folder that is there.

    A model of RobustBench's zoo has a card, and goes the way of cards.
    """
    if not isinstance(source, str) or source.startswith(robustbench.PREFIX):
        return False
    return _NETWORK.fullmatch(source) is not None and not Path(source).exists()


def _parts_of(text: str) -> dict[str, Any]:
    found = _NETWORK.fullmatch(text)
    if found is None and re.match(rf"{_NAME}\(", text):
        raise MmardError(
            f"{text!r} is no network: expected brackets that match, such as net.py:build(width=8)@weights.pt"
        )
    if found is None:
        whole = parse_call(text) if text.endswith(")") else text
        return whole if isinstance(whole, dict) else {"name": text}
    inside = parse_call(f"x({found['given']})") if found["given"] else {}
    weights = {"weights": found["weights"]} if found["weights"] else {}
    return {**(inside if isinstance(inside, dict) else {}), **weights, "name": found["name"]}


def _numbers(value: Any, key: str) -> tuple[float, ...]:
    values = value if isinstance(value, list | tuple) else [value]
    try:
        return tuple(float(one) for one in values)
    except (TypeError, ValueError) as e:
        raise MmardError(f"{key} is {value!r}, expected a number for each channel, such as [0.5, 0.5, 0.5]") from e


def _written(value: Any, key: str) -> str:
    """Write a parameter's value as `NetworkSpec.of` reads it."""
    text = value if isinstance(value, str) else json.dumps(value)
    try:
        if (WORD.fullmatch(text) or not isinstance(value, str)) and parse_yaml(text, key) == value:
            return text
    except NoYamlError:
        pass
    raise MmardError(f"the parameter {key} is {value!r}, which a name cannot hold; write it in a function of your own")


def build_network(
    spec: NetworkSpec, classes: int, channels: int, code: str = "", *, fresh: bool = True
) -> tuple[nn.Module, Normalisation]:
    """Build a network from elsewhere: images (B, channels, H, W) → logits (B, classes), and what its own weights are normalised by.

    Args:
        code: SHA-256 of the user's file, whose code the user has named himself or vouched for.
        fresh: for a new run; False: weights will be loaded, and none are fetched.

    Raises:
        MmardError: for a name that is not there, code that nobody vouched for, and a builder that fails or gives no network.
    """
    if spec.kind == GIVEN:
        raise MmardError(
            f"these weights are of {spec.name.partition(':')[2]}, a module given in Python, which only Python can build; write a "
            "function that returns it and name that: mmard eval net.py:build --weights FILE (Python: module=MODULE)"
        )
    what = spec.name.partition(":")[2]
    if spec.is_code:
        net, normalisation = _own(spec, classes, channels, code), RAW
    else:
        given = {key: value for key, value in spec.parameters.items() if fresh or key != "pretrained"}
        net, normalisation = run_foreign(
            lambda: PROVIDERS[spec.kind](what, given, classes, channels), str(spec), "fails"
        )
    if not isinstance(net, nn.Module):
        raise MmardError(f"{spec.name} gives a {type(net).__name__}, expected a network, a torch.nn.Module")
    return net, normalisation


def _own(spec: NetworkSpec, classes: int, channels: int, code: str) -> nn.Module:
    """Call the user's builder; the number of classes and of channels is given where its parameters have room for it."""
    file = vouched_code(spec.name, code) if spec.kind == "file" else None
    if not is_vouched(spec.name, code) or (spec.kind == "file" and file is None):
        raise MmardError(
            f"to build {spec.name} runs its code; if you know that code, give --trust (Python: trust=True)"
        )
    builder = function_at(spec.name, file)
    try:
        known = inspect.signature(builder).parameters
    except (TypeError, ValueError) as e:
        raise MmardError(f"{spec.name} is no function that builds a network") from e
    takes_all = any(one.kind is one.VAR_KEYWORD for one in known.values())
    given = dict(spec.parameters)
    for key, value in given.items():
        if key in known:
            given[key] = typed(value, known[key], f"{key} of {spec.name}")
        elif not takes_all:
            raise unknown(f"parameter of {spec.name}", key, known)
    for names, number in ((CLASSES, classes), (CHANNELS, channels)):
        if not given.keys() & set(names) and (takes := [name for name in names if name in known]):
            given[takes[0]] = number
    must_bind(builder, given, spec.name)
    return run_foreign(lambda: builder(**given), spec.name, "fails")  # type: ignore[no-any-return]


def must_be_known(name: str, known: Iterable[str], provider: str) -> None:
    """Raise MmardError with the nearest names where a provider has no network of this name."""
    if name not in (names := sorted(known)):
        near = get_close_matches(name, names, n=4, cutoff=0.4)
        hint = f"; did you mean {' or '.join(near)}?" if near else ";"
        raise MmardError(f"{provider} has no network {name!r} for classification{hint} it has {len(names):,}")


def _timm(name: str, given: Mapping[str, Any], classes: int, channels: int) -> tuple[nn.Module, Normalisation]:
    timm = optional("timm", "timm", f"timm:{name}")
    must_be_known(name.partition(".")[0], timm.list_models(), "timm")
    if "checkpoint_path" in given:
        raise MmardError(f"timm:{name} takes its weights after an @: timm:{name}@FILE")
    net = timm.create_model(name, **{"num_classes": classes, "in_chans": channels, **given})
    card = getattr(net, "pretrained_cfg", None) or {}
    return net, (tuple(card["mean"]), tuple(card["std"])) if given.get("pretrained") else RAW


def _torchvision(name: str, given: Mapping[str, Any], classes: int, channels: int) -> tuple[nn.Module, Normalisation]:
    models = optional("torchvision.models", "torchvision", f"torchvision:{name}")
    must_be_known(name, models.list_models(module=models), "torchvision")
    given, normalisation, weights = dict(given), RAW, None
    if given.pop("pretrained", False):
        weights = models.get_model_weights(name).DEFAULT
        look = weights.transforms()
        normalisation = tuple(look.mean), tuple(look.std)
    net = models.get_model(name, weights=weights, **({} if weights else {"num_classes": classes}), **given)
    if weights:  # they are for 1,000 classes
        place, last = [(n, m) for n, m in net.named_modules() if isinstance(m, nn.Linear)][-1]
        _put(net, place, nn.Linear(last.in_features, classes))
    if channels != 3:  # it always takes three
        place, first = next((n, m) for n, m in net.named_modules() if isinstance(m, nn.Conv2d))
        shape: dict[str, Any] = {key: getattr(first, key) for key in ("kernel_size", "stride", "padding", "dilation")}
        _put(net, place, nn.Conv2d(channels, first.out_channels, **shape, bias=first.bias is not None))
    return net, normalisation


def _put(net: nn.Module, place: str, layer: nn.Module) -> None:
    """Put a fresh layer into a network in place of another."""
    parent, _, child = place.rpartition(".")
    setattr(net.get_submodule(parent), child, layer)


def _hf(name: str, given: Mapping[str, Any], classes: int, channels: int) -> tuple[nn.Module, Normalisation]:
    transformers = optional("transformers", "hf", f"hf:{name}")
    given, auto = dict(given), transformers.AutoModelForImageClassification
    pretrained, kept = given.pop("pretrained", False), given.pop("config", None) or {}
    kept = {key: value for key, value in kept.items() if not key.endswith("_implementation")}  # may be code of the hub
    sizes = {"num_labels": classes, "num_channels": channels}
    if pretrained:
        found = transformers.AutoImageProcessor.from_pretrained(name, trust_remote_code=False)
        net = auto.from_pretrained(name, **sizes, **given, ignore_mismatched_sizes=True, trust_remote_code=False)
        return net, (tuple(found.image_mean), tuple(found.image_std)) if getattr(found, "do_normalize", True) else RAW
    find = transformers.AutoConfig.from_pretrained
    config = transformers.AutoConfig.for_model(**kept) if kept else find(name, trust_remote_code=False)
    if strange := [key for key in given if not hasattr(config, key)]:
        raise unknown(f"parameter of hf:{name}", strange[0], config.to_dict())
    config.update({**sizes, **given})
    return auto.from_config(config, trust_remote_code=False), RAW


def kept_parameters(net: nn.Module, spec: NetworkSpec) -> dict[str, Any]:
    """Return the parameters that build a network again: one of the hub's needs its configuration, too."""
    if spec.kind != "hf":
        return dict(spec.parameters)
    config = json.loads(net.config.to_json_string(use_diff=False))  # type: ignore[operator, union-attr]
    return {**spec.parameters, "config": {key: value for key, value in config.items() if key != "_name_or_path"}}


Provider = Callable[[str, Mapping[str, Any], int, int], tuple[nn.Module, Normalisation]]


def _robustbench(name: str, given: Mapping[str, Any], classes: int, _: int) -> tuple[nn.Module, Normalisation]:
    if given:
        raise MmardError(f"{robustbench.PREFIX}{name} takes no parameters, got {', '.join(given)}")
    return robustbench.network(f"{robustbench.PREFIX}{name}")


PROVIDERS: dict[str, Provider] = {
    "timm": _timm, "torchvision": _torchvision, "hf": _hf, "robustbench": _robustbench,
}  # fmt: skip
"""Kind → a function of the name after the colon, parameters, classes and channels, which gives a network and its normalisation."""


def must_need(module: nn.Module | None, source: object) -> None:
    """Raise MmardError for a module beside a network that is there, or built by code, already."""
    if module is not None:
        what = type(source).__name__ if isinstance(source, nn.Module) else str(source)
        raise MmardError(f"module= is for a run whose network was given in Python; {what} needs none, leave it out")
