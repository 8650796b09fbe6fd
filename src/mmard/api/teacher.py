"""Examination of a teacher before a student is trained: what `mmard teacher` does, for Python."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mmard.api.build import build_threat, data_of, known_of
from mmard.api.evaluation_target import EvalTarget, versions
from mmard.api.networks import must_allow_named
from mmard.api.settings import DataSettings, Settings, read_settings
from mmard.api.train import Watch, train
from mmard.api.unused_settings import EXAMINATION, must_be_used_in
from mmard.core.threat import Threat
from mmard.core.views import held_still
from mmard.data.images import DataSet, Images, some
from mmard.data.sources import unused
from mmard.diagnostics.teaching import Advice, Lessons, advice, lessons
from mmard.evaluation.loop import OnProgress
from mmard.models.architectures import Classifier
from mmard.models.cards import (
    card_beside,
    described,
    find_model,
    is_of_another,
    load_model,
    load_teacher,
    must_fit,
    results_folder,
)
from mmard.models.foreign import is_foreign
from mmard.models.recognise import card_facts
from mmard.models.tensor_files import save_tensors
from mmard.models.weights import describes_itself
from mmard.training.callbacks import Watcher
from mmard.training.channels_last import lay_out
from mmard.training.engine import Engine
from mmard.training.teacher_check import TeacherCheck
from mmard.utils.argument_types import public
from mmard.utils.errors import MmardError
from mmard.utils.files import read_json, write_json
from mmard.utils.portable_paths import portable
from mmard.utils.precision import full_precision
from mmard.utils.trust import Trust

IMAGES = 5000
"""The training images that are read, and that small networks learn from; a tenth of them is held out."""
SMALL: Mapping[str, Mapping[str, Any]] = {"natural": {"method": "standard"}, "robust": {"method": "pgd_at"}}
NET, EPOCHS = "cnn-16-3", 10
BATCH, FEW = 128, 16
"""Images in a batch of a small network; and where there are not as many to train on."""
SEEN = 16
"""Training images by which those of a small network are known again."""
RECORD = "teacher.json"


@dataclass(frozen=True, eq=False)
class Examination:
    """An examined teacher.

    Attributes:
        what: the architecture, its parameters in millions, classes, channels, mean, std, and a card that was written.
        measured: clean and PGD-10 accuracy in percent on test images, with the card's ``claimed`` ones.
        lessons: what it says of held-out images.
        advice: how well it will teach, by rules of thumb.
        metadata: source, data, threat, seed, the small networks, versions.
    """

    what: dict[str, Any]
    measured: dict[str, Any]
    lessons: Lessons
    advice: Advice
    metadata: dict[str, Any]

    def record(self) -> dict[str, Any]:
        """Return plain values, for a file: figures are shares of 1 and nats, but for ``measured`` in percent."""
        found = {"what": self.what, "measured": self.measured, "figures": self.lessons.row()}
        own = {key: value for key, value in self.metadata.items() if key != "folder"}
        return portable({**own, **found, "advice": self.advice.record()})

    def save(self, folder: Path) -> None:
        """Write teacher.json, and samples.safetensors with each image's logits and verdicts."""
        write_json(folder / RECORD, self.record())
        save_tensors(folder / "samples.safetensors", self.lessons.tensors())


@public
def examine(
    source: str | Path, *,
    natural: str | None = None, robust: str | None = None, limit: int = 500, batch_size: int = 100, epochs: int = EPOCHS,
    target_entropy: float | None = None, seed: int = 0, to: str | Path | None = None,
    on_progress: OnProgress = lambda *_: None, watch: Watch = lambda _: Watcher(), trust: bool = False, **overrides: Any,
) -> Examination:  # fmt: skip
    """Examine a teacher: load it, check its claim, and predict how well it will teach; writes ``teacher/`` beside its weights.

    Args:
        source: card, run folder, weights (also of others: a layout that is recognised gets a card), ``robustbench:...``.
        natural, robust: small networks in a student's place, several with commas: run folders or weights. None: one is trained for
            ``epochs`` on at most 4,500 images, in ``runs/small-nets/``, once; ``"none"``: the figures that need it are left out.
        limit: about so many test images and held-out images, every class in proportion.
        target_entropy: the mean entropy in nats that the temperature aims at; None: .35 of a guess's, .8 of ten classes.
        to: folder of the record.
        watch: makes, of a title, the listener to the training of a small network.
        trust: read the data that only the weights name.
        **overrides: settings of data and threat, dots as double underscores.
    """
    request = Request(limit, batch_size, epochs, seed, target_entropy)
    words = {key.replace("__", "."): str(v) if isinstance(v, Path) else v for key, v in overrides.items()}
    teacher = _Teacher.of(str(source), words, trust)
    folder = Path(to).expanduser() if to is not None else teacher.folder()
    _must_be_free(folder / RECORD)
    found = _examined(teacher, {"natural": natural, "robust": robust}, request, on_progress, watch)
    found.save(folder)
    found.metadata["folder"] = str(folder)
    return found


