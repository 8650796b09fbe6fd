"""Export of a classifier, with its normalisation, to an ONNX file that describes itself."""

import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmard.models.architectures import Classifier
from mmard.utils.errors import MmardError, first_line
from mmard.utils.files import write_whole

INPUT, OUTPUT = "pixels", "logits"
OPEN = dict.fromkeys((2, 3), torch.export.Dim.AUTO)
"""Height and width of any size, or of one where the network allows one only."""
PORTS = {
    "input": f"{INPUT}: (batch, channels, height, width) float32 in [0, 1]; the normalisation is inside",
    "output": f"{OUTPUT}: (batch, classes) float32, before any softmax",
}


def onnx_of(model: Classifier, size: tuple[int, int], any_size: bool = False) -> Any:
    """Export the model as an `onnx.ModelProto`: ``pixels`` (batch, C, H, W) in [0, 1] → ``logits`` (batch, classes).

    Any batch size, one image size. The graph names no file of this machine.

    Args:
        model: in evaluation mode, on the CPU.
        size: height and width of an image.
        any_size: leave height and width open, as far as the network does.

    Raises:
        MmardError: for an architecture that PyTorch cannot export.
    """
    x = torch.rand(2, model.architecture.channels, *size)  # of a batch of one, it would take the 1 for a constant
    with torch.no_grad(), _quiet():
        model(x)  # what a net keeps between passes is kept now, as tensors; the export's stand-ins must not be
        try:
            program = torch.onnx.export(
                model,
                (x,),
                dynamo=True,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: "batch", **(OPEN if any_size else {})},),
                verbose=False,
            )
        except Exception as e:  # the exporter has many kinds of refusal, and all mean the same
            raise MmardError(f"{model.architecture.name} cannot be exported: {_reason(e)}") from e
    assert program is not None  # it is None only for the old exporter
    return without_traces(program.model_proto)


def without_traces(proto: Any) -> Any:
    """Remove what the exporter notes at each node: lines of the code, with the folders in which it lies on this machine."""
    for graph in (proto.graph, *proto.functions):
        for part in (graph, *graph.node, *graph.value_info):
            del part.metadata_props[:]
            part.doc_string = ""
    return proto


def bytes_of(proto: Any, metadata: Mapping[str, Any]) -> bytes:
    """Serialise the graph, with ``metadata`` as its properties, each as JSON."""
    del proto.metadata_props[:]
    for key, value in metadata.items():
        proto.metadata_props.add(key=key, value=json.dumps(value, ensure_ascii=False))
    try:
        content: bytes = proto.SerializeToString()
    except Exception as e:  # protobuf's kinds of error differ between its versions
        raise MmardError(f"the model does not fit in one ONNX file, whose limit is 2 GiB: {first_line(e)}") from e
    return content


def save_onnx(path: Path, content: bytes) -> None:
    """Write an ONNX file in one step."""
    write_whole(path, lambda part: part.write_bytes(content))


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's remarks on packages that are not needed here."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


TOLERANCE = 1e-4
"""Most that a float export may differ, as a share of the largest logit (of 1, where that is smaller)."""


@dataclass(frozen=True)
class Agreement:
    """The agreement of two networks on the same images.

    Attributes:
        images: how many.
        largest, mean: absolute difference of two logits.
        allowed: the largest that a float export may have.
        agree: share of the images in the same class.
        scale: the network's largest absolute logit.
    """

    images: int
    largest: float
    mean: float
    allowed: float
    agree: float
    scale: float

    def must_be_close(self, what: str) -> None:
        """Raise MmardError unless the logits are the same up to rounding."""
        if not self.largest <= self.allowed:  # also for a NaN
            raise MmardError(
                f"{what} is not the network it was made from: logits differ by up to {self.largest:.2g}, allowed is "
                f"{self.allowed:.2g}; nothing was written"
            )

    def __str__(self) -> str:
        said = f"logits of up to {self.scale:.2g} differ by up to {self.largest:.2g} (mean {self.mean:.2g})"
        return f"{said} from the network's on {self.images} held-out images, the class is the same on {self.agree:.1%}"


@torch.no_grad()
def compare(network: nn.Module, other: nn.Module, images: Tensor, batch_size: int = 64) -> Agreement:
    """Compare the logits of two networks on images (N, C, H, W) in [0, 1]."""
    parts = torch.split(images, batch_size)
    a, b = (torch.cat([model(x) for x in parts]) for model in (network, other))
    gap, scale = (a - b).abs(), a.abs().max().item()
    agree = torch.eq(a.argmax(1), b.argmax(1)).double().mean().item()
    return Agreement(len(images), gap.max().item(), gap.mean().item(), TOLERANCE * max(1.0, scale), agree, scale)


def _reason(e: Exception) -> str:
    """Return what stopped the exporter, whose own error says only in which of its steps that was."""
    inner: BaseException = e
    while inner.__cause__ is not None:
        inner = inner.__cause__
    return first_line(inner) if isinstance(inner, Exception) else first_line(e)
