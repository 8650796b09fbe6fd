"""Bad input: one clear line on standard error, exit code 2, nothing lost, never a traceback."""

import fcntl
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import torch
from helpers import QUICK, Run, small_net

from mmard.api.whole_method import must_be_whole
from mmard.cli.app import COMMANDS
from mmard.methods import awp, ciard, iad, mtard, rslad
from mmard.models.weights import save_weights
from mmard.utils.errors import MmardError

SHORT = [*QUICK, "student=cnn-2-1", "train.epochs=1"]
NO_ATTACK = [word for word in SHORT if not word.startswith("attack.")]


def assert_one_line(done: subprocess.CompletedProcess[str], *words: str) -> None:
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    for word in words:
        assert word in lines[0], lines[0]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["train", "train.epoch=3"], ["unknown setting 'train.epoch'", "did you mean train.epochs"]),
        (["train", "--bogus"], ["No such option: --bogus", "see mmard train --help"]),
        (["eval"], ["Missing argument", "see mmard eval --help"]),
        (["eval", "run", "--seed", "x"], ["'--seed'", "integer"]),
        (["trian"], ["No such command 'trian'", "see mmard --help"]),
        (["train", "train.epochs=abc"], ["'train.epochs' is 'abc': expected a whole number"]),
        (["train", "data=3"], ["'data' is 3: expected keys and values"]),
        (["train", "averaging.kind=e"], ["expected 'none', 'ema' or 'swa'"]),
        (["train", "--method", "mmard", "method.base.alpha=1"], ["no method's name", "method.base.name=rslad"]),
        (["train", "treat=3"], ["unknown setting 'treat'", "did you mean threat"]),
        (["train", "--method", "rslda"], ["unknown method 'rslda'", "did you mean rslad", "file.py:function"]),
        (["train", "--method", "mmard", "method.inner=drfit"], ["unknown inner term 'drfit'", "did you mean drift"]),
        (["train", "--method", "mmard", "method.base=trade"], ["unknown method 'trade'", "trades"]),
        (
            ["train", "--method", "mmard(igdm(fair(rslad), alhpa=2))"],
            ["unknown parameter of method igdm 'alhpa'", "alpha"],
        ),
        (["train", "--method", "pgd_at(tau=0.5)"], ["unknown parameter of method pgd_at 'tau'; there are none"]),
        (["train", "--method", "ard(tau=auto)"], ["expected a number", "what can be auto is teacher_tau"]),
        (
            ["train", "--method", "igdm(mart)"],
            ["igdm has no published alpha for this base", "rslad 0.9", "alpha=1"],
        ),
        (["train", "--method", "fair(igdm(fair(rslad)))"], ["fair stands twice in this method"]),
        (
            ["train", "--method", "mmard(igdm(mmard(rslad)))"],
            ["outer=contrast stands in the base", "the gamma of both"],
        ),
        (
            ["train", "--method", "mmard(fair(mmard(inner=drift)), inner=drift, outer=js)"],
            ["inner=drift stands in the base"],
        ),
        (["train", "--method", "igdm(rslad(alpha=5))"], ["method.alpha is 5, expected a number not above 1"]),
        (["train", "--method", "igdm(rslad, alpha=-1)"], ["method.alpha is -1, expected a number not below 0"]),
        (["train", "--method", "trades(beta=-6)"], ["method.beta is -6, expected a number not below 0"]),
        (["train", "--method", "mmard(beta={)"], ["brackets"]),
        (["train", "--method", "mmard(beta=2)"], ["the inner term's, and that is none", "inner=drift"]),
        (["train", "--method", "mmard(standard)"], ["this base makes none", "base=rslad"]),
        (["train", "--method", "mmard(rslad, base=trades)"], ["base stands twice"]),
        (["train", "--method", "mmard(gamma=1, gamma=2)"], ["gamma stands twice"]),
        (["train", "--method", "ard(tau=0)"], ["method.tau is 0, expected a number above 0"]),
        (["train", "--method", "iad(power=-1)"], ["method.power is -1, expected a number not below 0"]),
        (["train", "--method", "awp(pgd_at, gamma=true)"], ["method.gamma is True, expected a number"]),
        (["train", "--method", "absld(drops=5)"], ["method.drops is 5, expected a list of numbers"]),
        (["train", "--method", "absld(drops=[a])"], ["method.drops is 'a', expected a number"]),
        (["train", "scale=-1"], ["'scale"]),
        (["train", "--method", "pgd_at", "scale=0.1"], ["scale=0.1 is of KL terms", "descends none"]),
        (["train", "train.milestones=[-1]"], ["'train.milestones' is -1: expected a number not below 0"]),
        (["train", "--method", "st/bad.py:boom"], ["there is no file st/bad.py"]),
        (["train", "--method", "os:boom:"], ["os:boom"]),
        (["train", "teachers.student=README.md"], ["teachers.student is no name for a further network", "teacher="]),
        (["train", "--method", "mmard(beta=2026-13-01)"], ["method.beta is '2026-13-01'", "expected a number"]),
        (["train", "digits-rslad", "attack.kind=[n-fgsm]"], ["'attack.kind'"]),
        (["train", "attack.steps=0"], ["'attack.steps' is 0: expected a number not below 1"]),
        (["train", "--method", "mmard(rslad"], ["unknown method 'mmard(rslad'"]),
        (
            ["train", "--method", "peeraid", "method.peer=resnet17"],
            ["unknown model 'resnet17'", "did you mean resnet18"],
        ),
        (["train", *SHORT, "--method", "ciard"], ["asks for a 'teacher' model", "teacher=RUN_FOLDER_OR_CARD"]),
        (
            ["train", "--method", "awp(pgd_at)", "method.gamma=-1"],
            ["method.gamma is -1, expected a number not below 0"],
        ),
        (
            ["train", "averaging.kind=swa", "averaging.start=30"],
            ["averaging.start", "begins after 30 epochs, and the run has 30"],
        ),
        (["train", "--method", "awp(pgd_at)", "method.begin=40"], ["awp begins after 40 epochs, and the run has 30"]),
        (["train", "--method", "pgd_at", "attack.stop_at=teacher"], ["asks for a 'teacher' model"]),
        (["train", "validation.patience=0"], ["'validation.patience' is 0"]),
        (
            ["train", "method.alpha=0.5", "method=rslad"],
            ["method.alpha and method stand apart, and the first would be lost"],
        ),
        (["train", "teacher=a", "teachers.robust=b"], ["teacher and teachers.robust are two names of one network"]),
        (["train", "--method", "rslad", "method=ard"], ["an option for method and method=...; give one"]),
        (["train", "digits-rslad", "teacher=runs/tpyo"], ["runs/tpyo"]),
        (["train", "method.alhpa=0.5"], ["unknown parameter of method rslad 'alhpa'", "alpha"]),
        (["train", "method.alpha=high"], ["method.alpha is 'high'", "expected a number"]),
        (
            ["train", "attack.step_size=8/255", "threat.eps=2/255"],
            ["step_size 0.0314 > eps 0.0078: are the two swapped?"],
        ),
        (["train", "threat.eps=8"], ["is it in 255ths? then write 8/255"]),
        (["train", "threat.eps=8/0"], ["threat.eps", "'8/0'", "expected a number such as 8/255"]),
        (["train", "threat.norm=l1"], ["'threat.norm' is 'l1'"]),
        (["train", "--student", "resnet17"], ["unknown model 'resnet17'", "did you mean resnet18"]),
        (["train", "--teacher", "nowhere"], ["no model at nowhere"]),
        (["train", "no-such-recipe"], ["unknown recipe 'no-such-recipe'"]),
        (["train", "gone.yaml"], ["no recipe at gone.yaml"]),
        (["train", "--method", "pgd_at", "data.name=cifra"], ["unknown data set 'cifra'"]),
        (["train", "train.epochs=many"], ["'train.epochs' is 'many'"]),
        (["train", "--method", "pgd_at", "train.batch_size=9999"], ["batch_size 9999 > ", "training images"]),
        (["train", "digits-rslad", "really"], ["'really' is no setting; expected key=value"]),
        (["train", *SHORT], ["asks for a 'teacher' model", "teacher=RUN_FOLDER_OR_CARD"]),
        (["train", "--method", "mtard"], ["asks for a 'teacher' model", "teacher=RUN_FOLDER_OR_CARD"]),
        (["train", "digits-rslad", "--method", "mtard"], ["a 'natural' model", "teachers.natural=RUN_FOLDER_OR_CARD"]),
        (
            ["train", "digits-rslad", "--method", "iad_2", "data.name=cifra"],
            ["a 'natural' model", "have: student, teacher"],
        ),
        (["train", "teachers.robust=nowhere"], ["no model at nowhere"]),
        (["train", "teachers=5"], ["'teachers' is 5"]),
        (["train", "--method", "mine.py:build"], ["no file mine.py"]),
        (["train", "--method", "nopackage.module:build"], ["nopackage.module cannot be imported"]),
        (["train", "--method", "pgd_at", "engine.accelerator=cuda"], ["this machine cannot run that"]),
        (["train", "--method", "os:system"], ["method os:system: missing a required argument"]),
        (["train", "--method", "mmard", "method.base=null"], ["a method is None"]),
        (["train", "digits-rslad", "--teacher", "tpyo.safetensors"], ["no model at tpyo.safetensors"]),
        (["train", "--method", "pgd_at", "engine.accelerator=cpu", "engine.devices=0"], ["'engine.devices' is 0"]),
        (
            ["train", "--method", "pgd_at", "engine.micro_batch=many"],
            ["'engine.micro_batch' is 'many'", "from 1, or auto"],
        ),
        (["train", "--method", "pgd_at", "engine.micro_batch=true"], ["from 1, or auto"]),
        (["train", "--method", "pgd_at", "engine.micro_batch=48"], ["48 does not divide the 128 images", "32 does"]),
        (
            ["train", "--method", "pgd_at", "engine.precision=tf32", "engine.accelerator=cpu"],
            ["it has 32-true, bf16-mixed"],
        ),
        (["train", "--method", "pgd_at", "engine.devices=3"], ["batch_size 128 does not divide by 3 processes"]),
        (["train", "--method", "mmard", "method.beta=inf"], ["'inf'", "expected a finite number"]),
        (["bench", "--method", "peeraid"], ["bench's plain step trains the student alone"]),
        (["train", "teacher=zoo:"], ["unknown teacher in zoo ''; known: cifar10-cnn-32-7"]),
        (["bench", "--method", "ibd"], ["bench's plain step trains the student alone"]),
        (
            ["train", "--method", "adr", "teachers.average=x"],
            ["the student's own average", "leave out teachers.average"],
        ),
        (["train", "--method", "adr(tau=[2])"], ["method.tau is [2], expected a list of 2 numbers"]),
        (["train", "--method", "peeraid(peer_settings={tau: 0})"], ["'tau' is 0: expected a number above 0"]),
        (["results", "README.md"], ["cannot read README.md"]),
        (["results", "."], ["cannot read .", "expected a Markdown page"]),
        (["train", "data.seed=-1"], ["'data.seed' is -1"]),
        (["train", "out="], ["'out' is"]),
        (["train", "train.warmup=2"], ["'train.warmup' is 2"]),
        (["train", "train.lr=-1"], ["'train.lr' is -1"]),
        (
            ["train", "train.nesterov=true", "train.momentum=0"],
            ["train.nesterov=true needs a momentum", "expected train.nesterov=false, or train.momentum=0.9"],
        ),
        (["train", "data.size=0"], ["'data.size' is 0"]),
        (["train", "data.size=32"], ["data.size means nothing for data.name=digits", "leave it out"]),
        (["train", "data.stream=true"], ["data.stream means nothing for data.name=digits"]),
        (["train", "data.channels=2"], ["'data.channels' is 2"]),
        (["train", "data.on_error=ignore"], ["'data.on_error' is"]),
        (["train", "digits-rslad", "--student", "resnet17"], ["unknown model 'resnet17'"]),
        (["train", "digits-rslad", "train.epochs=0"], ["'train.epochs' is 0"]),
        (["train", "--teacher", "runs/run"], ["cannot be its own teacher"]),
        (["eval", "nowhere"], ["no model at nowhere"]),
        (["eval", "seed=1"], ["no model given"]),
        (["eval", "nowhere", "limit=10"], ["unknown setting 'limit'"]),
        (["ls", "method"], ["unknown list 'method'", "did you mean methods"]),
        (["show", "digits-rsald"], ["unknown recipe 'digits-rsald'", "did you mean digits-rslad"]),
        (["cp", "nothing"], ["unknown recipe 'nothing'"]),
        (["train", "/etc/passwd"], ["/etc/passwd is no recipe; expected settings in a .yaml file"]),
        (["train", "card.json"], ["card.json is no recipe, and there is no such file"]),
        (["train", "."], ["it is no run folder, for it has no settings.yaml"]),
        (
            ["train", "eps=0.1"],
            ["unknown setting 'eps'; did you mean attack.eps or attack.late.eps or threat.eps? known"],
        ),
        (["train", "--method", "pgd_at", "out=${HOME}/x"], ["out=${HOME}/x: ${HOME is not replaced here"]),
        (
            ["train", "--method", "pgd_at", "data.held_out=0.001"],
            ["leaves one to choose", "such as data.held_out=0.035"],
        ),
    ],
)
def test_a_wrong_word_is_one_line(words: list[str], expected: list[str], mmard: Run) -> None:
    if "engine.accelerator=cuda" in words and torch.cuda.is_available():
        pytest.skip("this machine can run that")
    assert_one_line(mmard(*words), *expected)