def _must_be_free(record: Path) -> None:
    """Raise MmardError where a file that is no record of an examination has its name, such as a card."""
    if record.is_file() and "figures" not in read_json(record):
        raise MmardError(
            f"{record} is no record of an examination, and would be written over; give another --out FOLDER"
        )


@dataclass(frozen=True)
class Request:
    """The numbers of an examination; see `examine`."""

    limit: int
    batch_size: int
    epochs: int
    seed: int
    target_entropy: float | None

    def __post_init__(self) -> None:
        if self.limit < 20 or self.batch_size < 1 or self.epochs < 1:
            raise MmardError(
                f"limit is {self.limit}, batch_size {self.batch_size}, epochs {self.epochs}; expected at least 20 images, 1 and 1"
            )
        if self.target_entropy is not None and not 0 < self.target_entropy < 20:
            raise MmardError(f"target_entropy is {self.target_entropy:g}, expected nats above 0, such as 0.8")


Nets = dict[str, dict[str, Classifier]]
"""``natural`` and ``robust`` → small networks by name."""


def _nets(small: Nets) -> list[tuple[str, Classifier]]:
    return [(name, net) for found in small.values() for name, net in found.items()]


def _examined(
    teacher: "_Teacher", given: Mapping[str, str | None], request: Request, on_progress: OnProgress, watch: Watch
) -> Examination:
    """Measure a teacher on test images, against its claim, and on held-out images, as a student would meet it."""
    data, device = data_of(teacher.settings, teacher.known, stream=True), Engine().device
    model, (limit, part, seed) = teacher.load(data), (request.limit, request.batch_size, request.seed)
    what = teacher.described(model, data, seed)
    small = _small(given, teacher, _Training(request.epochs, seed, data), watch)
    for name, net in _nets(small):
        must_fit(net, name, len(data.test.classes), data.test.channels)
        _reorder(net.to(device), known_of(name, f"the small network {name}").classes, data.test.classes)
    on_progress("test images", 0, 0)
    check = teacher.check(some(data.test, limit, seed=0).to(device), part, seed)
    measured, fault = check.measured(model.to(device))
    images, heard = some(data.held_out, limit, seed=0).to(device), _counted(on_progress, small)
    with held_still(model, *(net for _, net in _nets(small))), full_precision():
        said = lessons(model, images, teacher.threat, small, seed=seed, part=part, on_part=heard)
    below = fault.partition(";")[0] if fault else None
    found = advice(said.row(), said.nat, request.target_entropy, below)
    return Examination(what, {**measured, "fault": fault}, said, found, teacher.metadata(seed, small))


def _reorder(net: Classifier, own: tuple[str, ...], classes: tuple[str, ...]) -> None:
    """Put a network's logits in the order of the data's classes, where its own is another one of the same classes."""
    if own != classes and set(own) == set(classes):
        place = [own.index(name) for name in classes]
        net.register_forward_hook(lambda _net, _x, logits: logits[:, place])


def _counted(on_progress: OnProgress, small: Nets) -> Callable[[str], None]:
    total, done = 1 + len(_nets(small)), 0

    def heard(what: str) -> None:
        nonlocal done
        on_progress(what, done, total)
        done += 1

    return heard


@dataclass(eq=False)
class _Teacher:
    """A teacher on disk, with the settings of its examination.

    Attributes:
        path: its file or card; None: a network from elsewhere, ``timm:NAME@weights.pt``.
        written: the card that was written for it, now.
    """

    source: str
    path: Path | None
    settings: Settings
    threat: Threat
    written: Path | None = None

    @staticmethod
    def of(source: str, words: dict[str, Any], trust: bool) -> "_Teacher":
        if is_foreign(source):
            must_allow_named(source, "teacher", Trust(everything=trust))
            for section in ("data", "threat"):
                if not any(key.split(".")[0] == section for key in words):
                    raise MmardError(f"{source} does not say its {section}; name it: data.name=... threat.eps=8/255")
            settings = read_settings(None, words, trust=trust)
            must_be_used_in(settings, words, EXAMINATION)
            return _Teacher(source, None, _few(settings), build_threat(settings))
        path, written = find_model(source), None
        if path.suffix not in (".json", ".onnx") and not describes_itself(path):
            path, written = _carded(path)
        target = EvalTarget.of(path, None, trust=trust)
        if target.exported:
            raise MmardError(
                f"{path} is an exported model, which has no gradients; give the run or weights it came from"
            )
        settings = target.settings(words, EXAMINATION, trust=trust)
        threat = target.threat(settings, words, needed=True)
        return _Teacher(source, path, _few(settings), threat, written)

    @property
    def known(self) -> list[Any]:
        return [known_of(self.source if self.path is None else self.path, self.source)]

    def load(self, data: DataSet) -> Classifier:
        shape = len(data.test.classes), data.test.channels
        if self.path is None:
            model = load_teacher(self.source, *shape)
        else:
            model = load_model(self.path, trust=self.settings.trust.everything)
            must_fit(model, self.source, *shape)
        lay_out(model, torch.device("cpu"), data.test.shape)
        return model.requires_grad_(False)

    def check(self, images: Images, part: int, seed: int) -> TeacherCheck:
        claimed, foreign = described(self.source if self.path is None else self.path)
        return TeacherCheck(
            images=images, threat=self.threat, seed=seed, part=part, claimed=claimed, foreign=foreign, most=None
        )  # fmt: skip

    def described(self, model: Classifier, data: DataSet, seed: int) -> dict[str, Any]:
        """Describe the network; a card that was written now gets the normalisation that suits the images."""
        if self.written is not None and not model.architecture.mean:
            better = self.check(data.held_out, 250, seed).normalisation(model)
            if better is not None and better.mean:
                write_json(self.written, read_json(self.written) | {"mean": better.mean, "std": better.std})
                model.__dict__.update(load_model(self.written).__dict__)
        known = model.architecture
        million = sum(p.numel() for p in model.parameters()) / 1e6
        what: dict[str, Any] = {"architecture": str(known.spec), "parameters_million": round(million, 2)}
        what |= {"classes": known.classes, "channels": known.channels, "mean": known.mean, "std": known.std}
        return what | ({"card": str(self.written)} if self.written else {})

    def metadata(self, seed: int, small: Nets) -> dict[str, Any]:
        """Describe the examination."""
        found = {"source": self.source, "data": self.settings.data.name, "threat": str(self.threat), "seed": seed}
        return {**found, "small": {kind: [*nets] for kind, nets in small.items()}, "versions": versions()}

    def folder(self) -> Path:
        """Return the folder of the record."""
        if self.path is None:
            return Path("teacher")
        folder = results_folder(self.path) / "teacher"
        taken = is_of_another(folder / self.path.stem / RECORD, "source", Path(self.source))
        return folder / (self.path.name if taken else self.path.stem)


