"""Python calls with values that are none: each a `MmardError` in a line, and no exception of the inside."""

import csv
import io
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import QUICK, Run
from PIL import Image
from rich.console import Console

import mmard as package
from mmard import Method, MmardError, Objective, Pgd, Point, Scores, Threat, diagnose, evaluate, load_model, term, train
from mmard.api.build import resolve
from mmard.api.export import export
from mmard.api.settings import read_settings
from mmard.cli.evaluation import judge_all
from mmard.cli.recipe_words import as_keywords
from mmard.core.views import Models
from mmard.methods import awp, mmard
from mmard.models.architectures import Architecture, build
from mmard.models.weights import save_weights
from mmard.runs.folder import RunFolder
from mmard.study.grid import cells_of
from mmard.study.spec import read_study
from mmard.utils.csv_files import csv_text

soft = term("x")(lambda v: v.y)
SMALL: dict[str, Any] = {
    "method": "pgd_at", "student": "cnn-2-1", "data": {"limit": 200, "test_limit": 60}, "train": {"epochs": 1, "batch_size": 64},
    "attack": {"steps": 2}, "validation": {"steps": 2},
}  # fmt: skip
A: Any = None  # whatever a caller gives
MISUSES: list[tuple[Callable[[], object], str]] = [
    (lambda: evaluate("nowhere", limit=A or "five"), "evaluate: limit is 'five', expected a whole number"),
    (lambda: evaluate("nowhere", attacks=A or [1]), "evaluate: attacks is [1], expected a word"),
    (lambda: evaluate(A), "evaluate: source is None, expected a word or a path or an instance of RunFolder"),
    (lambda: evaluate(A or 3), "evaluate: source is 3"),
    (lambda: evaluate("nowhere", batch_size=A or 1.5), "batch_size is 1.5, expected a whole number"),
    (lambda: evaluate("nowhere", batch_size=0), "batch_size 0"),
    (lambda: evaluate("nowhere", limit=0), "limit 0"),
    (lambda: evaluate("nowhere", limit=True), "evaluate: limit is True, expected a whole number"),
    (lambda: evaluate("nowhere", seed=True), "evaluate: seed is True, expected a whole number"),
    (lambda: evaluate("nowhere", seed=A or "x"), "seed is 'x'"),
    (lambda: evaluate("nowhere", seed=2**80), "seed is 1208925819614629174706176, expected a whole number below"),
    (lambda: train(seed=10**5000), "'seed' is a int that cannot be shown: expected"),
    (lambda: train("~nobody.at.all/x.yaml"), "there is no recipe at '~nobody.at.all/x.yaml'"),
    (lambda: train(out="~nobody.at.all/x", method="pgd_at"), "a user who has no home here"),
    (lambda: read_settings(None, A or 5), "settings are 5, expected keys and values"),
    (lambda: read_settings(None, {"." * 5000: 5}), "has an empty part"),
    (lambda: resolve(A or 5), "resolve: settings is 5"),
    (lambda: Threat(eps=10**400), "expected a number such as 8/255"),
    (lambda: mmard(A or 5), "base is 5, expected a Method, such as mmard.methods.rslad()"),
    (lambda: awp(A or "rslad"), "base is 'rslad', expected a Method"),
    (lambda: Point(A or 5, Models({"student": torch.nn.Identity()})).student, "images: got 5, expected a tensor"),
    (
        lambda: Point(torch.rand(2, 1, 4, 4), Models({"student": A or 5})).student,
        "the student: got 5, expected a network",
    ),
    (lambda: Point(torch.rand(2, 1, 4, 4), A or 5), "models: got 5"),
    (lambda: Pgd()(torch.sum, torch.rand(2, 1, 4, 4), A or 5), "and a Threat"),
    (
        lambda: Pgd()(lambda x: A or 5, torch.rand(2, 1, 4, 4), Threat(eps=0.1)),
        "an attack ascends 5, expected a tensor",
    ),
    (lambda: evaluate("nowhere", seed=A), "seed is None"),
    (lambda: evaluate("nowhere", on_progress=A or 3), "on_progress is 3, expected a function"),
    (lambda: evaluate("nowhere", curve=A or "perhaps"), "curve is 'perhaps', expected true or false"),
    (lambda: evaluate("nowhere", examples=A), "examples is None"),
    (lambda: evaluate("nowhere", protocol=A), "protocol is None"),
    (lambda: evaluate("nowhere", checks=A or 1), "checks is 1, expected a word"),
    (lambda: evaluate("nowhere", surrogate=A or 1), "surrogate is 1"),
    (lambda: evaluate("nowhere", train__lr=3), "no model at nowhere"),
    (lambda: evaluate("a\0b"), "no model at a\0b"),
    (lambda: evaluate("x" * 5000), "File name too long"),
    (lambda: train(A or 5), "train: recipe is 5, expected"),
    (lambda: train(A or ["digits-rslad"]), "train: recipe is ['digits-rslad']"),
    (lambda: train("digits-rslad", resume=A), "resume is None, expected true or false"),
    (lambda: train("digits-rslad", watch=A or 3), "watch is 3, expected a function"),
    (lambda: train("nothing.yaml"), "there is no recipe at nothing.yaml"),
    (lambda: train(method=A or 3), "unknown method '3'"),
    (lambda: train(method={"name": 3}), "no method's name"),
    (lambda: train(method=A or print), "'method' is a builtin_function_or_method"),
    (lambda: train(method={"name": "mmard", "beta": torch.zeros(1)}), "'method.beta' is a Tensor"),
    (lambda: train(seed="x"), "'seed' is 'x'"),
    (lambda: train(seed=A), "'seed' is None"),
    (lambda: train(out=A), "'out' is None"),
    (lambda: train(out="a\0b"), "expected text"),
    (lambda: train(out=b"x"), "'out' is a bytes"),
    (lambda: train(train=A or 3), "'train' is 3"),
    (lambda: train(train__epochs=float("nan")), "'train.epochs' is nan"),
    (lambda: train(train__lr=object()), "'train.lr' is a object"),
    (lambda: train(train__milestones=[A]), "'train.milestones'"),
    (lambda: train(teachers="x"), "'teachers' is 'x'"),
    (lambda: train(data={"nam": 1}), "unknown setting 'data.nam'"),
    (lambda: train(student=A or 3), "unknown model '3'"),
    (lambda: train(nonsense=1), "unknown setting 'nonsense'"),
    (lambda: train(eps=0.1), "unknown setting 'eps'; did you mean attack.eps or attack.late.eps or threat.eps? known"),
    (lambda: train({"train": {"epoch": 3}}), "unknown setting 'train.epoch'; did you mean train.epochs"),
    (lambda: train({"train": {"epochs": "x"}}), "setting 'train.epochs' is 'x': expected a whole number"),
    (lambda: train({"train": {"lr": 1}, "train.lr": 2}), "the recipe: train.lr and"),
    (lambda: train({"out": "$HOME/x", "method": "pgd_at"}), "$HOME is not replaced here; write the whole path"),
    (lambda: evaluate("nowhere", attacks=A or {1}), "evaluate: attacks is {1}, expected a word"),
    (lambda: load_model(A), "load_model: source is None"),
    (lambda: load_model(A or 1.5), "load_model: source is 1.5"),
    (lambda: load_model("nowhere"), "no model at nowhere"),
    (lambda: diagnose(A), "diagnose: source is None"),
    (lambda: diagnose("nowhere", limit=A or "x"), "limit is 'x'"),
    (lambda: diagnose("nowhere", methods=A or 3), "methods is 3"),
    (lambda: diagnose("nowhere", split=A), "split is None"),
    (lambda: diagnose("nowhere", split="x"), "unknown split 'x'"),
    (lambda: diagnose("nowhere", to=A or 3), "to is 3"),
    (lambda: export("nowhere", calibration=A), "calibration is None"),
    (lambda: export(A), "export: source is None"),
    (lambda: Threat(eps=A or "8/255"), "eps is '8/255'"),
    (lambda: Threat(eps=True), "eps is True"),
    (lambda: Threat(eps=float("nan")), "eps nan is no radius"),
    (lambda: Threat(eps=0.1, lower=A), "lower is None"),
    (lambda: Threat(eps=0.1, lower=1, upper=0), "no range of a pixel"),
    (lambda: Threat(eps=0.1, norm=A or ["linf"]), "norm ['linf'] is not known"),
    (lambda: Pgd(steps=A or "3"), "steps is '3'"),
    (lambda: Pgd(steps=True), "steps is True"),
    (lambda: Pgd(step_size=A or "1/255"), "step_size is '1/255'"),
    (lambda: Pgd(start=A), "start None is not known"),
    (lambda: Method(outer=A), "outer is a NoneType"),
    (lambda: Method(outer=soft, inner=A or 3), "inner is a int"),
    (lambda: Method(outer=soft, maximizer=A or 3), "maximizer is 3"),
    (lambda: Method(outer=soft, companions=A or [1]), "companions is [1]"),
    (lambda: Method(outer=soft, perturbation=A or 1), "perturbation is 1"),
    (lambda: Method(outer=soft, name=A), "name is None"),
    (lambda: term(A), "term is given None"),
    (lambda: term("x")(A), "is given None, expected a function of views"),
    (lambda: soft * A, "'x' times None"),
    (lambda: float("inf") * soft, "'x' times inf"),
    (lambda: soft + A, "'x' plus None"),
    (lambda: soft - A, "'x' plus None"),
    (lambda: soft.given(nothing=1), "no term of 'x' takes nothing"),
    (lambda: Objective(A or 3), "terms are 3"),
    (lambda: Objective(((1.0, A),)), "expected pairs of a weight and a term"),
    (lambda: Scores.load(A), "load: folder is None"),
    (lambda: Scores.load("nowhere"), "cannot read nowhere/scores.json"),
]


