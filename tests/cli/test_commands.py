"""The command line as a user types it: the good way through."""

import json
import math
from pathlib import Path

import pytest
import yaml
from helpers import QUICK, Run

from mmard import Scores
from mmard.api.catalogue import catalogue
from mmard.api.recipe_files import recipes
from mmard.api.settings import Settings

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "my_method.py"


def test_train_eval_show_from_teacher_to_table(mmard: Run, tmp_path: Path) -> None:
    teacher = mmard("train", *QUICK, "student=cnn-4-3", "--method", "pgd_at", "--out", "runs/teacher")
    assert teacher.returncode == 0, teacher.stderr
    assert "best on the held-out split" in teacher.stdout
    student = mmard(
        "train",
        *QUICK,
        "student=cnn-4-2",
        "tensorboard=true",
        "--method",
        "mmard(inner=drift)",
        "--teacher",
        "runs/teacher",
        "--out",
        "runs/s",
    )
    assert student.returncode == 0, student.stderr
    assert "KL(T(x)‖S(x')) + KL(T(x)‖T(x'))" in student.stdout
    assert list((tmp_path / "runs/s/tensorboard").glob("events*"))
    judged = mmard("eval", "runs/teacher", "runs/s", "--attacks", "fgsm,pgd-20", "--limit", "100")
    assert judged.returncode == 0, judged.stderr
    assert "20 steps of 0.025, start uniform" in judged.stdout
    scores = Scores.load(tmp_path / "runs/s/eval/best_FGSM_PGD-20_100-images")
    assert scores.correct.shape == (100, 3)
    rows = json.loads((tmp_path / "runs/s/eval/best_FGSM_PGD-20_100-images/scores.json").read_text())["attacks"]
    assert [r["attack"] for r in rows] == ["clean", "FGSM", "PGD-20", "worst case"]
    shown = mmard("show", "runs/s")
    assert yaml.safe_load(shown.stdout.split("inner:")[0])["teacher"] == "runs/teacher"


def test_a_recipe_trains_its_teacher_first(mmard: Run, tmp_path: Path) -> None:
    mine = {"about": "mine", "method": "standard", "student": "cnn-2-1", "data": {"name": "digits", "limit": 200}}
    mine["train"] = {"epochs": 1, "batch_size": 50}  # type: ignore[assignment]
    (tmp_path / "teach.yaml").write_text(yaml.safe_dump(mine))
    (tmp_path / "learn.yaml").write_text(
        yaml.safe_dump(
            {**mine, "method": "rslad", "teacher": "runs/t", "teacher_recipe": "teach.yaml", "out": "runs/s"}
        )
    )
    done = mmard("train", "learn.yaml", "attack.steps=1", "threat.eps=0.1", "data.limit=180", "data.seed=3")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs/t/last.safetensors").exists()
    assert (tmp_path / "runs/s/last.safetensors").exists()
    taught, learnt = (yaml.safe_load((tmp_path / f"runs/{run}/settings.yaml").read_text()) for run in "ts")
    assert taught["data"] == learnt["data"]  # or the teacher would have seen what is held out from the student
    assert taught["threat"] == learnt["threat"]


def test_a_method_of_ones_own(mmard: Run, digits_teacher: Path) -> None:
    done = mmard("train", *QUICK, "--method", f"{EXAMPLE}:build", "--teacher", digits_teacher)
    assert done.returncode == 0, done.stderr


def test_ls_has_a_line_for_everything(mmard: Run) -> None:
    done = mmard("ls")
    assert done.returncode == 0
    lists = catalogue()
    assert set(lists) == {"methods", "models", "data", "terms", "inner", "recipes"}
    for made in lists.values():
        for name, line in made().items():
            assert name in done.stdout
            assert line, name
    assert "rslad" not in mmard("ls", "models").stdout


@pytest.mark.parametrize("name", recipes())
def test_every_recipe_is_valid_and_shows_its_formula(name: str, mmard: Run) -> None:
    done = mmard("show", name)
    assert done.returncode == 0, done.stderr
    assert "outer: min" in done.stdout
    settings, _, _ = done.stdout.partition("inner:")
    Settings.model_validate(yaml.safe_load(settings))


