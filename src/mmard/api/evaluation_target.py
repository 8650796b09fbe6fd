"""The target of an evaluation: weights with their settings, the threat, the test images, and the caches."""

import copy
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmard.api.build import build_threat, data_of, known_of
from mmard.api.evaluation_request import EvaluationRequest
from mmard.api.exported import Exported, opened
from mmard.api.networks import must_allow_named, must_allow_teacher
from mmard.api.settings import DataSettings, Settings, settings_of_weights
from mmard.api.unused_settings import Work, must_be_used_in
from mmard.attacks.autoattack_pruning import in_parts
from mmard.core.threat import Threat
from mmard.core.views import Predict
from mmard.data.given import is_images
from mmard.data.images import Images, ImageSet, some
from mmard.data.labels import Known, agreed
from mmard.data.sources import PYTHON, must_be_used
from mmard.evaluation.cache import DiskCache, answers_of, fingerprint
from mmard.evaluation.checks.messages import Check, CheckError
from mmard.evaluation.checks.run import check_set
from mmard.evaluation.suite import AttackSpec, choose_attacks, suite
from mmard.models.architectures import Classifier
from mmard.models.cards import find_model, load_foreign, load_model, load_teacher, must_fit, must_take, weights_file
from mmard.models.folding import folded_alike
from mmard.models.foreign import NetworkSpec, is_foreign, must_need
from mmard.models.tensor_files import digest_of
from mmard.models.weights import metadata_of
from mmard.runs.folder import RunFolder
from mmard.training.channels_last import lay_out
from mmard.utils.errors import MmardError
from mmard.utils.files import must_be_same, sha256
from mmard.utils.packages import version_of
from mmard.utils.portable_paths import bare, portable
from mmard.utils.trust import Trust

ASKED = 16  # images by whose logits a network's code is known again


