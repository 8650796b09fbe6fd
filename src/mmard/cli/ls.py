"""`mmard ls`, as the command line takes it."""

from typing import Annotated

import typer

from mmard.cli import console
from mmard.utils.terminal import ScreenTable


def list_all(
    what: Annotated[
        str | None, typer.Argument(help="methods, models, data, terms, inner or recipes; all by default.")
    ] = None,
) -> None:
    """List methods, models, data sets, terms, parts of the inner attack and recipes, with one line each."""
    from mmard.api.catalogue import catalogue
    from mmard.utils.errors import unknown

    lists = catalogue()
    if what is not None and what not in lists:
        raise unknown("list", what, lists)
    for title, made in lists.items():
        if what in (None, title):
            table = ScreenTable(title=title, title_justify="left", box=None, show_header=False, padding=(0, 2))
            for name, line in made().items():
                table.add_row((name, "bold"), line)
            console.out.print(table, "")
