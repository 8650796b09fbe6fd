"""`mmard demo` on less than it does, and what `make` says of an installation."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from helpers import Run

from mmard.api import settings
from mmard.cli import demo
from mmard.study import jobs, spec

ROOT = Path(__file__).resolve().parents[2]
LESS = {"train.epochs": 1, "data.limit": 300, "attack.steps": 1, "validation.steps": 1, "teacher_check": "none"}


@pytest.fixture
def less(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A demo of an epoch each, FGSM in the place of AutoAttack; gives what changes its recipes."""
    changes = dict[str, Any](LESS)
    read = settings.read_settings
    monkeypatch.setattr(settings, "read_settings", lambda recipe, own: read(recipe, {**own, **changes}))
    monkeypatch.setattr(spec, "Evaluation", lambda: jobs.Evaluation(attacks="fgsm", limit=40))
    monkeypatch.setattr(demo, "SHORTER", {"train.epochs": 1, "attack.steps": 1})
    return changes


@pytest.mark.slow
def test_a_demo_is_a_table_and_a_plot_and_one_that_failed_goes_on(
    mmard: Run, less: dict[str, Any], tmp_path: Path
) -> None:
    less["train.batch_size"] = 9_999
    failed = mmard("demo")
    assert failed.returncode == 2
    assert "rslad failed: train.batch_size 9999 > 270 training images" in failed.stderr
    assert "runs/demo/rslad/log.txt has the whole of it" in failed.stderr
    trained = (tmp_path / "runs/demo/teacher/metrics.jsonl").read_text()
    less["train.batch_size"] = 100
    done = mmard("demo")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs/demo/teacher/metrics.jsonl").read_text() == trained
    said = (tmp_path / "runs/demo/results.md").read_text().splitlines()
    rows = [line for line in said if line.startswith("|")][-2:]
    assert [row.split("|")[1].strip() for row in rows] == ["rslad", "mmard"]
    assert (tmp_path / "runs/demo/curves.png").read_bytes().startswith(b"\x89PNG")
    again = mmard("demo")
    assert again.returncode == 0
    assert "done" not in again.stdout
    assert "rslad" in again.stdout


@pytest.mark.skipif(not shutil.which("make"), reason="there is no make")
@pytest.mark.parametrize("fails", [False, True])
def test_an_installation_says_what_it_printed_where_it_fails(fails: bool, tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).touch()
    pip = f"#!/bin/sh\necho much noise; echo WARNING: more of it >&2; exit {int(fails)}\n"
    make_environment = f"#!/bin/sh\nmkdir -p $3/bin; cat >$3/bin/pip <<'END'\n{pip}END\nchmod +x $3/bin/pip\n"
    (tmp_path / "python").write_text(make_environment)
    (tmp_path / "python").chmod(0o755)
    words = ["make", ".venv/user", "PYTHON=./python"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode != 0) == fails
    assert "installing mmard with all" in done.stdout
    assert ("much noise" in done.stdout and "WARNING: more of it" in done.stdout) == fails
    assert (tmp_path / ".venv/user").exists() != fails
