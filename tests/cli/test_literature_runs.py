"""Every method of the literature trains on the digits as a user runs it."""

import json
import math
from pathlib import Path

import pytest
from helpers import QUICK, Run

METHODS = [
    "mart", "kd", "iad", "iad_2", "adaiad", "mtard", "b_mtard", "absld", "saad", "saad_c",
]  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
def test_two_epochs_on_the_digits(name: str, mmard: Run, digits_teacher: Path, tmp_path: Path) -> None:
    words = ["train", *QUICK, "--method", name, "student=cnn-4-2", "out=run"]
    words += [] if name == "mart" else [f"teachers.robust={digits_teacher}", f"teachers.natural={digits_teacher}"]
    done = mmard(*words)
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert len(records) == 2
    assert all(math.isfinite(r["loss"]) and r["loss"] > 0 for r in records)
