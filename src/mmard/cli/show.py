"""`mmard show`, as the command line takes it."""

from pathlib import Path

from mmard.cli import console
from mmard.cli.recipe_words import Words, split_words


def show(words: Words = None, trust: console.Trusted = False) -> None:
    """Show the resolved settings of a recipe or a run folder, the method as its formula, and the passes of its step.

    A run folder's is the one it was trained with. A method from a file that a recipe names is not run for this without --trust.
    """
    import yaml

    from mmard.api.artifacts import cost_line, formula_of
    from mmard.api.registry import names_of
    from mmard.api.settings import read_settings
    from mmard.runs.folder import RunFolder

    recipe, overrides = split_words(words)
    settings = read_settings(recipe, overrides, trust=trust)
    console.say(yaml.safe_dump(settings.resolved(), sort_keys=False, allow_unicode=True))
    as_trained = recipe is not None and Path(recipe).expanduser().is_dir() and not trust
    as_trained = as_trained and not any(key.split(".")[0] in ("method", "attack", "threat") for key in overrides)
    formula = formula_of(settings, RunFolder(recipe) if as_trained and recipe else None)
    if not formula:
        names = ", ".join(sorted(names_of(settings.method)))
        formula = (
            f"method {names}: not built, for it is not all of this package; --trust builds it and shows its formula"
        )
    console.say(formula)
    if cost := cost_line(settings):
        console.say(cost)