@pytest.mark.parametrize(("call", "expected"), MISUSES, ids=range(len(MISUSES)))
def test_a_misused_call_is_one_line(
    call: Callable[[], object], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MmardError) as e:
        call()
    assert expected in str(e.value)
    assert "\n" not in str(e.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("function", [evaluate, load_model, diagnose])
def test_a_missing_argument_is_pythons_own_error(function: Callable[..., object]) -> None:
    with pytest.raises(TypeError, match="source"):
        function()
    with pytest.raises(TypeError):
        load_model("a", b=1)  # type: ignore[call-arg]


@pytest.fixture
def run(mmard: Run, tmp_path: Path) -> Path:
    done = mmard("train", *QUICK, "student=cnn-2-1", "--method", "pgd_at", "train.epochs=1", "out=run")
    assert done.returncode == 0, done.stderr
    return tmp_path / "run"


def test_no_teacher_is_no_folder_called_none() -> None:
    for word in ("none", "None"):
        assert read_settings("digits-rslad", {"teacher": word}).teacher is None


def test_names_and_paths_come_in_all_their_forms_and_scores_print_a_table(run: Path) -> None:
    few: dict[str, Any] = {"limit": "8", "examples": 0}
    one = evaluate(run, ["fgsm", "square"], **few)
    two = evaluate(str(run), "fgsm,square", **few)
    assert torch.equal(one.correct, two.correct)
    assert evaluate(run, {"square", "fgsm"}, **few).attacks == ("clean", "FGSM", "Square")
    assert evaluate(run, [], limit=40).attacks == ("clean",)
    with pytest.raises(MmardError, match=r"unknown attack 'fgsM'; did you mean FGSM\? known: FGSM, Square, clean"):
        one.accuracy("fgsM")
    with pytest.raises(MmardError, match=r"teacher=RUN_OR_CARD"):
        diagnose(run)
    lines = str(one).splitlines()
    assert lines[0] == f"{len(one.correct)} test images, L∞ 0.1"
    assert [text.split("  ")[0].strip() for text in lines[1:]] == ["clean", "FGSM", "Square", "worst case"]
    for text, row in zip(lines[1:], one.rows(), strict=True):
        assert text.endswith(f"{row['accuracy']:6.2f} %  {row['low']:5.1f}–{row['high']:.1f}")
    assert repr(one).startswith(f"Scores({len(one.correct)} images: clean ")
    assert package.load_model(run).architecture.name == "cnn-2-1"


@pytest.fixture
def float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_a_caller_who_works_in_float64_gets_the_same_and_goes_on_in_float64(run: Path, float64: None) -> None:
    few: dict[str, Any] = {"limit": 10, "examples": 0, "checks": "full"}
    wide = evaluate(run, "fgsm", **few)
    again = train({**SMALL, "out": run.with_name("again")})
    assert {p.dtype for p in load_model(again.path).parameters()} == {torch.float32}
    assert torch.get_default_dtype() == torch.float64
    torch.set_default_dtype(torch.float32)
    shutil.rmtree(run / "eval")
    assert torch.equal(evaluate(run, "fgsm", **few).correct, wide.correct)


def test_a_recipe_may_be_a_mapping_with_paths_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = read_settings({"data.root": tmp_path, "train": {"epochs": 2}, "teachers": {"robust": tmp_path / "t"}})
    assert (settings.data.root, settings.teacher) == (str(tmp_path), str(tmp_path / "t"))
    words = {"data": {"root": tmp_path}, "train.epochs": 2, "teacher": tmp_path / "t"}
    assert settings.resolved() == read_settings(None, words).resolved()
    assert {str(tmp_path), str(tmp_path / "t")} <= settings.trust.own  # the caller's own words
    monkeypatch.chdir(tmp_path)
    assert train({**SMALL, "out": Path("one")}).last_file.is_file()


def test_an_option_that_is_given_as_a_setting_is_told_how(mmard: Run) -> None:
    for words, expected in (
        (["eval", "run", "seed=3"], "unknown setting 'seed' of this command; it is an option: say --seed 3"),
        (["eval", "run", "batch_size=3"], "say --batch-size 3"),
        (["eval", "run", "curve=true"], "say --curve\n"),
        (["eval", "run", "limit=10"], "say --limit 10"),
        (["export", "run", "int8=true"], "say --int8\n"),
        (["train", "digits-rslad", "resume=true"], "say --resume\n"),
        (["bench", "batch=3"], "say --batch 3"),
    ):
        done = mmard(*words)
        assert done.returncode == 2
        assert expected in done.stderr


def test_cells_that_a_spreadsheet_would_run_are_text_and_numbers_stay_numbers() -> None:
    rows = [["=1+1", "+x", "-y", "@z", "\tt", "\rr", " =1"], [-0.5, "-0.5", "+1e-3", "a=b", "", "−1", "-"]]
    found = list(csv.reader(io.StringIO(csv_text(list("abcdefg"), rows), newline="")))
    assert found[1] == [f"'{cell}".replace("\r", " ") for cell in rows[0]]
    assert found[2] == ["-0.5", "-0.5", "+1e-3", "a=b", "", "−1", "'-"]


def test_a_study_at_home_is_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "s.yaml").write_text('out: "~/x"\nbase: digits-rslad\ngrid: {train.lr: {1: 0.1, 0.5: 0.2}}\n')
    study = read_study(tmp_path / "s.yaml")
    assert study.folder == tmp_path / "home/x"
    assert [cell.folder.path for cell in cells_of(study)] == [study.folder / name / "seed-0" for name in ("1", "0.5")]


def test_a_setting_of_an_evaluation_may_be_a_path(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / "pictures" / split / name).mkdir(parents=True)
            for i in range(2):
                Image.new("RGB", (8, 8)).save(tmp_path / "pictures" / split / name / f"{i}.png")
    save_weights(tmp_path / "w.safetensors", build(Architecture(name="cnn-4-2", classes=2, channels=3)), {})
    given = {"data__name": "imagefolder", "data__root": tmp_path / "pictures", "data__channels": 3, "threat__eps": 0.1}
    assert len(evaluate(tmp_path / "w.safetensors", "none", **given).correct) == 4


def test_a_run_folder_prints_as_its_path(tmp_path: Path) -> None:
    assert repr(RunFolder(tmp_path / "a")) == f"RunFolder({str(tmp_path / 'a')!r})"


def test_a_setting_that_would_be_another_argument_is_none() -> None:
    assert as_keywords({"threat.eps": 0.1}) == {"threat__eps": 0.1}
    for name in ("source", "on_progress", "to"):
        with pytest.raises(MmardError, match=f"unknown setting '{name}'"):
            as_keywords({name: "x"})
    with pytest.raises(MmardError, match="no model at nowhere"):
        judge_all(["nowhere", "out=x"], Console(), None)
