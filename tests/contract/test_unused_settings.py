"""A setting that a user gives and that would change nothing is refused in a line; a recipe's own gives way without a word."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import Run

from mmard.api.build import method_of, resolve
from mmard.api.recipe_files import recipes
from mmard.api.settings import Settings, read_settings
from mmard.api.train import train
from mmard.api.unused_settings import (
    DIAGNOSIS,
    EVALUATION,
    EXAMINATION,
    EXPORT,
    MEASUREMENT,
    STEP,
    Work,
    must_be_used_in,
    must_change_something,
    note_unused_checkpoints,
)
from mmard.api.whole_method import must_be_whole
from mmard.study.grid import cells_of
from mmard.study.spec import read_study, studies
from mmard.utils.errors import MmardError, Note

ROOT = Path(__file__).parents[2]
SMALL = {
    "method": "pgd_at", "student": "cnn-2-1", "data.limit": 100, "train.epochs": 4, "train.batch_size": 32, "threat.eps": 0.1,
    "attack.steps": 1, "attack.step_size": 0.1, "validation.steps": 1, "normalize": "none",
}  # fmt: skip
UNUSED: list[tuple[dict[str, Any], str]] = [
    ({"train.milestones": [0.5]}, "train.milestones means nothing beside train.schedule=cosine, only beside train.schedule=p"),
    ({"train.decay": 0.5, "train.schedule": "constant"}, "train.decay means nothing beside train.schedule=constant"),
    ({"train.milestones": [2, 4], "train.schedule": "piecewise"}, "train.milestones has 4, and the run ends with epoch 4"),
    ({"train.hold": 1, "train.warmup": 0.5}, "train.hold=1 is over before train.warmup=0.5 is"),
    ({"train.momentum": 0.5, "train.optimizer": "adamw"}, "train.momentum means nothing beside train.optimizer=adamw"),
    ({"train.nesterov": True, "train.optimizer": "adamw"}, "train.nesterov means nothing beside train.optimizer=adamw"),
    ({"averaging.decay": 0.5}, "averaging.decay means nothing beside averaging.kind=none, only beside averaging.kind=ema"),
    ({"averaging.decay": 0.5, "averaging.kind": "swa"}, "averaging.decay means nothing beside averaging.kind=swa"),
    ({"averaging.start": 50}, "averaging.start means nothing beside averaging.kind=none"),
    ({"validation.steps": 5, "validation.attack": "autoattack-quick"}, "validation.steps means nothing beside"),
    ({"data.test_seed": 3, "data.name": "npz", "data.train": "x.npz"}, "data.test_seed means nothing beside data.test_split=none"),
    ({"data.augment": "crop", "data.augment_late": {"kind": "crop"}}, "data.augment_late=crop is what data.augment is"),
    ({"teacher_recipe": "digits-teacher"}, "teacher_recipe means nothing beside teacher=none, only beside a teacher"),
]  # fmt: skip
NOTED: list[tuple[dict[str, Any], str]] = [
    ({"validation.patience": 3}, "validation.patience=3 never ends a run that validates 4 times"),
    ({"teachers.naturel": "zoo:x"}, "teachers.naturel is a network that this method never asks for (it asks for: none)"),
]  # fmt: skip
"""What may be no mistake: one run of many has fewer epochs, or another method."""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mmard.api.build.teachers_of", lambda _: {})  # made-up networks need not be there


def case(pair: object) -> str:
    return ",".join(pair) if isinstance(pair, dict) else ""


@pytest.mark.parametrize(("words", "says"), UNUSED, ids=case)
def test_what_changes_nothing_is_refused(words: dict[str, Any], says: str) -> None:
    with pytest.raises(MmardError) as found:
        resolve(read_settings(None, SMALL | words))
    assert says in str(found.value)
    assert str(found.value).endswith("; leave it out") != ("; expected" in str(found.value))


@pytest.mark.parametrize(("words", "says"), NOTED, ids=case)
def test_what_may_be_no_mistake_is_noted(words: dict[str, Any], says: str) -> None:
    assert any(says in note for note in resolve(read_settings(None, SMALL | words)).notes)


@pytest.mark.parametrize(("words", "says"), UNUSED, ids=case)
def test_also_in_a_recipe_of_ones_own(words: dict[str, Any], says: str) -> None:
    Path("mine.yaml").write_text(yaml.safe_dump(SMALL | words))
    with pytest.raises(MmardError) as found:
        resolve(read_settings("mine.yaml"))
    assert says in str(found.value)


@pytest.mark.parametrize(("words", "says"), [one for one in (*UNUSED, *NOTED) if "data.train" not in one[0]], ids=case)
def test_the_settings_of_a_run_that_an_older_version_made_are_taken_with_a_note(
    words: dict[str, Any], says: str
) -> None:
    Path("runs/old").mkdir(parents=True)
    Path("runs/old/settings.yaml").write_text(yaml.safe_dump(read_settings(None, SMALL | words).resolved()))
    assert any(says in note for note in resolve(read_settings("runs/old", {"out": "runs/new"})).notes)


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ({"train.schedule": "piecewise", "train.milestones": [2], "train.decay": 0.5}, {"train.schedule": "cosine"}),
        ({"train.hold": 2}, {"train.schedule": "constant"}),
        ({"train.momentum": 0.5, "train.nesterov": True}, {"train.optimizer": "adamw"}),
        ({"averaging.kind": "ema", "averaging.decay": 0.5, "averaging.start": 3}, {"averaging.kind": "none"}),
        ({"averaging.kind": "ema", "averaging.start": 3}, {"averaging.kind": "none", "train.epochs": 2}),
        ({"validation.steps": 5}, {"validation.attack": "autoattack-quick"}),
        ({"teacher": "runs/teacher", "teacher_recipe": "digits-teacher"}, {"teacher": None}),
    ],
    ids=case,
)  # fmt: skip
def test_a_recipes_own_gives_way_to_another_word(recipe: dict[str, Any], words: dict[str, Any]) -> None:
    """What is dropped is the default again, and nothing is said."""
    Path("mine.yaml").write_text(yaml.safe_dump(SMALL | recipe))
    found = resolve(read_settings("mine.yaml", words))
    fresh = read_settings(
        None,
        {key: v for key, v in SMALL.items() if key != "validation.steps" or "validation.attack" not in words} | words,
    )
    assert found.settings.resolved() == fresh.resolved()
    assert found.notes == ()


def networks_of(settings: Settings) -> frozenset[str]:
    method = method_of(settings)
    fresh = [name for name, companion in method.companions.items() if companion.fresh]
    have = [*settings.teachers, *(["teacher"] if settings.teacher else []), *fresh]
    return must_be_whole(method, have, settings.train.epochs)


@pytest.mark.parametrize("name", recipes())
def test_a_built_in_recipe_has_nothing_unused(name: str) -> None:
    settings = read_settings(name)
    assert must_change_something(settings, networks_of(settings)) == (settings, ())


def plans() -> Iterator[str]:
    yield from studies()
    for file in sorted((ROOT / "docs" / "results").glob("**/plan/*.yaml")):
        if "axes" in (held := yaml.safe_load(file.read_text())) or "rows" in held:
            yield str(file)


@pytest.mark.parametrize("source", plans())
def test_a_study_has_nothing_unused_but_the_networks_that_its_methods_share(
    source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)  # methods of their own lie there
    for cell in cells_of(read_study(source)):
        for note in must_change_something(cell.settings, networks_of(cell.settings))[1]:
            assert note.startswith(("teachers.natural is", "this method asks for no teacher: it is loaded")), cell.name


def test_networks_that_a_method_asks_for_are_known() -> None:
    def asked(method: str, *names: str) -> frozenset[str]:
        return must_be_whole(method_of(read_settings(None, {"method": method})), names)

    assert asked("pgd_at", "teacher", "natural") == {"student"}
    assert asked("rslad", "teacher", "natural") == {"student", "teacher"}
    assert asked("mtard", "teacher", "natural") == {"student", "teacher", "natural"}


def test_a_method_of_ones_own_code_may_ask_later_and_is_given_its_networks() -> None:
    """Once in a run, say, when none of the times comes at which it was tried."""
    Path("mine.py").write_text("from mmard.methods import METHODS\nbuild = METHODS['pgd_at']\n")
    networks = {"teacher": "runs/teacher", "teacher_recipe": "digits-teacher", "teachers.natural": "runs/natural"}
    found = resolve(read_settings(None, SMALL | networks | {"method": "mine.py:build"}))
    assert (found.settings.teacher, found.settings.teachers) == ("runs/teacher", {"natural": "runs/natural"})
    assert len(found.notes) == 2


def test_a_teacher_that_is_there_is_loaded_for_the_triangle_and_noted() -> None:
    found = resolve(read_settings(None, SMALL | {"teacher": "runs/teacher"}))
    assert found.settings.teacher == "runs/teacher"
    assert found.notes == ("this method asks for no teacher: it is loaded for the triangle of the validations alone",)


@pytest.mark.parametrize("asks", [{"attack.stop_at": "teacher"}, {"data.extra": "more.npz"}])
def test_attack_and_extra_images_ask_for_the_teacher_too(asks: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmard.api.build.keys_in", lambda *_: None)
    assert resolve(read_settings(None, SMALL | {"teacher": "runs/teacher"} | asks)).notes == ()


def test_no_teacher_is_trained_for_a_method_that_asks_for_none() -> None:
    """Also when the run goes on, and a teacher of another run is there by then."""
    words = {**SMALL, "train.epochs": 2, "teacher": "runs/teacher", "teacher_recipe": "digits-teacher"}
    with pytest.warns(Note, match="asks for no teacher: teacher_recipe=digits-teacher trains none"):
        run = train(None, out="runs/own", **{key.replace(".", "__"): value for key, value in words.items()})
    assert not Path("runs/teacher").exists()
    assert read_settings(run.path).teacher is None
    Path("runs/teacher").mkdir()
    Path("runs/teacher/last.safetensors").touch()
    assert resolve(read_settings(None, words | {"out": "runs/own"})).settings.teacher is None


TWO = {"method": "mtard", "teacher": "gone.json", "teachers": {"natural": "gone/too.json"}, "scale": 0.5}
"""A recipe of a method with two teachers, which are not there."""


@pytest.fixture
def a_recipe_of_two_teachers(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that another has written: its settings are not the user's own words."""
    monkeypatch.undo()
    monkeypatch.chdir(Path.cwd())
    Path("two.yaml").write_text(yaml.safe_dump(SMALL | TWO))
    Path("mine.yaml").write_text("base: two.yaml\n")


