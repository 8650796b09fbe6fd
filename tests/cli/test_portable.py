"""What is handed on names no folder, user or host of this machine, and a run still goes on here."""

import getpass
import json
import os
import platform
import re
import shutil
import socket
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import QUICK, Run, small_net

from mmard.api.push import push
from mmard.models.weights import metadata_of, save_weights
from mmard.runs.archive import records_in
from mmard.utils.portable_paths import bare, portable

SECRET = "home-of-somebody"
USER, HOST = "user-of-somebody", "host-of-somebody"


@pytest.fixture(autouse=True)
def somebody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give user and host names that stand nowhere by chance."""
    for name in ("USER", "LOGNAME", "USERNAME"):
        monkeypatch.setenv(name, USER)
    real = os.uname()
    monkeypatch.setattr(os, "uname", lambda: os.uname_result((real[0], HOST, *real[2:])))
    monkeypatch.setattr(platform, "node", lambda: HOST)
    for name in ("gethostname", "getfqdn"):
        monkeypatch.setattr(socket, name, lambda *_: HOST)
    assert (getpass.getuser(), socket.gethostname(), os.uname().nodename) == (USER, HOST, HOST)


def must_name_nothing(content: bytes, name: object, *places: Path) -> None:
    """Assert that a file names neither folders of this machine nor its user or host."""
    for word in (SECRET, USER, HOST, *map(str, places)):
        assert word.encode() not in content, (name, word)


@pytest.fixture
def far(tmp_path: Path) -> Path:
    """A folder outside of the one in which commands run."""
    path = tmp_path.parent / SECRET / tmp_path.name
    path.mkdir(parents=True)
    return path


@pytest.fixture
def data(far: Path) -> list[str]:
    """Parquet files in that folder, as settings."""
    datasets, image = pytest.importorskip("datasets"), pytest.importorskip("PIL.Image")
    rows = {"image": [image.new("RGB", (8, 8), (6 * i, 9, 9)) for i in range(40)], "label": [i % 10 for i in range(40)]}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    for name in ("train", "test"):
        datasets.Dataset.from_dict(rows, features=features).to_parquet(far / f"{name}.parquet")
    return [
        "data.name=parquet",
        f"data.train={far}/train.parquet",
        f"data.test=[{far}/test.parquet]",
        "data.held_out=0.5",
    ]


SHORT = [
    "student=cnn-2-1",
    "train.epochs=1",
    "train.batch_size=4",
    "attack.steps=1",
    "validation.steps=1",
    "teacher_check=none",
]


def test_a_run_and_what_is_made_of_it(
    mmard: Run, tmp_path: Path, far: Path, data: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher, run = far / "teacher.safetensors", far / "run"
    save_weights(teacher, small_net(10, channels=3, name="cnn-2-1"))
    assert mmard("train", *data, *SHORT, "method=rslad", f"teacher={teacher}", f"out={run}").returncode == 0
    assert mmard("eval", run, "--attacks", "pgd-20", f"data.train={far}/train.parquet").returncode == 0
    assert mmard("report", run, "--out", "page.html", "--also", "md,csv").returncode == 0
    (scores,) = run.glob("eval/*/scores.json")
    written = [
        run / "README.md",
        scores,
        *tmp_path.glob("page*"),
        *scores.parent.glob("*.json"),
        *run.glob("*.safetensors"),
    ]
    assert {path.suffix for path in written} >= {".md", ".json", ".html", ".csv", ".safetensors"}
    for path in written:
        must_name_nothing(path.read_bytes(), path, tmp_path)
    assert SECRET not in scores.parent.name
    told = metadata_of(run / "best.safetensors")["settings"]
    assert (told["teacher"], told["data"]["train"]) == ("teacher.safetensors", "train.parquet")
    assert told["data"]["test"] == ["test.parquet"]
    settings = yaml.safe_load((run / "settings.yaml").read_text())
    assert settings["data"]["train"] == f"{far}/train.parquet"  # which stays on this machine
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    for words in (["eval", run, "--attacks", "none"], ["train", run, "--resume"]):
        done = mmard(*words)
        assert done.returncode == 0, done.stderr


def test_an_exported_file(mmard: Run, tmp_path: Path, far: Path, data: list[str]) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    assert mmard("train", *data, *SHORT, "method=pgd_at", f"out={far}/run").returncode == 0
    assert mmard("export", far / "run", "--to", "model.onnx", "--no-measure").returncode == 0
    assert mmard("export", far / "run", "--format", "torch", "--no-measure").returncode == 0
    for path in (tmp_path / "model.onnx", *unzipped(far / "run/model.pt2", tmp_path / "parts")):
        must_name_nothing(path.read_bytes(), path, tmp_path)
    metadata = {p.key: json.loads(p.value) for p in onnx.load(str(tmp_path / "model.onnx")).metadata_props}
    assert metadata["source"] == "best.safetensors"
    words = ["model.onnx", "--attacks", "pgd-20", "--limit", "20", "--checks", "none", *data[1:3]]
    done = mmard("eval", *words)
    assert "float surrogate" not in done.stderr  # this user's file of this digest is found again
    assert done.returncode == 0, done.stderr
    assert "transfer" in done.stdout


def unzipped(file: Path, to: Path) -> list[Path]:
    """Unpack an archive, because names within are compressed."""
    with zipfile.ZipFile(file) as archive:
        archive.extractall(to)
    return [path for path in to.rglob("*") if path.is_file()]


def test_what_is_pushed(mmard: Run, tmp_path: Path, far: Path, data: list[str]) -> None:
    pytest.importorskip("onnxscript")
    assert mmard("train", *data, *SHORT, "method=pgd_at", f"out={far}/run").returncode == 0
    assert mmard("eval", far / "run", "--attacks", "none").returncode == 0
    assert mmard("export", far / "run", "--images", "20").returncode == 0
    files = push(far / "run", "me/net", dry_run=True).files
    assert {"README.md", "best.safetensors", "settings.yaml", "exports.json"} < set(files)
    for name, content in files.items():
        must_name_nothing(content, name, tmp_path)


def test_a_study_that_is_kept_beside_a_page(mmard: Run, tmp_path: Path, far: Path) -> None:
    teacher = far / "teacher.safetensors"
    save_weights(teacher, small_net(10, name="cnn-2-1"))
    settings = dict(word.split("=") for word in [*QUICK, "student=cnn-2-1", "train.epochs=1", "teacher_check=none"])
    grid = {"method": ["pgd_at", "rslad"]}
    study: dict[str, Any] = {"out": str(far / "mine"), "settings": {**settings, "teacher": str(teacher)}, "grid": grid}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump({**study, "evaluate": {"attacks": "none"}}))
    (tmp_path / "page.md").write_text("<!-- study: mine -->\n<!-- end of study -->\n")
    for method in grid["method"]:
        words = [f"{key}={value}" for key, value in settings.items()]
        run = far / "mine" / method / "seed-0"
        assert mmard("train", *words, f"teacher={teacher}", f"method={method}", f"out={run}").returncode == 0
        assert mmard("eval", run, "--attacks", "none").returncode == 0
    assert mmard("study", "study.yaml", "--report-only", "--into", "page.md").returncode == 0
    kept = records_in(tmp_path / "page/mine")
    assert (
        len(kept) == 14
    )  # the study, what it found and, of each run, layout, settings, metrics, formula, scores, verdicts
    kept["page.md"] = (tmp_path / "page.md").read_bytes()
    for name, content in kept.items():
        assert SECRET.encode() not in content, name
    shutil.rmtree(far / "mine")
    text = (tmp_path / "page.md").read_text()
    assert mmard("results", "page.md").returncode == 0  # from what is kept alone
    assert (tmp_path / "page.md").read_text() == text
    assert re.search(r"rslad", text)


def test_the_card_of_a_run_reads_no_teacher_that_this_user_does_not_know(mmard: Run, tmp_path: Path, far: Path) -> None:
    words = [*QUICK, "student=cnn-2-1", "train.epochs=1", "method=pgd_at", "out=run"]
    assert mmard("train", *words).returncode == 0
    (far / "secret.json").write_text(json.dumps({"architecture": "a-secret", "source": "s"}))
    settings = yaml.safe_load((tmp_path / "run" / "settings.yaml").read_text())
    (tmp_path / "run" / "settings.yaml").write_text(yaml.safe_dump({**settings, "teacher": str(far / "secret.json")}))
    assert mmard("eval", "run", "--attacks", "none").returncode == 0
    card = (tmp_path / "run" / "README.md").read_text()
    assert "`secret.json`" in card
    assert "a-secret" not in card


def test_paths_within_the_working_folder_stay_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    given = {
        "out": f"{tmp_path}/runs/a",
        "teacher": "runs/b",
        "x": ["~/c/d.json", "../e", "owner/name", "8/255", 3, None],
    }
    shown = {"out": "runs/a", "teacher": "runs/b", "x": ["d.json", "../e", "owner/name", "8/255", 3, None]}
    assert portable(given) == shown
    assert portable(shown) == shown
    assert bare(given["x"]) == ["d.json", "e", "name", "255", 3, None]
