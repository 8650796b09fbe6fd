"""`mmard cp`, as the command line takes it."""

from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from mmard.cli import console
from mmard.utils.errors import MmardError
from mmard.utils.files import write_text


def copy(
    recipe: str,
    to: Annotated[
        Path | None, typer.Argument(parser=console.path, help="File to write; default RECIPE.yaml here.")
    ] = None,
) -> None:
    """Copy a recipe, to change it: mmard cp digits-rslad mine.yaml; mmard train mine.yaml."""
    from mmard.api.recipe_files import recipe_file

    source, target = recipe_file(recipe), to or Path(f"{Path(recipe).stem}.yaml")
    if target.exists():
        raise MmardError(f"{target} exists already; choose another name")
    write_text(target, source.read_text(encoding="utf-8"))
    console.say(f"wrote {target}; train it: ", (f"mmard train {quote(str(target))}", "bold"))
