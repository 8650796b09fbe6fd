"""Formats of exported models: ONNX, OpenVINO, ExecuTorch and torch.export. How each is made, written and run."""

import json
import tempfile
import warnings
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmard.models.architectures import Classifier
from mmard.models.onnx_export import OPEN, bytes_of, save_onnx
from mmard.models.onnx_runtime import RuntimeModel
from mmard.models.runtimes import RUNTIMES
from mmard.utils.errors import MmardError, chosen, first_line
from mmard.utils.files import write_whole
from mmard.utils.packages import optional

LARGEST_BATCH = 64
"""Of an ExecuTorch program, whose memory is planned when it is made."""
KEY = "mmard"


def save_openvino(path: Path, proto: Any, metadata: Mapping[str, Any]) -> None:
    """Write an ONNX graph as OpenVINO's two files, ``.xml`` and ``.bin``, with the metadata as ``rt_info``."""
    import openvino

    model = openvino.Core().read_model(model=bytes_of(proto, {}))
    for key, value in metadata.items():
        model.set_rt_info(json.dumps(value, ensure_ascii=False), [KEY, key])
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder, path.name)
        openvino.save_model(model, str(made), compress_to_fp16=False)
        for file in (made.with_suffix(".bin"), made):
            _put(path.with_suffix(file.suffix), file.read_bytes())


def save_torch(path: Path, program: Any, metadata: Mapping[str, Any]) -> None:
    """Write a program of torch.export, with the metadata as the extra file ``mmard.json``."""
    text = json.dumps(dict(metadata), ensure_ascii=False)
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder, "model.pt2")
        torch.export.save(program, made, extra_files={f"{KEY}.json": text})
        _put(path, made.read_bytes())


def save_executorch(path: Path, program: Any, metadata: Mapping[str, Any]) -> None:
    """Write a program of ExecuTorch (XNNPACK, on the CPU), with the metadata as its method ``mmard``, which gives JSON."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    text = json.dumps(dict(metadata), ensure_ascii=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            lowered = to_edge_transform_and_lower(
                program, partitioner=[XnnpackPartitioner()], constant_methods={KEY: text}
            )
            content = bytes(lowered.to_executorch().buffer)
        except Exception as e:  # whatever part it does not know
            raise MmardError(f"the model cannot be lowered to ExecuTorch: {first_line(e)}") from e
    _put(path, content)


def _put(path: Path, content: bytes) -> None:
    write_whole(path, lambda part: part.write_bytes(content))


@dataclass(frozen=True)
class Format:
    """A kind of exported file.

    Attributes:
        title: as errors name it.
        suffix: of the file.
        packages: that make and run it; ``extra`` of this package brings them.
        of_onnx: made from an ONNX graph, which may be int8; else from a program of torch.export.
        any_size: whether height and width may be left open.
        save: writes the graph or program, with metadata, to a path.
    """

    title: str
    suffix: str
    packages: tuple[str, ...]
    extra: str
    of_onnx: bool
    any_size: bool
    save: Callable[[Path, Any, Mapping[str, Any]], None]


FORMATS = {
    "onnx": Format(
        "an ONNX", ".onnx", ("onnx", "onnxruntime", "onnxscript"), "onnx", True, True,
        lambda path, proto, metadata: save_onnx(path, bytes_of(proto, metadata)),
    ),
    "openvino": Format(
        "an OpenVINO", ".xml", ("onnx", "onnxruntime", "onnxscript", "openvino"), "openvino", True, True, save_openvino
    ),
    "executorch": Format("an ExecuTorch", ".pte", ("executorch.exir",), "executorch", False, False, save_executorch),
    "torch": Format("a torch.export", ".pt2", (), "", False, True, save_torch),
}  # fmt: skip


def format_of(name: str) -> Format:
    """Find a format by name, with its packages there.

    Raises:
        MmardError: for an unknown name, or a package that is not installed.
    """
    found = chosen("format", name, FORMATS)
    for package in found.packages:
        optional(package, found.extra, "an exported model" if name == "onnx" else f"--format {name}")
    return found


def size_of(path: Path) -> int:
    """Return the bytes of an exported file, OpenVINO's weights beside it included."""
    beside = path.with_suffix(".bin")
    return path.stat().st_size + (beside.stat().st_size if path.suffix == ".xml" and beside.is_file() else 0)


def suffixes() -> tuple[str, ...]:
    """List the suffixes of exported files."""
    return tuple(found.suffix for found in FORMATS.values())


def program_of(model: Classifier, size: tuple[int, int], any_size: bool = False, most: int | None = None) -> Any:
    """Export the model as a `torch.export.ExportedProgram` of any batch, which names no file of this machine.

    Args:
        model: in evaluation mode, on the CPU.
        size: height and width of an image.
        any_size: leave height and width open, as far as the network does.
        most: the largest batch; None: any.

    Raises:
        MmardError: for an architecture that PyTorch cannot export.
    """
    # The example is of the largest batch: XNNPACK's partitioner splits the range of batches where its sizes do.
    x = torch.rand(most or 2, model.architecture.channels, *size)
    batch = torch.export.Dim.DYNAMIC if most is None else torch.export.Dim("batch", min=1, max=most)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model(x)
            program = torch.export.export(model, (x,), dynamic_shapes=({0: batch, **(OPEN if any_size else {})},))
    except Exception as e:  # the exporter has many kinds of refusal, and all mean the same
        raise MmardError(f"{model.architecture.name} cannot be exported: {first_line(e)}") from e
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:  # lines of code, with their folders, are left out
                node.meta = {key: value for key, value in node.meta.items() if key in ("val", "tensor_meta")}
    return program


class ExportedModel(nn.Module):
    """An exported file as a network without gradients: images (B, C, H, W) in [0, 1], on any device → logits (B, classes).

    Args:
        path: of a file in one of `FORMATS`.
        what: its name in errors.
    """

    has_gradients = False

    def __init__(self, path: Path, what: str) -> None:
        super().__init__()
        self.what = what
        try:
            with _quiet():
                self.run = RUNTIMES[path.suffix](path, torch.get_num_threads())
        except Exception as e:  # each runtime has kinds of its own
            raise MmardError(f"{what} cannot be run: {first_line(e)}") from e

    def forward(self, x: Tensor) -> Tensor:
        pixels = x.detach().to("cpu", torch.float32).contiguous()
        try:
            parts = [torch.from_numpy(self.run(part.numpy()).copy()) for part in torch.split(pixels, LARGEST_BATCH)]
        except Exception as e:  # as above
            raise MmardError(f"{self.what} fails on a batch of {len(x)}: {first_line(e)}") from e
        return torch.cat(parts).to(x.device)


def open_exported(path: Path, what: str) -> nn.Module:
    """Open an exported file as a network without gradients.

    Raises:
        MmardError: where it cannot be run.
    """
    return RuntimeModel(path, what) if path.suffix == ".onnx" else ExportedModel(path, what)


@contextmanager
def _quiet() -> Any:
    """Silence what runtimes say while they open a file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