@pytest.mark.usefixtures("a_recipe_of_two_teachers")
def test_a_recipes_networks_that_another_method_asks_for_need_not_be_there() -> None:
    """Also its scale of KL terms gives way to a method without any."""
    found = resolve(read_settings("mine.yaml", {"method": "pgd_at"}))
    assert (found.settings.teacher, found.settings.teachers) == (None, {})
    assert [note.partition(" is ")[0] for note in found.notes] == [
        "scale=0.5", "teacher=gone.json", "teachers.natural=gone/too.json",
    ]  # fmt: skip


@pytest.mark.usefixtures("a_recipe_of_two_teachers")
@pytest.mark.parametrize(
    "words",
    [{}, {"method": "mtard"}, {"method": "pgd_at", "teachers.natural": "gone.json"}, {"method": "rslad"}],
    ids=case,
)
def test_networks_that_are_asked_for_or_named_by_the_user_must_be_there(words: dict[str, Any]) -> None:
    with pytest.raises(MmardError, match="no model at gone"):
        resolve(read_settings("mine.yaml", words))


@pytest.mark.parametrize("none", [None, {}, {"natural": None}], ids=str)
def test_no_teachers_are_written_in_several_ways(none: Any) -> None:
    for word in (none, "none"):
        assert read_settings({"teachers": {"natural": "x.json"}}, {"teachers": word}).teachers == {}
    assert read_settings({"teachers": none}, {"teachers.natural": "x.json"}).teachers == {"natural": "x.json"}


