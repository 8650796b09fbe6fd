"""Teachers: a card says what the weights are and where; `load_teacher` checks it and returns a frozen model."""

import warnings
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import nn

from mmard.core.logits import freeze, kind_of_weights, predict_logits
from mmard.models import robustbench
from mmard.models.architectures import Architecture, Classifier, adopt, build
from mmard.models.checkpoints import fit, read_checkpoint, weights_for
from mmard.models.foreign import NetworkSpec, is_foreign, must_need
from mmard.models.weights import architecture_facts, describes_itself, load_weights, read_state
from mmard.utils.argument_types import public
from mmard.utils.download import download_folder, fetched, is_fetched
from mmard.utils.errors import MmardError, Note, first_line, unknown
from mmard.utils.files import read_json, sha256
from mmard.utils.layout import must_be_readable
from mmard.utils.packages import optional
from mmard.utils.safe_open import must_be_itself
from mmard.utils.text_files import parse_json, read_text
from mmard.utils.trust import inside
from mmard.utils.validation import Section, validated


class Card(Section):
    """A description of a file of weights.

    Attributes:
        architecture: name, such as ``wrn-34-10``, or ``timm:resnet18(drop_rate=0.1)``.
        classes, channels, mean, std: as in `Architecture`.
        file: path beside the card, or in a folder beside it; or
        hub: ``{"repo": "owner/name", "filename": "...", "revision": "..."}`` on the Hugging Face hub; or
        url: ``https://...``. Both are fetched when the card is used.
        key: which set of weights, where the file holds several: ``"ema"``, ``"state_dict.model_ema"``.
        sha256: of the file; other bytes are refused.
        claimed: accuracies in percent by attack, as their authors state them, for information.
        class_names: in the order of the outputs, where the file does not say them; they are compared with the data's.
        source, licence: where the weights come from and what one may do with them.
    """

    architecture: str
    classes: Annotated[int, Field(ge=1)]
    channels: Annotated[int, Field(ge=1)] = 3
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    file: str | None = None
    hub: dict[str, str] | None = None
    url: str | None = None
    key: str | None = None
    sha256: str | None = None
    claimed: dict[str, Any] = Field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    source: str = ""
    licence: str = ""

    @staticmethod
    def read(path: Path) -> "Card":
        """Read a card from JSON; an unknown or a missing key is an error."""
        card = validated(Card, read_json(path), f"key of the card {path}")
        if card.class_names and len(set(card.class_names)) != card.classes:
            raise MmardError(
                f"the card {path} has {len(set(card.class_names))} different class_names, expected {card.classes}"
            )
        return card

    def of(self) -> Architecture:
        """Return the architecture to build; code of the user's own has no place in a card, which may be anybody's."""
        if (spec := NetworkSpec.of(self.architecture)).is_code or spec.weights:
            raise MmardError(f"the card's architecture is {self.architecture}; expected a name, such as timm:resnet18")
        shape = {"classes": self.classes, "channels": self.channels, "mean": self.mean, "std": self.std}
        return Architecture(name=spec.name, parameters=spec.parameters, **shape)  # type: ignore[arg-type]

    def weights(self, beside: Path) -> Path:
        """Find the file, fetched from the hub or from an address where the card says so, and check its hash."""
        if sum(place is not None for place in (self.file, self.hub, self.url)) != 1:
            raise MmardError("a card names either 'file' or 'hub' or 'url', one of them")
        if self.url is not None:
            return _from_address(self.url, self.sha256)
        path = inside(beside, self.file) if self.file is not None else _from_hub(self.hub or {})
        if path.is_dir():
            raise MmardError(
                f"the card names the folder {path} as its file; expected the weights' name, beside the card"
            )
        if not path.is_file():
            raise MmardError(f"the card's file {path} does not exist")
        must_be_itself(path)
        if self.sha256 is not None and (got := sha256(path)) != self.sha256.lower():
            raise MmardError(f"{path} has sha256 {got[:12]}…, its card says {self.sha256[:12]}…; it is another file")
        return path


def _from_address(url: str, digest: str | None) -> Path:
    """Find a file among the downloads, or fetch it, which a line says."""
    if not is_fetched(url):
        warnings.warn(Note(f"fetching {url}; it is kept in {download_folder()}"), stacklevel=2)
    return fetched(url, digest)


def _from_hub(where: dict[str, str]) -> Path:
    hub = optional("huggingface_hub", "hub", "a card of weights on the hub")
    try:
        return Path(hub.hf_hub_download(where["repo"], where["filename"], revision=where.get("revision")))
    except KeyError as e:
        raise MmardError(f"the card's 'hub' lacks {e}; expected repo and filename") from e
    except Exception as e:  # the hub's client has a dozen kinds of failure; all mean that the file did not come
        raise MmardError(f"{where['repo']}/{where['filename']} did not come from the hub: {first_line(e)}") from e


ZOO = "zoo:"
ALL_OF_ZOO = "a clone of the project has all of zoo/, an installation the small ones"
INSTALLED = Path(__file__).resolve().parents[1] / "zoo"
"""The teachers of an installed package; in a clone they are in ``zoo/``."""


