"""What pages say is what there is: blocks are of a kind, lines are short, commands, settings and names are known.

Commands of `mmard` in blocks of `sh` are parsed, their settings validated, and the names in them looked up, on every page of the
site; in prose, the names of commands, options and settings.
"""

import ast
import importlib
import json
import re
import shlex
import tomllib
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
import yaml
from pages import BLOCK, PAGES, ROOT, SITE, Block, blocks, named, with_blocks

import mmard
from mmard.api.catalogue import catalogue
from mmard.api.overrides import parse_overrides
from mmard.api.registry import build_method, names_of
from mmard.api.settings import Settings, read_settings
from mmard.bench.accuracy import with_settings
from mmard.cli.app import COMMANDS, app
from mmard.cli.recipe_words import split_words
from mmard.data.sources import SOURCES
from mmard.evaluation.suite import choose_attacks, suite
from mmard.models.architectures import Architecture, build
from mmard.models.cards import ZOO, Card, in_zoo
from mmard.study.spec import StudyFile, read_study
from mmard.utils.trust import Trust
from mmard.utils.validation import keys_of

MAIN: Any = typer.main.get_command(app)
SETTINGS = set(keys_of(Settings))
KINDS = {"python", "sh", "yaml", "json", "text", "markdown"}
GENERATED = re.compile(
    r"<!-- (study|diagnosis|made by): .*?<!-- end of [^\n]*-->|^```text\n.*?^```", re.DOTALL | re.MULTILINE
)
OTHERS = {"ray", "cd", "export", "curl", "python", "python3", "source", ".", "nvidia-cuda-mps-control"}
"""Words of the shell on pages that nothing here can check."""


@pytest.mark.parametrize("page", **named(SITE))
def test_every_block_says_what_it_is(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert not re.findall(r"^ *~~~.*|^ {4,}\$? ?mmard .*", BLOCK.sub("", text), re.MULTILINE), "no block of a kind"
    assert text.count("```") == 2 * len(blocks(page)), "a fence is not closed, or is indented"
    assert len(re.findall("^<!-- not run:", text, re.MULTILINE)) == sum(
        block.reason is not None for block in blocks(page)
    )
    assert {block.kind for block in blocks(page)} <= KINDS


@pytest.mark.parametrize("page", **named(SITE))
def test_no_line_is_longer_than_a_screen(page: Path) -> None:
    """But for tables and output that programs wrote: between the marks of a study, and in blocks of text.

    Tables of results, and of what is for contributors, may be wider.
    """
    text = GENERATED.sub("", page.read_text(encoding="utf-8"))
    wide = "" if page in PAGES else "|"
    assert [line for line in text.splitlines() if len(line) > 120 and not (wide and line.startswith(wide))] == []


@pytest.mark.parametrize("page", **with_blocks("sh"))
def test_the_commands_of_a_page_are_taken(page: Path) -> None:
    assert [fault for block in blocks(page, "sh") for words in block.commands() if (fault := fault_of(words))] == []


def fault_of(words: list[str]) -> str | None:
    """Say what is wrong with a command, with its words."""
    try:
        check(words)
    except Exception as e:  # also what the command line raises for an option that it does not know
        return f"{shlex.join(words)}: {e}"
    return None


def check(words: list[str]) -> None:
    """Look at a command without running it."""
    match words:
        case ["mmard", name, *rest] if name in COMMANDS:
            check_command(name, rest)
        case ["mmard", *options]:
            assert set(options) <= {"--help", *options_of(MAIN)}, "no such command or option"
        case ["pip", "install", *what]:
            assert_extras(" ".join(what))
        case ["make", target]:
            assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), "no such target"
        case ["python" | "python3", "-m", module, *rest] if module in ("mmard", "pip"):
            check([module, *rest])
        case ["python" | "python3", file, *_] if file.endswith(".py"):
            assert (ROOT / file).is_file(), "no such file"
        case [word, *_]:
            assert word in OTHERS, "no command that the tests know"


def check_command(name: str, words: list[str]) -> None:
    given = MAIN.commands[name].make_context(name, list(words)).params
    settings = [word for word in words if re.match(r"[a-z_.]+=", word)]
    if name in ("train", "bench"):
        recipe, overrides = split_words(given["words"])
        here = recipe is None or recipe.isupper() or (Path(recipe).suffix and not recipe.startswith("recipes/"))
        if given.get("method"):
            overrides = {key: value for key, value in overrides.items() if key.split(".")[0] != "method"}
        assert_known(read_settings(None if here or "/" in str(recipe) else recipe, overrides))
        assert not str(recipe).startswith("recipes/") or (ROOT / str(recipe)).is_file(), "no such recipe"
    elif name != "study":
        assert_known(read_settings(None, parse_overrides(settings)))
    methods = given.get("method") or []
    for method in [methods] if isinstance(methods, str) else methods:
        if ".py" not in method:
            build_method(with_settings(method)[0].replace("auto", "0.5"), Trust())
    if given.get("attacks"):
        choose_attacks(given["attacks"], suite())
    if name == "study" and given["source"].replace("-", "").isalnum():
        read_study(given["source"])
    if name == "ls" and given["what"]:
        assert given["what"] in catalogue(), "no such list"


