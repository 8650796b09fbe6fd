"""`mmard train`, as the command line takes it."""

from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmard.cli import console
from mmard.cli.recipe_words import MethodOption, StudentOption, TeacherOption, Words, with_options
from mmard.utils.errors import Interrupted

if TYPE_CHECKING:  # the rest is slow to import, and `mmard --help` needs none of it
    from mmard.api.build import Resolved
    from mmard.api.settings import Settings
    from mmard.runs.folder import RunFolder

EXTEND = "With --resume: for more epochs, or at another learning rate."


def train(
    words: Words = None,
    method: MethodOption = None,
    teacher: TeacherOption = None,
    student: StudentOption = None,
    to: Annotated[str | None, typer.Option("--out", help="Run folder to make.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the run folder's checkpoint ends.")] = False,
    extend: Annotated[bool, typer.Option("--extend", help=EXTEND)] = False,
    trust: console.Trusted = False,
) -> None:
    """Train a student (or, with a method that needs no teacher, a teacher).

    [bold]mmard train digits-rslad[/bold]   a built-in recipe, its teacher first where there is none yet

    [bold]mmard train digits-rslad train.epochs=5 threat.eps=0.1 --out runs/short[/bold]   with other settings

    [bold]mmard train --method my_method.py:build --teacher runs/digits-teacher[/bold]   a method of your own

    [bold]mmard train runs/short train.epochs=20 --resume --extend[/bold]   go on for more epochs than it was planned for
    """
    from mmard.api.build import resolve
    from mmard.api.settings import read_settings

    recipe, given = with_options(words, train, method=method, teacher=teacher, student=student, out=to)
    settings = read_settings(recipe, given, trust=trust)
    console.say((settings.student, "bold"), f" on {settings.data.name}")
    resolved = resolve(settings)
    if {"teacher", "teachers.robust"} & given.keys():
        _must_be_there(recipe, settings, trust)
    console.say(str(resolved.method))
    folder = _run(resolved, resume=resume, extend=extend)
    _tell_looks(folder.metrics())
    console.say("judge the best on the test images: ", (f"mmard eval {quote(str(folder.path))}", "bold"))


def _run(resolved: "Resolved", **how: bool) -> "RunFolder":
    """Train with a progress bar."""
    from mmard.api.train import train_resolved
    from mmard.training.callbacks import Bar

    try:
        return train_resolved(resolved, **how, watch=lambda title: Bar(title, console.out))
    except KeyboardInterrupt:
        raise Interrupted("the same command with --resume goes on") from None


def _tell_looks(metrics: list[dict[str, Any]]) -> None:
    """Print the best and the last validation on the held-out images."""
    from mmard.runs.folder import best_validation

    best, validated = best_validation(metrics), [r for r in metrics if "robust" in r]
    for which, r in [("best", best), ("last", validated[-1])] if best else []:
        figures = f"clean {r['clean']:.2f} %, robust {r['robust']:.2f} %"
        console.say(f"{which} on the held-out split: epoch {r['epoch']}, {figures}")


def _must_be_there(recipe: str | None, settings: "Settings", trust: bool) -> None:
    """Check that a teacher named by the command exists: the recipe's own would not be made in its place."""
    from mmard.api.settings import read_settings
    from mmard.models.cards import find_model
    from mmard.models.foreign import is_foreign

    own, teacher = read_settings(recipe, trust=trust), settings.teacher
    if teacher == own.teacher or settings.teacher_recipe != own.teacher_recipe:
        return
    if isinstance(teacher, str) and not is_foreign(teacher):
        find_model(teacher)
