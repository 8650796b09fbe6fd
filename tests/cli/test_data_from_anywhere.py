"""From one's own data to a judged run: a function, arrays with a cut test split, extra images."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from helpers import QUICK, Run, blobs
from test_processes import METHOD, losses
from test_trust import plant, refused

from mmard.api.build import data_of, known_of
from mmard.api.settings import read_settings
from mmard.data.images import Images
from mmard.models.weights import metadata_of, read_state

WORDS = np.array(["dog", "ant", "cat", "bee"])
SHORT = [
    "student=cnn-4-2",
    "train.epochs=2",
    "train.batch_size=20",
    "attack.steps=1",
    "validation.steps=1",
    "threat.eps=0.1",
]
TRAIN = ["train", "--method", "pgd_at", *SHORT, "data.test_split=0.25", "data.held_out=0.2"]
BUILD = """
from pathlib import Path
import numpy as np
Path("was-run").touch()

def build(count=80):
    assert isinstance(count, int)
    with np.load(Path(__file__).with_name("some.npz")) as given:
        return given["x"][:count], given["y"][:count]

def remove():
    Path("removed").touch()
"""
JUDGE = ["--attacks", "none", "--checks", "none", "--examples", "0"]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    images = blobs(120)
    np.savez(tmp_path / "some.npz", x=images.pixels.numpy(), y=WORDS[images.labels])
    (tmp_path / "mine.py").write_text(BUILD)
    return tmp_path


def test_a_function_of_ones_own_gives_the_data_from_training_to_evaluation(mmard: Run, files: Path) -> None:
    words = [*TRAIN, "data.name=mine.py:build", "out=run"]
    done = mmard(*words, "data.parameters.count=100")
    assert done.returncode == 0, done.stderr
    assert metadata_of(files / "run" / "best.safetensors")["classes"] == ["ant", "bee", "cat", "dog"]
    assert "**Classes**, in the order of the outputs: ant, bee, cat, dog" in (files / "run" / "README.md").read_text()
    assert "25% of the images, cut off by class and seed 0" in (files / "run" / "README.md").read_text()
    done = mmard("eval", "run", *JUDGE)
    assert done.returncode == 0, done.stderr
    assert "25 test images" in done.stdout
    for word, own in (("test_seed=3", "test_seed=0"), ("test_split=0.5", "test_split=0.25")):
        cut = mmard("eval", "run", f"data.{word}", *JUDGE)
        refused(cut, f"was trained with data.{own}, and data.{word} would cut its data otherwise", "leave it out")
    wrong = mmard(*words, "out=other", "data.parameters.size=9")
    refused(wrong, "mine.py:build", "unexpected keyword argument 'size'")


def test_a_function_in_somebodys_folder_is_not_run(mmard: Run, files: Path) -> None:
    (files / "mine.py").write_text(f"{BUILD}# {files}, whose code nobody has run before\n")
    assert mmard(*TRAIN, "data.name=npz", "data.train=some.npz", "out=run").returncode == 0
    shutil.copytree(files / "run", files / "theirs")
    plant(files / "theirs", data={"name": "mine.py:build", "train": None})
    refused(mmard("eval", "theirs", *JUDGE), "the settings name the data.name mine.py:build", "--trust")
    assert not (files / "was-run").exists()
    done = mmard("eval", "theirs", "data.name=mine.py:build", *JUDGE)
    assert done.returncode == 0, done.stderr
    assert mmard("eval", "theirs", *JUDGE).returncode == 0  # the user has run this code
    plant(files / "theirs", data={"name": "mine.py:remove"})  # but not this function of it
    refused(mmard("eval", "theirs", *JUDGE), "data.name mine.py:remove", "--trust")
    plant(files / "theirs", data={"name": "mine.py:build", "parameters": {"count": "/etc/passwd"}})
    refused(mmard("eval", "theirs", *JUDGE), "data.parameters.count=/etc/passwd", "--trust")
    plant(files / "theirs", data={"name": "mine.py:build", "parameters": {}})
    (files / "mine.py").write_text(f"{BUILD}# {files}, changed\n")
    refused(mmard("eval", "theirs", *JUDGE), "--trust")


def test_the_cut_test_images_are_the_same_on_resume_and_evaluation_and_never_learnt(mmard: Run, files: Path) -> None:
    data = ["data.name=npz", "data.train=some.npz", "out=run"]
    assert mmard(*TRAIN, *data, "train.epochs=1").returncode == 0
    begun = data_of(read_settings(files / "run"))
    assert mmard(*TRAIN, *data, "train.epochs=2", "--resume", "--extend").returncode == 0
    settings = read_settings(files / "run")
    assert settings.data.test_split == 0.25
    again = data_of(settings, [known_of(files / "run", "the run")], stream=True)
    assert torch.equal(begun.test.index, again.test.index)
    learnt = torch.cat([again.train.index, again.held_out.index])
    assert not np.intersect1d(learnt, again.test.index).size
    assert len(learnt) + len(again.test) == 120
    other = [word.replace("0.25", "0.3") for word in TRAIN]
    refused(mmard(*other, *data, "train.epochs=2", "--resume"), "data.test_split: 0.25 → 0.3")


def test_images_of_a_program_are_named_and_no_command_finds_them(mmard: Run, files: Path) -> None:
    assert mmard(*TRAIN, "data.name=npz", "data.train=some.npz", "out=run").returncode == 0
    plant(files / "run", data={"name": "python", "train": None})
    refused(mmard("eval", "run", *JUDGE), "were given by a Python program", "data.name=npz data.train=FILE.npz")
    done = mmard("eval", "run", "data.name=npz", "data.train=some.npz", *JUDGE)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["data.extra_ratio=0.5"], "data.extra_ratio is of extra images, and there are none; give data.extra=FILE.npz"),
        (["data.extra=some.npz", "data.extra_ratio=1"], "setting 'data.extra_ratio' is 1: expected a number below 1"),
        (["data.extra=some.npz", "data.extra_labels=me"], "setting 'data.extra_labels' is 'me': expected 'file' or 'teacher'"),
        (["data.extra=some.npz", "data.extra_labels=teacher"], "no teacher is given to label them; give teacher=RUN"),
        (["data.extra=some.npz", "attack.warm_start=true"], "attack.warm_start keeps a perturbation of every image"),
        (["data.extra=none.npz"], "there is no file none.npz; expected an .npz file"),
        (["data.extra=mine.py"], "mine.py is no .npz file"),
    ],
)  # fmt: skip
def test_extra_images_that_mean_nothing_are_one_line(mmard: Run, files: Path, words: list[str], said: str) -> None:
    done = mmard(*TRAIN, "data.name=npz", "data.train=some.npz", "out=run", *words)
    assert done.returncode == 2
    assert said in done.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize("by", ["file", "teacher"])
def test_extra_images_from_the_command_line(mmard: Run, files: Path, by: str) -> None:
    more = blobs(50, seed=7)
    np.savez(files / "more.npz", image=more.pixels.numpy(), label=WORDS[more.labels])
    data = ["data.name=npz", "data.train=some.npz"]
    assert mmard(*TRAIN, *data, "out=teacher").returncode == 0
    extra = ["data.extra=more.npz", "data.extra_ratio=0.6", f"data.extra_labels={by}", "teacher_check=none"]
    rslad = [word.replace("pgd_at", "rslad") for word in TRAIN]
    done = mmard(*rslad, *data, *extra, "teacher=teacher", "out=run")
    assert done.returncode == 0, done.stderr
    assert "learnt from other data" not in done.stderr
    card = (files / "run" / "README.md").read_text()
    assert re.search("60% of each batch are extra images from `more.npz`", card)
    assert yaml.safe_load((files / "run" / "settings.yaml").read_text())["data"]["extra_labels"] == by
    (files / "more.npz").unlink()
    assert mmard("eval", "run", *JUDGE).returncode == 0  # they are of training alone


@pytest.mark.slow
def test_processes_train_on_extra_images_as_one(mmard_process: Run, digits_teacher: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(METHOD)
    digits: Images = data_of(read_settings(None)).test
    np.savez(tmp_path / "more.npz", image=digits.pixels.numpy())
    words = [
        "train",
        *QUICK,
        "train.batch_size=60",
        "student=plain",
        "--method",
        "mine.py:build",
        "--teacher",
        digits_teacher,
    ]
    for count in (1, 2):
        devices = [f"engine.devices={count}", "engine.accelerator=cpu"]
        done = mmard_process(*words, *devices, "data.extra=more.npz", f"out=runs/{count}")
        assert done.returncode == 0, done.stderr
    assert losses(tmp_path / "runs/2") == pytest.approx(losses(tmp_path / "runs/1"), rel=1e-5)
    one, other = (read_state(tmp_path / f"runs/{count}/last.safetensors") for count in (1, 2))
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, rtol=1e-4, atol=1e-6)
    assert "extra" in json.loads(json.dumps(yaml.safe_load((tmp_path / "runs/2/settings.yaml").read_text())["data"]))
