"""Benchmarks can be started, and the day on a GPU does what it says, small."""

import importlib.util
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from mmard import load_model

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu_day.py"


SMALL = """
data: {name: digits, limit: 300}
threat: {eps: 0.1}
train: {epochs: 2, batch_size: 50}
attack: {steps: 2}
teacher_check: none
"""


@pytest.mark.slow
def test_the_plan_stops_goes_on_and_packs(tmp_path: Path) -> None:
    study = """
out: runs/studies/small
base: base.yaml
settings: {student: cnn-4-3, teacher: runs/teachers/robust}
grid: {row: {pgd_at: {method: pgd_at, teacher: null}, rslad: {method: rslad}}}
evaluate: {attacks: fgsm, limit: 30}
"""
    plan = f"""
common: {{{", ".join(SMALL.strip().splitlines())}, student: cnn-4-3}}
teachers: {{robust: {{method: pgd_at}}}}
studies: [{{study: study.yaml, rows: [rslad]}}, {{judge: robust, by: {{attacks: fgsm, limit: 30}}}}, {{study: study.yaml}}]
"""
    for name, text in (("base", SMALL), ("study", study), ("plan", plan)):
        (tmp_path / f"{name}.yaml").write_text(text)

    def run(minutes: float) -> str:
        words = [sys.executable, str(SCRIPT), "plan.yaml", "--minutes", str(minutes), "--jobs", "2", "--pack", "home"]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=200)
        return done.stdout

    assert "out of time; the same command goes on" in run(0)
    told = run(5)
    assert "done; failed: none" in told
    assert told.index("- robust:") < told.index("+ small/rslad/seed-0")
    assert "4 jobs" in told
    assert load_model(tmp_path / "home/robust.safetensors").architecture.classes == 10
    with tarfile.open(tmp_path / "home/records.tgz") as file:
        assert sum(name.endswith("scores.json") for name in file.getnames()) == 3
    with tarfile.open(tmp_path / "home/small-best.tgz") as file:
        assert len(file.getnames()) == 2
    assert "0 jobs" in run(5)  # nothing is done twice


BENCHMARKS = sorted((Path(__file__).parents[2] / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("file", BENCHMARKS, ids=lambda file: file.stem)
def test_what_a_benchmark_imports_is_there(file: Path) -> None:
    spec = importlib.util.spec_from_file_location(f"benchmark_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert callable(module.main)
