"""Output of the command line: of several processes the first one writes to the screen."""

import os
from collections.abc import Callable, Collection
from inspect import Parameter, signature
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from mmard.utils.errors import MmardError
from mmard.utils.terminal import Part, line

HOST, LOCAL = (os.environ.get(name, "0") for name in ("NODE_RANK", "LOCAL_RANK"))
RANK = os.environ.get("RANK", LOCAL if HOST == "0" else f"{LOCAL} of host {HOST}")
out = Console(emoji=False, markup=False, quiet=RANK != "0")
Trusted = Annotated[
    bool,
    typer.Option(
        "--trust", help="Run methods, and read data and teachers, that only a file or folder names (docs/trust.md)."
    ),
]


def path(word: str) -> Path:
    """Parse a path of the command line; ``~`` is the home folder, also where no shell has seen it."""
    if not word:
        raise typer.BadParameter("got no name, expected a file or folder")
    return Path(word).expanduser()


def say(*parts: Part) -> None:
    """Print a line of parts, each a text as it stands or a text with its style."""
    out.print(line(*parts), soft_wrap=True)


def tell(style: str, what: str, message: str) -> None:
    """Print a line on standard error, from whichever process."""
    which = what if RANK == "0" else f"{what} in process {RANK}"
    parts = ((f"{which}:", style), f" {message}") if message else ((which, style),)
    Console(emoji=False, stderr=True).print(line(*parts), soft_wrap=True)


def must_be_settings(words: Collection[str], command: Callable[..., Any], known: Collection[str] = ()) -> None:
    """Raise MmardError for a command's option given as a setting, such as ``seed=3``; ``known`` are settings, too."""
    taken = signature(command).parameters
    needs_more = taken["words"].default is Parameter.empty and all("=" in word for word in words)
    for word in () if needs_more else words:  # that no model is given is reported first
        key, equals, value = word.partition("=")
        option = taken.get(key.replace("-", "_"))
        if equals and option is not None and option.name not in ("to", "words", *known) and not Path(word).exists():
            said = f"--{option.name.replace('_', '-')}" + ("" if option.default is False else f" {value}")
            raise MmardError(f"unknown setting {key!r} of this command; it is an option: say {said}")