def test_a_recipes_nesterov_gives_way_to_no_momentum_with_a_note() -> None:
    found = read_settings({"train": {"nesterov": True}}, {"train.momentum": 0})
    assert (found.train.nesterov, found.notes) == (
        False, ("train.momentum=0 leaves out the recipe's train.nesterov=true, which needs a momentum",),
    )  # fmt: skip
    assert read_settings({"train": {"nesterov": True}}, {"train.momentum": 0, "train.nesterov": False}).notes == ()
    with pytest.raises(MmardError, match=r"expected train\.nesterov=false, or train\.momentum=0\.9"):
        read_settings({"train": {"nesterov": True}}, {"train.momentum": 0, "train.nesterov": True})


def test_all_keys_that_are_missing_are_told_at_once() -> None:
    with pytest.raises(MmardError, match=r"^setting 'attack\.late\.after' and 'attack\.late\.steps' are missing$"):
        read_settings(None, {"attack.late": {"eps": 0.1}})


def test_a_run_of_an_older_version_goes_on_by_the_command_that_began_it(mmard: Run) -> None:
    """That version kept a recipe's milestones beside another schedule, and took a user's own."""
    Path("mine.yaml").write_text(
        yaml.safe_dump({**SMALL, "train.schedule": "piecewise", "train.milestones": [2], "train.epochs": 2})
    )
    old = read_settings("mine.yaml").resolved()
    old["train"]["schedule"], old["out"] = "cosine", "runs/old"
    train(read_settings(None, old, own=False))
    again = ("train", "mine.yaml", "train.schedule=cosine", "--out", "runs/old", "--resume")
    for words in ([], ["train.milestones=[2]"]):
        assert (done := mmard(*again, *words)).returncode == 0, done.stderr
    other = mmard(*again, "--extend", "train.milestones=[0.3]")
    assert other.returncode == 2
    assert "train.milestones means nothing beside train.schedule=cosine" in other.stderr


