"""A recipe that changes another: what comes of it, what is refused, and that the published ones say what they said in full."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from helpers import Run

from mmard import MmardError
from mmard.api.build import resolve
from mmard.api.recipe_files import recipes, with_bases
from mmard.api.settings import Settings, read_settings
from mmard.attacks.inner.compose import Inner
from mmard.study.spec import StudyFile

PUBLISHED = json.loads((Path(__file__).parent / "published.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_recipe_resolves_to_the_settings_kept_of_it(name: str) -> None:
    assert read_settings(name).resolved() == Settings.model_validate(PUBLISHED[name]).resolved()


def test_all_published_recipes_are_kept() -> None:
    assert PUBLISHED.keys() == {name for name, path in recipes().items() if path.parent.name == "published"}


def test_what_recipes_share_is_no_recipe_by_itself(mmard: Run) -> None:
    bases = {path for name in recipes() for path, _ in with_bases(recipes()[name])} - set(recipes().values())
    assert {path.parent.name for path in bases} == {"bases"}
    listed = mmard("ls", "recipes").stdout
    assert "rslad-cifar10-mobilenetv2" in listed
    assert not any(f"{path.stem}  " in listed for path in bases)
    assert "unknown recipe 'cifar100'" in mmard("show", "cifar100").stderr


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    monkeypatch.chdir(tmp_path)

    def write(name: str, text: str) -> Path:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


def test_sections_merge_and_all_else_is_replaced_along_the_chain(write: Callable[..., Path]) -> None:
    write(
        "a/b/first.yaml", "method: {name: ard, tau: 5}\ntrain: {lr: 0.3, epochs: 7}\nteachers: {natural: n, other: o}\n"
    )
    write("a/second.yaml", "base: b/first.yaml\ntrain: {epochs: 8}\nattack.steps: 3\nteachers: {natural: m}\n")
    third = write(
        "third.yaml", "base: a/second.yaml\nmethod.tau: 9\ntrain.clip: 2\nattack: {kind: pgd}\nabout: third\n"
    )
    made = read_settings(third, {"train": {"batch_size": 5}})
    assert made.method == {"name": "ard", "tau": 9}
    assert (made.train.lr, made.train.epochs, made.train.clip, made.train.batch_size) == (0.3, 8, 2, 5)
    assert (made.attack.steps, made.attack.kind) == (3, "pgd")
    assert (made.teachers, made.about) == ({"natural": "m"}, "third")


def test_other_data_forget_where_the_bases_data_are(write: Callable[..., Path]) -> None:
    write("base.yaml", "data: {name: parquet, train: a.parquet, test: b.parquet, held_out: 0.3}\n")
    data = read_settings(write("mine.yaml", "base: base.yaml\ndata: {name: digits}\n")).data
    assert (data.name, data.train, data.test, data.held_out) == ("digits", None, None, 0.3)


def test_an_attack_of_one_step_takes_the_place_of_a_bases_pgd(write: Callable[..., Path]) -> None:
    write("base.yaml", "attack: {steps: 5, step_size: 2/255, start: uniform, guard: 10}\n")
    for made in (
        read_settings(write("mine.yaml", "base: base.yaml\nattack: {kind: n-fgsm}\n")),
        read_settings("base.yaml", {"attack.kind": "n-fgsm"}),
    ):
        assert made.attack == Inner(kind="n-fgsm", guard=10)
    both = read_settings("base.yaml", {"attack": {"kind": "n-fgsm", "steps": 3}})
    with pytest.raises(MmardError, match=r"attack\.steps does not go with attack\.kind=n-fgsm"):
        resolve(both)


def test_a_study_a_recipe_and_a_command_change_a_recipe_alike(write: Callable[..., Path]) -> None:
    changes = {"train": {"epochs": 3}, "data": {"limit": 50}, "method": {"name": "mmard", "gamma": 2}}
    study = StudyFile(out="runs/s", base="digits-rslad", settings=changes)
    recipe = write("mine.yaml", yaml.safe_dump({"base": "digits-rslad", **changes}))
    made = [read_settings(recipe), read_settings("digits-rslad", changes), study.base_settings()]
    made.append(StudyFile(out="runs/s", base=str(recipe)).base_settings())
    made.append(read_settings({"base": "digits-rslad", **changes}))
    assert made[0].train.epochs == 3
    assert all(settings.resolved() == made[0].resolved() for settings in made)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("base: gone.yaml", ["mine.yaml: there is no base at", "gone.yaml"]),
        ("base: digits-rslat", ["unknown base in", "mine.yaml", "did you mean digits-rslad"]),
        ("base: {method: rslad}", ["base is {'method': 'rslad'}, expected a .yaml file"]),
        ("base: [a.yaml]", ["expected a .yaml file"]),
        ("base:", ["base is None"]),
        ("base: mine.yaml", ["mine.yaml → mine.yaml", "lead back"]),
        ("base: sub/a.yaml", ["sub/a.yaml: its base ../mine.yaml lies outside of its folder"]),
        ("base: ../outside.yaml", ["its base ../outside.yaml lies outside of its folder", "--trust"]),
        ("base: ~/outside.yaml", ["lies outside of its folder"]),
        ("base: ~nobody-of-this-name/outside.yaml", ["cannot be found"]),
        ("base: /etc/outside.yaml", ["lies outside of its folder"]),
        ("base: link.yaml", ["its base link.yaml lies outside of its folder"]),
        ("base: loop.yaml", ["mine.yaml"]),
        ("base: folder.yaml", ["there is no base at"]),
        ('base: "a\\0.yaml"', ["cannot be found"]),
        ("base: twice.yaml", ["twice.yaml: train.lr and train stand apart"]),
        ("base: wrong.yaml", ["wrong.yaml holds a list"]),
    ],
)
def test_a_base_that_cannot_be_is_one_line(
    mmard: Run, write: Callable[..., Path], tmp_path: Path, text: str, expected: list[str]
) -> None:
    write("outside.yaml", "train: {epochs: 3}\n")
    write("in/sub/a.yaml", "base: ../mine.yaml\n")
    write("in/twice.yaml", "train.lr: 1\ntrain: {lr: 2}\n")
    write("in/wrong.yaml", "- a\n")
    (tmp_path / "in/folder.yaml").mkdir()
    (tmp_path / "in/link.yaml").symlink_to(tmp_path / "outside.yaml")
    (tmp_path / "in/loop.yaml").symlink_to(tmp_path / "in/loop.yaml")
    mine = write("in/mine.yaml", f"{text}\n")
    with pytest.raises(MmardError) as e:
        read_settings(mine)
    assert "\n" not in str(e.value)
    for word in expected:
        assert word in str(e.value)


def test_a_base_elsewhere_takes_the_users_word(mmard: Run, write: Callable[..., Path]) -> None:
    write("outside.yaml", "method: standard\ntrain: {epochs: 3}\n")
    mine = write("in/mine.yaml", "base: ../outside.yaml\n")
    assert read_settings(mine, trust=True).train.epochs == 3
    assert mmard("show", "in/mine.yaml").returncode == 2
    assert "epochs: 3" in mmard("show", "in/mine.yaml", "--trust").stdout


def test_a_method_that_a_base_names_is_not_run_unasked(write: Callable[..., Path], mmard: Run, tmp_path: Path) -> None:
    write("evil.py", "from pathlib import Path\nPath('ran').touch()\n")
    write("base.yaml", "method: evil.py:build\n")
    write("mine.yaml", "base: base.yaml\n")
    done = mmard("train", "mine.yaml")
    assert done.returncode == 2
    assert "evil.py:build, which is not of this package" in done.stderr
    assert not (tmp_path / "ran").exists()


def test_a_copy_is_one_whole_file_with_the_figures_above(mmard: Run, tmp_path: Path) -> None:
    assert mmard("cp", "rslad-cifar10-mobilenetv2", "mine.yaml").returncode == 0
    text = (tmp_path / "mine.yaml").read_text()
    assert text.splitlines()[1] == "#   82.60 / 54.55 / 50.44 (LTD WRN-34-10)"
    assert text.splitlines()[2].startswith("about: ")
    assert "base" not in text
    assert "epochs: 300" in text
    assert read_settings(tmp_path / "mine.yaml").resolved() == read_settings("rslad-cifar10-mobilenetv2").resolved()
    assert mmard("cp", "digits-rslad", "plain.yaml").returncode == 0
    assert (tmp_path / "plain.yaml").read_text() == recipes()["digits-rslad"].read_text()


def test_a_mapping_for_a_section_changes_the_keys_it_names_and_leaves_the_others() -> None:
    recipe, short = read_settings("digits-rslad"), {"epochs": 5}
    assert recipe.train.batch_size != read_settings(None).train.batch_size  # the recipe has its own
    changed = read_settings("digits-rslad", {"train": short})
    assert changed.train == recipe.train.model_copy(update=short)
    assert read_settings("digits-rslad", {"train": {}}).train == recipe.train


def test_a_mapping_for_a_section_with_an_unknown_key_is_one_line() -> None:
    with pytest.raises(MmardError, match=r"unknown setting 'train.epoch'; did you mean train.epochs"):
        read_settings(None, {"train": {"epoch": 5}})
