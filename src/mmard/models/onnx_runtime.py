"""Exported models: an ONNX file as a network, run by onnxruntime on the CPU. Pixels in [0, 1] in, logits out, no gradients."""

import hashlib
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmard.utils.errors import MmardError, first_line
from mmard.utils.packages import optional
from mmard.utils.text_files import parse_json

PROBED = 10_000_000  # values of an image up to which a graph is tried on made-up ones


def need_onnx() -> None:
    """Raise MmardError unless the packages that make and run ONNX files are installed."""
    for name in ("onnx", "onnxruntime", "onnxscript"):
        optional(name, "onnx", "an exported model")


class RuntimeModel(nn.Module):
    """An ONNX model as a network without gradients.

    ``forward``: images (B, C, H, W) in [0, 1], on any device → logits (B, classes) there.

    Args:
        source: the file, or its bytes.
        what: its name in errors.

    Attributes:
        metadata: what `mmard export` wrote into the file of itself; empty for a file from elsewhere.
        shape: (C, H, W) of an image; a None is a size that the file leaves open.
        classes: how many.
        version: of onnxruntime.
        has_gradients: no; attacks follow those of a float surrogate.
        against: what its metadata say against that surrogate; empty for nothing.

    Raises:
        MmardError: for a file that is no ONNX model, or not one from a batch of images to a batch of logits.
    """

    has_gradients = False

    def __init__(self, source: Path | bytes, what: str) -> None:
        super().__init__()
        need_onnx()
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 4  # errors come as exceptions
        try:
            given = source if isinstance(source, bytes) else str(source)
            self.session = onnxruntime.InferenceSession(given, options, providers=["CPUExecutionProvider"])
        except Exception as e:  # the runtime has a kind of its own for each fault of a file
            raise MmardError(f"{what} cannot be run as ONNX: {first_line(e)}; is it truncated?") from e
        content = source if isinstance(source, bytes) else source.read_bytes()
        digest = torch.frombuffer(bytearray(hashlib.sha256(content).digest()), dtype=torch.uint8)
        self.register_buffer("digest", digest)  # it stands for the weights, where somebody compares those
        self.version, self.what = onnxruntime.__version__, what
        self.shape, self.classes = self._layout()
        self.against = ""
        self.metadata = _metadata(self.session.get_modelmeta().custom_metadata_map)

    def _layout(self) -> tuple[tuple[int | None, ...], int]:
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        shapes = [list(port.shape) for port in (*inputs, *outputs)]
        if len(inputs) != 1 or len(outputs) != 1 or inputs[0].type != "tensor(float)":
            kinds = ", ".join(port.type for port in (*inputs, *outputs))
            raise MmardError(
                f"{self.what} has {len(inputs)} inputs, {len(outputs)} outputs ({kinds}); expected one of each, floats"
            )
        image, logits = shapes
        if len(image) != 4 or len(logits) != 2 or not isinstance(logits[1], int):
            raise MmardError(f"{self.what} maps {image} to {logits}; expected (batch, C, H, W) to (batch, classes)")
        if isinstance(image[0], int):
            raise MmardError(f"{self.what} takes batches of {image[0]} only; export it with a dynamic batch")
        return tuple(n if isinstance(n, int) else None for n in image[1:]), logits[1]

    def must_fit(self, classes: int, shape: tuple[int, ...]) -> None:
        """Raise MmardError unless the model is for so many classes and images of that shape (C, H, W)."""
        fits = all(mine in (None, theirs) for mine, theirs in zip(self.shape, shape, strict=True))
        if self.classes != classes or not fits:
            sizes = ["×".join("any" if n is None else str(n) for n in one) for one in (self.shape, shape)]
            raise MmardError(
                f"{self.what} is for {self.classes} classes and images of {sizes[0]}, the data has {classes} and {sizes[1]}; "
                "name its data: data.name=..., data.size=..."
            )

    def must_answer(self) -> None:
        """Run the model on two grey images, where it says their size, so that a broken graph is known early.

        Raises:
            MmardError: where it fails.
        """
        sizes = [n for n in self.shape if n is not None]
        if len(sizes) == 3 and math.prod(sizes) <= PROBED:
            self(torch.full((2, *sizes), 0.5))

    def extra_repr(self) -> str:
        return f"onnxruntime {self.version}"

    def forward(self, x: Tensor) -> Tensor:
        pixels = x.detach().to("cpu", torch.float32).contiguous().numpy()
        try:
            (logits,) = self.session.run(None, {self.session.get_inputs()[0].name: pixels})
        except Exception as e:  # a kind of its own for each fault
            size = "×".join(map(str, x.shape[1:]))
            words = f"{self.what} fails on a batch of {len(x)} images of {size}: {first_line(e)}"
            cure = "is its batch fixed inside? export it with a dynamic one"
            if None in self.shape:
                cure = f"images of another size or number of channels? name them: data.size=..., data.channels=...; or {cure}"
            raise MmardError(f"{words}; {cure}") from e
        return torch.from_numpy(logits).to(x.device)


def _metadata(properties: dict[str, str]) -> dict[str, Any]:
    """Read the properties that `mmard export` wrote, each as JSON; none where the file is from elsewhere."""
    if "mmard" not in properties:
        return {}
    try:
        return {key: parse_json(value, key) for key, value in properties.items()}
    except MmardError as e:
        raise MmardError(f"the properties in the ONNX file are damaged ({first_line(e)}); export it again") from e
