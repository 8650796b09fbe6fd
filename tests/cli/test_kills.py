"""A run killed by SIGKILL at random moments goes on and ends bit-equal to one that was left alone."""

import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from helpers import QUICK, Run, command

from mmard.models.weights import read_state
from mmard.runs.folder import RunFolder

LONG = [
    *QUICK, "train.epochs=24", "student=cnn-4-3", "checkpoint_every=2",
    "data.augment=crop", "averaging.kind=ema", "averaging.decay=0.9",
]  # fmt: skip


def lines(file: Path) -> int:
    return len(file.read_text().splitlines()) if file.exists() else 0


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_bit_equal(mmard: Run, digits_teacher: Path, tmp_path: Path) -> None:
    words = ["train", *LONG, "--method", "mmard", "--teacher", digits_teacher]
    assert mmard(*words, "out=runs/whole").returncode == 0
    metrics, draw = tmp_path / "runs/cut/metrics.jsonl", random.Random(0)
    for epochs in (1, 5, 11, 18):  # wait until so many epochs are written, then for a random moment more
        with subprocess.Popen(
            command(*words, "out=runs/cut", "--resume"),
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            while lines(metrics) < epochs and process.poll() is None:
                time.sleep(0.002)
            time.sleep(draw.uniform(0, 0.1))
            assert process.poll() is None, "the run ended before it could be killed"
            process.kill()
    assert lines(metrics) >= 17
    assert mmard(*words, "out=runs/cut", "--resume").returncode == 0
    for name in ("best", "last"):
        whole, cut = (read_state(tmp_path / "runs" / run / f"{name}.safetensors") for run in ("whole", "cut"))
        assert all(torch.equal(whole[k], cut[k]) for k in whole)


@pytest.mark.parametrize(
    ("sent", "code"), [(signal.SIGTERM, 143), pytest.param(signal.SIGHUP, 129, marks=pytest.mark.slow)]
)
def test_a_run_that_a_signal_ends_saves_first_and_ends_bit_equal(
    sent: int, code: int, mmard: Run, digits_teacher: Path, tmp_path: Path
) -> None:
    """Between two epochs' ends, and no checkpoint is due: what there is was saved because of the signal."""
    quick = [word for word in QUICK if not word.startswith("attack.")]
    words = ["train", *quick, "train.epochs=20", "student=cnn-4-2", "--method", "standard", "--teacher", digits_teacher]
    metrics = tmp_path / "runs/cut/metrics.jsonl"
    with subprocess.Popen(
        command(*words, "out=runs/cut"), cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        preexec_fn=hears_signals,
    ) as process:  # fmt: skip
        while lines(metrics) < 1 and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(sent)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == code
    (word,) = [line for line in said.splitlines() if not line.startswith("note: ")]
    assert word.startswith(f"stopped by {signal.Signals(sent).name}; ")
    state = RunFolder(tmp_path / "runs/cut").load()
    assert state is not None
    assert 5 <= state["step"] < 100
    assert mmard(*words, "out=runs/cut", "--resume").returncode == 0
    assert mmard(*words, "out=runs/whole").returncode == 0
    whole, cut = (read_state(tmp_path / "runs" / run / "last.safetensors") for run in ("whole", "cut"))
    assert all(torch.equal(whole[k], cut[k]) for k in whole)


def hears_signals() -> None:
    """Also where the tests run under nohup."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
