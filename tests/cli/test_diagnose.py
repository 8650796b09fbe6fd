"""`mmard diagnose`: the good way through, and one line for each wrong word."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers import QUICK, Run
from safetensors.torch import load_file
from torch import nn

from mmard import MmardError, distill
from mmard.api import comparison
from mmard.api.build import method_of
from mmard.api.comparison import Comparison
from mmard.api.diagnose import as_trained, diagnose, inner_processes
from mmard.api.settings import read_settings
from mmard.attacks.minimal import Minimal
from mmard.data.sources import load
from mmard.report.figures.diagnosis import examples_table
from mmard.runs.folder import RunFolder

SHORT = [*QUICK, "student=cnn-2-1", "train.epochs=1"]
METHODS = "rslad,mmard(inner=margin, beta=5),standard"


@pytest.fixture
def run(mmard: Run, tmp_path: Path, digits_teacher: Path) -> Path:
    """A short run with a teacher in runs/run."""
    done = mmard("train", *SHORT, "--teacher", digits_teacher)
    assert done.returncode == 0, done.stderr
    return tmp_path / "runs/run"


def test_a_run_is_diagnosed_into_a_table_files_and_figures(mmard: Run, run: Path) -> None:
    done = mmard("diagnose", "runs/run", "--limit", "12", "--methods", METHODS)
    assert done.returncode == 0, done.stderr
    for words in (
        "12 held-out images, L∞ 0.1",
        "PGD-2 (step eps/4, start gaussian)",
        "mmard(inner=margin, beta=5)",
        "direct attack on T",
    ):
        assert words in done.stdout
    found = json.loads((run / "diagnose/diagnosis.json").read_text())
    rows = found["examples"]
    assert list(rows) == ["natural images", "rslad", "mmard(inner=margin, beta=5)", "standard", "direct attack on T"]
    assert rows["standard"] | {"gain": 0, "gain_error": 0} == rows["natural images"] | {"gain": 0, "gain_error": 0}
    assert rows["natural images"]["share"] == 0 == rows["rslad"]["gain"]
    assert rows["mmard(inner=margin, beta=5)"]["share"] > rows["rslad"]["share"]
    assert max(r["share"] for r in rows.values()) <= 1 + 1e-6
    assert found["inner"]["standard"].startswith("nothing")
    assert set(found["training"]) == {"best, epoch 1", "last, epoch 1"}
    best, same = found["training"]["best, epoch 1"]["adv_teacher"], found["triangles"]["rslad"]["adv_teacher"]
    assert best == pytest.approx(same, abs=1e-6)
    with (run / "diagnose/diagnosis.csv").open() as f:
        assert [r["examples"] for r in csv.DictReader(f)] == list(rows)
    samples = load_file(run / "diagnose/samples.safetensors")
    assert samples["rslad/margin"].mean().item() == pytest.approx(rows["rslad"]["margin"], abs=1e-5)
    for figure in ("margins.png", "slices.png", "triangle.png"):
        assert (run / "diagnose" / figure).read_bytes().startswith(b"\x89PNG")


def test_a_run_of_modules_and_images_is_diagnosed_with_them(digits_teacher: Path, tmp_path: Path) -> None:
    data = load("digits", limit=150)
    x, y = data.train.pixels, data.train.labels
    words: dict[str, Any] = {key.replace(".", "__"): value for key, value in (word.split("=") for word in QUICK)}
    words |= {"data__limit": 150, "train__epochs": 1, "method": "rslad"}
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    run = distill(net, str(digits_teacher), (x, y), out=str(tmp_path / "run"), **words)
    with pytest.raises(MmardError, match="module=MODULE"):
        diagnose(run, "rslad", limit=12, data=(x, y))
    like = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    found = diagnose(run, "rslad", limit=12, data=(x, y), module=like)
    assert found.metadata["images"] == 12
    with pytest.raises(
        MmardError, match=r"train\.lr changes nothing in a diagnosis, which takes data, teacher, teachers; leave it out"
    ):
        diagnose(run, "rslad", limit=12, data=(x, y), module=like, train__lr=1)


def test_data_and_teacher_may_lie_elsewhere_now(mmard: Run, run: Path, digits_teacher: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes(digits_teacher.read_bytes())
    done = mmard("diagnose", "runs/run", f"teacher={moved}", "data.limit=300", "--limit", "12", "--methods", "rslad")
    assert done.returncode == 0, done.stderr
    assert json.loads((run / "diagnose/diagnosis.json").read_text())["teacher"].endswith("moved.safetensors")


@pytest.mark.parametrize("word", ["held_out=0.5", "limit=150", "seed=7"])
def test_images_that_were_trained_on_are_no_held_out_ones(mmard: Run, run: Path, word: str) -> None:
    key, value = word.split("=")
    own = getattr(read_settings(run).data, key)
    done = mmard("diagnose", "runs/run", f"data.{word}", "--limit", "12")
    assert done.returncode == 2
    said = " ".join(done.stderr.split())
    assert f"was trained with data.{key}={own}, and data.{key}={value} would cut its data otherwise" in said


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No figures and short searches: they take most of the seconds, and another test has them whole."""
    for name in ("plot_margins", "plot_slices"):
        monkeypatch.setattr(f"mmard.api.diagnose.{name}", lambda found, path: None)
    short = tuple(Minimal(norm=norm, steps=3, targets=2, restarts=1) for norm in ("linf", "l2"))  # type: ignore[arg-type]
    monkeypatch.setattr(comparison, "searches_of", lambda classes: short)
    monkeypatch.setattr(comparison, "direct", lambda teacher, x, own, threat: x)


