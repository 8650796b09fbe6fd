"""Links and pipes that somebody planted in a folder: nothing is written through them, and nothing waits for them."""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import pytest
import yaml
from helpers import QUICK, Run

import mmard
import mmard as package
from mmard.models.tensor_files import load_tensors
from mmard.models.weights import load_weights
from mmard.runs.folder import RunFolder
from mmard.utils.errors import MmardError
from mmard.utils.files import load_safely, read_json, sha256, write_text
from mmard.utils.safe_open import must_be_plain, open_to_append
from mmard.utils.text_files import read_text

SHORT = [*QUICK, "student=cnn-2-1", "train.epochs=1"]
SRC = Path(package.__file__).parent


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on the digits, judged once."""
    overrides = {key.replace(".", "__"): yaml.safe_load(value) for key, value in (word.split("=") for word in SHORT)}
    run = mmard.train(method="pgd_at", out=str(tmp_path_factory.mktemp("made") / "run"), **overrides)
    mmard.evaluate(run, "none", limit=20)
    return run.path


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Path]:
    """A file outside of the folder, which must stay as it is."""
    (tmp_path / "home").mkdir()
    path = tmp_path / "home" / "victim"
    path.write_text("precious")
    yield path
    assert path.read_text() == "precious"
    assert list(path.parent.iterdir()) == [path]


@pytest.fixture(autouse=True)
def _alarm() -> Iterator[None]:
    """Whoever waits for a pipe is woken, and the test fails."""

    def wake(_number: int, _frame: FrameType | None) -> None:
        raise AssertionError("it waits for a pipe")

    before = signal.signal(signal.SIGALRM, wake)
    signal.alarm(120)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    (line,) = done.stderr.strip().splitlines()
    assert done.returncode == 2, done.stdout + done.stderr
    for word in words:
        assert word in line


def test_a_link_in_the_place_of_a_temporary_file_is_not_followed(mmard: Run, run: Path, victim: Path) -> None:
    for name in (".report.html.part", ".README.md.part", ".scores.json.part", ".report.html.0.part"):
        (run / name).symlink_to(victim)
    assert mmard("report", run).returncode == 0
    assert mmard("eval", run, "--attacks", "none", "--limit", "20").returncode == 0


def test_a_link_in_the_place_of_a_result_is_replaced(mmard: Run, run: Path, victim: Path) -> None:
    for name in ("report.html", "README.md", "model.onnx"):
        (run / name).unlink(missing_ok=True)
        (run / name).symlink_to(victim)
    assert mmard("report", run).returncode == 0
    assert not (run / "report.html").is_symlink()


@pytest.mark.parametrize("name", [".lock", "metrics.jsonl"])
def test_nothing_is_appended_through_a_link(mmard: Run, run: Path, victim: Path, name: str) -> None:
    (run / name).unlink()
    (run / name).symlink_to(victim)
    if name == ".lock":
        refused(mmard("train", run, "--resume"), str(run / name), "link")
    with pytest.raises(MmardError, match="link"):
        RunFolder(run).append({"step": 1}) if name == "metrics.jsonl" else RunFolder(run).lock()


@pytest.mark.parametrize(("folder", "command"), [("eval", ["eval", "RUN", "--attacks", "none", "--limit", "20"])])
def test_results_stay_in_the_folder(mmard: Run, run: Path, victim: Path, folder: str, command: list[str]) -> None:
    shutil.rmtree(run / folder)
    (run / folder).symlink_to(victim.parent)
    refused(mmard(*(word.replace("RUN", str(run)) for word in command)), "leads out of", str(victim.parent))


@pytest.mark.parametrize(
    "name", ["checkpoint.pt", "settings.yaml", "metrics.jsonl", "best.safetensors", "method.txt", ".lock"]
)
def test_no_command_waits_for_a_pipe(mmard: Run, run: Path, name: str) -> None:
    (run / name).unlink()
    os.mkfifo(run / name)
    resumed = mmard("train", run, "--resume")
    assert resumed.returncode == (0 if name == "best.safetensors" else 2), resumed.stderr
    if resumed.returncode:
        assert len(resumed.stderr.strip().splitlines()) == 1
        assert str(run / name) in resumed.stderr or name == "settings.yaml"
    for words in (["report", run], ["eval", run, "--attacks", "none", "--limit", "20"], ["show", run]):
        assert mmard(*words).returncode in (0, 2)


def test_an_evaluation_that_is_a_pipe_is_left_out_of_a_report(mmard: Run, run: Path) -> None:
    (scores,) = run.glob("eval/*/scores.json")
    for name in ("scores.json", "verdicts.safetensors", "curve.json"):
        (scores.parent / name).unlink(missing_ok=True)
        os.mkfifo(scores.parent / name)
    done = mmard("report", run)
    assert done.returncode == 0, done.stderr
    assert f"{scores} is no plain file but a pipe" in done.stdout


@pytest.mark.parametrize(
    "read", [load_safely, sha256, read_json, read_text, load_tensors, load_weights, must_be_plain, open_to_append]
)
def test_every_reader_says_what_a_pipe_and_a_folder_are(tmp_path: Path, read: Callable[[Path], object]) -> None:
    pipe, folder = tmp_path / "pipe.safetensors", tmp_path / "folder.safetensors"
    os.mkfifo(pipe)
    folder.mkdir()
    for path, kind in ((pipe, "a pipe"), (folder, "a folder")):
        with pytest.raises(MmardError, match=kind):
            read(path)


def test_a_file_that_is_written_anew_has_the_rights_of_a_new_one(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        write_text(tmp_path / "a", "text")
    finally:
        os.umask(old)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


OPENS = re.compile(
    r"safe_open\(|load_file\(|torch\.load\(|np\.load|pickle\.loads?\(|yaml\.(unsafe_|full_)?load\(|(?<!def)[^_\w.]open\(|\.open\(\""
)


def test_files_are_opened_in_the_few_places_that_look_first() -> None:
    sources = {path.relative_to(SRC).as_posix(): path.read_text() for path in SRC.rglob("*.py")}
    found = {name for name, text in sources.items() if OPENS.search(text)}
    # A picture is one that `Path.is_file` has seen, the details of an unexpected error go to a file that is new, an archive and
    # an .npz file are looked at before they are opened, and a download's part lies in a folder of its own.
    assert found <= {
        "utils/files.py", "utils/checkpoint_digest.py", "utils/text_files.py", "models/tensor_files.py", "report/pictures.py",
        "cli/crash_report.py", "utils/safe_open.py", "runs/archive.py",
        "data/npz.py", "utils/download.py",
    }  # fmt: skip
    text = "".join(sources.values())
    assert text.count("torch.load(") == text.count("weights_only=True") == 1
    assert "class _Loader(yaml.SafeLoader)" in sources["utils/text_files.py"]
    assert not re.search(r"allow_pickle=True|weights_only=False|trust_remote_code(?!=False|`)", text)
    runs_code = {name for name, source in sources.items() if re.search(r"[^_\w.](eval|exec)\(", source)}
    assert runs_code == {"utils/foreign_code.py"}  # the user's own, vouched for
