"""Figures that were wrong while nothing was amiss: each is refused or told now, and an honest one is not."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from helpers import small_net

from mmard import MmardError
from mmard.api.evaluate import evaluate_run
from mmard.models.weights import save_weights

DIGITS: dict[str, Any] = {"data__name": "digits", "threat__eps": 0.1}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_weights_replaced_during_an_evaluation_get_no_record(here: Path, digits_teacher: Path) -> None:
    """The old weights' verdicts had the SHA-256 of the new ones, and card and report took them for theirs."""
    weights, other = here / "best.safetensors", here / "other.safetensors"
    shutil.copy(digits_teacher, weights)
    save_weights(other, small_net(classes=10, name="cnn-4-3").eval(), {})

    def replace(*_: object) -> None:
        shutil.copy(other, weights)

    with pytest.raises(MmardError, match=r"was replaced during the evaluation.*start the evaluation again"):
        evaluate_run(weights, "fgsm", limit=40, examples=0, on_progress=replace, **DIGITS)
    assert not list(here.rglob("scores.json"))
    assert len(evaluate_run(weights, "fgsm", limit=40, examples=0, **DIGITS).correct) == 40
