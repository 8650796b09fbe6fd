"""Which checkpoint is the best one, and which numbers a setting takes."""

import random
from pathlib import Path
from typing import Any

import pytest

from mmard import MmardError, train
from mmard.api.settings import read_settings
from mmard.models.weights import metadata_of
from mmard.runs.folder import best_validation
from mmard.training.schedule import Plan
from mmard.training.validation import chosen_by, is_better


def look(clean: float, robust: float) -> dict[str, float]:
    return {"clean": clean, "robust": robust}


@pytest.mark.parametrize(
    ("found", "best", "natural", "better"),
    [
        (look(70, 30), look(90, 29), False, True),  # robust accuracy decides
        (look(91, 30), look(90, 30), False, True),  # then clean
        (look(70, 30), look(90, 29), True, False),  # of a natural method clean alone
        (look(91, 0), look(90, 40), True, True),
        (look(70, 3), look(90, 0), False, False),  # three of a hundred are noise
        (look(70, 4), look(90, 3), False, True),
        (look(0, 0), look(-1, -1), False, True),  # the first look of all
        (look(90, 0), look(90, 0), True, False),
    ],
)
def test_the_better_of_two_looks(found: dict[str, float], best: dict[str, float], natural: bool, better: bool) -> None:
    assert is_better(found, best, 100, natural) is better


def test_by_what_it_was_chosen() -> None:
    assert [chosen_by(look(90, r), 100, False) for r in (0, 3, 4)] == ["clean", "clean", "robust"]
    assert chosen_by(look(90, 90), 100, True) == "clean"
    assert chosen_by(look(90, 1), 1000, False) == "robust"  # ten images


@pytest.mark.parametrize("natural", [False, True])
def test_a_report_names_the_epoch_whose_checkpoint_was_kept(natural: bool) -> None:
    """Held-out figures of the best epoch were those of the most robust one, also where clean accuracy had chosen."""
    draw = random.Random(0)
    for _ in range(200):
        lines, kept, best = list[dict[str, Any]](), 0, look(-1, -1)
        for epoch in range(1, 6):
            found = look(draw.randint(0, 9), draw.choice([0, 0, 1, 3, 4, 5]))
            if is_better(found, best, 100, natural):
                kept, best = epoch, found
            lines.append({"epoch": epoch, **found, "chosen_by": chosen_by(found, 100, natural)})
        line = best_validation(lines)
        assert line is not None
        assert line["epoch"] == kept


def test_the_best_of_a_natural_run_is_its_cleanest_and_the_record_says_so(tmp_path: Path) -> None:
    small: dict[str, Any] = {
        "data__limit": 400, "student": "cnn-4-2", "train__epochs": 4, "train__batch_size": 50, "validation__steps": 1,
        "threat__eps": 0.02, "train__lr": 0.3,
    }  # fmt: skip
    run = train(method="standard", out=str(tmp_path / "run"), **small)
    records = run.metrics()
    assert {record["chosen_by"] for record in records} == {"clean"}
    cleanest = max(records, key=lambda record: (record["clean"], -record["epoch"]))
    metadata = metadata_of(run.best_file)
    assert (metadata["epoch"], metadata["chosen_by"]) == (cleanest["epoch"], "clean")


@pytest.mark.parametrize(
    "wrong",
    [
        {"train.epochs": True}, {"train.lr": True}, {"threat.eps": True}, {"data.size": True}, {"attack.steps": True},
        {"train.milestones": [True, 0.9]}, {"engine.devices": True}, {"seed": False}, {"data.held_out": True},
    ],
)  # fmt: skip
def test_true_is_no_number(wrong: dict[str, Any]) -> None:
    with pytest.raises(MmardError, match=r"setting '\S+' is .*(True|False).*: expected a number"):
        read_settings(None, wrong)


def test_what_may_be_true_may_be() -> None:
    settings = read_settings(None, {"train.nesterov": True, "engine.compile": True, "data.stream": True})
    assert settings.train.nesterov
    assert settings.engine.compile


@pytest.mark.parametrize(
    "wrong",
    [
        {"lr": 1e30}, {"lr": -0.1}, {"lr": True}, {"momentum": 1.5}, {"weight_decay": 11.0}, {"decay": -1.0},
        {"epochs": 0}, {"epochs": True}, {"batch_size": -1}, {"batch_size": 2.5},
    ],
)  # fmt: skip
def test_a_plan_with_a_number_nobody_can_mean_is_refused(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(MmardError, match=f"{name}'? is .*[,:] expected a"):
        Plan(**wrong)