@pytest.mark.parametrize("tau", ["0.5", "auto"])
def test_show_counts_the_passes_of_a_step_with_the_settings_attack(mmard: Run, tau: str) -> None:
    counts = "student 1/1 in the attack, 2/2 in the loss; teacher 1/0 in the attack, 1/0 in the loss (forward/backward)"
    shown = mmard("show", "cifar10-cheap", f"method=mmard(rslad(tau={tau}))").stdout
    assert f"cost:  {counts}; worth student 8, teacher 2 forward passes" in shown
    assert "worth student 26, teacher 1 forward passes" in mmard("show", "digits-rslad").stdout


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["rslad-cifar10-resnet18", "averaging.decay=0.5"], 2, "error: averaging.decay means nothing beside averaging.kind=none"),
        (["rslad-cifar10-resnet18", "--method", "pgd_at", "scale=0.5"], 2, "error: scale=0.5 is of KL terms"),
        (["ciard-cifar10-resnet18", "train.epochs=2"], 0, "note: train.epochs=2 is less than the recipe's 300"),
        (["rslad-cifar10-resnet18", "--method", "pgd_at"], 0, "note: teacher=teachers/cifar10-trades-wrn-34-10.json is not there"),
        (["--method", "rslad"], 0, "note: the method asks for a 'teacher' model"),
        (["--method", "rslad", "method=ard"], 2, "error: the command has an option for method"),
    ],
    ids=str,
)  # fmt: skip
def test_show_tells_what_training_would(words: list[str], code: int, says: str, mmard: Run) -> None:
    """Networks need not be there for it."""
    done = mmard("show", *words)
    assert (done.returncode, says in done.stderr) == (code, True), done.stderr
    assert bool(code) != ("outer: min" in done.stdout)


def test_cp_makes_a_recipe_to_change(mmard: Run, tmp_path: Path) -> None:
    assert mmard("cp", "digits-rslad", "mine.yaml").returncode == 0
    shown = mmard("show", "mine.yaml", "threat.eps=8/255", "method.alpha=1/2")
    assert "eps: 0.03137" in shown.stdout
    assert "0.5·KL(T(x)‖S(x')) + 0.5·KL(T(x)‖S(x))" in shown.stdout
    assert mmard("cp", "digits-rslad", "mine.yaml").returncode == 2


@pytest.mark.parametrize(
    "words",
    [["--help"], ["train", "--help"], ["eval", "--help"], ["ls", "--help"], ["demo", "--help"], ["export", "--help"]],
)
def test_help_teaches(words: list[str], mmard: Run) -> None:
    done = mmard(*words)
    assert done.returncode == 0
    assert "mmard" in done.stdout
    assert len(done.stdout) > 300


def test_python_use(tmp_path: Path, digits_teacher: Path) -> None:
    import mmard

    run = mmard.train(
        method="rslad", teacher=str(digits_teacher), student="cnn-4-2", out=str(tmp_path / "run"), data__limit=200, train__epochs=1,
        train__batch_size=50, attack__steps=1, threat__eps="0.1",
    )  # fmt: skip
    scores = mmard.evaluate(run, "fgsm")
    assert scores.accuracy("worst case") <= scores.accuracy("clean")
    assert mmard.load_model(run.path).architecture.name == "cnn-4-2"


def test_a_missing_model_is_known_before_the_first_is_attacked(mmard: Run, digits_teacher: Path) -> None:
    done = mmard("eval", digits_teacher, "nowhere", "--attacks", "none")
    assert done.returncode == 2
    assert "no model at nowhere" in done.stderr
    assert "clean" not in done.stdout


METHODS = [
    "mart", "kd", "iad", "iad_2", "adaiad", "mtard", "b_mtard", "absld", "saad", "saad_c",
]  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
def test_two_epochs_on_the_digits(name: str, mmard: Run, digits_teacher: Path, tmp_path: Path) -> None:
    words = ["train", *QUICK, "--method", name, "student=cnn-4-2", "out=run"]
    words += [] if name == "mart" else [f"teachers.robust={digits_teacher}"]
    words += [f"teachers.natural={digits_teacher}"] if name in ("mtard", "b_mtard", "iad_2") else []
    done = mmard(*words)
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert len(records) == 2
    assert all(math.isfinite(r["loss"]) and r["loss"] > 0 for r in records)
