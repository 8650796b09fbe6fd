"""The pages of the documentation, and the blocks of code on them."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import dropwhile, groupby
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
"""Pages whose blocks are run."""
SITE = sorted({*PAGES, *ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "zoo").glob("*.md")})
BLOCK = re.compile(r"(?:<!-- not run: ([^\n]+) -->\n\n?)?^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    page: Path
    kind: str
    code: str
    reason: str | None

    def commands(self) -> Iterator[list[str]]:
        """Give the words of each command, without variables in front and comments; `a && b`, `a; b` and `a | b` are two."""
        for line in self.code.replace("\\\n", " ").splitlines():
            split = shlex.shlex(line, posix=True, punctuation_chars=True)
            split.whitespace_split = True
            for is_joint, words in groupby(split, lambda word: not set(word) - set("();|&")):
                if not is_joint and (own := [*dropwhile(lambda word: re.match(r"[A-Z_]+=", word), words)]):
                    yield own


def blocks(page: Path, *kinds: str) -> list[Block]:
    found = BLOCK.findall(page.read_text(encoding="utf-8"))
    return [Block(page, kind, code, reason or None) for reason, kind, code in found if not kinds or kind in kinds]


def named(pages: list[Path]) -> dict[str, Any]:
    return {"argvalues": pages, "ids": [page.relative_to(ROOT).as_posix() for page in pages]}


def with_blocks(*kinds: str) -> dict[str, Any]:
    return named([page for page in SITE if blocks(page, *kinds)])
