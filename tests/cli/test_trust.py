"""Somebody's run folder, weights or recipe: what it names is not run, fetched or read without the user's word."""

import html
import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import QUICK, Run, small_net

import mmard as package
from mmard.api.artifacts import settings_and_formula_of
from mmard.api.build import may_be_read
from mmard.api.settings import read_settings
from mmard.models.cards import load_model
from mmard.models.tensor_files import load_tensors, save_tensors
from mmard.models.weights import metadata_of, save_weights
from mmard.runs.folder import RunFolder
from mmard.study.grid import cells_of
from mmard.study.jobs import jobs_of
from mmard.study.spec import Evaluation, read_study
from mmard.study.worker import as_dict, run_job
from mmard.utils import trust as trust_module
from mmard.utils.errors import MmardError
from mmard.utils.trust import Trust

SHORT = [*QUICK, "student=cnn-2-1", "train.epochs=1"]
MINE = "from pathlib import Path\nfrom mmard.methods import pgd_at\nPath('imported').touch()\n\ndef build():\n    return pgd_at()\n"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on the digits."""
    settings = dict(word.split("=") for word in SHORT)
    overrides = {key.replace(".", "__"): yaml.safe_load(value) for key, value in settings.items()}
    return package.train(method="pgd_at", out=str(tmp_path_factory.mktemp("made") / "run"), **overrides).path


@pytest.fixture
def foreign(trained: Path, tmp_path: Path) -> Path:
    """The run as somebody else hands it over: its settings name a command of the system."""
    run = tmp_path / "foreign"
    shutil.copytree(trained, run)
    plant(run, method={"name": "os:system", "command": f"touch {tmp_path / 'canary'}"})
    return run


def plant(run: Path, **changes: Any) -> None:
    """Change the settings of a run folder and of its weights."""
    settings = yaml.safe_load((run / "settings.yaml").read_text())
    for key, value in changes.items():
        settings[key] = {**settings[key], **value} if isinstance(settings[key], dict) else value
    (run / "settings.yaml").write_text(yaml.safe_dump(settings))
    for name in ("best", "last"):
        weights = run / f"{name}.safetensors"
        tensors, header = load_tensors(weights)
        save_tensors(weights, tensors, header | {"facts": json.dumps({**metadata_of(weights), "settings": settings})})


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    (line,) = done.stderr.strip().splitlines()
    assert done.returncode == 2, done.stdout + done.stderr
    for word in words:
        assert word in line


@pytest.mark.parametrize("command", ["report", "eval", "show", "export"])
def test_reading_a_folder_runs_nothing_of_it(mmard: Run, foreign: Path, tmp_path: Path, command: str) -> None:
    if command == "export":
        pytest.importorskip("onnxscript")
    attacks = ["--attacks", "none", "--checks", "none", "--examples", "0"] if command == "eval" else []
    done = mmard(command, foreign, *attacks)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "canary").exists()
    if command == "show":
        assert "CE(S(x'), y)" in done.stdout  # the formula of the training, which the folder keeps
    if command == "eval":
        assert "CE(S(x'), y)" in (foreign / "README.md").read_text()
    if command == "report":
        assert "CE(S(x'), y)" in html.unescape((foreign / "report.html").read_text())


@pytest.mark.parametrize(
    "words",
    [
        ["diagnose", "RUN", "--teacher", "RUN"],
        ["bench", "RUN"],
        ["train", "RUN", "--resume"],
        ["train", "RUN", "--out", "again"],
        ["train", "RUN/settings.yaml", "--out", "again"],
    ],
)
def test_building_a_foreign_method_asks_first(mmard: Run, foreign: Path, tmp_path: Path, words: list[str]) -> None:
    done = mmard(*(word.replace("RUN", str(foreign)) for word in words))
    refused(done, "os:system", "--trust")
    assert not (tmp_path / "canary").exists()
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize(
    "method",
    [
        "awp(mmard(os:system))",
        {"name": "mmard", "base": "os:system"},
        {"name": "awp", "base": {"name": "igdm", "base": {"name": "os:system", "command": "touch canary"}}},
        {"name": "mmard(subprocess:getoutput)"},
    ],
)
def test_methods_within_methods_ask_too(mmard: Run, tmp_path: Path, method: Any) -> None:
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"method": method}))
    refused(mmard("train", "recipe.yaml"), "--trust", "os:system" if "os:" in str(method) else "subprocess:getoutput")
    assert not (tmp_path / "canary").exists()
    assert "not built" in mmard("show", "recipe.yaml").stdout


def test_what_the_user_names_himself_needs_no_word(mmard: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    assert mmard("train", *SHORT, "--method", "mine.py:build", "--out", "run").returncode == 0
    (tmp_path / "imported").unlink()
    refused(mmard("train", "run", "--resume"), "mine.py:build", "--trust")
    assert "CE(S(x'), y)" in mmard("show", "run").stdout  # as it was kept
    assert not (tmp_path / "imported").exists()
    for words in (["method=mine.py:build"], ["--method", "mine.py:build"], ["--trust"]):
        assert mmard("train", "run", "--resume", *words).returncode == 0, words
    within = ["method.name=awp", "method.base=mine.py:build"]
    assert mmard("train", *SHORT, *within, "--out", "within").returncode == 0


def test_in_python_an_argument_is_the_callers_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"method": "mine.py:build", "student": "cnn-2-1"}))
    short: dict[str, Any] = {"train__epochs": 1, "data__limit": 300, "attack__steps": 1, "validation__steps": 1}
    with pytest.raises(MmardError, match="trust=True"):
        package.train("recipe.yaml", **short, out="run")
    assert not (tmp_path / "imported").exists()
    package.train("recipe.yaml", **short, out="run", trust=True)
    package.train(method="mine.py:build", student="cnn-2-1", **short, out="other")


def test_a_teacher_recipe_is_no_way_round(mmard: Run, tmp_path: Path) -> None:
    (tmp_path / "lesson.yaml").write_text(
        yaml.safe_dump({"method": {"name": "os:system", "command": "touch canary"}, "student": "cnn-2-1"})
    )
    done = mmard("train", *SHORT, "teacher=runs/teacher", "teacher_recipe=lesson.yaml", "--out", "run")
    refused(done, "os:system")
    assert not (tmp_path / "canary").exists()


def test_a_study_asks_once_for_all_its_cells(mmard: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    settings = dict(word.split("=") for word in SHORT)
    study = {
        "out": "out",
        "settings": settings,
        "grid": {"method": ["pgd_at", "mine.py:build"]},
        "evaluate": {"attacks": "none"},
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    refused(mmard("study", "study.yaml", "--dry-run"), "mine.py:build", "--trust")
    assert not (tmp_path / "imported").exists()
    assert mmard("study", "study.yaml", "--trust", "--dry-run").returncode == 0
    jobs = jobs_of(cells := cells_of(read_study("study.yaml", trust=True)), Evaluation(attacks="none"))
    cell = json.loads(json.dumps(as_dict(jobs[1])))  # as its process reads it
    assert run_job(cell) is None
    assert cells[1].folder.formula()
    for own in ([], ["mine.py:build"]):
        error = run_job(
            {**cell, "settings": {**cell["settings"], "out": "again"}, "trust": {"everything": False, "own": own}}
        )
        assert (error is None) == bool(own)


def test_an_old_folder_shows_our_formula_and_only_the_name_of_others(
    foreign: Path, trained: Path, tmp_path: Path
) -> None:
    ours = tmp_path / "ours"
    shutil.copytree(trained, ours)
    for run in (ours, foreign):
        (run / "method.txt").unlink()
        metadata = {key: value for key, value in metadata_of(run / "best.safetensors").items() if key != "formula"}
        save_weights(run / "best.safetensors", load_model(run), metadata)
    assert "CE(S(x'), y)" in settings_and_formula_of(ours)[1]
    assert settings_and_formula_of(foreign)[1] == ""


def test_a_kept_formula_is_shown_as_text(foreign: Path) -> None:
    RunFolder(foreign).formula_file.write_text("```\n# not code\n\x1b[31m" + "a" * 20_000)
    formula = settings_and_formula_of(foreign)[1]
    assert formula.startswith("```\n# not code\n[31maaa")
    assert len(formula) <= 10_000


@pytest.fixture
def requests() -> Iterator[tuple[str, list[str]]]:
    """A server on this machine, and the paths that it is asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET  # noqa: N815, the name is the server's

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    "words", [["eval", "RUN"], ["export", "RUN"], ["diagnose", "RUN", "--teacher", "RUN"], ["train", "RUN", "--resume"]]
)
def test_weights_fetch_no_data(
    mmard: Run, trained: Path, tmp_path: Path, requests: tuple[str, list[str]], words: list[str]
) -> None:
    pytest.importorskip("datasets")
    pytest.importorskip("onnxscript")
    address, asked = requests
    run = shutil.copytree(trained, tmp_path / "theirs")
    plant(run, data={"name": "parquet", "train": f"{address}/train.parquet", "test": [f"{address}/test.parquet"]})
    command = [word.replace("RUN", str(run)) for word in words]
    refused(mmard(*command), f"data.train={address}/train.parquet", "--trust")
    assert asked == []
    if words[0] == "eval":
        refused(mmard(*command, f"data.train={address}/train.parquet"), f"data.test={address}/test.parquet")
        assert asked == []
        assert mmard(*command, "--trust").returncode == 2
        assert asked  # it is the user's own request now, and the server has nothing


