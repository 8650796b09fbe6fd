"""An exported model as `mmard eval` judges it: the runtime, and the float twin that lends it gradients."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmard.api.build import known_of
from mmard.api.registry import function_at, run_foreign
from mmard.data.images import Images
from mmard.data.labels import Known
from mmard.evaluation.checks.messages import BEFORE
from mmard.evaluation.evaluate import Trial
from mmard.evaluation.exported import choose_exported, exported_suite
from mmard.evaluation.predict import must_answer
from mmard.models.checkpoints import fit
from mmard.models.onnx_runtime import RuntimeModel
from mmard.models.students import Classifier
from mmard.models.teachers import find_model, hub_of, load_model, must_fit, weights_file
from mmard.models.weights import read_state
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
        twin: the float network, held still; None where it is not to be had.
        twin_path: its file.
    """

    model: RuntimeModel
    twin: nn.Module | None
    twin_path: Path | None

    @staticmethod
    def of(path: Path, twin: str | None, trust: Trust) -> "Exported":
        """Load both. Without ``twin`` it is the file that the metadata name, relative to ``path``, if that is unchanged.

        It is read where it lies beside ``path``, and elsewhere where ``trust`` allows it.

        A warning says where there is none, and where the named one is not what was exported.
        """
        model = RuntimeModel(path, str(path))
        if twin is not None and is_code(twin):
            return Exported(model, *foreign(twin))
        found = _recorded(path, model.facts, trust) if twin is None else _named(twin, path, model.facts)
        network = None if found is None else load_model(found).requires_grad_(False)
        return Exported(model, network, found)

    def trials(self, attacks: str | None, protocol: str, batch_size: int, seed: int) -> dict[str, Trial]:
        """The attacks asked for; None: the usual ones of all three ways."""
        return choose_exported(attacks, exported_suite(self.twin, batch_size, seed), protocol)

    def on(self, device: torch.device, images: Images) -> RuntimeModel:
        """The model, once it and its twin are known to fit the images; the twin is on the device then."""
        self.model.must_fit(len(images.classes), tuple(images.shape))
        if self.twin is not None:
            self._must_fit(self.twin.to(device), images.take(torch.arange(1)).to(device))
        return self.model

    def _must_fit(self, twin: nn.Module, one: Images) -> None:
        if isinstance(twin, Classifier):
            must_fit(twin, f"the float twin {self.twin_path}", len(one.classes), one.channels)
            twin.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        else:
            must_answer(twin, one)

    def known(self) -> list[Known]:
        """Collect what the file and its twin say of their data."""
        own = Known.of(self.model.what, self.model.facts.get("classes"), self.model.classes, self.model.shape[0])
        if not isinstance(self.twin, Classifier) or self.twin_path is None:
            return [own]
        return [own, known_of(self.twin_path, f"its float twin {self.twin_path}")]

    def described(self) -> dict[str, Any]:
        """For the record of an evaluation."""
        twin = None if self.twin_path is None else portable(str(self.twin_path))
        runtime = f"onnxruntime {self.model.version}, CPU"
        return {"runtime": runtime, "precision": self.model.facts.get("precision"), "twin": twin}


def is_code(surrogate: str) -> bool:
    """Tell whether a surrogate is named as ``FILE.py:BUILD@WEIGHTS``, and is no run or file of this package."""
    return ".py:" in surrogate


def foreign(surrogate: str) -> tuple[nn.Module, Path]:
    """Build ``FILE.py:BUILD@WEIGHTS``, a network of somebody's own, in evaluation mode and held still; and its weights' place.

    ``BUILD()`` gives the network: pixels in [0, 1] → logits. The caller has typed its name, so its code runs.

    Raises:
        MmardError: where there is no such function, it fails, or the weights are not its network's.
    """
    place, _, weights = surrogate.partition("@")
    if not weights:
        raise MmardError(f"the surrogate {place} is without weights; give them: --surrogate-weights FILE")
    path = Path(weights).expanduser()
    if not path.is_file():
        raise MmardError(f"there are no weights {path} of the surrogate {place}")
    network = run_foreign(function_at(place), place, "fails")
    if not isinstance(network, nn.Module):
        raise MmardError(f"{place} gives a {type(network).__name__}, expected a network, a torch.nn.Module")
    fit(network, read_state(path), path)
    return network.eval().requires_grad_(False), path


def opened(path: Path, twin: str | None, trust: Trust) -> Exported | None:
    """Load an ONNX file with its twin; None for anything else, which has no twin."""
    if path.suffix == ".onnx":
        return Exported.of(path, twin, trust)
    if twin is not None:
        raise MmardError(f"the twin {twin} goes with an exported model (.onnx), got {path}")
    return None


def twins(models: Sequence[str], twin: str | None) -> dict[str, dict[str, str]]:
    """model → the option that names its twin, for the .onnx files among them.

    Raises:
        MmardError: where a model is not there, or a twin is named and no model is exported.
    """
    exported = [model for model in models if find_model(model).suffix == ".onnx"]
    if twin is not None and not exported:
        raise MmardError(
            f"--surrogate {twin} goes with an exported model, and none of {', '.join(models)} ends in .onnx"
        )
    return {model: {"twin": twin} if twin is not None and model in exported else {} for model in models}


def _recorded(path: Path, facts: dict[str, Any], trust: Trust) -> Path | None:
    source = facts.get("source")
    if not isinstance(source, str):
        warnings.warn(f"{path} names no float twin ({LITTLE}); give one: --surrogate RUN", stacklevel=2)
        return None
    found = path.parent / source
    if not found.is_file() and (known := known_file(str(facts.get("sha256")))) and known.is_file():
        found = known  # the file names no folders of this machine
    if not _may_be_read(found, trust):
        fault = "lies outside of its folder, and you have not used it before"
    elif not found.is_file():
        fault = "is not there"
    elif sha256(weights_file(found)) != facts.get("sha256"):
        fault = "has changed since"
    else:
        return found
    warnings.warn(f"the float twin of {path}, {source}, {fault} ({LITTLE}); give one: --surrogate RUN", stacklevel=2)
    return None


def must_allow_twin(twin: Path, trust: Trust) -> None:
    """Raise unless the float network behind an exported one may be read, and fetched where its card asks for that."""
    trust.must_allow_place(str(twin), "source")
    if hub := hub_of(twin):
        trust.must_allow_place(f"hub://{hub}", "source")


def _may_be_read(twin: Path, trust: Trust) -> bool:
    try:
        must_allow_twin(twin, trust)
    except MmardError:
        return False
    return True


def _named(twin: str, path: Path, facts: dict[str, Any]) -> Path:
    found = find_model(twin)
    if found.suffix == ".onnx":
        raise MmardError(f"the twin {twin} is an exported model and has no gradients; expected a run folder or weights")
    if "sha256" in facts and sha256(weights_file(found)) != facts["sha256"]:
        warnings.warn(
            f"{path} was not exported from {found}: the gradients lent to it are another network's", stacklevel=2
        )
    return found
