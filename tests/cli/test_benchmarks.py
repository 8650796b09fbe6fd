"""Benchmarks can be started, and the day on a GPU does what it says, small."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from mmard import load_model

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu_day.py"


@pytest.mark.slow
def test_the_plan_stops_goes_on_and_packs(tmp_path: Path) -> None:
    def run(minutes: float) -> str:
        words = [sys.executable, str(SCRIPT), "--tiny", "--minutes", str(minutes), "--out", "day"]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=200)
        return done.stdout

    assert "teacher-trades: out of time; the same command goes on" in run(0)
    assert "done; small files" in run(5)
    cards = sorted((tmp_path / "day/pack").glob("*.json"))
    assert len(cards) == 8
    for card in cards:
        assert load_model(card).architecture.classes == 10
        assert "held-out PGD-10" in json.loads(card.read_text())["claimed"]
        assert card.with_suffix(".jsonl").read_text().count("\n") == 2
    assert "epoch" not in run(5)  # nothing is done twice


BENCHMARKS = sorted((Path(__file__).parents[2] / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("file", BENCHMARKS, ids=lambda file: file.stem)
def test_what_a_benchmark_imports_is_there(file: Path) -> None:
    spec = importlib.util.spec_from_file_location(f"benchmark_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert callable(module.main)
