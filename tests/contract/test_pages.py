"""Every block of code on every page runs, or says in a comment above it why it does not: ``<!-- not run: REASON -->``.

Commands of `mmard` in blocks of `sh` are run on fewer images and for one epoch (`SMALL`). Blocks of `python` are run; those
that need what a reader brings (a student, a loader) are run with it by the tests that `WITH_THINGS` names. What all blocks say,
run or not, is looked at by test_page_words.py.
"""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import Run
from pages import PAGES, ROOT, blocks
from PIL import Image

WITH_THINGS = {"README.md": 2, "add_a_method.md": 1, "concepts.md": 2, "own_loop.md": 5, "export.md": 2}
"""Blocks of Python that tests/unit/test_examples.py and tests/contract/test_export.py run."""
SMALL = {
    "train": "data.limit=200 train.epochs=1 train.batch_size=50 attack.steps=1 validation.steps=1 teacher_check=none",
    "eval": "--attacks fgsm --limit 20 --checks none",
    "export": "--calibration 20 --images 20 --no-measure",
    "diagnose": "--limit 20 --trust --methods rslad,adaad",
    "bench": "--batch 2 --size 8 --repeats 1 --student cnn-4-2 --teacher cnn-4-2",
    "study": "--dry-run",
    "teacher": "--limit 20 --epochs 1",
}
"""What makes a command of a page a matter of a second.

`teacher_check`, because after a second's training a teacher knows little; `--trust`, because the run was copied here.
"""
SLOW = {"performance.md", "export.md", "inner_process.md", "judge.md", "diagnose.md"}
"""Pages whose blocks take more than some seconds even so; that their commands are taken is a quick test."""
RUN = [page for page in PAGES if any(block.reason is None for block in blocks(page, "sh", "python"))]


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory, digits_teacher: Path) -> Path:
    """What pages take for granted: a run and its teacher, a network and its weights, pictures, a method."""
    folder = tmp_path_factory.mktemp("pages")
    shutil.copy(digits_teacher, folder / "teacher.safetensors")
    for page, file in (("networks.md", "net.py"), ("add_a_method.md", "my_method.py")):
        (folder / file).write_text(blocks(ROOT / "docs" / page, "python")[0].code)
    names: dict[str, Any] = {}
    exec((folder / "net.py").read_text(), names)
    torch.save(names["build"](num_classes=2, in_chans=3).state_dict(), folder / "net.pt")
    draw = torch.Generator().manual_seed(0)
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            (folder / "pictures" / part / name).mkdir(parents=True)
            for i in range(40):
                pixels = torch.randint(256, (8, 8, 3), generator=draw, dtype=torch.uint8)
                Image.fromarray(pixels.numpy()).save(folder / "pictures" / part / name / f"{i}.png")
    return folder


@pytest.fixture
def folder(things: Path, tmp_path: Path, mmard: Run) -> Path:
    """A folder of a page's own with these things; the run is trained where it is used, once for all."""
    if not (things / "runs").exists():
        for words in (["digits-teacher"], ["digits-rslad"]):
            done = mmard("train", *words, *SMALL["train"].split())
            assert done.returncode == 0, done.stderr
        shutil.copytree(tmp_path / "runs", things / "runs")
    shutil.copytree(things, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.mark.parametrize(
    "page", [pytest.param(p, marks=pytest.mark.slow if p.name in SLOW else (), id=p.name) for p in RUN]
)
def test_the_blocks_of_a_page_run(page: Path, folder: Path, mmard: Run) -> None:
    names: dict[str, Any] = {}
    for block in blocks(page, "sh", "python"):
        if block.reason is None and block.kind == "sh":
            for words in block.commands():
                if words[0] == "mmard":
                    done = mmard(*small(words[1:]))
                    assert done.returncode == 0, f"{words}: {done.stderr}"
        elif block.reason is None and page.name not in WITH_THINGS:
            exec(compile(block.code, str(page), "exec"), names)


def small(words: list[str]) -> list[str]:
    """Make a command a matter of a second: its own words for the same settings are left out."""
    more = SMALL.get(words[0], "").split()
    keys = {word.split("=")[0] for word in more if "=" in word}
    if words[0] == "train" and any(word.startswith("attack.") for word in words):
        more.remove("attack.steps=1")  # what such a command shows is its attack
    if "--extend" in words:
        more = ["train.epochs=2"]
    return [*[word for word in words if word.split("=")[0] not in keys], *more]


@pytest.mark.slow
def test_the_first_page_runs_as_it_stands(mmard_process: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = ROOT / "docs/start.md"
    for block in blocks(page, "sh"):
        for words in block.commands():
            if words[0] == "mmard":
                done = mmard_process(*words[1:], timeout=1800)
                assert done.returncode == 0, f"{words}: {done.stderr}"
    monkeypatch.chdir(tmp_path)
    (code,) = blocks(page, "python")
    assert subprocess.run([sys.executable, "-c", code.code], capture_output=True, text=True, check=True).stdout == "0\n"
    assert {"report.html", "model.onnx"} <= {file.name for file in (tmp_path / "runs/digits-mmard").iterdir()}


def test_the_other_python_is_run_by_its_own_tests() -> None:
    assert {page.name: len(blocks(page, "python")) for page in PAGES if page.name in WITH_THINGS} == WITH_THINGS