@pytest.mark.parametrize("words", [{"attack.eps": 0.3}, {"attack.late": {"after": 0.5, "steps": 2, "eps": 0.3}}])
def test_all_examples_and_the_direct_attack_lie_in_one_ball(
    words: dict[str, Any], run: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In that of the run's attack, which may be another than the one that it is judged in; the table names both."""
    settings = read_settings(run, words)
    (run / "settings.yaml").write_text(yaml.safe_dump(settings.resolved()))
    asked = []
    monkeypatch.setattr(comparison, "direct", lambda teacher, x, own, threat: asked.append(threat.eps) or x)
    found = diagnose(run, "rslad,ard", limit=8)
    assert asked == [0.3]
    assert (found.metadata["threat"], found.metadata["judged_in"]) == ("L∞ 0.3", "L∞ 0.1")
    assert "8 held-out images, L∞ 0.3 (the run is judged in L∞ 0.1)" in str(examples_table(found).title)
    scene = Comparison.of(settings, run / "best.safetensors", "held-out", 8, 8, 0)
    x = scene.images.batch(slice(None))[0]
    for method in (*inner_processes(settings, method_of(settings), "rslad,ard", own_attacks=False).values(),):
        assert 0.1 < (scene.examples(replace(method, eps=0.2)) - x).abs().max() <= 0.3 + 1e-6


def test_same_seed_same_examples_whatever_came_before_and_the_run_stays_as_it_was(
    mmard: Run, run: Path, quick: None
) -> None:
    import mmard as package

    before = {file: file.read_bytes() for file in run.glob("*.safetensors")}
    options = {"limit": 4, "split": "test", "own_attacks": True}
    moved = "ard(attack_in_train_mode=true),ard,trades"  # what comes before must not change the student
    first, again = (package.diagnose(run, m, to=run / "a", **options) for m in (moved, "ard,trades"))  # type: ignore[arg-type]
    for name, boundary_records in again.methods.items():
        assert torch.equal(first.methods[name].margin, boundary_records.margin)
    assert "start uniform" in first.metadata["inner"]["ard"]
    assert "start gaussian" in first.metadata["inner"]["trades"]
    assert {file: file.read_bytes() for file in run.glob("*.safetensors")} == before


def test_by_default_the_runs_own_method_comes_first_and_once(mmard: Run, run: Path) -> None:
    settings = read_settings(run, {"method": "adaad", "attack.steps": 3})
    chosen = inner_processes(settings, method_of(settings), None, False)
    assert list(chosen) == ["adaad", "ard", "rslad", "mmard(inner=drift)", "mmard(inner=margin)"]
    assert {(m.maximizer.steps, m.maximizer.start) for m in chosen.values()} == {(3, "gaussian")}  # type: ignore[union-attr]


def test_the_runs_own_method_has_the_state_that_training_left_it(
    mmard: Run, tmp_path: Path, digits_teacher: Path
) -> None:
    words = ["train.epochs=2", "--method", "absld", "--teacher", digits_teacher, "out=runs/absld"]
    assert mmard("train", *SHORT, *words).returncode == 0
    settings = read_settings(tmp_path / "runs/absld")
    own = as_trained(method_of(settings), RunFolder(tmp_path / "runs/absld"))
    (state,) = own.modules()
    assert state.taus.shape == (2, 10)
    assert (state.taus != 1).any()
    assert inner_processes(settings, own, "rslad,absld", False)["absld"].inner is own.inner


LEARNED = """
from torch import nn
from mmard import Method, Pgd, term
from mmard.core.companion import Learned

class Part(Learned):
    def meet(self, v):
        last = v.nat.features("student")[-1]
        self.weight = nn.Parameter(last.new_ones(last.shape[1]))

    def told(self, v):
        return (v.adv.features("student")[-1].mean((2, 3)) * self.weight).square().mean(1)

def build(inner: bool = True):
    told = term("told", features=True)(Part().told)
    return Method(inner=told, outer=told, maximizer=Pgd(steps=2)) if inner else Method(outer=told)
"""


def test_a_part_that_learns_is_restored_where_the_attack_reads_it(
    mmard: Run, tmp_path: Path, digits_teacher: Path
) -> None:
    """The sizes of its parameters are known with the networks; one of the outer loss alone is not needed."""
    (tmp_path / "mine.py").write_text(LEARNED)
    method = f"{tmp_path / 'mine.py'}:build"
    words = ["train.epochs=1", "--method", method, "--teacher", digits_teacher, "out=runs/learned"]
    assert mmard("train", *SHORT, *words).returncode == 0
    settings = read_settings(folder := tmp_path / "runs/learned", trust=True)
    own, compared = method_of(settings), Comparison.of(settings, folder / "best.safetensors", "test", 4, 4, 0)
    compared.begin(own)
    (part,) = as_trained(own, RunFolder(folder)).modules()
    assert (part.weight != 1).any()
    assert compared.examples(own).shape == (4, 1, 8, 8)
    outer = method_of(settings.model_copy(update={"method": {"name": method, "inner": False}}))
    (part,) = as_trained(outer, RunFolder(folder)).modules()
    assert not list(part.parameters())


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["nowhere"], "nowhere is no run folder"),
        (["runs/run", "--limit", "0"], "limit is 0"),
        (["runs/run", "--split", "tset"], "unknown split 'tset'; did you mean test?"),
        (["runs/run", "--methods", "rslda"], "unknown method 'rslda'; did you mean rslad"),
        (["runs/run", "--methods", "mmard(inner=drfit)"], "unknown inner term 'drfit'"),
        (["runs/run", "--methods", "mmard(inner=drift"], "brackets"),
        (["runs/run", "--methods", ""], "no methods given; expected names such as rslad,adaad"),
        (["runs/run", "--teacher", "gone"], "no model at gone"),
    ],
)
def test_a_wrong_word_is_one_line(words: list[str], expected: str, mmard: Run, run: Path) -> None:
    done = mmard("diagnose", *words)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert expected in done.stderr


def test_a_run_without_a_teacher_needs_one_named(mmard: Run, tmp_path: Path, digits_teacher: Path, quick: None) -> None:
    assert mmard("train", *SHORT, "--method", "pgd_at").returncode == 0
    done = mmard("diagnose", "runs/run")
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "without a teacher" in done.stderr
    assert "--teacher" in done.stderr
    done = mmard("diagnose", "runs/run", "--teacher", digits_teacher, "--limit", "4", "--methods", "pgd_at")
    assert done.returncode == 0, done.stderr
    (tmp_path / "runs/run/best.safetensors").unlink()
    assert "no best.safetensors" in mmard("diagnose", "runs/run").stderr
