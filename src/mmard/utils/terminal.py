"""Printed text: texts of users and files stand as they are, never as markup or commands to the terminal."""

import re
from typing import Any

from rich import table
from rich.progress import TextColumn
from rich.text import Text

Part = str | Text | tuple[str, str]
"""A text as it stands, or a text and its style, such as ``("done", "green")``."""
# Commands to terminals, letters that turn the direction of what follows, and halves of characters, which cannot be encoded.
HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    """Escape characters that a terminal would obey or nobody would see.

    >>> visible("a[b]\\x1b[2J")
    'a[b]\\\\x1b[2J'
    """
    return HIDDEN.sub(lambda match: ascii(match[0])[1:-1], text)


def line(*parts: Part) -> Text:
    """Join parts to a text that rich prints.

    >>> line("a[b] ", ("[red]", "bold")).plain
    'a[b] [red]'
    """
    shown: list[Part] = []
    for part in parts:
        if isinstance(part, str):
            shown.append(visible(part))
        else:
            shown.append((visible(part[0]), part[1]) if isinstance(part, tuple) else part)
    return Text.assemble(*shown)


class ScreenTable(table.Table):
    """A table of rich's whose title, caption, heads and cells are parts of `line`."""

    def __init__(self, *, title: str | None = None, caption: str | None = None, **looks: Any) -> None:
        above, below = ((text, f"table.{name}") for text, name in ((title or "", "title"), (caption or "", "caption")))
        super().__init__(
            title=line(above) if title is not None else None,
            caption=line(below) if caption is not None else None,
            **looks,
        )

    def add_column(self, header: Any = "", *rest: Any, **looks: Any) -> None:
        super().add_column(line(header), *rest, **looks)

    def add_row(self, *cells: Any, **looks: Any) -> None:
        super().add_row(*map(line, cells), **looks)


def task_column() -> TextColumn:
    """Make the column of a progress bar that names the task."""
    return TextColumn("{task.description}", style="bold", markup=False)
