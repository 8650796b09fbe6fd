"""Export of trained weights to ONNX and other formats: what `mmard export` does, for Python."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import InstanceOf
from torch import Tensor, nn

from mmard.api.build import data_of
from mmard.api.evaluation_target import EvalTarget, images_in
from mmard.api.exported import must_allow_surrogate
from mmard.api.settings import Settings
from mmard.api.unused_settings import EXPORT
from mmard.core.threat import Threat
from mmard.data.images import DataSet, ImageSet, some
from mmard.models.architectures import Classifier
from mmard.models.cards import find_model, must_fit, results_folder, weights_file
from mmard.models.formats import FORMATS, LARGEST_BATCH, Format, format_of, open_exported, program_of, size_of, suffixes
from mmard.models.onnx_export import PORTS, Agreement, bytes_of, compare, onnx_of
from mmard.models.onnx_runtime import RuntimeModel
from mmard.models.quantise import HOW, quantised
from mmard.runs.folder import RunFolder
from mmard.utils.argument_types import public
from mmard.utils.errors import MmardError, first_line
from mmard.utils.files import sha256
from mmard.utils.packages import version_of
from mmard.utils.portable_paths import portable
from mmard.utils.trust import Trust, remember_file

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

    @property
    def size(self) -> int:
        """Return the bytes of the file, and of the weights that OpenVINO keeps beside it."""
        return size_of(self.path)


@public
def export(
    source: str | Path | InstanceOf[RunFolder], to: str | Path | None = None, *,
    int8: bool = False, calibration: int = 512, format: str = "onnx", dynamic_size: bool = False, force: bool = False,
    module: InstanceOf[nn.Module] | None = None, trust: bool = False, **overrides: Any,
) -> Delivery:  # fmt: skip
    """Export a model and compare the file with the network on held-out images: pixels in [0, 1] in, logits out, any batch.

    No file that is written names a folder of this machine.

    Args:
        source: run folder (its best checkpoint), weights file, card, or ``"net.py:build@weights.pt"``.
        to: the file to write; None: ``model.onnx`` or ``model-int8.onnx`` in the run folder, or beside the weights by their name.
        int8: quantise to 8 bits, with ranges from training images; for ``onnx`` and ``openvino``.
        calibration: about so many of those.
        format: ``onnx``, ``openvino``, ``executorch`` or ``torch``; see `mmard.models.formats.FORMATS`.
        dynamic_size: take images of any height and width; tried on a second size.
        force: replace a file that is there.
        module: for a run whose network was given in Python: one like it.
        trust: read and fetch the data that the weights name, though this user has never used them.
        **overrides: settings, dots as double underscores: ``data__name=...``; ``data`` may be images, as of `mmard.distill`.

    Raises:
        MmardError: for a mistake in the input, and a float export that is not the network up to rounding; nothing is written then.
    """
    kind = _allowed(format, int8, dynamic_size)
    source = source.path if isinstance(source, RunFolder) else source
    path = find_model(source)
    target = _target(Path(source).expanduser(), path, to, kind, int8)
    must_be_free(target, force)
    words = {key.replace("__", "."): value for key, value in overrides.items()} | {"trust": trust}
    known = EvalTarget.of(source, module=module, images=images_in(words))
    return _written(known, target, words, kind, calibration if int8 else None, dynamic_size)


def _written(
    known: EvalTarget, target: Path, words: dict[str, Any], kind: Format, calibration: int | None, any_size: bool
) -> Delivery:
    """Write the export of the model to ``target``."""
    trust = words.pop("trust")
    settings = known.settings(words, EXPORT, trust=trust)
    path, loaded = known.path, known.load(settings.trust)
    data = data_of(settings, known.known(), stream=True, given=known.images)
    model = loaded if isinstance(loaded, Classifier) else known.load_for(data.test)
    must_fit(model, str(path), len(data.test.classes), data.test.channels)
    metadata = _metadata(known, target, model, data) | _declared(known, settings, words)
    made, comparison = _Export(model, data, kind, calibration, any_size, str(target)).made(metadata)
    kind.save(target, made, metadata)
    must_allow_surrogate(path, Trust())  # an evaluation of the file finds it again
    remember_file(metadata["sha256"], path)
    return Delivery(target, comparison, metadata)


@dataclass(frozen=True)
class _Export:
    """An export that is being made; ``calibration``: how many images, None for float."""

    model: Classifier
    data: DataSet
    kind: Format
    calibration: int | None
    any_size: bool
    target: str

    def made(self, metadata: dict[str, Any]) -> tuple[Any, Agreement]:
        """Make the graph or program, compare it with the network and add to the metadata how."""
        size = self.data.test.shape[1], self.data.test.shape[2]
        open_size = {"any_size": True} if self.any_size else {}
        if self.kind.of_onnx:
            made = onnx_of(self.model, size, **open_size)
        else:
            made = program_of(self.model, size, **open_size, most=None if self.kind.any_size else LARGEST_BATCH)
        if self.calibration is not None:
            images = _pixels(self.data.train, self.calibration)
            made = quantised(made, images)
            metadata["quantisation"] = f"{HOW}; {len(images)} training images, seed 0"
        metadata["precision"] = "float32" if self.calibration is None else "int8"
        pixels = _pixels(self.data.held_out, COMPARED)
        with self._running(made) as runtime:
            comparison = self._compared(runtime, pixels)
            if self.any_size:
                metadata["sizes"] = self._tried(runtime, pixels[:8])
        metadata["comparison"] = asdict(comparison)
        return made, comparison

    @contextmanager
    def _running(self, made: Any) -> Iterator[nn.Module]:
        """Run what is not written yet."""
        if self.kind.suffix == ".onnx":
            yield RuntimeModel(bytes_of(made, {}), self.target)
            return
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, f"model{self.kind.suffix}")
            self.kind.save(file, made, {})
            yield open_exported(file, self.target)

    def _compared(self, runtime: nn.Module, pixels: Tensor) -> Agreement:
        comparison = compare(self.model, runtime, pixels)
        if self.calibration is None:
            comparison.must_be_close(self.target)
        return comparison

    def _tried(self, runtime: nn.Module, pixels: Tensor) -> str:
        """Run network and export on images of twice the size too; returns what was tried."""
        larger = pixels.repeat_interleave(2, 2).repeat_interleave(2, 3)
        what = self.model.architecture.name
        for network, fault in ((self.model, f"{what} takes"), (runtime, f"what the exporter makes of {what} takes")):
            try:
                with torch.no_grad():
                    network(larger)
            except (MmardError, RuntimeError, ValueError) as e:
                cure = "export it without --dynamic-size"
                why = first_line(e.__cause__ if isinstance(e.__cause__, Exception) else e)
                raise MmardError(f"{fault} images of one size only ({why}); {cure}") from e
        self._compared(runtime, larger)
        tried = " and ".join(f"{x.shape[2]}×{x.shape[3]}" for x in (pixels, larger))
        return f"any height and width that the network takes; tried: {tried}"


def _allowed(name: str, int8: bool, dynamic_size: bool) -> Format:
    """Find the format and check that it has what is asked of it."""
    kind = format_of(name)
    for asked, able, option in ((int8, kind.of_onnx, "int8"), (dynamic_size, kind.any_size, "dynamic_size")):
        if asked and not able:
            able_ones = [
                other for other, each in FORMATS.items() if (each.of_onnx if option == "int8" else each.any_size)
            ]
            raise MmardError(f"{option} does not go with format {name}; expected one of {', '.join(able_ones)}")
    return kind


def _target(source: Path, weights: Path, to: str | Path | None, kind: Format, int8: bool) -> Path:
    if weights.suffix in suffixes():
        raise MmardError(f"{weights} is an exported model already; export the run or weights that it came from")
    stem = ("model" if source.is_dir() else weights.stem) + ("-int8" if int8 else "")
    target = results_folder(weights) / f"{stem}{kind.suffix}" if to is None else Path(to).expanduser()
    if target.suffix != kind.suffix:
        raise MmardError(f"{target} is no name for {kind.title} file; expected one that ends in {kind.suffix}")
    return target


def must_be_free(target: Path, force: bool) -> None:
    """Raise MmardError where the file is there already, unless it may be replaced."""
    # OpenVINO's weights lie beside the graph
    files = [target, target.with_suffix(".bin")] if target.suffix == ".xml" else [target]
    if not force and (there := [file for file in files if file.exists()]):
        cure = f"choose another name (--to FILE{target.suffix}), or replace it: --force"
        raise MmardError(f"{there[0]} exists already; {cure}")


def _pixels(images: ImageSet, count: int) -> Tensor:
    """Decode so many images, in the usual order of memory, which networks that call ``.view`` need."""
    return some(images, count, seed=0).in_memory().batch(slice(None))[0].clone(memory_format=torch.contiguous_format)


def _metadata(known: EvalTarget, target: Path, model: Classifier, data: DataSet) -> dict[str, Any]:
    """Collect the metadata that a user of the file alone needs; a network from elsewhere cannot be found again by its weights."""
    return {
        "mmard": version_of("mmard"),
        **PORTS,
        "architecture": portable(model.architecture.facts()),
        "classes": list(data.test.classes),
        **({} if known.network else {"source": _source(known.path, target)}),
        "sha256": sha256(weights_file(known.path)),
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
