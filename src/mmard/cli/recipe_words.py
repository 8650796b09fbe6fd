"""Parsing of a recipe and settings, as several commands take them."""

from pathlib import Path
from typing import Annotated, Any

import typer

Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[RECIPE] [KEY=VALUE]...", help="A recipe (see mmard ls recipes) or .yaml file, and settings."
    ),
]


def split_words(words: list[str] | None) -> tuple[str | None, dict[str, Any]]:
    """Split words into the recipe, where the first is one, and dotted settings."""
    from mmard.api.settings import parse_overrides

    words = words or []
    recipe = words[0] if words and ("=" not in words[0] or Path(words[0]).exists()) else None
    return recipe, parse_overrides(words[1 if recipe else 0 :])
