"""A recipe that is tried for a few epochs keeps the shape of its plan; what the user gives beyond the end is refused."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from mmard.api.build import resolve
from mmard.api.recipe_files import recipes
from mmard.api.settings import read_settings
from mmard.api.train import train
from mmard.study.grid import cells_of
from mmard.study.jobs import jobs_of
from mmard.study.spec import StudyFile
from mmard.utils.errors import MmardError, Note
from mmard.utils.numbers import share_of_run
from mmard.utils.validation import validated

FEW = {"train.epochs": 2, "data.name": "digits", "student": "cnn-2-1"}
OWN: dict[str, Any] = {
    "method": "awp(rebat(begin=6))", "student": "cnn-2-1", "data.limit": 100, "data.augment_late": {"kind": "crop", "after": 8},
    "train.epochs": 10, "train.batch_size": 32, "train.schedule": "piecewise", "train.milestones": [0.5, 8], "attack.steps": 1,
    "averaging.kind": "ema", "averaging.start": 3, "validation.steps": 1,
}  # fmt: skip


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mmard.api.build.teachers_of", lambda _: {})  # made-up networks need not be there
    Path("own.yaml").write_text(yaml.safe_dump(OWN))


@pytest.mark.parametrize("name", recipes())
@pytest.mark.parametrize("epochs", [1, 2, 7])
def test_every_recipe_can_be_tried_for_a_few_epochs(name: str, epochs: int) -> None:
    """Each moment lies at the share of the run at which the recipe has it."""
    whole, tried = read_settings(name), resolve(read_settings(name, FEW | {"train.epochs": epochs})).settings

    def moments(settings: Any) -> list[float]:
        return [share_of_run(m, settings.train.epochs) for m in (*settings.train.milestones, settings.train.hold)]

    assert moments(tried) == pytest.approx(moments(whole))


def test_a_note_says_what_became_of_which_setting() -> None:
    found = resolve(read_settings("rebat-cifar10-preactresnet18", FEW))
    assert found.notes == (
        "train.epochs=2 is less than the recipe's 200: what it says in epochs is a share of the run now, "
        "train.milestones [100, 150] → [0.5, 0.75], averaging.start 105 → 0.525, method.begin 105 → 0.525",
    )


def test_moments_of_every_kind_become_shares_and_shares_stay() -> None:
    found = read_settings("own.yaml", {"train.epochs": 5})
    assert (found.train.milestones, found.averaging.start, found.train.epochs) == ((0.5, 0.8), 0.3, 5)
    assert found.data.augment_late is not None
    assert found.data.augment_late.after == 0.8
    assert found.method == {"name": "awp", "base": {"name": "rebat", "begin": 0.6}}


@pytest.mark.parametrize("words", [{}, {"train.epochs": 9}, {"train.epochs": 20}, {"train.lr": 0.2}])
def test_where_all_comes_in_its_time_nothing_is_changed(words: dict[str, Any]) -> None:
    found = read_settings("own.yaml", words)
    assert (found.train.milestones, found.averaging.start, found.notes) == ((0.5, 8), 3, ())


def test_also_a_recipe_that_shortens_its_base_is_noted() -> None:
    Path("short.yaml").write_text("base: own.yaml\ntrain: {epochs: 5}\n")
    found = read_settings("short.yaml")
    assert found.train.milestones == (0.5, 0.8)
    assert [note.partition(":")[0] for note in found.notes] == ["train.epochs=5 is less than the recipe's 10"]
    assert read_settings(found, {"seed": 1}).notes == found.notes


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"train.milestones": [1, 3]}, "train.milestones has 3, and the run ends with epoch 2"),
        ({"averaging.start": 3}, r"the average \(averaging.start\) begins after 3 epochs, and the run has 2"),
        ({"data.augment_late.after": 3}, "data.augment_late begins after 3 epochs, and the run has 2"),
        ({"method.base.begin": 3}, "begins after 3 epochs, and the run has 2"),
        ({"train.schedule": "cosine", "train.hold": 3}, "train.hold=3 is not before the end, train.epochs=2; expected less"),
    ],
    ids=str,
)  # fmt: skip
def test_what_the_user_gives_beyond_the_end_is_refused(words: dict[str, Any], says: str) -> None:
    with pytest.raises(MmardError, match=says):
        resolve(read_settings("own.yaml", {"train.epochs": 2} | words))


@pytest.mark.parametrize(
    "words", [{"method": "rebat"}, {"method.base": "rebat"}, {"train.milestones": [1]}, {"averaging.kind": "none"}], ids=str
)  # fmt: skip
def test_what_is_given_or_given_up_is_no_matter_of_the_note(words: dict[str, Any]) -> None:
    (note,) = read_settings("own.yaml", {"train.epochs": 2} | words).notes
    (key,) = words
    assert f" {key.replace('kind', 'start')} " not in note.replace(".begin", "").replace("base.", "base")


@pytest.mark.parametrize("wrong", [{"train.milestones": "soon"}, {"train": {"milestones": [[8]], "epochs": 10}}])
def test_a_wrong_value_in_a_recipe_is_refused_as_ever(wrong: dict[str, Any]) -> None:
    with pytest.raises(MmardError, match=r"train.milestones' is .*expected a"):
        read_settings({"averaging": {"kind": "swa", "start": 9}} | wrong, {"train.epochs": 2})


def test_a_shortened_recipe_is_trained_and_its_note_told_once() -> None:
    with pytest.warns(Note, match="is a share of the run now") as told:
        run = train("own.yaml", out="runs/short", train__epochs=2)
    assert len([each for each in told if "is a share of the run now" in str(each.message)]) == 1
    assert [line["epoch"] for line in run.metrics()] == [1, 2]


def test_a_study_tells_the_note_once_for_all_its_cells() -> None:
    few = {"base": "own.yaml", "settings": {"train.epochs": 2}, "grid": {"train.lr": [0.1, 0.2]}, "out": "runs/study"}
    plan = validated(StudyFile, few, "key of the study")
    with pytest.warns(Note) as told:
        jobs_of(cells_of(plan), plan.evaluate)
    assert ["is a share of the run now" in str(each.message) for each in told] == [True]
