"""Two CPU processes: equal weights on each, and the same loss as one process with the whole batch."""

import json
from pathlib import Path

import pytest
import torch
from helpers import QUICK, Run

from mmard.models.weights import read_state

# A net without BatchNorm, examples without a random start: then the number of processes can change nothing but rounding.
METHOD = """
import os, torch
from dataclasses import replace
from pathlib import Path
import mmard.models.students as students
from mmard import Pgd
from mmard.methods import mmard, rslad
from torch import nn

def plain(a):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, a.classes))

students.FAMILIES["plain"] = ("no BatchNorm", plain)

def build():
    return replace(rslad(), maximizer=Pgd(steps=2, start="none"))
"""


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_two_processes_train_as_one_with_the_whole_batch(
    mmard_process: Run, digits_teacher: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(METHOD)
    words = ["train", *QUICK, "student=plain", "--method", "mine.py:build", "--teacher", digits_teacher]
    for count in (1, 2):
        done = mmard_process(*words, f"engine.devices={count}", "engine.accelerator=cpu", f"out=runs/{count}")
        assert done.returncode == 0, done.stderr
    assert losses(tmp_path / "runs/2") == pytest.approx(losses(tmp_path / "runs/1"), rel=1e-5)
    one, two = (read_state(tmp_path / f"runs/{n}/last.safetensors") for n in (1, 2))
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-4, atol=1e-5)


WITNESS = """
import torch, torch.distributed as dist
from mmard import api, config
from mmard.training import trainer

settings = config.read_settings(None, config.parse_overrides(__import__("sys").argv[1:]))
kept = []
old = trainer.Trainer.fit
def fit(self):
    kept.append(self)
    return old(self)
trainer.Trainer.fit = fit
api.train(settings)
state = torch.cat([t.double().flatten() for t in kept[0].student.state_dict().values()])
both = [torch.zeros_like(state) for _ in range(2)]
dist.all_gather(both, state)
print("EQUAL" if torch.equal(both[0], both[1]) else f"DIFFER {(both[0] - both[1]).abs().max()}")
"""


def test_every_process_ends_with_the_same_weights_and_statistics(digits_teacher: Path, tmp_path: Path) -> None:
    import subprocess
    import sys

    (tmp_path / "witness.py").write_text(WITNESS)
    words = [
        *QUICK,
        "student=cnn-4-3",
        "method=mmard",
        f"teacher={digits_teacher}",
        "engine.devices=2",
        "engine.accelerator=cpu",
    ]
    done = subprocess.run(
        [sys.executable, "witness.py", *words], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("EQUAL") == 2, done.stdout


def test_a_batch_that_does_not_divide_is_one_line(mmard_process: Run) -> None:
    done = mmard_process(
        "train", *QUICK, "train.batch_size=51", "--method", "pgd_at", "engine.devices=2", "engine.accelerator=cpu"
    )
    assert done.returncode == 2
    assert "batch_size 51 does not divide by 2 processes" in done.stderr
    assert "Traceback" not in done.stderr