@dataclass(frozen=True, eq=False)
class EvalTarget:
    """Weights on disk, with their metadata.

    Attributes:
        path: their file or card.
        exported: the runtime and its float surrogate, where the file is ONNX.
        metadata: what the file says: settings of its training, among others.
        network: of a network from elsewhere, the words that name it and its weights; empty for any other.
        module: a network given in Python, which the weights are loaded into.
        images: given in Python, in place of data that settings name; see `mmard.data.given.parts_of`.
    """

    path: Path
    exported: Exported | None
    metadata: dict[str, Any]
    network: str = ""
    module: nn.Module | None = None
    images: object = None

    @staticmethod
    def of(
        source: str | Path | RunFolder,
        surrogate: str | None = None,
        module: nn.Module | None = None,
        *,
        images: object = None,
        trust: bool = False,
    ) -> "EvalTarget":
        """Find the weights and read their metadata; training may have been on another machine."""
        if is_foreign(source) and surrogate is None:
            must_need(module, source)
            return replace(EvalTarget._of_network(str(source), trust), images=images)
        path = find_model(source.path if isinstance(source, RunFolder) else source)
        if exported := opened(path, surrogate, Trust(everything=trust, folder=path.parent), module):
            return EvalTarget(path, exported, exported.model.metadata)
        if module is not None:
            return EvalTarget(path, None, metadata_of(path), module=module, images=images)
        return EvalTarget(path, None, metadata_of(weights_file(path)), images=images)

    @staticmethod
    def _of_network(words: str, trust: bool) -> "EvalTarget":
        """Take a network from elsewhere, which the user's command names: its code runs."""
        must_allow_named(words, "model", Trust(everything=trust))
        spec = NetworkSpec.of(words)
        if not spec.weights:  # results go to the working folder
            return EvalTarget(Path(re.sub(r"[^\w.-]", "-", spec.name)), None, {}, words)
        if not (path := Path(spec.weights).expanduser()).is_file():
            raise MmardError(f"there are no weights {path} of the network {spec.name}")
        return EvalTarget(path, None, metadata_of(path), words)

    def load(self, trust: Trust) -> Exported | Classifier | None:
        """Load the model in evaluation mode; None for a network from elsewhere, whose classes are those of the data."""
        if self.exported is not None or self.network:
            return self.exported
        return load_model(self.path, copy.deepcopy(self.module), trust=trust.everything)  # the caller's stays as it is

    def load_for(self, images: ImageSet) -> Classifier:
        """Load a network from elsewhere for these images, and try it on two of that size."""
        model = load_foreign(self.network, len(images.classes), images.channels)
        must_take(model, self.network, images.shape)
        return model

    @property
    def given(self) -> dict[str, Any]:
        """Return the settings of its training, as far as the file says them."""
        found = self.metadata.get("settings")
        return _with_paths(found, self.path.parent) if isinstance(found, dict) else {}

    def settings(self, words: Mapping[str, Any], work: Work, *, trust: bool = False) -> Settings:
        """Join the settings that the weights were trained with and those of this work; images are data of the name python.

        Raises:
            MmardError: where neither says on which data, and for a setting that changes nothing in the work.
        """
        words = {**words, "data.name": PYTHON} if self.images is not None else words
        if not self.says("data", words):
            cure = "name it: data.name=digits, or data.name=parquet data.train=... data.test=..."
            raise MmardError(f"{self.path} does not say which data it is for, nor does the command; {cure}")
        settings = settings_of_weights({**self.given, "engine": {}}, self.path.parent, words, trust=trust)
        must_be_used_in(settings, words, work)
        given = [key.removeprefix("data.") for key in words if key.startswith("data.")]
        must_be_used(settings.data.name, given)
        if self.is_trained_on(settings, "test"):
            must_be_cut_alike(self.given["data"], settings.data, ("test_split", "test_seed"), str(self.path))
        return settings

    def is_trained_on(self, settings: Settings, *keys: str) -> bool:
        """Tell whether the weights say that they were trained on this data, and the same in these further settings of it."""
        own = self.given.get("data")
        return isinstance(own, dict) and is_trained_on(own, settings.data, *keys)

    def known(self) -> list[Known]:
        """Collect what the weights, or an exported model and its surrogate, say of their data."""
        if self.exported is None:
            return [known_of(self.network or self.path, str(self.path))]
        return self.exported.known()

    def says(self, section: str, words: Mapping[str, Any]) -> bool:
        """Tell whether the weights or these settings say something of ``data``, or of the ``threat``."""
        return section in self.given or any(key.split(".")[0] == section for key in words)

    def specs(self, request: EvaluationRequest, surrogate: nn.Module | None = None) -> dict[str, AttackSpec]:
        """Choose the requested attacks, or the default ones; a ``surrogate`` may have waited for the images."""
        if self.exported:
            return self.exported.specs(request.attacks, request.protocol, request.batch_size, request.seed, surrogate)
        return choose_attacks(request.attacks, suite(request.batch_size, request.seed), request.protocol)

    def threat(self, settings: Settings, words: Mapping[str, Any], needed: bool) -> Threat:
        """Build the threat; where attacks need one, the file or the command must give radius and norm."""
        given, threat = self.given.get("threat"), words.get("threat", {})
        if needed and "threat.eps" not in words and not (isinstance(threat, dict) and "eps" in threat):
            if given is None:
                raise CheckError("threat", "neither the weights nor the command say which eps, expected one")
            if given.get("norm", settings.threat.norm) != settings.threat.norm:
                raise CheckError(
                    "threat", f"the weights' eps is not meant for {settings.threat.norm}, expected one that is"
                )
        try:
            return build_threat(settings)
        except MmardError as e:
            raise CheckError("threat", str(e)) from e

    def told(self, settings: Settings) -> dict[str, Any]:
        """Return the settings for the record: of a network that was trained elsewhere, those of the evaluation alone."""
        whole = settings.resolved()
        return {key: whole[key] for key in ("data", "threat", "engine")} if self.network and not self.given else whole

    def described(self) -> dict[str, Any]:
        """Describe the file and its metadata for the record of an evaluation."""
        own = {"network": portable(str(replace(NetworkSpec.of(self.network), weights="")))} if self.network else {}
        return {
            "model": portable(str(self.path)),
            "weights": self._digest(),
            **own,
            "versions": versions(),
            **(self.exported.described() if self.exported else {}),
        }

    def must_be_unchanged(self, described: Mapping[str, Any]) -> None:
        """Raise MmardError unless the file is still the one that was ``described`` before it was loaded."""
        must_be_same(str(self.path), described["weights"], self._digest(), "the evaluation")

    def _digest(self) -> str | None:
        return sha256(weights_file(self.path)) if self.path.is_file() else None


TRAINED_ON = ("name", "train", "root", "parameters")
"""Settings of the data that say which images a run was trained on, before they are cut."""


def is_trained_on(own: Mapping[str, Any], now: DataSettings, *keys: str) -> bool:
    """Tell whether data are those of a training, by its settings of the data; of images that Python gives nothing is known."""
    old, new = {**DataSettings().model_dump(mode="json"), **own}, now.model_dump(mode="json")
    return now.name != PYTHON and all(bare(old[key]) == bare(new[key]) for key in (*TRAINED_ON, *keys))


def must_be_cut_alike(own: Mapping[str, Any], now: DataSettings, keys: Sequence[str], who: str) -> None:
    """Raise MmardError where the data that weights were trained on would be cut otherwise: images would change their part.

    Args:
        own: the settings of the data in training.
        keys: the settings of the cut that matter.
    """
    old, new = {**DataSettings().model_dump(mode="json"), **own}, now.model_dump(mode="json")
    for key in keys:
        idle = key == "test_seed" and old["test_split"] is None and new["test_split"] is None
        if old[key] != new[key] and not idle:
            was, would = ("null" if of[key] is None else of[key] for of in (old, new))
            raise MmardError(
                f"{who} was trained with data.{key}={was}, and data.{key}={would} would cut its data otherwise: "
                "images that it was trained on would be among those that judge it; leave it out, or name other data"
            )


