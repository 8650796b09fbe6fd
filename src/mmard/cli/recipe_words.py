"""Parsing of a recipe and settings, as several commands take them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from mmard.cli import console
from mmard.cli.completion import complete_method, complete_recipe, complete_student, complete_teacher
from mmard.utils.errors import MmardError, unknown

Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[RECIPE] [KEY=VALUE]...",
        help="A recipe (see mmard ls recipes) or .yaml file, and settings.",
        autocompletion=complete_recipe,
    ),
]
METHOD = "A name, or your own: file.py:function, package.module:function."
TEACHER = "Run folder, weights, card (.json), zoo:NAME, robustbench:..., or a network: timm:NAME@WEIGHTS."
STUDENT = "Architecture, such as resnet18; timm:NAME, torchvision:NAME, hf:OWNER/NAME, net.py:function."
MethodOption = Annotated[str | None, typer.Option(help=METHOD, autocompletion=complete_method)]
TeacherOption = Annotated[str | None, typer.Option(help=TEACHER, autocompletion=complete_teacher)]
StudentOption = Annotated[str | None, typer.Option(help=STUDENT, autocompletion=complete_student)]


def split_words(words: list[str] | None) -> tuple[str | None, dict[str, Any]]:
    """Split words into the recipe, where the first is one, and dotted settings."""
    from mmard.api.overrides import parse_overrides

    words = words or []
    recipe = words[0] if words and ("=" not in words[0] or Path(words[0]).exists()) else None
    return recipe, parse_overrides(words[1 if recipe else 0 :])


def with_options(
    words: list[str] | None, command: Callable[..., Any], **options: str | None
) -> tuple[str | None, dict[str, Any]]:
    """Split words as `split_words` does, and join the command's options that are settings too.

    Raises:
        MmardError: for a setting that stands twice, and for another option that is given as one.
    """
    from mmard.api.settings import Settings

    console.must_be_settings(words or (), command, Settings.model_fields)
    recipe, overrides = split_words(words)
    given = {key: value for key, value in options.items() if value is not None}
    if twice := sorted(given.keys() & overrides.keys()):
        raise MmardError(f"the command has an option for {twice[0]} and {twice[0]}=...; give one")
    return recipe, given | overrides


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
