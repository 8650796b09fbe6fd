"""Parsing of a recipe and settings, as several commands take them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from mmard.cli.completion import complete_recipe
from mmard.utils.errors import unknown

Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[RECIPE] [KEY=VALUE]...",
        help="A recipe (see mmard ls recipes) or .yaml file, and settings.",
        autocompletion=complete_recipe,
    ),
]


def split_words(words: list[str] | None) -> tuple[str | None, dict[str, Any]]:
    """Split words into the recipe, where the first is one, and dotted settings."""
    from mmard.api.overrides import parse_overrides

    words = words or []
    recipe = words[0] if words and ("=" not in words[0] or Path(words[0]).exists()) else None
    return recipe, parse_overrides(words[1 if recipe else 0 :])


def as_keywords(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Write settings as keyword arguments, dots as double underscores.

    Raises:
        MmardError: for what is no setting, and might be another argument's name.
    """
    from mmard.api.settings import Settings
    from mmard.utils.validation import keys_of

    for key in overrides:
        if key.split(".")[0] not in Settings.model_fields:
            raise unknown("setting", key, keys_of(Settings))
    return {key.replace(".", "__"): value for key, value in overrides.items()}
