"""What an evaluation was made with, and what its checks found, stands in scores.json, in the card and in the report."""

import html
import json
from importlib import metadata
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from handmade import make_run
from helpers import Run, small_net

from mmard.api.evaluation_target import versions
from mmard.models.weights import save_weights

MADE_WITH = ("mmard", "torch", "pyautoattack")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with weights that nobody has judged."""
    folder = make_run(tmp_path / "run")
    settings = {"data": {"name": "digits"}, "threat": {"eps": 0.4}}
    save_weights(folder / "best.safetensors", small_net(10), {"settings": settings})
    return folder


def scores_of(run: Path) -> dict[str, Any]:
    (file,) = run.glob("eval/*/scores.json")
    return json.loads(file.read_text())  # type: ignore[no-any-return]


def test_versions_seed_and_batch_size_are_kept_and_shown(run: Path, mmard: Run) -> None:
    words = ["--attacks", "fgsm", "--limit", "20", "--seed", "3", "--batch-size", "7", "--checks", "none"]
    done = mmard("eval", run, *words)
    assert done.returncode == 0, done.stderr
    assert mmard("report", run).returncode == 0
    found = {name: version(name) for name in MADE_WITH}
    assert scores_of(run)["versions"] == found
    assert len(scores_of(run)["test_images"]) == 64
    told = ", ".join(f"{name} {version}" for name, version in found.items())
    card, page = (run / "README.md").read_text(), (run / "report.html").read_text()
    assert f"Judged with {told}." in card
    assert f"Judged with {told}." in page
    assert "Seed of the attacks: 3. Images attacked at once: 7." in page


def test_a_foreign_onnx_that_square_alone_attacks_says_so_everywhere(run: Path, mmard: Run) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    assert mmard("export", run / "best.safetensors", "--to", run / "own.onnx").returncode == 0
    graph = onnx.load(run / "own.onnx")
    del graph.metadata_props[:]  # whose words are this package's
    onnx.save(graph, run / "foreign.onnx")
    words = ["data.name=digits", "threat.eps=0.4", "--attacks", "square", "--limit", "12", "--checks", "none"]
    done = mmard("eval", run / "foreign.onnx", *words)
    assert done.returncode == 0, done.stderr
    assert mmard("report", run).returncode == 0
    (check,) = [check for check in scores_of(run)["checks"] if check["name"] == "surrogate"]
    assert check["level"] == "warning"
    for file in ("README.md", "report.html"):
        text = (run / file).read_text()
        assert "Check surrogate." in text, file
        assert check["do"].rstrip(".") in html.unescape(text), file
        assert "Square" in text, file


def test_a_package_that_runs_from_its_source_is_said_to(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(
        metadata, "version", nowhere
    )  # a copy of src/ on another machine: the evaluation ends all the same
    assert versions() == dict.fromkeys(MADE_WITH, "from source")
