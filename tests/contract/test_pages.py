"""Every block of code on every page runs, or says in a comment above it why it does not; and pages have short lines.

Commands of `mmard` in blocks of `sh` are parsed and their settings validated. Unless the comment ``<!-- not run: REASON -->``
stands above the block they are also run, on fewer images and for one epoch (`SMALL`). Blocks of `python` are run; those that need
what a reader brings (a student, a loader) are run with it by the tests that `WITH_THINGS` names.
"""

import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
import yaml
from helpers import Run
from PIL import Image

from mmard.api.registry import build_method
from mmard.api.settings import parse_overrides, read_settings
from mmard.bench.accuracy import with_settings
from mmard.cli.app import COMMANDS, app
from mmard.cli.recipe_words import split_words
from mmard.models.cards import Card
from mmard.study.spec import StudyFile
from mmard.utils.trust import Trust

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
WITH_THINGS = {"README.md": 2, "add_a_method.md": 1, "concepts.md": 2, "own_loop.md": 5, "export.md": 2}
"""Blocks of Python that tests/unit/test_examples.py and tests/contract/test_export.py run."""
KINDS = {"python", "sh", "yaml", "json", "text", "markdown"}
BLOCK = re.compile(r"(?:<!-- not run: ([^\n]+) -->\n\n?)?^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
GENERATED = re.compile(
    r"<!-- (study|diagnosis|made by): .*?<!-- end of [^\n]*-->|^```text\n.*?^```", re.DOTALL | re.MULTILINE
)
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
OTHERS = {"ray", "cd", "export", "curl", "python", "python3", "source", ".", "nvidia-cuda-mps-control"}
"""Words of the shell on pages that nothing here can check."""


@dataclass(frozen=True)
class Block:
    page: Path
    kind: str
    code: str
    reason: str | None

    def commands(self) -> Iterator[list[str]]:
        """Give the words of each command, without variables in front, comments, and what a pipe makes of it."""
        for line in self.code.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                yield [*words[next(i for i, word in enumerate(words) if not re.match(r"[A-Z_]+=", word)) :]]


def blocks(page: Path, *kinds: str) -> list[Block]:
    found = BLOCK.findall(page.read_text(encoding="utf-8"))
    return [Block(page, kind, code, reason or None) for reason, kind, code in found if not kinds or kind in kinds]


def named(pages: list[Path]) -> dict[str, Any]:
    return {"argvalues": pages, "ids": [page.name for page in pages]}


def with_blocks(*kinds: str) -> dict[str, Any]:
    return named([page for page in PAGES if blocks(page, *kinds)])


RUN = [page for page in PAGES if any(block.reason is None for block in blocks(page, "sh", "python"))]


@pytest.mark.parametrize("page", **named(PAGES))
def test_every_block_says_what_it_is(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text.count("```") == 2 * len(blocks(page)), "a fence is not closed, or is indented"
    assert text.count("<!-- not run:") == sum(block.reason is not None for block in blocks(page))
    assert {block.kind for block in blocks(page)} <= KINDS


@pytest.mark.parametrize("page", **named(PAGES))
def test_no_line_is_longer_than_a_screen(page: Path) -> None:
    """But for tables and output that programs wrote: between the marks of a study, and in blocks of text."""
    text = GENERATED.sub("", page.read_text(encoding="utf-8"))
    assert [line for line in text.splitlines() if len(line) > 120] == []


@pytest.mark.parametrize("page", **with_blocks("sh"))
def test_the_commands_of_a_page_are_taken(page: Path) -> None:
    for block in blocks(page, "sh"):
        for words in block.commands():
            check(words)


def check(words: list[str]) -> None:
    """Look at a command without running it."""
    match words:
        case ["mmard", name, *rest] if name in COMMANDS:
            command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
            given = command.make_context(name, list(rest)).params
            settings = [word for word in rest if re.match(r"[a-z_.]+=", word)]
            if name in ("train", "bench"):
                recipe, overrides = split_words(given["words"])
                read_settings(recipe if recipe and recipe.islower() and "/" not in recipe else None, overrides)
            elif name != "study":
                read_settings(None, parse_overrides(settings))
            methods = given.get("method") or []
            for method in [methods] if isinstance(methods, str) else methods:
                if ".py" not in method:
                    build_method(with_settings(method)[0].replace("auto", "0.5"), Trust())
        case ["mmard", option]:
            assert option.startswith("--")
        case ["pip", "install", *what]:
            assert_extras(" ".join(what))
        case ["make", target]:
            assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
        case ["python" | "python3", file, *_] if file.endswith(".py"):
            assert (ROOT / file).is_file()
        case [word, *_]:
            assert word in OTHERS, words


def assert_extras(words: str) -> None:
    known = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for names in re.findall(r"\[([\w,]+)\]", words):
        assert set(names.split(",")) <= known.keys()


@pytest.mark.parametrize("page", **with_blocks("yaml", "json"))
def test_the_settings_and_cards_of_a_page_are_valid(page: Path) -> None:
    for block in blocks(page, "yaml", "json"):
        given = yaml.safe_load(block.code) if block.kind == "yaml" else json.loads(block.code)
        if block.kind == "json":
            Card.model_validate(given)
        elif "grid" in given:
            StudyFile.model_validate(given)
        else:
            read_settings(given)


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


@pytest.mark.parametrize("page", **with_blocks("python"))
def test_the_python_of_a_page_is_python(page: Path) -> None:
    for block in blocks(page, "python"):
        compile(block.code, str(page), "exec")


def test_the_other_python_is_run_by_its_own_tests() -> None:
    assert {page.name: len(blocks(page, "python")) for page in PAGES if page.name in WITH_THINGS} == WITH_THINGS
