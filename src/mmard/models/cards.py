"""Teachers: a card says what the weights are and where; `load_teacher` checks it and returns a frozen model."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from mmard.models.architectures import Architecture, Classifier, build
from mmard.models.checkpoints import fit, read_checkpoint, weights_for
from mmard.models.weights import describes_itself, load_weights
from mmard.utils.argument_types import public
from mmard.utils.errors import MmardError, first_line, unknown
from mmard.utils.files import read_json, sha256
from mmard.utils.layout import must_be_readable
from mmard.utils.safe_open import must_be_itself
from mmard.utils.trust import inside
from mmard.utils.validation import Section, validated


class Card(Section):
    """A description of a file of weights.

    Attributes:
        architecture: name, such as ``wrn-34-10``.
        classes, channels, mean, std: as in `Architecture`.
        file: path beside the card, or in a folder beside it; or
        hub: ``{"repo": "owner/name", "filename": "...", "revision": "..."}`` on the Hugging Face hub: fetched when the
            card is used.
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
        """Return the architecture to build."""
        shape = {"classes": self.classes, "channels": self.channels}
        return Architecture(name=self.architecture, **shape, mean=self.mean, std=self.std)

    def weights(self, beside: Path) -> Path:
        """Find the file, fetched from the hub where the card says so, and check its hash."""
        if (self.file is None) == (self.hub is None):
            raise MmardError("a card names either 'file' or 'hub'")
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


def _from_hub(where: dict[str, str]) -> Path:
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as e:
        raise MmardError("weights on the hub need one more package: pip install 'mmard[data]'") from e
    try:
        return Path(hf_hub_download(where["repo"], where["filename"], revision=where.get("revision")))
    except KeyError as e:
        raise MmardError(f"the card's 'hub' lacks {e}; expected repo and filename") from e
    except Exception as e:  # the hub's client has a dozen kinds of failure; all mean that the file did not come
        raise MmardError(f"{where['repo']}/{where['filename']} did not come from the hub: {first_line(e)}") from e


ZOO = "zoo:"
INSTALLED = Path(__file__).resolve().parents[1] / "zoo"
"""The teachers of an installed package; in a clone they are in ``zoo/``."""


def zoo_cards() -> dict[str, Path]:
    """List the cards of the teachers that come with this package, by name."""
    folders = (Path(__file__).resolve().parents[3] / "zoo", INSTALLED)
    return {card.stem: card for folder in folders for card in sorted(folder.glob("*.json"))}


def results_folder(model: Path) -> Path:
    """Return the folder in which results of a model are kept: its own, but for an installed teacher the working folder."""
    return Path() if model.parent == INSTALLED else model.parent


def in_zoo(source: str | Path) -> Path:
    """Find the card behind ``zoo:NAME``, or behind ``zoo/NAME.json`` where no such file lies here; any other path as it is.

    Raises:
        MmardError: for a name that the package does not have, with the nearest names.
    """
    path, name = Path(source).expanduser(), str(source).removeprefix(ZOO).removesuffix(".json")
    if str(source).startswith(ZOO):
        if name not in zoo_cards():
            raise unknown("teacher in zoo", name, zoo_cards())
        return zoo_cards()[name]
    packaged = path.parent == Path("zoo") and path.suffix in ("", ".json") and not path.exists()
    return zoo_cards().get(path.stem, path) if packaged else path


def find_model(source: str | Path) -> Path:
    """Find the file behind a run folder (its best checkpoint), a ``.safetensors`` file, a card (.json) or ``zoo:NAME``."""
    path = in_zoo(source)
    if path.is_dir():
        must_be_readable(path)
        path = path / "best.safetensors"
    if not path.is_file():
        raise MmardError(f"no model at {source}; expected a run folder, a .safetensors file or a card (.json)")
    if path.suffix not in (".safetensors", ".json", ".onnx") and (path.parent / "settings.yaml").is_file():
        raise MmardError(
            f"{source} is a part of the run {path.parent}, and no model; give the run folder: {path.parent}"
        )
    must_be_readable(path.parent)
    must_be_itself(path)
    return path


def hub_of(source: str | Path) -> str | None:
    """Tell what a card would fetch from the hub, as ``owner/name/file``; None for anything that fetches nothing."""
    path = in_zoo(source)
    hub = Card.read(path).hub if path.suffix == ".json" and path.is_file() else None
    return None if hub is None else f"{hub.get('repo')}/{hub.get('filename')}"


def weights_file(path: Path) -> Path:
    """Find the file of weights behind what `find_model` found: a card names it."""
    return Card.read(path).weights(path.parent) if path.suffix == ".json" else path


@public
def load_model(source: str | Path) -> Classifier:
    """Load a classifier in evaluation mode, from whatever `find_model` finds.

    Raises:
        MmardError: when there is nothing there, or it is not what it says.
    """
    path = find_model(source)
    if path.suffix == ".onnx":
        raise MmardError(f"{path} is an exported model without gradients; give the run or weights that it came from")
    if path.suffix != ".json":
        return load_weights(path).eval()
    card = Card.read(path)
    weights = card.weights(path.parent)
    if describes_itself(weights):
        model = load_weights(weights)
        if model.architecture != card.of():
            raise MmardError(f"the card {path} says {card.of()}, its file {model.architecture}")
        return model.eval()
    model = build(card.of())
    fit(model.net, weights_for(model, read_checkpoint(weights), weights, card.key), weights)
    return model.eval()


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
    return as_teacher(load_model(source), source, classes, channels)


def as_teacher(model: Classifier, source: str | Path, classes: int, channels: int) -> Classifier:
    """Freeze a classifier that was loaded before the data, after checking that it fits them."""
    must_fit(model, f"the teacher {source}", classes, channels)
    return model.requires_grad_(False)
