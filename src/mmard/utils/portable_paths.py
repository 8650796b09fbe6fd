"""Paths in shared files: relative to the working folder, or a name alone; never this machine's folders."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
_ABSOLUTE = re.compile(r"(?<![\w.:/~])(?:~|/)[^\s()\[\],;\"'`]*/[^\s()\[\],;\"'`]+")
_SECRET = re.compile(r"(?<=://)[^/@\s]+@")

_UNPACKED: dict[str, str] = {}
"""temporary folder → the folder whose archive is unpacked there: what is told of the one is told of the other."""


@contextmanager
def standing_for(made: Path, folder: Path) -> Iterator[None]:
    """Show the temporary folder ``made`` as ``folder`` in errors and shared files, inside this context."""
    names = {str(made), str(made.resolve())}
    _UNPACKED.update(dict.fromkeys(names, str(folder)))
    try:
        yield
    finally:
        for name in names:
            del _UNPACKED[name]


def unpacked_from(text: str) -> str:
    """Replace temporary folders in a text by those whose archives are unpacked there."""
    for made, folder in _UNPACKED.items():
        text = text.replace(made, folder)
    return text


def portable(value: T) -> T:
    """Make every absolute path in the texts of a value relative to the working folder, or cut it to its last name.

    Args:
        value: a text, or lists and mappings of such; what is neither stays as it is. Passwords in addresses are left out.

    >>> portable({"teacher": "/somewhere/else/best.safetensors", "method": "awp(/elsewhere/mine.py:build)", "eps": 0.1})
    {'teacher': 'best.safetensors', 'method': 'awp(mine.py:build)', 'eps': 0.1}
    >>> portable("/elsewhere/net.py:build(width=8)@/elsewhere/weights.pt")
    'net.py:build(width=8)@weights.pt'
    >>> portable("https://me:secret@host/a/b.parquet")
    'https://host/a/b.parquet'
    """
    found: Any = value
    if isinstance(value, str):
        found = _text(unpacked_from(value))
    elif isinstance(value, dict):
        found = {key: portable(one) for key, one in value.items()}
    elif isinstance(value, list | tuple):
        found = type(value)(portable(one) for one in value)
    return found  # type: ignore[no-any-return]


def bare(value: Any) -> Any:
    """Cut every path in a value to its last name, to compare values but for their folders."""
    if isinstance(value, str):
        return value if "://" in value else value.rpartition("/")[2]
    if isinstance(value, dict):
        return {key: bare(one) for key, one in value.items()}
    return [bare(one) for one in value] if isinstance(value, list | tuple) else value


def _text(text: str) -> str:
    if network := re.fullmatch(r"(.*\.py:\w+(?:\(.*\))?)@(.+)", text):
        return f"{_text(network[1])}@{_text(network[2])}"
    if text.startswith(("/", "~")) and "\n" not in text:
        return _path(text)  # it may have blanks and brackets
    return _ABSOLUTE.sub(lambda match: _path(match[0]), _SECRET.sub("", text))


def _path(text: str) -> str:
    path = Path(text)
    for here in (Path.cwd(), Path.cwd().resolve()):
        if path.is_relative_to(here):
            return path.relative_to(here).as_posix()
    return path.name or "."
