"""Let pages of docs/ link to files of the repository outside docs/: such a file becomes a page of the site, at its own path.

So a link is written as it works in a clone, `../zoo/README.md`, and leads to the same text on the site. A page in Markdown
is taken as it is, other text is shown as code, and what such a page links to comes along in turn.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

LINK = re.compile(r"(!?\[(?:[^\[\]]|\[[^\]]*\])*\]\()([^)\s#]+)(#[^)\s]*)?(\))")
CODE = re.compile(r"(^ *```.*?^ *```|`[^`\n]*`)", re.DOTALL | re.MULTILINE)
SHOWN = {".py": "python", ".yaml": "yaml", ".sh": "sh"}
"""Kinds of files that are shown as code, and its language."""
NAMED = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")
"""Files outside docs/ in the navigation."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files that no page of docs/ is, and that its pages or the navigation name."""
    root = Path(config.config_file_path).parent
    waiting = [Path(file.abs_src_path) for file in files.documentation_pages() if file.abs_src_path]
    waiting += [root / name for name in NAMED]
    while waiting:
        path = waiting.pop()
        if files.get_file_from_path(uri := _uri(path, root)) is None:
            files.append(_file(path, uri, config))
        if path.suffix == ".md":
            linked = {(path.parent / link[1]).resolve() for link in LINK.findall(CODE.sub("", path.read_text("utf-8")))}
            waiting += [
                new
                for new in linked
                if new.is_file() and new.is_relative_to(root) and not files.get_file_from_path(_uri(new, root))
            ]
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Write the links of a page as the site has them."""
    root, source = Path(config.config_file_path).parent, getattr(page.file, "origin", page.file.abs_src_path)
    if source is None:
        return markdown

    def moved(link: re.Match[str]) -> str:
        head, target, anchor, tail = link.groups(default="")
        path = (Path(source).parent / target).resolve()
        if re.match(r"[a-z]+:", target) or not path.is_relative_to(root) or not path.is_file():
            return link[0]
        return f"{head}{posixpath.relpath(_uri(path, root), posixpath.dirname(page.file.src_uri) or '.')}{anchor}{tail}"

    parts = CODE.split(markdown)
    return "".join(part if i % 2 else LINK.sub(moved, part) for i, part in enumerate(parts))


def _uri(path: Path, root: Path) -> str:
    """Return where a file of the repository stands in the site's sources: docs/ is its root, and so is the repository."""
    uri = path.relative_to(root).as_posix().removeprefix("docs/")
    return f"{uri}.md" if path.suffix in SHOWN else uri


def _file(path: Path, uri: str, config: MkDocsConfig) -> File:
    if path.suffix not in SHOWN:
        made = File.generated(config, uri, abs_src_path=str(path), inclusion=InclusionLevel.NOT_IN_NAV)
    else:
        name = uri.removesuffix(".md")
        text = f"# {name}\n\n```{SHOWN[path.suffix]}\n{path.read_text('utf-8')}```\n"
        made = File.generated(config, uri, content=text, inclusion=InclusionLevel.NOT_IN_NAV)
    made.origin = str(path)
    return made
