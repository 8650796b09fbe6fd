"""An exported model in an evaluation: the runtime, and the float surrogate whose gradients attacks use."""

import copy
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmard.api.build import known_of
from mmard.api.networks import must_allow_named
from mmard.data.images import Images
from mmard.data.labels import Known
from mmard.evaluation.checks.messages import BEFORE
from mmard.evaluation.exported import choose_exported, exported_suite
from mmard.evaluation.predict import must_answer
from mmard.evaluation.suite import AttackSpec
from mmard.models.architectures import Classifier
from mmard.models.cards import fetched_by, find_model, load_foreign, load_model, must_fit, must_take, weights_file
from mmard.models.foreign import NetworkSpec, is_foreign, must_need
from mmard.models.onnx_runtime import RuntimeModel
from mmard.utils.errors import MmardError
from mmard.utils.files import sha256
from mmard.utils.portable_paths import portable
from mmard.utils.trust import Trust, known_file

LITTLE = BEFORE["surrogate"][0]


@dataclass(frozen=True, eq=False)
class Exported:
    """An ONNX file and the network that it was made from.

    Attributes:
        model: the runtime.
        surrogate: the float network, held still; None where it is not to be had, or waits.
        surrogate_path: its file.
        waits: words of a surrogate from elsewhere that waits for the images: the file leaves their channels open.
    """

    model: RuntimeModel
    surrogate: Classifier | None
    surrogate_path: Path | None
    waits: str = ""

    @staticmethod
    def of(path: Path, surrogate: str | None, trust: Trust, module: nn.Module | None = None) -> "Exported":
        """Load the ONNX file and its surrogate; by default the weights that its metadata name, if they are unchanged.

        The surrogate is read where it lies beside ``path``, and elsewhere where ``trust`` allows it.

        Args:
            module: one like the surrogate's network, where that was given in Python.

        Warns where there is no surrogate. Where the named one is not what was exported, the model has something ``against`` it.
        """
        model = RuntimeModel(path, str(path))
        if surrogate is not None and is_foreign(surrogate):
            must_need(module, surrogate)
            must_allow_named(surrogate, "surrogate", trust)
            weights = Path(NetworkSpec.of(surrogate).weights).expanduser()
            if weights.is_file():
                model.against = not_made_from(model.metadata, weights)
            waiting = Exported(model, None, weights, surrogate)
            return waiting if model.shape[0] is None else waiting.with_channels(model.shape[0])
        found = _recorded(path, model.metadata, trust) if surrogate is None else _named(surrogate)
        model.against = "" if found is None else not_made_from(model.metadata, found)
        if found is None and module is not None:
            raise MmardError(f"module= is like the float surrogate of {path}, and none is used; name it: surrogate=RUN")
        own = None if found is None else load_model(found, copy.deepcopy(module), trust=trust.everything)
        return Exported(model, None if own is None else own.requires_grad_(False), found)

    def with_channels(self, channels: int) -> "Exported":
        """Load the surrogate that waits for the number of channels; without one return this."""
        if not self.waits:
            return self
        network = load_foreign(self.waits, self.model.classes, channels)
        return Exported(self.model, network.requires_grad_(False), self.surrogate_path)

    def specs(
        self, attacks: str | None, protocol: str, batch_size: int, seed: int, surrogate: nn.Module | None = None
    ) -> dict[str, AttackSpec]:
        """Choose the requested attacks; None: the default ones of all three ways.

        Args:
            surrogate: the network that has waited; while it waits, the attacks are known by their names alone.
        """
        lent = self.surrogate or surrogate or (nn.Identity() if self.waits else None)
        return choose_exported(attacks, exported_suite(lent, batch_size, seed), protocol)

    def on(self, device: torch.device, images: Images) -> RuntimeModel:
        """Check that model and surrogate fit the images, move the surrogate to the device, and return the model."""
        self.model.must_fit(len(images.classes), tuple(images.shape))
        if self.surrogate is not None:
            self._must_fit(self.surrogate.to(device), images.take(torch.arange(1)).to(device))
        return self.model

    def _must_fit(self, surrogate: Classifier, one: Images) -> None:
        what = f"the float surrogate {self.surrogate_path}"
        must_fit(surrogate, what, len(one.classes), one.channels)
        if surrogate.architecture.spec.kind:
            must_take(surrogate, what, one.shape)
            must_answer(surrogate, one)
        surrogate.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def known(self) -> list[Known]:
        """Collect what the file and its surrogate say of their data."""
        own = Known.of(self.model.what, self.model.metadata.get("classes"), self.model.classes, self.model.shape[0])
        if self.surrogate_path is None or not (self.surrogate or self.waits):
            return [own]
        return [own, known_of(self.surrogate_path, f"its float surrogate {self.surrogate_path}")]

    def described(self) -> dict[str, Any]:
        """Describe runtime, precision and surrogate for the record of an evaluation."""
        surrogate = None if self.surrogate_path is None else portable(str(self.surrogate_path))
        runtime = f"onnxruntime {self.model.version}, CPU"
        return {"runtime": runtime, "precision": self.model.metadata.get("precision"), "twin": surrogate}