def assert_known(settings: Settings) -> None:
    """Look up the names in settings: what is checked only when a run begins."""
    if not any(":" in name for name in names_of(settings.method)):
        build_method(settings.method)
    if ":" not in settings.student:
        with torch.device("meta"):
            build(Architecture(name=settings.student, classes=10))
    if str(settings.teacher).startswith(ZOO):
        in_zoo(str(settings.teacher))
    name = settings.data.name
    assert name in SOURCES or "/" in name or ":" in name, f"no data set {name}"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("mmard nothing", "no such command"),
        ("mmard --nothing", "no such command or option"),
        ("mmard eval runs/x --nothing", "No such option"),
        ("mmard train digits-mmard train.lrr=1", "'train.lrr'"),
        ("mmard train digits-mmard student=nothing", "'nothing'"),
        ("mmard train digits-mmard method=nothing", "unknown method 'nothing'"),
        ("mmard train digits-mmard teacher=zoo:nothing", "'nothing'"),
        ("mmard train digits-mmard data.name=nothing", "no data set nothing"),
        ("mmard train Nothing", "'Nothing'"),
        ("mmard train recipes/nothing.yaml", "no such recipe"),
        ("mmard eval runs/x --attacks nothing", "unknown attack 'nothing'"),
        ("mmard study nothing", "'nothing'"),
        ("mmard ls nothing", "no such list"),
        ("mmard ls && mmard nothing", "mmard nothing: "),
        ("cd x; FOO=1 mmard nothing  # why", "mmard nothing: "),
        ("export X=$(mmard nothing)", "mmard nothing: "),
        ("python -m mmard nothing", "no such command"),
        ("python -m pip install 'mmard[nothing]'", "no such extra"),
    ],
)
def test_a_fault_in_a_command_is_found(command: str, said: str) -> None:
    found = [fault for words in Block(ROOT, "sh", command, None).commands() if (fault := fault_of(words))]
    assert len(found) == 1
    assert said in found[0]


def options_of(command: Any) -> list[str]:
    return [option for each in command.params for option in (*each.opts, *each.secondary_opts)]


@pytest.mark.parametrize("page", **named([page for page in SITE if page.name != "CHANGELOG.md"]))
def test_the_names_in_prose_are_names(page: Path) -> None:
    """Commands, their options, and settings that are given a value; the changelog may name what is no more."""
    wrong = []
    for code in re.findall(r"(?<!`)`([^`]+)`(?!`)", BLOCK.sub("", page.read_text(encoding="utf-8"))):
        name, options = (re.findall(r"^mmard\s+([a-z]\w*)", code) or [""])[0], re.findall(r"(?<=\s)--[\w-]+", code)
        known = options_of(MAIN.commands[name]) if name in COMMANDS else []
        if name and (name not in COMMANDS or set(options) - {"--help", *known}):
            wrong.append(code)
        keys = re.findall(r"(?<![\w.])((?:train|attack|threat|validation|averaging|engine)\.[\w.]+)=", code)
        wrong += [key for key in keys if key not in SETTINGS]
    assert wrong == []


def assert_extras(words: str) -> None:
    known = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for names in re.findall(r"\[([\w,]+)\]", words):
        assert set(names.split(",")) <= known.keys(), "no such extra"


@pytest.mark.parametrize("page", **with_blocks("yaml", "json"))
def test_the_settings_and_cards_of_a_page_are_valid(page: Path) -> None:
    for block in blocks(page, "yaml", "json"):
        given = yaml.safe_load(block.code) if block.kind == "yaml" else json.loads(block.code)
        if block.kind == "json":
            Card.model_validate(given)
        elif "grid" in given:
            StudyFile.model_validate(given)
        else:
            assert_known(read_settings(given))


@pytest.mark.parametrize("page", **with_blocks("python"))
def test_the_python_of_a_page_is_python_and_its_names_are_ours(page: Path) -> None:
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block.code, str(page))):
            if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == "mmard":
                module = importlib.import_module(str(node.module))
                assert [name.name for name in node.names if not hasattr(module, name.name)] == [], node.module
            elif isinstance(node, ast.Attribute) and ast.unparse(node).startswith("mmard."):
                assert attrgetter(ast.unparse(node).removeprefix("mmard."))(mmard) is not None