@pytest.mark.parametrize(("every", "noted"), [(1, False), (2, True), (3, False), (8, True)])
def test_checkpoints_that_fall_on_the_ends_of_epochs_are_noted(every: int, noted: bool) -> None:
    """Of a run of four epochs with two steps each."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        note_unused_checkpoints(every, per_epoch=2, total=8)
    assert [w.category for w in found] == [Note] * noted


def test_a_benchmark_to_an_accuracy_has_no_steps_of_validation(mmard: Run) -> None:
    done = mmard("bench", "--to-accuracy", "20", "--method", "pgd_at", "validation.steps=50")
    assert done.returncode == 2
    assert "validation.steps is not a setting of this benchmark" in done.stderr


IN_NO_EVALUATION = {
    "data.augment": "crop", "data.stream": True, "data.seed": 3,
    "engine.compile": True, "engine.precision": "bf16-mixed", "train.lr": 0.5, "validation.steps": 5, "attack.steps": 3,
}  # fmt: skip
IN_NO_WORK = [
    *((EVALUATION, {key: value}) for key, value in IN_NO_EVALUATION.items()),
    *((work, {"data": {"augment": "crop"}}) for work in (EVALUATION, DIAGNOSIS, EXAMINATION, EXPORT, MEASUREMENT, STEP)),
    (DIAGNOSIS, {"threat.eps": 0.1}),
    (EXAMINATION, {"engine.accelerator": "cpu"}),
    (EXPORT, {"teacher": "runs/teacher"}),
    (MEASUREMENT, {"teachers.natural": "runs/natural"}),
    (STEP, {"train.epochs": 5}),
]  # fmt: skip


@pytest.mark.parametrize(("work", "words"), IN_NO_WORK, ids=lambda one: getattr(one, "name", None) or case(one))
def test_what_changes_nothing_in_a_work_is_refused(work: Work, words: dict[str, Any]) -> None:
    with pytest.raises(MmardError, match=rf"^{min(words)}\S* changes nothing in {work.name}.*; leave it out$"):
        must_be_used_in(read_settings(None, words), words, work)


@pytest.mark.parametrize(
    ("work", "words"),
    [
        (EVALUATION, {"data.test_limit": 50, "data.seed": 3}),
        (DIAGNOSIS, {"data.limit": 50, "data.held_out": 0.2, "teacher": "runs/teacher"}),
        (EXPORT, {"data.limit": 50, "data.seed": 3, "threat.eps": 0.1}),
        (STEP, {"data.augment": "crop", "data.variants": 4, "train.optimizer": "adamw", "method.alpha": 1.0}),
    ],
    ids=lambda one: getattr(one, "name", None) or case(one),
)  # fmt: skip
def test_what_changes_something_in_a_work_is_taken(work: Work, words: dict[str, Any]) -> None:
    must_be_used_in(read_settings(None, words), words, work)


@pytest.mark.parametrize("words", [{"data.held_out": 0.2}, {"data.limit": 50}], ids=case)
def test_what_earlier_versions_took_in_an_evaluation_is_noted(words: dict[str, Any]) -> None:
    """Reports name the command of an earlier evaluation, whose results lie in a folder named after its settings."""
    with pytest.warns(Note, match=f"{min(words)} changes nothing in an evaluation"):
        must_be_used_in(read_settings(None, words), words, EVALUATION)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["eval", "RUN", "data.augment=crop"], "data.augment changes nothing in an evaluation; leave it out"),
        (["export", "RUN", "train.lr=1"], "train.lr changes nothing in an export, which takes data, threat; leave it out"),
        (["export", "RUN", "--no-measure", "engine.accelerator=cpu"], "engine.accelerator changes nothing in an export"),
        (["teacher", "RUN", "data.augment=crop"], "data.augment changes nothing in an examination; leave it out"),
        (["bench", "--method", "rslad", "validation.every=2"], "validation.every changes nothing in the time of a step"),
        (["eval", "RUN", "dat.augment=crop"], "unknown setting 'dat.augment'"),
        (["export", "RUN", "dat.augment=crop"], "unknown setting 'dat.augment'"),
    ],
    ids=case,
)  # fmt: skip
def test_every_command_refuses_what_changes_nothing_in_it(
    mmard: Run, digits_teacher: Path, words: list[str], says: str
) -> None:
    done = mmard(*(str(digits_teacher) if word == "RUN" else word for word in words))
    assert done.returncode == 2
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_teacher_that_no_check_asks_is_noted(mmard: Run, digits_teacher: Path) -> None:
    done = mmard("eval", digits_teacher, f"teacher={digits_teacher}", "--attacks", "none", "--limit", "20")
    assert done.returncode == 0
    assert "teacher changes nothing with checks=none: full checks alone ask it" in done.stderr