def zoo_cards() -> dict[str, Path]:
    """List the cards of the teachers that come with this package, by name."""
    folders = (Path(__file__).resolve().parents[3] / "zoo", INSTALLED)
    return {card.stem: card for folder in folders for card in sorted(folder.glob("*.json"))}


def results_folder(model: Path) -> Path:
    """Return the folder of a model's results: its own; the working folder for an installed teacher and one among the downloads."""
    kept = model.parent == INSTALLED or model.is_relative_to(download_folder().parent)
    return Path() if kept else model.parent


def in_zoo(source: str | Path) -> Path:
    """Find the card behind ``zoo:NAME``, or behind ``zoo/NAME.json`` where no such file lies here; any other path as it is.

    Raises:
        MmardError: for a name that the package does not have, with the nearest names.
    """
    path, name = Path(source).expanduser(), str(source).removeprefix(ZOO).removesuffix(".json")
    if str(source).startswith(ZOO):
        if name not in zoo_cards():
            raise unknown("teacher in zoo", name, zoo_cards(), ALL_OF_ZOO)
        return zoo_cards()[name]
    packaged = path.parent == Path("zoo") and path.suffix in ("", ".json") and not path.exists()
    return zoo_cards().get(path.stem, path) if packaged else path


def find_model(source: str | Path) -> Path:
    """Find the file behind a run folder (its best checkpoint), weights, a card (.json), ``zoo:NAME`` or ``robustbench:...``."""
    path = Path(NetworkSpec.of(str(source)).weights).expanduser() if is_foreign(source) else _named(source)
    if path.is_dir() and not is_foreign(source):
        must_be_readable(path)
        path = path / "best.safetensors"
    if not path.is_file():
        cure = f"; {ALL_OF_ZOO}: {ZOO}{f', {ZOO}'.join(zoo_cards())}" if path.parent == Path("zoo") else ""
        raise MmardError(f"no model at {source}; expected a run folder, a .safetensors file or a card (.json){cure}")
    if path.suffix not in (".safetensors", ".json", ".onnx") and (path.parent / "settings.yaml").is_file():
        raise MmardError(
            f"{source} is a part of the run {path.parent}, and no model; give the run folder: {path.parent}"
        )
    must_be_readable(path.parent)
    must_be_itself(path)
    return path


def _named(source: str | Path) -> Path:
    """Find the card of a model that goes by a name; any path as it is."""
    return robustbench.card_of(str(source)) if str(source).startswith(robustbench.PREFIX) else in_zoo(source)


def fetched_by(source: str | Path) -> list[str]:
    """List what a card fetches, as ``hub://owner/name/file``, ``network://hf:owner/name`` or an address; nothing for others."""
    path = _named(source)
    if path.suffix != ".json" or not path.is_file():
        return []
    card = Card.read(path)
    from_hub = [f"hub://{card.hub.get('repo')}/{card.hub.get('filename')}"] if card.hub is not None else []
    network = NetworkSpec.of(card.architecture)
    return [*from_hub, *([card.url] if card.url else []), *([f"network://{network.name}"] if network.fetches else [])]


def card_beside(weights: Path) -> Path:
    """Find the place of the card of a file of weights: ``net.json``, or ``net.pt.json`` where the former is of another file.

    Raises:
        MmardError: where both are there and of other files.
    """
    places = weights.with_suffix(".json"), weights.with_name(f"{weights.name}.json")
    for place in places:
        if not place.is_file() or _names(place, weights):
            return place
    raise MmardError(
        f'{places[0]} and {places[1]} do not name {weights.name} as their "file"; expected one of them to, or remove one'
    )


def _names(card: Path, weights: Path) -> bool:
    told = parse_json(read_text(card), str(card))
    file = told.get("file") if isinstance(told, dict) else None
    return isinstance(file, str) and (card.parent / file).resolve() == weights.resolve()


def is_of_another(record: Path, key: str, model: Path) -> bool:
    """Tell whether a record says, under ``key``, that it is of another file of the model's stem: ``net.pt``, not ``net.json``."""
    try:
        named = Path(str(read_json(record).get(key)))
    except MmardError:  # none there, or a damaged one, which is written anew
        return False
    return bool(named.suffix) and named.stem == model.stem and named.name != model.name


def weights_file(path: Path) -> Path:
    """Find the file of weights behind what `find_model` found: a card names it."""
    return Card.read(path).weights(path.parent) if path.suffix == ".json" else path


