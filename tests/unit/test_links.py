"""Every relative link of the documentation leads to a file that is there, and to a heading that its page has."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    *ROOT.glob("*.md"),
    *(ROOT / "docs").rglob("*.md"),
    *(ROOT / "zoo").glob("*.md"),
    *(ROOT / "tests").rglob("*.md"),
]
LINK = re.compile(
    r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^)\s]+)(?:\s+['\"][^)]*)?\)"  # [text](target "title")
    r"|^\[[^\]]+\]: *(\S+)"  # [text]: target
    r"|\b(?:href|src)=['\"]([^'\"]+)",  # what is written in HTML, which mkdocs leaves as it is
    re.MULTILINE,
)
NAMED = re.compile(r"(?<![\w/.-])(?:docs(?!/results/)|zoo|examples|recipes)/[a-z0-9_/-]+\.(?:md|py|yaml)\b")
"""A page or a file as texts and messages name it; NAME.md stands for any, and a reader may have results of his own."""


def prose(page: Path) -> str:
    """A page without its blocks of code and its words in code."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`\n]*`", "code", text)


def anchors(page: Path) -> set[str]:
    """The names that its headings have as targets of links."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-") for title in titles}


def targets(page: Path) -> list[str]:
    return ["".join(parts) for parts in LINK.findall(prose(page))]


def broken(page: Path) -> Iterator[str]:
    for link in targets(page):
        target, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", link):
            continue
        path = page.parent / target if target else page
        if not path.exists() or not path.resolve().is_relative_to(ROOT):
            yield link
        elif anchor and anchor not in anchors(path):
            yield f"{link}: no such heading"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    assert list(broken(page)) == []


def test_a_broken_link_would_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text(
        "# A head: on `x`\n[a](gone.md) [b](#a-head-on-x) [c](#no) `[d](no.md)` ![e](no.png) [f](https://x/y.md)\n"
        '[g](g.md "title") <a href="h.md">h</a> <img src="i.png"> [j][j]\n\n[j]: j.md\n'
    )
    assert list(broken(page)) == ["gone.md", "#no: no such heading", "no.png", "g.md", "h.md", "i.png", "j.md"]


def named_but_gone(text: str) -> list[str]:
    return [name for name in NAMED.findall(text) if not (ROOT / name).exists()]


@pytest.mark.parametrize(
    "path",
    [*PAGES, *(ROOT / "src").rglob("*.py"), *(ROOT / "recipes").rglob("*.yaml"), *(ROOT / "examples").rglob("*.py")],
    ids=lambda path: path.relative_to(ROOT).as_posix(),
)
def test_files_that_a_text_names_are_there(path: Path) -> None:
    assert named_but_gone(path.read_text(encoding="utf-8")) == []


def test_a_file_that_is_gone_would_be_seen() -> None:
    assert named_but_gone("see docs/data.md, `docs/gone.md` and x/docs/no.md") == ["docs/gone.md"]


def test_every_page_of_results_is_reached_from_the_claims() -> None:
    linked = set(targets(ROOT / "docs/results.md"))
    assert {f"results/{page.name}" for page in (ROOT / "docs/results").glob("*.md")} <= linked
