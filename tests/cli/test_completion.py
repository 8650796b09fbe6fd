"""Completion by the shell: what it offers, and that it is quick."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mmard.api.settings import Settings
from mmard.attacks.inner.compose import Inner
from mmard.cli.completion import settings, values_of
from mmard.methods import METHODS
from mmard.models.architectures import FAMILIES
from mmard.utils.validation import keys_of


def offered(words: str, at: int, shell: str = "bash") -> list[str]:
    """What the shell is told for the word number ``at``."""
    told = {"COMP_WORDS": words, "COMP_CWORD": str(at), "_TYPER_COMPLETE_ARGS": words}
    done = subprocess.run(
        [sys.executable, "-m", "mmard"], env={**os.environ, **told, "_MMARD_COMPLETE": f"complete_{shell}"},
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return done.stdout.splitlines()


def test_the_settings_are_those_of_the_code() -> None:
    keys = keys_of(Settings)
    leaves = {key for key in keys if not any(other.startswith(f"{key}.") for other in keys)}
    assert settings().keys() == leaves
    assert f"attack.{next(iter(Inner.model_fields))}" in settings()
    assert settings()["threat.norm"] == ["linf", "l2"]
    assert settings()["engine.compile"] == ["true", "false"]


def test_values_are_those_of_the_code() -> None:
    assert values_of("method") == list(METHODS)
    assert {"resnet18", "preactresnet18", "mobilenetv2"} <= set(values_of("student")) <= FAMILIES.keys()
    assert values_of("tracking") == ["tensorboard", "mlflow", "wandb"]
    assert "zoo:cifar10-cnn-32-7" in values_of("teacher")
    assert values_of("train.lr") == values_of("nothing") == []


@pytest.mark.parametrize(
    ("words", "at", "found"),
    [
        ("mmard ex", 1, ["export"]),
        ("mmard train digits-rs", 2, ["digits-rslad"]),
        ("mmard train digits-rslad data.on_e", 3, ["data.on_error="]),
        ("mmard train digits-rslad threat.norm = l", 5, ["linf", "l2"]),  # as bash breaks it
        ("mmard train digits-rslad threat.norm =", 4, ["linf", "l2"]),
        ("mmard train --method rsl", 3, ["rslad"]),
        ("mmard export runs/a --format o", 4, ["onnx", "openvino"]),
    ],
)
def test_bash_is_offered_what_fits(
    words: str, at: int, found: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert offered(words, at) == found


def test_other_shells_hear_key_and_value_as_one_word_and_paths_of_folders_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "threat.norm=linf" in "\n".join(offered("mmard train digits-rslad threat.norm=li", 0, "zsh"))
    (tmp_path / "runs/mine").mkdir(parents=True)
    assert offered("mmard eval runs/m", 2) == ["runs/mine/"]


def test_completion_imports_nothing_heavy() -> None:
    code = (
        "import sys; from mmard.cli.completion import *; from mmard.cli import app; settings(); values_of('method')\n"
        "print([name for name in ('torch', 'pydantic', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