def opened(path: Path, surrogate: str | None, trust: Trust, module: nn.Module | None = None) -> Exported | None:
    """Load an ONNX file with its surrogate; None for anything else, which has no surrogate."""
    if path.suffix == ".onnx":
        return Exported.of(path, surrogate, trust, module)
    if surrogate is not None:
        raise MmardError(f"the surrogate {surrogate} goes with an exported model (.onnx), got {path}")
    return None


def surrogates(models: Sequence[str], surrogate: str | None) -> dict[str, dict[str, str]]:
    """Return model → the option that names its surrogate, for the .onnx files among them.

    Raises:
        MmardError: where a model is not there, or a surrogate is named and no model is exported.
    """
    exported = [model for model in models if not is_foreign(model) and find_model(model).suffix == ".onnx"]
    if surrogate is not None and not exported:
        raise MmardError(
            f"--surrogate {surrogate} goes with an exported model, and none of {', '.join(models)} ends in .onnx"
        )
    return {model: {"surrogate": surrogate} if surrogate is not None and model in exported else {} for model in models}


def _recorded(path: Path, metadata: dict[str, Any], trust: Trust) -> Path | None:
    source = metadata.get("source")
    if not isinstance(source, str):
        warnings.warn(f"{path} names no float surrogate ({LITTLE}); give one: --surrogate RUN", stacklevel=2)
        return None
    found = path.parent / source
    if not found.is_file() and (known := known_file(str(metadata.get("sha256")))) and known.is_file():
        found = known  # the file names no folders of this machine
    if not _may_be_read(found, trust):
        fault = "lies outside of its folder, and you have not used it before"
    elif not found.is_file():
        fault = "is not there"
    elif sha256(weights_file(found)) != metadata.get("sha256"):
        fault = "has changed since"
    else:
        return found
    warnings.warn(
        f"the float surrogate of {path}, {source}, {fault} ({LITTLE}); give one: --surrogate RUN", stacklevel=2
    )
    return None


def must_allow_surrogate(surrogate: Path, trust: Trust) -> None:
    """Raise MmardError unless the float network behind an exported one may be read, and fetched if its card says so."""
    trust.must_allow_place(str(surrogate), "source")
    for place in fetched_by(surrogate):
        trust.must_allow_place(place, "source")


def _may_be_read(surrogate: Path, trust: Trust) -> bool:
    try:
        must_allow_surrogate(surrogate, trust)
    except MmardError:
        return False
    return True


def _named(surrogate: str) -> Path:
    found = find_model(surrogate)
    if found.suffix == ".onnx":
        raise MmardError(
            f"the surrogate {surrogate} is an exported model and has no gradients; expected a run folder or weights"
        )
    return found


def not_made_from(metadata: Mapping[str, Any], source: Path) -> str:
    """Say that an exported file was made from other weights than those at ``source``; empty where it was not."""
    other = "sha256" in metadata and sha256(weights_file(source)) != metadata["sha256"]
    return f"was not exported from {source}" if other else ""
