"""`mmard bench` answers with the method's own counts, and the scripts of benchmarks/ run on what is there."""

import importlib.util
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from helpers import Run

from mmard import load_model


def test_bench_compares_a_method_with_the_plain_step_and_its_base(mmard: Run, tmp_path: Path) -> None:
    words = [
        "--method",
        "mmard(inner=drift)",
        "--student",
        "cnn-4-2",
        "--teacher",
        "cnn-4-3",
        "--batch",
        "4",
        "--size",
        "8",
        "--repeats",
        "2",
    ]
    done = mmard("bench", *words, "--json", "bench.json")
    assert done.returncode == 0, done.stderr
    assert "times faster than plain" in done.stdout
    assert "times the base's time" in done.stdout
    figures = json.loads((tmp_path / "bench.json").read_text())
    assert figures["passes"] == {
        "student": {"forward": 12, "backward": 12, "weights": 2},
        "teacher": {"forward": 12, "backward": 10, "weights": 0},
    }
    assert figures["gflop"] > 0
    assert (figures["student"], figures["teacher"]) == ("cnn-4-2", "cnn-4-3")
    assert 0 < figures["teacher_forward"]["milliseconds"] < figures["milliseconds"]["ours"]
    fit = figures["memory"]["images_that_fit"]
    assert fit is None or fit > 1000
    assert set(figures["milliseconds"]) == {"ours", "plain", "base"}
    low, median, high = (figures["faster_than_plain"][k] for k in ("low", "median", "high"))
    assert 0 < low <= median <= high


def test_what_cannot_be_measured_is_one_line(mmard: Run) -> None:
    small = ["--student", "cnn-4-2", "--teacher", "cnn-4-2", "--method", "rslad"]
    for words, said in (
        (["--size", 100_000], "a step on 8 images of 100000×100000 does not fit in memory"),
        (["engine.devices=2"], "bench measures one process with its whole batch"),
        (["engine.micro_batch=4"], "bench measures one process with its whole batch"),
    ):
        done = mmard("bench", *small, *words)
        assert done.returncode == 2
        assert said in done.stderr


def test_the_operations_of_a_convolution_are_counted_as_by_hand() -> None:
    import torch
    from torch import nn

    from mmard.bench.measure import forward_flops

    x = torch.rand(2, 3, 8, 8)
    assert forward_flops(nn.Conv2d(3, 5, 3, padding=1), x) == 2 * 2 * 5 * 3 * 9 * 64


def test_a_plain_step_keeps_the_students_average(mmard: Run, tmp_path: Path) -> None:
    """ADR's passes are counted, and the average moves by its share of the student's new weights."""
    import copy

    import torch
    from torch import nn

    from mmard import Threat
    from mmard.bench.plain import plain_step
    from mmard.methods import adr

    words = ["--student", "cnn-4-2", "--teacher", "cnn-4-2", "--batch", "4", "--size", "8", "--repeats", "1"]
    done = mmard("bench", "--method", "adr", *words, "--json", "bench.json")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "bench.json").read_text())["passes"]["average"]["forward"] == 1
    student = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
    before = copy.deepcopy(student)
    average = copy.deepcopy(student).requires_grad_(False)
    networks = {"student": student, "average": average}
    optimizer = torch.optim.SGD(student.parameters(), 0.5)
    plain_step(adr(decay=0.75), networks, optimizer, Threat(eps=0.1), torch.rand(5, 3, 2, 2), torch.arange(5) % 4)
    assert not torch.equal(student[1].weight, before[1].weight)
    torch.testing.assert_close(average[1].weight, 0.75 * before[1].weight + 0.25 * student[1].weight)


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
