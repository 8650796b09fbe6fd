"""What is wrong with a model is told before images are decoded: here hardly one of them can be."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import small_net

import mmard
from mmard import MmardError
from mmard.models.weights import save_weights

pytest.importorskip("datasets")
Image = pytest.importorskip("PIL.Image")


@pytest.fixture
def broken(tmp_path: Path) -> dict[str, Any]:
    """Four classes of coloured pictures, of which all are cut short but the first of each part."""
    whole = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)).save(whole, "png")
    for part in ("train", "test"):
        for name in "abcd":
            (tmp_path / "data" / part / name).mkdir(parents=True)
            for i in range(5):
                size = None if (name, i) == ("a", 0) else 120
                (tmp_path / "data" / part / name / f"{i}.png").write_bytes(whole.getvalue()[:size])
    return {"data__name": "imagefolder", "data__root": str(tmp_path / "data")}


def kept(at: Path, classes: int = 4, channels: int = 3) -> Path:
    save_weights(at / "net.safetensors", small_net(classes, channels))
    return at / "net.safetensors"


def damaged(at: Path) -> Path:
    content = bytearray(kept(at).read_bytes())
    content[-3] ^= 8
    (at / "net.safetensors").write_bytes(content)
    return at / "net.safetensors"


def of_another_architecture(at: Path) -> Path:
    card = {"architecture": "resnet-18", "classes": 4, "file": kept(at).name}
    (at / "card.json").write_text(json.dumps(card))
    return at / "card.json"


def of_other_classes_by_its_card(at: Path) -> Path:

    torch.save(small_net(7, 3).net.state_dict(), at / "net.pt")
    (at / "card.json").write_text(json.dumps({"architecture": "cnn-4-2", "classes": 7, "file": "net.pt"}))
    return at / "card.json"


FAULTS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "classes": (lambda at: kept(at, classes=7), "has 7 classes, the data 4"),
    "channels": (
        lambda at: kept(at, channels=1),
        "has 4 classes and 1 channels, the data 4 and 3; data.channels=1 makes",
    ),
    "damage": (damaged, "its contents do not match the digest"),
    "architecture": (of_another_architecture, "the card .* says"),
    "a card's classes": (of_other_classes_by_its_card, "has 7 classes, the data 4"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_model_s_fault_is_told_first(fault: str, broken: dict[str, Any], tmp_path: Path) -> None:
    make, said = FAULTS[fault]
    model = make(tmp_path)
    with pytest.raises(MmardError, match=said):
        mmard.evaluate(model, "none", **broken)
    with pytest.raises(MmardError, match=said):
        mmard.train(teacher=str(model), out=str(tmp_path / "run"), student="cnn-2-1", **broken)
    assert not (tmp_path / "run/settings.yaml").exists()


def test_without_a_fault_the_images_are_what_is_wrong(broken: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(MmardError, match="cannot be decoded"):
        mmard.evaluate(kept(tmp_path), "none", **broken)


def test_an_exported_model_that_does_not_answer_is_told_first(broken: dict[str, Any], tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper = onnx.helper
    nodes = [helper.make_node("Reshape", ["x", "one"], ["row"]), helper.make_node("MatMul", ["row", "w"], ["logits"])]
    ports = [helper.make_tensor_value_info(name, 1, shape) for name, shape in
             (("x", ["n", 3, 8, 8]), ("logits", ["n", 4]))]  # fmt: skip
    constants = [
        onnx.numpy_helper.from_array(np.array([1, 192]), "one"),
        onnx.numpy_helper.from_array(np.zeros((192, 4), np.float32), "w"),
    ]
    graph = helper.make_graph(nodes, "net", ports[:1], ports[1:], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), tmp_path / "n.onnx")
    with pytest.raises(MmardError, match=r"fails on a batch of 2 images of .*is its batch fixed inside"):
        mmard.evaluate(tmp_path / "n.onnx", "none", **broken)
