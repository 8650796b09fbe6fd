"""`mmard show`, as the command line takes it."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from mmard.cli import console
from mmard.cli.recipe_words import MethodOption, StudentOption, TeacherOption, Words, with_options
from mmard.utils.errors import Note

if TYPE_CHECKING:
    from mmard.api.settings import Settings


def show(
    words: Words = None,
    method: MethodOption = None,
    teacher: TeacherOption = None,
    student: StudentOption = None,
    trust: console.Trusted = False,
) -> None:
    """Show the resolved settings of a recipe or a run folder, the method as its formula, and the passes of its step.

    What mmard train refuses or notes of the settings is told here too; networks and data need not be there. A run folder's method
    is the one it was trained with. A method from a file that a recipe names is not run for this without --trust.
    """
    import yaml

    from mmard.api.artifacts import cost_line, formula_of
    from mmard.api.registry import names_of
    from mmard.api.settings import read_settings
    from mmard.runs.folder import RunFolder

    recipe, given = with_options(words, show, method=method, teacher=teacher, student=student)
    settings = read_settings(recipe, given, trust=trust)
    is_run = recipe is not None and Path(recipe).expanduser().is_dir()
    if given or not is_run:
        settings = _checked(settings)
    console.say(yaml.safe_dump(settings.resolved(), sort_keys=False, allow_unicode=True))
    as_trained = is_run and not trust and not any(key.split(".")[0] in ("method", "attack", "threat") for key in given)
    formula = formula_of(settings, RunFolder(recipe) if as_trained and recipe else None)
    if not formula:
        names = ", ".join(sorted(names_of(settings.method)))
        formula = (
            f"method {names}: not built, for it is not all of this package; --trust builds it and shows its formula"
        )
    console.say(formula)
    if cost := cost_line(settings):
        console.say(cost)


def _checked(settings: "Settings") -> "Settings":
    """Check the settings as training does, and tell its notes; what is still to be given or vouched for is told as one."""
    from mmard.api.build import resolve
    from mmard.core.views import MissingModelError
    from mmard.utils.packages import MissingPackageError
    from mmard.utils.trust import UntrustedError

    try:
        resolved = resolve(settings, to_train=False)
        settings, notes = resolved.settings, resolved.notes
    except (MissingModelError, MissingPackageError, UntrustedError) as e:
        notes = (*settings.notes, str(e))
    for note in notes:
        warnings.warn(Note(note), stacklevel=2)
    return settings