def test_a_recipe_without_a_setting_is_no_recipe(mmard: Run, tmp_path: Path) -> None:
    for text in ("", "# nothing yet\n", "{}\n"):
        (tmp_path / "mine.yaml").write_text(text)
        assert_one_line(mmard("train", "mine.yaml"), "mine.yaml is empty; expected settings in it")


def test_a_file_of_a_run_is_no_model_and_its_folder_is_named(mmard: Run, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    for name in ("settings.yaml", "checkpoint.pt", "metrics.jsonl"):
        (tmp_path / "run" / name).write_text("about: x\n")
        for command in ("eval", "export"):
            assert_one_line(
                mmard(command, f"run/{name}"), f"run/{name} is a part of the run", "give the run folder: run"
            )


def test_every_path_of_the_command_line_may_begin_at_home() -> None:
    found = set()
    for name, command in COMMANDS.items():
        for hint in get_type_hints(command, include_extras=True).values():
            if "Path" in str(get_args(hint)[:1]):
                found.add(name)
                assert [each.parser("~/x") for each in hint.__metadata__] == [Path.home() / "x"], name
    assert found == {"bench", "cp", "demo", "report", "results", "study"}


def test_metrics_with_a_line_that_is_none_are_not_passed_over(mmard: Run, tmp_path: Path) -> None:
    assert mmard("train", *QUICK, "student=cnn-2-1", "--method", "pgd_at", "out=run").returncode == 0
    metrics = tmp_path / "run/metrics.jsonl"
    whole = metrics.read_text()
    first, rest = whole.split("\n", 1)
    metrics.write_text(f"{first}\n{{\n{rest}")
    asked = ["train", *QUICK, "student=cnn-2-1", "--method", "pgd_at", "out=run", "--resume"]
    assert_one_line(mmard(*asked), "metrics.jsonl: line 2 is no record of a step")
    metrics.write_text(whole + '{"step": 1')  # as a kill leaves it
    assert mmard(*asked).returncode == 0
    assert metrics.read_text() == whole


def test_parts_of_a_base_in_brackets_are_settings(mmard: Run) -> None:
    done = mmard("show", "digits-rslad", "method=mmard(rslad)", "method.base.alpha=0.3")
    assert done.returncode == 0, done.stderr
    assert "0.3·KL(T(x)‖S(x'))" in done.stdout


def test_a_warning_is_one_line_and_no_arguments_mean_help(mmard: Run, mmard_process: Run, tmp_path: Path) -> None:
    asked = ["train", *QUICK, "student=cnn-2-1", "--method", "pgd_at", "out=run", "train.epochs=1"]
    assert mmard(*asked).returncode == 0
    assert mmard("export", "run").returncode == 0
    (tmp_path / "run/best.safetensors").unlink()
    done = mmard_process("eval", "run/model.onnx", "--attacks", "square", "--limit", "10", "--checks", "none")
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("warning: the float surrogate of run/model.onnx")
    assert done.stderr.count("\n") == 1
    assert "mmard demo" in mmard().stdout


def test_an_unknown_option_is_answered_by_the_command_line_itself(mmard: Run) -> None:
    done = mmard("train", "--techer", "x")
    assert done.returncode == 2
    assert "--teacher" in done.stderr


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("def build():\n    return 3\n", "gave a int, expected a mmard.Method"),
        ("def other():\n    pass\n", "unknown function in mine.py 'build'"),
        ("import nothing_of_this_name\n", "mine.py cannot be imported: ModuleNotFoundError"),
        ("def build(a):\n    return a\n", "missing a required argument: 'a'"),
        ("def build():\n    return 1 / 0\n", "fails: ZeroDivisionError"),
        ("def build(:\n", "mine.py cannot be imported: SyntaxError"),
    ],
)
def test_a_broken_method_file_is_one_line(source: str, expected: str, mmard: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(source)
    assert_one_line(mmard("train", *SHORT, "--method", "mine.py:build"), expected)


def test_a_recipe_that_is_no_yaml_is_one_line(mmard: Run, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("train: {epochs: [")
    assert_one_line(mmard("train", "bad.yaml"), "bad.yaml is no YAML")
    (tmp_path / "list.yaml").write_text("- 1\n")
    assert_one_line(mmard("train", "list.yaml"), "holds a list")


def test_a_teacher_for_other_classes_is_one_line(mmard: Run, tmp_path: Path) -> None:
    save_weights(tmp_path / "t.safetensors", small_net(classes=7))
    assert_one_line(mmard("train", *SHORT, "--teacher", "t.safetensors"), "has 7 classes, the data 10")


def test_foreign_and_truncated_weights_are_one_line(mmard: Run, tmp_path: Path) -> None:
    save_weights(tmp_path / "t.safetensors", small_net(classes=10))
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes((tmp_path / "t.safetensors").read_bytes()[:-50])
    assert_one_line(mmard("eval", "cut.safetensors"), "truncated")
    (tmp_path / "bomb.pt").write_bytes(pickle.dumps(print))
    (tmp_path / "card.json").write_text(json.dumps({"architecture": "cnn-2-1", "classes": 10, "file": "bomb.pt"}))
    assert_one_line(mmard("eval", "card.json", "data.name=digits"), "refused", "could run code")


METHODS = {
    "return v.nat.student @ v.nat.student": "RuntimeError",
    "return 1 / 0": "term 'mine' fails (",
    "return None": "gave a NoneType, expected one number per sample",
    "return v.nat.student.mean()": "gave shape ()",
    "return v.nat.foo": "has no attribute 'foo'",
    "return v.nat.x.flatten(1).sum(1)": "does not depend on the student's weights",
}


@pytest.mark.parametrize("line", METHODS)
def test_a_broken_term_is_one_line_that_names_it(line: str, mmard: Run, tmp_path: Path) -> None:
    head = "from mmard import Method, term\n\n@term('{nope}')\ndef mine(v):\n    "
    source = f"{head}{line}\n\ndef build():\n    return Method(outer=mine)\n"
    (tmp_path / "mine.py").write_text(source)
    assert_one_line(mmard("train", *NO_ATTACK, "--method", "mine.py:build"), METHODS[line])


def test_an_attack_that_ascends_nothing_is_one_line(mmard: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from mmard import Method, Pgd\nfrom mmard.terms import hard_nat\n\n"
        "def build():\n    return Method(inner=hard_nat, outer=hard_nat, maximizer=Pgd())\n"
    )
    assert_one_line(mmard("train", *SHORT, "--method", "mine.py:build"), "does not depend on x'")


@pytest.fixture
def finished(mmard: Run, tmp_path: Path) -> Path:
    """A short run in runs/run."""
    done = mmard("train", *SHORT, "--method", "pgd_at")
    assert done.returncode == 0, done.stderr
    return tmp_path / "runs/run"


def test_a_run_folder_is_not_overwritten_nor_continued_with_other_settings(mmard: Run, finished: Path) -> None:
    before = (finished / "best.safetensors").read_bytes()
    assert_one_line(mmard("train", *SHORT, "--method", "pgd_at"), "holds a run already", "--resume")
    changed = mmard("train", *SHORT, "train.lr=0.5", "--method", "pgd_at", "--resume")
    assert_one_line(changed, "other settings", "train.lr: 0.1 → 0.5")
    assert (finished / "best.safetensors").read_bytes() == before


def test_a_moved_run_goes_on_where_it_is_now(mmard: Run, finished: Path, tmp_path: Path) -> None:
    finished.rename(tmp_path / "runs/lr=0.1 [red]")
    done = mmard("train", "runs/lr=0.1 [red]", "--resume")
    assert done.returncode == 0, done.stderr
    assert not finished.exists()
    assert mmard("eval", "runs/lr=0.1 [red]", "--attacks", "none").returncode == 0


def test_lost_settings_do_not_let_another_run_take_the_folder(mmard: Run, finished: Path) -> None:
    (finished / "settings.yaml").unlink()
    assert_one_line(mmard("train", *SHORT, "--method", "pgd_at", "seed=5"), "holds a run already")


def test_a_folder_in_use_is_one_line(mmard: Run, finished: Path) -> None:
    with (finished / ".lock").open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert_one_line(mmard("train", *SHORT, "--method", "pgd_at", "--resume"), "is in use by process")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", pickle.dumps(print), None])
def test_a_broken_checkpoint_is_one_line_and_is_kept(content: bytes | None, mmard: Run, finished: Path) -> None:
    file = finished / "checkpoint.pt"
    file.write_bytes(file.read_bytes()[:-1000] if content is None else content)
    kept = file.read_bytes()
    words = "is damaged" if content is None else "is no whole checkpoint"  # a part of an archive has lost its digest
    assert_one_line(mmard("train", *SHORT, "--method", "pgd_at", "--resume"), f"checkpoint.pt {words}")
    assert file.read_bytes() == kept


def test_no_space_on_the_disk_is_one_line(tmp_path: Path) -> None:
    """A limit on the size of files stands for the full disk."""
    words = [*SHORT, "student=cnn-16-3", "out=runs/full", "--method", "pgd_at"]
    limited = f"ulimit -f 8; exec {sys.executable} -m mmard train {' '.join(words)}"
    environment = {**os.environ, "COLUMNS": "300"}
    done = subprocess.run(
        ["bash", "-c", limited], cwd=tmp_path, capture_output=True, text=True, env=environment, check=False
    )
    assert_one_line(done, "cannot write", "File too large")


def test_a_first_failed_attempt_does_not_block_the_folder(mmard: Run, digits_teacher: Path) -> None:
    assert mmard("train", *SHORT).returncode == 2
    assert mmard("train", *SHORT, "--teacher", digits_teacher).returncode == 0


def test_a_quick_look_never_replaces_a_full_evaluation(mmard: Run, finished: Path) -> None:
    assert mmard("eval", "runs/run", "--attacks", "fgsm").returncode == 0
    full = finished / "eval/best_FGSM/scores.json"
    before = full.read_text()
    assert mmard("eval", "runs/run", "--attacks", "fgsm", "--limit", "20").returncode == 0
    assert mmard("eval", "runs/run", "--attacks", "fgsm", "threat.eps=0").returncode == 0
    assert mmard("eval", "runs/run", "--attacks", "fgsm", "--seed", "1").returncode == 0
    assert mmard("eval", "runs/run", "--attacks", "none").returncode == 0
    assert len(list((finished / "eval").iterdir())) == 5
    assert not (finished / "eval/best").exists()
    assert full.read_text() == before


def test_a_model_for_other_images_is_one_line(mmard: Run, tmp_path: Path) -> None:
    save_weights(tmp_path / "t.safetensors", small_net(classes=10, channels=3))
    assert_one_line(mmard("eval", "t.safetensors", "data.name=digits", "data.size=8"), "data.size means nothing")
    assert_one_line(mmard("eval", "t.safetensors"), "does not say which data it is for", "data.name=digits")
    assert_one_line(
        mmard("eval", "t.safetensors", "data.name=digits"), "has 10 classes and 3 channels, the data 10 and 1"
    )


BURST = """
from mmard import Method, term

@term
def burst(v):
    return v.nat.student.sum(1) * (float("nan") if v.progress > 0.5 else 1)

def build():
    return Method(outer=burst)
"""


def test_a_loss_that_is_not_finite_names_step_and_term(mmard: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(BURST)
    done = mmard("train", *NO_ATTACK, "train.epochs=2", "--method", "mine.py:build")
    assert_one_line(done, "loss term 'burst' is not finite at step", "last good checkpoint is kept")
    assert (tmp_path / "runs/run/checkpoint.pt").exists()


def test_data_without_images_or_with_one_class_is_one_line(mmard: Run, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    pytest.importorskip("datasets")
    for split in ("train", "test"):
        (tmp_path / "one" / split / "red").mkdir(parents=True)
        for i in range(20):
            red = 250 if split == "train" else 255  # no test picture is a training picture
            image.new("RGB", (8, 8), (red, 0, 0)).save(tmp_path / "one" / split / "red" / f"{i}.png")
        (tmp_path / "bare" / split).mkdir(parents=True)
    common = ["--method", "pgd_at", "data.name=imagefolder"]
    assert_one_line(mmard("train", *common, "data.root=one"), "all of one class")
    assert_one_line(mmard("train", *common, "data.root=bare"), "cannot load data set 'imagefolder'")


def test_two_names_of_one_teacher_in_a_recipe_are_one_line(mmard: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("{teacher: here, teachers: {robust: there}}\n")
    assert_one_line(mmard("train", "mine.yaml"), "teacher and teachers.robust are two names of one network")


def test_a_methods_own_state_and_the_callers_random_numbers_survive_the_check_for_teachers() -> None:
    """The terms are evaluated on a copy before anything is loaded."""
    method = mtard()
    before, torch_before = [b.clone() for m in method.modules() for b in m.buffers()], torch.get_rng_state()
    must_be_whole(method, ["teacher", "natural"])
    assert all(
        torch.equal(a, b) for a, b in zip(before, (b for m in method.modules() for b in m.buffers()), strict=True)
    )
    assert torch.equal(torch_before, torch.get_rng_state())
    with pytest.raises(MmardError, match="a 'natural' model"):
        must_be_whole(method, ["teacher"])


def test_a_part_that_would_begin_after_the_run_is_refused() -> None:
    for method in (iad(begin=60), ciard(begin=30), awp(rslad(), begin=31)):
        with pytest.raises(MmardError, match=r"begins after .* epochs, and the run has 30: it never would"):
            must_be_whole(method, ["teacher", "natural"], epochs=30)
        must_be_whole(method, ["teacher", "natural"], epochs=61)
