"""Studies with real processes: what fails, what is stopped, what is killed, and what goes on."""

import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers import Run, command

from mmard.models.weights import read_state
from mmard.runs.folder import RunFolder
from mmard.study.worker import run_job

TINY: dict[str, Any] = {
    "method": "standard",
    "student": "cnn-2-1",
    "data": {"name": "digits", "limit": 300},
    "train": {"epochs": 2, "batch_size": 50},
    "validation": {"steps": 2},
    "threat": {"eps": 0.1},
}
VALIDATION_BATCH = {"attacks": "fgsm", "limit": 40}


def write(path: Path, **keys: Any) -> None:
    path.write_text(yaml.safe_dump({"out": "runs/study", "evaluate": VALIDATION_BATCH, **keys}, sort_keys=False))


@pytest.fixture
def teacher_settings(tmp_path: Path) -> dict[str, Any]:
    """Settings of a pupil whose teacher has to be trained first."""
    (tmp_path / "teach.yaml").write_text(yaml.safe_dump(TINY))
    return {**TINY, "method": "rslad", "attack.steps": 1, "teacher": "runs/teacher", "teacher_recipe": "teach.yaml",
            "teacher_check": "none"}  # fmt: skip


def test_what_all_cells_want_and_is_not_there_is_one_line_before_the_first(mmard: Run, tmp_path: Path) -> None:
    grid = {"method": {"iad_2": "iad_2", "rslad": "rslad"}}
    natural = {"teachers.natural": "here/digits-teacher-natural", "teacher_check": "none"}
    write(tmp_path / "s.yaml", base="digits-rslad", settings=natural, grid=grid)
    done = mmard("study", "s.yaml")
    assert done.returncode == 2
    cure = "train it first: mmard train digits-teacher-natural out=here/digits-teacher-natural"
    assert done.stderr == f"error: cell iad_2/seed-0: no model at here/digits-teacher-natural yet; {cure}\n"
    gone = {"data.name": "parquet", "data.train": "gone-*.parquet", "data.test": "gone.parquet"}
    write(tmp_path / "s.yaml", base="digits-rslad", settings=gone, grid={"method": {"rslad": "rslad", "ard": "ard"}})
    assert mmard("study", "s.yaml", "--dry-run").returncode == 0
    done = mmard("study", "s.yaml")
    assert done.returncode == 2
    assert done.stderr.startswith(
        "error: teacher runs/digits-teacher: there is no file gone.parquet, which data.test names"
    )
    assert not (tmp_path / "runs").exists()


def test_a_cell_that_fails_is_listed_and_the_others_go_on(
    mmard: Run, teacher_settings: dict[str, Any], tmp_path: Path
) -> None:
    grid = {"size": {"fits": {}, "large [x]": {"train.batch_size": 9999}}, "method.alpha": [0.5]}
    write(tmp_path / "s.yaml", base=teacher_settings, grid=grid)
    before = mmard("study", "s.yaml", "--dry-run")
    assert before.returncode == 0
    assert before.stdout.count("new, after its teacher") == 2
    assert not (tmp_path / "runs").exists()
    done = mmard("study", "s.yaml", "--jobs", "2")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "failed: large--x-/0.5/seed-0: train.batch_size 9999 > 270 training images" in done.stdout
    assert "size" in (tmp_path / "runs/study/table.md").read_text()
    assert "**Not there yet:** large--x-/0.5/seed-0." in (tmp_path / "runs/study/table.md").read_text()
    assert "judging" in (tmp_path / "runs/study/fits/0.5/seed-0/log.txt").read_text()
    assert (tmp_path / "runs/teacher/last.safetensors").exists()
    verdicts = tmp_path / "runs/study/fits/0.5/seed-0/eval/best_FGSM_40-images/verdicts.safetensors"
    first = verdicts.stat().st_mtime_ns
    write(tmp_path / "s.yaml", base=teacher_settings, grid={**grid, "size": {"fits": {}}})
    again = mmard("study", "s.yaml")
    assert again.returncode == 0
    assert "1 runs in runs/study, 1 of them done" in again.stdout
    assert verdicts.stat().st_mtime_ns == first
    write(
        tmp_path / "s.yaml",
        base=teacher_settings,
        grid={**grid, "size": {"fits": {}}},
        evaluate={**VALIDATION_BATCH, "limit": 50},
    )
    assert "part" in mmard("study", "s.yaml", "--dry-run").stdout  # another evaluation is asked for
    write(tmp_path / "s.yaml", base=teacher_settings, grid=grid, settings={"train.lr": 0.3})
    changed = mmard("study", "s.yaml")
    assert changed.returncode == 2
    assert "other settings: train.lr: 0.1 → 0.3" in changed.stderr


