"""Examples that people copy run: those in docstrings, and the Python of the README and of docs/."""

import doctest
import importlib
import re
from pathlib import Path

import pytest
import torch
from helpers import small_net

import mmard
from mmard.core.views import Models
from mmard.training.passes import cost_of
from mmard.training.step import make_example, outer_losses

SRC = Path(mmard.__file__).parent
ROOT = Path(__file__).resolve().parents[2]
WITH_EXAMPLES = [path for path in sorted(SRC.rglob("*.py")) if ">>> " in path.read_text(encoding="utf-8")]
ELSEWHERE = {"export.md"}  # its example is run by the tests of export, which have a file for it


def blocks(page: str) -> list[str]:
    """The Python of a page."""
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.S)


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=lambda path: path.relative_to(SRC).as_posix())
def test_examples_in_docstrings_say_what_comes_out(path: Path) -> None:
    module = importlib.import_module(".".join(path.relative_to(SRC.parent).with_suffix("").parts))
    failed, tried = doctest.testmod(module)
    assert (failed, tried) == (0, path.read_text(encoding="utf-8").count(">>> "))


def test_no_page_has_an_example_that_no_test_runs() -> None:
    pages = {page.name: len(blocks(f"docs/{page.name}")) for page in (ROOT / "docs").glob("*.md")}
    assert {name: n for name, n in pages.items() if n and name not in ELSEWHERE} == {
        "add_a_method.md": 1,
        "concepts.md": 1,
    }
    assert len(blocks("README.md")) == 2


def test_the_readmes_run_trains_and_is_evaluated(
    tmp_path: Path, digits_teacher: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As it stands, on a few images, for an epoch, and after one attack instead of a suite that takes a minute."""
    train, evaluate = mmard.train, mmard.evaluate
    quick = {"data__limit": 60, "train__epochs": 1, "train__batch_size": 50, "attack__steps": 1, "student": "cnn-4-2"}
    quick |= {"teacher": str(digits_teacher), "teacher_check": "none", "out": str(tmp_path / "run")}
    monkeypatch.setattr(mmard, "train", lambda recipe: train(recipe, **quick), raising=False)
    monkeypatch.setattr(mmard, "evaluate", lambda run: evaluate(run, "fgsm", limit=4), raising=False)
    code = blocks("README.md")[0]
    assert 'scores.accuracy("AutoAttack")' in code
    exec(code.replace('"AutoAttack"', '"FGSM"'), {})
    attacked, worst = map(float, capsys.readouterr().out.split()[-2:])
    assert attacked == worst


def test_the_readmes_rslad_is_the_one_in_the_package() -> None:
    names = {"soft_adv": None, "soft_nat": None}
    exec("from mmard import Method, Pgd\nfrom mmard.terms import soft_adv, soft_nat\n" + blocks("README.md")[1], names)
    assert str(names["rslad"]()) == str(mmard.methods.rslad())


def test_the_docs_method_of_ones_own_takes_a_step() -> None:
    names: dict = {}
    exec(blocks("docs/add_a_method.md")[0], names)
    assert set(cost_of(names["build"](weight=0.2))) == {"student", "teacher"}


def test_the_docs_step_is_a_step() -> None:
    student, teacher = small_net(), small_net(seed=1).eval().requires_grad_(False)
    names = {
        "x": torch.rand(4, 1, 8, 8), "y": torch.arange(4), "index": torch.arange(4), "progress": 0.5,
        "models": Models({"student": student, "teacher": teacher}), "method": mmard.methods.rslad(), "student": student,
        "threat": mmard.Threat(eps=0.1), "wrapped_student": student, "Views": mmard.Views, "make_example": make_example,
        "outer_losses": outer_losses,
    }  # fmt: skip
    exec(blocks("docs/concepts.md")[0], names)
    assert all(loss.requires_grad and loss.dim() == 0 for loss in names["losses"].values())
