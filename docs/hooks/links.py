"""Let pages of docs/ link to the rest of the repository: a file outside docs/ becomes a page of the site, at its own path.

So a link is written as it works in a clone, `../zoo/README.md`, and leads to the same text on the site. A page in Markdown
is taken as it is, code is shown, a folder is a list of its files, and what such a page links to comes along in turn.
"""

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

LINK = re.compile(r"(!?\[(?:[^\[\]]|\[[^\]]*\])*\]\()([^)\s#]+)(#[^)\s]*)?(\))")
CODE = re.compile(r"(^ *```.*?^ *```|`[^`\n]*`)", re.DOTALL | re.MULTILINE)
SHOWN = {".py": "python", ".yaml": "yaml"}
"""Kinds of files that are shown as code, and its language."""
NAMED = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")
"""Files outside docs/ that the navigation names."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what no page of docs/ is, and what its pages or the navigation name."""
    root = Path(config.config_file_path).resolve().parent
    pages = [file.abs_src_path for file in files.documentation_pages() if file.abs_src_path]
    waiting = [Path(path) for path in pages if path.endswith(".md")]
    waiting += [root / name for name in NAMED]
    while waiting:
        path = waiting.pop()
        if files.get_file_from_path(uri := _uri(path, root)) is None:
            files.append(_file(path, uri, config))
        waiting += [new for new in _linked(path, root) if files.get_file_from_path(_uri(new, root)) is None]
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Write the links of a page as the site has them."""
    root, source = Path(config.config_file_path).resolve().parent, getattr(page.file, "origin", page.file.abs_src_path)
    here = posixpath.dirname(page.file.src_uri) or "."

    def moved(link: re.Match[str]) -> str:
        head, target, anchor, tail = link.groups(default="")
        path = _target(Path(source), target, root)
        return link[0] if path is None else f"{head}{posixpath.relpath(_uri(path, root), here)}{anchor}{tail}"

    parts = CODE.split(markdown)
    return "".join(part if i % 2 or not source else LINK.sub(moved, part) for i, part in enumerate(parts))


def _linked(path: Path, root: Path) -> Iterator[Path]:
    """Yield what a page links to in the repository."""
    for link in LINK.findall(CODE.sub("", _text(path))) if path.suffix in ("", ".md") else ():
        if target := _target(path, link[1], root):
            yield target


def _target(source: Path, link: str, root: Path) -> Path | None:
    """Find what a page's link leads to: a file or a folder of the repository; None: nothing there."""
    folder = source if source.is_dir() else source.parent
    path = (folder / link).resolve()
    if re.match(r"[a-z]+:", link) or not path.is_relative_to(root) or not path.exists():
        return None
    return path / "README.md" if (path / "README.md").is_file() else path


def _uri(path: Path, root: Path) -> str:
    """Return where a file of the repository stands in the site's sources: docs/ is their root, and so is the repository."""
    uri = path.relative_to(root).as_posix().removeprefix("docs/")
    if path.is_dir():
        return f"{uri}/README.md"
    return "index.md" if uri == "README.md" else f"{uri}.md" if path.suffix in SHOWN else uri


def _text(path: Path) -> str:
    """Write the page that a file or a folder is, in Markdown."""
    if path.is_dir():
        return f"# {path.name}\n\n" + "\n".join(f"- [{each.name}]({each.name})" for each in sorted(path.iterdir()))
    text = path.read_text("utf-8")
    return f"# {path.name}\n\n```{SHOWN[path.suffix]}\n{text}```\n" if path.suffix in SHOWN else text


def _file(path: Path, uri: str, config: MkDocsConfig) -> File:
    content = {"content": _text(path)} if uri.endswith(".md") else {"abs_src_path": str(path)}
    made = File.generated(config, uri, **content, inclusion=InclusionLevel.NOT_IN_NAV)
    made.origin = str(path)
    return made
