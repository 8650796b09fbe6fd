"""Exported files of every format: they agree with the network, name no folder of this machine, and are measured."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import QUICK, Run, small_net
from torch import nn

import mmard
from mmard import MmardError
from mmard.api.export import export
from mmard.api.measure import measure
from mmard.models.architectures import Architecture, Classifier
from mmard.models.formats import FORMATS, open_exported, program_of
from mmard.models.onnx_export import compare
from mmard.models.weights import save_weights
from mmard.report.card import card
from mmard.report.export_table import export_table
from mmard.runs.exports import (
    EXPORTS,
    Accuracy,
    ExportRecord,
    ExportRow,
    Timing,
    keep_exports,
    lost_accuracy,
    read_exports,
)
from mmard.runs.record import read_run
from mmard.utils.files import sha256

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
EXTRA = [pytest.param(name, marks=pytest.mark.extra) for name in ("openvino", "executorch")]
PACKAGES = {"onnx": "onnx", "openvino": "openvino", "executorch": "executorch.exir", "torch": "torch"}
HERE = (Path(mmard.__file__).parent, Path(sys.prefix), Path.home(), Path(torch.__file__).parent)


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Weights for digits, in a folder of their own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mmard.api.measure.all_threads", lambda: 1)
    path = tmp_path / "net.safetensors"
    settings = {"data": {"name": "digits"}, "threat": {"eps": 0.1, "norm": "linf"}, "out": str(tmp_path / "run")}
    save_weights(path, small_net(classes=10), {"settings": settings})
    return path


def test_every_format_is_tried() -> None:
    assert PACKAGES.keys() == FORMATS.keys()


@pytest.mark.parametrize("name", ["onnx", "torch", *EXTRA])
def test_a_file_agrees_with_the_network_and_names_no_folder_of_this_machine(name: str, weights: Path) -> None:
    pytest.importorskip(PACKAGES[name])
    done = export(weights, format=name)
    assert done.path == weights.with_name(f"net{FORMATS[name].suffix}")
    assert done.comparison.largest < 1e-5
    net, x = mmard.load_model(weights), torch.rand(70, 1, 8, 8)  # more than an ExecuTorch program takes at once
    for count in (1, 2, 33, 70):
        assert compare(net, open_exported(done.path, "it"), x[:count]).largest < 1e-5
    content = b"".join(file.read_bytes() for file in weights.parent.glob("net.*") if file != weights)
    assert [place for place in (weights.parent, *HERE) if os.fsencode(place) in content] == []
    if name != "executorch":  # whose text is packed
        assert (
            b'"0", "1", "2"' in content or b"&quot;0&quot;, &quot;1&quot;" in content or b'\\"0\\", \\"1\\"' in content
        )
    with pytest.raises(MmardError, match=r"exists already; choose another name \(--to FILE.*--force"):
        export(weights, format=name)
    before = done.path.stat().st_mtime_ns
    assert export(weights, format=name, force=True).path.stat().st_mtime_ns > before


@pytest.mark.extra
def test_an_int8_file_of_openvino_is_what_onnx_is(weights: Path) -> None:
    pytest.importorskip("openvino")
    done = export(weights, int8=True, format="openvino", calibration=64)
    eight = export(weights, int8=True, calibration=64)
    x = torch.rand(40, 1, 8, 8)
    assert compare(open_exported(eight.path, "it"), open_exported(done.path, "it"), x).largest < 0.05
    assert 0 < done.comparison.largest < 0.5


@pytest.mark.parametrize("name", ["onnx", "torch", EXTRA[0]])
def test_a_file_of_any_size_takes_another_size(name: str, weights: Path) -> None:
    pytest.importorskip(PACKAGES[name])
    done = export(weights, format=name, dynamic_size=True)
    assert done.metadata["sizes"].endswith("tried: 8×8 and 16×16")
    net, runtime = mmard.load_model(weights), open_exported(done.path, "it")
    for size in (8, 12, 31):
        assert compare(net, runtime, torch.rand(3, 1, size, size)).largest < 1e-5


FIXED = [
    ([nn.Flatten(), nn.Linear(64, 10)], "flat takes images of one size only"),
    (
        [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4, 10)],
        "what the exporter makes of flat takes images of one size",
    ),
]


@pytest.mark.parametrize(("layers", "words"), FIXED)
def test_a_network_of_one_size_says_so(
    layers: list[nn.Module], words: str, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = Classifier(nn.Sequential(*layers), Architecture(name="flat", classes=10, channels=1)).eval()
    monkeypatch.setattr("mmard.api.evaluation_target.load_model", lambda *_, **__: net)
    with pytest.raises(MmardError, match=rf"^{words}.* \(.*; export it without --dynamic-size$"):
        export(weights, dynamic_size=True)
    assert not weights.with_name("net.onnx").exists()


def test_a_program_forgets_the_lines_of_code_it_was_made_of() -> None:
    program = program_of(small_net(), (8, 8))
    noted = {key for node in program.graph.nodes for key in node.meta}
    assert noted <= {"val", "tensor_meta"}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--format", "tflite"], "unknown format 'tflite'; known: executorch, onnx, openvino, torch"),
        (["--format", "torch", "--int8"], "int8 does not go with format torch; expected one of onnx, openvino"),
        (
            ["--format", "torch", "--to", "a.onnx"],
            "a.onnx is no name for a torch.export file; expected one that ends in .pt2",
        ),
        (["--format", "openvino"], "--format openvino needs more packages"),
    ],
)
def test_a_wrong_format_is_one_line(
    words: list[str], expected: str, weights: Path, mmard: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)  # as if it were not installed
    done = mmard("export", "net.safetensors", *words)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert expected in done.stderr


def test_an_export_is_measured_with_its_network_and_teacher_and_the_card_has_the_table(
    tmp_path: Path, mmard: Run, digits_teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmard.api.measure.all_threads", lambda: 1)
    quick = [word for word in QUICK if "epochs" not in word]
    done = mmard("train", *quick, "train.epochs=1", "--method", "rslad", "--teacher", digits_teacher, "--out", "r")
    assert done.returncode == 0, done.stderr
    done = mmard("export", "r", "--images", "20")
    assert done.returncode == 0, done.stderr
    for said in ("model.onnx", "network", "teacher", "1 image, 1 thread, ms", "PGD-20, %", "are of 20 test images"):
        assert said in done.stdout, said
    record = read_exports(tmp_path / "r")
    assert record is not None
    network, file, teacher = record.rows
    assert (network.clean, network.robust) == (file.clean, file.robust)  # the same network up to rounding
    assert teacher.clean is not None
    assert file.megabytes == (tmp_path / "r/model.onnx").stat().st_size / 1e6
    assert file.peak_mib is not None
    assert 10 < file.peak_mib < 4000
    assert {"1", "32"} == file.latency["1"].keys()
    text = (tmp_path / "r/README.md").read_text()
    assert "## Exported\n\n|  | network | model.onnx | teacher |" in text
    assert os.fsencode(tmp_path) not in (tmp_path / "r" / EXPORTS).read_bytes() + text.encode()
    (tmp_path / "r" / EXPORTS).write_text("{")  # of a folder of somebody else's
    assert "## Exported" not in card(read_run(tmp_path / "r", "r"))


def test_measuring_can_be_left_out_and_needs_no_threat(weights: Path, mmard: Run) -> None:
    done = mmard("export", "net.safetensors", "--no-measure")
    assert (done.returncode, "PGD-20" in done.stdout) == (0, False), done.stderr
    save_weights(weights, small_net(classes=10), {"settings": {"data": {"name": "digits"}}})
    with pytest.warns(UserWarning, match="was not exported from .*net.safetensors"):
        found = measure(weights, "net.onnx", images=20)  # which are other weights now
    assert [(row.name, row.robust) for row in found.rows] == [("network", None), ("net.onnx", None)]
    assert not (weights.parent / EXPORTS).exists()  # no run folder


@pytest.mark.slow
def test_a_run_of_a_module_and_arrays_is_exported_and_measured_with_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mmard.api.measure.all_threads", lambda: 1)
    generator = torch.Generator().manual_seed(0)
    data = torch.rand(80, 3, 8, 8, generator=generator), torch.arange(80) % 3
    student, teacher = (nn.Sequential(nn.Flatten(), nn.Linear(192, 3)) for _ in range(2))
    how: dict[str, Any] = {"teacher_check": "none", "train__batch_size": 20}
    run = mmard.distill(student, teacher, data, "rslad", epochs=1, out="r", **how)
    with pytest.raises(MmardError, match="given by a Python program"):
        export(run, module=student)
    with pytest.raises(MmardError, match="module=MODULE"):
        export(run, data=data)
    done = export(run, int8=True, module=student, data=data)
    assert done.path == tmp_path / "r/model-int8.onnx" or done.path == Path("r/model-int8.onnx")
    assert done.metadata["quantisation"].endswith("65 training images, seed 0")
    found = measure(run, done.path, module=student, data=data)
    assert [row.name for row in found.rows] == ["network", "model-int8.onnx"]
    assert (found.images, found.data, len(found.test_images)) == (8, "images given in Python", 64)
    assert found.threat == "L∞ 8/255"
    assert (tmp_path / "r" / EXPORTS).exists()


def record_of(*files: Path, images: int = 20, **told: str) -> ExportRecord:
    """A record of files, as if they had been measured."""
    time = Timing(median=0.123, p95=45.6, runs=9)
    row: dict[str, Any] = {"latency": {"1": {"1": time}}, "clean": Accuracy(value=50, low=40, high=60)}
    rows = [ExportRow(name=f.name, file=f.name, sha256=sha256(f), **row) for f in files]
    return ExportRecord(mmard="1", cpu="c", threads=1, images=images, rows=[ExportRow(name="network"), *rows], **told)


def test_a_later_measurement_keeps_what_still_is_as_it_was(tmp_path: Path) -> None:
    a, b = tmp_path / "a.onnx", tmp_path / "b.onnx"
    a.write_text("a")
    b.write_text("b")
    keep_exports(tmp_path, record_of(a))
    assert [row.name for row in keep_exports(tmp_path, record_of(b)).rows] == ["network", "a.onnx", "b.onnx"]
    a.write_text("another")
    assert [row.name for row in keep_exports(tmp_path, record_of(b)).rows] == ["network", "b.onnx"]
    keep_exports(tmp_path, record_of(a))
    whole = keep_exports(tmp_path, record_of(b, images=30))  # measured otherwise
    assert [row.name for row in whole.rows] == ["network", "b.onnx"]
    cells = {row[0].text: [cell.text for cell in row[1:]] for row in export_table(whole).rows}
    assert cells["1 image, 1 thread, ms"] == ["–", "0.12 / 46"]
    assert cells["clean, %"] == ["–", "50.0 (40–60)"]
    assert "1 image, 1 threads, ms" not in cells
    assert json.loads((tmp_path / EXPORTS).read_text())["images"] == 30


def test_one_table_has_figures_of_one_test_set(tmp_path: Path) -> None:
    """As many images of another file stood beside the first file's; which they are, a digest of them says."""
    a, b = tmp_path / "a.onnx", tmp_path / "b.onnx"
    a.write_text("a")
    b.write_text("b")
    keep_exports(tmp_path, record_of(a, data="one", test_images="x"))
    whole = keep_exports(tmp_path, record_of(b, data="one", test_images="x"))
    assert [row.name for row in whole.rows] == ["network", "a.onnx", "b.onnx"]
    other = keep_exports(tmp_path, record_of(b, data="other", test_images="y"))
    assert [row.name for row in other.rows] == ["network", "b.onnx"]
    assert "20 test images (other), in brackets" in export_table(other).note
    keep_exports(tmp_path, record_of(a))  # of an older version, which did not say
    whole = keep_exports(tmp_path, record_of(b, data="one", test_images="x"))
    assert [row.name for row in whole.rows] == ["network", "b.onnx"]


