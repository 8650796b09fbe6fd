"""`mmard cp`, as the command line takes it."""

from itertools import takewhile
from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from mmard.cli import console
from mmard.cli.completion import complete_recipe
from mmard.utils.errors import MmardError
from mmard.utils.files import write_text
from mmard.utils.text_files import read_text


def copy(
    recipe: Annotated[str, typer.Argument(autocompletion=complete_recipe)],
    to: Annotated[
        Path | None, typer.Argument(parser=console.path, help="File to write; default RECIPE.yaml here.")
    ] = None,
) -> None:
    """Copy a recipe, to change it: mmard cp digits-rslad mine.yaml; mmard train mine.yaml."""
    from mmard.api.recipe_files import recipe_file

    source, target = recipe_file(recipe), to or Path(f"{Path(recipe).stem}.yaml")
    if target.exists():
        raise MmardError(f"{target} exists already; choose another name")
    write_text(target, _whole(source))
    console.say(f"wrote {target}; train it: ", (f"mmard train {quote(str(target))}", "bold"))


def _whole(recipe: Path) -> str:
    """Read a recipe's text; one that changes a base is written out in full, below the comments it begins with."""
    import yaml

    from mmard.api.recipe_files import with_bases
    from mmard.api.settings import Settings, settings_in

    text = read_text(recipe)
    if len(with_bases(recipe)) == 1:
        return text
    settings, *_ = settings_in(recipe)
    ordered = {key: settings[key] for key in (*Settings.model_fields, *settings) if key in settings}
    comments = "".join(takewhile(lambda line: line.startswith("#"), text.splitlines(keepends=True)))
    return comments + yaml.safe_dump(ordered, sort_keys=False, allow_unicode=True, default_flow_style=None, width=1000)
