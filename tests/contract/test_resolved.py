"""Settings are validated once and the method is built once, from the door to the trainer."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from helpers import Run
from pydantic import BaseModel

from mmard.api import build
from mmard.api.build import resolve
from mmard.api.settings import Settings, read_settings
from mmard.study.jobs import Job
from mmard.study.spec import Evaluation
from mmard.study.worker import as_dict, run_job
from mmard.training.averaging import Averaging
from mmard.training.schedule import Plan
from mmard.training.validation import Validation
from mmard.utils.errors import MmardError

QUICK = [
    "data.limit=100", "student=cnn-2-1", "train.epochs=1", "train.batch_size=32", "attack.steps=1", "attack.step_size=0.1",
    "threat.eps=0.1", "validation.steps=1",
]  # fmt: skip


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often whole settings were validated, and methods built."""
    found: Counter[str] = Counter()
    validate, built = BaseModel.model_validate.__func__, build.build_method  # type: ignore[attr-defined]

    def counting(cls: type[BaseModel], *a: Any, **k: Any) -> Any:
        found["settings"] += cls is Settings
        return validate(cls, *a, **k)

    def building(*a: Any, **k: Any) -> Any:
        found["method"] += 1
        return built(*a, **k)

    monkeypatch.setattr(Settings, "model_validate", classmethod(counting))
    monkeypatch.setattr(build, "build_method", building)
    return found


def test_a_training_and_an_evaluation(mmard: Run, tmp_path: Path, counted: Counter[str]) -> None:
    run = str(tmp_path / "run")
    assert mmard("train", "--method", "pgd_at", *QUICK, "--out", run).returncode == 0
    assert counted == {"settings": 1, "method": 1}
    counted.clear()
    assert mmard("eval", run, "--attacks", "fgsm", "--limit", "20", "threat.eps=0.05").returncode == 0
    assert counted == {"settings": 1}


def test_a_cell_of_a_study(tmp_path: Path, counted: Counter[str]) -> None:
    settings = read_settings(
        None, {**dict(q.split("=") for q in QUICK), "method": "pgd_at", "out": str(tmp_path / "cell")}
    )
    job = as_dict(Job("cell", settings, Evaluation(attacks="fgsm", limit=20)))
    counted.clear()
    run_job(job)
    assert counted == {
        "settings": 2,
        "method": 1,
    }  # those of the training, and those that its weights were trained with


def test_what_is_resolved_is_the_settings_own_sections() -> None:
    settings = read_settings(None, {"method": "pgd_at", "train.epochs": 3})
    resolved = resolve(settings)
    assert resolved.plan is settings.train
    assert resolved.averaging is settings.averaging
    assert resolved.validation is settings.validation
    assert read_settings(settings) == settings


@pytest.mark.parametrize(
    ("section", "given", "expected"),
    [
        (Plan, {"lr": "fast"}, "setting 'lr' is 'fast': expected a number such as 8/255 or 0.03"),
        (Plan, {"lr": True}, "setting 'lr' is True: expected a number"),
        (Plan, {"epochs": 0}, "setting 'epochs' is 0: expected a number not below 1"),
        (Plan, {"epoch": 3}, "unknown setting 'epoch'; did you mean epochs"),
        (Averaging, {"decay": 1}, "setting 'decay' is 1: expected a number below 1"),
        (Validation, {"patience": 0}, "setting 'patience' is 0: expected a number not below 1"),
    ],
)
def test_a_section_in_python_says_a_mistake_in_a_line(section: type, given: dict[str, Any], expected: str) -> None:
    with pytest.raises(MmardError) as e:
        section(**given)
    assert str(e.value).startswith(expected)
    assert "\n" not in str(e.value)