def _few(settings: Settings) -> Settings:
    """Limit the training images that are read, held-out ones among them."""
    limit = min(settings.data.limit or IMAGES, IMAGES)
    return settings.model_copy(update={"data": settings.data.model_copy(update={"limit": limit})})


def _carded(path: Path) -> tuple[Path, Path | None]:
    """Find the card beside somebody's weights, or write one by what their names and shapes say."""
    card = card_beside(path)
    if card.is_file():
        return card, None
    write_json(card, card_facts(path))
    return card, card


@dataclass(frozen=True)
class _Training:
    """The training of small networks on the images of a data set."""

    epochs: int
    seed: int
    data: DataSet

    def small_batches(self) -> dict[str, int]:
        """Return settings of smaller batches, where the images do not fill one of the usual size."""
        count = len(self.data.train)
        return {"batch_size": min(FEW, count)} if count < BATCH else {}

    def data_settings(self, settings: DataSettings) -> dict[str, Any]:
        """Return settings of the same data, with the channels that the teacher takes."""
        found = settings.model_dump(exclude_defaults=True) | {"augment": "crop+flip"}
        return found if unused(settings.name, ["channels"]) else found | {"channels": self.data.test.channels}

    def seen(self) -> str:
        """Hash some of the images, evenly spread: others may have come to lie in their place."""
        rows = torch.linspace(0, len(self.data.train) - 1, SEEN).round().long()
        some = self.data.train.take(rows).in_memory()
        return hashlib.sha256(some.pixels.cpu().numpy().tobytes() + some.labels.cpu().numpy().tobytes()).hexdigest()


def _small(given: Mapping[str, str | None], teacher: _Teacher, how: "_Training", watch: Watch) -> Nets:
    """Load the small networks, or train those that are not given."""
    found: Nets = {"natural": {}, "robust": {}}
    for kind, word in given.items():
        if word != "none":
            sources = (
                [_trained(kind, teacher, how, watch)] if word is None else [one.strip() for one in word.split(",")]
            )
            found[kind] = {source: load_model(source) for source in sources}
    return found


def _trained(kind: str, teacher: _Teacher, how: "_Training", watch: Watch) -> str:
    """Train a small network on the images that are not held out, unless that was done before; returns its run folder."""
    epochs = how.epochs
    own: dict[str, Any] = {**SMALL[kind], "student": NET, "normalize": "data", "seed": how.seed}
    own |= {"data": how.data_settings(teacher.settings.data)}
    own |= {"threat": {"eps": teacher.threat.eps, "norm": teacher.threat.norm}, "validation": {"every": epochs}}
    own |= {"train": {"epochs": epochs, "schedule": "one_cycle", "warmup": 0.3, "nesterov": True, "weight_decay": 5e-4}}
    own["train"] |= how.small_batches()
    if kind == "robust":
        own |= {"attack": {"steps": 3, "step_size": teacher.threat.eps / 2}}
    name = hashlib.sha256(json.dumps([own, how.seen()], sort_keys=True, default=str).encode()).hexdigest()[:8]
    folder = Path("runs") / "small-nets" / f"{kind}-{name}"
    settings = read_settings({**own, "out": str(folder)}).trusting(teacher.settings.trust)
    if not (folder / "best.safetensors").is_file() or not (folder / "checkpoint.pt").is_file():
        train(settings, resume=(folder / "checkpoint.pt").is_file(), watch=watch)
    return str(folder)