LONG = {**TINY, "student": "cnn-4-2", "train": {"epochs": 40, "batch_size": 50}, "checkpoint_every": 2}
WORDS = ["study", "s.yaml", "--jobs", "1", "--threads", "1"]  # as many threads as these tests have


@pytest.mark.slow
def test_a_study_stopped_and_killed_goes_on_and_ends_bit_equal(mmard: Run, tmp_path: Path) -> None:
    write(tmp_path / "s.yaml", base=LONG)
    cut = tmp_path / "runs/study/seed-0"
    for sent, epochs in ((signal.SIGINT, 1), (signal.SIGKILL, 8)):
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        process = subprocess.Popen(command(*WORDS), cwd=tmp_path, preexec_fn=hears_ctrl_c, **pipes)
        end = time.monotonic() + 60
        while len(RunFolder(cut).metrics()) < epochs:
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < end
            time.sleep(0.01)
        worker = int((cut / ".lock").read_text())
        process.send_signal(sent)
        said = process.communicate(timeout=30)[0]
        if sent == signal.SIGINT:
            assert process.returncode == 130, said
            assert "stopped; the same command goes on" in said
        assert gone(worker)
    assert not (cut / "last.safetensors").exists()
    assert "part" in mmard("study", "s.yaml", "--dry-run").stdout
    assert mmard(*WORDS).returncode == 0
    settings = [f"{key}={json.dumps(value)}" for key, value in LONG.items()]
    assert mmard("train", *settings, "out=runs/whole").returncode == 0
    one, other = (read_state(folder / "last.safetensors") for folder in (tmp_path / "runs/whole", cut))
    assert all(torch.equal(one[k], other[k]) for k in one)


def hears_ctrl_c() -> None:
    """Also where the tests themselves run in the background, which makes them and their children deaf to it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def gone(pid: int) -> bool:
    """Does the process end within some seconds?"""
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


def test_a_job_waits_for_a_folder_that_is_just_being_left(tmp_path: Path) -> None:
    holder = RunFolder(tmp_path / "run")
    holder.lock()
    timer = threading.Timer(0.5, holder.close)
    begun = time.monotonic()
    timer.start()
    trust = {"everything": False, "own": []}
    error = run_job(
        {"settings": {**TINY, "student": "cnn-0-1", "out": str(tmp_path / "run")}, "evaluation": None, "trust": trust}
    )
    assert error is not None  # and it is not that of the folder
    assert "width and depth are at least 1" in error
    assert time.monotonic() - begun > 0.4


def test_two_studies_in_one_folder_are_one_line(mmard: Run, tmp_path: Path) -> None:
    write(tmp_path / "s.yaml", base=TINY)
    folder = RunFolder(tmp_path / "runs/study")
    folder.lock()
    done = mmard("study", "s.yaml")
    folder.close()
    assert done.returncode == 2
    assert "runs/study is in use by process" in done.stderr


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["study", "smok"], "unknown study 'smok'; did you mean smoke?"),
        (["study", "gone.yaml"], "cannot read gone.yaml"),
        (["study", "bad.yaml"], "cell seed-0: unknown method 'rslda'"),
        (["study", "attack.yaml"], "unknown attack 'fsgm'; did you mean fgsm?"),
        (["study", "bad.yaml", "--report-only"], "no cell is trained and judged yet"),
        (["results", "gone.md"], "cannot read gone.md"),
    ],
)
def test_a_wrong_word_is_one_line(words: list[str], expected: str, mmard: Run, tmp_path: Path) -> None:
    write(tmp_path / "bad.yaml", settings={"method": "rslda"})
    write(tmp_path / "attack.yaml", evaluate={"attacks": "fsgm"})
    done = mmard(*words)
    assert done.returncode == 2
    assert expected in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "runs").exists()