@pytest.mark.parametrize(
    ("clean", "told"), [(88.0, None), (82.5, "model-int8.onnx loses 7.5 points of clean accuracy")]
)
def test_a_file_that_loses_much_accuracy_is_told_with_what_helps(clean: float, told: str | None) -> None:
    rows = [
        ExportRow(name=name, file=name, sha256=name, clean=Accuracy(value=value, low=value, high=value))
        for name, value in (("other.onnx", 10.0), ("model-int8.onnx", clean))
    ]
    network = ExportRow(name="network", clean=Accuracy(value=90, low=90, high=90))
    record = ExportRecord(mmard="1", cpu="c", threads=1, images=9, rows=[network, *rows])
    said = lost_accuracy(record, "model-int8.onnx")
    assert (said is None) == (told is None)
    assert said is None or (said.startswith(str(told)) and "--calibration 2048" in said)


def test_the_comparison_says_the_scale_of_the_logits() -> None:
    first, second = (nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False)) for _ in range(2))
    for net, weight in ((first, 2.0), (second, 1.5)):
        nn.init.constant_(net[1].weight, weight)
    found = compare(first, second, torch.ones(3, 1, 2, 2))
    assert (found.scale, found.largest) == (8.0, 2.0)
    assert str(found).startswith("logits of up to 8 differ by up to 2 (mean 2)")
