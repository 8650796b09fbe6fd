"""The site of the documentation: its reference lists all there is, a fault fails the build, nothing comes from elsewhere."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import pytest
from typer.main import get_command

import mmard
from mmard.api.settings import Settings
from mmard.cli.app import COMMANDS, app
from mmard.evaluation.checks.messages import ALL
from mmard.methods import METHODS
from mmard.utils.validation import keys_of

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs/hooks/reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def text(listed: Callable[[], Iterator[str]]) -> str:
    return "\n\n".join(listed())


def headings(listed: Callable[[], Iterator[str]]) -> set[str]:
    return set(re.findall(r"^## (.+)$", text(listed), re.MULTILINE))


def test_every_command_is_in_the_reference_with_its_options(reference: ModuleType) -> None:
    parts = dict(part.split("\n", 1) for part in text(reference.commands).split("## mmard ")[1:] if "\n" in part)
    assert parts.keys() >= COMMANDS.keys()
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        said = [word for each in command.params if each.param_type_name == "option" for word in each.opts]
        assert [word for word in said if f"`{word}`" not in parts[name] and word != "--help"] == []
        assert " ".join(command.help.split(".")[0].split()) in " ".join(parts[name].replace("`", "").split())


def test_every_setting_is_in_the_reference_with_values_default_and_sentence(reference: ModuleType) -> None:
    listed = dict(re.findall(r"^- `([\w.]+)`\{ #\1 \} (.*)$", text(reference.settings), re.MULTILINE))
    sections = {key.split(".")[0] for key in keys_of(Settings) if "." in key}
    assert listed.keys() == set(keys_of(Settings)) - sections
    assert [
        key for key, said in listed.items() if not re.match(r"\(.+; (default .+|required)\): \S.+[.)]$", said)
    ] == []
    assert listed["train.lr"].startswith("(number from 0 to 100; default 0.1): ")
    assert listed["threat.eps"].startswith("(number from 0; default 8/255): ")
    assert listed["attack.stop_at"].startswith("(`teacher`, `student` or none; default none): ")
    assert listed["train.milestones"].startswith("(list (number from 0); default [0.7, 0.9]): ")
    assert listed["attack.late.after"].endswith("; required): share of the run from which on.")


def test_every_method_check_and_public_name_is_in_the_reference(reference: ModuleType) -> None:
    methods = text(reference.methods)
    assert headings(reference.methods) == METHODS.keys()
    for name, builder in METHODS.items():
        assert f"```text\n{builder()}\n```" in methods
        assert f"[`{name}`](#{name})" in methods
    assert "[arXiv 2108.07969](https://arxiv.org/abs/2108.07969)" in methods
    assert "- `alpha` (default `0.8333`)" in methods
    checks = text(reference.checks)
    assert [name for name in ALL if f"- `{name}`: {reference.escaped(ALL[name][0])}. **Do:** " not in checks] == []
    names = set(re.findall(r"^(?:::: mmard\.|## )(\w+)$", text(reference.python), re.MULTILINE))
    assert names == set(mmard.__all__)
    modules = {each.stem for each in (ROOT / "src/mmard").iterdir() if each.is_dir() or each.suffix == ".py"}
    assert set(reference.ROOMS) == {m for m in modules if m[0] not in "._"} - {"bench", "cli", "utils"}


def test_every_page_of_the_reference_has_its_list(reference: ModuleType) -> None:
    pages = {page.stem: page.read_text("utf-8") for page in (ROOT / "docs/reference").glob("*.md")}
    assert pages.keys() == reference.LISTS.keys()
    assert [name for name, page in pages.items() if f"<!-- made: {name} -->" not in page] == []


def test_plain_text_stays_as_it_is(reference: ModuleType) -> None:
    assert reference.escaped("a*b_c [d] <e> `f_g` ``h*``") == r"a\*b\_c \[d\] \<e\> `f_g` ``h*``"
    assert reference.escaped("[bold]mmard ls[/bold]   all") == "``mmard ls``   all"


def build(config: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """Build as `make docs` does; `--quiet` would hide the warnings from `--strict`, too."""
    pytest.importorskip("mkdocstrings", reason="the extra docs has it")
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(config), "-d", str(site)]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


class Page(HTMLParser):
    """What a page brings in from elsewhere, and how it reads where Markdown was not understood."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.foreign: list[str] = []
        self.inside: list[str] = []
        self.raw: list[str] = []
        self.feed(page.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.inside = [*self.inside, tag] if tag in ("p", "pre", "code", "script") else self.inside
        if tag != "a":
            self.foreign += [v for k, v in attrs if k in ("src", "href") and v and re.match(r"(https?:)?//", v)]

    def handle_endtag(self, tag: str) -> None:
        if self.inside and tag == self.inside[-1]:
            self.inside.pop()

    def handle_data(self, data: str) -> None:
        if self.inside[-1:] == ["p"] and re.search(r"\n[-+] |\|-+:?\||```|\]\(\S+\)", data):
            self.raw.append(data)


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_needs_no_other(tmp_path: Path) -> None:
    done = build(ROOT / "mkdocs.yml", tmp_path)
    assert done.returncode == 0, done.stderr
    pages = {page.relative_to(tmp_path).as_posix(): Page(page) for page in tmp_path.rglob("*.html")}
    assert {name: page.foreign for name, page in pages.items() if page.foreign} == {}
    assert {name: page.raw for name, page in pages.items() if page.raw} == {}
    styles = "".join(style.read_text("utf-8") for style in tmp_path.rglob("*.css"))
    assert not re.search(r"(url\(|@import)\s*['\"]?(https?:)?//", styles)
    assert 'href="zoo/index.html"' in (tmp_path / "export.html").read_text("utf-8")
    assert 'href="examples/my_method.py.html"' in (tmp_path / "add_a_method.html").read_text("utf-8")
    assert '<a href="../trust.html">docs/trust.md</a>' in (tmp_path / "reference/commands.html").read_text("utf-8")


@pytest.mark.slow
def test_a_fault_of_a_page_fails_the_build(tmp_path: Path) -> None:
    """A dead link, a dead anchor, a name that is none, a page outside the navigation or gone; without pages that take long."""
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md"):
        (tmp_path / name).write_text("# A page\n")
    (tmp_path / "docs/lost.md").write_text(
        "# Lost\n\n[gone](gone.md) [anchor](data.md#nowhere) [name][mmard.nothing]\n"
    )
    with (tmp_path / "docs/reference/checks.md").open("a") as page:
        page.write("\nAs help names pages: docs/absent.md.\n")
    excluded = "/hooks/\n  /gallery.py\n  /reference/python/\n  /reference/python.md\n"
    (tmp_path / "mkdocs.yml").write_text(f"INHERIT: {ROOT / 'mkdocs.yml'}\nexclude_docs: |\n  {excluded}")
    done = build(tmp_path / "mkdocs.yml", tmp_path / "site")
    assert done.returncode == 1
    for fault in ("'gone.md'", "'data.md#nowhere'", "'mmard.nothing'", "- lost.md", "names docs/absent.md"):
        assert fault in done.stderr
