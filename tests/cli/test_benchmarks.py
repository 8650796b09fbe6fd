"""`mmard bench` counts a method's passes and trains until an accuracy; the scripts of benchmarks/ run on what is there."""

import importlib.util
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import Run, blobs

from mmard import load_model
from mmard.evaluation.scores import Scores
from mmard.runs.folder import RunFolder


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


@pytest.mark.parametrize("variants", [None, 2])
def test_a_step_with_variants_asks_no_teacher_at_x(variants: int | None) -> None:
    import torch

    from mmard.api.build import engine_of
    from mmard.api.settings import read_settings
    from mmard.bench.step import Case, Subject

    settings = read_settings(None, {"student": "cnn-4-2", "data.augment": "crop", "data.variants": variants})
    case = Case(settings=settings, teacher="cnn-4-2", batch=4, size=8)
    subject = Subject.of(case, engine_of(settings), torch.rand(4, 3, 8, 8), torch.arange(4))
    asked, teacher = [], subject.update.predictors["teacher"]
    subject.update.predictors["teacher"] = lambda x: asked.append(len(x)) or teacher(x)  # type: ignore[func-returns-value]
    subject.steps["ours"]()
    assert asked == ([] if variants else [4])


def test_what_cannot_be_measured_is_one_line(mmard: Run) -> None:
    small = ["--student", "cnn-4-2", "--teacher", "cnn-4-2", "--method", "rslad"]
    for words, said in (
        (["--size", 100_000], "a step on 8 images of 100000×100000 does not fit in memory"),
        (["engine.devices=2"], "bench measures one process with its whole batch"),
        (["engine.micro_batch=4"], "bench measures one process with its whole batch"),
        (["train.batch_size=64"], "train.batch_size changes nothing in the time of a step; say --batch 128"),
        (["teacher=runs/teacher"], "teacher changes nothing in the time of a step; say --teacher wrn-16-4"),
        (["teachers.natural=runs/teacher"], "teachers.natural changes nothing in the time of a step; say --teacher"),
        (["data.name=npz", "data.size=64"], "data.size changes nothing in the time of a step; say --size 32"),
        (["data.augment=idbh", "data.variants=4"], "data.variants only move an image, and data.augment=idbh does more"),
        (["method=pgd_at", "scale=1/num_classes"], "scale=1/num_classes is of KL terms"),
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


@pytest.fixture
def two_classes(tmp_path: Path) -> None:
    """A recipe of a second: of two classes AutoAttack-quick is APGD-CE alone."""
    for seed, (name, count) in enumerate((("train", 120), ("test", 40))):
        x, y, _ = blobs(count, classes=2, seed=seed).batch(slice(None))
        np.savez(tmp_path / f"{name}.npz", x=(255 * x).byte().numpy(), y=y.numpy())
    (tmp_path / "mine.yaml").write_text("""
method: pgd_at
student: cnn-4-2
data: {name: npz, train: train.npz, test: test.npz, held_out: 0.25}
threat: {eps: 0.05}
attack: {steps: 2}
train: {epochs: 2, batch_size: 15, lr: 0.1}
""")


def to_accuracy(mmard: Run, percent: float, *words: object) -> dict[str, Any]:
    """Run the benchmark and read its record."""
    done = mmard("bench", "mine.yaml", "--to-accuracy", percent, "--json", "record.json", *words)
    assert done.returncode == 0, done.stderr
    record: dict[str, Any] = json.loads(Path("record.json").read_text())
    return record


@pytest.mark.usefixtures("two_classes")
def test_a_run_ends_at_the_accuracy_and_only_its_steps_are_timed(mmard: Run) -> None:
    own = "pgd_at attack.kind=n-fgsm train.lr=0.02"
    words = ["--method", "trades", "--method", own, "--seeds", 2, "engine.precision=auto"]
    record = to_accuracy(mmard, 90, *words)
    assert (record["accuracy"], record["attack"], record["data"]) == (90, "AutoAttack-quick", "npz")
    assert record["images"] == {"train": 90, "held_out": 30}
    assert "one step of 1 eps" in record["methods"][own]["formula"]
    assert "PGD-2" in record["methods"]["trades"]["formula"]
    for method in record["methods"].values():
        assert [run["seed"] for run in method["runs"]] == [0, 1]
        for run in method["runs"]:
            assert run["reached"] == (run["held_out"] >= 90)
            assert run["reached"] or run["epochs"] == 2
            assert run["precision"] in ("32-true", "bf16-mixed")  # what auto chose
            assert (run["steps"], run["test_images"]) == (6 * run["epochs"], 40)
            assert run["schedule_seconds"] == pytest.approx(run["seconds"] * 2 / run["epochs"])
            assert run["images_per_second"] == pytest.approx(90 * run["epochs"] / run["seconds"])
    folders = sorted(Path("runs/to-accuracy").glob("*/seed-*"))
    assert len(folders) == 4
    for folder in folders:
        kept, lines = json.loads((folder / "to_accuracy.json").read_text()), RunFolder(folder).metrics()
        assert kept["seconds"] == pytest.approx(sum(line["seconds"] for line in lines))
        assert all(line["robust"] < 90 for line in lines[:-1])
        tested = Scores.load(next(folder.glob("eval/*"))).accuracy("AutoAttack-quick")
        assert kept["test"] == pytest.approx(100 * tested)
    assert to_accuracy(mmard, 90, *words) == record  # nothing is trained or judged twice


@pytest.mark.usefixtures("two_classes")
def test_a_benchmark_that_is_stopped_goes_on(mmard: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    saved, save = [], RunFolder.save

    def stop_at_the_second(folder: RunFolder, state: dict[str, Any]) -> None:
        if saved:
            raise KeyboardInterrupt
        saved.append(state["step"])
        save(folder, state)

    words = ["train.lr=1e-6", "--out", "here"]
    with monkeypatch.context() as stopped:
        stopped.setattr(RunFolder, "save", stop_at_the_second)
        done = mmard("bench", "mine.yaml", "--to-accuracy", 100, *words)
        assert done.returncode == 130
        assert "stopped; the same command goes on" in done.stderr
    run = to_accuracy(mmard, 100, *words)["methods"]["pgd_at"]
    assert [r["epochs"] for r in run["runs"]] == [2]
    assert run["seconds"] == {"median": None, "low": None, "high": None}
    (folder,) = Path("here").glob("*/seed-0")
    assert [line["epoch"] for line in RunFolder(folder).metrics()] == [1, 2]


@pytest.mark.usefixtures("two_classes")
def test_a_recipes_own_method_is_called_as_one_writes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mmard.bench.accuracy import entries_of

    monkeypatch.chdir(tmp_path)
    file = tmp_path / "mine.yaml"
    file.write_text(file.read_text().replace("method: pgd_at", "method: {name: rpat, base: trades, lam: 0.5}"))
    (entry,) = entries_of(str(file), [], {}, accuracy=60, seeds=1, out=tmp_path, trust=False)
    assert entry.label == "rpat(base=trades, lam=0.5)"


def test_without_cifar_10_the_benchmark_is_on_digits_and_says_so(mmard: Run) -> None:
    done = mmard("bench", "--to-accuracy", 20, "--method", "peeraid(lam=3)")
    assert "recipe digits-rslad, on the embedded digits" in done.stdout
    assert "cifar10-jpeg-train.parquet" in done.stdout
    assert done.returncode == 2  # before it trains anything


def test_the_table_of_a_benchmark_fits_a_narrow_screen_whatever_its_methods_are_called() -> None:
    from rich.console import Console

    from mmard.report.screen import to_accuracy_table

    run = {
        "reached": True, "epochs": 7, "steps": 1234, "images_per_second": 4321, "held_out": 20.31, "test": 19.5,
        "schedule_seconds": 311, "test_images": 10_000, "device": "a machine", "threads": 1, "precision": "32-true",
    }  # fmt: skip
    own = "mmard(rslad(tau=0.5)) attack.kind=n-fgsm train.epochs=15"
    missed = {"planned_epochs": 15, "seconds": {"median": 123.4, "low": 110.1, "high": None}}
    methods = {
        own: {**missed, "seconds": {"median": 123.4, "low": 110.1, "high": 140.2}, "runs": [run] * 3},
        "rslad": {**missed, "runs": [run, run, {**run, "reached": False}]},
    }
    shared = {"accuracy": 20, "attack": "AutoAttack-quick", "data": "parquet", "threat": "L∞, eps 8/255"}
    record = {**shared, "images": {"train": 45_000, "held_out": 2_500}, "methods": methods}

    screen = Console(width=80, record=True, file=io.StringIO())
    screen.print(to_accuracy_table(record))
    text = screen.export_text()
    for words in (f"1: {own}", "2: rslad", " 123.4 │", " 110.1–140.2 │", " from 110.1 │", " 1 of 3 not │"):
        assert words in text, words


def test_an_epoch_that_was_cut_in_two_counts_whole() -> None:
    """A stop within an epoch leaves the seconds of its second part; its images per second are known."""
    from mmard.api.settings import read_settings
    from mmard.bench.accuracy import figures_of

    settings = read_settings(None, {"train.batch_size": 10, "train.epochs": 4, "validation.target": 50})
    lines = [
        {"step": 20, "epoch": 1, "seconds": 4.0, "images_per_second": 50.0},
        {
            "step": 40,
            "epoch": 2,
            "seconds": 1,
            "images_per_second": 25.0,
            "robust": 50.0,
            "clean": 60,
            "precision": "tf32",
        },
    ]
    figures = figures_of(lines, settings)
    assert figures["seconds"] == 4 + 8
    assert (figures["reached"], figures["schedule_seconds"], figures["images_per_second"]) == (True, 24, 400 / 12)


def test_preparation_counts_once_and_does_not_grow_with_the_epochs() -> None:
    """The variants' 100 seconds were part of the pace: a schedule of ten epochs was said to take 680 seconds."""
    from mmard.api.settings import read_settings
    from mmard.bench.accuracy import figures_of

    settings = read_settings(None, {"train.batch_size": 10, "train.epochs": 10, "validation.target": 50})
    told = {"robust": 50.0, "clean": 60, "precision": "32-true"}
    lines = [{"step": 20 * i, "epoch": i, "seconds": 20.0, "images_per_second": 10.0, **told} for i in (1, 2, 3)]
    lines[0] |= {"prepared_seconds": 100.0}
    lines[2] |= {"prepared_seconds": 90.0, "seconds": 5.0}  # a run that was stopped in the third epoch
    figures = figures_of(lines, settings)
    assert (figures["seconds"], figures["schedule_seconds"], figures["images_per_second"]) == (160, 300, 10)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--to-accuracy", "0"], "--to-accuracy is 0, expected percent of the images, above 0 and at most 100"),
        (["--to-accuracy", "100.5"], "--to-accuracy is 100.5, expected percent"),
        (["--to-accuracy", "nan"], "--to-accuracy is nan, expected percent"),
        (["--to-accuracy", "20", "--method", "mtard"], "natural"),
        (["--to-accuracy", "20", "teacher=null"], "the method asks for a 'teacher' model"),
        (["--to-accuracy", "20", "teacher=none"], "the method asks for a 'teacher' model"),
        (["--to-accuracy", "20", "--method", "rslda"], "did you mean rslad"),
        (["--to-accuracy", "20", "--method", ""], "--method is empty; expected a method"),
        (["--to-accuracy", "20", "--seeds", "9999999999999999999"], "'--seeds'"),
        (["--to-accuracy", "20", "--method", "rslad train.lr"], "'train.lr' is no setting"),
        (["--to-accuracy", "20", "--method", "rslad 'a"], "No closing quotation; expected a method and settings"),
        (["--to-accuracy", "10"], "one class for every image has 10.4 % of the held-out images under any attack"),
        (["--to-accuracy", "20", "--json", "."], ". is no plain file and cannot be replaced by one; write elsewhere"),
        (["--to-accuracy", "20", "--method", "rslad", "--method", "rslad"], "--method 'rslad' is given twice"),
        (["--to-accuracy", "20", "validation.target=3"], "validation.target is not a setting of this benchmark"),
        (["--to-accuracy", "20", "seed=3"], "say --seeds 3"),
        (["--to-accuracy", "20", "engine.devices=2"], "that of one process"),
        (["--to-accuracy", "20", "--batch", "4"], "--batch has a meaning only without --to-accuracy"),
        (["--seeds", "2"], "--seeds has a meaning only with --to-accuracy"),
        (["--method", "rslad", "--method", "ard"], "got 2 methods, expected one"),
    ],
)
def test_what_no_benchmark_can_be_is_one_line(mmard: Run, digits_teacher: Path, words: list[str], said: str) -> None:
    taught = [] if {"teacher=null", "teacher=none"} & set(words) else [f"teacher={digits_teacher}"]
    done = mmard("bench", "digits-rslad", *words, *taught)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("command", "words", "said"),
    [
        ("bench", ["--to-accuracy", "5"], "validation.target is 5, and one class for every image has 10.4 %"),
        ("bench", ["--to-accuracy", "20", "data.held_out=0.0001"], "leaves one to choose the best checkpoint on"),
        ("bench", ["--to-accuracy", "20", "train.batch_size=2000"], "train.batch_size 2000 > 1293 training images"),
        ("bench", ["--to-accuracy", "20", "student=net.py:build"], "the student net.py:build"),
        ("bench", ["--to-accuracy", "101"], "--to-accuracy is 101"),
        ("bench", ["--to-accuracy", "20", "--method", "adaad", "--method", "rslad train.batch_size=2000"], "batch_size 2000"),
        ("train", ["validation.target=5"], "validation.target is 5, and one class for every image has 10.4 %"),
        ("train", ["train.batch_size=2000"], "train.batch_size 2000 > 1293 training images"),
    ],
    ids=lambda one: " ".join(one) if isinstance(one, list) else "",
)  # fmt: skip
def test_what_the_images_make_impossible_is_known_before_a_teacher_is_trained(
    mmard: Run, tmp_path: Path, command: str, words: list[str], said: str
) -> None:
    (tmp_path / "net.py").write_text("import torch\ndef build(classes): return torch.nn.Linear(7, classes)\n")
    done = mmard(command, "digits-rslad", *words)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.glob("runs/**/*.safetensors"))
    assert not list(tmp_path.glob("runs/**/metrics.jsonl"))


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
studies: [{{study: study.yaml, rows: [rslad]}}, {{judge: robust, by: {{attacks: fgsm, limit: 30}}}}, {{study: study.yaml}},
  {{study: study.yaml, rows: [rslad], again: {{attacks: fgsm, limit: 30, checkpoint: last}}}}]
keep: {{rslad: [best.safetensors, last.safetensors]}}
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
    assert "5 jobs" in told
    assert load_model(tmp_path / "home/robust.safetensors").architecture.classes == 10
    with tarfile.open(tmp_path / "home/records.tgz") as file:
        assert sum(name.endswith("scores.json") for name in file.getnames()) == 4
    with tarfile.open(tmp_path / "home/weights-0.tgz") as file:
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
