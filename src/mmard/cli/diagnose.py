"""`mmard diagnose`, as the command line takes it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TimeElapsedColumn

from mmard.cli import console
from mmard.cli.completion import complete_run
from mmard.cli.recipe_words import as_keywords
from mmard.utils.terminal import task_column, visible

if TYPE_CHECKING:  # the rest is slow to import, and `mmard --help` needs none of it
    from mmard.diagnostics.record import Diagnosis

METHODS = "Such as 'rslad,mmard(inner=entropy,beta=2)'. Default: the run's own, ard, rslad, adaad, mmard (two)."


def diagnose(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN [KEY=VALUE]...",
            help="Run folder; its best student is looked at. Settings of data and teachers, where these lie elsewhere now.",
            autocompletion=complete_run,
        ),
    ],
    methods: Annotated[
        str | None,
        typer.Option(help=METHODS),
    ] = None,
    teacher: Annotated[str | None, typer.Option(help="Another than the run's own; or one, where it had none.")] = None,
    split: Annotated[
        str, typer.Option(help="held-out, test or train. Choose nothing by the test images.")
    ] = "held-out",
    limit: Annotated[int, typer.Option(help="About so many images, classes in proportion.")] = 500,
    own_attacks: Annotated[
        bool, typer.Option("--own-attacks", help="Each method by its own maximiser, not all by the run's.")
    ] = False,
    batch_size: Annotated[int, typer.Option(help="Images attacked at once.")] = 100,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Of the random starts.")] = 0,
    to: Annotated[str | None, typer.Option("--out", help="Folder to write to; default RUN/diagnose.")] = None,
    trust: console.Trusted = False,
) -> None:
    """Diagnose a method's examples: the teacher's margin and boundary at x', transfer, mutual information, slices.

    Every method makes its examples on this run's student, from the same images and random starts. Writes diagnosis.json,
    diagnosis.csv, samples.safetensors, margins.png, slices.png and triangle.png; docs/diagnose.md says what each number means.
    """
    from mmard.report.figures.diagnosis import examples_table, triangle_table

    console.must_be_settings(words, diagnose, ("teacher",))
    options = {"split": split, "limit": limit, "own_attacks": own_attacks, "batch_size": batch_size}
    options |= {} if teacher is None else {"teacher": teacher}
    found = _diagnosed(words, methods, seed=seed, to=to, trust=trust, **options)
    console.out.print(examples_table(found), "")
    console.out.print(triangle_table(found), "")
    console.say(f"tables and figures: {found.metadata['folder']}")


def _diagnosed(words: list[str], methods: str | None, **options: Any) -> "Diagnosis":
    """Diagnose with a progress bar that names the current part."""
    from mmard.api.diagnose import diagnose as find
    from mmard.api.overrides import parse_overrides
    from mmard.utils.errors import MmardError

    runs = [word for word in words if "=" not in word or Path(word).exists()]
    overrides = as_keywords(parse_overrides([word for word in words if word not in runs]))
    if "teacher" in overrides and "teacher" in options:
        raise MmardError("a teacher stands there twice, as teacher= and as --teacher; give it once")
    if len(runs) != 1:
        raise MmardError(f"got {len(runs)} runs, expected one run folder")
    columns = (task_column(), BarColumn(24), TimeElapsedColumn())
    with Progress(*columns, console=console.out, transient=True) as progress:
        task = progress.add_task("loading", total=None)

        def on_progress(what: str, done: int, total: int) -> None:
            progress.update(task, description=visible(what), completed=done, total=total)

        return find(runs[0], methods, on_progress=on_progress, **options, **overrides)
