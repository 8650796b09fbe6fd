"""Where the command line speaks: of several processes, the first one's screen."""

import os
from typing import Annotated

import typer
from rich.console import Console

HOST, LOCAL = (os.environ.get(name, "0") for name in ("NODE_RANK", "LOCAL_RANK"))
RANK = os.environ.get("RANK", LOCAL if HOST == "0" else f"{LOCAL} of host {HOST}")
out = Console(emoji=False, quiet=RANK != "0")
Trusted = Annotated[
    bool,
    typer.Option(
        "--trust", help="Run methods, and read data and teachers, that only a file or folder names (docs/trust.md)."
    ),
]