@public
def load_model(source: str | Path, module: nn.Module | None = None, *, trust: bool = False) -> Classifier:
    """Load a classifier in evaluation mode, from whatever `find_model` finds.

    Args:
        module: for weights of a module that was given in Python: one like it, which the weights are loaded into.
        trust: run the code of the network that lies beside the weights, though this user has never run it.

    Raises:
        MmardError: when there is nothing there, or it is not what it says.
    """
    path = find_model(source)
    if path.suffix == ".onnx":
        raise MmardError(f"{path} is an exported model without gradients; give the run or weights that it came from")
    if is_foreign(source):
        must_need(module, source)
        if not (facts := architecture_facts(path)):
            raise MmardError(
                f"{path} does not say its classes; mmard.train and mmard.evaluate take {source} for their data"
            )
        return load_foreign(str(source), facts["classes"], facts["channels"])
    if module is not None:
        return _into(module, path)
    if path.suffix != ".json":
        return load_weights(path, trust=trust).eval()
    card = Card.read(path)
    weights = card.weights(path.parent)
    if describes_itself(weights):
        model = load_weights(weights, trust=trust)
        if model.architecture != card.of():
            raise MmardError(f"the card {path} says {card.of()}, its file {model.architecture}")
        return model.eval()
    model = build(card.of(), fresh=False)
    fit(model.net, weights_for(model, read_checkpoint(weights), weights, card.key), weights)
    return model.eval()


def _into(module: nn.Module, path: Path) -> Classifier:
    """Load weights of this package into a module given in Python."""
    facts = architecture_facts(path)
    if not facts:
        raise MmardError(f"{path} does not say its classes; load its weights into the module yourself")
    own = Architecture.from_facts(facts)
    model = adopt(module, own.classes, own.channels, own.mean, own.std)
    fit(model, read_state(path), path)
    return model.eval()


def load_foreign(source: str, classes: int, channels: int) -> Classifier:
    """Load a network from elsewhere with its weights, ``timm:resnet18@weights.pt``, in evaluation mode.

    Weights of this package bring their normalisation; others' go with the ``mean`` and ``std`` in brackets.

    Raises:
        MmardError: where no weights are named, or they are not this network's; for code that nobody vouched for.
    """
    spec = NetworkSpec.of(source)
    if not spec.weights and not spec.parameters.get("pretrained"):
        raise MmardError(f"{source} is without weights; give them after an @: {spec.name}@weights.pt")
    path = Path(spec.weights).expanduser()
    if spec.weights and not path.is_file():
        raise MmardError(f"there are no weights {path} of the network {spec.name}")
    shape = {"classes": classes, "channels": channels, "mean": spec.mean, "std": spec.std}
    if spec.weights and not spec.mean and (facts := architecture_facts(path)):
        shape |= {key: tuple(facts.get(key) or ()) for key in ("mean", "std")}
    made = Architecture(name=spec.name, parameters=spec.parameters, code=spec.code(), **shape)  # type: ignore[arg-type]
    model = build(made, fresh=not spec.weights)
    if spec.weights:
        must_be_itself(path)
        fit(model.net, weights_for(model, read_checkpoint(path), path, spec.key), path)
    return model.eval()


def described(source: str | Path) -> tuple[dict[str, Any], bool]:
    """Return the accuracies that a model's card claims, and whether its weights say nothing of themselves."""
    if is_foreign(source):
        weights = Path(NetworkSpec.of(str(source)).weights)
        return {}, not (weights.is_file() and describes_itself(weights))
    path = find_model(source)
    return Card.read(path).claimed if path.suffix == ".json" else {}, not describes_itself(weights_file(path))


@torch.no_grad()
def must_take(model: Classifier, what: str, shape: torch.Size | tuple[int, ...]) -> None:
    """Raise MmardError unless a network gives logits of its classes for two images (C, H, W) = ``shape``, in evaluation mode.

    It is for networks from elsewhere; those of this package take any size that their names allow.
    """
    kept = model.training
    x = torch.zeros(2, *shape, device=model.mean.device)
    try:
        predict_logits(model.eval(), x, what, model.architecture.classes)
    except MmardError:
        raise
    except Exception as e:  # a network from elsewhere fails in its own ways
        size = " x ".join(map(str, shape))
        cure = kind_of_weights(model) or "; give a parameter such as img_size or image_size, or other data"
        raise MmardError(f"{what} cannot take images of {size} ({first_line(e)}){cure}") from e
    finally:
        model.train(kept)


def must_fit(model: Classifier, what: str, classes: int, channels: int) -> None:
    """Raise MmardError unless the model is for data with so many classes and channels."""
    have = model.architecture
    if (have.classes, have.channels) != (classes, channels):
        grey = (have.classes, have.channels, channels) == (classes, 1, 3)
        cure = "; data.channels=1 makes all images grey" if grey else ""
        raise MmardError(
            f"{what} has {have.classes} classes and {have.channels} channels, the data {classes} and {channels}{cure}"
        )


def load_teacher(source: str | Path, classes: int, channels: int) -> Classifier:
    """Load a frozen teacher for data with so many classes and channels."""
    loaded = load_foreign(str(source), classes, channels) if is_foreign(source) else load_model(source)
    return as_teacher(loaded, source, classes, channels)


def as_teacher(model: Classifier, source: str | Path, classes: int, channels: int) -> Classifier:
    """Freeze a classifier that was loaded before the data, after checking that it fits them."""
    must_fit(model, f"the teacher {source}", classes, channels)
    freeze(model, f"the teacher {source}")
    return model