def test_a_name_of_the_hub_in_a_header_is_no_request(
    mmard: Run, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    asked: list[str] = []

    def fetch(name: str, **_: object) -> None:
        asked.append(name)
        raise OSError("no network")

    monkeypatch.setattr(datasets, "load_dataset", fetch)
    run = shutil.copytree(trained, tmp_path / "theirs")
    plant(run, data={"name": "somebody/images"})
    refused(mmard("eval", run), "data.name=somebody/images", "--trust")
    assert asked == []
    refused(mmard("eval", run, "data.name=somebody/images"), "no network")
    assert asked == ["somebody/images"]
    refused(mmard("eval", run), "no network")  # the user has used it before
    assert len(asked) == 2


def test_weights_read_no_files_elsewhere(mmard: Run, trained: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained, tmp_path / "theirs")
    (tmp_path / "private").mkdir()
    (run / "link").symlink_to(tmp_path / "private")
    (run / "link1").symlink_to(tmp_path / "private")
    for kind, key, place, known in (
        ("npz", "train", tmp_path / "private/a.npz", False),
        ("npz", "train", run / "../private/a.npz", False),
        ("npz", "train", run / "link/a.npz", False),
        ("npz", "train", run / "a.npz", True),
        ("webdataset", "train", run / "link{1..1}/a.tar", False),
        ("imagefolder", "root", run / "images", False),  # with links in it, perhaps
        ("csv", "train", run / "a.csv", False),  # with paths
        ("parquet", "train", run / "a.parquet", False),
    ):
        plant(run, data={"name": kind, "root": None, "train": None, key: str(place)})
        with nullcontext() if known else pytest.raises(MmardError, match="trust=True"):
            may_be_read(read_settings(run))
    refused(mmard("eval", run), "data.train", "--trust")


def test_teachers_that_weights_name_are_not_loaded(
    mmard: Run, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []
    monkeypatch.setattr(
        "mmard.api.evaluation_target.load_teacher", lambda source, *_: loaded.append(str(source)) or small_net(10)
    )
    run = shutil.copytree(trained, tmp_path / "theirs")
    card = {"architecture": "cnn-2-1", "classes": 10, "channels": 1, "hub": {"repo": "a/b", "filename": "c"}}
    (run / "hub.json").write_text(json.dumps(card))
    del card["hub"]
    (run / "url.json").write_text(json.dumps({**card, "url": "https://127.0.0.1:9/w.pt"}))
    named = {"natural": str(run / "hub.json"), "far": str(run / "url.json"), "zoo": "robustbench:cifar10/Linf/Standard"}
    plant(run, teacher=str(tmp_path / "elsewhere"), teachers={**named, "own": str(run)})
    assert mmard("eval", run, "--attacks", "pgd-20", "--limit", "20", "--checks", "full").returncode in (0, 1)
    assert loaded == [str(run)]
    refused(mmard("train", run, "--out", "student"), "teacher", "--trust")
    assert not (tmp_path / "student").exists()


def test_what_this_user_trained_with_goes_on_without_a_word(mmard: Run, tmp_path: Path) -> None:
    """His own data and teacher, wherever they lie: train, judge, go on, diagnose; and the folder may be moved."""
    datasets, image = pytest.importorskip("datasets"), pytest.importorskip("PIL.Image")
    rows = {
        "image": [image.new("RGB", (8, 8), (12 * i, 9, 9)) for i in range(20)],
        "label": [i % 10 for i in range(20)],
    }
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    for name in ("train", "test"):
        datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "far" / f"{name}.parquet")
    data = ["data.name=parquet", f"data.train={tmp_path}/far/train.parquet", f"data.test={tmp_path}/far/test.parquet"]
    short = [
        "student=cnn-2-1",
        "train.epochs=1",
        "train.batch_size=4",
        "attack.steps=1",
        "validation.steps=1",
        "data.held_out=0.5",
    ]
    taught = ["method=rslad", "teacher=runs/teacher", "teacher_check=none", "out=runs/student"]
    assert mmard("train", *data, *short, "method=pgd_at", "out=runs/teacher").returncode == 0
    assert mmard("train", *data, *short, *taught).returncode == 0
    (tmp_path / "runs" / "student").rename(tmp_path / "runs" / "moved")
    for words in (["eval", "runs/moved", "--attacks", "none"], ["train", "runs/moved", "--resume"]):
        done = mmard(*words)
        assert done.returncode == 0, done.stderr


def test_where_nothing_can_be_remembered_the_process_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(trust_module, "_KNOWN", set())
    theirs = Trust(folder=tmp_path / "theirs")
    with pytest.raises(MmardError, match="teacher="):
        theirs.must_allow_place("runs/teacher", "teacher")
    Trust().must_allow_place("runs/teacher", "teacher")
    theirs.must_allow_place("runs/../runs/teacher", "teacher")


@pytest.mark.parametrize("name", ["../weights.pt", "/etc/hostname", "a/../../weights.pt", "~/weights.pt"])
def test_a_card_stays_in_its_folder(mmard: Run, tmp_path: Path, name: str) -> None:
    (tmp_path / "cards").mkdir()
    save_weights(tmp_path / "weights.pt", small_net(10))
    card = {"architecture": "cnn-4-2", "classes": 10, "channels": 1, "file": name}
    (tmp_path / "cards" / "card.json").write_text(json.dumps(card))
    refused(mmard("eval", "cards/card.json", "data.name=digits", "threat.eps=0.1"), name, "out of")


def test_an_exported_file_leads_to_no_network_elsewhere(
    mmard: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    monkeypatch.setattr(trust_module, "_KNOWN", set())
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    metadata = {"settings": {"data": {"name": "digits"}, "threat": {"eps": 0.1}}}
    save_weights(tmp_path / "a" / "net.safetensors", small_net(10), metadata)
    assert mmard("export", "a/net.safetensors", "--to", "b/net.onnx").returncode == 0
    words = ["eval", "b/net.onnx", "--attacks", "pgd-20", "--limit", "20", "--checks", "none"]
    assert mmard(*words).stderr == ""  # whoever exported it has its network found
    proto = onnx.load(str(tmp_path / "b" / "net.onnx"))
    other = tmp_path / "a" / "other.safetensors"
    shutil.copy(tmp_path / "a" / "net.safetensors", other)
    (source,) = [p for p in proto.metadata_props if p.key == "source"]
    source.value = json.dumps("../a/other.safetensors")
    onnx.save(proto, str(tmp_path / "b" / "net.onnx"))
    assert "outside of its folder" in mmard(*words).stderr
