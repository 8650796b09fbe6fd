"""Quantisation of a float ONNX graph to 8 bits, by onnxruntime's static quantisation."""

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmard.models.onnx_export import INPUT
from mmard.utils.errors import MmardError, first_line

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
HOW = "static QDQ: activations uint8 with ranges from calibration (min and max), weights int8 of 7 bits per channel, logits float"


def quantised(proto: Any, images: Tensor, batch_size: int = 64) -> Any:
    """Quantise convolutions and matrix products of a graph to 8 bits (QDQ format); returns an `onnx.ModelProto`.

    Weights have 7 of their 8 bits, because CPUs without VNNI add products in 16 bits, which would overflow: so every CPU
    gives the evaluated numbers. The last layer's sums and what follows stay float: with 256 levels logits tie, and a tie is no
    verdict.

    Args:
        images: to calibrate the ranges by, (N, C, H, W) in [0, 1]; training images.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_static

    with tempfile.TemporaryDirectory() as folder, _quiet():
        ready, done = Path(folder, "ready.onnx"), Path(folder, "int8.onnx")
        try:
            _prepare(proto, ready)
            quantize_static(
                str(ready),
                str(done),
                _reader(images, batch_size),
                per_channel=True,
                reduce_range=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm"]},
            )
            return _end_in_float(onnx.load(str(done)))
        except Exception as e:  # of whatever kind: the model stays float
            raise MmardError(f"the model cannot be quantised: {first_line(e)}; export it without --int8") from e


def _end_in_float(model: Any) -> Any:
    """Take the quantisation off all that comes after the last convolutions and matrix products of a graph."""
    from onnx import helper

    graph = model.graph
    made = {name: node for node in graph.node for name in node.output}
    waiting, plain, after = [output.name for output in graph.output], dict[str, str](), list[Any]()
    while waiting:
        name = waiting.pop()
        node = made.get(name)
        if node is None or node.op_type in WEIGHTED or node in after:
            continue
        before = made.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if before is not None and before.op_type == "QuantizeLinear":
            plain[name] = before.input[0]
            waiting.append(before.input[0])
        else:
            after.append(node)
            waiting += node.input
    for node in after:
        for i, name in enumerate(node.input):
            node.input[i] = plain.get(name, name)
    for output in graph.output:
        if output.name in plain:
            graph.node.remove(made[output.name])
            graph.node.append(helper.make_node("Identity", [plain[output.name]], [output.name]))
    return model


def _prepare(proto: Any, ready: Path) -> None:
    """Fold and simplify a graph; without inferring symbolic shapes where its operations are beyond that."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    given = ready.with_name("given.onnx")
    given.write_bytes(proto.SerializeToString())
    try:
        quant_pre_process(str(given), str(ready))
    except Exception:  # of whatever kind: it says itself that it does not know every operation
        quant_pre_process(str(given), str(ready), skip_symbolic_shape=True)


def _reader(images: Tensor, batch_size: int) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """A calibration reader that gives the images batch by batch, once."""

        def __init__(self) -> None:
            self.batches = iter(torch.split(images, batch_size))

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self.batches, None)
            return None if batch is None else {INPUT: batch.contiguous().numpy()}

    return Reader()


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the quantiser's log."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
