"""Export of trained weights to ONNX: what `mmard export` does, for Python."""

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from mmard.api.build import data_of
from mmard.api.evaluation_target import EvalTarget
from mmard.api.exported import must_allow_surrogate
from mmard.api.settings import Settings
from mmard.core.threat import Threat
from mmard.data.images import DataSet, ImageSet, some
from mmard.models.architectures import Classifier
from mmard.models.cards import find_model, load_model, must_fit, results_folder, weights_file
from mmard.models.onnx_export import PORTS, Agreement, bytes_of, compare, onnx_of, save_onnx
from mmard.models.onnx_runtime import RuntimeModel, need_onnx
from mmard.models.quantise import HOW, quantised
from mmard.utils.argument_types import public
from mmard.utils.errors import MmardError
from mmard.utils.files import sha256
from mmard.utils.portable_paths import portable
from mmard.utils.trust import Trust, remember_file
from mmard.utils.versions import version_of

COMPARED = 256
"""Held-out images on which the export is compared with the network."""


@dataclass(frozen=True)
class Delivery:
    """The result of an export.

    Attributes:
        path: the file.
        comparison: with the network it was made from.
        metadata: what the file says of itself.
    """

    path: Path
    comparison: Agreement
    metadata: dict[str, Any]


@public
def export(
    source: str | Path,
    to: str | Path | None = None,
    *,
    int8: bool = False,
    calibration: int = 512,
    trust: bool = False,
    **overrides: Any,
) -> Delivery:
    """Export a model to ONNX and compare it with the network on held-out images: pixels in [0, 1] in, logits out, any batch.

    Args:
        source: run folder (its best checkpoint), weights file, or card.
        to: the file to write; None: ``model.onnx`` or ``model-int8.onnx`` in the run folder, or beside the weights by their name.
        int8: quantise to 8 bits, with ranges from training images.
        calibration: about so many of those, every class in proportion.
        trust: read and fetch the data that the weights name, though this user has never used them.
        **overrides: settings, dots as double underscores: ``data__name=...``.

    Raises:
        MmardError: for any mistake in the input, and for a float export that is not the network up to rounding; nothing is
            written then.
    """
    need_onnx()
    path = find_model(source)
    if path.suffix == ".onnx":
        raise MmardError(f"{path} is an exported model already; export the run or weights that it came from")
    target = _target(Path(source).expanduser(), path, to, int8)
    known, words = EvalTarget.of(path, None), {key.replace("__", "."): value for key, value in overrides.items()}
    settings = known.settings(words, trust=trust)
    model = load_model(path, trust=trust)
    data = data_of(settings, known.known(), stream=True)
    must_fit(model, str(path), len(data.test.classes), data.test.channels)
    metadata = _metadata(path, target, model, data) | _declared(known, settings, words)
    proto, comparison = _made(model, data, metadata, calibration if int8 else None, str(target))
    save_onnx(target, bytes_of(proto, metadata))
    must_allow_surrogate(path, Trust())  # an evaluation of the file finds it again
    remember_file(metadata["sha256"], path)
    return Delivery(target, comparison, metadata)


def _made(
    model: Classifier, data: DataSet, metadata: dict[str, Any], calibration: int | None, target: str
) -> tuple[Any, Agreement]:
    """Make the graph, compare it with the network and add to the metadata how; ``calibration``: None for float."""
    proto = onnx_of(model, (data.test.shape[1], data.test.shape[2]))
    if calibration is not None:
        images = _pixels(data.train, calibration)
        proto = quantised(proto, images)
        metadata["quantisation"] = f"{HOW}; {len(images)} training images, seed 0"
    metadata["precision"] = "float32" if calibration is None else "int8"
    comparison = compare(model, RuntimeModel(bytes_of(proto, {}), target), _pixels(data.held_out, COMPARED))
    if calibration is None:
        comparison.must_be_close(target)
    metadata["comparison"] = asdict(comparison)
    return proto, comparison


def _target(source: Path, weights: Path, to: str | Path | None, int8: bool) -> Path:
    stem = ("model" if source.is_dir() else weights.stem) + ("-int8" if int8 else "")
    target = results_folder(weights) / f"{stem}.onnx" if to is None else Path(to).expanduser()
    if target.suffix != ".onnx":
        raise MmardError(f"{target} is no name for an ONNX file; expected one that ends in .onnx")
    if target.exists():
        raise MmardError(f"{target} exists already; choose another name (--to FILE.onnx), or remove it")
    return target


def _pixels(images: ImageSet, count: int) -> Tensor:
    return some(images, count, seed=0).in_memory().batch(slice(None))[0]


def _metadata(path: Path, target: Path, model: Classifier, data: DataSet) -> dict[str, Any]:
    """Collect the metadata that a user of the file alone needs."""
    return {
        "mmard": version_of("mmard"),
        **PORTS,
        "architecture": model.architecture.facts(),
        "classes": list(data.test.classes),
        "source": _source(path, target),
        "sha256": sha256(weights_file(path)),
    }


def _source(weights: Path, target: Path) -> str:
    """Name the weights relative to the file, where both lie in the working folder or the weights below the file; else by name."""
    place, folder, here = weights.resolve(), target.parent.resolve(), Path.cwd().resolve()
    near = place.is_relative_to(folder) or (place.is_relative_to(here) and folder.is_relative_to(here))
    return Path(os.path.relpath(place, folder)).as_posix() if near else place.name


def _declared(known: EvalTarget, settings: Settings, words: dict[str, Any]) -> dict[str, Any]:
    """Collect threat and settings, of those only what the weights or the command say, no defaults."""
    whole = settings.resolved()
    own = whole if known.given else {k: whole[k] for k in ("data", "threat") if known.says(k, words)}
    return {"settings": portable(own)} | ({"threat": str(Threat(**own["threat"]))} if "threat" in own else {})
