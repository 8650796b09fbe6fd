"""`mmard results`, as the command line takes it."""

from pathlib import Path
from typing import Annotated

import typer

from mmard.cli import console


def results(
    page: Annotated[
        Path, typer.Argument(metavar="PAGE", parser=console.path, help="A Markdown page, such as docs/results.md.")
    ],
) -> None:
    """Make every study's tables and figure in a page anew, from the run records kept beside it.

    Pages that it links to in the folder of its name (docs/results/*.md) are made anew with it.

    [bold]mmard study STUDY --into PAGE[/bold] puts them there.
    """
    from mmard.study.publish import refresh

    for name in refresh(page):
        console.say(f"{name}: tables and figure made anew")