def images_in(words: dict[str, Any]) -> Any:
    """Take the images that Python gives as ``data`` out of these settings; None where there are none."""
    return words.pop("data") if is_images(words.get("data")) else None


def _with_paths(told: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Take data and teachers from the run folder around the weights, where it names the same: its paths are whole."""
    try:
        here = RunFolder(folder).settings()
    except MmardError:  # no run folder
        return told
    found = dict(told)
    for key in ("data", "teacher", "teachers"):
        one, other = ({**v, "stream": None} if isinstance(v, dict) else v for v in (told.get(key), here.get(key)))
        if key in told and bare(one) == bare(other):
            found[key] = here[key]
    return found


@dataclass(frozen=True, eq=False)
class EvalModel:
    """A network on its device, and the test images that it is evaluated on.

    Attributes:
        whole: how many test images there are in all; ∞ where ``data.test_limit`` hides it.
        shared: how many of them are training images too.
        surrogate: the network whose gradients attacks use on a runtime.
    """

    model: nn.Module
    images: Images
    whole: float
    surrogate: nn.Module | None = None
    shared: int = 0

    @staticmethod
    def of(source: EvalTarget, settings: Settings, limit: int | None, device: torch.device) -> "EvalModel":
        """Load the model and its test images."""
        model = source.load(settings.trust)  # its faults come before images are decoded
        if isinstance(model, Exported):
            model.model.must_answer()
        data = data_of(settings, source.known(), stream=True, given=source.images)
        test, shared = data.test, data.shared if source.is_trained_on(settings) else 0
        whole = len(test) if settings.data.test_limit is None else math.inf
        if isinstance(model, Exported):
            model = model.with_channels(test.channels)
            return EvalModel(
                model.on(device, test), some(test, limit, seed=0).to(device), whole, model.surrogate, shared
            )
        model = model or source.load_for(test)
        must_fit(model, str(source.path), len(test.classes), test.channels)
        lay_out(model, device, test.shape)
        return EvalModel(model, some(test, limit, seed=0).to(device), whole, shared=shared)

    def findings(self) -> list[Check]:
        """Say what is known of the test images as a set."""
        return check_set(len(self.images), self.whole, self.shared)

    def digest(self) -> str:
        """Compute the SHA-256 of the test images and their labels, the classes in the order of the alphabet."""
        rank = {name: k for k, name in enumerate(sorted(self.images.classes))}
        ranks = torch.tensor([rank[name] for name in self.images.classes])
        return digest_of({"pixels": self.images.pixels, "labels": ranks[self.images.labels.cpu()]}, {})

    def faster(self) -> Predict | None:
        """Return a faster function of the same logits up to rounding, for AutoAttack; None for a runtime."""
        if not isinstance(self.model, Classifier):
            return None
        return in_parts(folded_alike(self.model, self.images.batch(slice(2))[0]))

    def others(self, settings: Settings) -> dict[str, Classifier]:
        """Load the teachers that the model was trained with, where they are still there and fit."""
        found, channels = {}, self.images.channels
        named = settings.teachers | ({"teacher": settings.teacher} if settings.teacher else {})
        for name, source in named.items():
            with suppress(MmardError):  # they are a bonus: a student is often evaluated far from its teacher
                must_allow_teacher(settings, name, source)
                agreed([Known("the data", self.images.classes), known_of(source, f"the {name}")])
                teacher = load_teacher(source, len(self.images.classes), channels)
                lay_out(teacher, self.images.labels.device, self.images.shape)
                found[f"the {name}"] = teacher
        return found

    def cache_in(
        self, folder: Path, specs: Mapping[str, AttackSpec], threat: Threat, batch_size: int, seed: int
    ) -> DiskCache:
        """Make the cache of batches' verdicts, in a folder named by all that they depend on."""
        found = [f"{name} {version}" for name, version in versions().items()]
        attacks = [(name, spec.detail(threat)) for name, spec in specs.items()]
        device = self.images.labels.device.type
        networks = nn.ModuleList([self.model] if self.surrogate is None else [self.model, self.surrogate])
        images = self.images.pixels, self.images.labels, self.images.index
        built = [net.architecture.facts() for net in networks if isinstance(net, Classifier)]  # code and parameters too
        metadata = [
            repr(networks),
            built,
            [answers_of(net, self.images.batch(slice(ASKED))[0]) for net in networks],
            attacks,
            threat,
            batch_size,
            seed,
            device,
            *found,
            "asked again",
        ]
        return DiskCache(
            folder / fingerprint({**networks.state_dict(), **dict(zip("xyi", images, strict=True))}, *metadata)
        )


def versions() -> dict[str, str]:
    """Name the versions that verdicts depend on: of this package, of PyTorch and of AutoAttack's package."""
    return {name: version_of(name) for name in ("mmard", "torch", "pyautoattack")}
